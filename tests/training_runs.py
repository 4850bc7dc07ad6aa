"""Runs that several test modules look at, trained when first asked for, and ways to run train.py."""

import contextlib
import functools
import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import run_main, shared, write_official

import eanet.trainer  # noqa: F401  # binds what without_saved_model patches
import train
from eanet import run_dir, saving
from modeling_eanet import CIFAR100_LABELS

EPOCHS, STEPS, PEAK, EMA = 5, 16, 0.01, 0.9
RECIPE = ["--preset", "tiny", "--epochs", EPOCHS, "--batch-size", 16, "--validation-split", 0.2, "--seed", 3]
RECIPE += ["--learning-rate", PEAK, "--warmup-epochs", 1, "--ema", EMA]
SAVED_MODEL = {
    *("saved_model.pb", "keras_metadata.pb", "fingerprint.pb"),
    *("variables/variables.index", "variables/variables.data-00000-of-00001"),
}
FIGURES = {f"figures/{name}" for name in ("figures.json", "curves.png", "confusion.png", "calibration.png")}
ARTEFACTS = (
    SAVED_MODEL
    | FIGURES
    | {
        *("config.json", "metadata.json", "model.weights.h5"),
        *(f"test_samples/{colour}_{number}.png" for colour in ("red", "green", "blue") for number in (1, 2)),
        *("history.json", "eval_results.json", "settings.json", "checkpoint.npz", "report.json", "report.md"),
        *("logs/train/events.out.tfevents.eanet", "logs/validation/events.out.tfevents.eanet"),
    }
)


def main(*args):
    """Run train.py in this process; return (exit status, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_main(train, *args)
    return status, out.getvalue(), err.getvalue()


def train_config(*args):
    """Return the TrainConfig of a command line."""
    return train.config_from_args(train.parse_args([str(arg) for arg in args]))


@functools.cache
def colours():
    """Return a data set in CIFAR-100's layout, for RECIPE."""
    return shared("colours", lambda folder: write_official(folder / "cifar-100-python", 320, 64)) / "cifar-100-python"


@functools.cache
def finished():
    """Return a finished run of RECIPE: (folder, standard output with --json, standard error). Must not be changed."""

    def build(folder):
        status, out, err = main("--data", colours(), *RECIPE, "--output", folder / "finished" / "run", "--json")
        assert status == 0, err
        (folder / "printed.json").write_text(json.dumps([out, err]))

    folder = shared("finished", build)
    return folder / "finished" / "run", *read_json(folder / "printed.json")


@functools.cache
def watched():
    """Run RECIPE again, without the SavedModel; return (folder, weights before and after each step, learning rates).

    "two epochs" next to the folder is a copy made after two epochs.
    """
    folder = shared("watched", _watch)
    with open(folder / "steps.pickle", "rb") as file:
        return folder / "run", *pickle.load(file)


def _watch(folder):
    import keras

    weights, rates = [], []
    train_on_batch, save = keras.Model.train_on_batch, run_dir.Checkpoint.save

    def watch_step(model, *args, **kwargs):
        rates.append(float(model.optimizer.learning_rate))
        before = model.get_weights()
        result = train_on_batch(model, *args, **kwargs)
        weights.append((before, model.get_weights()))
        return result

    def watch_epoch(checkpoint, history, elapsed):
        if len(history["loss"]) == 3:  # the third epoch is not saved yet
            shutil.copytree(folder / "run", folder / "two epochs")
        save(checkpoint, history, elapsed)

    with without_saved_model() as patch:
        patch.setattr(keras.Model, "train_on_batch", watch_step)
        patch.setattr(run_dir.Checkpoint, "save", watch_epoch)
        status, _, err = main("--data", colours(), *RECIPE, "--output", folder / "run")
        assert status == 0, err
    (folder / "steps.pickle").write_bytes(pickle.dumps((weights, rates)))


def two_epochs(folder):
    """Copy a run of RECIPE that was stopped after two epochs into `folder`."""
    return shutil.copytree(watched()[0].with_name("two epochs"), folder / "run", ignore=shutil.ignore_patterns(".lock"))


@contextlib.contextmanager
def without_saved_model():
    """Skip writing the SavedModel, which takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "can_write_saved_model", lambda: False)
        yield patch


@contextlib.contextmanager
def eager_steps():
    """Do not compile steps, which takes longer than running the first few dozen."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@contextlib.contextmanager
def quick_runs(figures=False):
    """Do not compile steps, and write neither a SavedModel nor, unless asked for, figures."""
    with eager_steps(), without_saved_model() as patch:
        if not figures:
            patch.setitem(sys.modules, "matplotlib", None)
        yield patch


def quick_run(data, folder, *options):
    """Train the tiny preset on `data` in `folder`, with all files of a run, and return the folder."""
    with quick_runs(figures=True):
        assert run_main(train, "--data", data, "--preset", "tiny", *options, "--output", folder) == 0
    saving.add_saved_model(folder)
    return folder


@functools.cache
def cifar_run():
    """Return a run with the classes of CIFAR-100, trained for one epoch on all of "cifar-100-python" next to its folder."""

    def build(folder):
        data = write_official(folder / "cifar-100-python", train=128, labels=CIFAR100_LABELS)
        quick_run(data, folder / "run", "--epochs", 1, "--batch-size", 64, "--ema", 0, "--validation-split", 0)

    return shared("cifar_run", build) / "run"


def error_line(status, err):
    """Return the only line of train.py on standard error, after exit status 2."""
    ours = [line for line in err.splitlines() if line.startswith("train.py:")]
    assert status == 2 and len(ours) == 1 and ours[0].startswith("train.py: error: "), err
    assert "Traceback" not in err
    return ours[0]


def read_json(path):
    """Return the contents of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def files_in(folder):
    """Return {path relative to `folder`: bytes} of all files below it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights_in(folder):
    """Return {name: array} of model.weights.h5."""
    weights = {}
    with h5py.File(folder / "model.weights.h5") as file:
        file.visititems(lambda name, item: weights.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return weights


def assert_same_weights(folder, other):
    """Compare the saved weights of two runs bit by bit."""
    one, two = weights_in(folder), weights_in(other)
    assert one.keys() == two.keys() and one
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], name)


def events_in(folder):
    """Return {tag: [(step, value), ...]} as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_logs_match_history(folder):
    """Compare the TensorBoard log of a run with its history.json."""
    expected = {"train": {}, "validation": {}}
    for key, values in read_json(folder / "history.json").items():
        if key != "time":
            run, tag = ("validation", key[4:]) if key.startswith("val_") else ("train", key)
            expected[run][f"epoch_{tag}"] = [(i, float(np.float32(v))) for i, v in enumerate(values)]
    for run, tags in expected.items():
        assert events_in(folder / "logs" / run) == tags
