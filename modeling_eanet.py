"""EANet, an image classifier built on external attention, in Keras 3.

The whole model is in this file: its configuration, its graph, its labels and preprocessing, and how it is saved and
loaded. Nothing here needs a custom class to load again: the graph is made of Keras' own layers and operations.

    from modeling_eanet import classify, from_pretrained_keras
    model = from_pretrained_keras(".")                  # a folder, or "user/name" on the Hugging Face Hub
    classify(model, ["samples/apple.png"], top_k=3)     # [[{"label": "apple", "score": 0.9}, ...]]

External attention (Guo et al. 2021, https://arxiv.org/abs/2105.02358) lets N tokens attend to S learned memory slots
instead of to each other, which costs O(N) instead of O(N^2). The paper normalises the logits l (N, S) twice, softmax over
the tokens and then L1 over the slots. In exact arithmetic that is one softmax of logits less a log-normaliser:

    A = L1_S(softmax_N(l)) = softmax_S(l - logsumexp_N(l))

The right-hand side needs no epsilon and cannot lose row mass when the logits are peaky. See `external_attention`.

References:
    Guo et al. 2021, "Beyond Self-attention: External Attention using Two Linear Layers for Visual Tasks".
    The Keras example "Image classification with EANet": https://keras.io/examples/vision/eanet/
    Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images" (CIFAR-100).
"""

# Keras, and TensorFlow behind it, take seconds to import. They are imported where a model is built, so that reading a
# configuration, and every error a command line can find without a model, comes at once.
from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import numbers
import os
import shutil
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"
KERAS_FILES = (CONFIG_FILE, "metadata.json", WEIGHTS_FILE)
SAVED_MODEL_FILES = ("saved_model.pb", "keras_metadata.pb", "fingerprint.pb", "variables")
ONNX_FILE = "model.onnx"  # export.py writes it from the others

# Per channel, over the 50,000 official training pictures, on the 0-255 scale.
CIFAR100_MEAN = (129.304, 124.070, 112.434)
CIFAR100_STD = (68.170, 65.392, 70.418)
CIFAR100_LABELS = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)

# --------------------------------------------------------------------------------------------------- configuration


