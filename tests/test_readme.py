"""README.md is true: its code runs as pasted, and its regions and numbers are those of the files they come from."""

import fnmatch
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import LEAN, ROOT, TINY, copy_repository, run_main, write_official
from hub_server import LFS_NAMES, File, Hub, Repo
from isolated import installed

import eanet.data
from eanet.export import OnnxModel
from eanet.hub.card import card_regions
from eanet.hub.card_facts import collect_facts
from eanet.images import load_image
from eanet.loaded_model import load_config
from eanet.run_dir import lineage, recipe_of
from eanet.saving import KERAS_FILES, SAVED_MODEL_FILES, add_saved_model, save_pretrained_keras
from modeling_eanet import CIFAR100_LABELS, PRESETS, EANetConfig, build_eanet, from_pretrained_keras

README = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
REPO = "keras-io/Image-Classification-using-EANet"
RESULTS = json.loads((ROOT / "eval_results.json").read_text(encoding="utf-8"))
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SNIPPETS = [code for language, code in CODE.findall(README) if language == "python"]
OTHER = dict(CODE.findall(README))
COMMANDS = [code.strip() for language, code in CODE.findall(README) if language == "bash"]
PREDICT, TRAIN, FINE_TUNE, PUSH, TESTS, SHIPPED = COMMANDS
(EVALUATE,) = re.findall("`(python train.py --evaluate-only [^`]+)`", README)

# Stands in for `python`: TensorFlow starts faster; nothing else differs.
PYTHON = """#!/bin/sh
exec {python} -c "{lean}"'
import runpy
sys.path.insert(0, ".")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""


@pytest.fixture(scope="module")
def hub():
    """A Hub with the published model."""
    with Hub() as hub:
        files = {}
        names = [*KERAS_FILES, *SAVED_MODEL_FILES, "samples/apple.png", "README.md"]
        for path in (p for name in names for p in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))):
            lfs = any(fnmatch.fnmatch(path.name, pattern) for pattern in LFS_NAMES)
            files[path.relative_to(ROOT).as_posix()] = File(path.read_bytes(), lfs)
        hub.uploads |= {file.sha256: file.content for file in files.values() if file.lfs}
        hub.repos[REPO] = Repo(REPO, private=False)
        hub.repos[REPO].commit("main", "the model", files)
        yield hub
        assert not hub.complaints


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository with an activated environment, data and images under the names that the README uses."""
    from PIL import Image

    tree = tmp_path_factory.mktemp("readme") / "tree"
    copy_repository(tree)
    (tree / ".venv").symlink_to(sys.prefix)
    data = write_official(tree.parent / "cifar-100-python", train=64, labels=CIFAR100_LABELS)
    with tarfile.open(tree / "cifar-100-dev.tar.gz", "w:gz") as tar:
        tar.add(data, data.name)
    for split, count in (("train", 12), ("test", 4)):
        for label, colour in (("red", (200, 40, 40)), ("green", (40, 180, 60))):
            (tree / "my_images" / split / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 40), tuple(c + i for c in colour)).save(
                    tree / "my_images" / split / label / f"{i}.png"
                )
    (tree.parent / "bin").mkdir()
    python = tree.parent / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable, lean=LEAN))
    python.chmod(0o755)
    return tree


def run(command, cwd, hub, home, path=""):
    """Run a command, or lines for the shell, with the test Hub as the Hub; return its standard output."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH", "KERAS_"))}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(path)}
    env |= {"PATH": f"{cwd.parent / 'bin'}{os.pathsep}{env['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = ["bash", "-ec", command] if isinstance(command, str) else command
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def run_here(tree, monkeypatch, capsys):
    """A function that runs lines of `python PROGRAM.py ...` in this process, for one epoch, and returns what they print.

    "small" and "slim" are the tiny preset, and the model of the repository has that architecture.
    """
    from training_runs import quick_runs

    folder = tree.parent / "small"
    if not folder.is_dir():
        save_pretrained_keras(build_eanet(EANetConfig.preset("tiny")), folder, saved_model=False)
        for name in ("eval_results.json", "my_images", "cifar-100-dev.tar.gz", "samples"):
            (folder / name).symlink_to(tree / name)
    monkeypatch.chdir(folder)
    for name in ("small", "slim"):
        monkeypatch.setitem(PRESETS, name, TINY)

    def run_here(lines):
        for line in lines.splitlines():
            python, program, *words = shlex.split(line)
            assert python == "python"
            words += ["--epochs", "1"] if program == "train.py" else []
            with quick_runs():
                assert run_main(importlib.import_module(program.removesuffix(".py")), *words) == 0
        return capsys.readouterr().out

    return run_here


# Code -----------------------------------------------------------------------------------------------------------------


def test_languages_and_snippets():
    assert len(SNIPPETS) == 4
    assert set(OTHER) == {"python", "bash", "bibtex", "js", "kotlin", "swift"}


def test_snippets_run_as_pasted(hub, tree, tmp_path):
    """The first without our code."""
    assert "hf://" in SNIPPETS[0]
    code = f"""import os, sys
