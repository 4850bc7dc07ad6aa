"""Other weights of the same function: linear maps multiplied into one, and channels brought to one range."""

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
    weights = {layer.name: _with_biases(layer) for layer in model.layers if layer.weights}
    if config.norm == "batch":
        _fold_norms(weights, config)
    for block, stage in enumerate(stage for stage, depth in enumerate(config.depths) for _ in range(depth)):
        if config.shared_memory:
            _fold_memory(weights, f"block_{block}", config.num_heads[stage], config.head_dims[stage])
    for layer in folded.layers:
        if layer.weights:
            layer.set_weights(weights[layer.name])
    return folded


def _with_biases(layer) -> list[np.ndarray]:
    """Return the layer's weights, with zeros for a bias or shift that `redundant_bias=False` leaves out."""
    weights = layer.get_weights()
    if len(weights) == 3:  # a batch norm without its shift
        weights.insert(1, np.zeros_like(weights[0]))
    elif len(weights) == 1 and not layer.name.endswith(("_query", "_key")):  # these never have a bias
        weights.append(np.zeros(weights[0].shape[-1], weights[0].dtype))
    return weights


def _fold_norms(weights, config) -> None:
    linear = {"norm_1": "query" if config.shared_memory else "key", "norm_2": "mlp_1"}
    after = {f"block_{i}_{norm}": f"block_{i}_{linear[norm]}" for i in range(sum(config.depths)) for norm in linear}
    after |= {"final_norm": "classifier"} if config.final_norm else {}
    before = {f"downsample_{stage}_norm": f"downsample_{stage}" for stage in range(1, len(config.depths))}
    for norm, layer in (after | before).items():
        gamma, beta, mean, variance = weights.pop(norm)
        scale = gamma / np.sqrt(variance + config.norm_epsilon)
        shift, (kernel, *bias) = beta - mean * scale, weights[layer]
        if norm in before:
            weights[layer] = [kernel * scale, bias[0] * scale + shift]
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


def equalize(model, config=None) -> None:
    """Bring the channels of the residual stream to similar ranges, in place; exact.

    What writes to the stream is linear, and what reads it is linear or begins with a batch norm. So a factor per channel can
    move from one to the other (cross-layer equalization, Nagel et al. 2019, arXiv 1906.04721). Converters to 8 bits merge
    the norms into their neighbours, and then have one scale for all channels. Factors are powers of two: nothing is rounded.

    Args:
        model: an EANet; without batch norms it stays as it is.
        config: see `config_of`.
    """
    config = config_of(model, config)
    for writers, norms, reader in _streams(config) if config.norm == "batch" else ():
        spread = [
            np.log2(mean**2 + variance) / 2 for *_, mean, variance in (model.get_layer(n).get_weights() for n in norms)
        ]
        factor = np.exp2(-np.round(np.mean(spread, axis=0))).astype(np.float32)
        for layer in map(model.get_layer, writers):
            kept = layer.get_weights()[-2:] if layer.name.endswith("_norm") else []  # its mean and variance
            scaled = layer.get_weights()[: -2 if kept else None]
            layer.set_weights([*(array * factor for array in scaled), *kept])
        for layer in map(model.get_layer, norms):
            gamma, *beta, mean, variance = layer.get_weights()
            new = variance * factor**2
            gamma = gamma * np.sqrt((new + config.norm_epsilon) / (variance + config.norm_epsilon)) / factor
            layer.set_weights([gamma, *beta, mean * factor, new])
        if reader:
            kernel, *bias = model.get_layer(reader).get_weights()
            model.get_layer(reader).set_weights([kernel / factor[:, None], *bias])


def _streams(config):
    """Yield per stage the layers that write to its residual stream, the norms that read it, and who else does, or None."""
    first = "patch_embedding" if config.tokenizer == "patch" else f"stem_{config.patch_size.bit_length() - 1}"
    end, block = "projection" if config.shared_memory else "value", 0
    for stage, depth in enumerate(config.depths):
        blocks = [f"block_{i}" for i in range(block, block + depth)]
        writers = [f"downsample_{stage}_norm" if stage else first]
        writers += [f"{name}_{layer}" for name in blocks for layer in (end, "mlp_2")]
        norms, block = [f"{name}_norm_{i}" for name in blocks for i in (1, 2)], block + depth
        if stage + 1 < len(config.depths):
            yield writers, norms, f"downsample_{stage + 1}"
        else:
            yield (writers, [*norms, "final_norm"], None) if config.final_norm else (writers, norms, "classifier")
