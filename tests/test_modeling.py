"""modeling_eanet: the mathematics of external attention, the graph, the configuration."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, random_images, random_weights, tiny_config
from keras import ops

import modeling_eanet
from eanet.evaluation import preset_name
from modeling_eanet import (
    PRESETS,
    EANetConfig,
    UserError,
    attention_layer_name,
    build_eanet,
    external_attention,
)


def double_normalisation(logits):
    """Compute the paper's formula in float64: softmax over the tokens (axis 1), then L1 over the slots."""
    logits = logits.astype(np.float64)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    a = e / e.sum(axis=1, keepdims=True)
    return a / a.sum(axis=-1, keepdims=True)


def attention_model(tokens=20, dim=12, scale=1.0, **kwargs):
    inputs = keras.Input((tokens, dim))
    outputs = external_attention(inputs, name="a", **kwargs)
    return random_weights(keras.Model(inputs, outputs), scale=scale)


# ---------------------------------------------------------------------------------------------- external attention


@pytest.mark.parametrize(("head_dim", "scale", "tolerance"), [(None, 1, 2e-6), (None, 4, 2e-5), (6, 1, 2e-6)])
def test_attention_is_the_papers_formula(head_dim, scale, tolerance):
    model = attention_model(heads=3, slots=5, head_dim=head_dim, scale=scale)
    x = np.random.default_rng(1).normal(size=(2, 20, 12)).astype(np.float32)
    weights = {w.path: w.numpy().astype(np.float64) for w in model.weights}

    if head_dim is None:
        logits = (x @ weights["a_key/kernel"]).reshape(2, 20, 3, 5)
    else:
        logits = (x @ weights["a_query/kernel"]).reshape(2, 20, 3, 6) @ weights["a_memory_key/kernel"]
    attention = double_normalisation(logits)
    values, out = attention, "a_value"
    if head_dim is not None:
        values, out = attention @ weights["a_memory_value/kernel"] + weights["a_memory_value/bias"], "a_projection"
    expected = values.reshape(2, 20, -1) @ weights[f"{out}/kernel"] + weights[f"{out}/bias"]

    both = keras.Model(model.input, [model.get_layer("a_attention").output, model.output])
    ours, output = (np.asarray(v) for v in both(x))
    assert logits.std() > 2 * scale  # far from flat; at the larger scale an epsilon would make a difference
    np.testing.assert_allclose(ours, attention, atol=tolerance)
    np.testing.assert_allclose(ours.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(output, expected, atol=100 * tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 4e-3)])
def test_log_domain_identity(dtype, tolerance):
    """softmax_S(l - logsumexp_N(l)) is the double normalisation; only the logits are rounded to bfloat16."""
    logits = np.random.default_rng(0).normal(0, 3, (2, 64, 2, 16)).astype(np.float32)
    rounded = ops.cast(ops.cast(logits, dtype), "float32")
    ours = ops.softmax(rounded - ops.logsumexp(rounded, axis=1, keepdims=True), axis=-1)
    expected = double_normalisation(np.asarray(rounded))
    np.testing.assert_allclose(np.asarray(ours), expected, atol=1e-6)
    np.testing.assert_allclose(np.asarray(ops.cast(ours, dtype), np.float32), expected, atol=tolerance)


def test_rows_sum_to_1_where_the_published_epsilon_loses_mass():
    logits = np.random.default_rng(0).normal(0, 11.5, (4, 256, 4, 16)).astype(np.float32)
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    a = e / e.sum(axis=1, keepdims=True)
    published = a / (1e-9 + a.sum(axis=-1, keepdims=True))
    ours = np.asarray(ops.softmax(logits - ops.logsumexp(logits, axis=1, keepdims=True), axis=-1))
    assert (published.sum(axis=-1) < 0.99).mean() > 0.1
    np.testing.assert_allclose(ours.sum(axis=-1), 1, atol=1e-5)


