"""Class probabilities and labels of images in memory."""

from __future__ import annotations

import numbers
import os

import numpy as np

from eanet.images import check_scale, load_image
from eanet.loaded_model import config_of
from modeling_eanet import EANetConfig, UserError

MAX_BATCH_PIXELS = 2**22


def predict_batch(model, images: np.ndarray, size: int, *, eager: bool = False) -> np.ndarray:
    """Predict the class probabilities of one batch.

    Args:
        model: an EANet, or an `OnnxModel`.
        images: (n, image_size, image_size, 3), uint8 or float, 0-255.
        size: of the batch, at least n. It is filled up, so that the graph is traced for one shape.
        eager: run layer by layer, without tracing a graph first: faster for a single batch on a CPU.

    Returns:
        float32 (n, num_classes), each row summing to 1.

    Raises:
        UserError: the model's outputs are not probabilities, for example NaN from damaged weights.
    """
    filled = np.pad(images, [(0, size - len(images)), (0, 0), (0, 0), (0, 0)])
    if eager and not getattr(model, "jit_compile", True):
        from keras import ops

        probabilities = ops.convert_to_numpy(model(filled, training=False))[: len(images)]
    else:
        probabilities = np.asarray(model.predict_on_batch(filled))[: len(images)]
    if not (probabilities >= 0).all() or not np.allclose(probabilities.sum(-1), 1, atol=0.01):  # NaN is neither
        found = f"they sum to {probabilities.sum(-1)[0]:.3g} for the first image"
        raise UserError(f"the model's outputs are not probabilities ({found}); its weights are damaged, or not its own")
    return probabilities


def predict_probabilities(model, images: np.ndarray, batch_size: int = 128) -> np.ndarray:
    """Predict the class probabilities of prepared images.

    Args:
        model: an EANet, or an `OnnxModel`.
        images: (n, image_size, image_size, 3), uint8 or float, 0-255.
        batch_size: images at a time, at least 1.

    Returns:
        float32 (n, num_classes), each row summing to 1.

    Raises:
        UserError: a float array in 0-1.
    """
    if not isinstance(getattr(images, "dtype", None), np.dtype):  # a list, or a tensor
        images = np.asarray(images)
    check_scale(images)
    batch_size = max(1, min(batch_size, len(images)))
    classes = model.config.num_classes if hasattr(model, "config") else model.output.shape[-1]
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    return np.concatenate([np.zeros((0, classes), np.float32), *(predict_batch(model, b, batch_size) for b in batches)])


def top_predictions(probabilities: np.ndarray, config: EANetConfig, top_k: int = 5) -> list[list[dict]]:
    """Return the top-k labels of each row.

    Args:
        probabilities: (n, num_classes).
        config: the class names.
        top_k: labels per row; all if there are fewer.

    Returns:
        Per row `[{"label": str, "score": float}, ...]`, highest score first, ties by class index.
    """
    order = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    return [
        [{"label": config.id2label[int(i)], "score": float(row[i])} for i in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def classify(model, images, top_k: int = 5, batch_size: int = 128, *, config=None) -> list[list[dict]]:
    """Classify images.

    Args:
        model: from `build_eanet`, `from_pretrained_keras` or `keras.saving.load_model`, or an `OnnxModel`.
        images: a list of paths, PIL images or arrays (see `load_image`), or one array (n, height, width, 3).
        top_k: labels per image, at least 1; all of them where the model has fewer.
        batch_size: images at a time, at least 1.
        config: of a model that has none attached: an EANetConfig, a folder or a Hub repo id.

    Returns:
        Per image, in order, `[{"label": str, "score": float}, ...]`, scores in [0, 1], highest first.

    Raises:
        UserError: an argument is out of range, the model has no configuration, or an image is damaged; the message begins
            with the image's index, as in `images[3]: ...`.
        OSError: a file cannot be read; the message begins likewise.
    """
    check_count("top_k", top_k)
    check_count("batch_size", batch_size)
    images = _as_list(images)
    config = config_of(model, config)

    def load(index):
        try:
            return load_image(images[index], config)
        except OSError as error:
            raise type(error)(f"images[{index}]: {error}") from error
        except UserError as error:
            raise UserError(f"images[{index}]: {error}") from error

    results = []
    # The next power of two: a service that gets many different counts traces the graph for a few of them.
    batch_size = min(fitting_batch(int(batch_size), config.image_size), 1 << max(0, len(images) - 1).bit_length())
    for start in range(0, len(images), batch_size):
        batch = np.stack([load(i) for i in range(start, min(start + batch_size, len(images)))])
        results += top_predictions(predict_batch(model, batch, batch_size), config, top_k)
    return results


def fitting_batch(batch_size: int, side: int) -> int:
    """Return the batch size, or less for large images: a batch of at most 4 megapixels, whose features fit in memory.

    Args:
        batch_size: images at a time, at least 1.
        side: of an image in pixels.
    """
    return max(1, min(batch_size, MAX_BATCH_PIXELS // side**2))


def check_count(name: str, value) -> None:
    """Raise UserError if `value` is not an integer, at least 1."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={value!r}: must be an integer, at least 1")


def _as_list(images) -> list:
    from PIL import Image

    is_array = hasattr(images, "__array__") and not isinstance(images, Image.Image)
    single = isinstance(images, (str, bytes, os.PathLike, Image.Image)) or hasattr(images, "read")
    if single or is_array and np.ndim(images) in (0, 2, 3):
        what = f"array of shape {np.shape(images)}" if is_array else type(images).__name__
        raise UserError(f"images: {what}; must be a list of images, so put a single one in brackets")
    return list(images)
