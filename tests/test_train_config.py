"""The options of a run: defaults and validation."""

import dataclasses
from pathlib import Path

import pytest
from training_runs import main

import train
from eanet.train_config import AUTOMATIC_FIELDS, OPTIONAL_RECIPE_FIELDS, RECIPE_FIELDS, TrainConfig
from modeling_eanet import EANetConfig, UserError


def test_defaults_depend_on_other_options():
    config = TrainConfig()
    assert (config.preset, config.output) == ("small", Path("runs/small"))
    assert TrainConfig(preset="keras-io").output == Path("runs/keras-io")
    tuned = TrainConfig(init_from="user/name")
    assert tuned.preset is None and tuned.output == Path("runs/tuned")


def automatic(config, num_images):
    return tuple(getattr(config.resolved(num_images), name) for name in AUTOMATIC_FIELDS)


@pytest.mark.parametrize(("num_images", "scratch", "tuned"), [
    (None, (5e-3, 128, 75, 2.0, None), (5e-3, 128, 75, 2.0, None)),  # runs of older versions
    (50_000, (5e-3, 128, 75, 2.0, 0.998), (5e-3, 128, 75, 2.0, 0.998)),
    (1437, (5e-3, 32, 22, 2.0, 1 - 20 / 968), (1e-3, 32, 6, 0.6, 1 - 20 / 264)),
    (400, (5e-3, 16, 40, 2.0, 1 - 20 / 1000), (1e-3, 16, 10, 1.0, 1 - 20 / 250)),
    (10, (5e-3, 16, 200, 2.0, 0.9), (1e-3, 16, 50, 2.0, 0.6)),
])  # fmt: skip
def test_recipe_follows_the_number_of_images(num_images, scratch, tuned):
    assert automatic(TrainConfig(), num_images) == pytest.approx(scratch)
    assert automatic(TrainConfig(init_from="user/name"), num_images) == pytest.approx(tuned)


def test_given_options_win_over_the_number_of_images():
    given = dict(learning_rate=0.1, batch_size=7, epochs=3, warmup_epochs=1.0, ema=0.5)
    assert automatic(TrainConfig(**given), 400) == tuple(given.values())
    for name, value in given.items():
        config = TrainConfig(**{name: value}).resolved(400)
        assert getattr(config, name) == value and config == config.resolved(50_000)
    assert TrainConfig(epochs=5).resolved(400).warmup_epochs == 0.5
    assert TrainConfig(batch_size=256).resolved(50_000).epochs == 75


def test_warm_up_is_shorter_than_the_run():
    with pytest.raises(UserError, match="^warmup_epochs 5: must be below epochs 5"):
        TrainConfig(epochs=5, warmup_epochs=5)
    with pytest.raises(UserError, match="^warmup_epochs 75: must be below epochs 75"):
        TrainConfig(warmup_epochs=75).resolved(50_000)


def test_freezing_needs_initial_weights():
    with pytest.raises(UserError, match="^freeze backbone: needs initial weights"):
        TrainConfig(freeze="backbone")
    assert TrainConfig(freeze="none").freeze is None
    assert TrainConfig(freeze="backbone", init_from="user/name").freeze == "backbone"


def test_architecture_of_a_fine_tuned_model():
    tuned = TrainConfig(init_from="user/name", image_size=64, resize="pad")
    assert tuned.architecture(EANetConfig()) == EANetConfig(image_size=64, resize="pad")
    assert TrainConfig(init_from="user/name").architecture(EANetConfig(resize="crop")).resize == "crop"
    with pytest.raises(UserError, match="^image_size 64: the position embedding of user/name is for 32 pixels"):
        tuned.architecture(EANetConfig.preset("keras-io"))
    for size in (30, 2):
        with pytest.raises(UserError, match=f"^image_size={size}: must be a multiple of 4"):
            TrainConfig(image_size=size)


def test_command_line_without_arguments_gives_the_defaults():
    assert train.config_from_args(train.parse_args([])) == TrainConfig()


def test_every_option_of_the_recipe_is_a_field():
    others = {"data", "dataset_name", "output", "resume", "stop_after", "strict"}
    others |= {"distribute", "coordinator", "processes", "process_id", "start_timeout"}
    assert set(RECIPE_FIELDS) | set(OPTIONAL_RECIPE_FIELDS) == {f.name for f in dataclasses.fields(TrainConfig)} - others


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
        ("warmup_epochs", [-1]),
        ("image_size", [0]),
        ("resize", ["stretch"]),
        ("freeze", ["head"]),
        ("stop_after", [0, 1.5]),
        ("augment", ["auto"]),
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
