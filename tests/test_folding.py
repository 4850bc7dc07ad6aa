"""Folding, and the configuration of a model that Keras loaded."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import ROOT, random_images, random_weights, tiny_config

from eanet.evaluation import preset_name
from eanet.folding import deployment_form, fold
from modeling_eanet import EANetConfig, UserError, build_eanet


@pytest.mark.parametrize("slots", [4, 16])  # fewer and more than a head's width
@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("norms", [dict(final_norm=True), dict(final_norm=False), dict(inner_norm=True, depths=(2, 1))],
                         ids=str)  # fmt: skip
def test_folded_model_is_the_same_function(slots, shared_memory, norm, norms):
    config = tiny_config(shared_memory=shared_memory, slots=(slots, slots), norm=norm, attention_dropout=0.3, **norms)
    model = random_weights(build_eanet(config), scale=0.1 if norm == "none" else 0.3)
    folded = fold(model)
    assert folded.config == dataclasses.replace(config, shared_memory=False, norm="layer" if norm == "layer" else "none")
    assert not any("Batch" in type(layer).__name__ for layer in folded.layers)
    x = random_images(8)
    assert np.asarray(model(x)).std(axis=0).max() > 1e-3  # the outputs depend on the image
    np.testing.assert_allclose(np.asarray(folded(x)), np.asarray(model(x)), atol=1e-5)


@pytest.mark.parametrize("changes", [{}, dict(shared_memory=True), dict(final_norm=False, depthwise_kernel=0),
                                     dict(tokenizer="patch"), dict(tokenizer="patch", position_embedding=True),
                                     dict(patch_size=1), dict(inner_norm=True)])  # fmt: skip
def test_folding_adds_the_biases_that_were_left_out(changes):
    config = tiny_config(redundant_bias=False, **changes)
    model = random_weights(build_eanet(config))
    folded = fold(model)
    assert folded.config == dataclasses.replace(config, shared_memory=False, norm="none", redundant_bias=True)
    assert folded.count_params() < model.count_params() and deployment_form(model).config == folded.config
    x = random_images(8)
    assert np.asarray(model(x)).std(axis=0).max() > 1e-3
    np.testing.assert_allclose(np.asarray(folded(x)), np.asarray(model(x)), atol=1e-5)


def test_folded_keras_io_preset_has_fewer_parameters_and_the_same_output():
    model = random_weights(build_eanet(EANetConfig.preset("keras-io")), scale=0.1)
    folded = fold(model)
    assert folded.count_params() < model.count_params()
    np.testing.assert_allclose(np.asarray(folded(random_images(8))), np.asarray(model(random_images(8))), atol=1e-5)


@pytest.mark.parametrize(("slots", "smaller"), [((4, 4), True), ((64, 64), False)])
def test_deployment_form_is_folded_unless_larger(slots, smaller):
    model = build_eanet(tiny_config(shared_memory=True, slots=slots, norm="layer"))
    form = deployment_form(model)
    assert (form is not model) == smaller == (not form.config.shared_memory)
    assert form.count_params() <= model.count_params()


def test_fold_holds_in_bfloat16(mixed_bfloat16):
    model = random_weights(build_eanet(tiny_config(shared_memory=True)), scale=0.2)
    x = random_images(16)
    np.testing.assert_allclose(np.asarray(fold(model)(x)), np.asarray(model(x)), atol=0.02)


def test_folding_twice_changes_nothing():
    model = fold(random_weights(build_eanet(tiny_config())))
    np.testing.assert_array_equal(np.asarray(fold(model)(random_images())), np.asarray(model(random_images())))


@pytest.mark.parametrize("name", ["keras-io", "small", "tiny"])
def test_model_loaded_by_keras_is_folded_with_its_config(name, tmp_path):
    model = build_eanet(EANetConfig.preset(name))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    with pytest.raises(UserError, match="no configuration"):
        fold(loaded)
    folded = fold(loaded, model.config)
    np.testing.assert_allclose(np.asarray(folded(random_images(2))), np.asarray(model(random_images(2))), atol=1e-5)
    assert folded.config.id2label == model.config.id2label


def test_shipped_model_loaded_by_keras_is_folded():
    assert preset_name(fold(keras.saving.load_model(ROOT)).config) == "custom"
