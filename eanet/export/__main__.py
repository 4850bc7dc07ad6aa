"""Export a model to ONNX, for predictions without TensorFlow and Keras.

    python -m eanet.export                              this repository's model, to onnx/model.onnx
    python -m eanet.export runs/small                   a run's, to runs/small/onnx/model.onnx
    python inference.py cat.jpg --runtime onnx          predict with it

Needs `pip install onnx onnxruntime`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from eanet.cli import quiet_tensorflow, require, run
from eanet.export.onnx import INSTALL_KERAS, export_onnx
from eanet.saving import ONNX_FILE
from modeling_eanet import CONFIG_FILE, from_pretrained_keras

ROOT = Path(os.path.abspath(__file__)).parents[2]  # holds a model unless eanet is installed as a package
INTERRUPTED = "stopped; nothing was written"


def main(argv=None) -> None:
    """Parse the arguments and write the ONNX file."""
    program = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=program if program.endswith("export.py") else "python -m eanet.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = str(ROOT) if (ROOT / CONFIG_FILE).is_file() else None
    parser.add_argument("model", nargs="?" if default else None, default=default, metavar="DIR_OR_REPO",
                        help="model folder or Hub repository (default: the folder above eanet/)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"file to write (default: DIR/{ONNX_FILE})")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help=argparse.SUPPRESS)  # of older command lines
    args = parser.parse_args(argv)
    output, folder = args.output, Path(args.model)
    if output is None and not folder.is_dir():
        parser.error(f"{args.model}: not a local folder; give the file to write with --output")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        parser.error(f"--output {output}: must be a file in an existing folder")
    quiet_tensorflow()
    require("keras", INSTALL_KERAS)
    model = from_pretrained_keras(args.model)
    if output is None:
        output = folder / ONNX_FILE
        output.parent.mkdir(exist_ok=True)
    export_onnx(model, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    sys.argv[0] = "eanet.export"  # names the program in error messages
    sys.exit(run(main, interrupted=INTERRUPTED))
