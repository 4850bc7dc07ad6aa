"""EANet, an image classifier built on external attention, in Keras 3.

The model in one file: configuration, graph and loading. The graph consists of Keras' own layers and operations, so a saved
model loads without this file. Images, prediction, folding and saving are in the `eanet` package next to it.

    model = from_pretrained_keras(".")     # a folder, or "user/name" on the Hugging Face Hub
    model.predict(images)                  # uint8 or float (n, 32, 32, 3), 0-255, to (n, 100) probabilities

External attention (Guo et al. 2021, https://arxiv.org/abs/2105.02358) lets N tokens attend to S learned memory slots
instead of to each other: O(N) instead of O(N^2). The paper normalises the logits l (N, S) twice, softmax over the tokens,
then L1 over the slots. Both together are one softmax, with no epsilon and no lost mass on peaky logits:

    A = L1_S(softmax_N(l)) = softmax_S(l - logsumexp_N(l))
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.weights.h5"

CIFAR100_MEAN, CIFAR100_STD = (129.304, 124.070, 112.434), (68.170, 65.392, 70.418)  # of the 50,000 training images, 0-255
CIFAR100_LABELS = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()
)


class _Lazy:
    """A module imported when first used: Keras takes seconds, and reading a configuration should not."""

    def __init__(self, name):
        self.name = name

    def __getattr__(self, attribute):
        return getattr(importlib.import_module(self.name), attribute)


keras, layers, ops = _Lazy("keras"), _Lazy("keras.layers"), _Lazy("keras.ops")


class UserError(ValueError):
    """Bad input: one line that names the thing, the value and what to do."""

    exit_status = 2


def first_line(error) -> str:
    """Return the first line of an error's message that has text, or the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# Configuration --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class EANetConfig:
    """Architecture and preprocessing settings. An invalid field raises UserError naming it, its value and the valid range.

    Tuples have one entry per stage; every stage after the first halves the side of the token grid.
    """

    image_size: int = 32  # side of the square input, in pixels
    tokenizer: str = "conv"  # "patch": bare patches, as in the Keras example; "conv": overlapping 3x3 convolutions
    patch_size: int = 2  # pixels per side of a token of the first stage; a power of two for "conv"
    embed_dims: tuple[int, ...] = (64, 112)  # token width
    depths: tuple[int, ...] = (2, 3)  # number of blocks
    num_heads: tuple[int, ...] = (8, 8)  # heads of external attention
    slots: tuple[int, ...] = (8, 14)  # memory slots S per head
    shared_memory: bool = False  # True: the paper's form; False: its neighbouring linear maps multiplied (eanet.folding)
    head_dims: tuple[int, ...] = (8, 14)  # query width per head; used only with shared_memory
    mlp_ratio: float = 2.0  # hidden width of the MLP divided by the token width
    depthwise_kernel: int = 3  # side of the depthwise convolution in each block's MLP; 0 for none
    inner_norm: bool = False  # True: norms after the attention and the depthwise convolution, not before the MLP
    position_embedding: bool = False  # learned position embedding, for the patch tokenizer
    norm: str = "batch"  # of the blocks (see `_block`): "layer", "batch", or "none", the folded form of "batch"
    final_norm: bool = True  # one more norm before the global average pooling
    redundant_bias: bool = True  # False, with norm="batch": leave out biases that a norm or the softmax cancels
    activation: str = "relu"  # of the MLP and the convolutional stem: "relu", "silu", "gelu" or "gelu_tanh"
    attention_dropout: float = 0.0  # rates in [0, 1)
    projection_dropout: float = 0.0
    mlp_dropout: float = 0.0
    drop_path: float = 0.0  # stochastic depth rate of the last block, growing linearly from 0 at the first
    norm_epsilon: float = 1e-3  # added to the variance by every norm
    id2label: dict[int, str] = dataclasses.field(default=CIFAR100_LABELS, hash=False)  # type: ignore  # or a list of names
    pixel_mean: tuple[float, float, float] = CIFAR100_MEAN  # per channel (RGB), on the 0-255 scale of the input
    pixel_std: tuple[float, float, float] = CIFAR100_STD
    interpolation: str = "bicubic"  # how an image of another size is resized to the square, one of INTERPOLATIONS
    resize: str = "squash"  # to the square: "squash"; "crop", its middle; "pad", all of it with black bars

    def __post_init__(self):
        for field in dataclasses.fields(self):  # JSON has lists instead of tuples
            if isinstance(getattr(self, field.name), list) and field.name != "id2label":
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        object.__setattr__(self, "id2label", _checked_labels(self.id2label))
        for names, accepts, hint in _FIELD_RULES:
            for name in names.split():
                self._require(accepts(getattr(self, name)), name, hint)
        self._check_architecture()

    def _require(self, ok, name, hint):
        if not ok:
            raise UserError(f"{name}={repr(getattr(self, name))[:100]}: {hint}")

    def _check_architecture(self):
        dims, conv, patch = self.embed_dims, self.tokenizer == "conv", self.patch_size
        stages = len(dims) if isinstance(dims, tuple) else 0
        self._require(stages >= 1, "embed_dims", "must be a tuple of at least one width")
        for name in ("embed_dims", "depths", "num_heads", "slots", "head_dims"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and len(value) == stages and all(map(_is_count, value))
            fits = fits and (name != "depths" or sum(value) <= 64)  # building more takes longer than any file is worth
            self._require(fits, name, f"must be one integer, at least 1, for each stage ({stages}); depths 64 in all")
        self._require(not conv or patch & (patch - 1) == 0, "patch_size", "must be a power of two for the conv tokenizer")
        side = patch * 2 ** min(stages - 1, 30)
        self._require(self.image_size % side == 0, "image_size", f"must be a multiple of {side}, the size of a last token")
        self._require(round(min(dims) * self.mlp_ratio) >= 1, "mlp_ratio", f"gives an MLP width of 0 for embed_dims={dims}")
        self._require(dims[0] >= 2 or not conv or patch == 1, "embed_dims", "must begin with at least 2: the stem halves it")
        self._require(not (self.position_embedding and conv), "position_embedding", "needs the patch tokenizer")
        self._require(self.depthwise_kernel or not self.inner_norm, "inner_norm", "needs a depthwise_kernel above 0")
        self._require(self.redundant_bias or self.norm == "batch", "redundant_bias", 'must be true unless norm is "batch"')

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.id2label)

    @property
    def label2id(self) -> dict[str, int]:
        """Class name to class index."""
        return {label: index for index, label in self.id2label.items()}

    @classmethod
    def preset(cls, name: str, **changes) -> EANetConfig:
        """Return the preset `name` of `PRESETS` with `changes` to its fields. An unknown name raises UserError."""
        if name not in PRESETS:
            raise UserError(f"preset {name!r}: must be one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def to_dict(self) -> dict:
        """Return the settings as JSON types: the top of `config.json`."""
        settings: dict = {"model_type": "eanet"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            settings[field.name] = list(value) if isinstance(value, tuple) else value
            if field.name == "id2label":
                settings["id2label"] = {str(index): label for index, label in value.items()}
                settings["input_range"] = [0.0, 255.0]  # tells readers of the file the scale; not a setting
        return {**settings, "label2id": self.label2id}

    @classmethod
    def from_dict(cls, settings: dict) -> EANetConfig:
        """Invert `to_dict`. Missing fields take their defaults, so that older files load; Keras' keys are ignored.

        Raises:
            UserError: `model_type` is not "eanet", the class names are missing, or a setting is invalid.
        """
        if not isinstance(settings, dict) or settings.get("model_type") != "eanet":
            raise UserError('not an EANet configuration: "model_type": "eanet" is missing')
        if "id2label" not in settings:
            raise UserError("setting 'id2label' is missing: the class names")
        if settings.get("input_range", [0, 255]) not in ([0, 255], (0, 255)):
            raise UserError(f"input_range={settings['input_range']!r:.100}: must be [0, 255]")
        config = cls(**{f.name: settings[f.name] for f in dataclasses.fields(cls) if f.name in settings})
        if settings.get("label2id", config.label2id) != config.label2id:
            raise UserError("label2id: is not the inverse of id2label")
        return config

    @classmethod
    def from_json_file(cls, path) -> EANetConfig:
        """Read the settings from a `config.json`. Raises UserError, naming `path`, if it is missing or invalid."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; the folder does not hold a complete model") from None
        except (ValueError, RecursionError) as error:
            reason = error if isinstance(error, UserError) else f"not JSON ({first_line(error)})"
            raise UserError(f"{path}: {reason}") from None


PRESETS = {
    "keras-io": dict(  # the Keras example's, without the biases that cancel: those of queries, keys and patch projection
        tokenizer="patch", position_embedding=True, embed_dims=(64,), depths=(8,), num_heads=(16,), slots=(16,),
        head_dims=(16,), shared_memory=True, mlp_ratio=1.0, depthwise_kernel=0, norm="layer", norm_epsilon=1e-5,
        final_norm=False, activation="gelu_tanh", attention_dropout=0.2, projection_dropout=0.2, mlp_dropout=0.2),
    "small": dict(),  # the defaults of EANetConfig: two scales, 386,004 parameters
    "pyramid": dict(patch_size=1, embed_dims=(24, 48, 120), depths=(1, 3, 3), num_heads=(4, 8, 8), slots=(6, 8, 14),
                    head_dims=(6, 8, 14), redundant_bias=False),  # three scales, 393,580 parameters
    "slim": dict(patch_size=1, embed_dims=(16, 64, 112), depths=(1, 2, 3), num_heads=(4, 8, 8), slots=(4, 8, 14),
                 head_dims=(4, 8, 14), inner_norm=True, redundant_bias=False),  # the shipped model, 378,228 parameters
    "base": dict(patch_size=1, embed_dims=(40, 96, 224), depths=(2, 4, 4), num_heads=(8, 8, 8), slots=(4, 8, 14),
                 head_dims=(4, 8, 14), redundant_bias=False),  # its teacher, in models/base, 1,509,436 parameters
}  # fmt: skip
RESIZES, INTERPOLATIONS = ("squash", "crop", "pad"), ("nearest", "bilinear", "bicubic", "lanczos", "box")
_CHOICES = {"tokenizer": ("patch", "conv"), "norm": ("layer", "batch", "none"), "resize": RESIZES,
            "interpolation": INTERPOLATIONS, "activation": ("relu", "silu", "gelu", "gelu_tanh")}  # fmt: skip


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**6


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)


_FIELD_RULES = (
    ("image_size patch_size", lambda v: _is_count(v) and v <= 1024, "must be an integer from 1 to 1024 (pixels)"),
    ("shared_memory inner_norm position_embedding final_norm redundant_bias", lambda v: isinstance(v, bool),
     "must be true or false"),
    *((name, words.__contains__, f"must be one of {', '.join(words)}") for name, words in _CHOICES.items()),
    ("attention_dropout projection_dropout mlp_dropout drop_path", lambda v: _is_number(v) and 0 <= v < 1,
     "must be a rate in [0, 1)"),
    ("mlp_ratio norm_epsilon", lambda v: _is_number(v) and v > 0, "must be a number above 0"),
    ("depthwise_kernel", lambda v: _is_count(v) and v % 2 == 1 and v < 32 or v == 0 and not isinstance(v, bool),
     "must be an odd number below 32, or 0 for none"),
    ("pixel_mean pixel_std", lambda v: isinstance(v, tuple) and len(v) == 3 and all(map(_is_number, v)), "must be 3 values"),
    ("pixel_std", lambda v: min(v) > 0, "must be above 0"),
)  # fmt: skip


def _checked_labels(labels) -> dict[int, str]:
    try:
        labels = {int(str(i)): name for i, name in (labels.items() if isinstance(labels, dict) else enumerate(labels))}
    except (TypeError, ValueError):
        raise UserError("id2label: must be a list of names, or map integers to names") from None
    if sorted(labels) != list(range(len(labels))) or len(labels) < 2:
        raise UserError(f"id2label: {len(labels)} keys; must be 0 to num_classes - 1, at least two classes")
    texts = {name for name in labels.values() if isinstance(name, str) and name.encode("utf-8", "ignore").decode() == name}
    if len(texts - {""}) < len(labels):
        raise UserError("id2label: every label must be a text that is not empty, and no two the same")
    return dict(sorted(labels.items()))


# Graph ----------------------------------------------------------------------------------------------------------------


def use_xla() -> bool:
    """Return whether to compile with XLA: on GPUs and JAX. TensorFlow's oneDNN kernels are several times faster on a CPU."""
    if keras.backend.backend() != "tensorflow":
        return keras.backend.backend() == "jax"
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def build_eanet(config: EANetConfig):
    """Build the model: RGB images in, class probabilities out.

    The layer `attention_layer_name(i)` outputs the attention of block i: (batch, tokens, heads, slots), float32.

    Args:
        config: the architecture.

    Returns:
        A `keras.Model` with `config` attached as `model.config`. In: (batch, image_size, image_size, 3), uint8 or float,
        0-255. Out: (batch, num_classes), float32 probabilities.
    """
    offset = [-m / s for m, s in zip(config.pixel_mean, config.pixel_std, strict=True)]
    inputs = keras.Input((config.image_size, config.image_size, 3), name="image")
    x = layers.Rescaling([1.0 / s for s in config.pixel_std], offset, name="normalize")(inputs)
    x = _patch_tokens(x, config) if config.tokenizer == "patch" else _conv_tokens(x, config)
    block, last_block = 0, max(1, sum(config.depths) - 1)
    for stage, dim in enumerate(config.embed_dims):
        if stage > 0:
            x = layers.Conv2D(dim, 3, 2, padding="same", use_bias=config.redundant_bias, name=f"downsample_{stage}")(x)
            x = _norm(config, f"downsample_{stage}_norm")(x)
        for _ in range(config.depths[stage]):
            x = _block(x, config, stage, f"block_{block}", config.drop_path * block / last_block)
            block += 1
    x = _norm(config, "final_norm")(x) if config.final_norm else x
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(config.num_classes, activation="softmax", dtype="float32", name="classifier")(x)
    model = keras.Model(inputs, outputs, name="eanet")
    model.config, model.jit_compile = config, use_xla()
    return model


def attention_layer_name(block: int) -> str:
    """Return the name of the layer that outputs the attention of block `block`, counted from 0 through all stages."""
    return f"block_{block}_attention"


def external_attention(
    x, *, heads, slots, head_dim=None, attention_dropout=0.0, projection_dropout=0.0, use_bias=True, name="block"
):
    """Apply external attention with double normalisation (Guo et al. 2021, equations 5 and 6, algorithm 2).

    The token softmax cancels any constant added to the logits of a slot, so query and memory keys have no bias.

    Args:
        x: tokens, (batch, N, d).
        heads: number of heads H.
        slots: memory slots S per head.
        head_dim: query width per head, for one memory shared by the heads; None for the folded form.
        attention_dropout: rate in [0, 1).
        projection_dropout: rate in [0, 1), of the output.
        use_bias: whether the memory values and the output have a bias.
        name: prefix of the layer names; the layer `name + "_attention"` outputs the attention, (batch, N, H, S) float32.

    Returns:
        Tokens, (batch, N, d).
    """
    _, tokens, dim = x.shape
    if head_dim is None:
        logits = layers.Dense(heads * slots, use_bias=False, name=f"{name}_key")(x)
    else:
        query = layers.Dense(heads * head_dim, use_bias=False, name=f"{name}_query")(x)
        query = layers.Reshape((tokens, heads, head_dim), name=f"{name}_heads")(query)
        logits = layers.Dense(slots, use_bias=False, name=f"{name}_memory_key")(query)
    logits = layers.Reshape((tokens, heads, slots), dtype="float32", name=f"{name}_logits")(logits)  # bfloat16: off by 0.02
    log_mass = _named(ops.logsumexp(logits, axis=1, keepdims=True), f"{name}_log_mass")
    logits = layers.Subtract(dtype="float32", name=f"{name}_log_attention")([logits, log_mass])
    attention = layers.Softmax(axis=-1, dtype="float32", name=f"{name}_attention")(logits)
    y = _dropout(attention_dropout, f"{name}_attention_dropout")(attention)
    if head_dim is not None:
        y = layers.Dense(head_dim, use_bias=use_bias, name=f"{name}_memory_value")(y)
    y = layers.Reshape((tokens, heads * (head_dim or slots)), name=f"{name}_merge")(y)
    y = layers.Dense(dim, use_bias=use_bias, name=f"{name}_projection" if head_dim else f"{name}_value")(y)
    return _dropout(projection_dropout, f"{name}_projection_dropout")(y)


def _block(x, config, stage, name, drop_path):
    """Two residual branches on (batch, side, side, dim): external attention, then an MLP with a depthwise convolution."""
    _, side, _, dim = x.shape
    y = layers.Reshape((side * side, dim), name=f"{name}_tokens")(_norm(config, f"{name}_norm_1")(x))
    options = dict(heads=config.num_heads[stage], slots=config.slots[stage], use_bias=config.redundant_bias, name=name)
    options |= dict(attention_dropout=config.attention_dropout, projection_dropout=config.projection_dropout)
    y = external_attention(y, head_dim=config.head_dims[stage] if config.shared_memory else None, **options)
    y = layers.Reshape((side, side, dim), name=f"{name}_grid")(y)
    y = _norm(config, f"{name}_value_norm")(y) if config.inner_norm else y
    y = _dropout(drop_path, f"{name}_drop_path_1", noise_shape=(None, 1, 1, 1))(y)
    x = layers.Add(name=f"{name}_add_attention")([x, y])
    y = x if config.inner_norm else _norm(config, f"{name}_norm_2")(x)
    bias = config.redundant_bias or not config.inner_norm
    y = layers.Dense(round(config.mlp_ratio * dim), use_bias=bias, name=f"{name}_mlp_1")(y)
    first_norm = config.inner_norm and stage == 0  # 8-bit activations share a scale; no norm follows the stem
    y = _norm(config, f"{name}_mlp_norm", scale=False)(y) if first_norm else y
    y = y if config.inner_norm else _activation(config, f"{name}_mlp_activation")(y)
    if config.depthwise_kernel:  # external attention mixes tokens through H * S numbers only; this mixes neighbours
        y = layers.DepthwiseConv2D(config.depthwise_kernel, padding="same", use_bias=bias, name=f"{name}_depthwise")(y)
        y = _norm(config, f"{name}_depthwise_norm", center=True)(y) if config.inner_norm else y
        y = _activation(config, f"{name}_depthwise_activation")(y)
    y = _dropout(config.mlp_dropout, f"{name}_mlp_dropout_1")(y)
    y = layers.Dense(dim, use_bias=config.redundant_bias, name=f"{name}_mlp_2")(y)
    y = _dropout(config.mlp_dropout, f"{name}_mlp_dropout_2")(y)
    y = _dropout(drop_path, f"{name}_drop_path_2", noise_shape=(None, 1, 1, 1))(y)
    return layers.Add(name=f"{name}_add_mlp")([x, y])


def _patch_tokens(x, config):
    """Bare patches, flattened to (row, column, channel) and projected: (batch, side, side, dim)."""
    side, patch, dim = config.image_size // config.patch_size, config.patch_size, config.embed_dims[0]
    x = layers.Reshape((side, patch, side, patch * 3), name="patch_rows")(x)
    x = layers.Permute((1, 3, 2, 4), name="patch_order")(x)
    x = layers.Reshape((side * side, patch * patch * 3), name="patches")(x)
    # One bias per token is a learned position embedding; one per channel would be redundant next to it.
    bias = dict(bias_axes="bd", bias_initializer="random_uniform") if config.position_embedding else dict(bias_axes="d")
    x = layers.EinsumDense("abc,cd->abd", (side * side, dim), name="patch_embedding", **bias)(x)
    return layers.Reshape((side, side, dim), name="patch_grid")(x)


def _conv_tokens(x, config):
    """Overlapping 3x3 convolutions, one at full size and one per halving down to patch_size: (batch, side, side, dim)."""
    dim, halvings = config.embed_dims[0], config.patch_size.bit_length() - 1
    for i in range(halvings + 1):
        last = i == halvings
        options = dict(strides=2 if i else 1, padding="same", use_bias=config.redundant_bias or not last)
        x = layers.Conv2D(dim if last else dim // 2, 3, **options, name=f"stem_{i}")(x)
        x = x if last else _activation(config, f"stem_{i}_activation")(x)
    return x


def _norm(config, name, center=False, scale=True):
    if config.norm == "none":
        return lambda x: x
    if config.norm == "batch":  # a running average of about ten batches; training recomputes it for the final weights
        center = center or config.redundant_bias
        return layers.BatchNormalization(momentum=0.9, epsilon=config.norm_epsilon, center=center, scale=scale, name=name)
    return layers.LayerNormalization(epsilon=config.norm_epsilon, name=name)


def _activation(config, name):
    """`gelu` is the exact form, `gelu_tanh` the approximation of `keras.ops.gelu` (and of the Keras example)."""
    if config.activation == "gelu_tanh":
        return lambda x: _named(ops.gelu(x), name)
    return layers.Activation(config.activation, name=name)


def _named(tensor, name):
    """Name the operation behind `tensor`: Keras' own numbering would differ between two builds in one process."""
    operation = tensor._keras_history.operation
    operation.name = name
    keras.saving.get_custom_objects().setdefault(type(operation).__name__, type(operation))  # to load .h5: it has no modules
    return tensor


def _dropout(rate, name, **kwargs):
    return layers.Dropout(rate, name=name, **kwargs) if rate > 0 else lambda x: x


# Loading --------------------------------------------------------------------------------------------------------------


def model_folder(name, files=(CONFIG_FILE, WEIGHTS_FILE), **hub_options) -> Path:
    """Return the folder of a model: `name` itself, or the Hub's cache with `files` (patterns) of the repository `name`.

    `hub_options` go to `huggingface_hub.snapshot_download`. Raises UserError if neither is there.
    """
    folder, repo_id = Path(name), str(name)
    if folder.is_dir():
        return folder
    if folder.exists() or repo_id.startswith((".", "~", os.sep)) or repo_id.count("/") != 1:
        raise UserError(f"{repo_id}: not a local folder, and not a Hub repo id (user/name)")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo_id, allow_patterns=list(files), **hub_options))
    except ModuleNotFoundError:
        raise UserError(f"{repo_id}: not a local folder; for a model on the Hub, `pip install huggingface_hub`") from None
    except (OSError, ValueError) as error:
        missing = type(error).__name__ == "RepositoryNotFoundError"
        why = "no such repository, or a private one; check the name, or `hf auth login`" if missing else first_line(error)
        raise UserError(f"{repo_id}: not a local folder, and could not be downloaded from the Hub ({why})") from error


def from_pretrained_keras(repo_id_or_directory, **hub_options):
    """Load a model from a folder or from the Hugging Face Hub (huggingface_hub 0.36 and later).

    Args:
        repo_id_or_directory: a folder, or "user/name"; only `config.json` and `model.weights.h5` are downloaded.
        hub_options: `revision`, `token`, `cache_dir`, `local_files_only`, as in `huggingface_hub.snapshot_download`.

    Returns:
        The `keras.Model` of `build_eanet`, not compiled, with its EANetConfig as `model.config`.

    Raises:
        UserError: a file is missing, damaged or cannot be downloaded, or the weights do not fit the configuration.
    """
    directory = model_folder(repo_id_or_directory, **hub_options)
    config, weights = EANetConfig.from_json_file(directory / CONFIG_FILE), directory / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"{weights}: no such file; the folder does not hold a complete model")
    try:
        arrays = check_weights(weights, config)
        model = build_eanet(config)
        model.load_weights(weights)
        if arrays != len(model.weights):  # Keras ignores arrays that the model does not have
            raise ValueError(f"it holds {arrays} arrays, the model {len(model.weights)}")
    except (OSError, RuntimeError) as error:
        raise UserError(f"{weights}: cannot be read, damaged or cut short ({first_line(error)})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{weights}: not the weights of the {CONFIG_FILE} next to it ({first_line(error)})") from None
    return model


