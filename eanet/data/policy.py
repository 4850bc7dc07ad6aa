"""An augmentation policy: TrivialAugment (Müller and Hutter 2021, arXiv:2103.10158), one random operation per image.

Every operation is expressed in the same few integers per image, so that a batch takes one pass without branches.
"""

from __future__ import annotations

import numpy as np

POLICIES = ("trivial",)
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast"),
)
ONE = 1 << 16  # 1 in the fixed-point numbers of "matrix"
GAIN = 1 << 8  # 1 in those of "colour"


def draw_policy(rng, count: int, size: int) -> dict[str, np.ndarray]:
    """Draw one operation of random strength per image, with the ranges of RandAugment (arXiv:1909.13719).

    Shears up to 0.3, translations up to 10/32 of the side, rotations up to 30 degrees; brightness, saturation, contrast and
    sharpness from 0.1 to 1.9; 4 to 8 bits; and solarize at any threshold. Equalize is left out.

    Args:
        rng: `numpy.random.Generator`.
        count: number of images.
        size: side of an image in pixels.

    Returns:
        int32 arrays: "matrix" (count, 2, 2), from output to source (row, column), in 1/65536; "translation" (count, 2) in
        pixels; "colour" (count, 4), the gains of the pixel, its grey value, the mean grey value and the neighbourhood, in
        1/256; "threshold" (count,), from which on a value is inverted; "mask" (count,) of the bits that stay; "stretch"
        (count,), bool, whether each channel is stretched to 0-255.
    """
    chosen, strength = rng.integers(0, len(OPERATIONS), count), rng.random(count)
    signed = strength * np.where(rng.random(count) < 0.5, -1, 1)
    matrix, translation = np.tile(np.eye(2), (count, 1, 1)), np.zeros((count, 2))
    colour, threshold, mask = np.tile([1.0, 0, 0, 0], (count, 1)), np.full(count, 256), np.full(count, 255)

    def having(name):
        return chosen == OPERATIONS.index(name)

    for name, row, column in (("shear_x", 1, 0), ("shear_y", 0, 1)):
        matrix[having(name), row, column] = 0.3 * signed[having(name)]
    for axis, name in enumerate(("translate_y", "translate_x")):
        translation[having(name), axis] = np.round(signed[having(name)] * size * 10 / 32)
    angle = np.radians(30) * signed[having("rotate")]
    matrix[having("rotate")] = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    for name, other in (("brightness", None), ("saturation", 1), ("contrast", 2), ("sharpness", 3)):
        factor = 1 + 0.9 * signed[having(name)]
        colour[having(name), 0] = factor
        if other:
            colour[having(name), other] = 1 - factor
    lost = (strength * 5).astype(int)[having("posterize")]  # bits
    mask[having("posterize")] = 256 - 2**lost
    threshold[having("solarize")] = np.round(256 * (1 - strength[having("solarize")]))
    return {
        "matrix": np.round(matrix * ONE).astype(np.int32),
        "translation": translation.astype(np.int32),
        "colour": np.round(colour * GAIN).astype(np.int32),
        "threshold": threshold.astype(np.int32),
        "mask": mask.astype(np.int32),
        "stretch": having("autocontrast"),
    }


def source_pixels(xp, size: int, draw: dict):
    """Return where each pixel of the augmented images comes from; beyond the border an image is reflected.

    Args:
        xp: `numpy` or `jax.numpy`.
        size: side of an image in pixels.
        draw: of `Batches.draws`: "shift" and "flip", perhaps "matrix" and "translation".

    Returns:
        Rows and columns, which broadcast to (batch, size, size).
    """
    # Pixel i of the image with reflected borders is pixel reflected[size - 1 + i] of the image.
    reflected = xp.asarray(np.pad(np.arange(size, dtype=np.int32), size - 1, mode="reflect"))
    pixels = np.arange(size, dtype=np.int32)
    rows, columns = pixels[None, :, None], pixels[None, None, :]
    columns = xp.where(draw["flip"][:, None, None], size - 1 - columns, columns)
    shift = draw["shift"]
    if "matrix" in draw:
        shift, matrix = shift + draw["translation"], draw["matrix"][:, :, :, None, None]
        down, right = 2 * rows + 1 - size, 2 * columns + 1 - size  # from the centre, in half pixels
        rows, columns = (
            (matrix[:, axis, 0] * down + matrix[:, axis, 1] * right + size * ONE) // (2 * ONE) for axis in range(2)
        )
    rows, columns = rows + shift[:, 0, None, None], columns + shift[:, 1, None, None]
    last = 3 * size - 3  # of `reflected`
    return tuple(reflected[xp.clip(pixel + size - 1, 0, last)] for pixel in (rows, columns))


def recolour(xp, x, draw: dict):
    """Apply the operations on values.

    Args:
        xp: `numpy` or `jax.numpy`.
        x: uint8 (batch, size, size, 3).
        draw: of `draw_policy`.

    Returns:
        uint8 (batch, size, size, 3).
    """
    own, grey_gain, mean_gain, smooth_gain = (draw["colour"][:, i, None, None, None] for i in range(4))
    x = x.astype(np.int32)
    grey = (x[..., :1] * 299 + x[..., 1:2] * 587 + x[..., 2:] * 114) // 1000
    mean = grey.sum(axis=(1, 2), keepdims=True, dtype=np.int32) // (x.shape[1] * x.shape[2])
    mixed = own * x + grey_gain * grey + mean_gain * mean + smooth_gain * _smooth(xp, x)
    x = xp.clip((mixed + GAIN // 2) // GAIN, 0, 255)
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    stretched = (x - low) * 255 // xp.maximum(high - low, 1)
    x = xp.where(draw["stretch"][:, None, None, None] & (high > low), stretched, x)
    x = xp.where(x >= draw["threshold"][:, None, None, None], 255 - x, x)
    return (x & draw["mask"][:, None, None, None]).astype(np.uint8)


def _smooth(xp, x):
    """Return the average over 3x3 pixels, the middle one counted five times; the border stays as it is."""
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]
    inner = xp.pad((total + 6) // 13, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = np.arange(x.shape[1])
    border = (side == 0) | (side == x.shape[1] - 1)
    return xp.where((border[:, None] | border[None, :])[..., None], x, inner)
