"""Export a model for other runtimes, for predictions without TensorFlow and Keras.

    python -m eanet.export                              this repository's model, to onnx/model.onnx
    python -m eanet.export runs/small                   a run's, to runs/small/onnx/model.onnx
    python -m eanet.export runs/small --format litert   for phones, to runs/small/litert/eanet.tflite
    python -m eanet.export runs/small --format all --data DATA
    python inference.py cat.jpg --runtime onnx          predict with it

Formats: onnx; fp16, ONNX of half the size; int8, ONNX in 8 bits; litert (TensorFlow Lite); litert-int8. The 8-bit ones need
images: DATA as for train.py. An export that answers differently from the model, or in 8 bits loses more than half a point
of accuracy, is not written.

Needs `pip install onnx onnxruntime`, and for LiteRT `pip install ai-edge-litert ai-edge-quantizer`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from eanet.cli import UserError, check_backend, nonempty, nonempty_path, prepare_tensorflow, require, run
from eanet.export.formats import DATA_FORMATS, FORMATS, INSTALL_KERAS, export_all
from eanet.run_lock import lock_run
from modeling_eanet import CONFIG_FILE, from_pretrained_keras

ROOT = Path(os.path.abspath(__file__)).parents[2]  # holds a model unless eanet is installed as a package
INTERRUPTED = "stopped; the file that was being made is not written"


def parse_args(argv=None) -> argparse.Namespace:
    """Parse the command line, and check what can be checked before TensorFlow is imported."""
    program = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=program if program.endswith("export.py") else "python -m eanet.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = str(ROOT) if (ROOT / CONFIG_FILE).is_file() else None
    parser.add_argument("model", type=nonempty, nargs="?" if default else None, default=default, metavar="DIR_OR_REPO",
                        help="model folder or Hub repository (default: the folder above eanet/)")  # fmt: skip
    parser.add_argument("--format", choices=(*FORMATS, "all"), default="onnx", help="default: onnx")
    parser.add_argument(
        "--output", type=nonempty_path, metavar="FILE", help="file to write (default: its usual place in DIR)"
    )
    parser.add_argument("--data", metavar="PATH", help="images for the 8-bit formats: ranges from the training images, "
                        "accuracy on the test images")  # fmt: skip
    args = parser.parse_args(argv)
    output, folder = args.output, Path(args.model)
    if folder.exists() and not folder.is_dir():
        parser.error(f"{args.model}: a file, not a model folder")
    if not folder.is_dir() and (args.model.startswith((".", "~", os.sep)) or args.model.count("/") != 1):
        parser.error(f"{args.model}: not a local folder, and not a Hub repo id (user/name)")
    if output is None and not folder.is_dir():
        parser.error(f"{args.model}: not a local folder; give the file to write with --output")
    if output is not None and args.format == "all":
        parser.error("--output names one file; --format all writes several, each to its usual place")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        parser.error(f"--output {output}: must be a file in an existing folder")
    if output is not None and output.suffix.lower() != (suffix := Path(FORMATS[args.format]).suffix):
        parser.error(f"--output {output}: the name of a file of --format {args.format} ends in {suffix}")
    if args.format in DATA_FORMATS and args.data is None:
        parser.error(f"--format {args.format} needs images: --data PATH, as for train.py")
    if args.data is not None and args.format not in (*DATA_FORMATS, "all"):
        parser.error(f"--data has no effect with --format {args.format}; it is for {', '.join(DATA_FORMATS)} and all")
    return args


def main(argv=None) -> None:
    """Parse the arguments and write the files."""
    args = parse_args(argv)
    formats = tuple(FORMATS) if args.format == "all" else (args.format,)
    with lock_run(args.model, "exporting") if Path(args.model).is_dir() else contextlib.nullcontext():
        left_out = _export(args, formats)
    if left_out:
        raise UserError(left_out[0] if len(formats) == 1 else f"{len(left_out)} of {len(formats)} formats were not written")


def _export(args, formats: tuple[str, ...]) -> list[str]:
    prepare_tensorflow()
    check_backend()
    require("keras", INSTALL_KERAS)
    return export_all(from_pretrained_keras(args.model), args.model, formats, output=args.output, data=args.data)


if __name__ == "__main__":
    sys.argv[0] = "eanet.export"  # names the program in error messages
    sys.exit(run(main, interrupted=INTERRUPTED))
