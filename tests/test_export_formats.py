"""Exports for phones and in 8 bits: LiteRT, quantized ONNX, and the command that writes all formats."""

import collections
import json
import math
import re
import sys
import zipfile

import keras
import numpy as np
import pytest
from conftest import ROOT, colour_images, only_line, random_images, random_weights, run_main, tiny_config

import export
import inference
from eanet.data.splits import Split
from eanet.export import LitertModel, OnnxModel, agreement, eight_bits, export_litert, find_litert, formats, litert, quantize
from eanet.export.onnx_graph import onnx_graph
from eanet.saving import model_checksum
from modeling_eanet import UserError, build_eanet


@pytest.fixture(scope="module")
def split():
    x, y = colour_images(64, seed=1)
    return Split(x, y, "test")


@pytest.fixture(scope="module")
def exported(colour_model, tmp_path_factory):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path_factory.mktemp("litert") / "m.tflite"
    export_litert(colour_model, path)
    return path


# LiteRT ---------------------------------------------------------------------------------------------------------------


def test_litert_predicts_what_keras_predicts_for_any_batch(colour_model, exported):
    found = LitertModel(exported, threads=1)
    for count in (1, 3, 1):
        images, _ = colour_images(count)
        np.testing.assert_allclose(found.predict_on_batch(images), colour_model.predict_on_batch(images), atol=1e-5)
    assert found.config == colour_model.config and found.checksum == model_checksum(colour_model)


def test_litert_has_builtin_operators_without_shape_arithmetic(exported):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=exported.read_bytes())
    interpreter.allocate_tensors()
    kinds = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert "CONV_2D" in kinds and not [kind for kind in kinds if kind.startswith("Flex")]
    assert not kinds & {"SHAPE", "PACK", "STRIDED_SLICE", "IS_FINITE", "SELECT_V2", "WHERE"}


def test_litert_lists_its_labels(exported):
    with zipfile.ZipFile(exported) as archive:
        assert archive.read("labels.txt") == b"red\ngreen\nblue\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        dict(shared_memory=True, head_dims=(2, 3), slots=(9, 9), norm="layer", activation="gelu_tanh"),
        dict(tokenizer="patch", patch_size=4, position_embedding=True, norm="layer", activation="gelu"),
        dict(inner_norm=True, redundant_bias=False),
        dict(patch_size=16),  # 2x2 tokens, then one
        dict(
            embed_dims=(8, 12, 16), depths=(1, 1, 1), num_heads=(1, 2, 4), slots=(4, 1, 3), head_dims=(2, 3, 4), patch_size=1
        ),
    ],
)
def test_every_architecture_has_a_litert_form(changes, tmp_path):
    export_litert(build_eanet(tiny_config(**changes)), tmp_path / "m.tflite")  # compares the probabilities


def test_inference_runs_an_export_by_its_name(exported, colour_folder, capsys):
    answers = []
    for options in (["--model", exported], ["--model", colour_folder]):
        assert run_main(inference, ROOT / "samples", "--format", "json", *options) == 0
        answers.append(json.loads(capsys.readouterr().out))
    for ours, theirs in zip(*answers, strict=True):
        scores = [{p["label"]: p["score"] for p in answer["predictions"]} for answer in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "another program's"])
def test_a_damaged_or_foreign_litert_file_is_one_line(damage, exported, tmp_path, capsys):
    content, path = exported.read_bytes(), tmp_path / "m.tflite"
    flipped = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    foreign = content[: content.index(b"PK\x03\x04")]
    path.write_bytes({"empty": b"", "text": b"no model", "cut": content[:9000], "flipped": flipped}.get(damage, foreign))
    assert run_main(inference, ROOT / "samples" / "apple.png", "--model", path) == 2
    line = only_line(capsys.readouterr().err)
    assert str(path) in line and ("changed after its export" if damage == "flipped" else "not a LiteRT file") in line


def test_a_missing_litert_file_says_how_to_make_one(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=f"`python -m eanet.export --format litert {tiny_folder}`"):
        find_litert(str(tiny_folder))
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(UserError, match="no.tflite: no such file"):
        LitertModel(tmp_path / "no.tflite")


@pytest.mark.parametrize("package", ["ai_edge_litert", "ai_edge_quantizer"])
def test_a_missing_package_is_named(package, colour_model, split, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("ai_edge_quantizer")
    for name in [name for name in sys.modules if name.startswith(package)] + [package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"{package}[\w.]* is not installed; `pip install ai-edge-litert"):
        litert.export_litert_int8(colour_model, tmp_path / "m.tflite", split.x[:2], split)
    assert not list(tmp_path.iterdir())


def test_litert_needs_the_tensorflow_backend(colour_model, tmp_path, monkeypatch):
    import keras

    pytest.importorskip("ai_edge_litert")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="backend jax: .* KERAS_BACKEND=tensorflow"):
        export_litert(colour_model, tmp_path / "m.tflite")


