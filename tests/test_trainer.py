"""The training loop: schedule, moving average, batch norm statistics, fine-tuning, divergence."""

import itertools
import json
import math
import os
import sys
import types

import numpy as np
import pytest
from conftest import colour_images
from PIL import Image
from training_runs import (
    EMA,
    EPOCHS,
    PEAK,
    RECIPE,
    STEPS,
    assert_same_weights,
    colours,
    error_line,
    files_in,
    finished,
    main,
    quick_runs,
    read_json,
    train_config,
    two_epochs,
    watched,
    weights_in,
)

from eanet import trainer
from eanet.data import Batches, Split, load_dataset, split_validation
from eanet.evaluation import evaluate, measure
from eanet.train_config import TrainConfig
from modeling_eanet import EANetConfig, UserError, from_pretrained_keras

# Weights --------------------------------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_weights():
    assert_same_weights(finished()[0], watched()[0])


@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path):
    for seed in (3, 4):
        recipe = [*RECIPE, "--epochs", 2, "--batch-size", 128, "--seed", seed]
        with quick_runs():
            status, _, err = main("--data", colours(), *recipe, "--output", tmp_path / str(seed))
        assert status == 0, err
    one, other = weights_in(tmp_path / "3"), weights_in(tmp_path / "4")
    assert one.keys() == other.keys()
    assert not any(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("given", "then"), [
    (None, "--xla_gpu_deterministic_ops=true"), ("--xla_dump_to=x", "--xla_dump_to=x --xla_gpu_deterministic_ops=true"),
    ("--xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
])  # fmt: skip
def test_gpus_repeat_their_results_unless_told_not_to(given, then, monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", given or "")  # so that it is restored
    if given is None:
        del os.environ["XLA_FLAGS"]
    with pytest.raises(UserError, match="nowhere"):
        trainer.train(TrainConfig(data="nowhere", output=tmp_path / "run"))
    assert os.environ["XLA_FLAGS"] == then


def test_saved_weights_are_the_moving_average():
    folder, steps, _ = watched()
    average = steps[0][1]
    for _, weights in steps[1:]:
        average = [EMA * a + (1 - EMA) * w for a, w in zip(average, weights, strict=True)]
    saved = from_pretrained_keras(folder).weights
    for weight, expected, last in zip(saved, average, steps[-1][1], strict=True):
        if weight.trainable:  # batch norm statistics are recomputed, not averaged
            np.testing.assert_allclose(np.asarray(weight), expected, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(np.asarray(weight), last), weight.path


def test_validating_the_moving_average_leaves_the_weights_alone():
    _, steps, _ = watched()
    assert len(steps) == EPOCHS * STEPS
    for (_, after), (before, _) in itertools.pairwise(steps):
        for one, two in zip(after, before, strict=True):
            np.testing.assert_array_equal(one, two)


def test_validation_measures_the_moving_average_on_held_out_images():
    model = from_pretrained_keras(finished()[0])
    training, validation = split_validation(load_dataset(colours(), model.config), 0.2, seed=3)
    assert len(training) == STEPS * 16 and len(validation) == 64
    history, measured = read_json(finished()[0] / "history.json"), evaluate(model, validation)
    assert history["val_accuracy"][-1] == measured["accuracy"]
    assert history["val_loss"][-1] == pytest.approx(measured["loss"], rel=0.1)  # its norms saw fewer batches


def test_batch_norm_statistics_are_the_mean_over_batches():
    import keras

    rng = np.random.default_rng(0)
    batches = [(rng.normal(3, 2, (8, 4)).astype(np.float32), None) for _ in range(5)]
    model = keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization(momentum=0.7), keras.layers.Dense(2)])
    model(batches[0][0] + 100, training=True)  # must leave no trace
    fake = types.SimpleNamespace(seed=0, epoch=lambda _: batches)
    trainer.recalibrate_batch_norm(model, fake, epoch=0, count=len(batches))
    norm = model.layers[0]
    assert norm.momentum == 0.7
    np.testing.assert_allclose(norm.moving_mean, np.mean([x.mean(axis=0) for x, _ in batches], axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, np.mean([x.var(axis=0) for x, _ in batches], axis=0), rtol=1e-4)


def test_calibration_divides_the_classifier_and_keeps_the_order_of_classes(tiny_model):
    import keras

    model = keras.models.clone_model(tiny_model)
    model.config = tiny_model.config
    model.set_weights(
        [10 * w if w.ndim == 2 and w.shape[-1] == model.config.num_classes else w for w in tiny_model.get_weights()]
    )
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300, *model.input.shape[1:3], 3)).astype(np.uint8)
    before = model.predict(x, verbose=0)
    y = np.array([rng.choice(len(p), p=p / p.sum()) for p in (before**0.5).astype(np.float64)])  # twice too sure
    few = Split(x[:199], y[:199], "validation")
    assert trainer.calibrate(model, None) is None and trainer.calibrate(model, few) is None
    assert trainer.calibrate(model, Split(x, y, "validation")) == pytest.approx(2, rel=0.3)
    after = model.predict(x, verbose=0)
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))
    assert measure(after, y)["loss"] < measure(before, y)["loss"]


