"""The configuration of a model that has none attached, such as one from `keras.saving.load_model`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

import modeling_eanet
from modeling_eanet import CONFIG_FILE, EANetConfig, UserError, attention_layer_name, from_pretrained_keras, model_folder


def load_config(name) -> EANetConfig:
    """Return the configuration of a model folder or Hub repository, without importing Keras. Raises UserError."""
    return EANetConfig.from_json_file(model_folder(name, files=[CONFIG_FILE]) / CONFIG_FILE)


def config_of(model, config=None, *, labels: bool = False) -> EANetConfig:
    """Return the configuration of a model.

    Args:
        model: from `build_eanet`, `from_pretrained_keras`, `keras.saving.load_model` or an `OnnxModel`.
        config: its EANetConfig, folder or Hub repo id; None to take `model.config`, or to rebuild it from the layers.
        labels: whether the class names are needed. Keras loads none; they are known if the weights are those of the model
            next to `modeling_eanet.py`.

    Raises:
        UserError: `model` is not an EANet, or `labels` are needed and not known.
    """
    if config is not None:
        return config if isinstance(config, EANetConfig) else load_config(config)
    if isinstance(getattr(model, "config", None), EANetConfig):
        return model.config
    rebuilt = _config_from_layers(model)
    known = _local_config(model, rebuilt)
    if known is None and labels:
        raise UserError(
            "the model has no class names: keras.saving.load_model reads none; pass config= (its folder or Hub repo id), or "
            "load it with from_pretrained_keras"
        )
    return known or rebuilt


def _local_config(model, rebuilt) -> EANetConfig | None:
    """Return the config.json next to `modeling_eanet.py` if the weights there are exactly those of `model`."""
    folder = Path(modeling_eanet.__file__).parent
    if not (folder / CONFIG_FILE).is_file():
        return None
    try:
        config = load_config(folder)
        if dataclasses.replace(rebuilt, id2label=config.id2label, head_dims=config.head_dims) != config:
            return None
        local = from_pretrained_keras(folder).get_weights()
    except UserError:
        return None
    return config if all(map(np.array_equal, local, model.get_weights())) else None


def _config_from_layers(model) -> EANetConfig:
    try:
        layers = {layer.name: layer for layer in model.layers}
        side = layers["image"].output.shape[1]
        depths, dims, heads, slots, head_dims, sides = [], [], [], [], [], []
        for block in range(sum(f"block_{i}_grid" in layers for i in range(len(layers)))):
            grid = layers[f"block_{block}_grid"].output.shape[1:]
            if grid[0] not in sides:  # every stage halves the side
                sides.append(grid[0])
                dims.append(grid[-1])
                depths.append(0)
                heads.append(layers[attention_layer_name(block)].output.shape[2])
                slots.append(layers[attention_layer_name(block)].output.shape[3])
                query = layers.get(f"block_{block}_heads")
                head_dims.append(query.output.shape[3] if query else slots[-1])
            depths[-1] += 1
        return EANetConfig(
            image_size=side,
            tokenizer="conv" if "stem_0" in layers else "patch",
            patch_size=side // sides[0],
            embed_dims=tuple(dims),
            depths=tuple(depths),
            num_heads=tuple(heads),
            slots=tuple(slots),
            head_dims=tuple(head_dims),
            id2label={i: f"LABEL_{i}" for i in range(model.output.shape[1])},  # type: ignore[arg-type]
            **_block_settings(layers, dims[0], sum(depths) - 1),
            **_pixel_settings(layers["normalize"]),
        )
    except (AttributeError, KeyError, IndexError, TypeError, UserError) as error:
        raise UserError(f"not an EANet: its layers are not those of build_eanet ({error!r})") from None


def _block_settings(layers, dim, last) -> dict:
    """Return the fields that the first block tells (drop_path: the last)."""

    def rate(name):
        return float(layers[name].rate) if name in layers else 0.0

    norm = layers.get("block_0_norm_1")
    kind = {"NoneType": "none", "BatchNormalization": "batch", "LayerNormalization": "layer"}[type(norm).__name__]
    depthwise, activation = layers.get("block_0_depthwise"), layers.get("block_0_mlp_activation")
    return dict(
        shared_memory="block_0_query" in layers,
        mlp_ratio=layers["block_0_mlp_1"].units / dim,
        depthwise_kernel=depthwise.kernel_size[0] if depthwise else 0,
        position_embedding="patch_embedding" in layers and layers["patch_embedding"].bias_axes == "bd",
        norm=kind,
        final_norm=kind == "none" or "final_norm" in layers,
        norm_epsilon=norm.epsilon if norm else 1e-3,
        activation=activation.activation.__name__ if activation else "gelu_tanh",  # an operation, not a layer
        attention_dropout=rate("block_0_attention_dropout"),
        projection_dropout=rate("block_0_projection_dropout"),
        mlp_dropout=rate("block_0_mlp_dropout_1"),
        drop_path=rate(f"block_{last}_drop_path_1"),
    )


def _pixel_settings(rescaling) -> dict:
    std = [1 / scale for scale in rescaling.scale]
    mean = [-offset * s for offset, s in zip(rescaling.offset, std, strict=True)]
    return dict(pixel_mean=tuple(round(v, 6) for v in mean), pixel_std=tuple(round(v, 6) for v in std))