# 8 bits ---------------------------------------------------------------------------------------------------------------


def test_int8_is_small_and_keeps_the_accuracy(colour_model, split, tmp_path, monkeypatch):
    import onnx

    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", 0.1)  # 2% of this tiny model is less than its smallest kernel
    found, expected = quantize.export_int8(colour_model, tmp_path / "m.onnx", split.x[:32], split)
    assert found >= expected - 1 / 64 and expected > 0.9
    model = OnnxModel(tmp_path / "m.onnx")
    assert model.config == colour_model.config and model.checksum == model_checksum(colour_model)
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 10
    size = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    kernels = {node.output[0]: size[node.input[0]] for node in graph.node if node.input[0] in size}  # in 8 bits
    inputs = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    in_float = [size[name] for name in inputs if name in size]
    assert in_float and max(in_float) <= min(kernels[name] for name in inputs if name in kernels)
    assert sum(in_float) <= eight_bits.FLOAT_WEIGHTS * sum(size.values())
    outputs = {output.name for output in model.session.get_outputs()}
    assert {"probabilities", "features", "attention_0", "attention_1"} == outputs


@pytest.mark.parametrize("changes", [{}, dict(inner_norm=True)], ids=str)
def test_for_8_bits_only_norms_behind_a_convolution_are_folded(changes):
    import onnxruntime

    model = random_weights(build_eanet(tiny_config(**changes)), scale=0.2)
    graph = onnx_graph(model, {})
    folded = quantize._fold_norms(graph)
    convolutions = {node.output[0] for node in folded.graph.node if node.op_type == "Conv"}
    uses = collections.Counter(name for node in folded.graph.node for name in node.input)
    normed = [node.input[0] for node in folded.graph.node if node.op_type == "BatchNormalization"]
    assert normed and not [name for name in normed if name in convolutions and uses[name] == 1]
    assert [opset.domain for opset in folded.opset_import] == [""]
    feed = {quantize.INPUT: random_images(4).astype(np.float32)}
    first, second = (onnxruntime.InferenceSession(m.SerializeToString()).run(None, feed) for m in (graph, folded))
    for found, expected in zip(second, first, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("images", [3, 50, 64])  # batches of one size for any number
def test_int8_takes_any_number_of_calibration_images(images, colour_model, split, tmp_path, monkeypatch):
    monkeypatch.setattr(eight_bits, "BATCH", 20)
    found, expected = quantize.export_int8(colour_model, tmp_path / "m.onnx", split.x[:images], split)
    assert found >= expected - 1 / 32
    reader, seen = quantize._Batches(np.arange(images), 20), []
    while batch := reader.get_next():
        seen.append(batch[quantize.INPUT])
    assert len({rows.shape for rows in seen}) == 1 and reader.count == sum(map(len, seen))
    assert set(np.concatenate(seen)) == set(range(images))


def test_onnx_ranges_are_collected_in_parts_that_fit_in_memory(colour_model, split, tmp_path, monkeypatch):
    size = eight_bits.feature_bytes(eight_bits.quantization_form(colour_model, colour_model.config))
    monkeypatch.setattr(eight_bits, "BATCH_BYTES", 5 * size)
    monkeypatch.setattr(quantize, "COLLECTED_BYTES", 25 * size)
    parts, batches, set_range, get_next = [], [], quantize._Batches.set_range, quantize._Batches.get_next

    def record(reader, start_index, end_index):
        parts.append((start_index, end_index))
        set_range(reader, start_index, end_index)

    def shape(reader):
        batch = get_next(reader)
        batches.append(batch and len(batch[quantize.INPUT]))
        return batch

    monkeypatch.setattr(quantize._Batches, "set_range", record)
    monkeypatch.setattr(quantize._Batches, "get_next", shape)
    found, expected = quantize.export_int8(colour_model, tmp_path / "m.onnx", split.x[:60], split)
    assert found >= expected - 1 / 32
    assert parts[-3:] == [(0, 4), (4, 8), (8, 12)] and set(batches) == {5, None}  # 12 has no divisor of 5


@pytest.mark.parametrize(("images", "part"), [(1000, 20), (999, 10), (450, 5), (49, 1), (0, 1)])
def test_parts_of_the_calibration_images_have_one_size(images, part):
    assert quantize._Batches(np.arange(1000), 50).part(images) == part


def test_eight_bit_exports_compute_fewer_large_images_at_a_time():
    small, large = (build_eanet(tiny_config(image_size=size)) for size in (16, 32))
    ratio = eight_bits.feature_bytes(large) / eight_bits.feature_bytes(small)
    assert 3.5 < ratio < 4 and eight_bits.batch_size(small) == eight_bits.BATCH
    assert eight_bits.batch_size(build_eanet(tiny_config(image_size=1024))) < eight_bits.BATCH


@pytest.mark.slow
@pytest.mark.parametrize("in_float", [0, 0.1])
def test_litert_int8_keeps_the_accuracy(in_float, colour_model, split, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_quantizer")
    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", in_float)
    found, expected = litert.export_litert_int8(colour_model, tmp_path / "m.tflite", split.x[:32], split)
    assert found >= expected - 1 / 64
    assert LitertModel(tmp_path / "m.tflite").checksum == model_checksum(colour_model)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, dict(inner_norm=True, redundant_bias=False)], ids=str)
