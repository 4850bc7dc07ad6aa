"""Distillation: the loss, runs with a teacher, and which teachers are refused."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import types

import h5py
import numpy as np
import pytest
from conftest import ROOT, colour_images, tiny_config, write_official
from training_runs import (
    assert_same_weights,
    colours,
    error_line,
    main,
    quick_runs,
    read_json,
    train_config,
    without_saved_model,
)

from eanet import run_dir, trainer
from eanet.cli import write_json
from eanet.data import Batches, Split, load_dataset
from eanet.distillation import check_teacher, distillation_loss, label_accuracy, load_teacher, pack_targets
from eanet.run_dir import lineage, prepare_run, reproducing_command, weights_checksum
from eanet.train_config import TrainConfig
from modeling_eanet import EANetConfig, UserError, from_pretrained_keras

QUICK = ["--preset", "tiny", "--epochs", 2, "--batch-size", 64, "--seed", 3, "--validation-split", 0.2]


def config(output, teacher, *options, data=None):
    return train_config("--data", data or colours(), *QUICK, "--teacher", teacher, "--output", output, *options)


def error_of(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        prepare_run(config(*args, **kwargs))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Loss -----------------------------------------------------------------------------------------------------------------


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("weight", "temperature", "smoothing"), [(0.9, 1.5, 0.1), (0.5, 4.0, 0.0), (1.0, 1.0, 0.1), (0, 2, 0.2)]
)
def test_loss_is_the_formula(weight, temperature, smoothing):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 2, (2, 16, 7))
    labels = softmax(rng.normal(0, 3, (16, 7)))  # as CutMix mixes them
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    divergence = (p * np.log(p / q)).sum(axis=-1)
    smooth = labels * (1 - smoothing) + smoothing / 7
    entropy = -(smooth * np.log(softmax(student))).sum(axis=-1)
    expected = weight * temperature**2 * divergence + (1 - weight) * entropy
    targets = np.stack([labels, softmax(teacher)], axis=1).astype(np.float32)
    found = distillation_loss(weight, temperature, smoothing)(targets, softmax(student).astype(np.float32))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-5)


def test_loss_is_finite_for_certain_probabilities():
    certain = np.eye(3, dtype=np.float32)
    loss = np.asarray(distillation_loss(0.9, 1.5, 0.1)(np.stack([certain, certain[::-1]], axis=1), certain))
    assert np.isfinite(loss).all() and loss.max() > 1


def test_accuracy_is_of_the_labels():
    metric = label_accuracy()
    labels, teacher = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 2, 0]]
    metric.update_state(np.stack([labels, teacher], axis=1), labels[[0, 1, 0]])
    assert metric.name == "accuracy" and float(metric.result()) == pytest.approx(2 / 3)


def test_the_teacher_sees_the_students_batches_each_while_the_student_is_at_the_one_before():
    images, y = colour_images(3 * 4)[0].reshape(3, 4, 32, 32, 3), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    taught, started, seen = [], [threading.Event() for _ in images], []

    class Teacher:
        def predict_on_batch(self, x):
            started[len(taught)].set()
            taught.append(x)
            return np.full((4, 3), len(taught), np.float32)

    class Student:
        variables, optimizer = (), types.SimpleNamespace(learning_rate=0.1)

        def reset_metrics(self):
            pass

        def train_on_batch(self, x, targets, weights, return_dict):
            seen.append((x, targets, weights))
            assert all(event.wait(10) for event in started[: len(seen) + 1])
            return {"loss": 1.0, "accuracy": 0.0}

    class Three:
        batch_size = 4

        def __len__(self):
            return 3

        def epoch(self, number, cutmix):
            yield from ((x, y) for x in images)

        def sample_weights(self, targets):
            return targets @ np.array([1, 2, 3])

    trainer.train_epoch(Student(), Three(), 0, TrainConfig().resolved(4), Teacher())
    for number, (x, targets, weights) in enumerate(seen, 1):
        assert x is taught[number - 1] and (x == images[number - 1]).all()
        np.testing.assert_array_equal(weights, [1, 2, 3, 1])
        assert targets.shape == (4, 2, 3) and targets.dtype == np.float32
        np.testing.assert_array_equal(targets[:, 0], y)
        np.testing.assert_array_equal(targets[:, 1], np.full((4, 3), number, np.float32))
    assert len(seen) == 3


def test_an_error_of_the_teacher_ends_the_training():
    class Teacher:
        def predict_on_batch(self, x):
            raise MemoryError

    student = types.SimpleNamespace(variables=())
    batches = Batches(Split(*colour_images(8), "train"), 3, 4, seed=0)
    with pytest.raises(MemoryError):
        trainer.train_epoch(student, batches, 0, TrainConfig().resolved(8), Teacher())


# Runs -----------------------------------------------------------------------------------------------------------------


def train_and_resume(data, teacher, output, **options):
    """Train "unbroken" for some epochs, two by default, and "resumed" from a copy of it after one; print the backend."""
    options = dict(epochs=2, distill=0.8) | options
    options |= dict(data=data, preset="tiny", batch_size=64, teacher=teacher, validation_split=0)
    save = run_dir.Checkpoint.save

    def save_and_copy(self, history, elapsed):
        save(self, history, elapsed)
        if len(history["loss"]) == 1:
            shutil.copytree(f"{output}/unbroken", f"{output}/resumed", ignore=shutil.ignore_patterns(".lock"))

    with quick_runs() as patch:
        patch.setattr(run_dir.Checkpoint, "save", save_and_copy)
        trainer.train(TrainConfig(**options, output=f"{output}/unbroken"))
        print(trainer.train(TrainConfig(**options, output=f"{output}/resumed"))["versions"]["backend"])


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_distilled_run_resumes_bit_equal(backend, colour_folder, tmp_path, capsys):
    args = [str(path) for path in (colours(), colour_folder, tmp_path)]
    if backend == "tensorflow":
        train_and_resume(*args)
        out, err = capsys.readouterr()
    else:
        code = "import sys; sys.path[:0] = sys.argv[1:3]; import test_distillation as t; t.train_and_resume(*sys.argv[3:])"
        command = [sys.executable, "-c", code, ROOT, ROOT / "tests", *args]
        done = subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        out, err = done.stdout, done.stderr
    assert "resuming after epoch 1 of 2" in err and err.count("learning from teacher ") == 2
    assert out.split()[-1] == backend
    assert_same_weights(tmp_path / "unbroken", tmp_path / "resumed")
    ours, theirs = (read_json(tmp_path / name / "history.json") for name in ("unbroken", "resumed"))
    for key in ("loss", "accuracy"):
        assert ours[key] == theirs[key] and len(ours[key]) == 2


def test_teacher_is_recorded(colour_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(colour_folder, "base")
    write_json("base/eval_results.json", {"training": {"seed": 3, "epochs": 7, "data_crc32": 1}})
    with quick_runs():
        status, out, err = main(
            "--data", colours(), *QUICK, "--epochs", 1, "--batch-size", 128, "--teacher", "base", "--output", "run", "--json"
        )
    assert status == 0, err
    training = json.loads(out)["training"]
    recipe = training["recipe"]
    assert [recipe[key] for key in ("teacher", "distill", "distill_temperature")] == ["base", 0.9, 1.5]
    assert " --teacher base" in training["command"] and "--distill" not in training["command"]
    assert training["teacher_run"] == {"seed": 3, "epochs": 7, "data_crc32": 1} and training["parent_run"] is None
    settings = read_json("run/settings.json")
    assert settings["teacher_crc32"] == weights_checksum("base") and settings["recipe"]["teacher"] == "base"


def test_run_without_a_teacher_records_none(tmp_path):
    settings = prepare_run(train_config("--data", colours(), *QUICK, "--output", tmp_path / "run")).settings
    assert not [key for key in (*settings, *settings["recipe"]) if "teacher" in key or "distill" in key]


def test_recorded_command_repeats_the_distillation():
    options = ["--teacher", "user/base", "--distill", 0.5, "--distill-temperature", 4]
    command = reproducing_command(train_config(*options))
    assert command == "python train.py --teacher user/base --distill 0.5 --distill-temperature 4.0"
    assert train_config(*command.split()[2:]) == train_config(*options)


@pytest.mark.slow
def test_student_learns_from_a_good_teacher(colour_folder, tmp_path):
    """The labels say nothing, the teacher's probabilities do."""
    data, rng = write_official(tmp_path / "cifar-100-python", train=320, test=64), np.random.default_rng(99)
    record = pickle.loads((data / "train").read_bytes())
    record[b"fine_labels"] = rng.integers(0, 3, 320).tolist()
    (data / "train").write_bytes(pickle.dumps(record, protocol=2))
    accuracy = {}
    options = ["--data", data, *QUICK, "--batch-size", 16, "--learning-rate", 0.01, "--json"]
    for name, teacher in (("with", ["--teacher", colour_folder]), ("without", [])):
        with quick_runs():
            status, out, err = main(*options, *teacher, "--output", tmp_path / name)
        assert status == 0, err
        accuracy[name] = json.loads(out)["accuracy"]
    assert accuracy["with"] > 0.9 and accuracy["without"] < 0.7, accuracy


