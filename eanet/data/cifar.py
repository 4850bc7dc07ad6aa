"""CIFAR-10 and CIFAR-100 in all official versions: python, binary and MATLAB, as a folder or an archive."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import zlib
from pathlib import Path

import numpy as np

from eanet.cli import UserError, printable
from eanet.data.files import Folder, name_of
from eanet.data.matlab import load_matlab
from eanet.data.splits import Dataset, Split
from eanet.data.unpickle import load_pickle
from eanet.images import LFS_HINT, LFS_PREFIX
from modeling_eanet import CIFAR100_LABELS

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROW = 3 * 32 * 32
# Files of each version: those of the training split, of the test split, and of the class names.
VERSIONS = {
    "CIFAR-100's python layout": ("train", "test", "meta"),
    "CIFAR-10's python layout": (r"data_batch_\d+", "test_batch", r"batches\.meta"),
    "CIFAR-100's binary layout": (r"train\.bin", r"test\.bin", r"fine_label_names\.txt"),
    "CIFAR-10's binary layout": (r"data_batch_\d+\.bin", r"test_batch\.bin", r"batches\.meta\.txt"),
    "CIFAR-100's MATLAB layout": (r"train\.mat", r"test\.mat", r"meta\.mat"),
    "CIFAR-10's MATLAB layout": (r"data_batch_\d+\.mat", r"test_batch\.mat", r"batches\.meta\.mat"),
}
_ANY_FILE = re.compile("|".join(pattern for patterns in VERSIONS.values() for pattern in patterns))


def download_cifar100() -> str:
    """Download CIFAR-100 into Keras' cache, unless it is there, and check its SHA-256.

    Returns:
        The path of the tarball.

    Raises:
        UserError: it could not be downloaded, or has another checksum.
    """
    import keras

    try:
        with contextlib.redirect_stdout(sys.stderr):  # get_file prints its progress; standard output is for results
            return keras.utils.get_file("cifar-100-python.tar.gz", URL, file_hash=SHA256)
    except Exception as error:  # get_file raises a bare Exception if the server cannot be reached
        reason = " ".join(str(error).split())
        raise UserError(f"CIFAR-100 could not be downloaded ({reason}); give the path of a copy") from None


def find_cifar(root: Folder) -> tuple[str, Folder] | None:
    """Find a version of CIFAR by the names of its files, in the tree's root or the first folder that has them.

    Returns:
        The version, a key of `VERSIONS`, and the folder with its files; or None.
    """
    level = [root]
    while level:
        for folder in level:
            names = [name for name in folder.files if _ANY_FILE.fullmatch(name)]
            for version, patterns in VERSIONS.items() if names else ():
                if sum(any(re.fullmatch(pattern, name) for name in names) for pattern in patterns) >= 2:
                    return version, folder
        level = [child for folder in level for child in folder.folders.values()]
    return None


def load_cifar(path, version: str, folder: Folder) -> Dataset:
    """Read what `find_cifar` found.

    Args:
        path: the root of the tree, a folder or an archive, for its name and for messages.
        version: a key of `VERSIONS`.
        folder: the folder with its files.

    Returns:
        The data set. With the classes of CIFAR-100 or CIFAR-10, but other sizes than the official ones, the test split is
        called "hold-out".

    Raises:
        UserError: damaged, incomplete, or not in this layout; the message begins with the path.
    """
    path = Path(path).joinpath(*folder.parts) if os.path.isdir(path) else Path(path)
    train, test, meta = VERSIONS[version]
    for pattern in (train, test, meta):
        if not any(re.fullmatch(pattern, name) for name in folder.files):
            missing = re.sub(r"\\d\+", "1", pattern).replace("\\", "")
            raise UserError(f"{path}: the file {missing} of {version} is missing")
    reader = next(value for key, value in _READERS.items() if key in version)
    wanted, is_100 = re.compile("|".join(VERSIONS[version])), "100" in version
    contents = {name: file.read() for name, file in folder.files.items() if wanted.fullmatch(name)}
    for name, content in contents.items():
        if content.startswith(LFS_PREFIX):
            raise UserError(f"{path}: {name}: {LFS_HINT}")
    name = next(name for name in contents if re.fullmatch(meta, name))
    labels = _checked_labels(path, name, reader(path, name, contents[name], is_100, None))
    splits = {}
    for split, pattern in (("train", train), ("test", test)):
        names = sorted((n for n in contents if re.fullmatch(pattern, n)), key=lambda n: (len(n), n))
        parts = [reader(path, name, contents.pop(name), is_100, len(labels)) for name in names]
        x, y = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*parts, strict=True))
        splits[split] = Split(x, y, split)
    return _named(path, labels, splits["train"], splits["test"], version == "CIFAR-100's python layout")


def _named(path: Path, labels: tuple[str, ...], train: Split, test: Split, plain_draw: bool) -> Dataset:
    """Name the data set; only the official images may be called the test split."""
    # The runs recorded so far drew their validation split from this layout without regard to the classes.
    stratify = not plain_draw
    official = {CIFAR100_LABELS: "CIFAR-100", CIFAR10_LABELS: "CIFAR-10"}.get(labels)
    if official is None:
        return Dataset("", name_of(path), labels, train, test, stratify=stratify)
    if (len(train), len(test)) == (45_000, 5_000):
        test.name, test.note = "hold-out", "hold-out: 5,000 of the official train split, used for selection"
    elif (len(train), len(test)) != (50_000, 10_000):
        test.name, test.note = "hold-out", f"hold-out: {len(test):,} images, a part of {official}"
    return Dataset("uoft-cs/" + official.lower().replace("-", ""), official, labels, train, test, stratify=stratify)


def _checked_labels(path: Path, name: str, labels) -> tuple[str, ...]:
    if len(set(labels)) < max(2, len(labels)):
        raise UserError(f"{path}: {name} must name at least two classes, all different")
    return tuple(labels)


# Versions: each reader returns the class names (num_classes is None), or images and labels ---------------------------------


def _read_python(path, name, content, is_100, num_classes):
    try:
        record = load_pickle(content)
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{path}: {name} cannot be unpickled safely: {printable(str(error))}") from None
    if isinstance(record, dict):  # a copy written by Python 3 may have text for keys
        record = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in record.items()}
    key = "fine_label_names" if is_100 else "label_names"
    if num_classes is None:
        try:
            return [label.decode("utf-8") if isinstance(label, bytes) else label + "" for label in record[key]]
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError):
            raise UserError(f"{path}: {name} has no list of byte strings under {key}") from None
    labels = "fine_labels" if is_100 else "labels"
    if not isinstance(record, dict) or "data" not in record or labels not in record:
        raise UserError(f"{path}: {name}: has no data and {labels}")
    return _arrays(path, name, record["data"], labels, record[labels], num_classes)


def _read_binary(path, name, content, is_100, num_classes):
    if num_classes is None:
        try:
            return [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise UserError(f"{path}: {name} is not text") from None
    width = ROW + 1 + is_100
    if not content or len(content) % width:
        raise UserError(f"{path}: {name}: {len(content):,} bytes are not rows of {width}; truncated, download it again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    return _arrays(path, name, rows[:, -ROW:], "labels", rows[:, -ROW - 1].astype(np.int64), num_classes)


def _read_matlab(path, name, content, is_100, num_classes):
    wanted = "fine_label_names" if is_100 else "label_names"
    labels = "fine_labels" if is_100 else "labels"
    try:
        record = load_matlab(content, (wanted,) if num_classes is None else ("data", labels))
        if num_classes is None:
            return [text + "" for text in record[wanted]]
        x, y = record["data"], np.ravel(record[labels])
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise UserError(f"{path}: {name} cannot be read as a MATLAB file: {printable(str(error))}") from None
    return _arrays(path, name, x, labels, y, num_classes)


_READERS = {"python": _read_python, "binary": _read_binary, "MATLAB": _read_matlab}


def _arrays(path: Path, name: str, x, label_name: str, y, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Check one file's arrays and return its images (n, 32, 32, 3) and labels (n,)."""

    def check(ok, message):
        if not ok:
            raise UserError(f"{path}: {name}: {message}")

    check(isinstance(x, np.ndarray) and x.ndim == 2 and x.shape[1] == ROW, "data must be an array (n, 3072)")
    check(x.dtype == np.uint8 and len(x) > 0, f"data must be uint8 and not empty, is {x.dtype} {x.shape}")
    flat = isinstance(y, np.ndarray) or isinstance(y, list) and all(isinstance(v, int) for v in y)  # not nested, not ragged
    y = np.asarray(y) if flat else np.empty(0)
    check(y.shape == (len(x),) and y.dtype.kind in "iu", f"{label_name} must be {len(x)} integers")
    worst = y.max() if y.max() >= num_classes else y.min()
    check(0 <= worst < num_classes, f"label {worst} is not in 0-{num_classes - 1}")
    return np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), y.astype(np.int64)
