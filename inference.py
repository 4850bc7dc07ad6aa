"""Classifies pictures.

    python inference.py samples                         every picture in a folder, and in the folders in it
    python inference.py cat.jpg dog.png --top-k 3 --format json
    curl -s https://example.org/cat.jpg | python inference.py -
    python inference.py cat.jpg --model user/name       a model on the Hugging Face Hub, or another folder

Results go to standard output in the order of the paths; progress and errors go to standard error. Exit status: 0, all
pictures were classified; 1, some could not be read; 2, nothing was done.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

HERE = Path(__file__).resolve().parent


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="inference.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="picture, folder, or - for a picture on standard input")
    parser.add_argument("--model", default=str(HERE), metavar="DIR_OR_REPO", help="default: the model beside this file")
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="labels per picture (default: 5)")
    parser.add_argument("--format", choices=("text", "json", "csv"), default="text", help="default: text")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="pictures at once (default: 64)")
    args = parser.parse_args(argv)
    if args.top_k < 1:
        parser.error(f"--top-k {args.top_k}: must be at least 1")
    if args.batch_size < 1:
        parser.error(f"--batch-size {args.batch_size}: must be at least 1")
    return args


def find_pictures(paths) -> list[str]:
    """The pictures behind `paths`, folders searched in order of name.

    Raises:
        ValueError: a path that does not exist, or a folder without a picture.
    """
    from PIL import Image

    suffixes = Image.registered_extensions()
    pictures = []
    for path in paths:
        if path == "-" or Path(path).is_file():
            pictures.append(path)
        elif Path(path).is_dir():
            found = sorted(str(p) for p in Path(path).rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not found:
                raise ValueError(f"{path}: no pictures in this folder")
            pictures += found
        else:
            raise ValueError(f"{path}: no such file or folder")
    return pictures


def classify_files(model, pictures, top_k, batch_size):
    """Yields (picture, predictions) in order, None for one that cannot be read; holds one batch of pictures at a time."""
    import numpy as np
    from tqdm import tqdm

    from modeling_eanet import predict_probabilities, top_predictions

    batch_size = min(batch_size, len(pictures))
    with tqdm(total=len(pictures), unit=" pictures", disable=None, leave=False) as bar:
        for start in range(0, len(pictures), batch_size):
            names = pictures[start : start + batch_size]
            arrays = [_load(name, model.config) for name in names]
            readable = [array for array in arrays if array is not None]
            if readable:
                probabilities = predict_probabilities(model, np.stack(readable), batch_size)
                best = iter(top_predictions(probabilities, model.config, top_k))
            for name, array in zip(names, arrays, strict=True):
                yield name, None if array is None else next(best)
            bar.update(len(names))


def _load(name, config):
    """The prepared picture, or None after a line on standard error."""
    from tqdm import tqdm

    from modeling_eanet import load_image

    try:
        return load_image(io.BytesIO(sys.stdin.buffer.read()) if name == "-" else name, config)
    except (OSError, ValueError) as error:
        tqdm.write(f"inference.py: {name}: cannot be read as a picture ({' '.join(str(error).split())})", file=sys.stderr)
        return None


def write_text(results, out):
    for name, predictions in results:
        out.write(f"{name}\n")
        for p in predictions:
            out.write(f"  {p['label']:<16} {100 * p['score']:5.1f} %\n")


def write_json(results, out):
    """A list, written as it grows."""
    separator = "["
    for name, predictions in results:
        out.write(f"{separator}\n{json.dumps({'image': name, 'predictions': predictions})}")
        separator = ","
    out.write("[]\n" if separator == "[" else "\n]\n")


def write_csv(results, out):
    writer = csv.writer(out, lineterminator="\n")
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

    try:
        pictures = find_pictures(args.paths)
        from modeling_eanet import from_pretrained_keras

        model = from_pretrained_keras(args.model)
        if args.top_k > model.config.num_classes:
            raise ValueError(f"--top-k {args.top_k}: the model has {model.config.num_classes} classes")
        WRITERS[args.format](readable(classify_files(model, pictures, args.top_k, args.batch_size)), sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        print(f"inference.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
