"""What both 8-bit exports, ONNX and LiteRT, do to a model before it is quantized."""

from __future__ import annotations

import math

import numpy as np

from eanet.folding import deployment_form

FLOAT_WEIGHTS = 0.02  # part of the weights, in the smallest kernels, that stays in float
IMAGES, BATCH = 200, 50  # to measure deviations on


def quantization_form(model, config, images):
    """Return the form of `model` that 8 bits harm least: the deployment form, but with its batch norms.

    With `inner_norm` nothing stands between the MLP's first layer and the depthwise convolution, so a channel's scale can
    move from one to the other, exactly (Nagel et al. 2019, arXiv:1906.04721). The tensor between them, which has one scale
    in 8 bits, gets channels of the same standard deviation.

    Args:
        model: an EANet.
        config: its EANetConfig.
        images: to measure deviations on, (n, image_size, image_size, 3), 0-255.

    Returns:
        A model with the same outputs; `model` is not changed.
    """
    form = model if config.norm == "batch" else deployment_form(model, config)
    return _equalized(form, images[:IMAGES]) if config.inner_norm else form


def _equalized(model, images):
    import keras

    names = [layer.name for layer in model.layers if layer.name.endswith("_mlp_1")]
    observed = keras.Model(model.input, [model.get_layer(name).output for name in names])
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    variances: list[list] = [[] for _ in names]  # of each batch, per channel
    for at in range(0, len(images), BATCH):
        outputs = observed.predict_on_batch(np.asarray(images[at : at + BATCH], np.float32))
        for found, output in zip(variances, outputs if isinstance(outputs, list) else [outputs], strict=True):
            found.append(np.asarray(output).reshape(-1, output.shape[-1]).var(axis=0))
    for name, found in zip(names, variances, strict=True):
        deviation = np.sqrt(np.mean(found, axis=0))
        deviation = np.where(deviation > 1e-3 * deviation.max(), deviation, 1)  # as it is where next to nothing happens
        first, second = copy.get_layer(name), copy.get_layer(name.replace("mlp_1", "depthwise"))
        first.set_weights([array / deviation for array in first.get_weights()])
        kernel, *bias = second.get_weights()  # (height, width, channels, 1)
        second.set_weights([kernel * deviation[:, None], *bias])
    return copy


def smallest_kernels(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Return the names of the kernels that stay in float: the smallest ones, together at most `FLOAT_WEIGHTS` of all.

    8 bits save little there, and cost accuracy in the first layers, which have few channels.

    Args:
        shapes: of the kernels, by name.
    """
    sizes = sorted((math.prod(shape), name) for name, shape in shapes.items())
    held = np.cumsum([size for size, _ in sizes])
    return [name for (_, name), total in zip(sizes, held, strict=True) if total <= FLOAT_WEIGHTS * held[-1]]