# Recipe ---------------------------------------------------------------------------------------------------------------


def dense():
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.jit_compile = False
    return model


def test_learning_rate_warms_up_and_follows_a_cosine():
    folder, _, rates = watched()
    total = EPOCHS * STEPS
    cosine = [PEAK * (1 + math.cos(math.pi * (i - STEPS) / (total - STEPS))) / 2 for i in range(STEPS, total + 1)]
    expected = [PEAK * i / STEPS for i in range(STEPS)] + cosine
    np.testing.assert_allclose(rates, expected[:-1], rtol=1e-4, atol=1e-8)
    history = read_json(folder / "history.json")
    np.testing.assert_allclose(history["learning_rate"], expected[STEPS::STEPS], rtol=1e-4, atol=1e-8)
    assert history["learning_rate"][0] == pytest.approx(PEAK) and history["learning_rate"][-1] < 1e-6


def test_loss_is_scaled_in_float16():
    from eanet.fused_layers import with_fused_layers
    from eanet.saving import dtype_policy
    from modeling_eanet import build_eanet

    for precision, scaled in (("mixed_float16", True), ("mixed_bfloat16", False)):
        with dtype_policy(precision):
            model = with_fused_layers(build_eanet(EANetConfig.preset("tiny")))
            trainer.compile_model(model, TrainConfig(precision=precision).resolved(None), 10)
        assert ("LossScale" in type(model.optimizer).__name__) == scaled


def test_weight_decay_exempts_biases():
    model = dense()
    trainer.compile_model(model, TrainConfig(weight_decay=0.5).resolved(None), 10)
    kernel, bias = model.trainable_variables
    optimizer = model.optimizer
    assert optimizer.weight_decay == 0.5 and optimizer._use_weight_decay(kernel) and not optimizer._use_weight_decay(bias)


def test_short_run_forgets_its_initial_weights():
    """A momentum of 0.998 would keep 94% of them over 30 steps."""
    momenta = {}
    for steps in (3, 30, 1000, 10_000, 100_000):
        model = dense()
        trainer.compile_model(model, TrainConfig(epochs=1).resolved(None), steps)
        momenta[steps] = model.optimizer.ema_momentum
        assert momenta[steps] == trainer.ema_momentum(TrainConfig(epochs=1), steps)
        assert momenta[steps] ** steps < 1e-6
    assert momenta[100_000] == momenta[10_000] == 0.998 and momenta[3] == 0
    assert trainer.ema_momentum(TrainConfig(ema=0.5), 30) == 0.5 and trainer.ema_momentum(TrainConfig(ema=0.0), 30) == 0


@pytest.mark.parametrize(("epochs", "with_cutmix"), [(1, 0), (2, 1), (10, 9), (29, 27), (40, 36)])
def test_last_tenth_of_the_epochs_is_without_cutmix(epochs, with_cutmix):
    seen = []

    class Spy:
        batch_size = 1

        def __len__(self):
            return 1

        def epoch(self, number, cutmix):
            seen.append(cutmix)
            return iter(())

    model = types.SimpleNamespace(variables=(), optimizer=types.SimpleNamespace(learning_rate=0.1))
    for epoch in range(epochs):
        trainer.train_epoch(model, Spy(), epoch, TrainConfig(epochs=epochs, cutmix=0.25))
    assert seen == [0.25] * with_cutmix + [0.0] * (epochs - with_cutmix)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_mixed_precision_run_is_measured_in_float32(tmp_path, precision):
    import keras

    recipe = ["--preset", "tiny", "--epochs", 1, "--precision", precision, "--batch-size", 128]
    with quick_runs():
        status, out, err = main("--data", colours(), *recipe, "--output", tmp_path / "run", "--json")
    assert status == 0, err
    assert keras.config.dtype_policy().name == "float32"
    _, again, _ = main("--evaluate-only", "--model", tmp_path / "run", "--data", colours(), "--json")
    assert json.loads(out) == json.loads(again)
    assert {array.dtype for array in weights_in(tmp_path / "run").values()} == {np.dtype("float32")}


