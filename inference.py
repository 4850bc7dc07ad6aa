"""Classify images.

    python inference.py samples                         every image in a folder and its subfolders
    python inference.py cat.jpg dog.png --top-k 3 --format json
    curl -s https://example.org/cat.jpg | python inference.py -
    python inference.py cat.jpg --model user/name       a model on the Hugging Face Hub, or another folder
    python inference.py cat.jpg --runtime onnx          its ONNX export, without TensorFlow
    python inference.py cat.jpg --model FILE.tflite     an export, ONNX or LiteRT

Results go to standard output in the order of the paths, progress and errors to standard error. Exit status: 0, all
images were classified; 1, some could not be read; 2, none was classified.

Models and images of strangers are safe here: config.json, model.weights.h5 and an ONNX file are read as data, and what is
damaged or out of proportion is refused. The SavedModel next to them is not read: it is a program, so load no stranger's.
"""

from __future__ import annotations

import argparse
import os
import sys

# In the Hub's cache this file is a link into blobs/; its own folder has the code.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from eanet.batch import FORMATS, RUNTIMES, classify_to  # noqa: E402
from eanet.cli import positive_int, run  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="inference.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image, folder, or - for an image on standard input")
    parser.add_argument(
        "--model", default=HERE, metavar="NAME", help="folder, Hub repository or export (default: next to this program)"
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="onnx uses onnx/model.onnx, litert litert/eanet.tflite, both without TensorFlow (default: keras)",
    )
    parser.add_argument(
        "--top-k", type=positive_int, metavar="K", help="labels per image (default: 5, or all of fewer than 5 classes)"
    )
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images per batch (default: 64)")
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Run the program and return its exit status."""
    args = parse_args(argv)
    classified, unreadable = classify_to(
        sys.stdout,
        args.paths,
        model_name=args.model,
        runtime=args.runtime,
        top_k=args.top_k,
        output_format=args.format,
        batch_size=args.batch_size,
    )
    return 0 if not unreadable else 1 if classified else 2


if __name__ == "__main__":
    sys.exit(run(main))
