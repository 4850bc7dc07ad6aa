"""What an image may cost: memory, time, and nothing that waits or starts a program."""

import io
import os
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import encoded, noise, png_header, tiny_config
from PIL import Image

from eanet import image_limits, images
from eanet.images import load_image
from modeling_eanet import UserError

CONFIG = tiny_config()  # 32 by 32


def header(fmt, width, height, **options):
    """Return an image file that claims to be this large, and costs nothing to make."""
    if fmt == "PNG":
        return io.BytesIO(png_header(width, height))
    small = encoded(noise(32, 32), fmt, **options).getvalue()
    if fmt == "JPEG":
        at = re.search(rb"\xff[\xc0\xc2]\x00\x11\x08", small).end()
        return io.BytesIO(small[:at] + struct.pack(">HH", height, width) + small[at + 4 :])
    assert fmt == "QOI"
    return io.BytesIO(small[:4] + struct.pack(">II", width, height) + small[12:])


@pytest.mark.parametrize(
    ("fmt", "megapixels", "options"),
    [("PNG", 121, {}), ("JPEG", 121, {}), ("JPEG", 60, {"progressive": True, "subsampling": 0}), ("QOI", 3, {})],
    ids=str,
)
def test_image_that_costs_too_much_is_refused_by_its_header(fmt, megapixels, options, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    side = int((megapixels * 1e6) ** 0.5)
    with pytest.raises(UserError, match=f"^too large: {side:,} by {side:,} pixels; at most about .*{fmt} RGB") as error:
        load_image(header(fmt, side, side, **options), CONFIG)
    assert "\n" not in str(error.value)


def parts(kind):
    """Return an image file with thousands of parts that hold nothing."""
    files = {fmt: encoded(noise(8, 8), fmt).getvalue() for fmt in ("JPEG", "PNG", "GIF")}
    jpeg, png, gif = files.values()
    palette = 13 + 3 * (2 << (gif[10] & 7))
    return {
        "comments.jpg": jpeg[:2] + b"\xff\xfe\0\2" * 300_000 + jpeg[2:],
        "fill.jpg": jpeg[:2] + b"\xff" * 300_000 + jpeg[2:],
        "junk.jpg": jpeg[:20] + bytes(300_000) + jpeg[20:],
        "exif.jpg": jpeg[:2] + (b"\xff\xe1\0\x10Exif\0\0" + bytes(8)) * 2000 + jpeg[2:],
        "chunks.png": png[:33] + (struct.pack(">I", 0) + b"abCd" + bytes(4)) * 300_000 + png[33:],
        "comments.gif": gif[:palette] + b"!\xfe\1a\0" * 200_000 + gif[palette:],
        "comment.ppm": b"P6\n#" + b"a" * 300_000 + b"\n8 8\n255\n" + bytes(192),
        "comment.gif": gif[:palette] + b"!\xfe" + b"\1a" * 300_000 + b"\0" + gif[palette:],
    }[kind]


@pytest.mark.parametrize(
    "kind",
    ["comments.jpg", "fill.jpg", "junk.jpg", "exif.jpg", "chunks.png", "comments.gif", "comment.gif", "comment.ppm"],
)
def test_image_with_very_many_parts_is_refused_before_it_is_opened(kind, monkeypatch):
    monkeypatch.setattr("PIL.Image.open", lambda *args: pytest.fail("opened"))
    with pytest.raises(UserError, match="^too large: too many parts of metadata$"):
        load_image(io.BytesIO(parts(kind)), CONFIG)


def test_image_with_many_parts_is_read():
    jpeg, gif = (encoded(noise(8, 8), fmt).getvalue() for fmt in ("JPEG", "GIF"))
    segment = b"\xff\xe1\xff\xff" + b"http://ns.adobe.com/xmp/extension/\0".ljust(65533, b"\xff")
    at = 13 + 3 * (2 << (gif[10] & 7))
    blocks = b"!\xff\x0bXMP DataXMP" + (b"\xff" + b"," * 255) * 300 + b"\0"
    jpeg, gif = jpeg[:2] + b"\xff" * 9 + segment * 150 + jpeg[2:], gif[:at] + blocks + gif[at:]
    for content in (jpeg, gif, b"P6 # a\n400 400 255\n" + b"# " * 240_000, b"P4\n8 8\n" + bytes(8)):
        assert load_image(io.BytesIO(content), CONFIG).shape == (32, 32, 3)


def test_each_scan_of_a_jpeg_counts():
    content = encoded(Image.new("RGB", (800, 800)), "JPEG", progressive=True).getvalue()
    last, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    usual = image_limits.image_cost(Image.open(io.BytesIO(content))).work
    assert usual == 2.5 * 800 * 800
    many = Image.open(io.BytesIO(content[:end] + content[last:end] * 5000 + content[end:]))
    assert image_limits.image_cost(many).work > 200 * 800 * 800 and many.fp.tell() > 0
    with pytest.raises(UserError, match="too large: 800 by 800 pixels"):
        load_image(many, CONFIG)
    thumbnail = b"\xff\xe1" + (60_002).to_bytes(2, "big") + b"\xff\xda" * 30_000
    with_others = Image.open(io.BytesIO(content[:2] + thumbnail + content[2:] + b"\xff\xda\0\2" * 100_000))
    assert image_limits.image_cost(with_others).work == usual
    segments = content[:last] + b"\xff\xfe\0\2" * image_limits.MAX_PARTS + content[last:]
    assert image_limits.image_cost(Image.open(io.BytesIO(segments))).work > 1000 * usual


@pytest.mark.parametrize(
    ("mode", "bytes_per_pixel"), [("L", 1), ("1", 2), ("I;16", 3), ("RGB", 4), ("P", 5), ("F", 5), ("RGBA", 8), ("CMYK", 8)]
)
def test_memory_is_that_of_the_image_and_its_conversion(mode, bytes_per_pixel):
    image = Image.fromarray(noise(64, 64)[..., 0].astype(np.uint16)) if mode == "I;16" else Image.new(mode, (64, 64))
    assert image.mode == mode and image_limits.image_cost(image).memory == bytes_per_pixel * 64 * 64


def test_tiff_is_as_large_as_its_tiles_and_its_turned_copy():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = (Image.open(encoded(noise(64, 64), "TIFF", exif=e)) for e in (Image.Exif(), exif))
    assert image_limits.image_cost(turned).memory == 2 * image_limits.image_cost(plain).memory
    tiled = Image.open(encoded(noise(64, 64), "TIFF", compression="tiff_lzw"))
    tiled.tag_v2[322], tiled.tag_v2[323] = 2**15, 2**15
    with pytest.raises(UserError, match="^too large: 64 by 64 pixels"):
        load_image(tiled, CONFIG)


def test_icon_that_hides_a_large_image_is_refused():
    icon = bytearray(encoded(noise(32, 32), "ICO", sizes=[(32, 32)]).getvalue())
    inner = encoded(Image.new("RGB", (2000, 2000)), "PNG").getvalue()
    icon[14:18] = struct.pack("<I", len(inner))
    with pytest.raises(UserError, match="an icon of 2,000 by 2,000 pixels"):
        load_image(io.BytesIO(bytes(icon[:22]) + inner), CONFIG)


def test_postscript_starts_no_program():
    post = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n"
    with pytest.raises(UserError, match="^unknown image format$"):
        load_image(io.BytesIO(post), CONFIG)


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "I;16", "F", "1"])
def test_image_is_the_same_when_converted_in_bands(mode, monkeypatch):
    values = noise(70, 50)
    if mode in ("I;16", "F"):
        image = Image.fromarray((values[..., 0] * 16.0).astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        image = Image.fromarray(np.dstack([values, values[..., 0]])).convert(mode)
    at_once = load_image(image, CONFIG)
    monkeypatch.setattr(images, "_BAND_PIXELS", 300)
    assert np.array_equal(load_image(image, CONFIG), at_once)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_image_is_turned_after_resizing(orientation, monkeypatch):
    image = Image.fromarray(noise(96, 64))
    image.getexif()[0x0112] = orientation
    upright = load_image(image, CONFIG).astype(int)
    monkeypatch.setattr(images, "_LARGE", 100)
    assert np.abs(load_image(image, CONFIG) - upright).max() <= 2


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(images, "_LARGE", 100)
    inside, most, lock = 0, 0, threading.Lock()

    def load(self):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.01)
        with lock:
            inside -= 1

    monkeypatch.setattr(Image.Image, "load", load)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load_image, [Image.fromarray(noise()) for _ in range(8)], [CONFIG] * 8))
    assert most == 1


# ------------------------------------------------------------------------------------------------ regular files only


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a pipe"])
def test_what_is_not_a_regular_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    with pytest.raises(UserError, match="^not a regular file"):
        load_image(path, CONFIG)


def test_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**30)
    with pytest.raises(UserError, match="^too large: a file of"):
        load_image(tmp_path / "a.png", CONFIG)
