"""All formats of one model: where each goes, and what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from eanet.cli import UserError
from eanet.export.litert import LITERT_FILE, LITERT_INT8_FILE, export_litert, export_litert_int8
from eanet.export.onnx import FP16_FILE, INSTALL_KERAS, export_onnx
from eanet.export.quantize import INT8_FILE, export_int8
from eanet.saving import ONNX_FILE

__all__ = ["INSTALL_KERAS"]
FORMATS = {
    "onnx": ONNX_FILE, "fp16": FP16_FILE, "int8": INT8_FILE, "litert": LITERT_FILE, "litert-int8": LITERT_INT8_FILE,
}  # fmt: skip
DATA_FORMATS = ("int8", "litert-int8")
CALIBRATION_IMAGES = 1000


def export_all(model, folder, formats, output=None, data=None) -> list[str]:
    """Write a model in one or more formats, say on standard output what was written, and on standard error what was not.

    Args:
        model: Keras model with its config attached.
        folder: of the model; its exports go to their usual places in it.
        formats: keys of `FORMATS`.
        output: the file to write instead, for a single format.
        data: data set for the 8-bit formats (`eanet.data.load_dataset`); without it they are left out.

    Returns:
        Why formats were left out, one line each.

    Raises:
        UserError: `data` cannot be used.
        OSError: a file cannot be written.
    """
    calibration, split = _images(data, model.config) if data and set(formats) & set(DATA_FORMATS) else (None, None)
    left_out = []
    for name in formats:
        path = Path(output or Path(folder) / FORMATS[name])
        if output is None:
            path.parent.mkdir(exist_ok=True)
        try:
            print(f"wrote {path}{_export(name, model, path, calibration, split)}")
        except UserError as error:
            left_out.append(str(error))
            if len(formats) > 1:
                print(f"{name} is left out: {error}", file=sys.stderr)
        if output is None and not any(path.parent.iterdir()):
            path.parent.rmdir()
    return left_out


def _export(name, model, path, calibration, split) -> str:
    """Write one format, and return what is to be said of its accuracy."""
    if name in ("onnx", "fp16"):
        export_onnx(model, path, weights="float16" if name == "fp16" else "float32")
        return ""
    if name == "litert":
        export_litert(model, path)
        return ""
    if calibration is None:
        raise UserError("needs images to quantize with; give data, as for train.py")
    found, expected = (export_int8 if name == "int8" else export_litert_int8)(model, path, calibration, split)
    return f" (top-1 {100 * found:.1f}%, in float {100 * expected:.1f}%, on {len(split):,} images of {split.name})"


def _images(data, config):
    """Return up to 1,000 training images of all classes for the ranges, and the split that accuracy is compared on."""
    from eanet.data import load_dataset

    dataset = load_dataset(data, config, labels=tuple(config.id2label.values()))
    order = np.random.default_rng(0).permutation(len(dataset.train))
    chosen, others = np.sort(order[:CALIBRATION_IMAGES]), np.sort(order[CALIBRATION_IMAGES:][:5000])
    calibration = np.asarray(dataset.train.part(chosen, "train").x)
    if dataset.test is not None:
        return calibration, dataset.test
    return calibration, dataset.train.part(others if len(others) else chosen, "train")