# Teachers -------------------------------------------------------------------------------------------------------------


def write_keras_classifier(folder, id2label, activation="softmax", size=32):
    """Write a Keras classifier that is not an EANet, with class names in its config.json."""
    import keras

    image = keras.Input((size, size, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(3, activation=activation)(x))
    folder.mkdir()
    model.save(folder / "model.keras")
    shutil.unpack_archive(folder / "model.keras", folder, format="zip")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"id2label": id2label})
    return model


COLOURS = {"0": "red", "1": "green", "2": "blue"}


def test_any_keras_classifier_is_a_teacher(tmp_path):
    model = write_keras_classifier(tmp_path / "model", COLOURS)
    check_teacher(tmp_path / "model", "it", tiny_config())
    x, y = colour_images(4)[0], np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    targets = pack_targets(load_teacher(tmp_path / "model", "it", tiny_config()), x, y)
    np.testing.assert_allclose(targets[:, 1], model.predict_on_batch(x), atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_an_eanet_teaches_in_the_precision_of_its_student(precision, teacher):
    from modeling_eanet import from_pretrained_keras

    loaded, x = load_teacher(teacher, "it", tiny_config(), precision), colour_images(8)[0]
    assert loaded.get_layer("block_0_mlp_1").dtype_policy.name == precision
    expected = from_pretrained_keras(teacher).predict_on_batch(x)
    probabilities = pack_targets(loaded, x, expected)[:, 1]
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-5 if precision == "float32" else 0.03)


