"""Whole runs of train.py: stopped and resumed, on a full disk, and without TensorFlow."""

import contextlib
import json
import operator
import pickle
import re
import resource
import shutil
import signal

import numpy as np
import pytest
from conftest import only_line, run_program
from isolated import run_patched
from training_runs import (
    ARTEFACTS,
    EPOCHS,
    FIGURES,
    RECIPE,
    SAVED_MODEL,
    assert_logs_match_history,
    assert_same_weights,
    colours,
    error_line,
    files_in,
    finished,
    main,
    read_json,
    train_config,
    two_epochs,
    without_saved_model,
)

from eanet import trainer
from eanet.data.listing import listing_checksum
from eanet.run_dir import Checkpoint, finished_results
from modeling_eanet import from_pretrained_keras


def test_resume_is_bit_equal(tmp_path):
    """Stopped in the third epoch, then killed while writing a checkpoint: the weights are those of an uninterrupted run."""
    folder = two_epochs(tmp_path)
    command = ["--data", colours(), *RECIPE, "--output", folder]
    assert files_in(folder).keys() == {name for name in ARTEFACTS if name.startswith(("logs", "settings", "checkpoint"))}
    kill_in_checkpoint = """
import json, os, signal
from eanet import run_dir
savez = run_dir.np.savez
def killed(file, **arrays):
    if len(json.loads(str(arrays["meta"]))["history"]["loss"]) == 4:
        file.write(b"PK half a file")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    savez(file, **arrays)
run_dir.np.savez = killed
"""
    result = run_patched(tmp_path, kill_in_checkpoint, *command)
    assert result.returncode == -signal.SIGKILL and "resuming after epoch 2 of 5" in result.stderr

    result = run_program("train", *command)
    assert result.returncode == 0, result.stderr
    assert "resuming after epoch 3 of 5" in result.stderr
    assert len(result.stderr.splitlines()) == 5, result.stderr  # nothing from TensorFlow
    assert "no figures: matplotlib is not installed" in result.stderr

    assert_same_weights(finished()[0], folder)
    ours, theirs = read_json(folder / "history.json"), read_json(finished()[0] / "history.json")
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert ours[key] == theirs[key]
    assert {len(values) for values in ours.values()} == {5}
    assert_logs_match_history(folder)
    assert files_in(folder).keys() == ARTEFACTS - FIGURES
    summary = result.stdout.splitlines()
    assert len(summary) == 4 and summary[0].startswith("top-1 ") and "trained for 5 epochs in" in summary[1]
    assert (
        summary[2].startswith(f"written to {folder}") and summary[3] == f"next: python inference.py IMAGE --model {folder}"
    )


def test_time_left_is_that_of_the_machine_that_resumes(tmp_path, monkeypatch):
    folder, restore = two_epochs(tmp_path), Checkpoint.restore
    monkeypatch.setattr(Checkpoint, "restore", lambda self: (restore(self)[0], 1e7))  # seconds, on a slow machine
    with without_saved_model():
        status, _, err = main("--data", colours(), *RECIPE, "--output", folder, "--stop-after", 4)
    assert status == 0, err
    (line,) = [line for line in err.splitlines() if line.startswith("epoch 3/5")]
    assert re.search(r"  \d+ s left$", line), line


def test_finished_run_is_answered_from_its_results(tmp_path):
    """Before data is decoded and TensorFlow imported."""
    folder, out, _ = finished()
    before = files_in(folder)
    command = ["--data", colours(), *RECIPE, "--output", folder, "--json"]
    code = """
import sys
from eanet import run_dir
run_dir.load_dataset = None
def main(argv=None):
    status = train.main(argv)
    assert not {"tensorflow", "keras"} & set(sys.modules)
    return status
"""
    result = run_patched(tmp_path, code, *command)
    assert (result.returncode, result.stdout) == (0, out), result.stderr
    hint = f"to train its weights further, use init_from {folder} and another folder"
    assert only_line(result.stderr) == f"output {folder}: already complete, 5 epochs; {hint}"
    assert files_in(folder) == before

    status, _, err = main(*command, "--epochs", 6)
    assert error_line(status, err).endswith(f"with epochs 5 instead of 6; {hint}")


@pytest.mark.parametrize("missing", ["eval_results.json", "model.weights.h5"])
def test_finished_run_writes_what_is_missing_and_trains_no_more(tmp_path, monkeypatch, missing):
    folder = shutil.copytree(finished()[0], tmp_path / "run")
    (folder / missing).unlink()
    monkeypatch.setattr(trainer, "train_epoch", lambda *args: pytest.fail("trained again"))
    with without_saved_model():
        status, out, err = main("--data", colours(), *RECIPE, "--output", folder, "--resume", "--json")
    assert status == 0, err
    assert_same_weights(finished()[0], folder)
    assert_logs_match_history(folder)
    before, after = files_in(finished()[0]), files_in(folder)
    for name in ("checkpoint.npz", "history.json", "settings.json"):
        assert before[name] == after[name]
    assert {**json.loads(out)["training"], "date": 0} == {**json.loads(finished()[1])["training"], "date": 0}


def test_finished_run_on_data_with_a_changed_file_is_not_answered(tmp_path):
    data = shutil.copytree(colours(), tmp_path / "cifar-100-python")
    command = ["--data", data, *RECIPE, "--output", finished()[0]]
    assert finished_results(train_config(*command))
    (data / "note.txt").touch()
    assert finished_results(train_config(*command)) is None


