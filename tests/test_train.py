"""Training from data to artefacts: what a run writes, how it goes on, and how it fails."""

import contextlib
import dataclasses
import io
import itertools
import json
import math
import os
import pickle
import resource
import shutil
import signal
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ROOT, colour_pictures, run_program, write_official
from PIL import Image

import modeling_eanet
import train
from data import Split, load_dataset
from modeling_eanet import EANetConfig, from_pretrained_keras, model_checksum
from training_form import MaskedDropout, training_form

EPOCHS, STEPS, PEAK, EMA = 5, 16, 0.01, 0.9
RECIPE = ["--preset", "tiny", "--epochs", EPOCHS, "--batch-size", 16, "--validation-split", 0.2, "--seed", 3]
RECIPE += ["--learning-rate", PEAK, "--warmup-epochs", 1, "--ema", EMA]
ARTEFACTS = {
    *("config.json", "metadata.json", "model.weights.h5"),
    *("saved_model.pb", "keras_metadata.pb", "fingerprint.pb"),
    *("variables/variables.index", "variables/variables.data-00000-of-00001"),
    *("history.json", "eval_results.json", "settings.json", "checkpoint.npz"),
    *("logs/train/events.out.tfevents.eanet", "logs/validation/events.out.tfevents.eanet"),
}


def main(*args):
    """`train.main` with standard output and error as text: (exit status, out, err)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = train.main(list(map(str, args)))
        except SystemExit as leave:  # argparse
            status = leave.code
    return status, out.getvalue(), err.getvalue()


def run_patched(folder, code, *args, **kwargs):
    """Runs train.py in a process of its own after `code`."""
    lines = "".join(f"    {line}\n" for line in code.strip().splitlines())
    (folder / "patched.py").write_text(f"import train\n\ndef main():\n{lines}    return train.main()\n")
    return run_program("patched", *args, env={"PYTHONPATH": str(folder)}, **kwargs)


def read_json(path):
    return json.loads(Path(path).read_text())


def files_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def weights_in(folder):
    weights = {}
    with h5py.File(folder / "model.weights.h5") as file:
        file.visititems(lambda name, item: weights.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    return weights


def assert_same_weights(folder, other):
    one, two = weights_in(folder), weights_in(other)
    assert one.keys() == two.keys() and one
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], name)


def events_in(folder):
    """{tag: [(step, value), ...]} as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_logs_are_the_history(folder):
    history = read_json(folder / "history.json")
    expected = {"train": {}, "validation": {}}
    for key, values in history.items():
        if key != "time":
            run, tag = ("validation", key[4:]) if key.startswith("val_") else ("train", key)
            expected[run][f"epoch_{tag}"] = [(i, float(np.float32(v))) for i, v in enumerate(values)]
    for run, tags in expected.items():
        assert events_in(folder / "logs" / run) == tags


def assert_is_one_error_line(status, err):
    """Exit status 2 and a single line from train.py; TensorFlow's own lines, written by C++ on import, are left aside."""
    ours = [line for line in err.splitlines() if line.startswith("train.py:")]
    assert status == 2
    assert len(ours) == 1 and ours[0].startswith("train.py: error: "), err
    assert "Traceback" not in err
    return ours[0]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_official(tmp_path_factory.mktemp("colours") / "cifar-100-python", train=320, test=64)


@pytest.fixture(scope="module")
def finished(colours, tmp_path_factory):
    """A finished run: (folder, standard output, standard error). Tests must not change the folder."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    status, out, err = main("--data", colours, *RECIPE, "--output", folder)
    assert status == 0, err
    return folder, out, err


@pytest.fixture(scope="module")
def watched(colours, tmp_path_factory):
    """The same run once more, watched: (folder, weights before and after each step, learning rates).

    Beside the folder is a copy, as it was after two epochs.
    """
    import keras

    folder = tmp_path_factory.mktemp("watched") / "run"
    weights, rates = [], []
    train_on_batch, save = keras.Model.train_on_batch, train.Checkpoint.save

    def watch_step(model, *args, **kwargs):
        rates.append(float(model.optimizer.learning_rate))
        before = model.get_weights()
        result = train_on_batch(model, *args, **kwargs)
        weights.append((before, model.get_weights()))
        return result

    def watch_epoch(checkpoint, history, elapsed):
        if len(history["loss"]) == 3:  # its third epoch is not saved yet
            shutil.copytree(folder, folder.with_name("two epochs"))
        save(checkpoint, history, elapsed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_eanet, "can_write_saved_model", lambda: False)
        patch.setattr(keras.Model, "train_on_batch", watch_step)
        patch.setattr(train.Checkpoint, "save", watch_epoch)
        assert main("--data", colours, *RECIPE, "--output", folder)[0] == 0
    return folder, weights, rates


@pytest.fixture
def no_saved_model(monkeypatch):
    """Runs do not write the SavedModel, which takes seconds, for tests that are about something else."""
    monkeypatch.setattr(modeling_eanet, "can_write_saved_model", lambda: False)


@contextlib.contextmanager
def eager():
    """Steps are not compiled, which takes longer than to run the first few dozen."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def two_epochs(watched, tmp_path):
    """A run that was stopped after two of its epochs; a copy to go on with."""
    return shutil.copytree(watched[0].with_name("two epochs"), tmp_path / "run")


# ------------------------------------------------------------------------------------------------- what a run writes


def test_a_run_writes_all_of_its_files_and_no_others(finished):
    assert files_in(finished[0]).keys() == ARTEFACTS
    assert [p.name for p in finished[0].parent.iterdir()] == ["run"]


def test_a_run_learns(finished):
    history, results = (read_json(finished[0] / name) for name in ("history.json", "eval_results.json"))
    assert results["accuracy"] > 0.8
    assert history["val_accuracy"][-1] > 0.8
    assert history["loss"][-1] < history["loss"][0]