@pytest.mark.parametrize(("changes", "says"), [
    (dict(id2label=None), "no class names"),
    (dict(id2label={"1": "red"}), "no class names"),
    (dict(id2label={"0": "red", "1": "blue", "2": "green"}), "its class 1 is 'blue', the student's 'green'"),
    (dict(activation=None), "must return one probability for each of the 3 classes"),
    (dict(size=64), "cannot be loaded, or takes no images"),
], ids=str)  # fmt: skip
def test_unfit_keras_classifier(changes, says, tmp_path):
    write_keras_classifier(tmp_path / "model", **{"id2label": COLOURS, **changes})
    with pytest.raises(UserError, match=f"^teacher it: .*{says}") as caught:
        check_teacher(tmp_path / "model", "it", tiny_config())
        load_teacher(tmp_path / "model", "it", tiny_config())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("labels", "says"), [
    (("red", "lime", "blue"), "its class 1 is 'green', the student's 'lime'"),
    (("red", "green", "blue", "white"), "has 3 classes, the student 4"),
    (("red", "green"), "has 3 classes, the student 2"),
])  # fmt: skip
def test_teacher_of_other_classes(labels, says, colour_folder, tmp_path):
    with pytest.raises(UserError) as caught:
        check_teacher(colour_folder, "it", tiny_config(id2label=labels))
    assert str(caught.value) == f"teacher it: {says}; it must have the same classes in the same order"


