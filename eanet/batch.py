"""Classify many files on all cores: load a model, predict in batches, write the results to a stream or a file."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eanet.cli import UserError, check_backend, prepare_tensorflow, printable, uninterrupted
from eanet.image_files import NO_IMAGES, STDIN, StorageError, can_be_read_again, check_storage, find_images
from eanet.images import load_image
from eanet.machine import available_cores
from eanet.predict import fitting_batch, predict_batch, top_predictions
from eanet.result_files import ResultFile
from eanet.results import FORMATS, Result

RUNTIMES = ("keras", "onnx", "litert")
SUFFIXES = {".onnx": "onnx", ".tflite": "litert"}
MAX_STDIN_BYTES = 2**27
_SMALLEST_SHARE = 8  # images of a batch that a thread predicts; fewer take longer each
MANY = 1000  # images: from here on, starting a faster runtime than the usual one is worth a line


@dataclass(frozen=True)
class Job:
    """What to classify, and how.

    Attributes:
        paths: files, folders, lists or "-", as `find_images` takes them.
        model: model folder, Hub repo id, .onnx or .tflite file.
        runtime: one of `RUNTIMES`; None for the one that the model's suffix names, or the model folder's ONNX file for
            many images, or Keras.
        top_k: labels per image; None for 5, or all if the model has fewer classes.
        batch_size: images per batch, at least 1.
        threads: None for one per core.
        null: the paths in lists end with a null character.
    """

    paths: tuple[str, ...]
    model: str
    runtime: str | None = None
    top_k: int | None = None
    batch_size: int = 64
    threads: int | None = None
    null: bool = False


def classify_to(out, job: Job, output_format: str = "text") -> tuple[int, int]:
    """Classify files and folders, and write the results to a text stream as they come.

    Unreadable files get one line each on standard error. A closed pipe behind `out` ends the work silently. After Ctrl-C
    and after an error the output is completed.

    Args:
        out: the stream, usually `sys.stdout`.
        job: what to classify.
        output_format: one of `FORMATS`.

    Returns:
        The number of files that were classified, and of those that could not be read.

    Raises:
        UserError: a path does not exist or has no images, a list is damaged, the storage of the images fails, the model
            cannot be loaded, or `top_k` is too large.
        OSError: `out` cannot be written.
    """
    if out is None:
        raise UserError("standard output is closed")
    if hasattr(out, "reconfigure"):  # file names are written as the bytes they are
        out.reconfigure(encoding="utf-8", errors="surrogateescape")
    files, total = _files(job)
    model, _, top_k = _model(job, total)
    count = unreadable = 0
    try:
        with _progress(job, total) as bar, contextlib.closing(_batches(model, files, top_k, job)) as batches:
            writer = FORMATS[output_format](out)
            try:
                for results in batches:
                    bar.clear()  # results may go to the same terminal
                    with uninterrupted():
                        for path, _, error in results:
                            if error is not None:
                                _say(f"{printable(path)}: cannot be read as an image ({printable(error)})")
                                unreadable += 1
                        writer.write([result for result in results if result.error is None])
                    count += len(results)
                    bar.update(len(results))
            except OSError:  # of `out`
                raise
            except BaseException:
                writer.close()
                raise
        writer.close()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # or Python flushes, and fails, again at exit
        if isinstance(error, BrokenPipeError):  # the reader, for example `head`, has seen enough
            return count, 0
        raise
    return count - unreadable, unreadable


def classify_into(path, job: Job, resume: bool = False) -> tuple[int, int]:
    """Classify files and folders, and write one row per image, readable or not, to a file.

    Args:
        path: the file, see `eanet.result_files.ResultFile`.
        job: what to classify.
        resume: go on with the file if it exists: images that have a row are skipped.

    Returns:
        The number of rows of images that were classified, and of those that could not be read.

    Raises:
        UserError: as `classify_to`, or the file exists, was started with other settings, or cannot be written.
    """
    with ResultFile(path, resume) as output:
        files, total = _files(job)
        model, runtime, top_k = _model(job, None)
        output.begin(_settings(model, runtime, top_k, job.model))
        if output.rows:
            _say(f"{path} has {_counted(output)} already")
        try:
            files = output.without_row(files)
            with (
                _progress(job, total, output.rows) as bar,
                contextlib.closing(_batches(model, files, top_k, job)) as batches,
            ):
                for results in batches:
                    with uninterrupted():
                        output.write(results)
                    bar.update(len(results))
            output.finish()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_stopped(output)) from None
        except StorageError as error:
            raise UserError(f"{error}; {_stopped(output)}") from None
        _say(f"{path}: {_counted(output)}")
        return output.rows - output.errors, output.errors


def _counted(output: ResultFile) -> str:
    errors = f", {output.errors:,} of them unreadable" if output.errors else ""
    return f"{output.rows:,} image{'s' * (output.rows != 1)}{errors}"


def _stopped(output: ResultFile) -> str:
    return f"stopped after {_counted(output)}; the same command with --resume goes on"


def _say(text: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)


def _settings(model, runtime: str, top_k: int, name: str) -> dict:
    """Return the options that must match to resume."""
    from eanet.saving import model_checksum

    config = model.config
    return {
        "model": getattr(model, "checksum", None) or model_checksum(model),
        "file": Path(name).name if os.path.isfile(name) else None,
        "runtime": runtime,
        "top_k": top_k,
        "image_size": config.image_size,
        "resize": config.resize,
        "interpolation": config.interpolation,
    }


# Files and progress ---------------------------------------------------------------------------------------------------


def _files(job: Job) -> tuple[Iterator[str], int | None]:
    """Return the files, and their number, or None if there are `MANY` or it cannot be known."""
    files = find_images(job.paths, job.null)
    first = list(itertools.islice(files, MANY))
    return itertools.chain(first, files), len(first) if len(first) < MANY else None


@contextlib.contextmanager
def _progress(job: Job, total: int | None, done: int = 0):
    """Show a bar on a terminal: images, rate, and the time left when all files are counted, which a thread does."""
    from tqdm import tqdm

    def count():
        with contextlib.suppress(UserError, OSError):  # the main thread reports it
            bar.total = sum(1 for _ in find_images(job.paths, job.null))

    with tqdm(total=total, initial=done, unit=" images", unit_scale=False, disable=None, leave=False) as bar:
        if total is None and not bar.disable and all(map(can_be_read_again, job.paths)):
            threading.Thread(target=count, daemon=True).start()
        yield bar


# Model ----------------------------------------------------------------------------------------------------------------


def _model(job: Job, total: int | None):
    """Return the model, its runtime, and the number of labels per image; `total` is None for many images."""
    threads = job.threads or available_cores()
    runtime = job.runtime or SUFFIXES.get(os.path.splitext(job.model)[1].lower())
    if runtime is None and total is None and _has_own_onnx(job.model):
        runtime = "onnx"
        _say(f"using the model's ONNX file (threads: {threads}); --runtime keras uses Keras")
    model = load_model(job.model, runtime, threads=1 if runtime == "onnx" else threads)
    classes = model.config.num_classes
    if job.top_k is not None and job.top_k > classes:
        raise UserError(f"top_k {job.top_k}: the model has only {classes} classes")
    return model, runtime or "keras", job.top_k or min(5, classes)


def _has_own_onnx(name: str) -> bool:
    """Return whether a model folder has an ONNX file of the same weights as its Keras files, and a runtime for it."""
    if not os.path.isdir(name) or importlib.util.find_spec("onnxruntime") is None:
        return False
    from eanet.export.onnx import OnnxModel, find_onnx
    from eanet.saving import stored_checksum

    with contextlib.suppress(UserError, OSError):  # Keras runs without it
        exported = OnnxModel(find_onnx(name), threads=1).checksum
        return importlib.util.find_spec("keras") is None or exported == stored_checksum(name)
    return False


def load_model(name: str, runtime: str | None = None, threads: int = 0):
    """Load a model for one of the `RUNTIMES`, importing only what that runtime needs.

    Args:
        name: model folder, Hub repo id, .onnx or .tflite file.
        runtime: one of `RUNTIMES`; None for the one that the name's suffix tells, or Keras.
        threads: of ONNX and LiteRT, for one batch; 0 for their own choice.

    Returns:
        A `keras.Model`, `OnnxModel` or `LitertModel`; all have `predict_on_batch` and `config`.

    Raises:
        UserError: there is no such model, it is damaged, or a package is missing.
    """
    of_suffix = SUFFIXES.get(os.path.splitext(name)[1].lower())
    if runtime == "keras" and of_suffix and os.path.isfile(name):
        raise UserError(f"{name}: is for the runtime {of_suffix}, not keras; leave --runtime out, or give a model folder")
    runtime = runtime or of_suffix or "keras"
    if runtime == "litert":
        from eanet.export.litert import LitertModel, find_litert

        return LitertModel(find_litert(name), threads)
    if runtime == "onnx":
        from eanet.export.onnx import OnnxModel, find_onnx

        return _compared(OnnxModel(find_onnx(name), threads), name)
    from modeling_eanet import from_pretrained_keras

    prepare_tensorflow()
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


# Prediction -----------------------------------------------------------------------------------------------------------


def classify_files(
    model, files: Iterable[str], top_k: int = 5, batch_size: int = 64, threads: int | None = None
) -> Iterator[Result]:
    """Classify files, holding a few batches of images in memory at a time.

    Args:
        model: of `load_model`.
        files: image files, or "-" for standard input.
        top_k: labels per image, 1 to num_classes.
        batch_size: images per batch, at least 1.
        threads: None for one per core. They decode images; with an `OnnxModel` they also share the work of a batch.

    Yields:
        One `Result` per file, in order; also of the files before an error of `files`, which is then raised.

    Raises:
        StorageError: the storage or the machine fails, rather than one image.
    """
    for results in classify_batches(model, files, top_k, batch_size, threads):
        yield from results


def classify_batches(
    model, files: Iterable[str], top_k: int = 5, batch_size: int = 64, threads: int | None = None
) -> Generator[list[Result], None, None]:
    """Yield the results of `classify_files` as lists, one per batch."""
    failures: list[UserError] = []
    files, threads = _until_failure(files, failures), threads or available_cores()
    batch_size = fitting_batch(batch_size, model.config.image_size)
    first = list(itertools.islice(files, batch_size + 1))
    eager, batch_size = len(first) <= batch_size, min(batch_size, len(first))
    # Standard input is read here: Ctrl-C does not end a thread that waits for it.
    named = ((file, _read_stdin() if file == STDIN else file) for file in itertools.chain(first, files))

    def load(named):
        file, source = named
        return file, _load(source, model.config)

    def classify(loaded, size=batch_size):
        return _predicted(model, list(loaded), top_k, size, eager)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # load_image changes the filters, which threads would restore out of order
        if getattr(model, "thread_safe", False):
            size = min(batch_size, max(_SMALLEST_SHARE, -(-batch_size // threads)))
            yield from _ordered(lambda share: classify(map(load, share), size), _batched(named, size), threads, 2 * threads)
        else:
            yield from map(classify, _batched(_ordered(load, named, threads, batch_size), batch_size))
    for failure in failures:
        raise failure


def _until_failure(files: Iterable[str], failures: list[UserError]) -> Iterator[str]:
    """Yield the files; an error ends them, and is kept until the files before it are classified."""
    try:
        yield from files
    except UserError as error:
        failures.append(error)


def _batches(model, files, top_k: int, job: Job) -> Generator[list[Result], None, None]:
    return classify_batches(model, files, top_k, job.batch_size, job.threads)


def _batched(items: Iterator, size: int) -> Iterator[list]:
    return iter(lambda: list(itertools.islice(items, size)), [])


def _ordered(function, items: Iterable, threads: int, ahead: int) -> Iterator:
    """Yield `function(item)` for each item, in order; threads compute up to `ahead` of them before they are asked for.

    Threads are enough: Pillow and onnxruntime hold Python's lock for 0.4 ms of the 10 ms that an image takes.
    """
    pending: deque = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _predicted(model, loaded: list, top_k: int, batch_size: int, eager: bool) -> list[Result]:
    images = [image for _, image in loaded if not isinstance(image, str)]
    predictions: Iterator[list[dict]] = iter(())
    if images:
        probabilities = predict_batch(model, np.stack(images), batch_size, eager=eager)
        predictions = iter(top_predictions(probabilities, model.config, top_k))
    return [Result(file, [], image) if isinstance(image, str) else Result(file, next(predictions)) for file, image in loaded]


def _load(source, config):
    """Return the image as an array, or the reason why it cannot be read. Raises StorageError."""
    try:
        if isinstance(source, OSError):
            raise source
        return load_image(source, config)
    except IsADirectoryError:  # in a list
        return NO_IMAGES
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, OSError):
            check_storage(source if isinstance(source, str) else STDIN, error)
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _read_stdin() -> io.BytesIO | OSError:
    if sys.stdin is None:
        return OSError("standard input is closed")
    try:
        content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    except OSError as error:
        return error
    if not content:
        return OSError("standard input is empty")
    if len(content) > MAX_STDIN_BYTES:
        return OSError(f"too large: more than {MAX_STDIN_BYTES:,} bytes on standard input")
    return io.BytesIO(content)