def test_bias_on_query_or_key_would_be_dead():
    logits = np.random.default_rng(0).normal(0, 2, (1, 32, 2, 8))
    constant = np.random.default_rng(1).normal(0, 5, (1, 1, 2, 8))
    np.testing.assert_allclose(double_normalisation(logits + constant), double_normalisation(logits), atol=1e-12)


def test_attention_is_permutation_equivariant():
    model = attention_model(heads=2, slots=4, head_dim=6)
    x = np.random.default_rng(2).normal(size=(2, 20, 12)).astype(np.float32)
    order = np.random.default_rng(3).permutation(20)
    np.testing.assert_allclose(np.asarray(model(x[:, order])), np.asarray(model(x))[:, order], atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_block_has_a_named_attention_layer(preset):
    config = EANetConfig.preset(preset)
    model = random_weights(build_eanet(config), scale=0.1)
    blocks = sum(config.depths)
    maps = keras.Model(model.input, [model.get_layer(attention_layer_name(i)).output for i in range(blocks)])(
        random_images(2)
    )
    stages = [stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
    for stage, attention in zip(stages, maps, strict=True):
        side = config.image_size // config.patch_size // 2**stage
        assert attention.shape == (2, side * side, config.num_heads[stage], config.slots[stage])
        np.testing.assert_allclose(np.asarray(attention).sum(axis=-1), 1, atol=1e-5)


def test_attention_is_float32_in_mixed_precision(mixed_bfloat16):
    model = build_eanet(tiny_config())
    attention = keras.Model(model.input, model.get_layer("block_0_attention").output)(random_images(2))
    assert keras.backend.standardize_dtype(attention.dtype) == "float32"
    assert keras.backend.standardize_dtype(model(random_images(2)).dtype) == "float32"
    assert model.get_layer("block_0_key").compute_dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(attention).sum(axis=-1), 1, atol=1e-6)


# ------------------------------------------------------------------------------------ the Keras example, in NumPy


def keras_io_example(x, w):
    """Compute the Keras example at inference, in float64, from its own weights `w` with all their biases."""

    def norm(t, gamma, beta):
        return (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5) * gamma + beta

    def gelu(t):  # the tanh approximation, the default of keras.ops.gelu
        return 0.5 * t * (1 + np.tanh(np.sqrt(2 / np.pi) * (t + 0.044715 * t**3)))

    batch = len(x)
    x = (x.astype(np.float64) - modeling_eanet.CIFAR100_MEAN) / modeling_eanet.CIFAR100_STD
    t = x.reshape(batch, 16, 2, 16, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(batch, 256, 12)
    t = t @ w["patch"] + w["patch_bias"] + w["position"]
    largest = 0
    for b in w["blocks"]:
        n = norm(t, b["gamma_1"], b["beta_1"])
        q = (n @ b["query"] + b["query_bias"]).reshape(batch, 256, 16, 16).transpose(0, 2, 1, 3)
        logits = q @ b["m_k"] + b["m_k_bias"]
        largest = max(largest, logits.std())
        e = np.exp(logits - logits.max(axis=2, keepdims=True))
        a = e / e.sum(axis=2, keepdims=True)
        a = a / (1e-9 + a.sum(axis=-1, keepdims=True))
        y = (a @ b["m_v"] + b["m_v_bias"]).transpose(0, 2, 1, 3).reshape(batch, 256, 256)
        t = t + y @ b["out"] + b["out_bias"]
        n = norm(t, b["gamma_2"], b["beta_2"])
        t = t + gelu(n @ b["mlp_1"] + b["mlp_1_bias"]) @ b["mlp_2"] + b["mlp_2_bias"]
    logits = t.mean(axis=1) @ w["head"] + w["head_bias"]
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True), largest


def example_weights(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=None):
        return rng.normal(0, scale or shape[0] ** -0.5, shape)

    def block():
        return {
            **{"gamma_1": 1 + normal(64, scale=0.2), "beta_1": normal(64, scale=0.2)},
            **{"gamma_2": 1 + normal(64, scale=0.2), "beta_2": normal(64, scale=0.2)},
            **{"query": normal(64, 256), "query_bias": normal(256, scale=0.5)},
            **{"m_k": 2.4 * normal(16, 16), "m_k_bias": normal(16, scale=0.5)},
            **{"m_v": normal(16, 16), "m_v_bias": normal(16, scale=0.5)},
            **{"out": normal(256, 64), "out_bias": normal(64, scale=0.5)},
            **{"mlp_1": normal(64, 64), "mlp_1_bias": normal(64, scale=0.5)},
            **{"mlp_2": normal(64, 64), "mlp_2_bias": normal(64, scale=0.5)},
        }

    return {
        **{"patch": normal(12, 64), "patch_bias": normal(64, scale=0.5), "position": normal(256, 64, scale=0.5)},
        **{"blocks": [block() for _ in range(8)], "head": normal(64, 100), "head_bias": normal(100, scale=0.5)},
    }


def test_keras_io_preset_equals_the_example():
    w = example_weights()
    model = build_eanet(EANetConfig.preset("keras-io"))

    def give(layer, *values):
        model.get_layer(layer).set_weights(values)

    give("patch_embedding", w["patch"], w["position"] + w["patch_bias"])
    for i, b in enumerate(w["blocks"]):
        give(f"block_{i}_norm_1", b["gamma_1"], b["beta_1"])
        give(f"block_{i}_query", b["query"])
        give(f"block_{i}_memory_key", b["m_k"])
        give(f"block_{i}_memory_value", b["m_v"], b["m_v_bias"])
        give(f"block_{i}_projection", b["out"], b["out_bias"])
        give(f"block_{i}_norm_2", b["gamma_2"], b["beta_2"])
        give(f"block_{i}_mlp_1", b["mlp_1"], b["mlp_1_bias"])
        give(f"block_{i}_mlp_2", b["mlp_2"], b["mlp_2_bias"])
    give("classifier", w["head"], w["head_bias"])

    expected, largest_std = keras_io_example(random_images(3), w)
    assert 1.5 < largest_std <= 3  # peaky enough to tell, not so peaky that the example's epsilon matters
    np.testing.assert_allclose(np.asarray(model(random_images(3))), expected, atol=1e-5)


def test_parameter_counts():
    count = {name: build_eanet(EANetConfig.preset(name)).count_params() for name in PRESETS}
    # The example has 361,380. Dead: 8 x (256 query + 16 key) biases, and the 64 of the patch projection.
    assert count["keras-io"] == 361_380 - 8 * (256 + 16) - 64
    assert (count["small"], count["pyramid"], count["slim"], count["base"]) == (386_004, 393_580, 378_228, 1_509_436)


# ------------------------------------------------------------------------------------------------------- the graph


def test_input_is_raw_pixels_of_any_dtype_and_output_probabilities(tiny_model):
    x = random_images(5)
    out = tiny_model(x)
    assert out.shape == (5, 3)
    np.testing.assert_allclose(np.asarray(out).sum(axis=-1), 1, atol=1e-6)
    for dtype in ("float32", "float64", "int32"):
        np.testing.assert_array_equal(np.asarray(tiny_model(x.astype(dtype))), np.asarray(out))


def test_dropout_and_drop_path_act_only_in_training():
    model = random_weights(build_eanet(tiny_config(drop_path=0.5, attention_dropout=0.1, mlp_dropout=0.1)))
    x = random_images(5)
    first, second = np.asarray(model(x, training=True)), np.asarray(model(x, training=True))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(np.asarray(model(x)), np.asarray(model(x)))


def test_graph_has_only_layers_of_keras():
    for preset in PRESETS:
        serialized = json.loads(build_eanet(EANetConfig.preset(preset)).to_json())
        found = []

        def walk(node, found=found):
            if isinstance(node, dict):
                if "class_name" in node and "module" in node:
                    found.append((node["module"], node["class_name"]))
                for value in node.values():
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)

        walk(serialized)
        assert found
        for module, name in found:
            assert module.split(".")[0] == "keras" and "Lambda" not in name
            assert "Random" not in name or module == "keras.initializers"  # no augmentation inside the model