def test_the_history_has_every_epoch_of_every_measure(finished):
    history = read_json(finished[0] / "history.json")
    assert history.keys() == {*("loss", "accuracy", "learning_rate", "images_per_s", "val_loss", "val_accuracy", "time")}
    assert {len(values) for values in history.values()} == {EPOCHS}
    assert history["time"] == sorted(history["time"])


def test_tensorboard_reads_the_history(finished):
    assert_logs_are_the_history(finished[0])
    assert events_in(finished[0] / "logs" / "validation").keys() == {"epoch_loss", "epoch_accuracy"}


def test_standard_output_is_the_results_alone_and_each_epoch_has_its_line_on_standard_error(finished):
    folder, out, err = finished
    assert json.loads(out) == read_json(folder / "eval_results.json")
    first, *lines = err.splitlines()
    assert "256 pictures, 5 epochs of 16 steps" in first
    assert [line.split()[:2] for line in lines] == [["epoch", f"{i}/{EPOCHS}"] for i in range(1, EPOCHS + 1)]


def test_eval_results_have_the_documented_schema(finished, colours):
    import keras
    import tensorflow as tf

    results, model = read_json(finished[0] / "eval_results.json"), from_pretrained_keras(finished[0])
    date, hardware, seconds = (results["training"].pop(key) for key in ("date", "hardware", "wall_time_s"))
    assert len(date.split("-")) == 3 and hardware.endswith("CPU cores") and 0 < seconds < 600
    measures = {key: results.pop(key) for key in ("accuracy", "top5_accuracy", "loss")}
    assert all(type(value) is float for value in measures.values())
    command = "python train.py --data cifar-100-python --preset tiny --epochs 5 --batch-size 16 --seed 3"
    command += " --validation-split 0.2 --learning-rate 0.01 --warmup-epochs 1.0 --ema 0.9"
    assert results == {
        "num_images": 64,
        "dataset": {"id": "", "name": "cifar-100-python", "split": "test", "note": ""},
        "model": {
            "preset": "tiny",
            "parameters": model.count_params(),
            "checksum": model_checksum(model),
        },
        "training": {
            "seed": 3,
            "epochs": EPOCHS,
            "num_images": 256,
            "init_from": None,
            "begun_with": None,
            "data_crc32": read_json(finished[0] / "settings.json")["data_crc32"],
            "backend": f"tensorflow {tf.__version__}",
            "final_loss": read_json(finished[0] / "history.json")["loss"][-1],
            "command": command,
            "recipe": read_json(finished[0] / "settings.json")["recipe"] | {"init_from": None, "ema": 0.9},
        },
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "keras": keras.__version__,
            "backend": "tensorflow",
            "tensorflow": tf.__version__,
        },
    }


def test_the_recorded_command_names_the_same_run(finished):
    command = read_json(finished[0] / "eval_results.json")["training"]["command"].split()
    args = train.parse_args(command[2:])
    assert {name: getattr(args, name) for name in train.RECIPE} == read_json(finished[0] / "settings.json")["recipe"]


def test_the_measures_are_those_of_the_saved_weights(finished, colours):
    import keras

    record = pickle.loads((colours / "test").read_bytes())
    x, y = record[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(record[b"fine_labels"])
    probabilities = keras.saving.load_model(finished[0]).predict(x, verbose=0)
    results = read_json(finished[0] / "eval_results.json")
    assert results["accuracy"] == np.mean(probabilities.argmax(axis=1) == y)
    assert results["top5_accuracy"] == 1
    assert results["loss"] == pytest.approx(-np.log(probabilities[np.arange(64), y]).mean(), rel=1e-5)


def test_top_1_and_top_5_count_the_classes_that_score_higher(monkeypatch):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(20), 500)
    split = Split(np.zeros((500, 1)), rng.integers(0, 20, 500), "test")
    monkeypatch.setattr(train, "predict_probabilities", lambda model, x, batch: probabilities)
    results = train.evaluate(None, split)
    best = np.argsort(-probabilities, axis=1)
    assert results["accuracy"] == np.mean(best[:, 0] == split.y)
    assert results["top5_accuracy"] == np.mean([y in row for row, y in zip(best[:, :5], split.y, strict=True)])
    true = np.take_along_axis(probabilities, split.y[:, None], axis=1)
    assert results["loss"] == pytest.approx(-np.log(true).mean())

    probabilities[:] = 1 / 20  # a model that knows nothing is right about nothing
    assert train.evaluate(None, split)["top5_accuracy"] == 0


def test_evaluate_only_prints_what_the_run_recorded_and_nothing_else(finished, colours, capfd):
    assert train.main(["--evaluate-only", "--model", str(finished[0]), "--data", str(colours), "--split", "test"]) == 0
    out, _ = capfd.readouterr()
    assert json.loads(out) == read_json(finished[0] / "eval_results.json")


def test_evaluate_only_measures_the_split_that_is_asked_for(finished, colours):
    status, out, _ = main("--evaluate-only", "--model", finished[0], "--data", colours, "--split", "train")
    results = json.loads(out)
    assert (status, results["num_images"], results["dataset"]["split"]) == (0, 320, "train")
    assert results["training"] == read_json(finished[0] / "eval_results.json")["training"]


@eager()
def test_a_mixed_precision_run_is_measured_in_the_precision_it_ships(colours, tmp_path, no_saved_model):
    import keras

    recipe = ["--preset", "tiny", "--epochs", 1, "--precision", "mixed_bfloat16", "--batch-size", 64]
    status, out, err = main("--data", colours, *recipe, "--output", tmp_path / "run")
    assert status == 0, err
    assert keras.config.dtype_policy().name == "float32"
    _, again, _ = main("--evaluate-only", "--model", tmp_path / "run", "--data", colours)
    assert json.loads(out) == json.loads(again)
    assert {array.dtype for array in weights_in(tmp_path / "run").values()} == {np.dtype("float32")}


