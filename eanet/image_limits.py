"""What an image costs to decode, judged by its header, and the limits: no image takes gigabytes or minutes.

Peak memory and speed were measured for the formats of Pillow 13 on images of noise, the slowest there are.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from modeling_eanet import UserError

MAX_FILE_BYTES = 2**29
MAX_MEMORY = 560_000_000  # bytes: 70 megapixels with transparency
MAX_WORK = 120_000_000  # pixels of a JPEG or PNG of 8 bits, which a core decodes in 3 s at most
MAX_ICON_PIXELS = 2**20
NOT_REGULAR = "not a regular file; give - for an image on standard input"
# Formats that Pillow leaves to other programs, such as EPS to Ghostscript: a file must start none. ICNS hides its size.
NOT_READ = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "ICNS", "MPEG", "WMF"))
_BYTES = {"1": 1, "L": 1, "P": 1}  # per pixel in Pillow's memory; 2 for "I;16", 4 for all other modes
_DECODER_BYTES = {"WEBP": 16, "AVIF": 8, "HEIF": 7, "JPEG2000": 16}  # per pixel, while the decoder has its own copies
# Work per pixel (1 for other formats), and per byte of the file: these are slow on noise.
_PIXEL_WORK = {"WEBP": 3.0, "AVIF": 1.5, "HEIF": 1.5, "JPEG2000": 2.0}
_BYTE_WORK = {"AVIF": 3.0, "HEIF": 3.0, "JPEG2000": 5.0}
_PYTHON_WORK = 50.0  # decoders written in Python: QOI, plain PPM
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


def check_icon(file) -> None:
    """Raise UserError for an ICO that hides a large PNG: Pillow decodes it when it opens the file."""
    if file.read(4) == b"\0\0\1\0":
        entries = file.read(16 * int.from_bytes(file.read(2), "little"))
        for at in range(12, len(entries), 16):
            file.seek(int.from_bytes(entries[at : at + 4], "little"))
            head = file.read(24)
            width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
            if head.startswith(b"\x89PNG") and width * height > MAX_ICON_PIXELS:
                raise UserError(f"too large: an icon of {width:,} by {height:,} pixels")


def _file_size(image) -> int:
    file = getattr(image, "fp", None)
    try:
        if file is None:
            return os.path.getsize(image.filename)
        here = file.tell()
        size = file.seek(0, os.SEEK_END)
        file.seek(here)
        return size
    except (AttributeError, OSError, ValueError, TypeError):
        return 0


def _python_decoders() -> dict:
    from PIL import Image

    return Image.DECODERS