@pytest.mark.parametrize("changes", [{}, dict(shared_memory=True), dict(tokenizer="patch"), dict(inner_norm=True)], ids=str)
def test_redundant_biases_are_left_out(changes):
    """What stays: the biases before an activation, the classifier's, and those of the stem's first convolutions."""
    default, without = (build_eanet(tiny_config(**changes, redundant_bias=value)) for value in (True, False))
    gone = {w.path for w in default.weights} - {w.path for w in without.weights}
    blocks = {"value"} if not changes.get("shared_memory") else {"projection", "memory_value"}
    expected = {f"block_{i}_{name}/bias" for i in range(2) for name in {"mlp_2", *blocks}}
    inner = {"mlp_1/bias", "depthwise/bias", "value_norm/beta"} if changes.get("inner_norm") else {"norm_2/beta"}
    expected |= {f"block_{i}_{name}" for i in range(2) for name in {"norm_1/beta", *inner}} | {"final_norm/beta"}
    expected |= {"downsample_1/bias", "downsample_1_norm/beta"}
    expected |= {"block_0_mlp_norm/beta"} if changes.get("inner_norm") else set()
    assert gone == expected | (set() if "tokenizer" in changes else {"stem_1/bias"})
    saved = sum(math.prod(w.shape) for w in default.weights if w.path in gone)
    assert without.count_params() == default.count_params() - saved and saved > 200


