"""What an image costs to decode, judged by its header, and the limits: no image takes gigabytes or minutes.

Peak memory and speed were measured for the formats of Pillow 13 on images of noise, the slowest there are.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from modeling_eanet import UserError

MAX_FILE_BYTES = 2**29
MAX_MEMORY = 560_000_000  # bytes: 70 megapixels with transparency
MAX_WORK = 120_000_000  # pixels of a JPEG or PNG of 8 bits, which a core decodes in 3 s at most
MAX_ICON_PIXELS = 2**20
MAX_PARTS, MAX_EXIF = 200_000, 100  # of a file; a PNG of 120 megapixels has 50,000 at most
NOT_REGULAR = "not a regular file; give - for an image on standard input"
# Formats that Pillow leaves to other programs, such as EPS to Ghostscript: a file must start none. ICNS hides its size.
NOT_READ = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "ICNS", "MPEG", "WMF"))
_BYTES = {"1": 1, "L": 1, "P": 1}  # per pixel in Pillow's memory; 2 for "I;16", 4 for all other modes
_DECODER_BYTES = {"WEBP": 16, "AVIF": 8, "HEIF": 7, "JPEG2000": 16}  # per pixel, while the decoder has its own copies
# Work per pixel (1 for other formats), and per byte of the file: these are slow on noise.
_PIXEL_WORK = {"WEBP": 3.0, "AVIF": 1.5, "HEIF": 1.5, "JPEG2000": 2.0}
_BYTE_WORK = {"AVIF": 3.0, "HEIF": 3.0, "JPEG2000": 5.0}
_SCAN_WORK = 0.05  # each further scan of a JPEG, even if it holds nothing
_PYTHON_WORK = 50.0  # decoders written in Python: QOI, plain PPM
# Of JPEG: the end of the image, the start of a scan, and what may begin a segment (not restarts, nor 0xFF in the pixels).
_JPEG_END, _JPEG_SCAN, _JPEG_MARKER = 0xD9, 0xDA, re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_HOLD_THE_FILE = ("WEBP", "AVIF", "HEIF", "JPEG2000")


class Cost(NamedTuple):
    """What it takes to decode an image.

    Attributes:
        memory: bytes at the peak.
        work: the number of pixels of a JPEG that take as long.
    """

    memory: int
    work: int


def check_regular(path) -> None:
    """Raise UserError if a path is a pipe, a socket or a device, which could wait for ever, or a file that is too large."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # opening a folder gives the reason
        raise UserError(NOT_REGULAR)
    if status.st_size > MAX_FILE_BYTES:
        raise UserError(f"too large: a file of {status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read")


def image_cost(image) -> Cost:
    """Return the cost of decoding an opened PIL image to RGB. Nothing is decoded."""
    name, pixels, size = image.format or "", image.width * image.height, _file_size(image)
    core = 2 if image.mode.startswith("I;16") else _BYTES.get(image.mode, 4)
    as_it_is = image.mode in ("L", "RGB") and not image.has_transparency_data
    converted = 0 if as_it_is else 1 if image.mode in ("1", "I", "F") or core == 2 else 4
    plain = 2.5 if core == 2 else 4.0 if image.mode in ("I", "F") else 1.5 if converted == 4 else 1.0
    decoder, work = _DECODER_BYTES.get(name, 0), _PIXEL_WORK.get(name, plain)
    memory, read = size * (name in _HOLD_THE_FILE), pixels
    if name in ("JPEG", "MPO") and image.info.get("progressive"):  # all coefficients are held until the end
        decoder, work = 2 * len(image.getbands()), 2.5
    if name in ("JPEG", "MPO"):
        work += _SCAN_WORK * max(0, _count_scans(image) - 10)
    elif name == "TIFF":
        if any(tile[0] == "libtiff" for tile in image.tile):
            read, bits = _tiff_block(image)
            memory += read * len(image.getbands()) * bits // 8 + size
        decoder = core if image.tag_v2.get(274, 1) != 1 else 0  # Pillow turns it upright itself, at full size
    if any(tile[0] in _python_decoders() for tile in getattr(image, "tile", ())):
        work = _PYTHON_WORK
    memory += pixels * (core + max(converted, decoder))
    return Cost(int(memory), int(max(pixels, read) * work + size * _BYTE_WORK.get(name, 0.0)))


def _tiff_block(image) -> tuple[int, int]:
    """Return the pixels of a tile or strip, which is decompressed as one, and the bits of a value."""

    def tag(number, default):
        value = image.tag_v2.get(number, default)
        return value if isinstance(value, int) and value > 0 else default

    bits = image.tag_v2.get(258, (8,))
    bits = max(bits) if isinstance(bits, tuple) and bits else 8
    if 322 in image.tag_v2:
        return tag(322, 1) * tag(323, 1), bits
    return image.width * min(tag(278, image.height), image.height), bits


def check_cost(image) -> Cost:
    """Return the cost of an opened PIL image. Raises UserError if it is over the limits, or of a format that is not read."""
    if image.format in NOT_READ:
        raise UserError("unknown image format")
    cost = image_cost(image)
    times = max(cost.memory / MAX_MEMORY, cost.work / MAX_WORK)
    if times > 1:
        pixels = image.width * image.height
        kind = " ".join(filter(None, (image.format, image.mode)))
        most = f"about {pixels / times / 1e6:.3g} megapixels of this kind ({kind}) are decoded"
        raise UserError(f"too large: {image.width:,} by {image.height:,} pixels; at most {most}")
    return cost


