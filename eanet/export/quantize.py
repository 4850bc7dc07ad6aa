"""ONNX with 8-bit convolutions: static quantization, per channel, with ranges from training images.

Three things keep the accuracy; top-1 on hold-out images with the weights of version 1, which have 73.3% in float:

- Batch norms in front of a layer are not folded: they stay in float, before the quantization, and bring all channels to the
  same range. Folded they leave activations of very different ranges, with one scale for all: 15% instead of 66%.
- What rounding a kernel changes in the mean of a channel is taken off its bias: 71%.
- The ranges leave out the largest 1e-5 of the values: 71.9%.

Three more bring the preset pyramid from a mean Kullback-Leibler divergence of 0.0037 from the float model to 0.0018, in a
file that is 3% larger:

- All convolutions but those of logits have a bias, which can be corrected (`eanet.export.eight_bits`).
- Batch norms behind a convolution are folded into it, whose kernel has a scale per channel.
- The smallest kernels stay in float.

Weights are uint8: products of uint8 and int8 saturate on x86 processors without VNNI.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os

import numpy as np

from eanet.cli import atomic_path, require, temporary_folder
from eanet.export.agreement import check_accuracy
from eanet.export.eight_bits import batch_size, feature_bytes, quantization_form, smallest_kernels
from eanet.export.metadata import check_output, export_metadata
from eanet.export.onnx import INSTALL, OnnxModel, save_onnx
from eanet.export.onnx_graph import INPUT, onnx_graph
from eanet.loaded_model import config_of

INT8_FILE = "onnx/model_int8.onnx"
QUANTIZED = ["Conv", "Gemm", "Relu"]  # the rest, the double normalisation too, stays in float
COLLECTED_BYTES = 2**33  # of features, of which onnxruntime keeps about half until it counts them


def export_int8(model, path, calibration, split, config=None) -> tuple[float, float]:
    """Write `model` as an ONNX file whose convolutions compute in 8 bits.

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
    form = quantization_form(model, config)
    graph, batch = _fold_norms(onnx_graph(form, {})), batch_size(form)
    with atomic_path(path) as temporary:
        with _quiet():
            options = dict(
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QUInt8,
                nodes_to_exclude=_float_nodes(graph.graph),
            )
            quantization.quantize_static(_copy(graph), str(temporary), _Batches(calibration[:batch], batch), **options)
            reader = _Batches(calibration, batch)
            _correct_biases(graph, onnx.load(temporary).graph, reader)
            options["calibrate_method"] = quantization.CalibrationMethod.Percentile
            # The option's name is of another method; it makes all of them collect batches in parts.
            options["extra_options"] = {"CalibStridedMinMax": reader.part(COLLECTED_BYTES // feature_bytes(form))}
            quantization.quantize_static(_copy(graph), str(temporary), reader, **options)
        quantized = onnx.load(temporary)
        _shorten_names(quantized.graph)
        onnx.helper.set_model_props(quantized, export_metadata(model, config))
        save_onnx(quantized, temporary)
        return check_accuracy(path, OnnxModel(temporary), model, split)


def _copy(model):
    """Return a copy of an ONNX model; the quantizer moves the constants of the one it gets to a file."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def _fold_norms(model):
    """Return an ONNX model whose convolutions include the batch norm behind them, as onnxruntime folds it."""
    import onnxruntime

    import onnx

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with temporary_folder() as folder:
        options.optimized_model_filepath = str(folder / "folded.onnx")
        # Without ConstantSharing: it makes equal biases one tensor, and each is corrected by itself.
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"]
        )
        folded = onnx.load(folder / "folded.onnx")
    opsets = [opset for opset in folded.opset_import if not opset.domain]
    del folded.opset_import[:]
    folded.opset_import.extend(opsets)  # without onnxruntime's own, which nothing uses at this level
    return folded


def _float_nodes(graph) -> list[str]:
    """Return the names of the convolutions and matrix products that stay in float."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kernels = {node.name: shapes[node.input[1]] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    return smallest_kernels(kernels)


def _correct_biases(model, quantized, reader: _Batches) -> None:
    """Take off each quantized convolution's bias what rounding its kernel adds to the mean of its outputs.

    Args:
        model: the float ONNX model; its biases are changed.
        quantized: graph of its quantized form, whose kernels are read.
        reader: gives the images to take means over.
    """
    from onnx import numpy_helper

    rounded = {tensor.name: numpy_helper.to_array(tensor).astype(np.float32) for tensor in quantized.initializer}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    convolutions = [node for node in convolutions if f"{node.input[1]}_quantized" in rounded]  # the others stay in float
    means = _mean_inputs(model, convolutions, reader)
    for node in convolutions:
        source, name, bias = node.input
        zero, scale = (rounded[f"{name}_{part}"].reshape(-1, 1, 1, 1) for part in ("zero_point", "scale"))
        error = (rounded[f"{name}_quantized"] - zero) * scale - numpy_helper.to_array(tensors[name])
        error = error.sum(axis=(2, 3))  # (out, in), or (out, 1) of a depthwise convolution
        groups = len(means[source]) // error.shape[1]
        inputs = means[source].reshape(groups, -1).repeat(len(error) // groups, axis=0)
        corrected = numpy_helper.to_array(tensors[bias]) - (error * inputs).sum(axis=1)
        tensors[bias].CopyFrom(numpy_helper.from_array(corrected.astype(np.float32), bias))


def _mean_inputs(model, nodes, reader: _Batches) -> dict[str, np.ndarray]:
    """Return the mean of each channel of the nodes' first inputs, by name."""
    import onnxruntime

    import onnx

    names = sorted({node.input[0] for node in nodes})
    observed = _copy(model)
    known = {output.name for output in model.graph.output}
    observed.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names if name not in known)
    session = onnxruntime.InferenceSession(observed.SerializeToString(), providers=["CPUExecutionProvider"])
    sums = {name: np.float64(0) for name in names}
    reader.set_range(0, len(reader))
    while (batch := reader.get_next()) is not None:
        for name, values in zip(names, session.run(names, batch), strict=True):
            sums[name] = sums[name] + values.mean(axis=(2, 3)).sum(axis=0)
    return {name: np.asarray(total) / reader.count for name, total in sums.items()}


class _Batches:
    """Feeds the calibration images to onnxruntime, as its CalibrationDataReader does.

    Its collectors need batches of one size: a few of the first images come again in the last one.
    """

    def __init__(self, images, size: int):
        batches = -(-len(images) // size)
        self.count = -(-len(images) // batches) * batches
        self._images, self._rows = images, np.arange(self.count).reshape(batches, -1) % len(images)
        self.set_range(0, batches)

    def __len__(self) -> int:
        return len(self._rows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with these batches."""
        self._left = self._rows[start_index:end_index]

    def part(self, images: int) -> int:
        """Return the largest number of batches that divides theirs and has at most so many images, or else is 1."""
        numbers = range(1, len(self) + 1)
        return max(n for n in numbers if n == 1 or len(self) % n == 0 and n * self._rows.shape[1] <= images)

    def get_next(self) -> dict | None:
        if not len(self._left):
            return None
        rows, self._left = self._left[0], self._left[1:]
        return {INPUT: np.asarray(self._images[rows], np.float32)}


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
