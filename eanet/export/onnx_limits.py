"""Untrusted ONNX files: only operators that an export of an image classifier has, in bounded memory and time."""

from __future__ import annotations

import contextlib
import functools
import mmap
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

from eanet.cli import UserError, first_line, printable

# Of `eanet.export`, of tf2onnx, and of onnxruntime's quantization and optimization. No control flow, and none whose result
# has a size of its own choice.
OPERATORS = frozenset(
    """
    Abs Add And AveragePool BatchNormalization BiasGelu Cast Ceil Clip Concat Constant Conv ConvInteger DepthToSpace
    DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp FastGelu Flatten Floor FusedConv FusedGemm
    FusedMatMul Gather Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual GroupNormalization HardSigmoid
    HardSwish Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul
    MatMulInteger Max MaxPool Mean Min Mish Mul Neg Not Or PRelu Pad Pow QGemm QLinearAdd QLinearConcat QLinearConv
    QLinearGlobalAveragePool QLinearMatMul QLinearMul QLinearSigmoid QLinearSoftmax QuantizeLinear QuickGelu Reciprocal
    ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round Selu
    Shape Sigmoid Sign SkipLayerNormalization Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Transpose
    Unsqueeze Where Xor
    """.split()
)
# With these constants can be computed while a file is loaded: the results are no larger. That memory has no other bound.
FOLDED = frozenset(
    "Cast Constant DequantizeLinear Flatten Identity QuantizeLinear Reshape Squeeze Transpose Unsqueeze".split()
)
DOMAINS = ("", "ai.onnx", "com.microsoft", "com.microsoft.nchwc")
MAX_FIELDS = 500_000  # of the file; an export has about 10,000
MAX_MEMORY = 4 * 10**8  # bytes of all tensors of all sessions; a product of matrices that fit takes seconds
MAX_SECONDS = 4  # to prepare a graph, and for each image of the first batch
MAX_WINDOW = 64  # side of a convolution's kernel or a pooling's window
OUT_OF_MEMORY, STOPPED = "Available memory of", ("terminate flag", "MODEL_LOAD_CANCELED")  # in what onnxruntime says
# Numbers of fields in onnx.proto.
_GRAPH, _TRAINING, _FUNCTIONS = 7, 20, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_NAME, _TENSOR, _SUBGRAPH, _INTS, _TENSORS, _SUBGRAPHS, _SPARSE_TENSORS = 1, 5, 6, 8, 10, 11, (22, 23)
_EXTERNAL, _LOCATION = 13, 14
_WINDOWS = ("kernel_shape", "pads", "dilations", "strides")


