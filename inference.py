"""Classifies pictures.

    python inference.py samples                         every picture in a folder, and in the folders in it
    python inference.py cat.jpg dog.png --top-k 3 --format json
    curl -s https://example.org/cat.jpg | python inference.py -
    python inference.py cat.jpg --model user/name       a model on the Hugging Face Hub, or another folder
    python inference.py cat.jpg --runtime onnx          its ONNX export, without TensorFlow

Results go to standard output in the order of the paths; progress and errors go to standard error. Exit status: 0, all
pictures were classified; 1, some could not be read; 2, nothing was done.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import stat
import sys
import unicodedata
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

HERE = Path(__file__).resolve().parent


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="inference.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="picture, folder, or - for a picture on standard input")
    parser.add_argument("--model", default=str(HERE), metavar="DIR_OR_REPO", help="default: the model beside this file")
    parser.add_argument("--runtime", choices=("keras", "onnx"), default="keras", help="onnx predicts with model.onnx, "
                        "which export.py writes, and without TensorFlow (default: keras)")  # fmt: skip
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="labels per picture (default: 5, or all where there are fewer)"
    )
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text", help="default: text")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at once (default: 64)")
    args = parser.parse_args(argv)
    if args.top_k is not None and args.top_k < 1:
        parser.error(f"--top-k {args.top_k}: must be at least 1")
    if args.batch_size < 1:
        parser.error(f"--batch-size {args.batch_size}: must be at least 1")
    return args


def find_pictures(paths) -> list[str]:
    """The pictures behind `paths`, folders searched in order of name.

    A file or folder that the system does not let us see is among them: reading it will say why.

    Raises:
        ValueError: a path that does not exist, a folder without a picture, or standard input twice.
    """
    if paths.count("-") > 1:
        raise ValueError("-: standard input holds one picture and can be given once")
    pictures = []
    for path in paths:
        try:
            folder = path != "-" and stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{path}: no such file or folder") from None
        except OSError:
            folder = False
        found = _pictures_in(path) if folder else [path]
        if not found:
            raise ValueError(f"{path}: no pictures in this folder")
        pictures += found
    return pictures


def _pictures_in(folder) -> list[str]:
    from PIL import Image

    # Pillow also lists formats that it only writes, or leaves to other programs.
    not_read = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name not in not_read}
    found, denied = [], []
    for parent, _, names in os.walk(folder, onerror=denied.append):
        found += [Path(parent, name) for name in names if Path(name).suffix.lower() in suffixes]
    return [str(path) for path in sorted(found + [Path(error.filename) for error in denied])]


def load_model(name: str, runtime: str):
    """The model called `name`, for Keras or for ONNX Runtime; what either needs is imported here and nowhere else."""
    if runtime == "onnx":
        from export import OnnxModel, find_onnx

        return OnnxModel(find_onnx(name))
    from modeling_eanet import from_pretrained_keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras', a dozen where the weights do not fit; the error says so in one line
        try:
            return from_pretrained_keras(name)
        except ModuleNotFoundError as error:
            package = error.name if error.name in ("jax", "torch") else "-r requirements.txt"  # what KERAS_BACKEND names
            mend = f"`pip install {package}`, or predict without it: --runtime onnx, which takes onnxruntime"
            raise ImportError(f"{error.name} is not installed; {mend}") from None


def classify_files(model, pictures, top_k, batch_size):
    """Yields (picture, predictions) in order, None for one that cannot be read; holds one batch of pictures at a time."""
    from tqdm import tqdm

    batch_size = min(batch_size, len(pictures))
    with tqdm(total=len(pictures), unit=" pictures", disable=None, leave=False) as bar:
        for start in range(0, len(pictures), batch_size):
            names = pictures[start : start + batch_size]
            results = _classify_batch(model, names, top_k, batch_size, once=len(names) == len(pictures))
            bar.clear()  # results may go to the same terminal
            yield from zip(names, results, strict=True)
            bar.update(len(names))


def _classify_batch(model, names, top_k, batch_size, once):
    import numpy as np

    from modeling_eanet import predict_probabilities, top_predictions

    arrays = [_load(name, model.config) for name in names]
    readable = [array for array in arrays if array is not None]
    if not readable:
        return arrays
    probabilities = predict_probabilities(model, np.stack(readable), batch_size, once=once)
    best = iter(top_predictions(probabilities, model.config, top_k))
    return [None if array is None else next(best) for array in arrays]


def _load(name, config):
    """The prepared picture, or None after a line on standard error."""
    from tqdm import tqdm

    from modeling_eanet import load_image

    try:
        return load_image(io.BytesIO(_read_stdin()) if name == "-" else name, config)
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        tqdm.write(
            f"inference.py: {_on_one_line(name)}: cannot be read as a picture ({_on_one_line(reason)})", file=sys.stderr
        )
        return None


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read()


def _on_one_line(text) -> str:
    """`text` with its line ends and other control characters, and bytes that are no text, as escapes."""
    control = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in control else c for c in text)


def write_text(results, out):
    for name, predictions in results:
        out.write(f"{_on_one_line(name)}\n")
        width = max(16, *(len(p["label"]) for p in predictions))
        for p in predictions:
            out.write(f"  {p['label']:<{width}} {100 * p['score']:5.1f} %\n")


def write_json(results, out):
    """A list, written as it grows."""
    separator = "["
    for name, predictions in results:
        out.write(f"{separator}\n{json.dumps({'image': name, 'predictions': predictions})}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")


def write_csv(results, out):
    # Every text in quotes: where they are left to need, Python before 3.13 leaves a carriage return bare.
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["image", "rank", "label", "score"])
    for name, predictions in results:
        writer.writerows([name, rank, p["label"], p["score"]] for rank, p in enumerate(predictions, 1))


WRITERS = {"text": write_text, "json": write_json, "csv": write_csv}


def main(argv=None) -> int:
    args = parse_args(argv)
    failed = 0

    def readable(results):
        nonlocal failed
        for name, predictions in results:
            if predictions is None:
                failed += 1
            else:
                yield name, predictions

    if hasattr(sys.stdout, "reconfigure"):  # file names go out as the bytes that they are
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        pictures = find_pictures(args.paths)
        model = load_model(args.model, args.runtime)
        classes = model.config.num_classes
        top_k = min(5, classes) if args.top_k is None else args.top_k
        if top_k > classes:
            raise ValueError(f"--top-k {top_k}: the model has {classes} classes")
        try:
            WRITERS[args.format](readable(classify_files(model, pictures, top_k, args.batch_size)), sys.stdout)
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries once more as it ends
            if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
                return 0
            raise
    except (ValueError, OSError, ImportError) as error:
        print(f"inference.py: error: {_on_one_line(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
