"""Write the ONNX graph of a Keras model, operation by operation.

Keras computes on (batch, height, width, channels), ONNX runtimes are fastest on (batch, channels, height, width). Tokens
stay a grid here, linear maps are 1x1 convolutions, and most of Keras' reshapes disappear. Attention has the layout (batch,
heads, slots, tokens), in which both normalisations are vectorised:

    A = softmax over slots of log_softmax over tokens of the logits
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from eanet.cli import UserError

OPSET, OPSET_WITH_GELU, IR_VERSION = 18, 20, 9
INPUT, PROBABILITIES, FEATURES, ATTENTION = "image", "probabilities", "features", "attention_{}"
SIMPLE = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "hard_silu": "HardSwish", "hard_swish": "HardSwish"}


def onnx_graph(model, metadata: dict[str, str]):
    """Return the `onnx.ModelProto` of a Keras model.

    Its input is `image`, float32 (batch, height, width, 3), 0 to 255. Outputs, float32: `probabilities` (batch, classes),
    `features` (batch, channels), the pooled embedding, and `attention_0`, … (batch, heads, slots, tokens), one per block.
    Those are intermediate results, so they cost nothing.

    Args:
        model: a functional Keras model from `build_eanet`; deployment form (`eanet.folding`) is fastest.
        metadata: the file's properties.

    Raises:
        UserError: the model has a kind of layer or an activation that is not known here.
    """
    return _Writer(model).write(metadata)


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor of the graph. Its layout is (batch, channels, height, width) if it has a grid, else (batch, channels).

    Attributes:
        name: in the graph.
        grid: (height, width), or () after the pooling.
        heads: into which Keras has split the channels.
        by_slot: of attention, whose layout is (batch, heads, slots, tokens).
    """

    name: str
    grid: tuple[int, ...] = ()
    heads: int = 1
    by_slot: bool = False


