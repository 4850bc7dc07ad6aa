"""Fuzz ONNX files whose graph is ours and something else: control flow, and operators that take memory or time."""

import numpy as np

SIZES = (1, 3, 40, 1000, 10**5, 10**7, 10**9)  # of dimensions, where the file stays small


def hostile_graph(rng, model):
    """Add one to four nodes to an ONNX model; they compute a number, mostly 0, that is added to the probabilities."""
    from onnx import helper, numpy_helper

    graph, value = model.graph, "evil_0"
    for node in graph.node:
        node.output[0] = "evil_p" if node.output[0] == "probabilities" else node.output[0]
    first = ("Slice" if rng.random() < 0.5 else "", np.zeros((SIZES[rng.integers(5)], 1), np.float32))
    if first[0]:  # depends on the image
        graph.node.append(helper.make_node("ReduceMin", ["evil_p"], ["evil_q"], keepdims=0))
        graph.node.append(helper.make_node("Mul", ["evil_q", "evil_a"], [value]))
        graph.initializer.append(numpy_helper.from_array(first[1], "evil_a"))
    else:
        graph.initializer.append(numpy_helper.from_array(first[1], value))
    for i in range(int(rng.integers(1, 5))):
        result = f"evil_{i + 1}"
        nodes, constants = STEPS[rng.integers(len(STEPS))](rng, value, result, f"evil_{i}_")
        graph.node.extend(nodes)
        graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
        value = result
    graph.node.append(helper.make_node("ReduceSum", [value], ["evil_sum"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["evil_sum", "evil_zero"], ["evil_add"]))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "evil_zero"))
    graph.node.append(helper.make_node("Add", ["evil_p", "evil_add"], ["probabilities"]))


def _node(kind, inputs, output, **attributes):
    from onnx import helper

    return helper.make_node(kind, inputs, [output], **attributes)


def _size(rng):
    return SIZES[rng.integers(len(SIZES))]


def _with_constant(kind, make, **attributes):
    """Return a step with one operator and a second input that is made from the generator."""

    def step(rng, value, result, prefix):
        return [_node(kind, [value, f"{prefix}c"], result, **attributes)], {f"{prefix}c": make(rng)}

    return step


def _without_input(kind, make):
    def step(rng, value, result, prefix):
        return [_node(kind, [f"{prefix}c"], result)], {f"{prefix}c": make(rng)}

    return step


def _repeated(rng, value, result, prefix):
    count = int(rng.integers(1, 12))
    names = [value, *(f"{prefix}{i}" for i in range(count - 1)), result]
    return [_node("Concat", [a] * 8, b, axis=0) for a, b in zip(names[:-1], names[1:], strict=True)], {}


def _square(rng, value, result, prefix):
    """The product of a column and a row, then powers of that."""
    count, names = int(rng.integers(1, 30)), [f"{prefix}square"]
    nodes = [_node("Transpose", [value], f"{prefix}t"), _node("MatMul", [value, f"{prefix}t"], names[0])]
    for i in range(count):
        names.append(f"{prefix}{i}")
        nodes.append(_node("MatMul", [names[-2], names[0]], names[-1]))
    return [*nodes, _node("Identity", [names[-1]], result)], {}


def _convolved(rng, value, result, prefix):
    side = int(rng.choice([3, 300, 3000]))
    nodes = [_node("Reshape", [value, f"{prefix}s"], f"{prefix}x"), _node("Conv", [f"{prefix}x", f"{prefix}k"], f"{prefix}y",
             **({"kernel_shape": [side, side]} if rng.random() < 0.7 else {}), pads=[int(_size(rng))] * 4),
             _node("Reshape", [f"{prefix}y", f"{prefix}r"], result)]  # fmt: skip
    return nodes, {
        f"{prefix}s": [1, 1, -1, 1],
        f"{prefix}k": np.zeros((1, 1, side, side), np.float32),
        f"{prefix}r": [-1, 1],
    }


def _flow(rng, value, result, prefix):
    """A loop that doubles a value, a branch, or such a graph in an attribute where none belongs."""
    from onnx import helper

    info = helper.make_tensor_value_info
    body = [_node("Concat", [f"{prefix}v"] * 2, f"{prefix}w", axis=0)]
    outputs = [info(f"{prefix}w", 1, None)]
    kind = ("Loop", "If", "Relu")[rng.integers(3)]
    if kind != "Loop":
        body[0].input[:] = [value, value]
        branch = helper.make_graph(body, "b", [], outputs)
        names = {"then_branch": branch, "else_branch": branch} if kind == "If" else {"body": branch}
        return [_node(kind, [f"{prefix}c"] if kind == "If" else [value], result, **names)], {f"{prefix}c": np.bool_(True)}
    state = [info(f"{prefix}i", 7, []), info(f"{prefix}d", 9, []), info(f"{prefix}v", 1, None)]
    kept = _node("Identity", [f"{prefix}d"], f"{prefix}e")
    loop = helper.make_graph([kept, *body], "b", state, [info(f"{prefix}e", 9, []), *outputs])
    inputs = [f"{prefix}n", f"{prefix}c", value]
    return [_node(kind, inputs, result, body=loop)], {f"{prefix}n": np.int64(_size(rng)), f"{prefix}c": np.bool_(True)}


STEPS = [
    _repeated, _square, _convolved, _flow, _flow,
    _with_constant("Expand", lambda rng: [_size(rng), _size(rng)]),
    _with_constant("Tile", lambda rng: [_size(rng), _size(rng)]),
    _with_constant("Mul", lambda rng: np.zeros((1, SIZES[rng.integers(5)]), np.float32)),
    _with_constant("Pad", lambda rng: [_size(rng) for _ in range(4)]),
    _with_constant("Gather", lambda rng: np.zeros(SIZES[rng.integers(5)], np.int64)),
    _with_constant("Reshape", lambda rng: [_size(rng), -1]),
    _without_input("ConstantOfShape", lambda rng: [_size(rng), _size(rng)]),
    _without_input("EyeLike", lambda rng: np.zeros((1, SIZES[rng.integers(5)]), np.float32)),
]  # fmt: skip
