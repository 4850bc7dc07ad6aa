"""What the card says is so: its code runs as pasted, and its numbers are those of the files they come from."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from apart import installed
from conftest import ROOT, write_official
from hub_server import LFS_NAMES, File, Hub, Repo

from card_regions import REGIONS, runs_of
from modeling_eanet import CIFAR100_LABELS, KERAS_FILES, SAVED_MODEL_FILES, EANetConfig
from train import parse_args

CARD = (ROOT / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
REPO = "keras-io/Image-Classification-using-EANet"
RESULTS = json.loads((ROOT / "eval_results.json").read_text(encoding="utf-8"))
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SNIPPETS = [code for language, code in CODE.findall(CARD) if language == "python"]
COMMANDS = [code.strip() for language, code in CODE.findall(CARD) if language == "bash"]

# Stands for `python`: CIFAR-100 is not downloaded, but small data of our own in its layout; all else is as it is.
PYTHON = """#!/bin/sh
exec {python} -c 'import runpy, sys
sys.path.insert(0, ".")
sys.argv = sys.argv[1:]
import data
data._download_cifar100 = lambda: "{data}"
runpy.run_path(sys.argv[0], run_name="__main__")' "$@"
"""


@pytest.fixture(scope="module")
def hub():
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
    """A copy of this repository, with an activated environment and data under the name that the card has."""
    tree = tmp_path_factory.mktemp("card") / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".clients", "__pycache__"))
    (tree / ".venv").symlink_to(sys.prefix)
    data = write_official(tree.parent / "cifar-100-python", labels=CIFAR100_LABELS)
    with tarfile.open(tree / "cifar-100-dev.tar.gz", "w:gz") as tar:
        tar.add(data, data.name)
    (tree.parent / "bin").mkdir()
    python = tree.parent / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable, data=str(data)))
    python.chmod(0o755)
    return tree


def run(command, cwd, hub, home, path=""):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH", "KERAS_"))}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(path)}
    env |= {"PATH": f"{cwd.parent / 'bin'}{os.pathsep}{env['PATH']}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_card_has_the_snippets_and_commands_that_are_run_here():
    assert len(SNIPPETS) == 3 and len(COMMANDS) == 5
    assert {language for language, _ in CODE.findall(CARD)} == {"python", "bash", "bibtex"}


def test_keras_loads_it_from_the_hub_without_our_code(hub, tmp_path):
    assert "hf://" in SNIPPETS[0]
    assert run([sys.executable, "-c", SNIPPETS[0]], tmp_path, hub, tmp_path / "home").split() == ["apple"]


def test_an_older_client_loads_the_saved_model_from_the_hub_without_our_code(hub, tmp_path):
    code = SNIPPETS[1] + "import numpy; print(model.predict(numpy.zeros((2, 32, 32, 3)), verbose=0).shape)"
    client = installed("huggingface_hub==0.36.2")
    assert run([sys.executable, "-c", code], tmp_path, hub, tmp_path / "home", client).strip() == "(2, 100)"


def test_our_code_loads_it_from_the_hub_and_names_the_classes(hub, tree, tmp_path):
    assert "'label': 'apple'" in run([sys.executable, "-c", SNIPPETS[2]], tree, hub, tmp_path)


def test_the_first_command_predicts_the_samples(hub, tree, tmp_path):
    """Less the installation, which `.ci/run` does."""
    *install, predict = COMMANDS[0].split(" && ")
    assert install == ["python3.11 -m venv .venv", ".venv/bin/pip install -r requirements.txt"]
    assert run(["bash", "-c", predict], tree, hub, tmp_path).count(".png\n") == len(list((ROOT / "samples").glob("*.png")))


@pytest.mark.slow  # a new environment, some gigabytes
def test_the_first_command_runs_whole(hub, tree, tmp_path):
    (tree / ".venv").unlink()
    try:
        assert "apple" in run(["bash", "-c", COMMANDS[0]], tree, hub, tmp_path)
    finally:
        shutil.rmtree(tree / ".venv")
        (tree / ".venv").symlink_to(sys.prefix)


def test_the_second_command_is_what_ci_runs():
    install, test = COMMANDS[1].rsplit(" && ", 1)
    ci = (ROOT / ".ci" / "run").read_text()
    assert install.replace("pip install ", "pip install -q ") in ci and f"\n{test}\n" in ci


def test_the_evaluation_command_measures_the_model(hub, tree, tmp_path):
    results = json.loads(run(["bash", "-c", COMMANDS[2]], tree, hub, tmp_path))
    assert results["num_images"] == 48 and results["model"] == RESULTS["model"]


def test_a_retrained_model_is_pushed_as_the_card_has_it(hub, tree, tmp_path):
    train, push = COMMANDS[3:]
    assert train.splitlines() == [one["command"] for one in runs_of(RESULTS["training"])]
    made = parse_args(shlex.split(train.splitlines()[-1])[2:]).output
    assert f" {made} " in push
    run(["bash", "-ec", train], tree, hub, tmp_path)
    results = json.loads((tree / made / "eval_results.json").read_text(encoding="utf-8"))
    made, shipped = ({**r["training"]["recipe"], "ema": None} for r in (results, RESULTS))  # ema follows the steps there are
    assert made == shipped
    said = run(["bash", "-c", push], tree, hub, tmp_path)
    assert "USER/NAME" in said and "model.weights.h5" in said and "USER/NAME" not in hub.repos


# ------------------------------------------------------------------------------------------------------- the numbers

# What no file here holds: published figures of others, whose sources the card names, and versions of packages.
PUBLISHED = {"43.91 %", "74.71 %", "0.36 M", "66.90 %", "0.28 M", "68.83 %", "0.29 M", "72.29 %", "0.80 M", "78.81 %"}
PUBLISHED |= {"3.76 M", "80.92 %", "0.48 M", "70.46 %", "0.19 M", "71.59 %"}
VERSIONS = {"3.11", "0.36", "1.0", "2.0"}  # of Python, Keras, huggingface_hub; the licence
SETTINGS = {"2 %"}  # train.py --validation-split


@pytest.mark.parametrize("name", sorted(set(REGIONS) - {"samples", "classes"}))  # samples: test_shipped, to the digit it has
def test_a_region_says_what_its_json_says(name):
    config = EANetConfig.from_json_file(ROOT / "config.json")
    found = re.search(f"^<!-- {name} -->\n(.*?)\n<!-- /{name} -->$", CARD, re.DOTALL | re.MULTILINE)
    assert found[1] == REGIONS[name](RESULTS, config, Path(ROOT))
    assert "Not measured" not in found[1]


def test_no_number_stands_outside_the_regions_but_those_of_others():
    words = CODE.sub("", re.sub(r"^<!-- ([\w-]+) -->$.*?^<!-- /\1 -->$", "", CARD, flags=re.DOTALL | re.MULTILINE))
    words = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", words)
    unit = r"%|M\b|ms\b|s\b|MB\b|×(?!\d)|times\b|seconds\b|minutes\b|hours\b|pictures/s"
    found = {m[0].rstrip(".,") for m in re.finditer(rf"\d[\d,]*\.\d+(?: ?(?:{unit}))?|\d[\d,]* ?(?:{unit})", words)}
    assert found == PUBLISHED | VERSIONS | SETTINGS


def test_the_part_that_watched_the_training_is_the_one_on_the_card():
    assert f"{100 * RESULTS['training']['recipe']['validation_split']:g} % of which watched the training" in CARD
