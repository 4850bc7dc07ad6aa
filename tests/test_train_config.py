"""The options of a run: defaults and validation."""

import dataclasses
from pathlib import Path

import pytest
from training_runs import main

import train
from eanet.train_config import OPTIONAL_RECIPE_FIELDS, RECIPE_FIELDS, TrainConfig
from modeling_eanet import UserError


def test_defaults_depend_on_other_options():
    config = TrainConfig()
    assert (config.preset, config.warmup_epochs, config.output) == ("small", 2.0, Path("runs/small"))
    assert TrainConfig(epochs=5).warmup_epochs == 0.5
    assert TrainConfig(preset="keras-io").output == Path("runs/keras-io")
    tuned = TrainConfig(init_from="user/name")
    assert tuned.preset is None and tuned.output == Path("runs/tuned")


def test_command_line_without_arguments_gives_the_defaults():
    assert train.config_from_args(train.parse_args([])) == TrainConfig()


def test_every_option_of_the_recipe_is_a_field():
    fields = {f.name for f in dataclasses.fields(TrainConfig)} - {"data", "output", "resume", "strict"}
    assert set(RECIPE_FIELDS) | set(OPTIONAL_RECIPE_FIELDS) == fields


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("epochs", [0, -1, 1.5, "x"]),
        ("batch_size", [0, 2.5]),
        ("seed", [-1, 2**32]),
        ("validation_split", [1.5, 1.0, -0.1, NAN]),
        ("learning_rate", [0, INF, NAN]),
        ("weight_decay", [-1, NAN]),
        ("label_smoothing", [1]),
        ("cutmix", [1.1, -0.1]),
        ("ema", [1, -0.5]),
        ("warmup_epochs", [75, -1]),
        ("precision", ["float16"]),
        ("preset", ["enormous"]),
    ],
)
def test_bad_value_is_named_in_the_library_and_on_the_command_line(name, values):
    for value in values:
        with pytest.raises(UserError) as caught:
            TrainConfig(**{name: value})
        message = str(caught.value)
        assert message.startswith(f"{name} ") and str(value) in message and "must be" in message

        status, out, err = main(f"--{name.replace('_', '-')}", value)
        last = err.splitlines()[-1]
        assert (status, out) == (2, "") and last.startswith("train.py: error: ")
        assert name in last.replace("-", "_") and str(value) in last


def test_booleans_are_not_numbers():
    with pytest.raises(UserError, match="^batch_size True: must be"):
        TrainConfig(batch_size=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"slot": [1, 2]}, "set slot"),
        ({"id2label": ["a"]}, "set id2label"),
        ({"slots": [1]}, "slots"),
        ({"norm": "group"}, "norm"),
    ],
)
def test_invalid_architecture(settings, named):
    with pytest.raises(UserError, match=f"^{named}.*must be"):
        TrainConfig(set=settings)


@pytest.mark.parametrize("changes", [{"preset": "small"}, {"set": {"slots": [4, 4]}}])
def test_architecture_is_not_allowed_with_initial_weights(changes):
    (name,) = changes
    with pytest.raises(UserError, match=f"^{name} .*init_from"):
        TrainConfig(init_from="user/name", **changes)


def test_settings_are_compared_as_json():
    assert TrainConfig(set={"slots": (4, 4)}) == TrainConfig(set={"slots": [4, 4]})
    assert TrainConfig(set={}).set is None
