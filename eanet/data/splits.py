"""Data sets, the validation split and class weights."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from eanet.data.storage import select
from modeling_eanet import UserError

MOST_COMPARED = 10**9  # bytes of training images, up to which equal images in other splits are looked for


@dataclasses.dataclass
class Split:
    """Labelled images.

    Attributes:
        x: uint8 (n, size, size, 3), 0 to 255; `DiskImages` where they would take too much memory.
        y: int64 (n,), class indices.
        name: "train", "test", "validation" or "hold-out".
        note: what else a result measured on this split has to say, or "".
        names: (n,) of the image files, for people; None where the images have none.
        repeated: how many of the images are also in train; see `count_repeated`.
    """

    x: Any
    y: np.ndarray
    name: str
    note: str = ""
    names: list[str] | None = None
    repeated: int = 0

    def __len__(self):
        return len(self.y)

    def checksum(self) -> int:
        """Return the CRC-32 of images and labels; a run resumes only with the data it began with."""
        crc, step = 0, max(1, 2**26 // max(1, int(np.prod(self.x.shape[1:]))))
        for start in range(0, len(self.x), step):
            crc = zlib.crc32(np.ascontiguousarray(self.x[start : start + step]).data, crc)
        return zlib.crc32(np.ascontiguousarray(self.y).data, crc)

    def part(self, indices: np.ndarray, name: str, note: str = "") -> Split:
        """Return the split of the images at `indices`."""
        names = None if self.names is None else [self.names[i] for i in indices]
        return Split(select(self.x, indices), self.y[indices], name, note, names)


@dataclasses.dataclass
class Dataset:
    """A data set.

    Attributes:
        id: repository on the Hub, or "".
        name: for people.
        labels: class names, in the order of the class indices.
        train: the training split; None in a data set that can only be evaluated on.
        test: the test split, or None.
        validation: the validation split that comes with the data, or None.
        left_out: {"path", "reason"} of each file that was not read.
        stratify: whether a validation split is drawn from each class in proportion.
    """

    id: str
    name: str
    labels: tuple[str, ...]
    train: Any
    test: Split | None
    validation: Split | None = None
    left_out: list[dict[str, str]] = dataclasses.field(default_factory=list)
    stratify: bool = True


def count_repeated(dataset: Dataset) -> None:
    """Set `repeated` of the validation and the test split; it stays 0 where that would take long."""
    others = [split for split in (dataset.validation, dataset.test) if split]
    if not others or dataset.train is None or dataset.train.x.nbytes > MOST_COMPARED:
        return
    known = set(_digests(dataset.train.x))
    for split in others:
        split.repeated = sum(digest in known for digest in _digests(split.x))


def _digests(images) -> Iterator[int]:
    for start in range(0, len(images), 256):
        yield from (hash(image.tobytes()) for image in np.asarray(images[start : start + 256]))


def split_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[Split, Split | None]:
    """Return the training and the validation split, the latter taken from the training images if the data has none.

    Args:
        dataset: its `train` is divided, unless it has a validation split; `test` is not touched.
        fraction: 0 to 1, exclusive, at least one image per class; 0 for no validation split.
        seed: of the random choice.

    Returns:
        (training, validation), each in the original order; validation is None for a fraction of 0.

    Raises:
        UserError: one of the two would be empty.
    """
    train = dataset.train
    if dataset.validation is not None:
        return train, dataset.validation
    if fraction == 0:
        return train, None
    held_out = _draw_stratified(train.y, fraction, seed) if dataset.stratify else _draw_plain(len(train), fraction, seed)
    count = len(held_out)
    if not 0 < count < len(train):
        raise UserError(
            f"validation_split {fraction}: would leave an empty training or validation set ({len(train):,} images); "
            "use another fraction, or 0 for none"
        )
    kept = np.setdiff1d(np.arange(len(train)), held_out)
    note = f"{count:,} image{'s' * (count != 1)} of the train split, held out by seed {seed}"
    return train.part(kept, "train"), train.part(held_out, "validation", note)


def _draw_plain(total: int, fraction: float, seed: int) -> np.ndarray:
    """Draw without regard to the classes.

    Runs recorded so far drew from CIFAR-100 so. They can only be resumed, and their weights fine-tuned without seeing the
    validation images, if the draw stays the same.
    """
    return np.sort(np.random.default_rng((seed, 1)).permutation(total)[: round(fraction * total)])


def _draw_stratified(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Draw from each class in proportion, at least one image and not all; a class with a single image keeps it."""
    sizes = np.bincount(y)
    exact = fraction * sizes
    counts = np.floor(exact).astype(int)
    missing = round(float(exact.sum())) - counts.sum()
    largest_remainders = np.argsort(counts - exact, kind="stable")[:missing]
    counts[largest_remainders] += 1
    counts = np.clip(counts, np.minimum(1, np.maximum(sizes - 1, 0)), np.maximum(sizes - 1, 0))
    order = np.random.default_rng((seed, 1)).permutation(len(y))
    by_class = order[np.argsort(y[order], kind="stable")]  # each class in random order, one class after the other
    starts = np.cumsum(sizes) - sizes
    chosen = [by_class[start : start + count] for start, count in zip(starts, counts, strict=True)]
    return np.sort(np.concatenate(chosen))


def balanced_class_weights(y: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the weight of each class that makes all classes count the same in the loss.

    Args:
        y: (n,) class indices.
        num_classes: number of classes.

    Returns:
        float32 (num_classes,): n / (classes with images * images of the class), whose mean over the images is 1; 0 for a
        class without images.
    """
    sizes = np.bincount(y, minlength=num_classes)
    weights = len(y) / (np.count_nonzero(sizes) * np.maximum(sizes, 1))
    return np.where(sizes > 0, weights, 0).astype(np.float32)
