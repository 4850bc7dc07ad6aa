"""The deployment form: linear maps with nothing nonlinear between them multiplied into one."""

from __future__ import annotations

import dataclasses

import numpy as np

from eanet.loaded_model import config_of
from modeling_eanet import build_eanet


def fold(model, config=None):
    """Return the same function with fewer and larger matrix products; exact at inference.

    Nothing nonlinear stands between the query projection and the memory keys, nor between the memory values and the output
    projection. Rows of the attention sum to 1, so the bias of M_v goes into the output bias. A BatchNormalization is a scale
    and a shift per channel, which the neighbouring linear layer absorbs; the token softmax cancels a shift of the logits.

        W_key[:, h, :] = W_q[:, h, :] M_k        W_value[h, :, :] = M_v W_o[h, :, :]

    Args:
        model: an EANet.
        config: see `config_of`.

    Returns:
        A new `keras.Model` whose config has `shared_memory=False`, `redundant_bias=True`, and `norm="none"` instead of
        "batch".
    """
    config = config_of(model, config)
    norm = "none" if config.norm == "batch" else config.norm
    folded = build_eanet(dataclasses.replace(config, shared_memory=False, norm=norm, redundant_bias=True))
    weights = _weights_by_layer(model)
    if config.norm == "batch":
        _fold_norms(weights, config)
    for block, stage in enumerate(stage for stage, depth in enumerate(config.depths) for _ in range(depth)):
        if config.shared_memory:
            _fold_memory(weights, f"block_{block}", config.num_heads[stage], config.head_dims[stage])
    return _set_weights(folded, weights)


def with_biases(model, config=None):
    """Return the same function with `redundant_bias=True`: with zeros for what `redundant_bias=False` leaves out.

    Args:
        model: an EANet.
        config: see `config_of`.

    Returns:
        A new `keras.Model`.
    """
    full = build_eanet(dataclasses.replace(config_of(model, config), redundant_bias=True))
    return _set_weights(full, _weights_by_layer(model))


def _set_weights(model, weights: dict[str, list[np.ndarray]]):
    """Give the layers of `model` their weights, by name, and return it."""
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return model


def _weights_by_layer(model) -> dict[str, list[np.ndarray]]:
    return {layer.name: _layer_weights(layer) for layer in model.layers if layer.weights}


def _layer_weights(layer) -> list[np.ndarray]:
    """Return the layer's weights, with zeros for a bias or shift that `redundant_bias=False` leaves out."""
    weights = layer.get_weights()
    if hasattr(layer, "moving_mean"):  # [scale], [shift], mean, variance
        if not layer.center:
            weights.insert(len(weights) - 2, np.zeros_like(weights[-1]))
    elif len(weights) == 1 and not layer.name.endswith(("_query", "_key")):  # these never have a bias
        weights.append(np.zeros(layer.output.shape[-1], weights[0].dtype))
    return weights


def _fold_norms(weights, config) -> None:
    blocks = [f"block_{i}_" for i in range(sum(config.depths))]
    first, last = ("query", "projection") if config.shared_memory else ("key", "value")
    after = {f"{block}norm_1": block + first for block in blocks}
    before = {f"downsample_{stage}_norm": f"downsample_{stage}" for stage in range(1, len(config.depths))}
    if config.inner_norm:
        before |= {f"{block}mlp_norm": f"{block}mlp_1" for block in blocks[: config.depths[0]]}
        before |= {f"{block}depthwise_norm": f"{block}depthwise" for block in blocks}
        before |= {f"{block}value_norm": block + last for block in blocks}
    else:
        after |= {f"{block}norm_2": f"{block}mlp_1" for block in blocks}
    after |= {"final_norm": "classifier"} if config.final_norm else {}
    for norm, layer in (after | before).items():
        *gamma, beta, mean, variance = weights.pop(norm)
        scale = (gamma[0] if gamma else 1) / np.sqrt(variance + config.norm_epsilon)
        shift, (kernel, *bias) = beta - mean * scale, weights[layer]
        if norm in before:
            scales = scale[:, None] if layer.endswith("_depthwise") else scale  # its kernel is (side, side, channels, 1)
            weights[layer] = [kernel * scales, bias[0] * scale + shift]
        else:  # a layer without a bias makes logits, in which a shift cancels
            weights[layer] = [kernel * scale[:, None], *(b + shift @ kernel for b in bias)]


def _fold_memory(weights, name, heads, width) -> None:
    query = weights[f"{name}_query"][0].reshape(-1, heads, width)
    (keys,), (values, value_bias) = weights[f"{name}_memory_key"], weights[f"{name}_memory_value"]
    kernel, bias = weights[f"{name}_projection"]
    dim, kernel = len(query), kernel.reshape(heads, width, -1)
    weights[f"{name}_key"] = [np.einsum("dhc,cs->dhs", query, keys).reshape(dim, -1)]
    values = np.einsum("sc,hcd->hsd", values, kernel).reshape(-1, dim)
    weights[f"{name}_value"] = [values, bias + np.einsum("c,hcd->d", value_bias, kernel)]


def deployment_form(model, config=None):
    """Return `fold(model)` unless that would add parameters (a folded pair is larger where S > head_dim)."""
    folded = fold(model, config)
    return folded if folded.count_params() <= model.count_params() else model