def check_graph(path, image: str) -> tuple[list[str], int]:
    """Read an ONNX file without preparing or running it, and refuse what no export has.

    Args:
        path: the file.
        image: name of the graph's input.

    Returns:
        Optimizations that onnxruntime must not try on it, and the CRC-32 of its graph.

    Raises:
        UserError: it is no ONNX file, or has control flow, an operator that no export has, or weights in another file.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                reader = _Reader(data)
                problem = reader.model(range(len(data)))
        except (IndexError, ValueError, AttributeError):  # the last one for a number where a message should be
            problem = "not a readable ONNX model (empty or damaged)"
    if problem:
        raise UserError(f"{path}: {problem}")
    return [] if reader.computes_constants(image) <= FOLDED else ["ConstantFolding"], reader.crc32


class _Reader:
    """Walks through a file in Protocol Buffers' format. Messages are ranges of it; problems are words, or "" for none."""

    def __init__(self, data):
        self.data, self.count, self.crc32 = data, 0, 0
        self.nodes: list[tuple[str, list[str], list[str]]] = []  # operator, inputs, outputs

    def computes_constants(self, image: str) -> set[str]:
        """Return the operators of the nodes that do not depend on the image, or only on its shape."""
        users: dict[str, list[int]] = {}
        for i, (_, inputs, _) in enumerate(self.nodes):
            for name in inputs:
                users.setdefault(name, []).append(i)
        reached, names = set(), [image]
        while names:
            for i in users.pop(names.pop(), ()):
                if i not in reached and self.nodes[i][0] != "Shape":
                    reached.add(i)
                    names += self.nodes[i][2]
        return {operator for i, (operator, *_) in enumerate(self.nodes) if i not in reached} - {"Shape"}

    def model(self, message: range) -> str:
        graphs = []
        for number, value in self._fields(message):
            if number in (_TRAINING, _FUNCTIONS):
                return _foreign("functions of its own")
            if number == _GRAPH:
                graphs.append(value)
                self.crc32 = zlib.crc32(self.data[value.start : value.stop], self.crc32)
        return next(filter(None, map(self._graph, graphs)), "") if graphs else "not a readable ONNX model (it has no graph)"

    def _graph(self, message) -> str:
        for number, value in self._fields(message):
            problem = ""
            if number == _NODE:
                problem = self._node(value)
            elif number == _INITIALIZER:
                problem = self._tensor(value)
            elif number == _SPARSE:
                problem = "a sparse tensor"
            if problem:
                return _foreign(problem)
        return ""

    def _node(self, message) -> str:
        operator, sizes, problem = "", {}, ""
        ends: tuple[list[str], list[str]] = ([], [])
        for number, value in self._fields(message):
            if number in (_INPUT, _OUTPUT):
                ends[number == _OUTPUT].append(self._text(value))
            elif number == _OPERATOR:
                operator = self._text(value)
                problem = problem if operator in OPERATORS else f"the operator {operator}"
            elif number == _DOMAIN:
                problem = problem if self._text(value) in DOMAINS else f"operators of {self._text(value)}"
            elif number == _ATTRIBUTE:
                name, numbers, what = self._attribute(value)
                problem, sizes[name] = problem or what, max(numbers, default=0)
        self.nodes.append((operator, *ends))
        if not problem and "Conv" in operator and "kernel_shape" not in sizes:
            problem = f"{operator} without a kernel_shape"
        large = [name for name in _WINDOWS if sizes.get(name, 0) > MAX_WINDOW]
        return problem or (f"{large[0]} {sizes[large[0]]}" if large else "")

    def _attribute(self, message) -> tuple[str, list[int], str]:
        """Return name, integers and problem of an attribute."""
        name, numbers, problem = "", [], ""
        for number, value in self._fields(message):
            if number == _NAME:
                name = self._text(value)
            elif number in (_SUBGRAPH, _SUBGRAPHS):
                problem = "control flow"
            elif number in _SPARSE_TENSORS:
                problem = "a sparse tensor"
            elif number in (_TENSOR, _TENSORS):
                problem = problem or self._tensor(value)
            elif number == _INTS:
                numbers += [value] if isinstance(value, int) else self._integers(value)
        return name, numbers, problem

    def _tensor(self, message) -> str:
        external = any(number == _EXTERNAL or number == _LOCATION and value for number, value in self._fields(message))
        return "weights in another file" if external else ""

    def _fields(self, message) -> Iterator[tuple[int, Any]]:
        """Yield number and value of a message's fields, a range for a part. Raises ValueError or IndexError if damaged."""
        at, end = message.start, message.stop
        while at < end:
            self.count += 1
            if self.count > MAX_FIELDS:
                raise ValueError
            key, at = self._integer(at)
            kind = key & 7
            if kind == 0:
                value, at = self._integer(at)
                yield key >> 3, value
                continue
            size, at = self._integer(at) if kind == 2 else ({1: 8, 5: 4}.get(kind, end), at)
            if at + size > end:
                raise ValueError
            yield key >> 3, range(at, at + size)
            at += size

    def _integer(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while shift < 64:
            byte = self.data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value, at
        raise ValueError

    def _integers(self, part: range) -> list[int]:
        values: list[int] = []
        at = part.start
        while at < part.stop and len(values) < 64:
            value, at = self._integer(at)
            values.append(value)
        return values

    def _text(self, part: range) -> str:
        return printable(self.data[part.start : part.stop][:200].decode("utf-8", "replace"))


def _foreign(what: str) -> str:
    return f"its graph has {what}, as no export of an EANet has; `python -m eanet.export` writes one"


# Memory and time ------------------------------------------------------------------------------------------------------


@functools.cache
def bound_memory() -> bool:
    """Let all sessions that ask for it share `MAX_MEMORY`; return whether onnxruntime can do that."""
    import onnxruntime

    try:
        kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
        place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
        settings = {"max_mem": MAX_MEMORY, "arena_extend_strategy": 1}  # 1: as much as is asked for
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(settings))
    except Exception:  # an old version, or somebody else has registered one
        return False
    return True


@contextlib.contextmanager
def time_limit(seconds: float, stop) -> Iterator[None]:
    """Call `stop` if the block takes longer than `seconds`; a process that hardly gets a core has more."""
    done, used = threading.Event(), time.process_time()

    def watch():
        while not done.wait(seconds):
            if time.process_time() - used >= seconds / 2:
                return stop()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def explain(error: Exception) -> str:
    """Return what an error of onnxruntime means, in a few words."""
    if OUT_OF_MEMORY in str(error):
        return f"one image takes more than {MAX_MEMORY // 10**6} MB"
    if any(words in str(error) for words in STOPPED):
        return f"it takes more than {MAX_SECONDS} s to load, or for an image"
    return first_line(error)