def test_with_inner_norms_the_first_convolution_reads_channels_of_one_scale():
    """8-bit activations have one scale per tensor."""
    model = build_eanet(tiny_config(depths=(2, 1), inner_norm=True, redundant_bias=False))
    for weight in model.trainable_weights:
        weight.assign(np.random.default_rng(0).normal(0.3, 0.5, weight.shape))
    for block, one_scale in enumerate([True, True, False]):  # later stages begin with a norm
        read = keras.Model(model.input, model.get_layer(f"block_{block}_depthwise").input)(random_images(16), training=True)
        channels = np.asarray(read).reshape(-1, read.shape[-1])
        mean, deviation = np.abs(channels.mean(axis=0)).max(), channels.std(axis=0)
        assert (mean < 1e-4 and np.abs(deviation - 1).max() < 0.02) == one_scale


def test_other_image_and_patch_sizes_work():
    config = tiny_config(image_size=64, patch_size=4)
    assert build_eanet(config)(random_images(2, size=64)).shape == (2, 3)


# --------------------------------------------------------------------------------------------------- configuration


INVALID = [
    dict(image_size=0), dict(image_size=30), dict(image_size="32"), dict(image_size=10**9), dict(tokenizer="words"),
    dict(patch_size=3), dict(embed_dims=()), dict(embed_dims=(64, 0)), dict(depths=(1,)), dict(num_heads=(8, 8, 8)),
    dict(depths=(32, 33)),
    dict(slots=(8, 2.5)), dict(shared_memory="yes"), dict(head_dims=8), dict(mlp_ratio=0), dict(depthwise_kernel=2),
    dict(position_embedding=True), dict(final_norm=1), dict(norm="group"), dict(activation="swoosh"),
    dict(attention_dropout=1.0), dict(projection_dropout=-0.1), dict(mlp_dropout=float("nan")), dict(drop_path=True),
    dict(norm_epsilon=0), dict(id2label=["only"]), dict(id2label=["a", "a"]), dict(id2label={0: "a", 2: "b"}),
    dict(id2label={0: "a", 1: ""}), dict(id2label=["a", "\ud800"]), dict(id2label=7),
    dict(pixel_mean=(1, 2)), dict(pixel_std=(1, 0, 1)),
    dict(interpolation="guess"), dict(resize="stretch"), dict(redundant_bias=0), dict(redundant_bias=False, norm="layer"),
    dict(redundant_bias=False, norm="none"), dict(inner_norm=1), dict(inner_norm=True, depthwise_kernel=0),
]  # fmt: skip


