"""Data sets in memory, and the validation split."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from modeling_eanet import UserError


@dataclasses.dataclass
class Split:
    """Labelled images.

    Attributes:
        x: uint8 (n, size, size, 3), 0 to 255.
        y: int64 (n,), class indices.
        name: "train", "test", "validation" or "hold-out".
        note: what else a result measured on this split has to say, or "".
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    note: str = ""

    def __len__(self):
        return len(self.y)

    def checksum(self) -> int:
        """Return the CRC-32 of images and labels; a run resumes only with the data it began with."""
        return zlib.crc32(np.ascontiguousarray(self.y), zlib.crc32(np.ascontiguousarray(self.x)))


@dataclasses.dataclass
class Dataset:
    """A data set.

    Attributes:
        id: repository on the Hub, or "".
        name: for people.
        labels: class names, in the order of the class indices.
        train: the training split.
        test: the test split, or None.
    """

    id: str
    name: str
    labels: tuple[str, ...]
    train: Split
    test: Split | None


def split_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[Split, Split | None]:
    """Split a fraction of the training images off at random.

    Args:
        dataset: its `train` is divided; `test` is not touched.
        fraction: 0 to 1, exclusive; 0 for no validation split.
        seed: of the random choice.

    Returns:
        (training, validation), each in the original order; validation is None for a fraction of 0.

    Raises:
        UserError: one of the two would be empty.
    """
    total = len(dataset.train)
    count = round(fraction * total)
    if fraction == 0:
        return dataset.train, None
    if not 0 < count < total:
        raise UserError(
            f"validation_split {fraction}: would leave an empty training or validation set ({total} images); "
            "use another fraction, or 0 for none"
        )
    order = np.random.default_rng((seed, 1)).permutation(total)
    kept, held_out = np.sort(order[count:]), np.sort(order[:count])
    note = f"{count:,} image{'s' * (count != 1)} of the train split, held out by seed {seed}"
    return (
        Split(dataset.train.x[kept], dataset.train.y[kept], "train"),
        Split(dataset.train.x[held_out], dataset.train.y[held_out], "validation", note),
    )