def test_litert_keeps_the_smallest_kernels_in_float(changes, split, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_quantizer")
    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", 0.1)
    monkeypatch.setattr(litert, "check_accuracy", lambda *_: None)  # of random weights, which nothing trained for 8 bits
    model = random_weights(build_eanet(tiny_config(**changes)))
    litert.export_litert_int8(model, tmp_path / "m.tflite", split.x[:8], split)
    interpreter = LitertModel(tmp_path / "m.tflite")._interpreter
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    operators = [each for each in interpreter._get_ops_details() if each["op_name"] in litert.QUANTIZED]
    kernels = [tensors[operator["inputs"][1]] for operator in operators]
    found = [math.prod(kernel["shape"]) for kernel in kernels if kernel["dtype"] == np.float32]
    small = litert._in_float(eight_bits.quantization_form(model, model.config))
    assert small and sorted(found) == sorted(math.prod(model.get_layer(name).kernel.shape) for name in small)
    assert {kernel["dtype"] for kernel in kernels} == {np.float32, np.int8}


def test_litert_takes_off_every_bias_what_rounding_the_kernel_adds(monkeypatch):
    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", 0.1)
    model, images = random_weights(build_eanet(tiny_config(inner_norm=True, redundant_bias=False))), random_images(4)
    form = eight_bits.quantization_form(model, model.config)
    corrected = litert._with_corrected_biases(form, images)
    changed = {old.path for old, new in zip(form.weights, corrected.weights, strict=True) if not np.array_equal(old, new)}
    in_float = litert._in_float(form)
    kernels = {layer.name for layer in model.layers if hasattr(layer, "kernel") and not layer.name.endswith("_key")}
    assert in_float and changed == {f"{name}/bias" for name in kernels.difference(in_float)}
    for name in kernels.difference(in_float):
        layer, (kernel, bias) = form.get_layer(name), form.get_layer(name).get_weights()
        outputs = kernel.ndim - (2 if name.endswith("depthwise") else 1)  # each channel has a scale of its own
        scale = np.abs(kernel).max(axis=tuple({*range(kernel.ndim)} - {outputs}), keepdims=True) / 127
        rounded = np.round(kernel / scale) * scale
        x, means = keras.Model(form.input, layer.input)(images), []
        for weights in ([kernel, bias], [rounded, bias], [rounded, corrected.get_layer(name).get_weights()[1]]):
            layer.set_weights(weights)
            means.append(np.asarray(layer(x)).reshape(-1, len(bias)).mean(axis=0))
        layer.set_weights([kernel, bias])
        check_mean_errors(*means)


@pytest.mark.parametrize("widths", [(8, 8), (12, 16)], ids=str)  # up to 8 values onnxruntime makes equal biases one
def test_onnx_takes_off_every_bias_what_rounding_the_kernel_adds(widths, split, tmp_path, monkeypatch):
    from onnx import numpy_helper

    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", 0)
    monkeypatch.setattr(quantize, "check_accuracy", lambda *_: None)  # of random weights, which nothing trained for 8 bits
    correct, calls = quantize._correct_biases, []

    def record(graph, quantized, images):
        before = quantize._copy(graph)
        correct(graph, quantized, images)
        calls.append((before, quantized, quantize._copy(graph)))

    monkeypatch.setattr(quantize, "_correct_biases", record)
    sizes = dict(patch_size=1, embed_dims=widths, num_heads=(4, 4), slots=(4, 4), depths=(1, 2), redundant_bias=False)
    model = random_weights(build_eanet(tiny_config(**sizes)))
    quantize.export_int8(model, tmp_path / "m.onnx", split.x[:8], split)
    ((before, quantized, after),) = calls
    old, rounded, new = (
        {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        for graph in (before.graph, quantized, after.graph)
    )
    convolutions = [node for node in before.graph.node if node.op_type == "Conv" and len(node.input) == 3]
    assert len(convolutions) > 12 and len({node.input[2] for node in convolutions}) == len(convolutions)
    for node in convolutions:
        _, kernel, bias = node.input
        zero, scale = (rounded[f"{kernel}_{part}"].reshape(-1, 1, 1, 1) for part in ("zero_point", "scale"))
        values = ((rounded[f"{kernel}_quantized"].astype(np.float32) - zero) * scale).astype(np.float32)
        options = ({}, {kernel: values}, {kernel: values, bias: new[bias]})
        check_mean_errors(*(mean_output(before, node, {**old, **changes}, split.x[:8]) for changes in options))


def mean_output(model, node, tensors, images):
    """Return the mean of each channel of what `node` writes, with these constants in the place of the model's."""
    import onnxruntime

    from onnx import helper, numpy_helper

    changed = quantize._copy(model)
    for tensor in changed.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name], tensor.name))
    changed.graph.output.append(helper.make_tensor_value_info(node.output[0], 1, None))
    session = onnxruntime.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    (values,) = session.run([node.output[0]], {quantize.INPUT: images.astype(np.float32)})
    return values.mean(axis=(0, 2, 3))


