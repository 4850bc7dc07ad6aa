"""The ONNX export: same predictions as Keras, the class names inside, no TensorFlow needed to run it."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, colour_images, run_main, run_program, tiny_config

import eanet.export.__main__ as export_command
import export as old_program
import inference
from eanet import classify, save_pretrained_keras
from eanet.export import OnnxModel, export_onnx, find_onnx, formats
from eanet.export import metadata as export_metadata
from eanet.export import onnx as onnx_export
from eanet.saving import LEGACY_ONNX_FILE, ONNX_FILE, model_checksum
from modeling_eanet import UserError, build_eanet

# Code that makes importing these modules an error.
LIGHT = "import sys\nfor name in {!r}:\n    sys.modules[name] = None\n"
HEAVY = ("tensorflow", "keras", "tf_keras", "jax", "torch", "h5py", "onnx")


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


@pytest.fixture(scope="module")
def plain_folder(tiny_model, tmp_path_factory):
    """A model folder without exports."""
    folder = tmp_path_factory.mktemp("plain") / "m"
    save_pretrained_keras(tiny_model, folder, saved_model=False)
    return folder


@pytest.fixture(scope="module")
def folder(plain_folder, tmp_path_factory):
    """A model folder with its export, written by the command line."""
    folder = shutil.copytree(plain_folder, tmp_path_factory.mktemp("model") / "m")
    assert run_main(old_program, folder) == 0
    return folder


def run_python(*args, cwd=ROOT):
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300)


def error_line(done, program):
    """Return the line of a failed program's error; nothing else may be there but argparse's usage."""
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"{program}: error: ")
    return line


@pytest.mark.parametrize("count", [1, 2, 7])
def test_predictions_equal_keras_for_any_batch_size(model, exported, count):
    images, _ = colour_images(count)
    found, expected = OnnxModel(exported).predict_on_batch(images), model.predict_on_batch(images)
    assert found.shape == (count, 3) and found.dtype == np.float32 and np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_classify_takes_an_onnx_model(model, exported):
    images, _ = colour_images(5)
    for ours, theirs in zip(classify(OnnxModel(exported), images), classify(model, images), strict=True):
        assert [p["label"] for p in ours] == [p["label"] for p in theirs]
        assert [p["score"] for p in ours] == pytest.approx([p["score"] for p in theirs], abs=1e-5)


def test_metadata_identifies_the_model(model, exported):
    import onnx

    graph = onnx.load(exported)
    props = {prop.key: prop.value for prop in graph.metadata_props}
    assert json.loads(props["eanet_config"])["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert props["checksum"] == model_checksum(model) == OnnxModel(exported).checksum
    assert OnnxModel(exported).config == model.config
    outputs = ["probabilities", "features", "attention_0", "attention_1"]
    assert [value.name for value in (*graph.graph.input, *graph.graph.output)] == ["image", *outputs]
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_float16_weights_halve_the_file(model, exported, tmp_path):
    export_onnx(model, tmp_path / "half.onnx", weights="float16")
    assert (tmp_path / "half.onnx").stat().st_size < 0.75 * exported.stat().st_size
    images, _ = colour_images(5)
    half = OnnxModel(tmp_path / "half.onnx")
    np.testing.assert_allclose(half.predict_on_batch(images), model.predict_on_batch(images), atol=0.02)
    assert half.config == model.config and half.checksum == model_checksum(model)


def test_a_model_loaded_by_keras_exports_with_a_config(plain_folder, tmp_path):
    import keras

    model = keras.saving.load_model(plain_folder)
    with pytest.raises(UserError, match="class names"):
        export_onnx(model, tmp_path / "m.onnx")
    export_onnx(model, tmp_path / "m.onnx", config=plain_folder)
    assert list(OnnxModel(tmp_path / "m.onnx").config.id2label.values()) == ["red", "green", "blue"]


# Command line ---------------------------------------------------------------------------------------------------------


def test_the_old_command_line_works(plain_folder, tmp_path, monkeypatch, capsys):
    written, output = [], tmp_path / "m.onnx"
    monkeypatch.setattr(formats, "export_onnx", lambda model, path, weights: written.append((model.config, path)))
    assert run_main(old_program, plain_folder, "--format", "onnx", "--output", output) == 0
    assert written == [(tiny_config(), output)] and capsys.readouterr().out == f"wrote {output}\n"
    assert old_program.OnnxModel is OnnxModel


def test_help_names_the_formats():
    done = run_python("-m", "eanet.export", "--help")
    assert done.returncode == 0 and "python -m eanet.export" in done.stdout and "{onnx,fp16,int8,litert" in done.stdout
    assert "the folder above eanet/" in " ".join(done.stdout.split())  # the default model is the shipped one


def test_a_linked_copy_finds_its_code(tmp_path):
    for name in ("export.py", "modeling_eanet.py", *(p.relative_to(ROOT) for p in (ROOT / "eanet").rglob("*.py"))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    line = error_line(run_python(tmp_path / "export.py", cwd="/"), "export.py")
    assert "DIR_OR_REPO" in line  # that folder holds no model, so there is no default


def test_a_hub_model_needs_an_output():
    line = error_line(run_python("-m", "eanet.export", "user/name"), "python -m eanet.export")
    assert "user/name" in line and "--output" in line


@pytest.mark.parametrize("options", [(), ("--output", "m.onnx")])
def test_what_is_no_model_is_named(options, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.onnx").touch()
    neither = "not a local folder, and not a Hub repo id (user/name)"
    for name, says in {"no": neither, "./no": neither, "a/b/c": neither, "file.onnx": "a file, not a model folder"}.items():
        assert run_main(old_program, name, *options) == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(f"error: {name}: {says}")


@pytest.mark.parametrize(
    ("format", "output"), [("litert", "a.onnx"), ("fp16", "a.tflite"), ("onnx", "a.onnxx"), ("onnx", "a")]
)
def test_the_name_of_the_output_fits_the_format(format, output, plain_folder, tmp_path, capsys):
    assert run_main(old_program, plain_folder, "--format", format, "--output", tmp_path / output) == 2
    suffix = ".tflite" if format == "litert" else ".onnx"
    line = f"--output {tmp_path / output}: the name of a file of --format {format} ends in {suffix}"
    assert capsys.readouterr().err.splitlines()[-1].endswith(line) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", [".", "no/m.onnx"])
def test_an_unwritable_output_is_an_error(output, plain_folder, tiny_model, tmp_path, capsys):
    assert run_main(old_program, plain_folder, "--output", tmp_path / output) == 2
    assert f"--output {tmp_path / output}" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(UserError, match="existing folder"):
        export_onnx(tiny_model, tmp_path / output)


def test_a_missing_model_is_one_line(tmp_path, capsys):
    assert run_main(old_program, tmp_path / "no", "--output", tmp_path / "m.onnx") == 2
    assert f"{tmp_path / 'no'}: not a local folder" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_what_is_not_written(monkeypatch, capsys):
    def interrupt(argv=None):
        raise KeyboardInterrupt

    from eanet import cli

    assert cli.run(interrupt, interrupted=export_command.INTERRUPTED) == 130
    assert capsys.readouterr().err.endswith("stopped; the file that was being made is not written\n")


# Writing --------------------------------------------------------------------------------------------------------------


def test_a_different_export_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "deployment_form", lambda model, config: build_eanet(model.config))  # other weights
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    with pytest.raises(UserError, match=r"not written; its probabilities differ from the model's by 0\."):
        export_onnx(model, tmp_path / "m.onnx")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.onnx", b"earlier")]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_a_hint(model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"{package} is not installed; `pip install onnx onnxruntime`"):
        export_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["keras", "tensorflow"])
def test_a_missing_keras_is_one_line(package, plain_folder, tmp_path):
    code = LIGHT.format([package]) + "sys.argv[0] = 'eanet.export'\nfrom eanet.cli import run\n"
    code += "from eanet.export.__main__ import main\nsys.exit(run(main))"
    line = error_line(run_python("-c", code, plain_folder, "--output", tmp_path / "m.onnx"), "eanet.export")
    assert re.fullmatch(rf".*: {package}[\w.]* is not installed; `pip install tensorflow( keras)?`.*", line)


def test_saving_other_weights_removes_the_export(folder, tiny_model, model, tmp_path):
    target = shutil.copytree(folder, tmp_path / "m")
    save_pretrained_keras(tiny_model, target, saved_model=False)
    assert (target / ONNX_FILE).exists()  # the same weights
    save_pretrained_keras(model, target, saved_model=False)
    assert not (target / ONNX_FILE).exists()


# Reading --------------------------------------------------------------------------------------------------------------


def test_both_runtimes_give_the_same_answers(folder, capsys):
    answers = []
    for runtime in ("keras", "onnx"):
        options = ("--model", folder, "--format", "json", "--runtime", runtime)
        assert run_main(inference, ROOT / "samples", *options) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert len(answers[0]) == len(answers[1]) == 20
    for ours, theirs in zip(*answers, strict=True):
        assert ours["image"] == theirs["image"]
        scores = [{p["label"]: p["score"] for p in answer["predictions"]} for answer in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_onnx_runs_without_tensorflow_keras_and_the_hub_client(folder):
    code = LIGHT.format((*HEAVY, "huggingface_hub")) + "import inference; sys.exit(inference.main(sys.argv[1:]))"
    done = run_python("-c", code, "samples/apple.png", "--runtime", "onnx", "--model", folder)
    assert done.returncode == 0 and "samples/apple.png" in done.stdout, done.stderr


def test_a_hub_model_without_the_hub_client_is_one_line():
    code = LIGHT.format((*HEAVY, "huggingface_hub"))
    code += "sys.argv[0] = 'inference.py'; import inference; from eanet.cli import run; sys.exit(run(inference.main))"
    line = error_line(run_python("-c", code, "samples/apple.png", "--runtime", "onnx", "--model", "u/n"), "inference.py")
    assert "u/n: not a local folder" in line and "`pip install huggingface_hub`" in line


def test_the_new_place_comes_before_the_old_one(tmp_path):
    for file in (LEGACY_ONNX_FILE, ONNX_FILE):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
        assert find_onnx(str(tmp_path)) == tmp_path / file
    assert find_onnx(str(tmp_path / LEGACY_ONNX_FILE)) == tmp_path / LEGACY_ONNX_FILE


@pytest.mark.parametrize("file", [ONNX_FILE, LEGACY_ONNX_FILE])
def test_a_hub_model_is_downloaded(file, tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **kwargs: asked.append((name, kwargs)) or tmp_path
    )
    assert find_onnx("user/name") == tmp_path / file
    assert asked == [("user/name", {"allow_patterns": [ONNX_FILE, LEGACY_ONNX_FILE]})]


def test_a_model_without_an_export_says_how_to_make_one(plain_folder, tmp_path, monkeypatch):
    done = run_program("inference", ROOT / "samples", "--model", plain_folder, "--runtime", "onnx")
    assert f"`python -m eanet.export {plain_folder}`" in error_line(done, "inference.py")
    monkeypatch.setattr(export_metadata, "model_folder", lambda *args, **kwargs: tmp_path)
    with pytest.raises(UserError, match="user/name: has no onnx/model.onnx; .*--output"):
        find_onnx("user/name")


@pytest.mark.parametrize("part", ["weights", "labels", "bytes of a label"])
def test_a_file_that_was_changed_after_its_export_is_one_line(part, exported, tmp_path):
    import onnx

    graph, path = onnx.load(exported), tmp_path / "m.onnx"
    if part == "bytes of a label":
        path.write_bytes(exported.read_bytes().replace(b'"green"', b'"gr\xff\xffn"', 1))
        with pytest.raises(UserError, match=r"m\.onnx: "):
            OnnxModel(path)
        return
    if part == "weights":
        tensor = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        tensor.raw_data = tensor.raw_data[:-3] + bytes([tensor.raw_data[-3] ^ 1]) + tensor.raw_data[-2:]
    else:
        entry = next(entry for entry in graph.metadata_props if entry.key == "eanet_config")
        entry.value = entry.value.replace("green", "white")
    onnx.save(graph, path)
    with pytest.raises(UserError, match=r"m\.onnx: damaged, or changed after its export"):
        OnnxModel(path)


@pytest.mark.parametrize("content", [b"", b"no model", "another program's"])
def test_a_file_that_is_not_our_export_is_one_line(content, exported, tmp_path):
    path = tmp_path / "m.onnx"
    if isinstance(content, str):
        import onnx

        graph = onnx.load(exported)
        del graph.metadata_props[:]
        onnx.save(graph, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.onnx: "):
        OnnxModel(path)
    done = run_program("inference", ROOT / "samples", "--model", path, "--runtime", "onnx")
    assert str(path) in error_line(done, "inference.py")


@pytest.mark.parametrize("name", ["nowhere", "nowhere/m.onnx", "nowhere.onnx"])
def test_a_missing_file_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=name):
        OnnxModel(find_onnx(name))