def test_no_file_of_a_run_names_a_place_on_this_machine(finished, colours):
    places = {str(finished[0].parent), str(colours.parent), str(ROOT), sys.prefix, str(Path.home()), os.getcwd()} - {"/"}
    for name, content in files_in(finished[0]).items():
        assert [place for place in places if place.encode() in content] == [], name


def test_the_artefacts_hold_the_weights_alone(finished):
    import tensorflow as tf

    folder = finished[0]
    parameters = read_json(folder / "eval_results.json")["model"]["parameters"]
    assert sum(array.size for array in weights_in(folder).values()) == parameters
    assert not any("optimizer" in name for name in weights_in(folder))
    saved = tf.train.list_variables(str(folder / "variables" / "variables"))
    assert not any("optimizer" in name or "moment" in name for name, _ in saved)
    shapes = {tuple(shape) for name, shape in saved if "CHECKPOINTABLE_OBJECT_GRAPH" not in name}
    assert shapes - {(2,)} == {array.shape for array in weights_in(folder).values()}  # (2,) is the state of a dropout


def test_the_artefacts_hold_no_optimizer_and_no_augmentation(finished):
    settings = read_json(finished[0] / "config.json")
    assert not settings.get("compile_config")
    classes = {layer["class_name"] for layer in settings["config"]["layers"]}
    assert not any("Random" in name or "Augment" in name or "Pipeline" in name for name in classes)
    for name in ("config.json", "keras_metadata.pb", "saved_model.pb"):
        content = (finished[0] / name).read_bytes()
        assert not any(word in content for word in (b"AdamW", b"RandomFlip", b"RandomCrop", b"RandomTranslation")), name


@eager()
def test_class_folders_without_a_test_split_are_measured_on_the_validation_split(tmp_path, no_saved_model):
    for i, (picture, colour) in enumerate(zip(*colour_pictures(40), strict=True)):
        folder = tmp_path / "pictures" / "train" / "rgb"[colour]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i}.png")
    recipe = ["--preset", "tiny", "--epochs", 1, "--batch-size", 16, "--validation-split", 0.25, "--seed", 1]
    status, out, err = main("--data", tmp_path / "pictures", *recipe, "--output", tmp_path / "run")
    assert status == 0, err
    results = json.loads(out)
    note = "10 pictures of the train split, held out by seed 1"
    assert f"no test split: measured on {note}" in err
    assert results["dataset"] == {"id": "", "name": f"pictures ({note})", "split": "validation", "note": note}
    assert results["num_images"] == 10
    assert EANetConfig.from_json_file(tmp_path / "run" / "config.json").id2label == {0: "b", 1: "g", 2: "r"}


# ------------------------------------------------------------------------------------------------ how it is trained


def test_the_same_seed_gives_the_same_weights(finished, watched):
    assert_same_weights(finished[0], watched[0])


@eager()
def test_another_seed_gives_other_weights(colours, tmp_path, no_saved_model):
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        recipe = [*RECIPE, "--epochs", 2, "--batch-size", 128, "--seed", seed]
        status, _, err = main("--data", colours, *recipe, "--output", tmp_path / name)
        assert status == 0, err
    assert_same_weights(tmp_path / "one", tmp_path / "same")
    one, other = weights_in(tmp_path / "one"), weights_in(tmp_path / "other")
    assert one.keys() == other.keys()
    assert not any(np.array_equal(one[name], other[name]) for name in one)


def test_the_saved_weights_are_the_moving_average_and_not_the_last_ones(watched):
    folder, steps, _ = watched
    average = steps[0][1]
    for _, weights in steps[1:]:
        average = [EMA * a + (1 - EMA) * w for a, w in zip(average, weights, strict=True)]
    saved = from_pretrained_keras(folder).weights
    for weight, ours, last in zip(saved, average, steps[-1][1], strict=True):
        theirs = np.asarray(weight)
        if weight.trainable:  # the statistics of batch norms are not averaged, but measured
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(theirs, last), weight.path


