"""LiteRT (TensorFlow Lite), for phones and small devices: write the file from a Keras model, find it, and run it.

The labels and settings are in a zip archive at the end of the file, where Android Studio and `unzip` find them. Running a
file needs ai-edge-litert; writing one also needs TensorFlow, and ai-edge-quantizer for 8 bits.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from eanet.cli import UserError, atomic_path, first_line, native_stderr_silenced, require, temporary_folder
from eanet.export.agreement import MAX_DIFFERENCE, check_accuracy, check_agreement, check_images, full_precision
from eanet.export.eight_bits import batch_size, quantization_form, smallest_kernels
from eanet.export.metadata import check_output, export_metadata, find_export, read_metadata
from eanet.folding import deployment_form
from eanet.loaded_model import config_of

LITERT_FILE, LITERT_INT8_FILE = "litert/eanet.tflite", "litert/eanet_int8.tflite"
INSTALL, INSTALL_KERAS = "`pip install ai-edge-litert ai-edge-quantizer`", "`pip install tensorflow keras`"
METADATA, LABELS = "eanet.json", "labels.txt"
QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # the rest, the double normalisation too, stays in float

# Of an image classifier; no control flow, and none whose result has a size of its own choice. A file from a stranger with
# others, or with more work than this for an image, is refused.
OPERATORS = frozenset(
    """
    ABS ADD AVERAGE_POOL_2D CAST CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV ELU EXP
    FULLY_CONNECTED GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL NEG PAD PADV2
    POW QUANTIZE REDUCE_MAX RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RSQRT SHAPE SLICE SOFTMAX SPACE_TO_DEPTH SPLIT SQRT
    SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM TANH TRANSPOSE
    """.split()
)
MAX_MEMORY, MAX_MACS = 10**9, 5 * 10**10  # bytes of the tensors held at a time; multiplications with weights


def export_litert(model, path, config=None) -> None:
    """Write the deployment form of `model` as a LiteRT file, of builtin operators alone.

    The file takes float32 (batch, image_size, image_size, 3), 0 to 255, batch 1 unless resized, and returns probabilities,
    float32 (batch, num_classes). It is compared with `model` before it is renamed to `path`.

    Args:
        model: Keras model from `build_eanet` or `from_pretrained_keras`, on Keras' TensorFlow backend.
        path: the file to write, in an existing folder.
        config: EANetConfig, folder or Hub repo id of a model that has none attached (see `config_of`).

    Raises:
        UserError: a package is missing, Keras runs on another backend, `path` cannot be a file, or the export's
            probabilities differ from those of `model`.
        OSError: the file cannot be written; an earlier one is left as it was.
    """
    path, config = check_output(path), config_of(model, config)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_with_metadata(_convert(deployment_form(model, config)), export_metadata(model, config)))
        images = check_images(config)
        with full_precision():
            found, expected = (each.predict_on_batch(images) for each in (LitertModel(temporary), model))
        check_agreement(path, found, expected, MAX_DIFFERENCE["float32"])


def export_litert_int8(model, path, calibration, split, config=None) -> tuple[float, float]:
    """Write `model` as a LiteRT file whose convolutions compute in 8 bits.

    Args:
        model: as in `export_litert`.
        path: the file to write, in an existing folder.
        calibration: images that set the ranges of activations, (n, image_size, image_size, 3), 0-255.
        split: images and labels (`eanet.data.Split`) that accuracy is compared on.
        config: as in `export_litert`.

    Returns:
        Top-1 accuracy on `split`, quantized and not.

    Raises:
        UserError: as `export_litert`, or the quantized model loses accuracy (`check_accuracy`).
        OSError: the file cannot be written; an earlier one is left as it was.
    """
    path, config = check_output(path), config_of(model, config)
    quantizer = require("ai_edge_quantizer.quantizer", INSTALL)
    qtyping = require("ai_edge_quantizer.qtyping", INSTALL)
    with temporary_folder() as folder, native_stderr_silenced(), contextlib.redirect_stdout(io.StringIO()):
        form = quantization_form(model, config)
        (folder / "float.tflite").write_bytes(_convert(_with_corrected_biases(form, calibration)))
        job = quantizer.Quantizer(str(folder / "float.tflite"))
        for name in QUANTIZED:
            job.add_static_config(_large_kernels(form), qtyping.TFLOperationName[name], 8, 8)
        ranges = job.calibrate({"serving_default": [{"image": np.asarray(calibration[:1], np.float32)}]})
        _widen(ranges, folder / "float.tflite", calibration, batch_size(form))
        content = bytes(job.quantize(ranges).quantized_model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_with_metadata(content, export_metadata(model, config)))
        return check_accuracy(path, LitertModel(temporary), model, split)


def _large_kernels(model) -> str:
    """Return a regular expression that matches the output names of all operations except those kept in float."""
    small = _in_float(model)
    return rf"^(?!.*(^|/|;)({'|'.join(small)})[_/])" if small else ".*"


def _in_float(model) -> list[str]:
    return smallest_kernels({layer.name: layer.kernel.shape for layer in model.layers if hasattr(layer, "kernel")})


def _convert(model) -> bytes:
    """Return the LiteRT flatbuffer of `model`."""
    keras = require("keras", INSTALL_KERAS)
    require("ai_edge_litert", INSTALL)
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UserError(f"Keras backend {backend}: the LiteRT export needs TensorFlow; set KERAS_BACKEND=tensorflow")
    import tensorflow as tf

    builtin = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    flat = _flat_graph(model)
    with temporary_folder() as folder, warnings.catch_warnings(), native_stderr_silenced():
        warnings.simplefilter("ignore")
        flat.export(str(folder / "m.tflite"), format="litert", verbose=False, target_spec=builtin)
        return (folder / "m.tflite").read_bytes()


def _widen(ranges: dict, path: Path, images, size: int) -> None:
    """Set the ranges of activations, in place, to those over all of `images`, `size` of them at a time.

    The quantizer averages the ranges of single images, which cuts off a white background: 75.9% instead of 76.9%.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count(), experimental_preserve_all_tensors=True)
    (source,) = interpreter.get_input_details()
    indices = {tensor["name"]: tensor["index"] for tensor in interpreter.get_tensor_details()}
    low, high = dict.fromkeys(ranges, np.inf), dict.fromkeys(ranges, -np.inf)
    for at in range(0, len(images), size):
        batch = np.asarray(images[at : at + size], np.float32)
        interpreter.resize_tensor_input(source["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], batch)
        interpreter.invoke()
        for name in ranges:
            values = interpreter.get_tensor(indices[name])
            low[name], high[name] = min(low[name], values.min()), max(high[name], values.max())
    for name, found in ranges.items():
        found["min"], found["max"] = np.full_like(found["min"], low[name]), np.full_like(found["max"], high[name])


def _with_corrected_biases(model, images):
    """Return a copy whose biases make up for what rounding the kernels to 8 bits adds to the mean of each channel."""
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kinds, in_float = ("Conv2D", "DepthwiseConv2D", "Dense"), _in_float(model)
    layers = [layer for layer in copy.layers if type(layer).__name__ in kinds and layer.use_bias]
    layers = [layer for layer in layers if layer.name not in in_float]
    observed = keras.Model(copy.input, {layer.name: layer.input for layer in layers})  # a list of one would become a tensor
    sums, size = dict.fromkeys((layer.name for layer in layers), np.float32(0)), batch_size(model)
    for at in range(0, len(images), size):
        for name, values in observed.predict_on_batch(images[at : at + size]).items():
            sums[name] = sums[name] + np.mean(values, axis=tuple(range(1, values.ndim - 1))).sum(axis=0)
    for layer in layers:
        mean, (kernel, bias) = sums[layer.name] / len(images), layer.get_weights()
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        kernel = kernel[..., 0] if depthwise else kernel  # (height, width, channels), or (..., in, out)
        scale = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127
        error = np.round(kernel / np.where(scale > 0, scale, 1)) * scale - kernel
        axes = tuple(range(error.ndim - (1 if depthwise else 2)))
        error = error.sum(axis=axes)  # (channels,), or (in, out)
        shift = error * mean if depthwise else mean @ error
        layer.set_weights([layer.get_weights()[0], bias - shift])
    return copy


def _flat_graph(model):
    """Return the same function with tokens as a grid, linear maps as 1x1 convolutions and a plain log-sum-exp.

    The batch size then appears in no computation of shapes, and there are no guards against infinity.
    """
    import keras
    from keras import layers, ops

    tensors, grid = {id(model.inputs[0]): model.inputs[0]}, ()
    for operation in model.operations[1:]:
        given = operation.input if isinstance(operation.input, list) else [operation.input]
        inputs, kind, shape = [tensors[id(tensor)] for tensor in given], type(operation).__name__, operation.output.shape
        x = inputs[0]
        if kind == "Reshape" and operation.name.startswith("patch"):
            x = ops.reshape(x, (-1, *shape[1:]))
            grid = shape[1:3]  # the last of them has made it one
        elif kind == "Reshape" and len(shape) == 3:
            grid = x.shape[1:3] if operation.name.endswith("_tokens") else grid
            x = ops.reshape(x, (-1, *grid, shape[-1]))
        elif kind == "Reshape":
            x = ops.reshape(x, (-1, *shape[1:])) if tuple(x.shape[1:]) != tuple(shape[1:]) else x
        elif kind == "Dense" and len(x.shape) == 4:
            kernel, *bias = operation.get_weights()
            options = dict(activation=operation.activation, use_bias=bool(bias), name=operation.name)
            convolution = layers.Conv2D(kernel.shape[-1], 1, **options)
            x = convolution(x)
            convolution.set_weights([kernel[None, None], *bias])
        elif kind == "Logsumexp":
            largest = ops.max(x, axis=1, keepdims=True)
            x = largest + ops.log(ops.sum(ops.exp(x - largest), axis=1, keepdims=True))
        else:
            x = operation(inputs if len(inputs) > 1 else x)
        tensors[id(operation.output)] = x
    return keras.Model(model.inputs, tensors[id(model.outputs[0])], name=model.name)


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """Append an uncompressed zip archive with the labels, the settings and a checksum of what comes before it."""
    labels = json.loads(metadata["eanet_config"])["id2label"].values()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in {
            LABELS: "".join(f"{label}\n" for label in labels),
            METADATA: json.dumps({**metadata, "crc32": f"{zlib.crc32(content):08x}"}),
        }.items():
            file.writestr(zipfile.ZipInfo(name), text)  # ZipInfo: without today's date
    return content + archive.getvalue()


class LitertModel:
    """A file from `export_litert` or `export_litert_int8`, run by LiteRT on the CPU.

    It can be passed to `predict_probabilities` and `classify` in place of a Keras model.

    Args:
        path: the file.
        threads: number of threads; 0 for LiteRT's own choice.

    Attributes:
        config: the model's EANetConfig.
        checksum: `model_checksum` of the model it was exported from.

    Raises:
        UserError: ai-edge-litert is missing, or `path` is missing, damaged, or not written by `eanet.export`.
    """

    def __init__(self, path, threads: int = 0):
        interpreter = require("ai_edge_litert.interpreter", "`pip install ai-edge-litert`")
        path = Path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file; `python -m eanet.export --format litert` writes it")
        content = path.read_bytes()
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                metadata = json.loads(archive.read(METADATA))
                content = content[: min(member.header_offset for member in archive.infolist())]
            intact = metadata["crc32"] == f"{zlib.crc32(content):08x}"
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, RecursionError, NotImplementedError) as error:
            raise UserError(f"{path}: not a LiteRT file written by eanet.export ({first_line(error)})") from None
        if not intact:
            raise UserError(f"{path}: damaged, or changed after its export; export it again")
        self.config, self.checksum = read_metadata(path, metadata)
        self._path = path
        try:
            with native_stderr_silenced():  # it prints which delegate it uses
                self._interpreter = interpreter.Interpreter(model_content=content, num_threads=threads or None)
                self._check_operators()
                self._interpreter.allocate_tensors()
            self._check_work()
            (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except UserError:
            raise
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: not a readable LiteRT model ({first_line(error)})") from None
        side, found = self.config.image_size, [list(part["shape"][1:]) for part in (self._input, self._output)]
        if found != [[side, side, 3], [self.config.num_classes]]:
            raise UserError(f"{path}: its graph does not fit its metadata ({found}); export it again")

    def _check_operators(self) -> None:
        if other := {node["op_name"] for node in self._interpreter._get_ops_details()} - OPERATORS:
            raise UserError(f"{self._path}: its graph has the operator {min(other)}, as no export of an EANet has")

    def _check_work(self) -> None:
        """Refuse a graph that would take long for an image, before it computes anything."""
        tensors = {tensor["index"]: tensor for tensor in self._interpreter.get_tensor_details()}
        size = {i: math.prod(map(int, tensor["shape"])) for i, tensor in tensors.items()}
        nodes = self._interpreter._get_ops_details()
        last = {i: number for number, node in enumerate(nodes) for i in node["inputs"]}  # use of each tensor
        made = {i for node in nodes for i in node["outputs"]}
        bytes_of = {i: size[i] * np.dtype(tensor["dtype"]).itemsize for i, tensor in tensors.items()}
        memory = held = sum(bytes_of[i] for i in tensors if i not in made)
        macs = 0
        for number, node in enumerate(nodes):
            held += sum(bytes_of[i] for i in node["outputs"])
            memory = max(memory, held)
            held -= sum(bytes_of[i] for i in {*node["inputs"], *node["outputs"]} & made if last.get(i, number) <= number)
            if node["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                kernel, result = node["inputs"][1], node["outputs"][0]
                channels = int(tensors[kernel]["shape"][3 if node["op_name"].startswith("DEPTH") else 0])
                macs += size[result] * size[kernel] // max(1, channels)
        if memory > MAX_MEMORY or macs > MAX_MACS:
            found = f"{memory / 1e9:,.1f} GB and {macs / 1e9:,.0f} billion multiplications"
            raise UserError(f"{self._path}: one image takes {found}, as with no export of an EANet")

    def predict_on_batch(self, images) -> np.ndarray:
        """Return the class probabilities of a batch.

        Args:
            images: (n, image_size, image_size, 3), 0 to 255.

        Returns:
            float32 (n, num_classes).

        Raises:
            UserError: the graph fails; it is damaged.
        """
        images = np.ascontiguousarray(images, np.float32)
        try:
            if tuple(self._interpreter.get_input_details()[0]["shape"]) != images.shape:
                self._interpreter.resize_tensor_input(self._input["index"], images.shape)
                self._interpreter.allocate_tensors()
            self._interpreter.set_tensor(self._input["index"], images)
            self._interpreter.invoke()
            return self._interpreter.get_tensor(self._output["index"])
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{self._path}: cannot be run ({first_line(error)})") from None


def find_litert(name: str) -> Path:
    """Return the path of a model's LiteRT file, downloading it for a Hub repository.

    Args:
        name: a LiteRT file, a model folder, or a Hub repo id. In the last two the file is litert/eanet.tflite.

    Raises:
        UserError: the folder or repository has no such file, it cannot be downloaded, or huggingface_hub is missing.
    """
    return find_export(name, (LITERT_FILE,), "--format litert ")
