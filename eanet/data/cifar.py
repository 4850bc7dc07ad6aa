"""CIFAR-100 in its official python layout: the pickled files train, test and meta, as a folder or a tarball."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np

from eanet.cli import UserError
from eanet.data.splits import Dataset, Split
from modeling_eanet import CIFAR100_LABELS

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
SHA256 = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
FILES = ("train", "test", "meta")
MAX_MEMBER_BYTES = 2**30  # the official train file has 155 MB


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


def load_cifar_python(path) -> Dataset:
    """Read a data set in CIFAR-100's python layout.

    Args:
        path: a folder with the files train, test and meta, or a tarball of it.

    Returns:
        The data set. With CIFAR-100's classes but other sizes than the official 50,000 and 10,000 images, the test split is
        called "hold-out".

    Raises:
        UserError: damaged, incomplete, or not in this layout; the message begins with the path.
    """
    path = Path(path)
    return dataset_from_files(path, _read_tarball(path) if path.is_file() else _read_folder(path))


def dataset_from_files(path: Path, files: dict[str, bytes]) -> Dataset:
    """Build the data set from the contents of its files by name; `path` is for its name and for errors."""
    records = {name: _unpickle(path, name, files.get(name)) for name in FILES}
    try:
        labels = tuple(label.decode("utf-8") for label in records["meta"][b"fine_label_names"])
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise UserError(f"{path}: meta has no list of byte strings under fine_label_names") from None
    if len(set(labels)) < max(2, len(labels)):
        raise UserError(f"{path}: meta must name at least two classes, all different")
    train, test = (Split(*_arrays(path, name, records[name], len(labels)), name) for name in ("train", "test"))
    if labels != CIFAR100_LABELS:
        return Dataset("", path.resolve().name.split(".")[0], labels, train, test)
    if (len(train), len(test)) == (45_000, 5_000):
        test.name, test.note = "hold-out", "hold-out: 5,000 of the official train split, used for selection"
    elif (len(train), len(test)) != (50_000, 10_000):
        # Only the official 10,000 images may be called the test split.
        test.name, test.note = "hold-out", f"hold-out: {len(test):,} images, a part of CIFAR-100"
    return Dataset("uoft-cs/cifar100", "CIFAR-100", labels, train, test)


def _read_folder(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in FILES if (path / name).is_file()}


def _read_tarball(path: Path) -> dict[str, bytes]:
    """Read the files in memory: nothing is extracted, so no member can be written elsewhere."""
    files = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = Path(member.name).name
                if member.isfile() and name in FILES:
                    if member.size > MAX_MEMBER_BYTES:
                        raise ValueError(f"member {member.name} is larger than {MAX_MEMBER_BYTES} bytes")
                    files[name] = tar.extractfile(member).read()
            while tar.fileobj.read(2**20):  # to the end, where a compressed file has its checksum
                pass
    except Exception as error:  # every compression has its own
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{path}: not a tarball, truncated or damaged ({reason}); download it again") from None
    return files


def _unpickle(path: Path, name: str, content: bytes | None):
    if content is None:
        raise UserError(f"{path}: the file {name} of CIFAR-100's python layout is missing")
    try:
        return NumpyOnlyUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{path}: {name} cannot be unpickled safely: {error}") from None


def _arrays(path: Path, name: str, record, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Check one record and return its images (n, 32, 32, 3) and labels (n,)."""

    def check(ok, message):
        if not ok:
            raise UserError(f"{path}: {name}: {message}")

    check(isinstance(record, dict) and b"data" in record and b"fine_labels" in record, "has no data and fine_labels")
    x, y = (v.value if isinstance(v, _PickledArray) else v for v in (record[b"data"], record[b"fine_labels"]))
    check(isinstance(x, np.ndarray) and x.ndim == 2 and x.shape[1] == 3072, "data must be an array (n, 3072)")
    check(x.dtype == np.uint8 and len(x) > 0, f"data must be uint8 and not empty, is {x.dtype} {x.shape}")
    try:
        y = np.asarray(y)
    except ValueError:  # ragged
        y = np.empty(0)
    check(y.shape == (len(x),) and y.dtype.kind in "iu", f"fine_labels must be {len(x)} integers")
    worst = y.max() if y.max() >= num_classes else y.min()
    check(0 <= worst < num_classes, f"label {worst} is not in 0-{num_classes - 1}")
    return np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), y.astype(np.int64)


# A pickle can name any function to call. Only the four names that NumPy's arrays need are allowed, and even those are not
# NumPy's own: its `dtype.__setstate__` with a forged state would take bytes for pointers.


class _PickledArray:
    """Stands in for numpy.ndarray; `value` is the array after its state has been read."""

    value = None

    def __init__(self, *ignored):
        pass

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _PickledDtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array in it is not made of numbers")
        self.value = np.frombuffer(raw, dtype.order + dtype.code).reshape(shape, order="F" if fortran else "C")


class _PickledDtype:
    """Stands in for numpy.dtype, for plain numbers only."""

    order = "|"

    def __init__(self, code, *ignored):
        self.code = code.decode() if isinstance(code, bytes) else code
        if self.code not in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"):
            raise pickle.UnpicklingError(f"it has an array of dtype {code!r}, and only numbers are read")

    def __setstate__(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">", "|") else "="


class NumpyOnlyUnpickler(pickle.Unpickler):
    """Unpickle plain containers and arrays of numbers; every other name in the pickle is refused."""

    ALLOWED = {
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledDtype,
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how protocol 2 writes a bytes object
    }

    def find_class(self, module, name):
        """Return what `module.name` stands for, or raise UnpicklingError."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays, lists and dicts are read")
        return self.ALLOWED[module, name]