def test_norms_are_measured_over_whole_batches_of_the_weights_there_are():
    import keras

    rng = np.random.default_rng(0)
    batches = [(rng.normal(3, 2, (8, 4)).astype(np.float32), None) for _ in range(5)]
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.7), keras.layers.Dense(2)])
    model(batches[0][0] + 100, training=True)  # what was there before must leave no trace
    train._measure_norms(model, types.SimpleNamespace(seed=0, epoch=lambda _: batches), epoch=0, count=len(batches))
    norm = model.layers[0]
    assert norm.momentum == 0.7
    np.testing.assert_allclose(norm.moving_mean, np.mean([x.mean(axis=0) for x, _ in batches], axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([x.var(axis=0) for x, _ in batches], axis=0), rtol=1e-4)


@pytest.mark.parametrize(("precision", "digits"), [("float32", 1e-5), ("mixed_bfloat16", 1e-2)])
def test_a_fused_norm_trains_as_that_of_keras_does(precision, digits):
    """The same answers, gradients and statistics."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    with modeling_eanet.dtype_policy(precision):
        image = keras.Input((8, 8, 16))
        theirs = keras.Model(image, keras.layers.BatchNormalization(momentum=0.7)(image))
    theirs.config, theirs.jit_compile = EANetConfig(), False
    theirs.set_weights([w + rng.uniform(0.1, 1, w.shape).astype(np.float32) for w in theirs.get_weights()])
    ours = training_form(theirs)
    assert type(ours.layers[1]) is not type(theirs.layers[1])
    ours.set_weights(theirs.get_weights())
    x = tf.constant(rng.normal(3, 2, (4, 8, 8, 16)).astype(np.float32))
    pull = rng.normal(0, 1, x.shape).astype(np.float32)
    found = []
    for model in (theirs, ours):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cast(model(x, training=True), tf.float32)
            loss = tf.reduce_mean(y * pull)
        gradients = tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])
        found.append([y, *gradients, *model.non_trainable_variables, model(x, training=False)])
    assert len(found[0]) == 7
    for one, two in zip(*(map(np.asarray, each) for each in found), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=digits * np.abs(one).max())


def test_the_model_that_trains_has_fused_norms_and_the_one_that_is_shipped_those_of_keras():
    import keras

    def kinds(model):
        return {type(layer) for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}

    plain = modeling_eanet.build_eanet(EANetConfig.preset("tiny"))
    fused = training_form(plain)
    assert [w.path for w in fused.weights] == [w.path for w in plain.weights] and fused.config == plain.config
    assert kinds(plain) == kinds(modeling_eanet.inference_copy(fused)) == {keras.layers.BatchNormalization}
    assert len(kinds(fused)) == 1 and not kinds(fused) & kinds(plain)
    plain.jit_compile = True  # XLA fuses by itself
    assert kinds(training_form(plain)) == kinds(plain)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_four_linear_maps_of_the_paper_train_as_two(norm):
    """The same answers, gradients and order of weights, two products over the tokens less on either side."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    rates = dict(attention_dropout=0.0, projection_dropout=0.0, mlp_dropout=0.0, drop_path=0.0)
    theirs = modeling_eanet.build_eanet(
        EANetConfig.preset("tiny", shared_memory=True, norm=norm, activation="silu", **rates)
    )
    theirs.set_weights([w + rng.normal(0, 0.1, w.shape).astype(np.float32) ** 2 for w in theirs.get_weights()])
    ours = training_form(theirs)
    assert len(ours.layers) < len(theirs.layers) and ours.count_params() == theirs.count_params()
    for one, two in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    x, y = rng.integers(0, 256, (8, 32, 32, 3)), np.eye(100, dtype=np.float32)[:8]
    found = []
    for model in (theirs, ours):
        with tf.GradientTape() as tape:
            probabilities = model(x, training=True)
            loss = keras.losses.CategoricalCrossentropy()(y, probabilities)
        found.append([probabilities, *tape.gradient(loss, [v.value for v in model.trainable_variables])])
    largest = max(float(np.abs(gradient).max()) for gradient in found[0][1:])
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-2, atol=1e-5 * max(1, largest))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_dropout_drops_its_part_and_keeps_the_mean(precision):
    with modeling_eanet.dtype_policy(precision):
        dropout = MaskedDropout(0.2, seed=0)
    x = np.ones((101, 7, 331), np.float32)  # an odd number of values
    one, two = (np.asarray(dropout(x, training=True), np.float32) for _ in range(2))
    assert set(np.unique(one)) == {0, one.max()} and one.max() == pytest.approx(1.25, abs=1e-2)
    assert (one == 0).mean() == pytest.approx(0.2, abs=5e-3) and (one != two).mean() == pytest.approx(0.32, abs=5e-3)
    np.testing.assert_array_equal(np.asarray(dropout(x, training=False), np.float32), x)
    with modeling_eanet.dtype_policy(precision):
        nearly_all = np.asarray(MaskedDropout(1 - 1e-9, seed=0)(x, training=True), np.float32)
    assert np.isfinite(nearly_all).all() and (nearly_all == 0).mean() > 0.999


@pytest.mark.parametrize("preset", ["small", "keras-io"])
def test_the_form_that_trains_has_the_precision_of_the_model_it_is_made_of(preset):
    with modeling_eanet.dtype_policy("mixed_bfloat16"):
        plain = modeling_eanet.build_eanet(EANetConfig.preset(preset))
    dtypes = {layer.name: layer.output.dtype for layer in plain.layers}
    for layer in training_form(plain).layers:
        assert layer.output.dtype == dtypes.get(layer.name, "bfloat16"), layer.name  # no other name than that of a pair


def test_a_short_run_forgets_its_first_weights_in_the_average():
    """0.998 would keep 94 % of them over 30 steps."""
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    momenta = {}
    for steps in (3, 30, 1000, 10_000, 100_000):
        args = train.parse_args(["--epochs", "1"])
        momenta[steps] = train._optimizer(args, model, steps).ema_momentum
        assert momenta[steps] ** steps < 1e-6
    assert momenta[100_000] == momenta[10_000] == 0.998 and momenta[3] == 0
    assert train._optimizer(train.parse_args(["--epochs", "1", "--ema", "0.5"]), model, 30).ema_momentum == 0.5


def test_measuring_the_moving_average_after_an_epoch_leaves_the_weights_alone(watched):
    _, steps, _ = watched
    assert len(steps) == EPOCHS * STEPS
    for (_, after), (before, _) in itertools.pairwise(steps):
        for one, two in zip(after, before, strict=True):
            np.testing.assert_array_equal(one, two)


def test_validation_measures_the_moving_average_on_the_pictures_held_out(finished, colours):
    model = from_pretrained_keras(finished[0])
    training, validation = load_dataset(str(colours), model.config).carve_validation(0.2, seed=3)
    assert len(training) == STEPS * 16 and len(validation) == 64
    history, measured = read_json(finished[0] / "history.json"), train.evaluate(model, validation)
    assert history["val_accuracy"][-1] == measured["accuracy"]
    assert history["val_loss"][-1] == pytest.approx(measured["loss"], rel=0.1)  # its norms were measured on fewer batches


def test_the_learning_rate_warms_up_and_follows_a_cosine_to_0(watched):
    folder, _, rates = watched
    total = EPOCHS * STEPS
    cosine = [PEAK * (1 + math.cos(math.pi * (i - STEPS) / (total - STEPS))) / 2 for i in range(STEPS, total + 1)]
    expected = [PEAK * i / STEPS for i in range(STEPS)] + cosine
    np.testing.assert_allclose(rates, expected[:-1], rtol=1e-4, atol=1e-8)
    history = read_json(folder / "history.json")
    np.testing.assert_allclose(history["learning_rate"], expected[STEPS::STEPS], rtol=1e-4, atol=1e-8)
    assert history["learning_rate"][0] == pytest.approx(PEAK) and history["learning_rate"][-1] < 1e-6


