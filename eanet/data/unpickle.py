"""Read pickles that hold nothing but plain containers and arrays of numbers, and run nothing that is in them."""

from __future__ import annotations

import io
import pickle
import pickletools
import reprlib

import numpy as np

# A pickle can name any function to call. Only the four names that NumPy's arrays need are allowed, and even those are not
# NumPy's own: its `dtype.__setstate__` with a forged state would take bytes for pointers.

MAX_STEPS = 2_000_000  # CIFAR-100 has 250,000


class _PickledArray:
    """Stands in for numpy.ndarray; `value` is the array after its state has been read."""

    value = None

    def __init__(self, *ignored):
        pass

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _PickledDtype) or not isinstance(raw, bytes | bytearray):
            raise pickle.UnpicklingError("an array in it is not made of numbers")
        self.value = np.frombuffer(raw, dtype.order + dtype.code).reshape(shape, order="F" if fortran else "C")


class _PickledDtype:
    """Stands in for numpy.dtype, for plain numbers only."""

    order = "|"

    def __init__(self, code, *ignored):
        self.code = code.decode() if isinstance(code, bytes) else code
        if self.code not in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"):
            raise pickle.UnpicklingError(f"it has an array of dtype {reprlib.repr(code)}, and only numbers are read")

    def __setstate__(self, state):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.order = order if order in ("<", ">", "|") else "="


def _from_buffer(buffer, dtype, shape, order, *ignored):
    """Stands in for the function by which protocol 5 writes an array."""
    if not isinstance(buffer, bytes | bytearray):  # bytes(10**10) would be zeros
        raise pickle.UnpicklingError("an array in it is not made of numbers")
    array = _PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", bytes(buffer)))
    return array


def _scalar(dtype, raw):
    """Stands in for the function that makes a NumPy number."""
    if not isinstance(dtype, _PickledDtype) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a number in it is not one")
    return np.frombuffer(raw, dtype.order + dtype.code)[0].item()


def load_pickle(content: bytes):
    """Return what a pickle holds, without calling anything that it names.

    Args:
        content: the pickle, of any protocol; byte strings of Python 2 stay bytes.

    Returns:
        Containers, numbers, strings and NumPy arrays.

    Raises:
        Exception: of nearly any kind, if it is damaged or holds anything else.
    """
    _check_steps(content)
    return _plain(NumpyOnlyUnpickler(io.BytesIO(content), encoding="bytes").load())


def _check_steps(content: bytes) -> None:
    """Refuse what no pickle of a data set has, and what makes Python run or allocate without bounds.

    These are millions of steps, a memo index far above the number of objects (Python allocates a list of that length), and
    tuples that share tuples (the time to hash one doubles with each level).
    """
    known: set[int] = set()
    tuples: set[int] = set()
    shared, last = 0, ""
    for count, (code, arg, _) in enumerate(pickletools.genops(content)):
        index: int = arg if isinstance(arg, int) else len(known)
        if code.name in ("LONG_BINPUT", "PUT") and index > count:
            raise pickle.UnpicklingError(f"object number {index} after {count} steps")
        if code.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            known.add(index)
            (tuples.add if last.startswith("TUPLE") else tuples.discard)(index)
        shared += code.name in ("BINGET", "LONG_BINGET", "GET") and index in tuples
        if count > MAX_STEPS or shared > 16 or code.name == "DUP":
            raise pickle.UnpicklingError("it is not the pickle of a data set")
        last = code.name


def _plain(value):
    """Replace the stand-ins for arrays in the values of a dict by the arrays."""
    if isinstance(value, dict):
        return {key: item.value if isinstance(item, _PickledArray) else item for key, item in value.items()}
    return value


class NumpyOnlyUnpickler(pickle.Unpickler):
    """Unpickle plain containers and arrays of numbers; every other name in the pickle is refused."""

    ALLOWED = {
        ("numpy", "ndarray"): _PickledArray,
        ("numpy", "dtype"): _PickledDtype,
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("numpy.core.multiarray", "scalar"): _scalar,
        ("numpy._core.multiarray", "scalar"): _scalar,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how protocol 2 writes a bytes object
    }

    def find_class(self, module, name):
        """Return what `module.name` stands for, or raise UnpicklingError."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays, lists and dicts are read")
        return self.ALLOWED[module, name]