exec({SNIPPETS[0]!r})
assert not {{"eanet", "modeling_eanet"}} & set(sys.modules)
os.chdir({str(tree)!r})
sys.path.insert(0, "")
exec({SNIPPETS[2]!r})"""
    first, second = run([sys.executable, "-c", code], tmp_path, hub, tmp_path / "home").splitlines()
    assert first == "apple" and "'label': 'apple'" in second


def test_onnx_snippet_runs_without_our_code_and_tensorflow():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('keras', 'tensorflow', 'eanet', 'modeling_eanet')))\n" + SNIPPETS[3]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "apple\n"), done.stderr


@pytest.fixture(scope="module")
def pixels():
    """A sample as the model gets it."""
    return load_image(ROOT / "samples" / "apple.png", load_config(ROOT)).astype("float32")


def test_browser_snippet_answers_as_python(pixels, tmp_path):
    """In Node.js, with the runtime of the browser."""
    modules = ROOT / "demo" / "node_modules"
    if shutil.which("node") is None or not (modules / "onnxruntime-web").is_dir():
        pytest.skip("`npm ci --prefix demo` did not run")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "onnx").symlink_to(ROOT / "onnx")
    given = f"const pixels = Float32Array.from({json.dumps(pixels.ravel().tolist())});\n"
    shown = "console.log(JSON.stringify(Array.from(probabilities.data)));\n"
    (tmp_path / "snippet.mjs").write_text(given + OTHER["js"] + shown)
    done = subprocess.run(["node", "snippet.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(
        OnnxModel(ROOT / "onnx/model.onnx").predict_on_batch(pixels[None])[0], abs=1e-5
    )


def test_mobile_snippets_fit_the_file(pixels):
    """The calls of the Kotlin snippet, in Python on the same runtime, and the sizes that it and the Swift one state."""
    runtime = pytest.importorskip("ai_edge_litert.compiled_model")
    path, labels = ROOT / "litert" / "eanet.tflite", load_config(ROOT).id2label.values()
    assert f'"{path.name}"' in OTHER["kotlin"] and 'forResource: "eanet", ofType: "tflite"' in OTHER["swift"]
    model = runtime.CompiledModel.from_file(str(path))
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    sizes = [[buffer.get_tensor_details() for buffer in buffers] for buffers in (inputs, outputs)]
    side = int(re.search("FloatArray of (\\d+)×\\1×3", OTHER["kotlin"])[1])
    count = int(re.search("FloatArray of (\\d+)$", OTHER["kotlin"], re.MULTILINE)[1])
    assert f"{count} Float32 values" in OTHER["swift"]
    assert sizes == [[{"dtype": "float32", "shape": [1, side, side, 3]}], [{"dtype": "float32", "shape": [1, count]}]]
    inputs[0].write(pixels.ravel())
    model.run_by_index(0, inputs, outputs)
    found = outputs[0].read(count, np.float32)
    assert found == pytest.approx(OnnxModel(ROOT / "onnx/model.onnx").predict_on_batch(pixels[None])[0], abs=1e-4)
    with zipfile.ZipFile(path) as archive:  # `unzip -p eanet.tflite labels.txt`
        assert archive.read("labels.txt").decode().splitlines() == list(labels) and len(labels) == count


def test_old_client_snippet_runs_without_our_code(hub, tmp_path):
    code = SNIPPETS[1] + "import numpy; print(model.predict(numpy.zeros((2, 32, 32, 3)), verbose=0).shape)"
    client = installed("huggingface_hub==0.36.2")
    assert run([sys.executable, "-c", code], tmp_path, hub, tmp_path / "home", client).strip() == "(2, 100)"


def test_first_command_predicts_the_samples(hub, tree, tmp_path):
    *install, predict = PREDICT.split(" && ")
    assert install == ["python3 -m venv .venv", ".venv/bin/pip install -r requirements.txt"]  # .ci/run installs
    assert run(predict, tree, hub, tmp_path).count(".png\n") == len(list((ROOT / "samples").glob("*.png")))


@pytest.mark.slow  # a new environment, some gigabytes
def test_first_command_as_pasted(hub, tree, tmp_path):
    (tree / ".venv").unlink()
    try:
        assert "apple" in run(PREDICT, tree, hub, tmp_path)
    finally:
        shutil.rmtree(tree / ".venv")
        (tree / ".venv").symlink_to(sys.prefix)


def test_test_command_is_what_ci_runs():
    install = ".venv/bin/pip install -e "
    assert TESTS == f'python3 -m venv .venv && {install}".[dev]" && .venv/bin/python -m pytest'
    ci = (ROOT / ".ci" / "run").read_text()
    assert 'install -q --no-compile -e ".[dev]"' in ci and 'python" -m pytest' in ci


def test_evaluate_command_measures_the_model(tree, monkeypatch, capsys):
    python, program, *words = shlex.split(EVALUATE)
    assert (python, program) == ("python", "train.py")
    monkeypatch.chdir(tree)
    monkeypatch.setattr(eanet.data, "download_cifar100", lambda *args: str(tree.parent / "cifar-100-python"))
    assert run_main(importlib.import_module("train"), *words) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["num_images"] == 48 and results["model"] == RESULTS["model"]


def test_train_fine_tune_resume_and_push(hub, tree, tmp_path, run_here):
    run_here(TRAIN)
    assert "apple.png" in run_here(FINE_TUNE)
    tuned = Path("runs/tuned").absolute()
    weights = (tuned / "model.weights.h5").read_bytes()
    run_here(FINE_TUNE.splitlines()[0])  # to resume
    assert (tuned / "model.weights.h5").read_bytes() == weights
    add_saved_model(tuned)  # run_here leaves it out
    (tree / "runs").mkdir(exist_ok=True)
    (tree / "runs" / "tuned").symlink_to(tuned)
    printed = run(PUSH, tree, hub, tmp_path)
    assert "USER/NAME" in printed and "model.weights.h5" in printed and "USER/NAME" not in hub.repos


def test_shipped_commands_give_the_recorded_recipes():
    from training_runs import train_config

    records = lineage(RESULTS["training"])  # the teacher's run too
    assert SHIPPED.splitlines() == [record["command"] for record in records]
    for record in records:
        python, program, *words = shlex.split(record["command"])
        recipe = recipe_of(train_config(*words).resolved(record["num_images"]))
        assert (python, program) == ("python", "train.py")
        assert {name: recipe[name] for name in record["recipe"]} == record["recipe"]


# Numbers --------------------------------------------------------------------------------------------------------------

# No file here holds these: versions of Python, Keras, huggingface_hub and the licence.
VERSIONS = {"3.11", "3.13", "0.36", "1.0", "2.0"}


@pytest.fixture(scope="module")
def regions():
    """The regions as the shipped files give them."""
    return card_regions(collect_facts(ROOT, RESULTS, from_pretrained_keras(ROOT), REPO))


def test_regions_are_those_of_the_shipped_files(regions):
    found = {
        match[1]: match[2] for match in re.finditer(r"^<!-- ([\w-]+) -->\n(.*?)\n?<!-- /\1 -->$", README, re.DOTALL | re.M)
    }
    assert set(found) >= {"summary", "samples", "exports", "results", "evaluation", "architecture", "training", "classes"}
    for name, text in found.items():
        assert text == regions[name], name


def test_no_measured_number_stands_outside_the_regions():
    words = CODE.sub("", re.sub(r"^<!-- ([\w-]+) -->$.*?^<!-- /\1 -->$", "", README, flags=re.DOTALL | re.MULTILINE))
    words = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", words)
    unit = r"%|M\b|ms\b|s\b|MB\b|times\b|seconds\b|minutes\b|hours\b|images/s"
    found = {m[0].rstrip(".,") for m in re.finditer(rf"\d[\d,]*\.\d+(?: ?(?:{unit}))?|\d[\d,]* ?(?:{unit})", words)}
    split = f"{100 * RESULTS['training']['recipe']['validation_split']:g}%"
    assert found <= VERSIONS | {split} and split in found


def test_body_is_short():
    body = re.sub(r"<details>.*?</details>", "", README, flags=re.DOTALL)
    assert body.count("\n") <= 182 and len(body.split()) <= 1320