def test_weight_decay_spares_biases():
    import keras

    args = train.parse_args(["--preset", "small", "--weight-decay", "0.5"])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    optimizer = train._optimizer(args, model, 10)
    optimizer.build(model.trainable_variables)
    kernel, bias = model.trainable_variables
    assert optimizer.weight_decay == 0.5 and optimizer._use_weight_decay(kernel) and not optimizer._use_weight_decay(bias)


# ----------------------------------------------------------------------------------------------------- how it goes on


def test_a_run_killed_twice_ends_with_the_weights_of_one_that_was_not(finished, colours, tmp_path):
    folder = tmp_path / "run"
    command = ["--data", colours, *RECIPE, "--output", folder]
    kill_in_mid_epoch = """
import os, signal
epoch = train.Batches.epoch
def killed(self, number, *cutmix):
    for step, batch in enumerate(epoch(self, number, *cutmix)):
        if (number, step) == (2, 5):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
train.Batches.epoch = killed
"""
    assert run_patched(tmp_path, kill_in_mid_epoch, *command).returncode == -signal.SIGKILL
    assert files_in(folder).keys() == {name for name in ARTEFACTS if name.startswith(("logs", "settings", "checkpoint"))}
    kill_in_mid_checkpoint = """
import json, os, signal
savez = train.np.savez
def killed(file, **arrays):
    if len(json.loads(str(arrays["meta"]))["history"]["loss"]) == 4:
        file.write(b"PK half a file")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    savez(file, **arrays)
train.np.savez = killed
"""
    result = run_patched(tmp_path, kill_in_mid_checkpoint, *command)
    assert result.returncode == -signal.SIGKILL and "going on after epoch 2 of 5" in result.stderr

    result = run_program("train", *command)
    assert result.returncode == 0, result.stderr
    assert "going on after epoch 3 of 5" in result.stderr
    assert "WARNING:tensorflow" not in result.stderr and "Traceback" not in result.stderr
    assert json.loads(result.stdout) == read_json(folder / "eval_results.json")

    assert_same_weights(finished[0], folder)
    ours, theirs = read_json(folder / "history.json"), read_json(finished[0] / "history.json")
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        assert ours[key] == theirs[key]
    assert {len(values) for values in ours.values()} == {EPOCHS}
    assert_logs_are_the_history(folder)
    assert files_in(folder).keys() == ARTEFACTS


def test_a_finished_command_run_again_trains_nothing_and_changes_no_weights(finished, colours, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.setattr(train, "_train_epoch", lambda *args: pytest.fail("trained again"))
    for resume in ([], ["--resume"]):
        status, out, err = main("--data", colours, *RECIPE, "--output", folder, *resume)
        assert status == 0, err
        assert_same_weights(finished[0], folder)
        assert_logs_are_the_history(folder)
        before, after = files_in(finished[0]), files_in(folder)
        for name in ("checkpoint.npz", "history.json", "settings.json"):
            assert before[name] == after[name]
        assert {**json.loads(out)["training"], "date": 0} == {**json.loads(finished[1])["training"], "date": 0}


def test_resuming_where_there_is_no_run_is_an_error(colours, tmp_path):
    status, out, err = main("--data", colours, *RECIPE, "--output", tmp_path / "run", "--resume")
    assert "--resume" in assert_is_one_error_line(status, err) and str(tmp_path / "run") in err
    assert out == "" and not (tmp_path / "run").exists()


def test_resuming_a_run_that_has_no_checkpoint_yet_is_an_error(two_epochs, colours):
    (two_epochs / "checkpoint.npz").unlink()
    status, _, err = main("--data", colours, *RECIPE, "--output", two_epochs, "--resume")
    assert "holds no checkpoint yet" in assert_is_one_error_line(status, err)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: whole.replace(b".npy", b".nqy")],
    ids=["cut short", "empty", "renamed"],
)
def test_a_damaged_checkpoint_is_an_error_and_is_left_alone(two_epochs, colours, damage):
    path = two_epochs / "checkpoint.npz"
    path.write_bytes(damage(path.read_bytes()))
    before = files_in(two_epochs)
    status, _, err = main("--data", colours, *RECIPE, "--output", two_epochs)
    line = assert_is_one_error_line(status, err)
    assert str(path) in line and "cannot be resumed from" in line
    assert files_in(two_epochs) == before


# ------------------------------------------------------------------------------------------------------ how it fails


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--preset", "enormous"),
        ("--epochs", "0"),
        ("--epochs", "-1"),
        ("--epochs", "x"),
        ("--epochs", "1.5"),
        ("--batch-size", "0"),
        ("--validation-split", "1.5"),
        ("--validation-split", "-0.1"),
        ("--validation-split", "nan"),
        ("--seed", "-1"),
        ("--seed", "4294967296"),
        ("--learning-rate", "0"),
        ("--learning-rate", "inf"),
        ("--weight-decay", "-1"),
        ("--label-smoothing", "1"),
        ("--ema", "1"),
        ("--precision", "float16"),
        ("--split", "validation"),
    ],
)
def test_a_bad_value_is_a_usage_error_that_names_option_and_value(option, value):
    status, out, err = main(option, value)
    last = err.splitlines()[-1]
    assert (status, out) == (2, "")
    assert last.startswith("train.py: error: ") and option in last and value in last


def test_evaluating_needs_a_model():
    status, _, err = main("--evaluate-only", "--data", "somewhere")
    assert status == 2 and err.splitlines()[-1] == "train.py: error: --evaluate-only needs --model DIR_OR_REPO"


def test_an_output_folder_of_another_run_is_an_error_that_names_the_difference(finished, colours):
    before = files_in(finished[0])
    for option, value, theirs in (("--seed", 99, 3), ("--epochs", 6, 5), ("--learning-rate", 0.5, 0.01)):
        status, out, err = main("--data", colours, *RECIPE, "--output", finished[0], option, value)
        assert f"holds another run, with {option} {theirs} instead of {value}; " in assert_is_one_error_line(status, err)
        assert out == ""
    assert files_in(finished[0]) == before