def check_weights(path, config) -> int:
    """Return the number of arrays in a weights file; raise ValueError, before anything is built or read, if it is forged."""
    import h5py

    dims, widths = config.embed_dims, config.head_dims if config.shared_memory else config.slots
    least = 3 * config.patch_size**2 * dims[0] if config.tokenizer == "patch" else 0  # a lower bound of the parameters
    least += (config.image_size // config.patch_size) ** 2 * dims[0] * config.position_embedding
    for dim, depth, heads, width in zip(dims, config.depths, config.num_heads, widths, strict=True):
        least += depth * dim * 2 * (heads * width + round(config.mlp_ratio * dim))
    if 2 * least > path.stat().st_size:
        raise ValueError(f"it is too small for {least:,} parameters")
    arrays, seen = 0, 0
    with h5py.File(path, "r") as file:
        groups = [(file, 0)]
        for group, depth in groups:
            for name in group:
                seen += 1
                hard = isinstance(group.get(name, getlink=True), h5py.HardLink)  # others can lead to another file
                item = group[name] if hard and seen <= 30_000 else None
                if isinstance(item, h5py.Group) and depth < 16:
                    groups.append((item, depth + 1))
                elif isinstance(item, h5py.Dataset) and item.external is None and item.nbytes <= item.id.get_storage_size():
                    arrays += 1
                else:
                    raise ValueError(f"{name[:50]!r} in it is not an array that Keras wrote")
    return arrays


def __getattr__(name):
    """Find names that moved to the `eanet` package; they stay importable from here for one release."""
    if name.startswith("_") or importlib.util.find_spec("eanet") is None:
        raise AttributeError(f"no {name} in modeling_eanet; for what has moved, copy the folder eanet/ next to it")
    return getattr(importlib.import_module("eanet"), name)
