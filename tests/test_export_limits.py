"""Exports from strangers: what is no classifier is refused, and what takes long or much memory is stopped."""

import time

import numpy as np
import pytest
from conftest import ROOT, without_crc32

from eanet.cli import UserError
from eanet.export import LitertModel, OnnxModel, litert, onnx_limits
from eanet.export.onnx_limits import check_graph

onnx = pytest.importorskip("onnx")
FLOAT, IMAGE = np.float32, np.zeros((1, 32, 32, 3), np.float32)


@pytest.fixture
def add_nodes(tmp_path):
    """Return a function that adds nodes and constants to the shipped ONNX file; it gives the path of the result.

    The nodes compute `z`, which is added to the probabilities.
    """

    def add(nodes, constants):
        model = without_crc32(onnx.load(ROOT / "onnx" / "model.onnx"))
        graph = model.graph
        for node in graph.node:
            node.output[0] = "p" if node.output[0] == "probabilities" else node.output[0]
        graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
        graph.node.extend(onnx.helper.make_node(kind, *ends, **attributes) for kind, *ends, attributes in nodes)
        graph.node.append(onnx.helper.make_node("Add", ["p", "z"], ["probabilities"]))
        onnx.save(model, tmp_path / "m.onnx")
        return tmp_path / "m.onnx"

    return add


def body(kind):
    """Return the graph of a loop or branch that doubles a value, or passes it on."""
    helper = onnx.helper
    value = [helper.make_tensor_value_info(name, 1, None) for name in ("v", "w")]
    nodes = [helper.make_node("Concat", ["v", "v"], ["w"], axis=0)]
    if kind != "Loop":
        return helper.make_graph(nodes, "body", [], value[1:])
    state = [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("c", 9, [])]
    passed = helper.make_node("Identity", ["c"], ["d"])
    return helper.make_graph(
        [passed, *nodes], "b", [*state, value[0]], [helper.make_tensor_value_info("d", 9, []), value[1]]
    )


SUM = ("ReduceSum", ["y"], ["z"], dict(keepdims=0))
ZEROS = np.zeros((50_000, 1), FLOAT)