def check_mean_errors(expected, rounded, corrected):
    """Rounding changed the means; the correction takes most of that back: all, but for the borders of a 3x3 kernel."""
    error, left = np.abs(rounded - expected).max(), np.abs(corrected - expected).max()
    assert error > 1e-4 and left < 0.5 * error


def test_operations_in_float_are_found_by_what_they_write(colour_model, monkeypatch):
    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", 0.1)
    shapes = {layer.name: layer.kernel.shape for layer in colour_model.layers if hasattr(layer, "kernel")}
    small, pattern = eight_bits.smallest_kernels(shapes), litert._large_kernels(colour_model)
    assert small and set(small) < set(shapes)
    for name in shapes:
        for written in (f"eanet_1/{name}_1/convolution1;", f"eanet/{name}_norm/add;eanet/{name}/convolution;"):
            assert bool(re.search(pattern, written)) == (name not in small)
    monkeypatch.setattr(eight_bits, "FLOAT_WEIGHTS", 0)
    assert re.search(litert._large_kernels(colour_model), "eanet_1/stem_0_1/convolution1;")


class Constant:
    """Answers with one class."""

    def __init__(self, answer):
        self.answer = answer

    def predict_on_batch(self, images):
        return np.eye(3)[[self.answer] * len(images)]


def test_a_quantized_model_that_loses_accuracy_is_refused(split):
    right = Split(split.x, np.zeros(64, int), "test")
    assert agreement.check_accuracy("m.onnx", Constant(0), Constant(0), right) == (1, 1)
    with pytest.raises(UserError, match=r"m.onnx: not written; .* top-1 0.0% instead of 100.0% on 64 images of test"):
        agreement.check_accuracy("m.onnx", Constant(1), Constant(0), right)


@pytest.mark.parametrize("found", [[[0.5, 0.6]], [[np.nan, 0.5]]])
def test_other_probabilities_are_refused(found):
    agreement.check_agreement("m.onnx", [[0.5, 0.5]], [[0.5, 0.5]], 1e-4)
    with pytest.raises(UserError, match="not written; its probabilities differ"):
        agreement.check_agreement("m.onnx", found, [[0.5, 0.5]], 1e-4)


# Command line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--format", "int8"], "--format int8 needs images: --data"),
        (
            ["--format", "fp16", "--data", "nowhere"],
            "--data has no effect with --format fp16",
        ),
        (["--format", "all", "--output", "m.onnx"], "--format all writes several"),
        (["--format", "gguf"], "invalid choice: 'gguf'"),
    ],
)
def test_bad_options_are_named(options, text, tiny_folder, capsys):
    assert run_main(export, tiny_folder, *options) == 2
    assert text in capsys.readouterr().err.splitlines()[-1]


def test_all_formats_say_which_could_not_be_written(tmp_path, monkeypatch, capsys):
    def write(model, path, *args, **options):
        if "litert" in str(path):
            raise UserError("litert is not installed")
        path.write_bytes(b"file")

    monkeypatch.setattr(formats, "export_onnx", write)
    monkeypatch.setattr(formats, "export_litert", write)
    left_out = formats.export_all(None, tmp_path, tuple(formats.FORMATS))
    said = capsys.readouterr()
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {
        "onnx", "onnx/model.onnx", "onnx/model_fp16.onnx"
    }  # fmt: skip
    assert len(left_out) == 3 and said.err.splitlines()[0].startswith("int8 is left out: needs images")
    assert said.out.splitlines() == [f"wrote {tmp_path / name}" for name in ("onnx/model.onnx", "onnx/model_fp16.onnx")]