@pytest.mark.parametrize("changes", INVALID, ids=str)
def test_invalid_setting_is_named(changes):
    with pytest.raises(UserError, match=next(iter(changes))) as error:
        EANetConfig(**changes)
    assert "\n" not in str(error.value)


def test_error_names_the_value_and_the_choices():
    with pytest.raises(UserError, match=r"activation='swoosh': must be one of relu, silu"):
        EANetConfig(activation="swoosh")


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match="'huge'.*keras-io, small"):
        EANetConfig.preset("huge")


@pytest.mark.parametrize("preset", PRESETS)
def test_config_survives_json(preset, tmp_path):
    config = EANetConfig.preset(preset, id2label={1: "b", 0: "a"})
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "class_name": "Functional"}))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["id2label"] == {"0": "a", "1": "b"} and written["label2id"] == {"a": 0, "b": 1}
    assert written["model_type"] == "eanet" and written["input_range"] == [0.0, 255.0]
    again = EANetConfig.from_json_file(tmp_path / "config.json")
    assert again == config and preset_name(again) == preset
    assert preset_name(dataclasses.replace(again, mlp_ratio=3.5)) == "custom"
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.image_size = 64


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(EANetConfig) if f.name != "id2label"])
def test_missing_setting_takes_its_default(name):
    """A published config.json keeps loading when a field is added."""
    settings = EANetConfig().to_dict()
    del settings[name]
    assert EANetConfig.from_dict(settings) == EANetConfig()


TWO = '{"model_type": "eanet", "id2label": {"0": "a", "1": "b"}'


@pytest.mark.parametrize(("text", "says"), [
    ("{", "not JSON"), pytest.param("[" * 99999, "not JSON", id="too deep"),
    ("[]", "model_type"), ('{"model_type": "vit"}', "model_type"),
    ('{"model_type": "eanet"}', "id2label"), ('{"model_type": "eanet", "id2label": 7}', "id2label"),
    (TWO + ', "label2id": {"a": 1, "b": 0}}', "label2id"), (TWO + ', "input_range": [0, 1]}', "input_range"),
    (TWO + ', "depths": {}}', "depths"),
])  # fmt: skip
def test_invalid_config_file_is_named(text, says, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"^{tmp_path}/config.json: .*{says}") as error:
        EANetConfig.from_json_file(tmp_path / "config.json")
    assert "\n" not in str(error.value)


def test_cifar100_labels_are_the_hundred_in_order():
    labels = modeling_eanet.CIFAR100_LABELS
    assert len(set(labels)) == 100 and list(labels) == sorted(labels)
    assert (labels[0], labels[26], labels[99]) == ("apple", "crab", "worm")


# ---------------------------------------------------------------------------------------------------------- on its own


def test_modeling_alone(tmp_path):
    """modeling_eanet.py loads and predicts without the rest of the repository."""
    for name in ("modeling_eanet.py", "config.json", "model.weights.h5"):
        shutil.copy(ROOT / name, tmp_path)
    code = """
import sys, numpy as np
sys.path = [""] + [p for p in sys.path if p not in ("", sys.argv[1])]
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]  # `pip install -e`
from modeling_eanet import from_pretrained_keras
model = from_pretrained_keras(".")
probabilities = model.predict(np.full((2, 32, 32, 3), 128, np.uint8), verbose=0)
assert probabilities.shape == (2, 100) and abs(probabilities.sum() - 2) < 1e-3
assert "eanet" not in sys.modules
import modeling_eanet
try:
    modeling_eanet.classify
except AttributeError as error:
    assert "copy the folder eanet/" in str(error)
else:
    raise AssertionError("found")
"""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code, ROOT], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["classify", "load_image", "predict_probabilities", "top_predictions"])
def test_moved_names_stay_importable(name):
    import eanet

    assert getattr(modeling_eanet, name) is getattr(eanet, name)
