"""Shuffled, augmented training batches: random crops, horizontal flips, an augmentation policy and CutMix.

NumPy draws all random numbers, a few integers per image (`Batches.draws`), and `augment` applies them in integer arithmetic,
in NumPy or compiled by JAX: both give the same images, bit for bit.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from eanet.data.policy import draw_policy, recolour, source_pixels
from eanet.data.splits import Split
from eanet.data.storage import DiskImages

MAX_DEVICE_BYTES = 2**32  # of images kept on JAX's device; CIFAR-100 has 0.24 GB


class Batches:
    """Random crops out of reflected borders, horizontal flips, and CutMix, in shuffled batches.

    Order and augmentation of an epoch depend on (seed, epoch) alone, so a resumed run sees what an uninterrupted one sees.
    On JAX the images stay on the device, and a step sends less than 100 bytes per image.

    Args:
        split: the images.
        num_classes: width of the targets.
        batch_size: images per batch; those that do not fill the last batch are left out of the epoch.
        seed: of order and augmentation.
        on_jax: keep the images on JAX's device, if they take no more than `MAX_DEVICE_BYTES`, and yield JAX arrays.
        class_weights: float32 (num_classes,), weight of each class in the loss, or None for equal weights.
        policy: an augmentation policy, one of `eanet.data.policy.POLICIES`, or None.
    """

    def __init__(
        self, split: Split, num_classes: int, batch_size: int, seed: int, on_jax=False, class_weights=None, policy=None
    ):
        self.size = split.x.shape[1]
        self.margin = self.size // 8
        self.images, self.labels = split.x, split.y
        self.targets = np.eye(num_classes, dtype=np.float32)  # by class
        self.batch_size = min(batch_size, len(split))
        self.seed, self.class_weights, self.policy = seed, class_weights, policy
        self.on_device = bool(on_jax) and not isinstance(split.x, DiskImages) and split.x.nbytes <= MAX_DEVICE_BYTES
        self._augment: Any = functools.partial(augment, np)
        self._rows: np.ndarray | None = None
        if self.on_device:
            import jax

            arrays = (self.images, self.labels.astype(np.int32), self.targets)
            self.images, self.device_labels, self.targets = map(jax.device_put, arrays)
            self._augment = jax.jit(functools.partial(augment, jax.numpy))

    def __len__(self):
        return len(self.labels) // self.batch_size

    def rows(self, start: int, stop: int) -> Batches:
        """Return batches with the same random numbers that yield the rows `start` to `stop` of each of these."""
        part = copy.copy(self)
        # CutMix fills a box from the row before.
        part._rows = np.arange(start - 1, stop) % self.batch_size
        return part

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
        labels = self.device_labels if self.on_device else self.labels
        for draw in self.draws(epoch, cutmix):
            if self._rows is None:
                yield self._augment(self.images, labels, self.targets, draw)
            else:
                part = {key: value[self._rows] for key, value in draw.items()}
                yield tuple(array[1:] for array in self._augment(self.images, labels, self.targets, part))

    def draws(self, epoch: int, cutmix: float = 0.0):
        """Iterate over the random numbers of one epoch's batches: what `augment` takes as `draw`, for each batch."""
        rng = np.random.default_rng((self.seed, 2, epoch))
        # The policy has a generator of its own, so that all else stays as it is without one.
        policy_rng = np.random.default_rng((self.seed, 4, epoch))
        order = rng.permutation(len(self.labels)).astype(np.int32)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            index = order[start : start + self.batch_size]
            shift = rng.integers(-self.margin, self.margin + 1, (2, len(index), 1))[..., 0].T
            draw = {"index": index, "shift": shift.astype(np.int32), "flip": rng.random(len(index)) < 0.5}
            if self.policy:
                draw |= draw_policy(policy_rng, len(index), self.size)
            if cutmix:
                draw["box"] = cutmix_boxes(rng, len(index), self.size, cutmix)
            yield draw


def augment(xp, images, labels, targets, draw: dict):
    """Return one batch.

    Args:
        xp: `numpy` or `jax.numpy`.
        images: uint8 (n, size, size, 3).
        labels: (n,) class indices.
        targets: float32 (classes, classes), the targets by class.
        draw: integer arrays, (batch, ...): "index" into the images, "shift" (2) of the crop in pixels, "flip"; with a policy
            also those of `draw_policy`; with CutMix "box" (4): first and last + 1 row and column.

    Returns:
        uint8 (batch, size, size, 3) and float32 (batch, classes).
    """
    size, index = images.shape[1], draw["index"]
    y = targets[labels[index]]
    if isinstance(images, DiskImages):
        images, index = images[index], np.arange(len(index))
    rows, columns = source_pixels(xp, size, draw)
    x = images[index[:, None, None], rows, columns]
    if "colour" in draw:
        x = recolour(xp, x, draw)
    if "box" in draw:
        top, bottom, left, right = (draw["box"][:, i, None] for i in range(4))
        pixels = np.arange(size)
        inside = ((pixels >= top) & (pixels < bottom))[:, :, None] & ((pixels >= left) & (pixels < right))[:, None, :]
        area = ((bottom - top) * (right - left)).astype(np.float32) / np.float32(size * size)
        x = xp.where(inside[..., None], xp.roll(x, 1, axis=0), x)
        y = (1 - area) * y + area * xp.roll(y, 1, axis=0)
    return x, y


def cutmix_boxes(rng, count: int, size: int, fraction: float) -> np.ndarray:
    """Draw one CutMix box per image (Yun et al. 2019, arXiv:1905.04899), to be filled from the neighbour in the batch.

    A box has an area of 1 - l with l uniform in [0, 1], and its centre anywhere, so that it may be cut by the border.

    Args:
        rng: `numpy.random.Generator`.
        count: number of images.
        size: side of an image in pixels.
        fraction: of the images that get a box, 0 to 1; the others' boxes are empty.

    Returns:
        int32 (count, 4): first row, last row + 1, first column, last column + 1. Pixels whose centres are in the box.
    """
    half = size * np.sqrt(1 - rng.random((count, 1))) / 2 * (rng.random((count, 1)) < fraction)
    centres = rng.uniform(0, size, (2, count, 1))
    first, end = np.floor(centres - half - 0.5) + 1, np.ceil(centres + half - 0.5)
    box = np.stack([first[0], end[0], first[1], end[1]], axis=1)[..., 0]
    return np.clip(box, 0, size).astype(np.int32)