def test_teacher_of_other_classes_is_refused_before_training(colour_folder, tmp_path):
    data = write_official(tmp_path / "cifar-100-python", labels=("red", "lime", "blue"))
    status, out, err = main("--data", data, *QUICK, "--teacher", colour_folder, "--output", tmp_path / "run")
    assert f"teacher {colour_folder}: its class 1 is 'green', the student's 'lime'" in error_line(status, err)
    assert out == "" and not (tmp_path / "run").exists()


def test_teacher_of_another_image_size(colour_folder):
    with pytest.raises(UserError, match="teacher it: is for images of 32 pixels; the student's have 64"):
        check_teacher(colour_folder, "it", tiny_config(image_size=64))


@pytest.mark.parametrize("content", ["", "[]", '{"model_type": "eanet"}'])
def test_damaged_teacher(content, colour_folder, tmp_path):
    folder = shutil.copytree(colour_folder, tmp_path / "model")
    (folder / "config.json").write_text(content)
    assert str(folder) in error_of(tmp_path / "run", folder)


def test_missing_teacher(tmp_path):
    assert error_of(tmp_path / "run", tmp_path / "nowhere").startswith(f"teacher {tmp_path / 'nowhere'}: not a local folder")


@pytest.mark.parametrize("option", ["--teacher", "--init-from"])
def test_damaged_weights_are_not_blamed_on_the_learning_rate(option, colour_folder, tmp_path):
    folder, name = shutil.copytree(colour_folder, tmp_path / "model"), option[2:].replace("-", "_")
    recipe = [*QUICK[2:], *(("--preset", "tiny") if name == "teacher" else ())]
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        found = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        found[-1][0] = float("nan")
    line = error_line(*main("--data", colours(), *recipe, option, folder, "--output", tmp_path / "run")[::2])
    assert f": {name} {folder}: its weights are damaged; " in line and line.endswith("not finite numbers")


@pytest.mark.parametrize("option", ["--teacher", "--init-from"])
def test_weights_of_another_run_are_named(option, colour_folder, tmp_path):
    folder = shutil.copytree(colour_folder, tmp_path / "model")
    write_json(folder / "eval_results.json", {"model": {"checksum": "00000000"}})
    recipe = [*QUICK[2:], *(("--preset", "tiny") if option == "--teacher" else ())]
    with quick_runs(), without_saved_model():
        status, _, err = main("--data", colours(), *recipe, "--epochs", 1, option, folder, "--output", tmp_path / "run")
    assert status == 0 and f"warning: {folder}: its weights or class names are not those of its eval_results.json" in err


@pytest.mark.parametrize(("changes", "says"), [
    (dict(teacher=""), "^teacher : must be a model folder or a Hub repo id"),
    (dict(init_from=" "), "^init_from  : must be a model folder or a Hub repo id"),
    (dict(distill=0.5), "^distill 0.5: needs a teacher"),
    (dict(distill_temperature=2.0), "^distill_temperature 2.0: needs a teacher"),
    (dict(teacher_epochs=2), "^teacher_epochs 2: needs a teacher"),
    (dict(teacher="user/name", teacher_epochs=0), "^teacher_epochs 0: must be an integer, at least 1"),
    (dict(teacher="user/name", teacher_epochs=18, epochs=20), "^teacher_epochs 18: must be below 18; of 20 epochs the "),
    (dict(teacher="user/name", teacher_epochs=2, distribute=True), "^teacher_epochs 2: not allowed with distribute"),
    (dict(teacher="user/name", distill=1.5), r"^distill 1.5: must be a number in \[0, 1\]"),
    (dict(teacher="user/name", distill_temperature=0), "^distill_temperature 0: must be a number above 0, at most 100"),
])  # fmt: skip
def test_invalid_options(changes, says):
    with pytest.raises(UserError, match=says):
        TrainConfig(**changes)