def check_head(file) -> None:
    """Refuse an image file that is expensive to open.

    Pillow decodes a PNG in an ICO when it opens the file, and reads a JPEG, PNG or GIF part by part, the header of a PPM
    byte by byte.

    Args:
        file: binary, at its start.

    Raises:
        UserError: an icon is too large, or there are too many parts.
    """
    head = file.read(4)
    if head == b"\0\0\1\0":
        _check_icon(file)
    elif count := next((count for start, count in _COUNTS.items() if head.startswith(start)), None):
        if not count(file):
            raise UserError("too large: too many parts of metadata")


def _check_icon(file) -> None:
    entries = file.read(16 * int.from_bytes(file.read(2), "little"))
    for at in range(12, len(entries), 16):
        file.seek(int.from_bytes(entries[at : at + 4], "little"))
        head = file.read(24)
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        if head.startswith(b"\x89PNG") and width * height > MAX_ICON_PIXELS:
            raise UserError(f"too large: an icon of {width:,} by {height:,} pixels")


def _few_in_jpeg(file) -> bool:
    """Return whether there are few parts before the image data: segments, and bytes between them, which Pillow skips."""
    exif = 0
    file.seek(2)
    for _ in range(MAX_PARTS):
        if file.read(1) != b"\xff":
            continue
        marker = file.read(1)
        if marker in (b"", b"\xd9", b"\xda"):
            return True
        if marker == b"\xff":
            file.seek(-1, os.SEEK_CUR)
        elif marker not in _WITHOUT_LENGTH:
            size, start = int.from_bytes(file.read(2), "big"), file.read(4)
            exif += start == b"Exif"  # whose content Pillow puts together piece by piece
            if exif > MAX_EXIF:
                return False
            file.seek(max(0, size - 2) - len(start), os.SEEK_CUR)
    return not file.read(1)


def _few_in_png(file) -> bool:
    file.seek(8)
    for _ in range(MAX_PARTS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _few_in_gif(file) -> bool:
    file.seek(10)
    flags = file.read(3)[:1]
    file.seek(3 * (2 << (flags[0] & 7)) if flags and flags[0] & 128 else 0, os.SEEK_CUR)
    inside = False  # an extension
    for _ in range(MAX_PARTS):
        byte = file.read(1)
        if byte in (b"", b";", b",") and (not inside or not byte):
            return True
        if inside:
            file.seek(byte[0], os.SEEK_CUR)
            inside = byte != b"\0"
        elif byte == b"!":
            file.read(1)
            inside = True
    return False


def _few_in_ppm(file) -> bool:
    """Return whether the header is short; Pillow reads it byte by byte."""
    file.seek(2)
    head = file.read(MAX_PARTS)
    return len(head) < MAX_PARTS or len(re.sub(rb"#[^\r\n]*", b" ", head).split()) > 2


_PPM = dict.fromkeys((b"P%c" % letter for letter in b"123456FfyY"), _few_in_ppm)
_COUNTS = {**_PPM, b"\xff\xd8": _few_in_jpeg, b"\x89PNG": _few_in_png, b"GIF8": _few_in_gif}
_WITHOUT_LENGTH = {bytes([code]) for code in (0, 1, *range(0xD0, 0xD9))}


def _file_size(image) -> int:
    with _kept_place(image) as file:
        return file.seek(0, os.SEEK_END) if file else 0


def _count_scans(image) -> int:
    """Return the number of scans of a JPEG; a progressive one usually has 10. Thumbnails do not count."""
    scans = 0
    with _kept_place(image) as file:
        if file:
            file.seek(2)
            for _ in range(MAX_PARTS):
                if (marker := _next_marker(file)) in (None, _JPEG_END):
                    return scans
                scans += marker == _JPEG_SCAN
                file.seek(max(0, int.from_bytes(file.read(2), "big") - 2), os.SEEK_CUR)
            return MAX_PARTS
    return scans


def _next_marker(file) -> int | None:
    """Return the next marker of a JPEG with a segment of its own, and place the file behind it; None at the end."""
    data, size = b"", 64
    while block := file.read(size):
        data, size = data[-1:] + block, min(4 * size, 2**20)
        if found := _JPEG_MARKER.search(data):
            file.seek(found.end() - len(data), os.SEEK_CUR)
            return data[found.end() - 1]
    return None


@contextlib.contextmanager
def _kept_place(image) -> Iterator[Any]:
    """Yield the file of an image, which is then as it was; None where it has none, or cannot be read."""
    opened, file, here = None, getattr(image, "fp", None), 0
    try:
        if file is None:
            file = opened = open(image.filename, "rb")
        here = file.tell()
    except (AttributeError, OSError, ValueError, TypeError):
        file = None
    try:
        yield file
    finally:
        if opened:
            opened.close()
        elif file:
            file.seek(here)


def _python_decoders() -> dict:
    from PIL import Image

    return Image.DECODERS
