"""Runs that start from another model: its weights, its lineage, and the images it was trained on."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from conftest import write_official
from training_runs import colours, error_line, main, quick_runs, read_json, train_config

from eanet.cli import write_json
from eanet.data import load_dataset
from eanet.run_dir import prepare_run, weights_checksum
from modeling_eanet import EANetConfig, UserError, from_pretrained_keras

QUICK = ["--epochs", 1, "--batch-size", 128, "--learning-rate", 1e-9, "--weight-decay", 0]


@pytest.fixture(scope="module")
def data_crc32():
    return load_dataset(colours(), EANetConfig()).train.checksum()


def record(data_crc32, seed=3, validation_split=0.2, parent_run=None):
    """Return "training" of an eval_results.json, as far as it matters here."""
    recipe = {"validation_split": validation_split}
    return {"seed": seed, "epochs": 5, "data_crc32": data_crc32, "recipe": recipe, "parent_run": parent_run}


def write_model(folder, tiny_folder, training):
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.pb", "variables"))
    write_json(folder / "eval_results.json", {"training": training})
    return folder


@pytest.fixture
def parent(tmp_path, tiny_folder, data_crc32):
    """A model that was trained on colours() with seed 3 and a validation split of 0.2."""
    return write_model(tmp_path / "parent", tiny_folder, record(data_crc32))


def config(init_from, output, *options):
    return train_config("--data", colours(), *QUICK, "--init-from", init_from, "--output", output, *options)


SAME_SPLIT = ["--seed", 3, "--validation-split", 0.2]


# Weights --------------------------------------------------------------------------------------------------------------


def test_weights_and_architecture_come_from_the_parent_which_may_go(parent, tmp_path):
    recipe = ["--data", colours(), *QUICK, *SAME_SPLIT, "--init-from", parent, "--output", tmp_path / "run", "--json"]
    with quick_runs():
        status, out, err = main(*recipe)
    assert status == 0, err
    one, two = from_pretrained_keras(parent), from_pretrained_keras(tmp_path / "run")
    assert one.config == two.config
    for before, after in zip(one.trainable_weights, two.trainable_weights, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6, err_msg=before.path)
    training = json.loads(out)["training"]
    assert training["init_from"] == "parent" and training["command"].endswith("--init-from parent")
    assert training["recipe"]["init_from"] == "parent" and str(tmp_path) not in out
    assert training["parent_run"] == read_json(parent / "eval_results.json")["training"]
    assert training["parent_run"]["epochs"] == 5 and "begun_with" not in training

    shutil.rmtree(parent)
    status, again, err = main(*recipe)
    assert (status, json.loads(again)) == (0, json.loads(out)), err


def test_classifier_starts_new_for_other_classes(parent, tmp_path):
    fruits = write_official(tmp_path / "fruits", labels=("tomato", "lime", "plum"))
    with quick_runs():
        status, _, err = main("--data", fruits, *QUICK, "--init-from", parent, "--output", tmp_path / "run")
    assert status == 0 and "new classifier for 3 classes" in err
    one, two = from_pretrained_keras(parent), from_pretrained_keras(tmp_path / "run")
    assert two.config == dataclasses.replace(one.config, id2label=("tomato", "lime", "plum"))
    for before, after in zip(one.trainable_weights, two.trainable_weights, strict=True):
        copied = np.allclose(after, before, atol=1e-6)
        assert copied == ("classifier" not in before.path) or not np.any(before)


def test_frozen_backbone_stays_as_it_was(parent, tmp_path):
    fruits = write_official(tmp_path / "fruits", labels=("tomato", "lime", "plum"))
    options = ["--freeze", "backbone", "--epochs", 1, "--batch-size", 128, "--learning-rate", 0.1]
    with quick_runs():
        status, out, err = main(
            "--data", fruits, *options, *SAME_SPLIT, "--init-from", parent, "--output", tmp_path / "run", "--json"
        )
    assert status == 0, err
    one, two = from_pretrained_keras(parent), from_pretrained_keras(tmp_path / "run")
    for before, after in zip(one.weights, two.weights, strict=True):
        assert np.array_equal(after, before) == ("classifier" not in before.path), before.path
    training = json.loads(out)["training"]
    assert training["recipe"]["freeze"] == "backbone" and " --freeze backbone" in training["command"]


def test_other_size_and_resize_are_recorded_in_the_model(parent, tmp_path):
    options = [*QUICK, "--validation-split", 0, "--image-size", 16, "--resize", "pad", "--init-from", parent]
    with quick_runs():
        status, out, err = main("--data", colours(), *options, "--output", tmp_path / "run", "--json")
    assert status == 0, err
    one, two = from_pretrained_keras(parent), from_pretrained_keras(tmp_path / "run")
    assert two.config == dataclasses.replace(one.config, image_size=16, resize="pad")
    assert read_json(tmp_path / "run" / "config.json")["resize"] == "pad"
    for before, after in zip(one.trainable_weights, two.trainable_weights, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-6, err_msg=before.path)
    command = json.loads(out)["training"]["command"]
    assert " --image-size 16" in command and " --resize pad" in command


@pytest.mark.parametrize(("missing", "message"), [("nowhere", "not a local folder"), ("empty", "config.json")])
def test_no_model_there(tmp_path, missing, message):
    (tmp_path / "empty").mkdir()
    status, _, err = main("--data", colours(), "--init-from", tmp_path / missing, "--output", tmp_path / "run")
    assert message in error_line(status, err) and str(tmp_path / missing) in err
    assert not (tmp_path / "run").exists()


# Images that the parent was trained on --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--seed", 4], ["--validation-split", 0.1]])
def test_validation_split_must_not_overlap_the_training_images(parent, tmp_path, options):
    with pytest.raises(UserError) as caught:
        prepare_run(config(parent, tmp_path / "run", *SAME_SPLIT, *options))
    assert "overlaps the images" in str(caught.value)
    assert str(caught.value).endswith("use seed 3 and validation_split 0.2, or validation_split 0")
    prepare_run(config(parent, tmp_path / "run", *SAME_SPLIT, *options, "--validation-split", 0))


@pytest.mark.parametrize("key", ["parent_run", "begun_with"])
def test_every_ancestor_counts(tmp_path, tiny_folder, data_crc32, key):
    grandparent = record(data_crc32, seed=7)
    other = record(data_crc32 + 1, seed=8) | {key: grandparent}  # on other data, so its seed does not matter
    parent = record(data_crc32) | {"parent_run": None, key: other}
    folder = write_model(tmp_path / "model", tiny_folder, parent)
    with pytest.raises(UserError, match="overlaps the images .* were trained on; use validation_split 0$"):
        prepare_run(config(folder, tmp_path / "run", *SAME_SPLIT))
    grandparent["seed"] = 3
    write_json(folder / "eval_results.json", {"training": parent})
    prepare_run(config(folder, tmp_path / "run", *SAME_SPLIT))


@pytest.mark.parametrize("split", [0, None])
def test_parent_without_a_validation_split(tmp_path, tiny_folder, data_crc32, split):
    folder = write_model(tmp_path / "model", tiny_folder, record(data_crc32, validation_split=split))
    with pytest.raises(UserError, match="use validation_split 0$"):
        prepare_run(config(folder, tmp_path / "run", *SAME_SPLIT))


def test_hub_model_has_a_lineage(parent, tmp_path, fake_download):
    asked = fake_download(parent)
    with pytest.raises(UserError, match="overlaps the images"):
        prepare_run(config("user/name", tmp_path / "run", "--seed", 4, "--validation-split", 0.2))
    run = prepare_run(config("user/name", tmp_path / "run", *SAME_SPLIT))
    assert asked[-1] == ("user/name", ["config.json", "eval_results.json", "model.weights.h5"])
    assert run.settings["recipe"]["init_from"] == "user/name"
    assert run.settings["parent_run"] == read_json(parent / "eval_results.json")["training"]
    assert run.settings["initial_weights_crc32"] == weights_checksum(parent)


# Which initial weights a run began with -------------------------------------------------------------------------------


def test_initial_weights_are_compared_by_content(parent, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "settings.json", prepare_run(config(parent, run, *SAME_SPLIT)).settings)
    (run / "checkpoint.npz").touch()

    other = shutil.copytree(parent, tmp_path / "other" / "parent")  # the same name
    assert prepare_run(config(other, run, *SAME_SPLIT)).resuming
    model = from_pretrained_keras(other)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save_weights(other / "model.weights.h5")
    with pytest.raises(UserError, match=r"with init_from parent \(other weights\) instead of parent;"):
        prepare_run(config(other, run, *SAME_SPLIT))

    moved = shutil.move(parent, tmp_path / "renamed")
    assert prepare_run(config(moved, run, *SAME_SPLIT)).resuming
    with pytest.raises(UserError, match="with init_from parent instead of user/name"):
        prepare_run(config("user/name", run, *SAME_SPLIT))


def test_initial_weights_of_a_hub_model_are_compared_before_the_first_checkpoint(parent, tmp_path, fake_download):
    run = tmp_path / "run"
    run.mkdir()
    fake_download(parent)
    write_json(run / "settings.json", prepare_run(config("user/name", run, *SAME_SPLIT)).settings)
    assert prepare_run(config("user/name", run, *SAME_SPLIT)).initial_weights == parent
    model = from_pretrained_keras(parent)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save_weights(parent / "model.weights.h5")
    with pytest.raises(UserError, match=r"with init_from user/name \(other weights\) instead of user/name;"):
        prepare_run(config("user/name", run, *SAME_SPLIT))
