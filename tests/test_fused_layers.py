"""The layers used in training compute what Keras' own do."""

import numpy as np
import pytest

from eanet.fused_layers import DoubleNormalization, FastDropout, ShiftedDepthwiseConv2D, with_fused_layers
from eanet.saving import dtype_policy, inference_copy
from modeling_eanet import EANetConfig, build_eanet


@pytest.mark.parametrize(
    ("center", "scale", "channels"), [(True, True, 16), (False, True, 16), (False, False, 16), (True, True, 24)]
)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 1e-2)])
def test_fused_batch_norm_trains_like_keras(precision, tolerance, center, scale, channels):
    """Outputs, gradients and statistics."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    with dtype_policy(precision):
        image = keras.Input((8, 8, channels))
        plain = keras.Model(image, keras.layers.BatchNormalization(momentum=0.7, center=center, scale=scale)(image))
    plain.config, plain.jit_compile = EANetConfig(), False
    plain.set_weights([w + rng.uniform(0.1, 1, w.shape).astype(np.float32) for w in plain.get_weights()])
    fused = with_fused_layers(plain)
    assert type(fused.layers[1]) is not type(plain.layers[1])
    x = tf.constant(rng.normal(3, 2, (4, 8, 8, channels)).astype(np.float32))
    direction = rng.normal(0, 1, x.shape).astype(np.float32)
    found = []
    for model in (plain, fused):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            assert y.dtype == model.layers[1].compute_dtype
            y = tf.cast(y, tf.float32)
            loss = tf.reduce_mean(y * direction)
        gradients = tape.gradient(loss, [x, *(v.value for v in model.trainable_variables)])
        found.append([y, *gradients, *model.non_trainable_variables, model(x, training=False)])
    assert len(found[0]) == 5 + center + scale
    for expected, value in zip(*(map(np.asarray, each) for each in found), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("scale", [1, 30])
def test_double_normalization_trains_like_keras_operations(scale):
    import tensorflow as tf

    def plain(logits):
        return tf.nn.softmax(logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True), axis=-1)

    rng = np.random.default_rng(0)
    logits = tf.constant(rng.normal(0, scale, (3, 40, 2, 5)).astype(np.float32))
    upstream = tf.constant(rng.normal(0, 1, logits.shape).astype(np.float32))
    found = []
    for function in (plain, DoubleNormalization()):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            attention = function(logits)
        found.append((attention, tape.gradient(attention, logits, upstream)))
    for expected, value in zip(*found, strict=True):
        np.testing.assert_allclose(value, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("low", [-85, -90, -100, -103, -200])
def test_double_normalization_of_a_token_without_attention_is_finite(low):
    logits = np.zeros((1, 3, 1, 2), np.float32)
    logits[:, 0] = low, low - 30
    first, *others = np.asarray(DoubleNormalization()(logits))[0, :, 0]
    np.testing.assert_array_equal(others, [[0.5, 0.5], [0.5, 0.5]])
    assert first.sum() in (0, pytest.approx(1)) and np.isfinite(first).all()


def test_the_training_model_has_one_layer_for_both_normalisations():
    fused = with_fused_layers(build_eanet(EANetConfig.preset("tiny")))
    assert type(fused.get_layer("block_0_attention")) is DoubleNormalization
    assert not [layer.name for layer in fused.operations if layer.name.endswith(("_log_mass", "_log_attention"))]


def test_only_the_training_model_has_fused_norms():
    import keras

    def kinds(model):
        return {type(layer) for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}

    plain = build_eanet(EANetConfig.preset("tiny"))
    fused = with_fused_layers(plain)
    assert [w.path for w in fused.weights] == [w.path for w in plain.weights] and fused.config == plain.config
    assert kinds(plain) == kinds(inference_copy(fused)) == {keras.layers.BatchNormalization}
    assert len(kinds(fused)) == 1 and not kinds(fused) & kinds(plain)
    plain.jit_compile = True  # XLA fuses by itself
    assert kinds(with_fused_layers(plain)) == kinds(plain)


@pytest.mark.parametrize(("norm", "redundant_bias"), [("layer", True), ("batch", True), ("batch", False)])
def test_fused_projections_equal_the_four_linear_maps(norm, redundant_bias):
    """Outputs, gradients and order of weights."""
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(0)
    rates = dict(attention_dropout=0.0, projection_dropout=0.0, mlp_dropout=0.0, drop_path=0.0)
    changes = dict(shared_memory=True, norm=norm, activation="silu", redundant_bias=redundant_bias)
    plain = build_eanet(EANetConfig.preset("tiny", **changes, **rates))
    plain.set_weights([w + rng.normal(0, 0.1, w.shape).astype(np.float32) ** 2 for w in plain.get_weights()])
    fused = with_fused_layers(plain)
    assert len(fused.layers) < len(plain.layers) and fused.count_params() == plain.count_params()
    for one, two in zip(fused.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    x, y = rng.integers(0, 256, (8, 32, 32, 3)), np.eye(100, dtype=np.float32)[:8]
    found = []
    for model in (plain, fused):
        with tf.GradientTape() as tape:
            probabilities = model(x, training=True)
            loss = keras.losses.CategoricalCrossentropy()(y, probabilities)
        found.append([probabilities, *tape.gradient(loss, [v.value for v in model.trainable_variables])])
    largest = max(float(np.abs(gradient).max()) for gradient in found[0][1:])
    for expected, value in zip(*found, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-2, atol=1e-5 * max(1, largest))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("side", [3, 5])
def test_shifted_convolution_equals_keras(side, use_bias):
    import keras

    x = np.random.default_rng(0).normal(0, 1, (2, 7, 9, 4)).astype(np.float32)
    plain = keras.layers.DepthwiseConv2D(side, padding="same", use_bias=use_bias, bias_initializer="normal")
    expected = plain(x)
    shifted = ShiftedDepthwiseConv2D.from_config(plain.get_config())
    shifted.build(x.shape)
    shifted.set_weights(plain.get_weights())
    np.testing.assert_allclose(np.asarray(shifted(x)), np.asarray(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_dropout_has_its_rate_and_keeps_the_mean(precision):
    x = np.ones((101, 7, 331), np.float32)  # an odd number of values
    with dtype_policy(precision):
        layer, nearly_all = FastDropout(0.2, seed=0), FastDropout(1 - 1e-9, seed=0)
    one, two = (np.asarray(layer(x, training=True), np.float32) for _ in range(2))
    assert set(np.unique(one)) == {0, one.max()} and one.max() == pytest.approx(1.25, abs=1e-2)
    assert (one == 0).mean() == pytest.approx(0.2, abs=5e-3) and (one != two).mean() == pytest.approx(0.32, abs=5e-3)
    np.testing.assert_array_equal(np.asarray(layer(x, training=False), np.float32), x)
    rest = np.asarray(nearly_all(x, training=True), np.float32)
    assert np.isfinite(rest).all() and (rest == 0).mean() > 0.999


@pytest.mark.parametrize("preset", ["small", "keras-io"])
def test_fused_layers_keep_the_precision(preset):
    with dtype_policy("mixed_bfloat16"):
        plain = build_eanet(EANetConfig.preset(preset))
    dtypes = {layer.name: layer.output.dtype for layer in plain.layers}
    for layer in with_fused_layers(plain).layers:
        assert layer.output.dtype == dtypes.get(layer.name, "bfloat16"), layer.name  # only fused pairs have new names