def test_final_weights_are_recorded_as_ema_0(tmp_path):
    """20 steps or fewer get a default momentum of 0; a card can then say "final weights"."""
    with quick_runs():
        recipe = ["--preset", "tiny", "--epochs", 1, "--batch-size", 160]
        config = train_config("--data", colours(), *recipe, "--output", tmp_path / "run")
        results = trainer.train(config)
    assert results["training"]["recipe"]["ema"] == 0 and "--ema" not in results["training"]["command"]


def test_run_without_a_test_split_is_measured_on_the_validation_split(tmp_path):
    for i, (image, colour) in enumerate(zip(*colour_images(40), strict=True)):
        folder = tmp_path / "images" / "train" / "rgb"[colour]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    recipe = ["--preset", "tiny", "--epochs", 1, "--batch-size", 16, "--validation-split", 0.25, "--seed", 1]
    with quick_runs():
        status, out, err = main("--data", tmp_path / "images", *recipe, "--output", tmp_path / "run", "--json")
    assert status == 0, err
    results = json.loads(out)
    note = "10 images of the train split, held out by seed 1"
    assert f"measured on {note}; too few to tell much: a test split or a larger validation_split tells more" in err
    assert results["dataset"] == {"id": "", "name": f"images ({note})", "split": "validation", "note": note}
    assert results["num_images"] == 10
    assert EANetConfig.from_json_file(tmp_path / "run" / "config.json").id2label == {0: "b", 1: "g", 2: "r"}


def test_set_changes_the_architecture(tmp_path):
    recipe = ["--preset", "tiny", "--epochs", 1, "--batch-size", 160, "--set", "slots=[2,3]", "--set", "norm=layer"]
    with quick_runs():
        status, out, err = main("--data", colours(), *recipe, "--output", tmp_path / "run", "--json")
    assert status == 0, err
    config = from_pretrained_keras(tmp_path / "run").config
    assert config.slots == (2, 3) and config.norm == "layer" and config.embed_dims == (16, 24)
    results = json.loads(out)
    assert results["model"]["preset"] == "custom"
    assert results["training"]["command"].endswith("--set 'slots=[2,3]' --set norm=layer")
    status, _, err = main("--data", colours(), *recipe[:-2], "--output", tmp_path / "run")
    assert "with set {'slots': [2, 3], 'norm': 'layer'} instead of {'slots': [2, 3]}" in error_line(status, err)


# Divergence -----------------------------------------------------------------------------------------------------------


def nan_targets(patch):
    epoch = Batches.epoch
    patch.setattr(Batches, "epoch", lambda self, *args: ((x, y * np.nan) for x, y in epoch(self, *args)))


def nan_weights_after_a_finite_loss(patch):
    import keras

    train_on_batch, steps = keras.Model.train_on_batch, []

    def diverge(model, *args, **kwargs):
        result = train_on_batch(model, *args, **kwargs)
        steps.append(result)
        if len(steps) == STEPS:
            model.set_weights([weight * np.nan for weight in model.get_weights()])
        return result

    patch.setattr(keras.Model, "train_on_batch", diverge)


def test_diverging_run_stops_and_keeps_its_checkpoint(tmp_path):
    folder = two_epochs(tmp_path)
    before = files_in(folder)
    for divergence in (nan_targets, nan_weights_after_a_finite_loss):
        with quick_runs() as patch:
            divergence(patch)
            status, out, err = main("--data", colours(), *RECIPE, "--output", folder)
        line = error_line(status, err)
        assert "epoch 3" in line and "learning_rate below 0.01" in line
        assert out == "" and files_in(folder) == before


def test_far_too_high_learning_rate_is_one_line(tmp_path):
    recipe = ["--preset", "tiny", "--epochs", 2, "--warmup-epochs", 0, "--learning-rate", 1e30, "--batch-size", 32]
    with quick_runs():
        status, out, err = main("--data", colours(), *recipe, "--output", tmp_path / "run")
    assert "diverged in epoch 1" in error_line(status, err)
    assert out == "" and files_in(tmp_path / "run").keys() == {"settings.json"}


def test_torch_draws_dropout_from_seed_and_epoch(tiny_model, monkeypatch):
    import keras

    seeds = []
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(manual_seed=seeds.append))
    for backend in ("torch", "jax"):
        monkeypatch.setattr(keras.backend, "backend", lambda name=backend: name)
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
            trainer.reseed_dropout(tiny_model, seed, epoch)
    assert len(set(seeds[:3])) == 3 and seeds[3:] == seeds[:1]
