"""The ONNX export predicts what Keras predicts, carries its class names, and needs no TensorFlow to run."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, colour_pictures, run_program, tiny_config

import export
import modeling_eanet
from export import OnnxModel, export_onnx, find_onnx
from modeling_eanet import build_eanet, classify, model_checksum


@pytest.fixture(scope="module")
def model():
    model = build_eanet(tiny_config(shared_memory=True))
    rng = np.random.default_rng(0)
    model.set_weights([w + 0.1 * np.abs(rng.normal(size=w.shape)) for w in model.get_weights()])  # no norm is the identity
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(model, path)
    return path


@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_predicts_what_keras_predicts_for_a_batch_of_any_size(model, exported, count):
    pictures, _ = colour_pictures(count)
    found, expected = OnnxModel(exported).predict_on_batch(pictures), model.predict_on_batch(pictures)
    assert found.shape == (count, 3) and found.dtype == np.float32 and np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_it_takes_the_place_of_a_keras_model_in_classify(model, exported):
    pictures, _ = colour_pictures(5)
    for ours, theirs in zip(classify(OnnxModel(exported), pictures), classify(model, pictures), strict=True):
        assert [p["label"] for p in ours] == [p["label"] for p in theirs]
        assert [p["score"] for p in ours] == pytest.approx([p["score"] for p in theirs], abs=1e-5)


def test_its_metadata_says_which_model_it_is(model, exported):
    import onnx

    graph = onnx.load(exported)
    props = {prop.key: prop.value for prop in graph.metadata_props}
    assert json.loads(props["eanet_config"])["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert props["checksum"] == model_checksum(model) == OnnxModel(exported).checksum
    assert OnnxModel(exported).config == model.config
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["image", "probabilities"]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("model") / "m")
    done = run_program("export", folder, "--format", "onnx")
    assert (done.returncode, done.stdout) == (0, f"wrote {folder / 'model.onnx'}\n"), done.stderr
    assert "Warning" not in done.stderr
    return folder


def test_inference_answers_alike_in_both_runtimes(folder):
    answers = []
    for runtime in ("keras", "onnx"):
        done = run_program("inference", ROOT / "samples", "--model", folder, "--format", "json", "--runtime", runtime)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert len(answers[0]) == len(answers[1]) == 20
    for ours, theirs in zip(*answers, strict=True):
        assert ours["image"] == theirs["image"]
        scores = [{p["label"]: p["score"] for p in answer["predictions"]} for answer in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_onnx_is_predicted_without_tensorflow_and_keras(folder):
    code = """
import sys
for name in ("tensorflow", "keras", "tf_keras", "jax", "torch", "h5py"):
    sys.modules[name] = None  # importing it is an error
import inference
sys.exit(inference.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "samples/apple.png", "--runtime", "onnx", "--model", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "samples/apple.png" in done.stdout, done.stderr


def test_new_weights_take_the_export_of_the_old_ones_away(folder, tiny_model, model, tmp_path):
    target = shutil.copytree(folder, tmp_path / "m")
    modeling_eanet.save_pretrained_keras(tiny_model, target, saved_model=False)
    assert (target / "model.onnx").exists()  # the same weights
    modeling_eanet.save_pretrained_keras(model, target, saved_model=False)
    assert not (target / "model.onnx").exists()


def test_an_export_of_a_model_from_the_hub_says_where_it_goes():
    line = error_line(run_program("export", "user/name", "--format", "onnx"), "export")
    assert "user/name" in line and "--output" in line


def test_an_export_that_predicts_something_else_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "deployment_form", lambda model: build_eanet(model.config))  # other weights
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    with pytest.raises(ValueError, match="not written; the export differs from the model by 0"):
        export_onnx(model, tmp_path / "m.onnx")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.onnx", b"earlier")]


def error_line(done, name):
    assert done.returncode == 2 and done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{name}.py: error: ") and "Traceback" not in done.stderr
    return line


@pytest.mark.parametrize("package", ["onnx", "tf2onnx", "onnxruntime"])
def test_a_missing_package_is_one_line_that_says_how_to_get_it(model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install -r requirements-onnx.txt") as error:
        export_onnx(model, tmp_path / "m.onnx")
    assert package in str(error.value) and not list(tmp_path.iterdir())


def test_a_folder_without_an_export_says_how_to_make_one(tiny_folder):
    line = error_line(run_program("inference", ROOT / "samples", "--model", tiny_folder, "--runtime", "onnx"), "inference")
    assert f"`python export.py {tiny_folder} --format onnx`" in line


@pytest.mark.parametrize("content", [b"", b"no model", "of another program"])
def test_a_file_that_is_no_export_of_ours_is_one_line(content, exported, tmp_path):
    path = tmp_path / "m.onnx"
    if isinstance(content, str):
        import onnx

        graph = onnx.load(exported)
        del graph.metadata_props[:]
        onnx.save(graph, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.onnx: "):
        OnnxModel(path)
    assert str(path) in error_line(
        run_program("inference", ROOT / "samples", "--model", path, "--runtime", "onnx"), "inference"
    )


@pytest.mark.parametrize("name", ["nowhere", "nowhere/m.onnx", "nowhere.onnx"])
def test_a_model_that_is_not_there_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=name):
        OnnxModel(find_onnx(name))


def test_an_output_that_cannot_be_is_one_line(tiny_folder, tmp_path):
    for output in (tmp_path, tmp_path / "no" / "m.onnx"):
        line = error_line(run_program("export", tiny_folder, "--format", "onnx", "--output", output), "export")
        assert f"--output {output}" in line