# Resuming, and images that the teacher was trained on -------------------------------------------------------------------


@pytest.fixture
def teacher(colour_folder, tmp_path):
    return shutil.copytree(colour_folder, tmp_path / "teacher")


def test_resume_needs_the_same_teacher(teacher, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "settings.json", prepare_run(config(run, teacher)).settings)
    (run / "checkpoint.npz").touch()
    moved = shutil.copytree(teacher, tmp_path / "moved")
    for same in (teacher, moved):
        assert prepare_run(config(run, same)).resuming and prepare_run(config(run, same)).teacher == same
    model = from_pretrained_keras(moved)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save_weights(moved / "model.weights.h5")
    assert "with teacher teacher (other weights) instead of moved;" in error_of(run, moved)
    assert "with distill 0.9 instead of 0.5;" in error_of(run, teacher, "--distill", 0.5)
    with pytest.raises(UserError, match="with teacher teacher instead of none;"):
        prepare_run(train_config("--data", colours(), *QUICK, "--output", run))


def test_run_without_a_teacher_does_not_resume_with_one(teacher, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    settings = prepare_run(train_config("--data", colours(), *QUICK, "--output", run)).settings
    write_json(run / "settings.json", settings)
    assert "with teacher none instead of teacher;" in error_of(run, teacher)


def record(seed=3, validation_split=0.2, **more):
    crc = load_dataset(colours(), EANetConfig()).train.checksum()
    return {"seed": seed, "data_crc32": crc, "recipe": {"validation_split": validation_split}, **more}


@pytest.mark.parametrize("training", [
    lambda: record(seed=4), lambda: record(validation_split=0.1), lambda: record(parent_run=record(seed=4)),
    lambda: record(teacher_run=record(seed=4)), lambda: {"data_crc32": 0, "teacher_run": record(seed=4)},
    lambda: record(stratified=True),
])  # fmt: skip
def test_validation_images_must_be_new_to_the_teacher(training, teacher, tmp_path):
    write_json(teacher / "eval_results.json", {"training": training()})
    message = error_of(tmp_path / "run", teacher)
    assert f"overlaps the images that the teacher ({teacher}) was trained on; use " in message
    prepare_run(config(tmp_path / "run", teacher, "--validation-split", 0))


def test_teacher_that_held_out_the_same_images(teacher, tmp_path):
    write_json(teacher / "eval_results.json", {"training": record(teacher_run=record())})
    prepare_run(config(tmp_path / "run", teacher))
    message = error_of(tmp_path / "run", teacher, "--seed", 5)
    assert message.endswith("use seed 3 and validation_split 0.2, or validation_split 0")


def test_initial_weights_that_had_a_teacher(teacher, tmp_path):
    write_json(teacher / "eval_results.json", {"training": record(teacher_run=record(seed=4))})
    options = ["--data", colours(), *QUICK[2:], "--init-from", teacher, "--output", tmp_path / "run"]
    with pytest.raises(UserError, match="overlaps the images that the initial weights"):
        prepare_run(train_config(*options))


def test_lineage_has_teachers_before_their_students():
    teacher = {"seed": 1, "parent_run": {"seed": 0}}
    runs = lineage({"seed": 4, "teacher_run": {"seed": 3}, "parent_run": {"seed": 2, "teacher_run": teacher}})
    assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4] and lineage(None) == []
    again = {"seed": 5, "teacher_run": runs[2], "parent_run": runs[3]}
    assert [run["seed"] for run in lineage(again)] == [3, 0, 1, 2, 5]  # each run once


def test_hub_teacher_brings_its_record(teacher, tmp_path, fake_download):
    asked = fake_download(teacher)
    write_json(teacher / "eval_results.json", {"training": record(seed=4)})
    assert "overlaps the images that the teacher (user/base)" in error_of(tmp_path / "run", "user/base")
    assert asked == [("user/base", ["config.json", "eval_results.json", "metadata.json", "model.weights.h5"])]
