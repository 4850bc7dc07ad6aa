"""Compare an export with the model it was made from, before its file gets its name."""

from __future__ import annotations

import contextlib
import math

import numpy as np

from eanet.cli import UserError
from eanet.predict import fitting_batch

MAX_DIFFERENCE = {"float32": 2e-4, "float16": 0.02}  # between the probabilities of an export and of Keras
MAX_LOSS = 0.005  # of top-1 accuracy, for quantized exports; at least one image
IMAGES_AT_A_TIME = 250


def check_images(config) -> np.ndarray:
    """Return images for a comparison: float32 (8, image_size, image_size, 3), 0-255, half noise, half coarse patterns."""
    rng, size = np.random.default_rng(0), config.image_size
    noise = rng.integers(0, 256, (4, size, size, 3))
    cells = rng.integers(0, 256, (4, 4, 4, 3))
    at = np.arange(size) * 4 // size
    return np.concatenate([noise, cells[:, at][:, :, at]]).astype(np.float32)


@contextlib.contextmanager
def full_precision():
    """Have Keras compute in float32 inside the `with` block; NVIDIA GPUs would round the factors to 10 bits (TF32)."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        with jax.default_matmul_precision("float32"):
            yield
        return
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def check_agreement(path, found, expected, tolerance: float) -> None:
    """Refuse an export whose probabilities are not those of the model.

    Args:
        path: the file that is to be written, for the message.
        found: probabilities of the export, (n, classes).
        expected: those of the model.
        tolerance: the largest difference allowed.

    Raises:
        UserError: they differ by more, or are no numbers.
    """
    difference = np.abs(np.asarray(found) - np.asarray(expected)).max()
    if not difference <= tolerance:
        raise UserError(f"{path}: not written; its probabilities differ from the model's by {difference:.2g}")


def check_accuracy(path, export, model, split) -> tuple[float, float]:
    """Refuse a quantized export that is less accurate than the model by more than `MAX_LOSS`, or by two images.

    Args:
        path: the file that is to be written, for the message.
        export: something with `predict_on_batch`.
        model: the Keras model.
        split: images and labels (`eanet.data.Split`).

    Returns:
        Top-1 accuracy of the export and of the model.

    Raises:
        UserError: it loses more.
    """
    right = [_correct(predictor, split) for predictor in (export, model)]
    lost = right[1] - right[0]
    if lost > max(1, math.ceil(MAX_LOSS * len(split.y))):
        found, expected = (100 * count / len(split.y) for count in right)
        reason = f"top-1 {found:.1f}% instead of {expected:.1f}% on {len(split.y):,} images of {split.name}"
        raise UserError(f"{path}: not written; quantized, the model loses accuracy: {reason}")
    return right[0] / len(split.y), right[1] / len(split.y)


def _correct(predictor, split) -> int:
    correct, size = 0, fitting_batch(IMAGES_AT_A_TIME, split.x.shape[1])
    for at in range(0, len(split.y), size):
        probabilities = np.asarray(predictor.predict_on_batch(split.x[at : at + size]))
        correct += int((probabilities.argmax(-1) == split.y[at : at + size]).sum())
    return correct