class _Writer:
    """Collects nodes and constants; `_write_<type>` translates the Keras operations of that type."""

    def __init__(self, model):
        from onnx import helper, numpy_helper

        self.model, self.helper, self.to_tensor, self.opset = model, helper, numpy_helper.from_array, OPSET
        self.nodes: list = []
        self.constants: dict = {}
        self.values: dict[int, _Value] = {}  # by the identity of Keras' tensor
        self.outputs: list[tuple[str, tuple[int, ...]]] = []  # name and shape without the batch

    def write(self, metadata):
        for operation in self.model.operations:
            write = getattr(self, f"_write_{type(operation).__name__.lower()}", None)
            if write is None:
                reason = "the ONNX export does not know this kind of layer"
                raise UserError(f"layer {operation.name} ({type(operation).__name__}): {reason}")
            self.values[id(operation.output)] = write(operation)
        self.nodes[-1].output[0] = self.nodes[-1].name = PROBABILITIES
        outputs = [
            (PROBABILITIES, tuple(self.model.outputs[0].shape[1:])),
            *sorted(self.outputs, key=lambda output: output[0] != FEATURES),
        ]
        graph = self.helper.make_graph(
            self.nodes,
            self.model.name,
            [self._describe(INPUT, self.model.inputs[0].shape[1:])],
            [self._describe(*output) for output in outputs],
            list(self.constants.values()),
        )
        opset = [self.helper.make_opsetid("", self.opset)]
        model = self.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="eanet")
        self.helper.set_model_props(model, metadata)
        return model

    def _describe(self, name, shape):
        return self.helper.make_tensor_value_info(name, 1, ["batch", *shape])  # 1: float32

    # Parts ------------------------------------------------------------------------------------------------------------

    def _constant(self, name: str, array) -> str:
        self.constants.setdefault(name, self.to_tensor(np.ascontiguousarray(array), name))
        return name

    def _weight(self, name: str, array) -> str:
        return self._constant(name, np.asarray(array, np.float32))

    def _node(self, kind: str, inputs, name: str, **attributes) -> str:
        self.nodes.append(self.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _reshape(self, name: str, shape, result: str) -> str:
        shape = self._constant("shape_" + "_".join(map(str, shape)), np.array(shape, np.int64))
        return self._node("Reshape", [name, shape], result)

    def _inputs(self, operation) -> list[_Value]:
        tensors = operation.input if isinstance(operation.input, list) else [operation.input]
        return [self.values[id(tensor)] for tensor in tensors]

    def _input(self, operation) -> _Value:
        """Return the operation's first input, (batch, channels, height, width) or (batch, channels)."""
        value = self._inputs(operation)[0]
        if not value.by_slot:
            return value
        name = f"{operation.name}/grid"
        return dataclasses.replace(value, name=self._reshape(value.name, (0, -1, *value.grid), name), by_slot=False)

    def _elementwise(self, kind: str, operation) -> _Value:
        first, *others = self._inputs(operation)
        name = self._node(kind, [first.name, *(other.name for other in others)], operation.name)
        grid = max([first.grid, *(other.grid for other in others)])  # of broadcast ones, the larger
        return dataclasses.replace(first, name=name, grid=grid)

    def _activate(self, value: _Value, function, name: str) -> _Value:
        """Apply a Keras activation function."""
        kind = getattr(function, "__name__", str(function))
        if kind == "linear":
            return value
        if kind in SIMPLE:
            result = self._node(SIMPLE[kind], [value.name], name)
        elif kind in ("silu", "swish"):
            result = self._node("Mul", [value.name, self._node("Sigmoid", [value.name], f"{name}/sigmoid")], name)
        elif kind == "hard_sigmoid":
            result = self._node("HardSigmoid", [value.name], name, alpha=1 / 6, beta=0.5)
        elif kind == "gelu":
            return self._gelu(value, name, approximate=False)
        elif kind == "softmax":
            result = self._node("Softmax", [value.name], name, axis=1)
        else:
            raise UserError(f"{name}: the ONNX export does not know the activation {kind}")
        return dataclasses.replace(value, name=result)

    def _gelu(self, value: _Value, name: str, approximate: bool) -> _Value:
        self.opset = OPSET_WITH_GELU
        result = self._node("Gelu", [value.name], name, approximate="tanh" if approximate else "none")
        return dataclasses.replace(value, name=result)

    def _convolve(self, layer, kernel, bias, *, strides=(1, 1), padding="valid", groups=1) -> _Value:
        """Add a convolution with a kernel (out, in / groups, height, width), and the layer's activation."""
        value, size, pads = self._input(layer), kernel.shape[2:], []
        for length, stride, side in zip(value.grid, strides, size, strict=True):
            total = max((-(-length // stride) - 1) * stride + side - length, 0) if padding == "same" else 0
            pads.append((total // 2, total - total // 2))  # as in TensorFlow, the odd one at the end
        grid = tuple(
            (length + sum(pad) - side) // stride + 1
            for length, pad, side, stride in zip(value.grid, pads, size, strides, strict=True)
        )
        inputs = [value.name, self._weight(f"{layer.name}/kernel", kernel)]
        inputs += [] if bias is None else [self._weight(f"{layer.name}/bias", bias)]
        both = [pad[0] for pad in pads] + [pad[1] for pad in pads]
        name = self._node("Conv", inputs, layer.name, kernel_shape=size, strides=strides, pads=both, group=groups)
        return self._activate(_Value(name, grid, groups), getattr(layer, "activation", "linear"), f"{layer.name}/activation")

    # Layers and operations of Keras -----------------------------------------------------------------------------------

    def _write_inputlayer(self, layer) -> _Value:
        name = self._node("Transpose", [INPUT], "channels_first", perm=[0, 3, 1, 2])
        return _Value(name, tuple(layer.output.shape[1:3]))

    def _write_rescaling(self, layer) -> _Value:
        value = self._input(layer)
        scale, offset = (np.reshape(array, (1, -1, 1, 1)) for array in (layer.scale, layer.offset))
        name = self._node("Mul", [value.name, self._weight(f"{layer.name}/scale", scale)], f"{layer.name}/scaled")
        name = self._node("Add", [name, self._weight(f"{layer.name}/offset", offset)], layer.name)
        return dataclasses.replace(value, name=name)

    def _write_conv2d(self, layer) -> _Value:
        kernel, *bias = layer.get_weights()
        options = dict(strides=layer.strides, padding=layer.padding, groups=layer.groups)
        return dataclasses.replace(
            self._convolve(layer, kernel.transpose(3, 2, 0, 1), *(bias or [None]), **options), heads=1
        )

    def _write_depthwiseconv2d(self, layer) -> _Value:
        kernel, *bias = layer.get_weights()
        kernel = kernel.transpose(2, 3, 0, 1)
        options = dict(strides=layer.strides, padding=layer.padding, groups=len(kernel))
        return dataclasses.replace(self._convolve(layer, kernel, *(bias or [None]), **options), heads=1)

    def _write_dense(self, layer) -> _Value:
        kernel, *bias = layer.get_weights()
        value = self._inputs(layer)[0]
        if value.grid:  # every head has the same weights, its own group
            kernel = np.tile(kernel.T, (value.heads, 1))[:, :, None, None]
            return self._convolve(layer, kernel, np.tile(bias[0], value.heads) if bias else None, groups=value.heads)
        inputs = [value.name, self._weight(f"{layer.name}/kernel", kernel)]
        inputs += [self._weight(f"{layer.name}/bias", array) for array in bias]
        return self._activate(
            _Value(self._node("Gemm", inputs, f"{layer.name}")), layer.activation, f"{layer.name}/activation"
        )

    def _write_einsumdense(self, layer) -> _Value:
        """The projection of bare patches, as a convolution; its bias may differ between tokens."""
        kernel, bias = layer.get_weights()
        side = math.isqrt(len(kernel) // 3)
        kernel = kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
        value = self._convolve(layer, kernel, bias if bias.ndim == 1 else None, strides=(side, side))
        if bias.ndim == 1:
            return value
        position = self._weight("position", bias.T.reshape(1, -1, *value.grid))
        return dataclasses.replace(value, name=self._node("Add", [value.name, position], f"{layer.name}/position"))

    def _write_batchnormalization(self, layer) -> _Value:
        value, weights = self._input(layer), list(layer.get_weights())
        mean, variance = weights[-2:]
        gamma = weights[0] if layer.scale else np.ones_like(mean)
        beta = weights[-3] if layer.center else np.zeros_like(mean)
        arrays = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
        inputs = [value.name, *(self._weight(f"{layer.name}/{name}", array) for name, array in arrays.items())]
        return dataclasses.replace(
            value, name=self._node("BatchNormalization", inputs, layer.name, epsilon=float(layer.epsilon))
        )

    def _write_layernormalization(self, layer) -> _Value:
        """ONNX normalises the last axis, so the channels move there and back."""
        value = self._input(layer)
        name = self._node("Transpose", [value.name], f"{layer.name}/channels_last", perm=[0, 2, 3, 1])
        inputs = [name, *(self._weight(f"{layer.name}/{i}", array) for i, array in enumerate(layer.get_weights()))]
        name = self._node("LayerNormalization", inputs, f"{layer.name}/normalized", axis=-1, epsilon=float(layer.epsilon))
        return dataclasses.replace(value, name=self._node("Transpose", [name], layer.name, perm=[0, 3, 1, 2]))

    def _write_reshape(self, layer) -> _Value:
        """Split or merge an axis of Keras' tensor: the tokens of a grid, or the heads. Here nothing moves."""
        value, shape = self._inputs(layer)[0], layer.output.shape
        if value.by_slot:
            value = self._input(layer)
        split = len(shape) == 4 and tuple(shape[1:3]) != value.grid and not layer.name.startswith("patch")
        return dataclasses.replace(value, heads=shape[2] if split else 1)

    def _write_permute(self, layer) -> _Value:
        return self._input(layer)  # of the patches, which become a strided convolution

    def _write_dropout(self, layer) -> _Value:
        return self._inputs(layer)[0]

    def _write_activation(self, layer) -> _Value:
        return self._activate(self._input(layer), layer.activation, layer.name)

    def _write_gelu(self, operation) -> _Value:
        return self._gelu(self._input(operation), operation.name, operation.approximate)

    def _write_add(self, layer) -> _Value:
        return self._elementwise("Add", layer)

    def _write_multiply(self, layer) -> _Value:
        return self._elementwise("Mul", layer)

    def _write_logsumexp(self, operation) -> _Value:
        return self._input(operation)  # with the subtraction that follows it is a log-softmax

    def _write_subtract(self, layer) -> _Value:
        value, (_, tokens, heads, slots) = self._input(layer), layer.output.shape
        logits = self._reshape(value.name, (0, heads, slots, tokens), f"{layer.name}/logits")
        name = self._node("LogSoftmax", [logits], layer.name, axis=-1)
        return _Value(name, value.grid, heads, by_slot=True)

    def _write_softmax(self, layer) -> _Value:
        """Softmax over the slots, written out: as one node it would be transposed there and back."""
        value, (_, tokens, heads, slots) = self._inputs(layer)[0], layer.output.shape
        axis = self._constant("slot_axis", np.array([2]))
        largest = self._node("ReduceMax", [value.name, axis], f"{layer.name}/largest")
        shifted = self._node("Sub", [value.name, largest], f"{layer.name}/shifted")
        terms = self._node("Exp", [shifted], f"{layer.name}/terms")
        total = self._node("ReduceSum", [terms, axis], f"{layer.name}/total")
        name = ATTENTION.format(sum(1 for output, _ in self.outputs if output != FEATURES))
        self.outputs.append((name, (heads, slots, tokens)))
        return dataclasses.replace(value, name=self._node("Div", [terms, total], name))

    def _write_globalaveragepooling2d(self, layer) -> _Value:
        value = self._input(layer)
        name = self._node("GlobalAveragePool", [value.name], f"{layer.name}/mean")
        if layer.keepdims:
            return _Value(name, (1, 1))
        self.outputs.append((FEATURES, (layer.output.shape[-1],)))
        return _Value(self._node("Flatten", [name], FEATURES))
