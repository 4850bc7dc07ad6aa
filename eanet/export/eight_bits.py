"""What both 8-bit exports, ONNX and LiteRT, do to a model before it is quantized."""

from __future__ import annotations

import math

import numpy as np

from eanet.folding import deployment_form, with_biases

FLOAT_WEIGHTS = 0.02  # part of the weights, in the smallest kernels, that stays in float
BATCH = 50  # images; fewer where their features do not fit in `BATCH_BYTES`
BATCH_BYTES = 2**30


def quantization_form(model, config):
    """Return the form of `model` that is quantized: with all biases if it has batch norms, else its deployment form.

    Args:
        model: an EANet.
        config: its EANetConfig.

    Returns:
        A `keras.Model` of the same function. The exporters decide which of its batch norms are folded.
    """
    return with_biases(model, config) if config.norm == "batch" else deployment_form(model, config)


def smallest_kernels(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Return the names of the kernels that stay in float: the smallest ones, together at most `FLOAT_WEIGHTS` of all.

    8 bits save little there, and cost accuracy in the first layers, which have few channels.

    Args:
        shapes: of the kernels, by name.
    """
    sizes = sorted((math.prod(shape), name) for name, shape in shapes.items())
    held = np.cumsum([size for size, _ in sizes])
    return [name for (_, name), total in zip(sizes, held, strict=True) if total <= FLOAT_WEIGHTS * held[-1]]


def batch_size(model) -> int:
    """Return how many images the exporters compute at a time; they look at all features of a batch."""
    return max(1, min(BATCH, BATCH_BYTES // feature_bytes(model)))


def feature_bytes(model) -> int:
    """Return the size of all features of one image: the outputs of the layers of `model`, in float32."""
    return 4 * sum(math.prod(operation.output.shape[1:]) for operation in model.operations)
