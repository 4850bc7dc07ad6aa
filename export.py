"""Deprecated: use `python -m eanet.export`. This file keeps the old command line and imports working for one release."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # in the Hub's cache this file is a link into blobs/

from eanet.cli import run
from eanet.export import OnnxModel, export_onnx, find_onnx  # noqa: F401, the old public names
from eanet.export.__main__ import INTERRUPTED, main

if __name__ == "__main__":
    sys.exit(run(main, interrupted=INTERRUPTED))
