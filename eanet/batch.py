"""Classify many files: find them, predict in batches, write the results as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eanet.cli import UserError, check_backend, printable, quiet_tensorflow
from eanet.images import image_suffixes, is_hidden, load_image
from eanet.predict import fitting_batch, predict_batch, top_predictions

STDIN = "-"
RUNTIMES = ("keras", "onnx", "litert")
SUFFIXES = {".onnx": "onnx", ".tflite": "litert"}
MAX_STDIN_BYTES = 2**27


class Result(NamedTuple):
    """The predictions for one file, or why it could not be read."""

    path: str
    predictions: list[dict]
    error: str | None = None


def classify_to(out, paths, *, model_name, runtime=None, top_k=None, output_format="text", batch_size=64) -> tuple[int, int]:
    """Classify files and folders, and write the results to a text stream as they come.

    Unreadable files get one line each on standard error. A closed pipe behind `out` ends the work silently.

    Args:
        out: the stream, usually `sys.stdout`.
        paths: files, folders, or "-" for standard input.
        model_name: model folder, Hub repo id, .onnx or .tflite file.
        runtime: one of `RUNTIMES`; None for the one that the name's suffix tells, or Keras.
        top_k: labels per image; None for 5, or all if the model has fewer classes.
        output_format: one of `FORMATS`.
        batch_size: images per batch, at least 1.

    Returns:
        The number of files that were classified, and of those that could not be read.

    Raises:
        UserError: a path does not exist or has no images, the model cannot be loaded, or `top_k` is too large.
        OSError: `out` cannot be written.
    """
    if out is None:
        raise UserError("standard output is closed")
    if hasattr(out, "reconfigure"):  # file names are written as the bytes they are
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    files = find_images(paths)
    model = load_model(model_name, runtime)
    classes = model.config.num_classes
    if top_k is not None and top_k > classes:
        raise UserError(f"top_k {top_k}: the model has only {classes} classes")
    unreadable, program = 0, Path(sys.argv[0]).name

    def readable(results):
        nonlocal unreadable
        for result in results:
            if result.error is None:
                yield result
            else:
                unreadable += 1
                reason = f"cannot be read as an image ({printable(result.error)})"
                print(f"{program}: {printable(result.path)}: {reason}", file=sys.stderr)

    try:
        FORMATS[output_format](readable(classify_files(model, files, top_k or min(5, classes), batch_size)), out)
        out.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # or Python flushes, and fails, again at exit
        if isinstance(error, BrokenPipeError):  # the reader, for example `head`, has seen enough
            return len(files), 0
        raise
    return len(files) - unreadable, unreadable


def find_images(paths) -> list[str]:
    """Return the image files behind `paths`, searching folders recursively, without hidden files, in order of name.

    Files and folders without read permission are included: reading them gives the reason.

    Raises:
        UserError: a path does not exist, a folder has no images, or "-" is given twice.
    """
    if paths.count(STDIN) > 1:
        raise UserError("-: standard input holds one image; give - only once")
    files: list[str] = []
    for path in paths:
        try:
            is_folder = path != STDIN and stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path}: no such file or folder") from None
        except OSError:
            is_folder = False
        found = _images_in(path) if is_folder else [path]
        if not found:
            raise UserError(f"{path}: no images in this folder")
        files += found
    return files


def _images_in(folder) -> list[str]:
    found: list[Path] = []
    denied: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=denied.append):
        folders[:] = [name for name in folders if not is_hidden(name)]
        visible = (Path(parent, name) for name in names if not is_hidden(name))
        found += [path for path in visible if path.suffix.lower() in image_suffixes()]
    return [str(path) for path in sorted(found + [Path(error.filename) for error in denied])]


def load_model(name: str, runtime: str | None = None):
    """Load a model for one of the `RUNTIMES`, importing only what that runtime needs.

    Args:
        name: model folder, Hub repo id, .onnx or .tflite file.
        runtime: one of `RUNTIMES`; None for the one that the name's suffix tells, or Keras.

    Returns:
        A `keras.Model`, `OnnxModel` or `LitertModel`; all have `predict_on_batch` and `config`.

    Raises:
        UserError: there is no such model, it is damaged, or a package is missing.
    """
    runtime = runtime or SUFFIXES.get(os.path.splitext(name)[1].lower(), "keras")
    if runtime == "litert":
        from eanet.export.litert import LitertModel, find_litert

        return LitertModel(find_litert(name))
    if runtime == "onnx":
        from eanet.export.onnx import OnnxModel, find_onnx

        return _compared(OnnxModel(find_onnx(name)), name)
    from modeling_eanet import from_pretrained_keras

    quiet_tensorflow()
    check_backend()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns a dozen times if the weights do not fit; the error says it in one line
        try:
            model = from_pretrained_keras(name)
        except ModuleNotFoundError as error:
            package = error.name if error.name in ("jax", "torch") else "-r requirements.txt"  # named by KERAS_BACKEND
            hint = f"`pip install {package}`, or use --runtime onnx, which needs only onnxruntime"
            raise UserError(f"{error.name} is not installed; {hint}") from error
    return _compared(model, name)


def _compared(model, name: str):
    """Return the model, after comparing it with the results in its folder."""
    if os.path.isdir(name):
        from eanet.saving import warn_if_foreign

        warn_if_foreign(model, name)
    return model


def classify_files(model, files: list[str], top_k: int = 5, batch_size: int = 64) -> Iterator[Result]:
    """Classify files, holding one batch of images in memory at a time.

    Args:
        model: of `load_model`.
        files: image files, or "-" for standard input.
        top_k: labels per image, 1 to num_classes.
        batch_size: images per batch, at least 1.

    Yields:
        One `Result` per file, in order.
    """
    from tqdm import tqdm

    batch_size = min(fitting_batch(batch_size, model.config), len(files))
    with tqdm(total=len(files), unit=" images", disable=None, leave=False) as bar:
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            results = _classify_batch(model, batch, top_k, batch_size, eager=len(batch) == len(files))
            bar.clear()  # results may go to the same terminal
            yield from results
            bar.update(len(batch))


def _classify_batch(model, files, top_k, batch_size, eager) -> list[Result]:
    loaded = [_load(file, model.config) for file in files]
    images = [image for image in loaded if not isinstance(image, str)]
    predictions: Iterator[list[dict]] = iter(())
    if images:
        probabilities = predict_batch(model, np.stack(images), batch_size, eager=eager)
        predictions = iter(top_predictions(probabilities, model.config, top_k))
    return [
        Result(file, [], image) if isinstance(image, str) else Result(file, next(predictions))
        for file, image in zip(files, loaded, strict=True)
    ]


def _load(name, config):
    """Return the image as an array, or the reason why it cannot be read."""
    try:
        return load_image(_read_stdin() if name == STDIN else name, config)
    except (OSError, ValueError, MemoryError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _read_stdin() -> io.BytesIO:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if not content:
        raise OSError("standard input is empty")
    if len(content) > MAX_STDIN_BYTES:
        raise OSError(f"too large: more than {MAX_STDIN_BYTES:,} bytes on standard input")
    return io.BytesIO(content)


def write_text(results: Iterable[Result], out) -> None:
    """Write a small table per image; control characters in names and labels are escaped."""
    for path, predictions, _ in results:
        rows = [(printable(p["label"]), 100 * p["score"]) for p in predictions]
        width = max(16, *(len(label) for label, _ in rows))
        out.write(f"{printable(path)}\n")
        out.writelines(f"  {label:<{width}} {percent:5.1f}%\n" for label, percent in rows)


def write_json(results: Iterable[Result], out) -> None:
    """Write a JSON list of {"image", "predictions"}, one image per line, as the results come."""
    separator = "["
    for path, predictions, _ in results:
        out.write(f"{separator}\n{json.dumps({'image': path, 'predictions': predictions})}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")


def write_csv(results: Iterable[Result], out) -> None:
    """Write the columns image, rank, label and score, one row per prediction."""
    # Quote all text: with minimal quoting, Python before 3.13 leaves a carriage return unquoted.
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["image", "rank", "label", "score"])
    for path, predictions, _ in results:
        writer.writerows([path, rank, p["label"], p["score"]] for rank, p in enumerate(predictions, 1))


FORMATS = {"text": write_text, "json": write_json, "csv": write_csv}