@dataclasses.dataclass(frozen=True)
class EANetConfig:
    """Everything that decides the graph, and what a picture needs on its way in and a score on its way out.

    The tuples have one entry per stage. Every stage after the first halves the side of the token grid.

    Attributes:
        image_size: side of the square input, in pixels.
        tokenizer: "patch", bare patches (the Keras example), or "conv", overlapping 3x3 convolutions.
        patch_size: side of the square of pixels behind one token of the first stage; a power of two for "conv".
        embed_dims: width of the tokens, per stage.
        depths: number of blocks, per stage.
        num_heads: heads of external attention, per stage.
        slots: memory slots S per head, per stage.
        shared_memory: True, the paper's form: a query projection, one memory shared by all heads, an output projection.
            False, the folded form: the query projection and the memory's keys are one matrix, and so are the memory's
            values and the output projection. `fold` turns the first into the second.
        head_dims: width of a head's query, per stage; only read when `shared_memory` is True.
        mlp_ratio: hidden width of the MLP over the width of the tokens.
        depthwise_kernel: side of the depthwise convolution inside the MLP of each block; 0 for none.
        position_embedding: learned position embedding, added by the "patch" tokenizer.
        norm: "layer" or "batch", before the attention and the MLP of each block; "none" is what `fold` makes of "batch".
        final_norm: one more norm before the global average pooling.
        activation: of the MLP and of the convolutional stem, one of `ACTIVATIONS`.
        attention_dropout, projection_dropout, mlp_dropout: dropout rates in [0, 1).
        drop_path: rate of stochastic depth at the last block, growing linearly from 0 at the first; in [0, 1).
        norm_epsilon: added to the variance by every norm.
        id2label: class index to class name, 0 to num_classes - 1; a sequence of names is taken too.
        input_range: scale of the pixels that go in; the model normalises by itself.
        pixel_mean, pixel_std: per channel (RGB), on that scale.
        interpolation: how a picture of another size is resized, one of `INTERPOLATIONS`.

    Raises:
        ValueError: a field that does not fit; the message names the field, the value and what would do.
    """

    image_size: int = 32
    tokenizer: str = "conv"
    patch_size: int = 2
    embed_dims: tuple[int, ...] = (64, 112)
    depths: tuple[int, ...] = (2, 3)
    num_heads: tuple[int, ...] = (8, 8)
    slots: tuple[int, ...] = (8, 14)
    shared_memory: bool = False
    head_dims: tuple[int, ...] = (8, 14)
    mlp_ratio: float = 2.0
    depthwise_kernel: int = 3
    position_embedding: bool = False
    norm: str = "batch"
    final_norm: bool = True
    activation: str = "relu"
    attention_dropout: float = 0.0
    projection_dropout: float = 0.0
    mlp_dropout: float = 0.0
    drop_path: float = 0.0
    norm_epsilon: float = 1e-3
    id2label: dict[int, str] = dataclasses.field(default=CIFAR100_LABELS, hash=False)
    input_range: tuple[float, float] = (0.0, 255.0)
    pixel_mean: tuple[float, float, float] = CIFAR100_MEAN
    pixel_std: tuple[float, float, float] = CIFAR100_STD
    interpolation: str = "bicubic"

    def __post_init__(self):
        for field in dataclasses.fields(self):  # JSON has lists where we want tuples
            if isinstance(getattr(self, field.name), list) and field.name != "id2label":
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        object.__setattr__(self, "id2label", _checked_labels(self.id2label))
        self._check()

    def _check(self):
        def need(ok, name, mend):
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)!r}: {mend}")

        def whole(value, least=1):
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        def number(value):
            return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

        need(whole(self.image_size), "image_size", "must be a whole number of pixels, at least 1")
        need(self.tokenizer in ("patch", "conv"), "tokenizer", 'must be "patch" or "conv"')
        need(whole(self.patch_size), "patch_size", "must be a whole number of pixels, at least 1")
        power_of_two = whole(self.patch_size) and self.patch_size & (self.patch_size - 1) == 0
        need(self.tokenizer == "patch" or power_of_two, "patch_size", "must be a power of two for the conv tokenizer")
        stages = len(self.embed_dims) if isinstance(self.embed_dims, tuple) else 0
        need(stages >= 1, "embed_dims", "must be a tuple of at least one width")
        for name in ("embed_dims", "depths", "num_heads", "slots", "head_dims"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and len(value) == stages and all(whole(v) for v in value)
            need(fits, name, f"must be {stages} whole number(s), at least 1, one per stage")
        side = self.patch_size * 2 ** (stages - 1)
        need(self.image_size % side == 0, "image_size", f"must be a multiple of {side}, the pixels behind a last token")
        need(isinstance(self.shared_memory, bool), "shared_memory", "must be true or false")
        need(number(self.mlp_ratio) and self.mlp_ratio > 0, "mlp_ratio", "must be a number above 0")
        widths = [round(self.mlp_ratio * dim) for dim in self.embed_dims]
        need(min(widths) >= 1, "mlp_ratio", f"makes an MLP of no width beside embed_dims={self.embed_dims}")
        halved = self.tokenizer == "conv" and self.patch_size > 1
        need(not halved or self.embed_dims[0] >= 2, "embed_dims", "must begin with at least 2, which the stem halves")
        odd = whole(self.depthwise_kernel, 0) and (self.depthwise_kernel == 0 or self.depthwise_kernel % 2 == 1)
        need(odd, "depthwise_kernel", "must be an odd number, or 0 for none")
        need(isinstance(self.position_embedding, bool), "position_embedding", "must be true or false")
        need(
            not self.position_embedding or self.tokenizer == "patch",
            "position_embedding",
            "goes with the patch tokenizer; convolutions see positions by themselves",
        )
        need(isinstance(self.final_norm, bool), "final_norm", "must be true or false")
        need(self.norm in NORMS, "norm", f"must be one of {', '.join(NORMS)}")
        need(self.activation in ACTIVATIONS, "activation", f"must be one of {', '.join(ACTIVATIONS)}")
        for name in ("attention_dropout", "projection_dropout", "mlp_dropout", "drop_path"):
            value = getattr(self, name)
            need(number(value) and 0 <= value < 1, name, "must be a rate in [0, 1)")
        need(number(self.norm_epsilon) and self.norm_epsilon > 0, "norm_epsilon", "must be above 0")
        for name, count in (("input_range", 2), ("pixel_mean", 3), ("pixel_std", 3)):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and len(value) == count and all(number(v) for v in value)
            need(fits, name, f"must be {count} numbers")
        need(all(v > 0 for v in self.pixel_std), "pixel_std", "must be above 0")
        need(tuple(self.input_range) == (0.0, 255.0), "input_range", "must be (0, 255)")
        need(self.interpolation in INTERPOLATIONS, "interpolation", f"must be one of {', '.join(INTERPOLATIONS)}")

    @property
    def num_classes(self) -> int:
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        return {label: index for index, label in self.id2label.items()}

    @property
    def preset_name(self) -> str:
        """The preset with this architecture, whatever the labels, or "custom"."""
        return next((n for n in PRESETS if EANetConfig.preset(n, id2label=self.id2label) == self), "custom")

    @classmethod
    def preset(cls, name: str, **changes) -> EANetConfig:
        """The configuration called `name` in `PRESETS`, with `changes` to its fields.

        Raises:
            ValueError: an unknown name.
        """
        if name not in PRESETS:
            raise ValueError(f"preset {name!r}: must be one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def to_dict(self) -> dict:
        """The settings as JSON types, the way the top of `config.json` holds them."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
        fields["id2label"] = {str(index): label for index, label in self.id2label.items()}
        return {"model_type": "eanet", **fields, "label2id": self.label2id}

    @classmethod
    def from_dict(cls, settings: dict) -> EANetConfig:
        """The inverse of `to_dict`; keys that are not ours (Keras' half of `config.json`) are left alone.

        Raises:
            ValueError: `model_type` is not "eanet", a setting is missing, or one does not fit.
        """
        if not isinstance(settings, dict) or settings.get("model_type") != "eanet":
            raise ValueError('no EANet configuration: "model_type": "eanet" is missing')
        names = [f.name for f in dataclasses.fields(cls)]
        missing = [name for name in names if name not in settings]
        if missing:
            raise ValueError(f"setting {missing[0]!r} is missing")
        config = cls(**{name: settings[name] for name in names})
        if settings.get("label2id", config.label2id) != config.label2id:
            raise ValueError("label2id: is not the inverse of id2label")
        return config

    @classmethod
    def from_json_file(cls, path) -> EANetConfig:
        """Reads the settings out of a `config.json`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not JSON, or not an EANet configuration; the message begins with the path.
        """
        try:
            return cls.from_dict(_read_json(path))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None

    def to_json_file(self, path) -> None:
        """Writes the settings alone, atomically; `save_pretrained_keras` writes them with Keras' half beside them."""
        write_json(path, self.to_dict())


PRESETS = {
    # The Keras example's architecture. Its query and key biases cancel in the token softmax and are left out; the bias
    # of its patch projection is one with the position embedding.
    "keras-io": dict(
        tokenizer="patch",
        patch_size=2,
        embed_dims=(64,),
        depths=(8,),
        num_heads=(16,),
        slots=(16,),
        shared_memory=True,
        head_dims=(16,),
        mlp_ratio=1.0,
        depthwise_kernel=0,
        position_embedding=True,
        norm="layer",
        norm_epsilon=1e-5,
        final_norm=False,
        activation="gelu_tanh",
        attention_dropout=0.2,
        projection_dropout=0.2,
        mlp_dropout=0.2,
    ),
    # The flagship, at most 0.4 M parameters: the defaults of EANetConfig.
    "small": dict(),
    # At most 4 M parameters.
    "large": dict(
        embed_dims=(160, 320),
        depths=(3, 4),
        num_heads=(10, 20),
        slots=(16, 16),
        head_dims=(16, 16),
        drop_path=0.1,
    ),
}
NORMS = ("layer", "batch", "none")
ACTIVATIONS = ("relu", "silu", "gelu", "gelu_tanh")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box")


def _checked_labels(labels) -> dict[int, str]:
    try:
        labels = labels if isinstance(labels, dict) else dict(enumerate(labels))
        labels = {int(str(index)): label for index, label in labels.items()}
    except (TypeError, ValueError):
        raise ValueError("id2label: must be a list of names, or map whole numbers to names") from None
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
        raise ValueError(f"id2label: {len(labels)} keys; must be 0 to num_classes - 1, at least two classes")
    if not all(isinstance(label, str) and label for label in labels.values()):
        raise ValueError("id2label: every label must be a text that is not empty")
    if len(set(labels.values())) < len(labels):
        raise ValueError("id2label: two classes have the same label")
    return dict(sorted(labels.items()))


# ----------------------------------------------------------------------------------------------------------- graph


def use_xla() -> bool:
    """Whether to compile with XLA; the one place that chooses by device.

    On a GPU XLA is the fast path. On a CPU, TensorFlow's oneDNN kernels run this model several times as fast as XLA
    does. JAX knows nothing but XLA.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    return keras.backend.backend() == "jax"


def build_eanet(config: EANetConfig):
    """Builds the model: RGB pictures in, class probabilities out.

    The output of the layer `attention_layer_name(i)` is the attention of block i: (batch, tokens, heads, slots), float32,
    every row over the slots summing to 1.

    Args:
        config: the architecture.

    Returns:
        A `keras.Model` with `config` attached as `model.config`. In: (batch, image_size, image_size, 3), uint8 or
        float, 0 to 255. Out: (batch, num_classes), float32 probabilities.
    """
    import keras
    from keras import layers

    scale = [1.0 / s for s in config.pixel_std]
    offset = [-m / s for m, s in zip(config.pixel_mean, config.pixel_std, strict=True)]
    inputs = keras.Input((config.image_size, config.image_size, 3), name="image")
    x = layers.Rescaling(scale, offset, name="normalize")(inputs)
    x = _patch_tokens(x, config) if config.tokenizer == "patch" else _conv_tokens(x, config)

    block, last_block = 0, max(1, sum(config.depths) - 1)
    for stage, dim in enumerate(config.embed_dims):
        if stage > 0:
            x = layers.Conv2D(dim, 3, strides=2, padding="same", name=f"downsample_{stage}")(x)
            x = _norm(config, f"downsample_{stage}_norm")(x)
        for _ in range(config.depths[stage]):
            x = _block(x, config, stage, f"block_{block}", config.drop_path * block / last_block)
            block += 1

    if config.final_norm:
        x = _norm(config, "final_norm")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    # Probabilities in float32 whatever the precision of the rest.
    outputs = layers.Dense(config.num_classes, activation="softmax", dtype="float32", name="classifier")(x)
    model = keras.Model(inputs, outputs, name="eanet")
    model.config = config
    model.jit_compile = use_xla()
    return model


def attention_layer_name(block: int) -> str:
    """Name of the layer whose output is the attention of block `block`, counted from 0 through all stages."""
    return f"block_{block}_attention"


def external_attention(x, *, heads, slots, head_dim=None, attention_dropout=0.0, projection_dropout=0.0, name="block"):
    """External attention with double normalisation (Guo et al. 2021, equations 5 and 6 and algorithm 2).

    Adding a constant to all the logits of a slot changes nothing, since the softmax over the tokens cancels it. So the
    query and the memory's keys have no bias: it would be dead.

    Args:
        x: tokens, (batch, N, d).
        heads: number of heads H.
        slots: memory slots S per head.
        head_dim: width of a head's query for a memory shared by the heads; None for the folded form.
        attention_dropout, projection_dropout: rates in [0, 1).
        name: prefix of the layers' names; `name + "_attention"` puts out the attention, (batch, N, H, S) float32.

    Returns:
        Tokens, (batch, N, d).
    """
    from keras import layers, ops

    _, tokens, dim = x.shape
    if head_dim is None:
        logits = layers.Dense(heads * slots, use_bias=False, name=f"{name}_key")(x)
    else:
        query = layers.Dense(heads * head_dim, use_bias=False, name=f"{name}_query")(x)
        query = layers.Reshape((tokens, heads, head_dim), name=f"{name}_heads")(query)
        logits = layers.Dense(slots, use_bias=False, name=f"{name}_memory_key")(query)

    # A float32 layer casts its input: in bfloat16 the normalisation would be off by 0.02.
    logits = layers.Reshape((tokens, heads, slots), dtype="float32", name=f"{name}_logits")(logits)
    log_mass = _named(ops.logsumexp(logits, axis=1, keepdims=True), f"{name}_log_mass")
    logits = layers.Subtract(dtype="float32", name=f"{name}_log_attention")([logits, log_mass])
    attention = layers.Softmax(axis=-1, dtype="float32", name=f"{name}_attention")(logits)

    y = _dropout(attention_dropout, f"{name}_attention_dropout")(attention)
    if head_dim is not None:
        y = layers.Dense(head_dim, name=f"{name}_memory_value")(y)
    y = layers.Reshape((tokens, heads * (head_dim or slots)), name=f"{name}_merge")(y)
    y = layers.Dense(dim, name=f"{name}_projection" if head_dim else f"{name}_value")(y)
    return _dropout(projection_dropout, f"{name}_projection_dropout")(y)


def fold(model):
    """The deployment form of `model`: the same function with fewer and larger matrix products.

    Nothing nonlinear stands between the query projection and the memory's keys, nor between the memory's values and the
    output projection, so each pair is one matrix:

        W_key[:, h, :] = W_q[:, h, :] M_k        W_value[h, :, :] = M_v W_o[h, :, :]

    Rows of the attention sum to 1, so the bias of M_v goes into the bias of the output. At inference a BatchNormalization
    is a scale and a shift per channel, and each stands beside a linear layer that takes them up; a shift of the logits
    cancels in the softmax over the tokens. Exact at inference (no dropout). The pairs are worth folding where
    S <= head_dim; beyond, the folded matrices are the larger ones.

    Args:
        model: of `build_eanet`.

    Returns:
        A new `keras.Model` whose config has `shared_memory=False`, and `norm="none"` in place of "batch".
    """
    config = model.config
    norm = "none" if config.norm == "batch" else config.norm
    folded = build_eanet(dataclasses.replace(config, shared_memory=False, norm=norm))
    weights = {layer.name: layer.get_weights() for layer in model.layers if layer.weights}
    blocks = [stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
    if config.norm == "batch":
        query = "query" if config.shared_memory else "key"
        for block in range(len(blocks)):
            _fold_norm_before(weights, f"block_{block}_norm_1", f"block_{block}_{query}", config)
            _fold_norm_before(weights, f"block_{block}_norm_2", f"block_{block}_mlp_1", config)
        for stage in range(1, len(config.depths)):
            scale, shift = _scale_and_shift(weights.pop(f"downsample_{stage}_norm"), config)
            kernel, bias = weights[f"downsample_{stage}"]
            weights[f"downsample_{stage}"] = [kernel * scale, bias * scale + shift]
        if config.final_norm:
            _fold_norm_before(weights, "final_norm", "classifier", config)
    if config.shared_memory:
        for block, stage in enumerate(blocks):
            name, heads, width = f"block_{block}", config.num_heads[stage], config.head_dims[stage]
            query = weights[f"{name}_query"][0].reshape(-1, heads, width)
            (keys,), (values, value_bias) = weights[f"{name}_memory_key"], weights[f"{name}_memory_value"]
            kernel, bias = weights[f"{name}_projection"]
            dim, kernel = len(query), kernel.reshape(heads, width, -1)
            weights[f"{name}_key"] = [np.einsum("dhc,cs->dhs", query, keys).reshape(dim, -1)]
            weights[f"{name}_value"] = [
                np.einsum("sc,hcd->hsd", values, kernel).reshape(-1, dim),
                bias + np.einsum("c,hcd->d", value_bias, kernel),
            ]
    for layer in folded.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return folded


def deployment_form(model):
    """`fold(model)` where that has no more parameters, and so no more to compute; `model` itself where it has."""
    folded = fold(model)
    return folded if folded.count_params() <= model.count_params() else model


def _scale_and_shift(norm, config):
    gamma, beta, mean, variance = norm
    scale = gamma / np.sqrt(variance + config.norm_epsilon)
    return scale, beta - mean * scale


def _fold_norm_before(weights, norm, dense, config) -> None:
    """Puts a BatchNormalization into the Dense that follows it; a Dense without bias has logits, where a shift cancels."""
    scale, shift = _scale_and_shift(weights.pop(norm), config)
    kernel, *bias = weights[dense]
    weights[dense] = [kernel * scale[:, None], *(b + shift @ kernel for b in bias)]


def _block(x, config, stage, name, drop_path):
    """External attention, then an MLP with a depthwise convolution in it; each a residual branch of (side, side, dim)."""
    from keras import layers

    _, side, _, dim = x.shape
    y = _norm(config, f"{name}_norm_1")(x)
    y = layers.Reshape((side * side, dim), name=f"{name}_tokens")(y)
    y = external_attention(
        y,
        heads=config.num_heads[stage],
        slots=config.slots[stage],
        head_dim=config.head_dims[stage] if config.shared_memory else None,
        attention_dropout=config.attention_dropout,
        projection_dropout=config.projection_dropout,
        name=name,
    )
    y = layers.Reshape((side, side, dim), name=f"{name}_grid")(y)
    y = _dropout(drop_path, f"{name}_drop_path_1", noise_shape=(None, 1, 1, 1))(y)
    x = layers.Add(name=f"{name}_add_attention")([x, y])

    y = _norm(config, f"{name}_norm_2")(x)
    y = layers.Dense(round(config.mlp_ratio * dim), name=f"{name}_mlp_1")(y)
    y = _activation(config, f"{name}_mlp_activation")(y)
    if config.depthwise_kernel:
        # External attention mixes tokens through H*S numbers alone and sees no neighbourhood; this does.
        y = layers.DepthwiseConv2D(config.depthwise_kernel, padding="same", name=f"{name}_depthwise")(y)
        y = _activation(config, f"{name}_depthwise_activation")(y)
    y = _dropout(config.mlp_dropout, f"{name}_mlp_dropout_1")(y)
    y = layers.Dense(dim, name=f"{name}_mlp_2")(y)
    y = _dropout(config.mlp_dropout, f"{name}_mlp_dropout_2")(y)
    y = _dropout(drop_path, f"{name}_drop_path_2", noise_shape=(None, 1, 1, 1))(y)
    return layers.Add(name=f"{name}_add_mlp")([x, y])


def _patch_tokens(x, config):
    """Bare patches, each flattened to (row, column, channel) and projected: (batch, side, side, dim)."""
    from keras import layers

    side, patch, dim = config.image_size // config.patch_size, config.patch_size, config.embed_dims[0]
    x = layers.Reshape((side, patch, side, patch * 3), name="patch_rows")(x)
    x = layers.Permute((1, 3, 2, 4), name="patch_order")(x)
    x = layers.Reshape((side * side, patch * patch * 3), name="patches")(x)
    # One bias per token is a learned position embedding; with it, one per channel would be redundant.
    bias = dict(bias_axes="bd", bias_initializer="random_uniform") if config.position_embedding else dict(bias_axes="d")
    x = layers.EinsumDense("abc,cd->abd", (side * side, dim), name="patch_embedding", **bias)(x)
    return layers.Reshape((side, side, dim), name="patch_grid")(x)


def _conv_tokens(x, config):
    """Overlapping 3x3 convolutions, one at full size and one per halving down to patch_size: (batch, side, side, dim)."""
    from keras import layers

    dim = config.embed_dims[0]
    halvings = config.patch_size.bit_length() - 1
    x = layers.Conv2D(dim // 2 if halvings else dim, 3, padding="same", name="stem_0")(x)
    for i in range(1, halvings + 1):
        x = _activation(config, f"stem_{i - 1}_activation")(x)
        x = layers.Conv2D(dim if i == halvings else dim // 2, 3, strides=2, padding="same", name=f"stem_{i}")(x)
    return x


def _norm(config, name):
    from keras import layers

    if config.norm == "none":
        return lambda x: x
    if config.norm == "batch":
        # A statistic over the last ten batches or so; training measures it anew for the weights it ships.
        return layers.BatchNormalization(momentum=0.9, epsilon=config.norm_epsilon, name=name)
    return layers.LayerNormalization(epsilon=config.norm_epsilon, name=name)


def _activation(config, name):
    """`gelu` is the exact one, `gelu_tanh` the approximation that `keras.ops.gelu` (and so the Keras example) uses."""
    from keras import layers, ops

    if config.activation == "gelu_tanh":
        return lambda x: _named(ops.gelu(x), name)
    return layers.Activation(config.activation, name=name)


def _named(tensor, name):
    """Names the operation behind `tensor`. Keras would count through all models of the process, so that two builds of one
    configuration would differ."""
    tensor._keras_history.operation.name = name
    return tensor


def _dropout(rate, name, **kwargs):
    from keras import layers

    return layers.Dropout(rate, name=name, **kwargs) if rate > 0 else lambda x: x


# -------------------------------------------------------------------------------------------- saving and loading


def save_pretrained_keras(model, directory, *, saved_model: bool | None = None) -> list[str]:
    """Writes `model` so that it loads with no code of ours, in two formats side by side.

    - `config.json`, `metadata.json`, `model.weights.h5`: for `keras.saving.load_model(directory)` or `"hf://user/name"`,
      Keras 3.11 and later, on every backend. The top of `config.json` is the EANetConfig.
    - `saved_model.pb`, `keras_metadata.pb`, `fingerprint.pb`, `variables/`: the SavedModel that
      `huggingface_hub.from_pretrained_keras` reads. TensorFlow and tf_keras write it, in the deployment form.

    A `model.onnx` that `export.py` made of other weights is deleted.

    All is written to a temporary folder in `directory` first and then moved in file by file, so a full disk or an
    interruption while writing leaves what was there.

    Args:
        model: of `build_eanet`. Its weights are saved in float32; optimizer state is not.
        directory: made if it is not there.
        saved_model: whether to write the SavedModel; None, wherever it can be: TensorFlow backend and tf_keras installed.

    Returns:
        The names written, relative to `directory`.

    Raises:
        ImportError: `saved_model=True` where TensorFlow or tf_keras is missing.
        OSError: the folder cannot be written; what was there is untouched.
    """
    import keras

    config = model.config
    if saved_model is None:
        saved_model = can_write_saved_model()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=directory) as stage:  # in there, so that moving out is a rename
        stage = Path(stage)
        clean = inference_copy(model)
        archive = stage / "model.keras"
        keras.saving.save_model(clean, archive)
        shutil.unpack_archive(archive, stage, format="zip")
        archive.unlink()
        keras_half = _portable(_read_json(stage / CONFIG_FILE))
        _write_config(stage / CONFIG_FILE, config, keras_half)
        names = list(KERAS_FILES)
        if saved_model:
            with dtype_policy("float32"):
                _write_saved_model(deployment_form(clean), stage)
            names += SAVED_MODEL_FILES
        stale = [] if saved_model else list(SAVED_MODEL_FILES)
        if (directory / ONNX_FILE).is_file() and model_checksum(model).encode() not in (directory / ONNX_FILE).read_bytes():
            stale.append(ONNX_FILE)
        for name in stale:  # one of other weights must not stay behind
            _remove(directory / name)
        for name in names:
            _replace(stage / name, directory / name)
    return names


def from_pretrained_keras(
    repo_id_or_directory,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir=None,
    local_files_only: bool = False,
):
    """Loads a model that `save_pretrained_keras` wrote, from a folder or from the Hugging Face Hub.

    It reads `config.json`, builds the graph from it and loads `model.weights.h5`; from the Hub it downloads these two
    files alone. It works with every huggingface_hub from 0.36 on, also those without a `from_pretrained_keras`.

    Args:
        repo_id_or_directory: a folder, or "user/name".
        revision: branch, tag or commit on the Hub; None for main.
        token: of the Hub; None for the saved login.
        cache_dir: of the downloads; None for the Hub's own.
        local_files_only: load from the cache and ask the Hub nothing.

    Returns:
        The `keras.Model` of `build_eanet`, with its `EANetConfig` as `model.config`. It is not compiled.

    Raises:
        FileNotFoundError: the folder, or one of the two files in it, is not there.
        OSError: the Hub has no such repository, revision or file, or does not answer.
        ValueError: a file is damaged, or the weights are not those of the configuration; the message names the file.
    """
    directory = Path(repo_id_or_directory)
    if not directory.is_dir():
        repo_id = str(repo_id_or_directory)
        if directory.exists() or repo_id.startswith((".", "~", os.sep)) or repo_id.count("/") != 1:
            raise FileNotFoundError(f"{repo_id}: no such model folder, and no Hub repository is called so (user/name)")
        from huggingface_hub import snapshot_download

        try:
            directory = Path(
                snapshot_download(
                    repo_id,
                    revision=revision,
                    token=token,
                    cache_dir=cache_dir,
                    local_files_only=local_files_only,
                    allow_patterns=[CONFIG_FILE, WEIGHTS_FILE],
                )
            )
        except (OSError, ValueError) as error:
            reason = f"no such folder, and not to be had from the Hub ({first_line(error)})"
            raise OSError(f"{repo_id}: {reason}") from error
    config = EANetConfig.from_json_file(directory / CONFIG_FILE)
    weights = directory / WEIGHTS_FILE
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: no such file; the folder holds no complete model")
    model = build_eanet(config)
    try:
        model.load_weights(weights)
        _check_nothing_left_over(model, weights)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{weights}: cannot be read, damaged or cut short ({first_line(error)})") from None
    except (ValueError, KeyError) as error:
        raise ValueError(f"{weights}: not the weights of {CONFIG_FILE} beside it ({first_line(error)})") from None
    return model


@contextlib.contextmanager
def dtype_policy(name: str):
    """Inside, layers are built with the Keras dtype policy `name`: "float32" or "mixed_bfloat16"."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def inference_copy(model):
    """The weights of `model` in a fresh float32 graph, without optimizer, compile settings or mixed precision."""
    with dtype_policy("float32"):
        clean = build_eanet(model.config)
    clean.set_weights(model.get_weights())
    return clean


def can_write_saved_model() -> bool:
    """Whether this process can write the SavedModel: Keras runs on TensorFlow, and tf_keras is installed."""
    import importlib.util

    import keras

    return keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tf_keras") is not None


def _check_nothing_left_over(model, weights) -> None:
    """Raises ValueError if the file holds more arrays than the model, which Keras would pass over."""
    import h5py

    arrays = []
    with h5py.File(weights, "r") as file:
        file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
    if len(arrays) != len(model.weights):
        raise ValueError(f"it holds {len(arrays)} arrays, the model {len(model.weights)}")


def model_checksum(model) -> str:
    """CRC-32, in hexadecimal, of configuration and float32 weights: it tells which model a figure was measured on."""
    checksum = zlib.crc32(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for array in model.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(array, np.float32), checksum)
    return f"{checksum:08x}"


def write_json(path, value) -> None:
    """Writes `value` as JSON to a temporary name and renames it to `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_config(path, config, keras_half) -> None:
    """Our settings, a line each, then Keras' half on one long line: people read the top, Keras the rest."""
    ours, theirs = json.dumps(config.to_dict(), indent=2), json.dumps(keras_half)
    Path(path).write_text(f"{ours[:-2]},\n  {theirs[1:-1]}\n}}\n", encoding="utf-8")


def _read_json(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; the folder holds no complete model")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"not JSON ({first_line(error)})") from None


def first_line(error) -> str:
    """The first line of an error's message that has text in it, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _portable(node):
    """Drops, all through a Keras config, keys that Keras 3.15 writes and older versions refuse, where they say nothing."""
    newer = {"input_axes": None, "output_axes": None, "quantization_config": None}
    newer |= {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}
    if isinstance(node, dict):
        return {k: _portable(v) for k, v in node.items() if not (k in newer and v == newer[k])}
    return [_portable(v) for v in node] if isinstance(node, list) else node


def _write_saved_model(model, directory) -> None:
    """Writes the SavedModel with tf_keras: `from_pretrained_keras` needs the `keras_metadata.pb` that only it writes."""
    import tensorflow as tf
    import tf_keras

    class EANet(tf_keras.layers.Layer):
        """Calls the Keras 3 model. What is saved is this call's trace, so loading needs no class of ours."""

        def __init__(self, variables, **kwargs):
            super().__init__(**kwargs)
            # tf.Variables, so they are saved and stay trainable. With the model as an attribute each would be saved twice.
            self._tracked = variables

        def call(self, inputs):
            return model(inputs, training=False)

    size = model.config.image_size
    image = tf_keras.Input((size, size, 3), dtype=tf.float32, name="image")
    wrapped = tf_keras.Model(image, EANet([v.value for v in model.variables], name="eanet")(image), name="eanet")
    try:
        wrapped.save(directory, save_format="tf", include_optimizer=False)
    except tf.errors.OpError as error:
        raise OSError(f"{directory}: the SavedModel cannot be written ({first_line(error)})") from None


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    """`os.replace` that also takes a folder's place."""
    if target.is_dir():
        old = source.with_name(source.name + ".old")
        os.replace(target, old)
    os.replace(source, target)


# ------------------------------------------------------------------------------------------------------ prediction


def load_image(source, config: EANetConfig) -> np.ndarray:
    """A picture as the model takes it.

    Turned as its EXIF orientation says, transparency over white, any mode to RGB (16-bit scaled to 8), the first frame of
    an animation, resized to `image_size` squared by `interpolation`.

    Args:
        source: path, open binary file, PIL image, or array (height, width, 3) or (height, width), 0 to 255.
        config: size and interpolation.

    Returns:
        uint8 (image_size, image_size, 3).

    Raises:
        OSError: the file cannot be read or is no picture.
        ValueError: something that is none of these, an array of another shape, a picture without pixels, or one too large
            to be trusted.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, Image.Image):
        return _resize(_to_rgb(_upright(source)), config)
    if hasattr(source, "__array__"):
        array = np.asarray(source)
        if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] != 3 or 0 in array.shape:
            raise ValueError(f"array of shape {array.shape}: a picture is (height, width, 3) or (height, width)")
        return _resize(Image.fromarray(_to_bytes(array)).convert("RGB"), config)
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise ValueError(f"{type(source).__name__}: a picture is a path, an open file, a PIL image or an array")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about metadata and sizes it then copes with
            with Image.open(source) as image:
                if config.interpolation not in ("nearest", "box"):  # hard edges, which show whole pixels
                    image.draft("RGB", (config.image_size * 4,) * 2)  # large JPEGs decode at a fraction of the cost
                return _resize(_to_rgb(_upright(image)), config)
    except UnidentifiedImageError:
        raise UnidentifiedImageError("unknown picture format") from None
    except Image.DecompressionBombError as error:
        raise ValueError(first_line(error)) from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise anything, RuntimeError to AttributeError
        raise OSError(f"damaged picture ({first_line(error)})") from None


def _upright(image):
    """Turned as the EXIF orientation says. `ImageOps.exif_transpose` also writes the EXIF data anew and can fail at that."""
    from PIL.Image import Transpose

    image.load()
    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # damaged EXIF data; the picture itself is there
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded to uint8; what is beyond 0 to 255 is clipped, what is no number is 0."""
    if values.dtype == np.uint8:
        return values
    return np.rint(np.clip(np.nan_to_num(values.astype(np.float32)), 0, 255)).astype(np.uint8)


def _to_rgb(image):
    """Deep pixels to 8 bits, transparency over white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.array(image, dtype=np.float32))
        top = values.max(initial=0)
        if image.mode.startswith("I;16") or 255 < top <= 65535:
            if isinstance(image.info.get("transparency"), int):
                values[values == image.info["transparency"]] = 65535
            values /= 257  # 65535 to 255
        elif top > 65535 or image.mode == "F" and 0 < top <= 1:  # no scale to go by, or 0 to 1
            values *= 255 / max(top, 1)
        image = Image.fromarray(_to_bytes(values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _resize(image, config) -> np.ndarray:
    from PIL import Image

    side = config.image_size
    if 0 in image.size:
        raise ValueError(f"picture of {image.width} by {image.height} pixels: there is nothing in it")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling[config.interpolation.upper()])
    return np.asarray(image, dtype=np.uint8)


def predict_probabilities(model, pictures: np.ndarray, batch_size: int = 128, *, once: bool = False) -> np.ndarray:
    """Class probabilities of prepared pictures.

    Args:
        model: of `build_eanet`.
        pictures: (n, image_size, image_size, 3), uint8 or float, 0 to 255.
        batch_size: pictures at once. A last batch that is shorter is filled up: one shape is one trace of the graph.
        once: the model will be asked for nothing more. Where XLA is not used (`use_xla`), the layers then run one by one,
            which takes a third of the time that it takes to trace a graph of them first.

    Returns:
        float32 (n, num_classes).
    """
    predict = model.predict_on_batch
    if once and len(pictures) <= batch_size and not getattr(model, "jit_compile", True):
        from keras import ops

        def predict(batch):
            return ops.convert_to_numpy(model(batch, training=False))

    out = [np.zeros((0, model.config.num_classes), np.float32)]
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        filled = np.pad(batch, [(0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)])
        out.append(np.asarray(predict(filled))[: len(batch)])
    return np.concatenate(out)


def top_predictions(probabilities: np.ndarray, config: EANetConfig, top_k: int = 5) -> list[list[dict]]:
    """The `top_k` most probable labels of each row of (n, num_classes), most probable first; ties by class index."""
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    return [
        [{"label": config.id2label[int(i)], "score": float(row[i])} for i in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def classify(model, images, top_k: int = 5, batch_size: int = 128) -> list[list[dict]]:
    """Classifies pictures.

    Args:
        model: of `build_eanet` or `from_pretrained_keras`.
        images: a list of paths, PIL images or arrays (see `load_image`), or one array (n, height, width, 3).
        top_k: labels per picture, at least 1; all of them where the model has fewer.
        batch_size: pictures at once, at least 1.

    Returns:
        Per image, in order, `[{"label": str, "score": float}, ...]`, scores in [0, 1], highest first.

    Raises:
        ValueError: `top_k` or `batch_size` out of range, a single picture, or one that `load_image` does not take.
        OSError: a file that cannot be read. The message begins with the picture's index, as in `images[3]: ...`.
    """
    from PIL import Image

    config = model.config
    if not isinstance(top_k, numbers.Integral) or top_k < 1:
        raise ValueError(f"top_k={top_k}: must be a whole number, at least 1")
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be a whole number, at least 1")
    single = isinstance(images, (str, bytes, os.PathLike, Image.Image)) or hasattr(images, "read")
    if single or hasattr(images, "__array__") and np.ndim(images) in (0, 2, 3):
        what = f"array of shape {np.shape(images)}" if hasattr(images, "__array__") else type(images).__name__
        raise ValueError(f"images: {what}; must be a list of pictures, so put a single one in brackets")

    def load(index):
        try:
            return load_image(images[index], config)
        except OSError as error:
            raise type(error)(f"images[{index}]: {error}") from error
        except ValueError as error:
            raise ValueError(f"images[{index}]: {error}") from error

    results = []
    images = list(images)
    # The next power of two: a service that is asked for many numbers of pictures traces the graph for a few.
    batch_size = min(batch_size, 1 << max(0, len(images) - 1).bit_length())
    for start in range(0, len(images), batch_size):
        probabilities = predict_probabilities(
            model, np.stack([load(i) for i in range(start, min(start + batch_size, len(images)))]), batch_size
        )
        results += top_predictions(probabilities, config, top_k)
    return results