@pytest.mark.parametrize(
    ("nodes", "constants", "words"),
    [
        ([("ConstantOfShape", ["s"], ["y"], {}), SUM], {"s": [10**5, 10**5]}, "the operator ConstantOfShape"),
        ([("Expand", ["v", "s"], ["y"], {}), SUM], {"v": FLOAT([0]), "s": [10**5, 10**5]}, "the operator Expand"),
        ([("Tile", ["v", "s"], ["y"], {}), SUM], {"v": FLOAT([0]), "s": [10**10]}, "the operator Tile"),
        ([("Range", ["a", "b", "c"], ["y"], {}), SUM], {"a": 0, "b": 10**10, "c": 1}, "the operator Range"),
        ([("RandomNormal", [], ["y"], dict(shape=[10**5, 10**5])), SUM], {}, "the operator RandomNormal"),
        ([("Mystery", ["p"], ["z"], {})], {}, "the operator Mystery"),
        ([("Relu", ["p"], ["z"], dict(domain="evil"))], {}, "operators of evil"),
        ([("If", ["c"], ["z"], dict(then_branch="", else_branch=""))], {"c": True}, "the operator If"),
        ([("Loop", ["n", "c", "v"], ["z"], dict(body=""))], {"n": 40, "c": True, "v": FLOAT([0])}, "the operator Loop"),
        ([("Conv", ["x", "k"], ["y"], {}), SUM], {"x": np.zeros((1, 1, 9, 9), FLOAT), "k": np.ones((1, 1, 3, 3), FLOAT)},
         "Conv without a kernel_shape"),
        ([("MaxPool", ["x"], ["y"], dict(kernel_shape=[2, 2], pads=[10**5] * 4)), SUM],
         {"x": np.zeros((1, 1, 9, 9), FLOAT)}, "pads 100000"),
        ([("Mul", ["v", "w"], ["y"], {}), SUM], {"v": ZEROS, "w": ZEROS.T}, "one image takes more than 400 MB"),
        ([("MatMul", ["v", "w"], ["y"], {}), SUM], {"v": ZEROS, "w": ZEROS.T}, "one image takes more than 400 MB"),
        ([("Pad", ["v", "s"], ["y"], {}), SUM], {"v": ZEROS, "s": [50_000] * 4}, "one image takes more than 400 MB"),
        ([("Gather", ["v", "i"], ["y"], {}), SUM], {"v": ZEROS.T, "i": np.zeros(10**5, int)}, "more than 400 MB"),
        ([("Concat", ["v", "v"], ["y0"], dict(axis=0)),
          *(("Concat", [f"y{i}"] * 8, [f"y{i + 1}"], dict(axis=0)) for i in range(8)),
          ("ReduceSum", ["y8"], ["z"], dict(keepdims=0))], {"v": ZEROS}, "one image takes more than 400 MB"),
    ],
    ids=lambda value: value[0][0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_graph_that_is_no_classifier_or_takes_gigabytes_is_one_line(nodes, constants, words, add_nodes):
    graphs = ("then_branch", "else_branch", "body")
    nodes = [(kind, i, o, {k: body(kind) if k in graphs else v for k, v in a.items()}) for kind, i, o, a in nodes]
    path = add_nodes(nodes, constants)
    with pytest.raises(UserError) as refused:
        OnnxModel(path).predict_on_batch(IMAGE)
    assert words in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_control_flow_under_another_name_and_weights_elsewhere_are_refused(add_nodes):
    path = add_nodes([("Relu", ["p"], ["z"], dict(body=body("If")))], {})
    with pytest.raises(UserError, match="its graph has control flow"):
        OnnxModel(path)
    model = onnx.load(ROOT / "onnx" / "model.onnx")
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../../victim")
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="weights in another file"):
        OnnxModel(path)


def test_a_graph_that_takes_too_long_is_stopped(add_nodes, monkeypatch):
    k = 1500
    nodes = [("ReduceSum", ["p"], ["q"], dict(keepdims=0)), ("Mul", ["q", "v"], ["u"], {}), ("Mul", ["u", "w"], ["y0"], {})]
    nodes += [("MatMul", [f"y{i}", "y0"], [f"y{i + 1}"], {}) for i in range(200)]
    path = add_nodes([*nodes, ("ReduceSum", ["y200"], ["z"], dict(keepdims=0))], {"v": ZEROS[:k], "w": ZEROS[:k].T})
    monkeypatch.setattr("eanet.export.onnx.MAX_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"m\.onnx: .* \(it takes more than 4 s to load, or for an image\)"):
        OnnxModel(path).predict_on_batch(IMAGE)


def test_a_batch_that_takes_too_much_memory_is_divided(add_nodes):
    rows = ("Mul", ["s", "v"], ["y"], {})  # 40 MB an image
    nodes = [("ReduceSum", ["p", "axis"], ["s"], {}), rows, ("ReduceSum", ["y", "axis"], ["z"], {})]
    model = OnnxModel(add_nodes(nodes, {"axis": [1], "v": np.zeros((1, 10**7), FLOAT)}))
    found = model.predict_on_batch(np.zeros((32, 32, 32, 3)))
    assert found.shape == (32, 100) and np.allclose(found.sum(1), 1, atol=1e-5)


def test_an_image_waits_for_the_memory_of_other_threads(monkeypatch):
    model, answers = OnnxModel(ROOT / "onnx" / "model.onnx"), [RuntimeError(onnx_limits.OUT_OF_MEMORY)] * 2 + [["found"]]

    class Session:
        def run(self, *_):
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(model, "session", Session())
    monkeypatch.setattr(model, "_tried", True)
    assert model.predict_on_batch(IMAGE) == "found"
    answers += [RuntimeError(onnx_limits.OUT_OF_MEMORY)] * 4
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(UserError, match="one image takes more than 400 MB"):
        model.predict_on_batch(IMAGE)


def test_constants_are_computed_while_loading_only_where_they_do_not_grow(add_nodes):
    for name in ("model.onnx", "model_fp16.onnx"):
        assert check_graph(ROOT / "onnx" / name, "image")[0] == []
    grows = add_nodes([("Concat", ["v", "v"], ["y"], dict(axis=0)), SUM], {"v": FLOAT([0])})
    assert check_graph(grows, "image")[0] == ["ConstantFolding"]
    assert np.allclose(OnnxModel(grows).predict_on_batch(IMAGE).sum(), 1, atol=1e-5)


@pytest.mark.parametrize(
    "content", [b"\x38\x01", b"\x3a\x02\x08\x01", b"\x3a\x00", b"\x3b", b"\x80" * 20, b"\x3a\xff\xff\xff\x7f"]
)
def test_a_file_that_is_damaged_is_no_model(content, tmp_path):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx: not a readable ONNX model"):
        OnnxModel(tmp_path / "m.onnx")


def test_a_file_with_millions_of_parts_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_limits, "MAX_FIELDS", 50)
    with pytest.raises(UserError, match="not a readable ONNX model"):
        check_graph(ROOT / "onnx" / "model.onnx", "image")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("OPERATORS", frozenset({"ADD"}), "the operator CONV_2D"), ("MAX_MEMORY", 10**5, "GB"), ("MAX_MACS", 10**6, "billion")],
)
def test_a_litert_file_with_other_operators_or_too_much_work_is_refused(name, value, words, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(litert, name, value)
    with pytest.raises(UserError, match=rf"eanet\.tflite: .*{words}.* as (with )?no export of an EANet"):
        LitertModel(ROOT / "litert" / "eanet.tflite")


def test_a_litert_file_is_measured_by_the_tensors_it_holds_at_a_time(monkeypatch):
    """Its runtime keeps no others; together they are several times as large, for a large image beyond any limit."""
    pytest.importorskip("ai_edge_litert")
    interpreter = LitertModel(ROOT / "litert" / "eanet.tflite")._interpreter
    tensors = interpreter.get_tensor_details()
    total = sum(int(np.prod(tensor["shape"])) * np.dtype(tensor["dtype"]).itemsize for tensor in tensors)
    weights = (ROOT / "litert" / "eanet.tflite").stat().st_size
    monkeypatch.setattr(litert, "MAX_MEMORY", weights + (total - weights) // 4)
    LitertModel(ROOT / "litert" / "eanet.tflite")
