"""Labelled pictures from disk, as NumPy arrays.

`load_dataset` reads CIFAR-100 in its official python layout (a folder or a tarball) or a folder of class folders, and
without a path downloads CIFAR-100. `Batches` serves them shuffled and augmented. TensorFlow is needed for neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import pickle
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

from modeling_eanet import CIFAR100_LABELS, EANetConfig, load_image

CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
CIFAR100_SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
LARGEST_ON_DEVICE = 2**32  # bytes of pictures; CIFAR-100 has 0.24 GB
LARGEST_MEMBER = 2**30  # bytes; the official train file has 155 MB


@dataclasses.dataclass
class Split:
    """Pictures uint8 (n, size, size, 3) and labels int64 (n,), with the name and the note a result on them carries."""

    x: np.ndarray
    y: np.ndarray
    name: str
    note: str = ""

    def __len__(self):
        return len(self.y)

    def checksum(self) -> int:
        """CRC-32 of pictures and labels; a run goes on only with the data it began with."""
        return zlib.crc32(np.ascontiguousarray(self.y), zlib.crc32(np.ascontiguousarray(self.x)))


@dataclasses.dataclass
class Dataset:
    """`id` on the Hub ("" if there is none), `name`, class names, and the splits; `test` is None where there is none."""

    id: str
    name: str
    labels: tuple[str, ...]
    train: Split
    test: Split | None

    def carve_validation(self, fraction: float, seed: int) -> tuple[Split, Split | None]:
        """Splits `fraction` of the training pictures off by `seed`: (training, validation or None for 0).

        Raises:
            ValueError: the training or the validation part would be empty.
        """
        count = round(fraction * len(self.train))
        if fraction == 0:
            return self.train, None
        if not 0 < count < len(self.train):
            raise ValueError(
                f"--validation-split {fraction}: leaves no picture on one side of {len(self.train)}; "
                "name another part, or 0 for no validation"
            )
        order = np.random.default_rng((seed, 1)).permutation(len(self.train))
        rest, held = np.sort(order[count:]), np.sort(order[:count])
        note = f"{count:,} picture{'s' * (count != 1)} of the train split, held out by seed {seed}"
        return (
            Split(self.train.x[rest], self.train.y[rest], "train"),
            Split(self.train.x[held], self.train.y[held], "validation", note),
        )


def load_dataset(path: str | None, config: EANetConfig) -> Dataset:
    """Reads a dataset.

    Args:
        path: None for CIFAR-100, downloaded once and checked by its SHA-256; the official python layout as a folder or a
            tarball; or a folder with `train/<class>/*.png` and, if there is a test split, `test/<class>/*.png`.
        config: the size that pictures of class folders are resized to.

    Raises:
        ValueError: what is there does not make a dataset; the message names the path and what would do.
        OSError: it cannot be read.
    """
    if path is None:
        path = _download_cifar100()
    root = Path(path)
    if not root.exists():
        raise ValueError(f"--data {root}: no such file or folder; without --data CIFAR-100 is downloaded")
    if root.is_file():
        return _official(root, _tar_members(root))
    if (root / "cifar-100-python").is_dir():
        root = root / "cifar-100-python"
    if (root / "train").is_dir():
        return _class_folders(root, config)
    members = {name: root / name for name in ("train", "test", "meta") if (root / name).is_file()}
    if not members:
        raise ValueError(
            f"--data {root}: holds neither train/<class>/ folders nor the files train, test and meta of CIFAR-100"
        )
    return _official(root, {name: file.read_bytes() for name, file in members.items()})


def _download_cifar100() -> str:
    import keras

    try:
        with contextlib.redirect_stdout(sys.stderr):  # get_file reports its progress; standard output is for results
            return keras.utils.get_file("cifar-100-python.tar.gz", CIFAR100_URL, file_hash=CIFAR100_SHA256)
    except Exception as error:  # get_file raises a bare Exception when a server cannot be reached
        line = " ".join(str(error).split())
        raise ValueError(f"CIFAR-100 could not be downloaded ({line}); name a copy with --data") from None


# ------------------------------------------------------------------------------------------- the official layout


class _ArraysOnly(pickle.Unpickler):
    """Admits plain containers and arrays of numbers. A pickle can name any function to call; all others are refused.

    Not even NumPy's own `__setstate__` runs: a forged dtype state makes it take bytes for pointers. `_Array` and `_Dtype`
    stand in for what the pickle names.
    """

    def find_class(self, module, name):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return _Array
        if (module, name) == ("numpy", "dtype"):
            return _Dtype
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 spells a bytes object
            return _latin1_bytes
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays, lists and dicts are read")


class _Array:
    """A pickled array; `value` is the array once its state has come."""

    value = None

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array in it is not made of numbers")
        self.value = np.frombuffer(raw, dtype.order + dtype.code).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """A pickled dtype, if it is one of plain numbers."""

    order = "|"

    def __init__(self, code, *_):
        code = code.decode() if isinstance(code, bytes) else code
        if code not in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"):
            raise pickle.UnpicklingError(f"it has an array of dtype {code!r}, and only numbers are read")
        self.code = code

    def __setstate__(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">", "|") else "="


def _latin1_bytes(text, encoding):
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it names the codec {encoding}")
    return text.encode("latin1")


def _tar_members(path: Path) -> dict[str, bytes]:
    """The members train, test and meta, read in memory: nothing is extracted, so no member can land elsewhere."""
    members = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in ("train", "test", "meta"):
                    if member.size > LARGEST_MEMBER:
                        raise ValueError(f"member {member.name} is larger than {LARGEST_MEMBER} bytes")
                    members[name] = tar.extractfile(member).read()
            while tar.fileobj.read(2**20):  # to the end, where a compressed file has its checksum
                pass
    except Exception as error:  # every compression has its own
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"--data {path}: is no tarball, cut short or damaged ({reason}); fetch it again") from None
    return members


def _official(path: Path, members: dict[str, bytes]) -> Dataset:
    records = {}
    for name in ("train", "test", "meta"):
        if name not in members:
            raise ValueError(f"--data {path}: the file {name} of CIFAR-100's python layout is missing")
        try:
            records[name] = _ArraysOnly(io.BytesIO(members[name]), encoding="bytes").load()
        except Exception as error:  # damaged pickles raise nearly anything
            raise ValueError(f"--data {path}: {name} cannot be unpickled safely: {error}") from None
    try:
        labels = tuple(label.decode("utf-8") for label in records["meta"][b"fine_label_names"])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise ValueError(f"--data {path}: meta has no list of byte strings under fine_label_names") from None
    if len(set(labels)) < max(2, len(labels)):
        raise ValueError(f"--data {path}: meta must name at least two classes, each once")
    arrays = {name: _official_arrays(path, name, records[name], len(labels)) for name in ("train", "test")}
    train, test = Split(*arrays["train"], "train"), Split(*arrays["test"], "test")
    if labels != CIFAR100_LABELS:
        return Dataset("", path.resolve().name.split(".")[0], labels, train, test)
    if (len(train), len(test)) == (45_000, 5_000):
        test.name, test.note = "hold-out", "hold-out: 5,000 of the official train split, used for selection"
    elif (len(train), len(test)) != (50_000, 10_000):
        # The official test split has 10,000 pictures. Anything else is some part of the data, and must say so.
        test.name, test.note = "hold-out", f"hold-out: {len(test):,} pictures, a part of CIFAR-100"
    return Dataset("uoft-cs/cifar100", "CIFAR-100", labels, train, test)


def _official_arrays(path, name, record, classes):
    def need(ok, what):
        if not ok:
            raise ValueError(f"--data {path}: {name}: {what}")

    need(isinstance(record, dict) and b"data" in record and b"fine_labels" in record, "no data and fine_labels in it")
    x, y = (value.value if isinstance(value, _Array) else value for value in (record[b"data"], record[b"fine_labels"]))
    need(isinstance(x, np.ndarray) and x.ndim == 2 and x.shape[1] == 3072, "data must be an array (n, 3072)")
    need(x.dtype == np.uint8 and len(x) > 0, f"data must be uint8 and not empty, is {x.dtype} {x.shape}")
    try:
        y = np.asarray(y)
    except ValueError:
        y = np.empty(0)
    need(y.shape == (len(x),) and y.dtype.kind in "iu", f"fine_labels must be {len(x)} whole numbers")
    need(0 <= y.min() and y.max() < classes, f"label {y.max() if y.max() >= classes else y.min()} is not in 0-{classes - 1}")
    return np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), y.astype(np.int64)


# ------------------------------------------------------------------------------------------------- class folders


def _class_folders(root: Path, config: EANetConfig) -> Dataset:
    labels = tuple(sorted(p.name for p in (root / "train").iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(labels) < 2:
        raise ValueError(f"--data {root}: train/ has {len(labels)} class folder(s); at least two classes are needed")
    train = _read_class_folders(root / "train", labels, config, "train")
    test = _read_class_folders(root / "test", labels, config, "test") if (root / "test").is_dir() else None
    return Dataset("", root.resolve().name, labels, train, test)


def _read_class_folders(folder, labels, config, name) -> Split:
    from PIL import Image
    from tqdm import tqdm

    strangers = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in labels and p.name[0] != ".")
    if strangers:
        raise ValueError(f"--data {folder}: class {strangers[0]} is not among the classes of train/")
    suffixes = Image.registered_extensions()
    files = [
        (file, index)
        for index, label in enumerate(labels)
        for file in sorted((folder / label).rglob("*"))
        if file.suffix.lower() in suffixes and file.is_file()
    ]
    empty = sorted(set(range(len(labels))) - {index for _, index in files}) if name == "train" else []
    if empty or not files:
        raise ValueError(f"--data {folder / (labels[empty[0]] if empty else '')}: no pictures in it; add some, or remove it")
    x = np.empty((len(files), config.image_size, config.image_size, 3), np.uint8)
    for i, (file, _) in enumerate(tqdm(files, f"reading {name}", unit=" pictures", disable=None, leave=False)):
        try:
            x[i] = load_image(file, config)
        except (OSError, ValueError) as error:
            raise ValueError(f"--data {file}: {error}; replace or remove it") from None
    return Split(x, np.array([index for _, index in files], np.int64), name)


# -------------------------------------------------------------------------------------------------------- batches


class Batches:
    """Shuffled, augmented batches: a random crop out of reflected borders, a horizontal flip, and CutMix.

    An epoch's order and augmentation follow from (seed, epoch) alone, so a resumed run sees what an uninterrupted one sees.
    All pictures of a batch are gathered at once, a few milliseconds for 128 of 32x32 in NumPy. On JAX the pictures lie on
    the device and the gathering is compiled for it; what is drawn is drawn by NumPy on the host, the same for both, and is
    all that goes over in a step: less than 2 KB for a picture of 32x32.

    Args:
        split: the pictures.
        classes: number of classes.
        batch_size: pictures a batch; the rest that fills no batch is left out of the epoch.
        seed: of order and augmentation.
        on_jax: keep the pictures on JAX's device, up to `LARGEST_ON_DEVICE` bytes of them, and yield its arrays.
    """

    def __init__(self, split: Split, classes: int, batch_size: int, seed: int, on_jax: bool = False):
        self.margin = split.x.shape[1] // 8
        border = (self.margin, self.margin)
        self.padded = np.pad(split.x, [(0, 0), border, border, (0, 0)], mode="reflect")
        self.size = split.x.shape[1]
        self.targets = np.eye(classes, dtype=np.float32)[split.y]
        self.batch_size = min(batch_size, len(split))
        self.seed = seed
        self._gather, self._mix = _gather, functools.partial(_mix, np)
        if on_jax and self.padded.nbytes <= LARGEST_ON_DEVICE:
            import jax

            self.padded, self.targets = jax.device_put(self.padded), jax.device_put(self.targets)
            self._gather, self._mix = jax.jit(_gather), jax.jit(functools.partial(_mix, jax.numpy))

    def __len__(self):
        return len(self.targets) // self.batch_size

    def epoch(self, epoch: int, cutmix: float = 0.0):
        """Yields uint8 (batch, size, size, 3) and float32 (batch, classes), rows that sum to 1: one-hot without CutMix.

        `cutmix` is the part of the pictures, 0 to 1, that get a piece of another.
        """
        rng = np.random.default_rng((self.seed, 2, epoch))
        order = rng.permutation(len(self.targets))
        along = np.arange(self.size)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            index = order[start : start + self.batch_size]
            top, left = rng.integers(0, 2 * self.margin + 1, (2, len(index), 1))
            rows, columns = top + along, left + along
            flip = rng.random(len(index)) < 0.5
            columns[flip] = columns[flip, ::-1]
            x, y = self._gather(self.padded, self.targets, index, rows, columns)
            yield self._mix(x, y, *_boxes(rng, len(index), self.size, cutmix)) if cutmix else (x, y)


def _gather(padded, targets, index, rows, columns):
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]], targets[index]


def _boxes(rng, count, size, part):
    """For CutMix, a box for each picture, empty for all but `part` of them, and the part of the picture that it covers.

    A box has an area of 1 - l, l uniform in [0, 1], and its centre anywhere, so that a border may cut it.
    """
    half = size * np.sqrt(1 - rng.random((count, 1))) / 2 * (rng.random((count, 1)) < part)
    along = np.arange(size) + 0.5
    inside = np.abs(along - rng.uniform(0, size, (2, count, 1))) < half  # (rows or columns, count, size)
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return box, box.mean(axis=(1, 2), dtype=np.float32)[:, None]


def _mix(xp, x, y, box, taken):
    """CutMix (Yun et al. 2019, arXiv:1905.04899), with NumPy or with JAX as `xp`.

    A picture gets its box from its neighbour in the batch; its target is mixed by the pixels that really came from there.
    """
    return xp.where(box[..., None], xp.roll(x, 1, axis=0), x), (1 - taken) * y + taken * xp.roll(y, 1, axis=0)