def test_an_output_folder_of_a_run_on_other_data_is_an_error(finished, tmp_path):
    before = files_in(finished[0])
    other = write_official(tmp_path / "cifar-100-python", train=321, test=64)
    status, _, err = main("--data", other, *RECIPE, "--output", finished[0])
    assert f"holds a run on other data than --data {other}" in assert_is_one_error_line(status, err)
    assert files_in(finished[0]) == before


def test_an_output_folder_with_other_files_is_an_error(colours, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    status, _, err = main("--data", colours, *RECIPE, "--output", tmp_path)
    assert f"--output {tmp_path}: is not empty" in assert_is_one_error_line(status, err)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_output_that_is_a_file_is_an_error(colours, tmp_path):
    path = tmp_path / "thesis.tex"
    path.write_text("mine")
    for output in (path, path / "run"):
        status, _, err = main("--data", colours, *RECIPE, "--output", output)
        assert str(path) in assert_is_one_error_line(status, err)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"recipe": 1, "data_crc32": 2}', '{"recipe": {}}'])
def test_damaged_settings_are_an_error(colours, tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    status, _, err = main("--data", colours, *RECIPE, "--output", tmp_path)
    assert "settings.json is damaged; name another folder" in assert_is_one_error_line(status, err)


def test_data_that_is_not_there_is_an_error(tmp_path):
    status, _, err = main("--data", tmp_path / "nowhere", *RECIPE, "--output", tmp_path / "run")
    assert f"--data {tmp_path / 'nowhere'}: no such file or folder" in assert_is_one_error_line(status, err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_exporting_a_folder_without_a_model_is_an_error(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    status, out, err = main("--export", tmp_path / folder)
    assert str(tmp_path / folder) in assert_is_one_error_line(status, err)
    assert out == "" and list((tmp_path / "empty").iterdir()) == []


def test_a_folder_to_export_is_never_looked_for_on_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    status, _, err = main("--export", "runs/small")
    assert "--export runs/small: no such folder" in assert_is_one_error_line(status, err)


def test_exporting_without_the_tensorflow_backend_is_an_error(finished, monkeypatch):
    before = files_in(finished[0])
    monkeypatch.setattr(train, "can_write_saved_model", lambda: False)
    status, _, err = main("--export", finished[0])
    assert "KERAS_BACKEND=tensorflow" in assert_is_one_error_line(status, err)
    assert files_in(finished[0]) == before


def test_evaluating_a_model_folder_that_is_not_there_is_an_error(colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for missing in (tmp_path / "nowhere", "nowhere", "runs/nowhere"):
        status, out, err = main("--evaluate-only", "--model", missing, "--data", colours)
        assert_is_one_error_line(status, err)
        assert out == ""


def test_evaluating_on_data_of_other_classes_is_an_error(finished, tmp_path):
    other = write_official(tmp_path / "other", labels=("red", "green", "violet"))
    status, out, err = main("--evaluate-only", "--model", finished[0], "--data", other)
    line = assert_is_one_error_line(status, err)
    assert f"--data {other}: its classes are not those of --model {finished[0]} (blue); it must have all 3" in line
    assert out == ""


def test_evaluating_a_split_that_is_not_there_is_an_error(finished, tmp_path):
    for colour in ("red", "green", "blue"):
        (tmp_path / "train" / colour).mkdir(parents=True)
        Image.fromarray(colour_pictures(1)[0][0]).save(tmp_path / "train" / colour / "a.png")
    status, _, err = main("--evaluate-only", "--model", finished[0], "--data", tmp_path, "--split", "test")
    assert f"--split test: --data {tmp_path} has no such split" in assert_is_one_error_line(status, err)


def test_evaluating_weights_that_are_no_numbers_is_an_error(finished, colours, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        file.visititems(lambda name, item: item.write_direct(item[()] * np.nan) if isinstance(item, h5py.Dataset) else None)
    status, out, err = main("--evaluate-only", "--model", folder, "--data", colours)
    assert "its weights are damaged" in assert_is_one_error_line(status, err) and out == ""


def test_bad_arguments_are_reported_before_tensorflow_is_imported(finished, colours, tmp_path):
    other = write_official(tmp_path / "other", labels=("red", "green", "violet"))
    (tmp_path / "thesis.tex").write_text("mine")
    output = ["--output", str(tmp_path / "run")]
    commands = [
        ["--epochs", "0", *output],
        ["--preset", "enormous", *output],
        ["--evaluate-only"],
        ["--data", str(tmp_path / "nowhere"), *output],
        ["--data", str(colours), "--validation-split", "0.999", *output],
        ["--data", str(colours), *RECIPE, "--output", str(tmp_path)],
        ["--data", str(colours), *RECIPE, "--output", str(finished[0]), "--seed", "99"],
        ["--data", str(other), *RECIPE, "--output", str(finished[0])],
        ["--data", str(colours), *RECIPE, "--resume", *output],
        ["--evaluate-only", "--model", str(tmp_path / "nowhere"), "--data", str(colours)],
        ["--evaluate-only", "--model", str(finished[0]), "--data", str(other)],
        ["--export", str(tmp_path / "nowhere")],
        ["--export", str(tmp_path)],
    ]
    code = """
import json, sys
for command in json.loads(sys.argv[1]):
    try:
        status = train.main(command)
    except SystemExit as leave:
        status = leave.code
    print(status, "tensorflow" in sys.modules, "keras" in sys.modules)
sys.exit(0)
"""
    commands = [[str(word) for word in command] for command in commands]
    result = run_patched(tmp_path, code, json.dumps(commands))
    assert result.stdout.splitlines() == ["2 False False"] * len(commands), result.stderr
    assert "Traceback" not in result.stderr


def limit_files(size):
    """For a process about to start: what it writes beyond `size` bytes of a file fails as on a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_too_full_for_a_checkpoint_is_one_line_and_leaves_all_as_it_was(two_epochs, colours):
    before = files_in(two_epochs)
    limit = len(before["checkpoint.npz"]) - 1
    result = run_program("train", "--data", colours, *RECIPE, "--output", two_epochs, preexec_fn=limit_files(limit))
    assert "File too large" in assert_is_one_error_line(result.returncode, result.stderr)
    assert result.stdout == ""
    assert files_in(two_epochs) == before


def test_a_disk_too_full_for_the_artefacts_is_one_line_and_leaves_the_earlier_ones(finished, two_epochs, colours):
    shutil.copytree(finished[0], two_epochs, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint.npz", "logs"))
    (two_epochs / "model.weights.h5").write_bytes(b"earlier")
    before = files_in(two_epochs)
    limit = (len(before["checkpoint.npz"]) + len(before["saved_model.pb"])) // 2
    assert len(before["checkpoint.npz"]) * 1.1 < limit < len(before["saved_model.pb"])
    result = run_program("train", "--data", colours, *RECIPE, "--output", two_epochs, preexec_fn=limit_files(limit))
    assert "File too large" in assert_is_one_error_line(result.returncode, result.stderr)
    assert result.stdout == ""
    after = files_in(two_epochs)
    assert [name for name in before if before[name] != after.get(name)] == [
        "checkpoint.npz",  # it went on to the end of the run
        "logs/train/events.out.tfevents.eanet",
        "logs/validation/events.out.tfevents.eanet",
    ]
    assert after.keys() == before.keys()
    assert [p.name for p in two_epochs.parent.iterdir()] == ["run"]


def nan_targets(patch):
    epoch = train.Batches.epoch
    patch.setattr(train.Batches, "epoch", lambda self, *args: ((x, y * np.nan) for x, y in epoch(self, *args)))


def nan_weights_after_a_last_finite_loss(patch):
    import keras

    train_on_batch, steps = keras.Model.train_on_batch, []

    def diverge(model, *args, **kwargs):
        result = train_on_batch(model, *args, **kwargs)
        steps.append(result)
        if len(steps) == STEPS:
            model.set_weights([weight * np.nan for weight in model.get_weights()])
        return result

    patch.setattr(keras.Model, "train_on_batch", diverge)


@pytest.mark.parametrize(("epochs", "with_cutmix"), [(1, 0), (2, 1), (10, 9), (29, 27), (40, 36)])
def test_the_last_tenth_of_the_epochs_sees_whole_pictures(epochs, with_cutmix, monkeypatch):
    args = train.parse_args(["--epochs", str(epochs), "--cutmix", "0.25"])
    seen = []

    class Spy:
        batch_size = 1

        def __len__(self):
            return 1

        def epoch(self, number, cutmix):
            seen.append(cutmix)
            return iter(())

    model = type("Model", (), {"variables": (), "optimizer": type("Optimizer", (), {"learning_rate": 0.1})})
    for epoch in range(epochs):
        train._train_epoch(model, Spy(), epoch, args)
    assert seen == [0.25] * with_cutmix + [0.0] * (epochs - with_cutmix)


def test_a_diverging_run_stops_and_its_checkpoint_before_that_is_good(finished, two_epochs, colours, no_saved_model):
    before = files_in(two_epochs)
    for divergence in (nan_targets, nan_weights_after_a_last_finite_loss):
        with pytest.MonkeyPatch.context() as patch, eager():
            divergence(patch)
            status, out, err = main("--data", colours, *RECIPE, "--output", two_epochs)
        line = assert_is_one_error_line(status, err)
        assert "epoch 3" in line and "--learning-rate below 0.01" in line
        assert out == "" and files_in(two_epochs) == before

    status, _, err = main("--data", colours, *RECIPE, "--output", two_epochs)
    assert status == 0 and "going on after epoch 2 of 5" in err
    assert_same_weights(finished[0], two_epochs)


@eager()
def test_a_learning_rate_that_is_far_too_high_is_one_line(colours, tmp_path, no_saved_model):
    recipe = ["--preset", "tiny", "--epochs", 2, "--warmup-epochs", 0, "--learning-rate", 1e30, "--batch-size", 32]
    status, out, err = main("--data", colours, *recipe, "--output", tmp_path / "run")
    assert "diverged in epoch 1" in assert_is_one_error_line(status, err)
    assert out == "" and files_in(tmp_path / "run").keys() == {"settings.json"}


# ----------------------------------------------------------------------------------------------- without TensorFlow


def test_a_run_without_tensorflow_writes_all_but_the_saved_model_and_export_adds_it(colours, tmp_path):
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
    result = run_program("train", "--data", colours, *RECIPE, "--output", folder, env=env)
    assert result.returncode == 0, result.stderr
    assert f"python train.py --export {folder}" in result.stderr and "Traceback" not in result.stderr
    saved_model = {name for name in ARTEFACTS if name.endswith(".pb") or name.startswith("variables")}
    assert files_in(folder).keys() == ARTEFACTS - saved_model
    results = json.loads(result.stdout)
    assert results == read_json(folder / "eval_results.json")
    assert results["versions"]["backend"] == "jax" and "tensorflow" not in results["versions"]
    assert results["accuracy"] > 0.8
    assert_logs_are_the_history(folder)

    before = shutil.copytree(folder, tmp_path / "before")
    assert main("--export", folder) == (0, "", "")
    assert files_in(folder).keys() == ARTEFACTS
    assert_same_weights(folder, before)
    for name in ("checkpoint.npz", "history.json", "eval_results.json", "settings.json"):
        assert (folder / name).read_bytes() == (before / name).read_bytes()

    record = pickle.loads((colours / "test").read_bytes())
    x = record[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (probabilities,) = serve(tf.constant(x)).values()
    np.testing.assert_allclose(probabilities, from_pretrained_keras(folder).predict(x, verbose=0), atol=1e-6)
    true = probabilities.numpy()[np.arange(64), record[b"fine_labels"]]
    assert results["loss"] == pytest.approx(-np.log(true).mean(), abs=1e-4)  # JAX measured the same model


# ------------------------------------------------------------------------------------------- from another model's weights


@eager()
def test_init_from_begins_with_the_weights_and_the_architecture_of_another_model(
    finished, colours, tmp_path, no_saved_model
):
    recipe = ["--epochs", 1, "--batch-size", 64, "--learning-rate", 1e-9, "--weight-decay", 0, "--validation-split", 0]
    status, out, err = main("--data", colours, *recipe, "--init-from", finished[0], "--output", tmp_path / "same")
    assert status == 0, err
    one, two = from_pretrained_keras(finished[0]), from_pretrained_keras(tmp_path / "same")
    assert one.config == two.config
    for before, after in zip(one.trainable_weights, two.trainable_weights, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6, err_msg=before.path)
    training = json.loads(out)["training"]
    assert training["init_from"] == "run" and training["command"].endswith("--init-from run")
    assert training["recipe"]["init_from"] == "run" and str(finished[0]) not in out
    assert training["begun_with"] == read_json(finished[0] / "eval_results.json")["training"]

    fruits = write_official(tmp_path / "fruits", labels=("tomato", "lime", "plum"))
    status, _, err = main("--data", fruits, *recipe, "--init-from", finished[0], "--output", tmp_path / "fruit")
    assert status == 0 and "classifier begins anew, for 3 classes" in err
    three = from_pretrained_keras(tmp_path / "fruit")
    assert three.config == dataclasses.replace(one.config, id2label=("tomato", "lime", "plum"))
    for before, after in zip(one.trainable_weights, three.trainable_weights, strict=True):
        taken = np.allclose(after, before, atol=1e-6)
        assert taken == ("classifier" not in before.path) or not np.any(before)


@eager()
def test_a_run_goes_on_without_the_model_that_it_began_with(finished, colours, tmp_path, no_saved_model):
    first = shutil.copytree(finished[0], tmp_path / "first")
    recipe = ["--data", colours, "--epochs", 1, "--batch-size", 64, "--seed", 3, "--validation-split", 0.2]
    recipe += ["--init-from", first, "--output", tmp_path / "run"]
    status, out, err = main(*recipe)
    assert status == 0, err
    shutil.rmtree(first)
    status, again, err = main(*recipe)
    assert (status, json.loads(again)) == (0, json.loads(out)), err
    assert json.loads(again)["training"]["begun_with"]["epochs"] == EPOCHS


@pytest.mark.parametrize("option", [("--seed", 4), ("--validation-split", 0.1)])
def test_pictures_that_the_first_weights_were_trained_on_are_not_held_out(finished, colours, tmp_path, option):
    recipe = ["--seed", 3, "--validation-split", 0.2, *option]
    status, _, err = main("--data", colours, *recipe, "--init-from", finished[0], "--output", tmp_path / "run")
    assert "give --seed 3 --validation-split 0.2, or --validation-split 0" in assert_is_one_error_line(status, err)
    assert not (tmp_path / "run").exists()


def test_the_recorded_command_names_the_folders_it_is_given_from_where_it_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def command(*args):
        return train._command(train.parse_args([str(arg) for arg in args]))

    assert command("--output", "runs/small") == command("--output", tmp_path / "runs" / "small") == "python train.py"
    assert command("--output", "runs/mine") == "python train.py --output runs/mine"
    assert command("--output", tmp_path.parent / "elsewhere") == "python train.py"
    assert command("--init-from", "runs/small") == "python train.py --init-from runs/small"
    assert command("--init-from", "user/name", "--output", "runs/tuned") == "python train.py --init-from user/name"
    assert command("--init-from", ".") == "python train.py --init-from ."
    assert command("--init-from", tmp_path.parent / "elsewhere") == "python train.py --init-from elsewhere"


def test_init_from_what_is_no_model_is_one_line(colours, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, words in ((tmp_path / "none", "no such model folder"), (tmp_path / "empty", "config.json")):
        status, out, err = main("--data", colours, "--init-from", source, "--output", tmp_path / "run")
        assert words in assert_is_one_error_line(status, err)
        assert not (tmp_path / "run").exists()
    status, _, err = main("--data", colours, "--init-from", tmp_path, "--preset", "small", "--output", tmp_path / "run")
    assert status == 2 and "--init-from" in err


# ------------------------------------------------------------------------------------------------ another architecture


@eager()
def test_set_changes_a_field_of_the_architecture_and_the_command_says_so(colours, tmp_path, no_saved_model):
    recipe = ["--preset", "tiny", "--epochs", 1, "--batch-size", 64, "--set", "slots=[2,3]", "--set", "norm=layer"]
    status, out, err = main("--data", colours, *recipe, "--output", tmp_path / "run")
    assert status == 0, err
    config = from_pretrained_keras(tmp_path / "run").config
    assert config.slots == (2, 3) and config.norm == "layer" and config.embed_dims == (16, 24)
    results = json.loads(out)
    assert results["model"]["preset"] == "custom"
    assert results["training"]["command"].endswith("--set 'slots=[2,3]' --set norm=layer")
    status, _, err = main("--data", colours, *recipe[:-2], "--output", tmp_path / "run")
    assert "--set" in assert_is_one_error_line(status, err)


@pytest.mark.parametrize(
    ("setting", "words"), [("slot=[1,2]", "slot=[1,2]"), ("slots=[1]", "slots"), ("norm=group", "norm")]
)
def test_a_setting_that_does_not_fit_is_one_line(setting, words, colours, tmp_path):
    status, _, err = main("--data", colours, "--preset", "tiny", "--set", setting, "--output", tmp_path / "run")
    assert status == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()