def test_another_file_of_the_same_size_is_other_data(tmp_path):
    tables = [tmp_path / name for name in ("labels.csv", "labels.csv.gz", "labels.txt", "labels.json", "labels.lst")]
    for path in (files := [tmp_path / "data.tar", *tables]):
        path.write_bytes(b"a" * 10_240)
    (tmp_path / "0.png").touch()
    before = [listing_checksum(path) for path in files]
    assert before == [listing_checksum(path) for path in files]
    (tmp_path / "0.png").write_bytes(b"an image")
    assert all(map(operator.ne, before[1:], [listing_checksum(path) for path in tables]))
    (tmp_path / "0.png").write_bytes(b"")
    for path in files:
        path.write_bytes(b"b" * 10_240)
    assert all(map(operator.ne, before, [listing_checksum(path) for path in files]))


@contextlib.contextmanager
def limited_files(size):
    """Limit the files of this process to `size` bytes, as if the disk were full."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_disk_full_for_the_checkpoint_leaves_everything(tmp_path):
    folder = two_epochs(tmp_path)
    before = files_in(folder)
    with limited_files(len(before["checkpoint.npz"]) - 1):
        status, out, err = main("--data", colours(), *RECIPE, "--output", folder)
    assert "File too large" in error_line(status, err)
    assert out == "" and files_in(folder) == before


def test_disk_full_for_the_artefacts_leaves_the_earlier_ones(tmp_path):
    folder = two_epochs(tmp_path)
    shutil.copytree(finished()[0], folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint.npz", "logs"))
    (folder / "model.weights.h5").write_bytes(b"earlier")
    before = files_in(folder)
    limit = (len(before["checkpoint.npz"]) + len(before["saved_model.pb"])) // 2
    assert len(before["checkpoint.npz"]) * 1.1 < limit < len(before["saved_model.pb"])
    with limited_files(limit):
        status, out, err = main("--data", colours(), *RECIPE, "--output", folder)
    assert "File too large" in error_line(status, err)
    assert out == ""
    after = files_in(folder)
    assert [name for name in before if before[name] != after.get(name)] == [
        "checkpoint.npz",  # training went on to the end
        "logs/train/events.out.tfevents.eanet",
        "logs/validation/events.out.tfevents.eanet",
    ]
    assert after.keys() == before.keys()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_model_can_be_written_before_the_last_epoch_and_training_go_on(tmp_path):
    output = tmp_path / "run"
    with without_saved_model():
        status, _, err = main("--data", colours(), *RECIPE, "--stop-after", 1, "--output", output)
    assert status == 0, err
    training = read_json(output / "eval_results.json")["training"]
    assert training["epochs"] == 1 and training["recipe"]["epochs"] == EPOCHS
    assert training["command"].endswith(" --stop-after 1") and len(read_json(output / "history.json")["loss"]) == 1
    status, _, err = main("--data", colours(), *RECIPE, "--stop-after", 1, "--output", output)
    stopped = f"stopped after 1 of {EPOCHS} epochs, as stop_after says; without it, the same command resumes"
    assert status == 0 and only_line(err) == f"output {output}: {stopped}"
    with without_saved_model():
        with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(trainer, "calibrate", lambda *args, **kwargs: 1 / 0)  # after the last epoch
            main("--data", colours(), *RECIPE, "--output", output)
        assert read_json(output / "eval_results.json")["training"]["epochs"] == 1
        status, _, err = main("--data", colours(), *RECIPE, "--output", output)
    assert status == 0, err
    assert_same_weights(output, finished()[0])
    assert "--stop-after" not in read_json(output / "eval_results.json")["training"]["command"]
    line = error_line(*operator.itemgetter(0, 2)(main("--data", colours(), *RECIPE, "--stop-after", 1, "--output", output)))
    assert f"stop_after 1: output {output} already holds {EPOCHS} epochs" in line


def test_run_without_tensorflow_and_export_after_it(tmp_path):
    import tensorflow as tf

    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow', 'tf_keras'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    folder = tmp_path / "run"
    env = {"PYTHONPATH": str(tmp_path), "KERAS_BACKEND": "jax"}
    recipe = [*RECIPE, "--epochs", 2]
    result = run_program("train", "--data", colours(), *recipe, "--output", folder, "--json", env=env)
    assert result.returncode == 0, result.stderr
    assert f"python train.py --export {folder}" in result.stderr and "Traceback" not in result.stderr
    assert files_in(folder).keys() == ARTEFACTS - SAVED_MODEL
    results = json.loads(result.stdout)
    assert results == read_json(folder / "eval_results.json")
    assert results["versions"]["backend"] == "jax" and "tensorflow" not in results["versions"]
    assert results["accuracy"] > 0.8
    assert_logs_match_history(folder)

    before = shutil.copytree(folder, tmp_path / "before")
    assert main("--export", folder) == (0, f"wrote the SavedModel in {folder}\n", "")
    assert files_in(folder).keys() == ARTEFACTS
    assert_same_weights(folder, before)
    for name in ("checkpoint.npz", "history.json", "eval_results.json", "settings.json"):
        assert (folder / name).read_bytes() == (before / name).read_bytes()

    record = pickle.loads((colours() / "test").read_bytes())
    x = record[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (probabilities,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(probabilities, from_pretrained_keras(folder).predict(x, verbose=0), atol=1e-6)
    true = probabilities.numpy()[np.arange(64), record[b"fine_labels"]]
    assert results["loss"] == pytest.approx(-np.log(true).mean(), abs=1e-4)  # JAX measured the same model
