"""Shuffled, augmented training batches: random crops, horizontal flips and CutMix."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from eanet.data.splits import Split
from eanet.data.storage import DiskImages

MAX_DEVICE_BYTES = 2**32  # of images kept on JAX's device; CIFAR-100 has 0.24 GB


class Batches:
    """Random crops out of reflected borders, horizontal flips, and CutMix, in shuffled batches.

    Order and augmentation of an epoch depend on (seed, epoch) alone, so a resumed run sees what an uninterrupted one sees.
    NumPy draws all random numbers. On JAX the images stay on the device and a compiled function gathers the crops there;
    a step then sends less than 2 KB per 32x32 image.

    Args:
        split: the images.
        num_classes: width of the targets.
        batch_size: images per batch; those that do not fill the last batch are left out of the epoch.
        seed: of order and augmentation.
        on_jax: keep the images on JAX's device, if they take no more than `MAX_DEVICE_BYTES`, and yield JAX arrays.
        class_weights: float32 (num_classes,), weight of each class in the loss, or None for equal weights.
    """

    def __init__(self, split: Split, num_classes: int, batch_size: int, seed: int, on_jax: bool = False, class_weights=None):
        self.size = split.x.shape[1]
        self.margin = self.size // 8
        # Pixel i of the image with reflected borders is pixel reflected[i] of the image: no padded copy is needed.
        self.reflected = np.pad(np.arange(self.size), self.margin, mode="reflect")
        self.images = split.x
        self.labels, self.targets = split.y, np.eye(num_classes, dtype=np.float32)  # targets by class
        self.batch_size = min(batch_size, len(split))
        self.seed, self.class_weights = seed, class_weights
        self._gather: Any = _gather
        self._mix: Any = functools.partial(_mix, np)
        if isinstance(split.x, DiskImages):
            self._gather = _gather_from_disk
        elif on_jax and self.images.nbytes <= MAX_DEVICE_BYTES:
            import jax

            self.images, self.targets = jax.device_put(self.images), jax.device_put(self.targets)
            self._gather, self._mix = jax.jit(_gather), jax.jit(functools.partial(_mix, jax.numpy))

    def __len__(self):
        return len(self.labels) // self.batch_size

    def sample_weights(self, targets) -> np.ndarray | None:
        """Return the weight in the loss of each row of targets, (batch,), or None if all classes weigh the same."""
        return None if self.class_weights is None else np.asarray(targets) @ self.class_weights

    def epoch(self, epoch: int, cutmix: float = 0.0):
        """Iterate over the batches of one epoch.

        Args:
            epoch: counted from 0.
            cutmix: fraction of the images, 0 to 1, that get a box of another image.

        Yields:
            uint8 (batch, size, size, 3), and float32 targets (batch, num_classes) whose rows sum to 1.
        """
        rng = np.random.default_rng((self.seed, 2, epoch))
        order = rng.permutation(len(self.labels))
        pixels = np.arange(self.size)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            index = order[start : start + self.batch_size]
            top, left = rng.integers(0, 2 * self.margin + 1, (2, len(index), 1))
            rows, columns = top + pixels, left + pixels
            flip = rng.random(len(index)) < 0.5
            columns[flip] = columns[flip, ::-1]
            rows, columns = self.reflected[rows], self.reflected[columns]
            x, y = self._gather(self.images, self.targets, index, self.labels[index], rows, columns)
            yield self._mix(x, y, *cutmix_boxes(rng, len(index), self.size, cutmix)) if cutmix else (x, y)


def cutmix_boxes(rng, count: int, size: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw one CutMix box per image (Yun et al. 2019, arXiv:1905.04899).

    A box has an area of 1 - l with l uniform in [0, 1], and its centre anywhere, so that it may be cut by the border.

    Args:
        rng: `numpy.random.Generator`.
        count: number of images.
        size: side of an image in pixels.
        fraction: of the images that get a box, 0 to 1; the others' boxes are empty.

    Returns:
        bool (count, size, size), True inside the box; float32 (count, 1), the fraction of the image that it covers.
    """
    half = size * np.sqrt(1 - rng.random((count, 1))) / 2 * (rng.random((count, 1)) < fraction)
    centres = np.arange(size) + 0.5
    inside = np.abs(centres - rng.uniform(0, size, (2, count, 1))) < half  # (rows or columns, count, size)
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return box, box.mean(axis=(1, 2), dtype=np.float32)[:, None]


def _gather(images, targets, index, labels, rows, columns):
    return images[index[:, None, None], rows[:, :, None], columns[:, None, :]], targets[labels]


def _gather_from_disk(images, targets, index, labels, rows, columns):
    own = np.arange(len(index))
    return images[index][own[:, None, None], rows[:, :, None], columns[:, None, :]], targets[labels]


def _mix(xp, x, y, box, area):
    """Fill each image's box from its neighbour in the batch and mix the targets by area; `xp` is NumPy or jax.numpy."""
    return xp.where(box[..., None], xp.roll(x, 1, axis=0), x), (1 - area) * y + area * xp.roll(y, 1, axis=0)
