"""ONNX with 8-bit convolutions: static quantization, per channel, with ranges from training images.

Batch norms are not folded: they stay in float, in front of the quantization, and bring all channels to the same range.
Folded into the next layer they would leave it with activations of very different ranges and one scale for all (15% instead
of 66% top-1 with the weights of version 1). Weights are uint8: products of uint8 and int8 saturate on x86 processors without
VNNI.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os

import numpy as np

from eanet.cli import atomic_path, require
from eanet.export.agreement import check_accuracy, quantization_form
from eanet.export.metadata import check_output, export_metadata
from eanet.export.onnx import INSTALL, OnnxModel
from eanet.export.onnx_graph import INPUT, onnx_graph
from eanet.loaded_model import config_of

INT8_FILE = "onnx/model_int8.onnx"
QUANTIZED = ["Conv", "Gemm", "Relu"]  # the rest, the double normalisation too, stays in float
BATCH = 50


def export_int8(model, path, calibration, split, config=None) -> tuple[float, float]:
    """Write the deployment form of `model` as an ONNX file whose convolutions compute in 8 bits.

    Args:
        model: Keras model from `build_eanet` or `from_pretrained_keras`.
        path: the file to write, in an existing folder.
        calibration: images that set the ranges of activations, (n, image_size, image_size, 3), 0-255.
        split: images and labels (`eanet.data.Split`) that accuracy is compared on.
        config: EANetConfig, folder or Hub repo id of a model that has none attached (see `config_of`).

    Returns:
        Top-1 accuracy on `split`, quantized and not.

    Raises:
        UserError: a package is missing, `path` cannot be a file, or the quantized model loses accuracy (`check_accuracy`).
        OSError: the file cannot be written; an earlier one is left as it was.
    """
    onnx = require("onnx", INSTALL)
    quantization = require("onnxruntime.quantization", INSTALL)
    path, config = check_output(path), config_of(model, config)
    graph = onnx_graph(quantization_form(model, config), {})
    with atomic_path(path) as temporary:
        with _quiet():
            quantization.quantize_static(
                graph,
                str(temporary),
                _Batches(calibration),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QUInt8,
            )
        quantized = onnx.load(temporary)
        _shorten_names(quantized.graph)
        onnx.helper.set_model_props(quantized, export_metadata(model, config))
        onnx.save(quantized, temporary)
        return check_accuracy(path, OnnxModel(temporary), model, split)


class _Batches:
    """Feeds the calibration images to onnxruntime, as its CalibrationDataReader does."""

    def __init__(self, images):
        self._images, self._start = images, 0

    def get_next(self) -> dict | None:
        batch = np.asarray(self._images[self._start : self._start + BATCH], np.float32)
        self._start += BATCH
        return {INPUT: batch} if len(batch) else None


def _shorten_names(graph) -> None:
    """Number the tensors inside the graph: the quantizer's names take a tenth of the file."""
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {}
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, str(len(names)))
    for node in graph.node:
        node.name = ""
        for part in (node.input, node.output):
            part[:] = [name if name in kept else names.setdefault(name, str(len(names))) for name in part]
    del graph.value_info[:]


@contextlib.contextmanager
def _quiet():
    """Silence the quantizer's advice."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.getLogger().setLevel(level)
