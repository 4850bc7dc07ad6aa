"""The main job with other versions of Python, where this machine has them: install, classify, train, export. All slow."""

import glob
import json
import os
import shutil
import subprocess

import pytest
from conftest import ROOT, write_official
from isolated import CLIENTS

pytestmark = pytest.mark.slow
SET = "embed_dims=[8,8]", "depths=[1,1]", "num_heads=[2,2]", "slots=[4,4]"


def find_python(version):
    """Return the path of a Python of this version, on the PATH or of pyenv; None without."""
    for path in (
        shutil.which(f"python{version}"),
        *glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")),
    ):
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


@pytest.fixture(scope="module", params=["3.12", "3.13"])
def python(request):
    """Path of a Python with the project's requirements, in an environment that is kept between runs."""
    made = CLIENTS / f"python-{request.param}"
    if not (made / "complete").exists():
        found = find_python(request.param)
        if found is None:
            pytest.skip(f"no Python {request.param} here")
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run([found, "-m", "venv", made], check=True)
        command = [
            made / "bin" / "python",
            "-m",
            "pip",
            "install",
            "-q",
            "-r",
            ROOT / "requirements.txt",
            "onnx",
            "onnxruntime",
        ]
        subprocess.run(command, check=True)
        (made / "complete").touch()
    return str(made / "bin" / "python")


@pytest.mark.parametrize("runtime", ["keras", "onnx"])
def test_samples_are_classified_offline(runtime, python, tmp_path):
    answers = json.loads(run(python, tmp_path, "inference.py", ROOT / "samples", "--format", "json", "--runtime", runtime))
    right = [os.path.basename(a["image"]).startswith(a["predictions"][0]["label"]) for a in answers]
    assert len(right) > 5 and sum(right) > len(right) / 2


def test_a_run_is_trained_exported_and_evaluated(python, tmp_path):
    data = write_official(tmp_path / "colours")
    recipe = ("--epochs", 2, "--batch-size", 32, *(word for field in SET for word in ("--set", field)))
    run(python, tmp_path, "train.py", "--data", data, *recipe, "--output", "run")
    run(python, tmp_path, "-m", "eanet.export", "run")
    results = json.loads(run(python, tmp_path, "train.py", "--evaluate-only", "--model", "run", "--data", data))
    assert results["num_images"] > 0 and (tmp_path / "run" / "onnx" / "model.onnx").is_file()
    assert (tmp_path / "run" / "saved_model.pb").is_file()


def run(python, folder, program, *args):
    """Run a program or module in a folder, without network and without a home; return its output."""
    first = [program] if program == "-m" else [ROOT / program]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HOME": "/nonexistent"}
    command = [python, *map(str, (*first, *args))]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
