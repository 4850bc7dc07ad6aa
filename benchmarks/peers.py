"""Well-known networks for CIFAR as ONNX graphs, to time: their weights are random, their accuracy is the published one."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network, the published top-1 accuracy on CIFAR-100 (official test split, no extra data), and where from."""

    name: str
    top1_accuracy: float
    source: str
    build: object


class Net:
    """An ONNX graph that is put together layer by layer; batch norms after convolutions are folded into them."""

    def __init__(self):
        from onnx import helper, numpy_helper

        self.helper, self.to_tensor = helper, numpy_helper.from_array
        self.nodes, self.constants, self.rng, self.parameters = [], [], np.random.default_rng(0), 0
        x = self.node("Transpose", "image", perm=[0, 3, 1, 2])
        x = self.node("Mul", x, self.constant(np.full((1, 3, 1, 1), 1 / 255, np.float32)))
        self.input = self.node("Add", x, self.constant(np.full((1, 3, 1, 1), -0.5, np.float32)))
        self.parameters = 0

    def node(self, kind, *inputs, **attributes):
        self.nodes.append(self.helper.make_node(kind, list(inputs), [f"n{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def constant(self, array):
        self.constants.append(self.to_tensor(array, f"c{len(self.constants)}"))
        self.parameters += array.size if array.dtype == np.float32 else 0
        return self.constants[-1].name

    def weight(self, *shape, fan_in=1):
        return self.constant(self.rng.normal(0, fan_in**-0.5, shape).astype(np.float32))

    def conv(self, x, wide, out, size=3, stride=1, relu=False):
        weight = self.weight(out, wide, size, size, fan_in=wide * size**2)
        pad = size // 2
        x = self.node("Conv", x, weight, self.weight(out), kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)
        return self.node("Relu", x) if relu else x

    def norm(self, x, width):
        ones, zeros = (self.constant(np.full(width, value, np.float32)) for value in (1, 0))
        return self.node("Relu", self.node("BatchNormalization", x, ones, zeros, zeros, ones))

    def linear(self, x, wide, out):
        return self.node("Add", self.node("MatMul", x, self.weight(wide, out, fan_in=wide)), self.weight(out))

    def layer_norm(self, x, width):
        return self.node("LayerNormalization", x, self.weight(width), self.weight(width), axis=-1)

    def reshape(self, x, *shape):
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def finish(self, x, width, pool=True) -> bytes:
        x = self.node("Flatten", self.node("GlobalAveragePool", x)) if pool else x
        x = self.node("Softmax", self.linear(x, width, 100), axis=-1)
        self.nodes[-1].output[0] = "probabilities"
        ends = [self.helper.make_tensor_value_info(name, 1, ["batch", *shape])
                for name, shape in (("image", (32, 32, 3)), ("probabilities", (100,)))]  # fmt: skip
        graph = self.helper.make_graph(self.nodes, "peer", ends[:1], ends[1:], self.constants)
        opset = [self.helper.make_opsetid("", 20)]
        return self.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def resnet(blocks: int):
    """ResNet-(6 blocks + 2), with projection shortcuts."""
    net, width = Net(), 16
    x = net.conv(net.input, 3, 16, relu=True)
    for out in (16, 32, 64):
        for i in range(blocks):
            stride = 2 if i == 0 and out > 16 else 1
            y = net.conv(net.conv(x, width, out, stride=stride, relu=True), out, out)
            x = net.conv(x, width, out, size=1, stride=stride) if width != out else x
            x, width = net.node("Relu", net.node("Add", x, y)), out
    return net, net.finish(x, width)


def wide_resnet(blocks: int, widen: int):
    """WRN-(6 blocks + 4)-widen."""
    net, width = Net(), 16
    x = net.conv(net.input, 3, 16)
    for out in (16 * widen, 32 * widen, 64 * widen):
        for i in range(blocks):
            stride = 2 if i == 0 and out > 16 * widen else 1
            activated = net.norm(x, width)
            y = net.conv(net.conv(activated, width, out, stride=stride, relu=True), out, out)
            x = net.conv(activated, width, out, size=1, stride=stride) if width != out else x
            x, width = net.node("Add", x, y), out
    return net, net.finish(net.norm(x, width), width)


def densenet(depth: int, growth: int):
    """DenseNet-BC."""
    net, width = Net(), 2 * growth
    x = net.conv(net.input, 3, width)
    for stage in range(3):
        for _ in range((depth - 4) // 6):
            y = net.conv(net.norm(x, width), width, 4 * growth, size=1, relu=True)
            x, width = net.node("Concat", x, net.conv(y, 4 * growth, growth), axis=1), width + growth
        if stage < 2:
            x = net.conv(net.norm(x, width), width, width // 2, size=1)
            x, width = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), width // 2
    return net, net.finish(net.norm(x, width), width)


def cct(layers: int, dim: int = 256, heads: int = 4):
    """CCT-layers/3x1: one convolution as the tokenizer, transformer blocks, attention pooling."""
    net, tokens, part = Net(), 256, dim // heads
    x = net.node("MaxPool", net.conv(net.input, 3, dim, relu=True), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.node("Transpose", net.reshape(x, 0, dim, tokens), perm=[0, 2, 1])
    x = net.node("Add", x, net.weight(tokens, dim))
    for _ in range(layers):
        y = net.layer_norm(x, dim)
        query, key, value = (net.reshape(net.linear(y, dim, dim), 0, tokens, heads, part) for _ in range(3))
        query, value = (net.node("Transpose", each, perm=[0, 2, 1, 3]) for each in (query, value))
        logits = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 2, 3, 1]))
        attention = net.node("Softmax", net.node("Mul", logits, net.constant(np.float32([part**-0.5]))), axis=-1)
        y = net.node("Transpose", net.node("MatMul", attention, value), perm=[0, 2, 1, 3])
        x = net.layer_norm(net.node("Add", x, net.linear(net.reshape(y, 0, tokens, dim), dim, dim)), dim)
        y = net.linear(net.node("Gelu", net.linear(x, dim, 2 * dim)), 2 * dim, dim)
        x = net.node("Add", x, y)
    x = net.layer_norm(x, dim)
    share = net.node("Softmax", net.linear(x, dim, 1), axis=1)
    x = net.node("MatMul", net.node("Transpose", share, perm=[0, 2, 1]), x)
    return net, net.finish(net.reshape(x, 0, dim), dim, pool=False)


PEERS = (
    Peer("ResNet-20", 0.6883, "github.com/chenyaofo/pytorch-cifar-models", lambda: resnet(3)),
    Peer("ResNet-56", 0.7263, "github.com/chenyaofo/pytorch-cifar-models", lambda: resnet(9)),
    Peer("WRN-16-2", 0.7326, "github.com/HobbitLong/RepDistiller", lambda: wide_resnet(2, 2)),
    Peer("DenseNet-BC-40 (k=12)", 0.7159, "github.com/osmr/imgclsmob", lambda: densenet(40, 12)),
    Peer("CCT-7/3x1", 0.8287, "arXiv 2104.05704, 5,000 epochs", lambda: cct(7)),
)


class OnnxBytes:
    """Runs an ONNX graph in memory, as `eanet.export.OnnxModel` runs a file."""

    def __init__(self, content: bytes, threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict_on_batch(self, images):
        (probabilities,) = self.session.run(["probabilities"], {"image": np.asarray(images, np.float32)})
        return probabilities


def rows(seconds: dict, batches: dict, parameters: dict, calls: int, batch: int) -> list[dict]:
    """Return one row per peer.

    Args:
        seconds: name to the seconds of `calls` single images, one per round.
        batches: name to those of one batch of `batch` images.
        parameters: name to their number.
        calls: single images per round.
        batch: images per batch.
    """
    return [
        {
            "model": peer.name,
            "parameters": parameters[peer.name],
            "top1_accuracy": peer.top1_accuracy,
            "source": peer.source,
            "one_image_ms": 1000 * float(np.median(seconds[peer.name])) / calls,
            "images_per_second": batch / float(np.median(batches[peer.name])),
        }
        for peer in PEERS
    ]
