"""Classify images.

    python inference.py samples                         every image in a folder and its subfolders
    python inference.py cat.jpg dog.png --top-k 3 --format json
    curl -s https://example.org/cat.jpg | python inference.py -
    python inference.py cat.jpg --model user/name       a model on the Hugging Face Hub, or another folder
    python inference.py cat.jpg --runtime onnx          its ONNX export, without TensorFlow
    python inference.py cat.jpg --model FILE.tflite     an export, ONNX or LiteRT

Many images, one row each, on all cores; the same command with --resume goes on after an interruption, or a crash:

    python inference.py photos --output results.csv     or .jsonl or .parquet
    python inference.py @list.txt --output results.csv  a list of files and folders, one per line
    find photos -name '*.jpg' -print0 | python inference.py -0 --output results.csv

Results go to standard output in the order of the paths, progress and errors to standard error. With --output every image
has a row with path, label, score, the other labels and error; results.csv.job next to it says what they were made with.
Exit status: 0, all images were classified; 1, some could not be read; 2, none was classified; 130, after Ctrl-C.

Untrusted models and images are safe here: config.json, model.weights.h5 and an ONNX file are read as data, and what is
damaged or out of proportion is refused. The SavedModel next to them is not read: it is a program; load only ones you trust.
"""

from __future__ import annotations

import argparse
import os
import sys

# In the Hub's cache this file is a link into blobs/; its own folder has the code.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from eanet.batch import MANY, RUNTIMES, Job, classify_into, classify_to  # noqa: E402
from eanet.cli import nonempty, positive_int, run  # noqa: E402
from eanet.image_files import is_list  # noqa: E402
from eanet.results import FORMATS  # noqa: E402


def parse_args(argv=None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="inference.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="image, folder, - for an image on standard input, @FILE for a list of paths, @- for one on standard input",
    )
    parser.add_argument(
        "-0", "--null", action="store_true",
        help="paths in lists end with a null character, as of find -print0; without PATH, standard input is the list",
    )  # fmt: skip
    parser.add_argument("--model", type=nonempty, default=HERE, metavar="NAME",
                        help="folder, Hub repository or export (default: next to this program)")  # fmt: skip
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="onnx uses onnx/model.onnx, litert litert/eanet.tflite, both without TensorFlow (default: keras; onnx with "
        f"--output, or {MANY:,} images or more, if the model's folder has one of its weights and onnxruntime is installed)",
    )
    parser.add_argument(
        "--top-k", type=positive_int, metavar="K", help="labels per image (default: 5, or all of fewer than 5 classes)"
    )
    parser.add_argument("--format", choices=FORMATS, help="of standard output (default: text)")
    parser.add_argument("--output", type=nonempty, metavar="FILE", help="write a .csv, .jsonl or .parquet file instead")
    parser.add_argument("--resume", action="store_true", help="go on with FILE if it exists: images with a row are skipped")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images per batch (default: 64)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="default: one per core; does not limit Keras' own threads"
    )
    args = parser.parse_args(argv)
    if args.null and not args.paths:
        args.paths = ["@-"]
    if not args.paths:
        parser.error("the following arguments are required: PATH")
    if args.null and not any(map(is_list, args.paths)):
        parser.error("argument -0/--null: goes with a list, @FILE or standard input without PATH")
    if args.format and args.output is not None:
        parser.error("argument --format: is for standard output; the name of the --output file says its format")
    if args.resume and args.output is None:
        parser.error("argument --resume: goes with --output")
    return args


def main(argv=None) -> int:
    """Run the program and return its exit status."""
    args = parse_args(argv)
    options = {name: getattr(args, name) for name in ("model", "runtime", "top_k", "batch_size", "threads", "null")}
    job = Job(tuple(args.paths), **options)
    if args.output is not None:
        classified, unreadable = classify_into(args.output, job, resume=args.resume)
    else:
        classified, unreadable = classify_to(sys.stdout, job, args.format or "text")
    return 0 if not unreadable else 1 if classified else 2


if __name__ == "__main__":
    sys.exit(run(main))
