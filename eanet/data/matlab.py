"""Read the arrays of numbers and the lists of names in a MATLAB file, as in CIFAR's MATLAB version.

Only what those files have: version 5, compressed or not, matrices of numbers and cells of text, one level deep. Every size
is checked against the bytes that are there, so that a forged file costs no more than a real one.
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

from __future__ import annotations

import math
import zlib

import numpy as np

from eanet.data.files import MAX_TEXT_BYTES

MIN_EXPANDED, MAX_EXPANSION = 2**24, 50  # bytes that any file may expand to, and times its size: images hardly compress
MATRIX, COMPRESSED = 14, 15
CELL, CHAR = 1, 4
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def load_matlab(content: bytes, names) -> dict:
    """Return some variables of a MATLAB file.

    Args:
        content: the file.
        names: of the variables; others are left out.

    Returns:
        Name to an array of numbers (in MATLAB's shape), or to a list of texts for a cell array.

    Raises:
        ValueError: it is damaged, or not of this kind.
    """
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise ValueError("it is not of version 5")
    order = "<" if content[126:128] == b"IM" else ">"
    found: dict = {}
    left = max(MIN_EXPANDED, min(MAX_TEXT_BYTES, MAX_EXPANSION * len(content)))
    for kind, data in _elements(memoryview(content)[128:], order):
        if kind == COMPRESSED:
            inflate = zlib.decompressobj()
            expanded = memoryview(inflate.decompress(data, left))
            if not inflate.eof:
                raise ValueError(f"it is cut short, or expands to more than {MAX_EXPANSION} times its size")
            left -= len(expanded)
            kind, data = next(_elements(expanded, order), (0, expanded))
        if kind == MATRIX:
            name, value = _matrix(data, order, names)
            if name in names:
                found[name] = value
    return found


def _elements(data: memoryview, order: str):
    """Yield the type and the bytes of each element."""
    while len(data) >= 8:
        kind, size = (int(value) for value in np.frombuffer(data[:8], f"{order}u4"))
        start = 8
        if kind >> 16:  # up to four bytes in the tag itself
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        if start + size > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + size]
        padded = size if kind == COMPRESSED else -(-size // 8) * 8 if start == 8 else 4
        data = data[start + padded :]


def _matrix(data: memoryview, order: str, names=None) -> tuple[str, object]:
    """Return the name and the value of a matrix; without `names`, that of a cell, which can hold only text."""
    parts = _elements(data, order)
    flags, shape, name = (next(parts, (0, memoryview(b"")))[1] for _ in range(3))
    if len(flags) != 8:
        raise ValueError("a matrix in it is damaged")
    kind, title = int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF, bytes(name).decode("latin-1")
    if names is not None and title not in names:
        return title, None
    if kind == CELL and names is not None:
        return title, [_matrix(part, order)[1] for _, part in parts]
    stored, values = next(parts, (0, memoryview(b"")))
    if kind == CHAR and stored in _TEXT:
        encoding = _TEXT[stored] + ("" if stored in (1, 2, 16) else "-le" if order == "<" else "-be")
        return title, bytes(values).decode(encoding)
    if kind in _CLASSES and stored in _STORED and names is not None:
        size = tuple(int(side) for side in np.frombuffer(shape, f"{order}i4"))
        array = np.frombuffer(values, order + _STORED[stored])
        if math.prod(size) != array.size or min(size, default=0) < 0:
            raise ValueError("a matrix in it is cut short")
        return title, array.astype(_CLASSES[kind], copy=False).reshape(size, order="F")
    raise ValueError(f"it has a matrix of another kind ({kind})")
