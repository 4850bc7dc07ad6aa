"""`train.py --inspect`, and what a run says and writes about its data."""

import json
import sys
import zipfile

import numpy as np
import pytest
from conftest import only_line, paint, run_main
from training_runs import quick_runs

import train
from eanet.data import Batches, Split, balanced_class_weights


@pytest.fixture
def folder(tmp_path):
    """Twelve images of two classes, three to validate, one text."""
    for name, count in (("train/red", 8), ("train/green", 4), ("val/red", 2), ("val/green", 1)):
        for i in range(count):
            paint(tmp_path / "set" / name / f"{i}.png", name.split("/")[1])
    (tmp_path / "set" / "train" / "red" / "notes.txt").write_text("text")
    return tmp_path / "set"


FOUND = {
    "classes": ["green", "red"],
    "train": 12,
    "validation": 3,
    "test": None,
    "left_out": [{"path": "train/red/notes.txt", "reason": "not an image (.txt)"}],
}


def test_inspect_prints_one_object(folder, capsys):
    assert run_main(train, "--data", folder, "--inspect") == 0
    assert json.loads(only_line(capsys.readouterr().out)) == FOUND


def test_inspect_of_an_archive(folder, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    assert run_main(train, "--data", tmp_path / "set.zip", "--inspect") == 0
    assert json.loads(capsys.readouterr().out) == FOUND


def test_inspect_of_data_that_cannot_be_used(tmp_path, capsys):
    assert run_main(train, "--data", tmp_path, "--inspect") == 2
    out, error = capsys.readouterr()
    assert out == "" and only_line(error).startswith(f"train.py: error: {tmp_path}: no images with labels in it")


def test_strict_inspection(folder, capsys):
    assert run_main(train, "--data", folder, "--inspect", "--strict") == 2
    assert "1 file cannot be read, and strict is on" in only_line(capsys.readouterr().err)


def test_inspect_imports_no_tensorflow(folder):
    import subprocess

    code = "import sys, train; train.main(['--data', sys.argv[1], '--inspect']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=train.os.path.dirname(train.__file__)
    )
    assert done.returncode == 0 and not {"'tensorflow'", "'keras'", "'datasets'"} & set(done.stderr[1:-2].split(", "))


def test_run_says_and_records_what_it_found(folder, tmp_path, capsys):
    options = ("--data", folder, "--preset", "tiny", "--epochs", 1, "--batch-size", 4, "--output", tmp_path / "run")
    with quick_runs():
        assert run_main(train, *options, "--class-weights", "balanced") == 0
    error = capsys.readouterr().err
    found = "images: 12 train, 3 validation (3 of them also in train), no test split"
    assert f"set: 2 classes (green, red)\n{found}\nleft out: 1 file: " in error
    assert json.loads((tmp_path / "run" / "left_out.json").read_text()) == FOUND["left_out"]
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert results["num_images"] == 3 and results["dataset"]["split"] == "validation"
    assert results["dataset"]["note"] == "validation split, 3 of its 3 images also in train"
    assert results["training"]["recipe"]["class_weights"] == "balanced"
    assert "--class-weights balanced" in results["training"]["command"]
    assert run_main(train, *options) == 2
    message = "holds another run, with class_weights balanced instead of none"
    assert message in only_line(capsys.readouterr().err)


def test_class_weights_mix_as_the_targets_do():
    y = np.repeat([0, 1], [6, 2])
    weights = balanced_class_weights(y, 2)
    batches = Batches(Split(np.zeros((8, 8, 8, 3), np.uint8), y, "train"), 2, 4, 0, class_weights=weights)
    for x, targets in batches.epoch(0, 1.0):
        got = batches.sample_weights(targets)
        assert got.shape == (len(x),)
        np.testing.assert_allclose(got, targets @ np.array([8 / 12, 2.0]), rtol=1e-6)
    assert Batches(Split(np.zeros((8, 8, 8, 3), np.uint8), y, "train"), 2, 4, 0).sample_weights(y) is None
