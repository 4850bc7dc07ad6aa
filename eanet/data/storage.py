"""Images in memory, or on disk where they would take too much of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from typing import Any

import numpy as np

from eanet.cli import UserError

MAX_MEMORY_BYTES = 2**29  # of one split; 512 MiB are 170,000 images of 32x32, or 3,500 of 224x224


def large_files_folder() -> str:
    """Return the folder for large temporary files: /var/tmp unless TMPDIR is set, as /tmp may be in memory."""
    return os.environ.get("TMPDIR") or ("/var/tmp" if os.path.isdir("/var/tmp") else tempfile.gettempdir())


class DiskImages:
    """Images in a temporary file, which read like an array: `images[3]`, `images[10:20]`, `images[indices]`.

    A memory map would do the same, but its pages count as memory of the process; these reads go through the page cache.
    The file has no name and is freed with the last `DiskImages` on it, also if the process is killed.

    Args:
        file: the open file, the images one after the other.
        shape: (n, height, width, channels).
        index: the images that belong to this view, by number in the file; None for all.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, file, shape: tuple[int, ...], index: np.ndarray | None = None):
        self._file, self._lock, self._index = file, threading.Lock(), index
        self.shape = (len(index), *shape[1:]) if index is not None else tuple(shape)

    def __len__(self):
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """The size of all images in bytes."""
        return int(np.prod(self.shape))

    def take(self, index: np.ndarray) -> DiskImages:
        """Return a view of some of the images, without reading them."""
        index = np.asarray(index)
        return DiskImages(self._file, self.shape, index if self._index is None else self._index[index])

    def __getitem__(self, key):
        if isinstance(key, tuple):
            first, *rest = key
            return self[first][tuple(rest) if np.ndim(first) == 0 and not isinstance(first, slice) else (slice(None), *rest)]
        rows = np.arange(len(self))[key]  # checks the range, and understands slices, lists and masks
        if self._index is not None:
            rows = self._index[rows]
        out = np.empty((rows.size, *self.shape[1:]), np.uint8)
        flat = np.ravel(rows)
        starts = np.flatnonzero(np.diff(flat, prepend=-2) != 1)  # runs of neighbours are read together
        with self._lock:
            for start, stop in zip(starts, np.append(starts, len(flat))[1:], strict=True):
                self._file.seek(int(flat[start]) * out[0].nbytes)
                if self._file.readinto(out[start:stop].reshape(-1).data) != out[start:stop].nbytes:
                    raise OSError("the temporary file with the images is cut short")
        return out.reshape(*np.shape(rows), *self.shape[1:])

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or np.uint8, copy=False)


class ImageStore:
    """Collects the images of one split: in memory up to `MAX_MEMORY_BYTES`, in a temporary file beyond.

    Args:
        side: of an image in pixels.
        expected: number of images, if it is known: chooses the place from the start, and checks the free space.

    Raises:
        UserError: no space for them.
    """

    def __init__(self, side: int, expected: int | None = None):
        self.shape, self.count = (side, side, 3), 0
        self._blocks: list[np.ndarray] = []
        self._file: Any = None
        size = (expected or 0) * side * side * 3
        self._array = np.empty((expected or 0, *self.shape), np.uint8) if size <= MAX_MEMORY_BYTES else None
        if self._array is None:
            self._to_disk(size)

    def append(self, images: np.ndarray) -> None:
        """Add images, uint8 (n, side, side, 3)."""
        start, self.count = self.count, self.count + len(images)
        if self._array is not None and self.count <= len(self._array):
            self._array[start : self.count] = images
            return
        if self._array is not None:  # more than expected, or the number was not known
            self._blocks, self._array = [self._array[:start]], None
        if self._file is None and self.count * int(np.prod(self.shape)) > MAX_MEMORY_BYTES:
            self._to_disk(0)
        if self._file is None:
            self._blocks.append(images)
        else:
            self._write(images)

    def finish(self) -> np.ndarray | DiskImages:
        """Return all images, (count, side, side, 3)."""
        if self._file is not None:
            return DiskImages(self._file, (self.count, *self.shape))
        if self._array is not None:
            return self._array[: self.count]
        images, start = np.empty((self.count, *self.shape), np.uint8), 0
        self._blocks.reverse()
        while self._blocks:  # each block is freed as it is copied
            block = self._blocks.pop()
            images[start : start + len(block)] = block
            start += len(block)
        return images

    def _to_disk(self, size: int) -> None:
        folder = large_files_folder()
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(f"{folder}: the images take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; set TMPDIR")
        self._file = tempfile.TemporaryFile(prefix="eanet-", dir=folder, buffering=0)  # noqa: SIM115
        for block in self._blocks:
            self._write(block)
        self._blocks = []

    def _write(self, images: np.ndarray) -> None:
        data = memoryview(np.ascontiguousarray(images).reshape(-1).data)
        while data:
            data = data[self._file.write(data) :]


def select(images: np.ndarray | DiskImages, index: np.ndarray) -> np.ndarray | DiskImages:
    """Return some of the images: a copy of an array, a view of `DiskImages`."""
    return images.take(index) if isinstance(images, DiskImages) else images[index]
