"""load_image: orientation, transparency, modes, formats, sizes, arrays, damaged files."""

import io
import random
import re
import struct
import warnings

import numpy as np
import pytest
from conftest import encoded, noise, tiny_config
from PIL import Image, ImageDraw

from eanet import images
from eanet.images import load_image
from modeling_eanet import INTERPOLATIONS, UserError

CONFIG = tiny_config()  # 32 by 32


def blocks():
    """Return noise in blocks of 8 by 8, which lossy formats hardly change."""
    return np.repeat(np.repeat(noise(4, 4), 8, 0), 8, 1)


def lossless(fmt):
    """Return the options under which a format changes the pixels least."""
    options = {"WEBP": dict(lossless=True), "JPEG": dict(quality=100, subsampling=0), "AVIF": dict(quality=100)}
    return {**options, "ICO": dict(sizes=[(32, 32)])}.get(fmt, {})


# ------------------------------------------------------------------------------------------------------ orientation


def stored_as(upright, orientation):
    """Return the pixels in a file with that EXIF orientation; in the standard's words, where row 0 and column 0 show."""
    transposed = upright.transpose(1, 0, 2)
    return {
        1: upright,  # row 0 at the top, column 0 on the left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: transposed,  # left, top
        6: transposed[::-1],  # right, top
        7: transposed[::-1, ::-1],  # right, bottom
        8: transposed[:, ::-1],  # left, bottom
    }[orientation]


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(fmt, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored_as(blocks(), orientation)))
    loaded = load_image(encoded(stored, fmt, exif=exif, **lossless(fmt)), CONFIG)
    assert np.abs(loaded.astype(int) - blocks()).max() <= (4 if fmt == "JPEG" else 0)


def test_orientation_is_applied_before_resizing():
    upright = Image.new("RGB", (600, 1200), "black")
    upright.paste("white", (0, 0, 600, 300))  # the top quarter
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif), CONFIG)
    assert loaded[:7].min() > 250 and loaded[9:].max() < 5


def test_pil_image_is_turned_and_not_modified():
    image = Image.fromarray(stored_as(noise(), 6).copy())
    image.getexif()[0x0112] = 6
    before = image.tobytes()
    assert np.array_equal(load_image(image, CONFIG), noise())
    assert image.tobytes() == before and image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06", b"Exif\0\0"]
)
def test_damaged_exif_is_ignored(exif):
    assert np.array_equal(load_image(encoded(noise(), "PNG", exif=exif), CONFIG), noise())


# ----------------------------------------------------------------------------------------------------- transparency


def half_hidden(mode):
    """Return an image of `mode` and save options; its left half is visible, its right half hidden and not white."""
    if mode in ("RGBA", "LA", "PA"):
        alpha = Image.new("L", (32, 32), 0)
        alpha.paste(255, (0, 0, 16, 32))
        image = Image.new("RGB", (32, 32), (30, 30, 30)).convert("RGBA")
        image.putalpha(alpha)
        return image.convert(mode), {}
    if mode in ("palette index", "palette alphas"):
        image = Image.new("P", (32, 32), 1)
        image.putpalette([30, 30, 30, 90, 90, 90])
        image.paste(0, (0, 0, 16, 32))
        return image, dict(transparency=1 if mode == "palette index" else b"\xff\x00")
    shown, hidden = {"RGB": ((30, 30, 30), (90, 90, 90)), "L": (30, 90), "1": (0, 1), "I;16": (30 * 257, 90 * 257)}[mode]
    image = Image.new(mode, (32, 32), hidden)
    image.paste(shown, (0, 0, 16, 32))
    return image, dict(transparency=hidden)


PNG_MODES = ["RGBA", "LA", "palette index", "palette alphas", "RGB", "L", "1", "I;16"]


@pytest.mark.parametrize(("mode", "fmt"), [*((m, "PNG") for m in PNG_MODES), ("palette index", "GIF"), ("PA", None)])
def test_transparent_pixels_become_white(mode, fmt):
    image, options = half_hidden(mode)
    loaded = load_image(encoded(image, fmt, **options) if fmt else image, CONFIG)  # no format holds PA
    assert (loaded[:, :16] == (0 if mode == "1" else 30)).all()
    assert (loaded[:, 16:] == 255).all()


def test_hidden_colours_do_not_bleed_when_resizing():
    image = Image.new("RGBA", (640, 640), (255, 0, 0, 0))
    image.paste((255, 255, 255, 255), (320, 0, 640, 640))
    assert (load_image(encoded(image, "PNG"), CONFIG) == 255).all()


# ------------------------------------------------------------------------------------------------- modes and formats


def palette():
    image = Image.new("P", (32, 32), 3)
    image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 10, 120, 230])
    return image


@pytest.mark.parametrize(("image", "formats", "colour", "tolerance"), [
    (palette(), "PNG GIF BMP", (10, 120, 230), 0),
    (Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG TIFF", (255, 0, 0), 3),
    (Image.new("L", (32, 32), 77), "PNG BMP JPEG", (77, 77, 77), 0),
    (Image.new("1", (32, 32), 1), "PNG TIFF PPM", (255, 255, 255), 0),
    (Image.new("1", (32, 32), 0), "PNG TIFF PPM", (0, 0, 0), 0),
    (Image.new("RGBA", (32, 32), (255, 0, 0, 51)), "PNG", (255, 204, 204), 0),  # blended with white
    (Image.new("RGB", (1, 1), (1, 2, 3)), "PNG", (1, 2, 3), 0),  # enlarged
], ids=["palette", "CMYK", "grey", "white bit", "black bit", "half transparent", "one pixel"])  # fmt: skip
def test_modes_become_rgb(image, formats, colour, tolerance):
    for fmt in formats.split():
        assert np.abs(load_image(encoded(image, fmt), CONFIG).astype(int) - colour).max() <= tolerance, fmt


def deep_values():
    """Return 16-bit values over the full range (32, 32), and their 8-bit equivalents."""
    values = np.linspace(0, 65535, 1024).round().reshape(32, 32)
    return values, np.rint(values / 257).astype(np.uint8)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_to_eight(fmt, mode):
    values, wanted = deep_values()
    image = Image.frombytes(mode, (32, 32), values.astype("<u2" if mode == "I;16" else ">u2").tobytes())
    source = image
    if (fmt, mode) != ("PNG", "I;16B"):  # Pillow cannot write that one
        source = encoded(image, fmt)
        with Image.open(source) as opened:
            assert opened.mode == mode
    assert np.array_equal(load_image(source, CONFIG), np.stack([wanted] * 3, -1))


@pytest.mark.parametrize("bits", [10, 12])
def test_tiff_of_10_or_12_bits_is_scaled_by_its_depth(bits):
    """Scientific cameras store them in 16 bits; scaled as such they would be nearly black."""
    values = np.linspace(0, 2**bits - 1, 1024).round().reshape(32, 32).astype(np.uint16)
    loaded = load_image(encoded(values, "TIFF"), CONFIG)
    np.testing.assert_array_equal(loaded[:, :, 0], np.rint(values * (255 / (2**bits - 1))))


def test_dark_sixteen_bit_image_stays_dark():
    assert load_image(encoded(np.full((32, 32), 200, np.uint16), "PNG"), CONFIG).max() == 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_scaled_by_their_range(mode):
    values, wanted = deep_values()
    cases = [(values, wanted), (wanted, wanted), (values * 32767, wanted)]  # 16, 8 and 31 bits
    if mode == "F":
        cases.append((values / 65535, wanted))  # 0 to 1
    for held, result in cases:
        image = Image.fromarray(held.astype(np.int32 if mode == "I" else np.float32))
        assert image.mode == mode
        loaded = load_image(encoded(image, "TIFF"), CONFIG)
        assert np.abs(loaded.astype(int) - result[:, :, None]).max() <= 1, held.max()


def test_nan_and_infinite_pixels_are_black():
    values = np.full((32, 32), 100, np.float32)
    values[0, 0], values[0, 1] = np.nan, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(Image.fromarray(values), CONFIG)
    assert (loaded[0, :2] == 0).all() and (loaded[1:] == 100).all()


@pytest.mark.parametrize("fmt", "PNG BMP TIFF PPM TGA PCX WEBP JPEG2000 QOI AVIF JPEG ICO".split())
def test_common_formats_are_read(fmt):
    Image.init()
    if fmt not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {fmt}")
    loaded = load_image(encoded(blocks(), fmt, **lossless(fmt)), CONFIG)
    assert loaded.dtype == np.uint8 and loaded.shape == (32, 32, 3)
    assert np.abs(loaded.astype(int) - blocks()).mean() < (12 if fmt in ("JPEG", "AVIF") else 0.01)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_frame_of_an_animation_is_used(fmt):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    file = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **lossless(fmt))
    with Image.open(file) as image:
        assert image.n_frames == 3
    assert (load_image(file, CONFIG) == (255, 0, 0)).all()


# ---------------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(("resize", "size", "colours"), [
    ("squash", (96, 32), "rgb"), ("crop", (96, 32), "ggg"), ("pad", (96, 32), "rgb"),
    ("crop", (33, 96), "rgb"), ("pad", (32, 96), "krk"), ("pad", (32, 32), "rgb"),
])  # fmt: skip
def test_resize_of_the_config_is_used(resize, size, colours):
    """Red, green and blue columns; the model sees the colours at the left, in the middle and at the right."""
    values = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "k": (0, 0, 0)}
    array = np.zeros((size[1], size[0], 3), np.uint8)
    for third, columns in zip("rgb", np.array_split(np.arange(size[0]), 3), strict=True):
        array[:, columns] = values[third]
    if resize == "pad" and size == (32, 96):
        array[:] = values["r"]
    for source in (array, Image.fromarray(array)):
        image = load_image(source, tiny_config(resize=resize, interpolation="nearest"))
        assert [tuple(image[16, column]) for column in (2, 16, 29)] == [values[c] for c in colours]
    if resize == "pad" and size == (96, 32):
        assert not image[:10].any() and not image[-10:].any() and image[11:21].any(axis=-1).all()


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_wide_image_is_squashed_not_cropped(fmt):
    image = Image.new("L", (20000, 3))
    image.paste(255, (10000, 0, 20000, 3))
    loaded = load_image(encoded(image, fmt), CONFIG)
    assert loaded.shape == (32, 32, 3)
    assert loaded[:, :15].max() < 5 and loaded[:, 17:].min() > 250


def photograph(width, height):
    """Return a random scene with large smooth areas and edges."""
    image = Image.new("RGB", (width, height), (90, 140, 200))
    draw = ImageDraw.Draw(image)
    rng = random.Random(0)
    for _ in range(60):
        x, y, r = rng.randrange(width), rng.randrange(height), rng.randrange(20, 300)
        draw.ellipse((x - r, y - r, x + r, y + r), tuple(rng.randrange(256) for _ in range(3)))
    return image


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(1600, 1200), (1000, 1030), (300, 310)])
def test_large_jpeg_is_the_same_from_every_source(interpolation, size, tmp_path):
    config, path = tiny_config(interpolation=interpolation), tmp_path / "a.jpg"
    photograph(*size).save(path, quality=95)
    expected = np.asarray(Image.open(path).resize((32, 32), Image.Resampling[interpolation.upper()]))
    opened, loaded = Image.open(path), Image.open(path)
    loaded.load()
    with path.open("rb") as file:
        for source in (path, str(path), file, io.BytesIO(path.read_bytes()), opened, opened, loaded):
            np.testing.assert_array_equal(load_image(source, config), expected, err_msg=repr(source))
    assert opened.size == size


def test_size_and_interpolation_of_the_config_are_used():
    image = Image.fromarray(noise(40, 56))
    seen = set()
    for interpolation in INTERPOLATIONS:
        config = tiny_config(interpolation=interpolation, image_size=16)
        wanted = np.asarray(image.resize((16, 16), Image.Resampling[interpolation.upper()]))
        for source in (encoded(image, "PNG"), image, np.asarray(image)):
            assert np.array_equal(load_image(source, config), wanted), (interpolation, type(source))
        seen.add(wanted.tobytes())
    assert len(seen) == len(INTERPOLATIONS)


# ------------------------------------------------------------------------------------------------ arrays, bad sources


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_float_arrays_are_rounded_and_clipped(dtype):
    x = np.full((32, 32, 3), 7.0)
    x[0, 0], x[0, 1], x[0, 2], x[0, 3], x[0, 4] = 254.9, -3, 300, np.nan, np.inf
    assert load_image(x.astype(dtype), CONFIG)[0, :6, 0].tolist() == [255, 0, 255, 0, 255, 7]


def test_integer_and_greyscale_arrays_are_taken():
    assert np.array_equal(load_image(noise().astype(np.int64), CONFIG), noise())
    assert np.array_equal(load_image(noise()[:, :, 0], CONFIG)[:, :, 2], noise()[:, :, 0])
    assert np.array_equal(load_image(noise().astype(np.uint16) * 257, CONFIG), noise())


@pytest.mark.parametrize("top", [1, 0.5])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_float_array_of_0_to_1_is_refused(dtype, top):
    """It would become a black image."""
    with pytest.raises(
        UserError, match=f"^{np.dtype(dtype)} array with values from .* to {top}: the scale is 0-255; multiply by 255"
    ):
        load_image((top * noise() / noise().max()).astype(dtype), CONFIG)


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ((noise() / 127.5 - 1).astype(np.float32), "undo the normalisation"),
        ((noise() - 128.0) / 60, "undo the normalisation"),
        (noise().astype(np.int32) * 257, "scale it down, or give uint16"),
        (noise().astype(np.float32) * 16, "scale it down, or give uint16"),
        ((noise() > 128).astype(np.int64), "multiply by 255"),
    ],
    ids=["-1 to 1", "standardised", "16 bits", "12 bits", "0 or 1"],
)
def test_array_on_another_scale_is_refused(values, hint):
    with pytest.raises(UserError, match=hint):
        load_image(values, CONFIG)


def test_masks_of_booleans_are_black_and_white():
    mask = noise()[:, :, 0] > 128
    assert set(np.unique(load_image(mask, CONFIG))) == {0, 255}


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_deep_pixels_are_the_same_in_a_file_an_image_and_an_array(bits, tmp_path):
    values = (noise()[:, :, 0].astype(np.float32) / 255 * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    expected = load_image(tmp_path / "deep.tiff", CONFIG)
    assert abs(int(expected.max()) - 255) <= 1
    with Image.open(tmp_path / "deep.tiff") as image:
        for source in (image, image.copy(), values):
            np.testing.assert_array_equal(load_image(source, CONFIG), expected)


def test_black_float_array_is_taken():
    assert load_image(np.zeros((32, 32, 3)), CONFIG).max() == 0


@pytest.mark.parametrize("array", [np.full((4, 4), "a"), np.zeros((4, 4), complex), np.full((4, 4), None)], ids=str)
def test_array_without_numbers_is_refused(array):
    with pytest.raises(UserError, match=f"^array of {array.dtype}: must be numbers"):
        load_image(array, CONFIG)


@pytest.mark.parametrize("shape", [(), (32,), (32, 32, 1), (32, 32, 4), (2, 32, 32, 3), (0, 32, 3), (32, 0)])
def test_array_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(UserError, match=re.escape(f"shape {shape}")):
        load_image(np.zeros(shape), CONFIG)


@pytest.mark.parametrize("source", [5, None, [[1, 2], [3, 4]], b"bytes"])
def test_wrong_type_is_refused(source):
    with pytest.raises(UserError, match=f"^{type(source).__name__}: must be a path"):
        load_image(source, CONFIG)


def test_image_without_pixels_is_refused():
    with pytest.raises(UserError, match="^image of 0 by 5 pixels"):
        load_image(Image.new("RGB", (0, 5)), CONFIG)


def damaged_files(count):
    """Yield (format, bytes) of image files with random bytes changed and ends cut off."""
    rng, image = random.Random(3), Image.fromarray(noise(48, 40))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9003] = 6, "maker", "2020"
    Image.init()
    for fmt in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "ICO", "PPM", "TGA", "SPIDER"):
        if fmt not in Image.SAVE:
            continue
        source = image.convert("F") if fmt == "SPIDER" else image
        options = dict(exif=exif) if fmt in ("PNG", "JPEG", "TIFF", "WEBP") else {}
        intact = encoded(source, fmt, **options).getvalue()
        for _ in range(count):
            data = bytearray(intact)
            for _ in range(rng.choice((1, 4, 12))):
                data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
            yield fmt, bytes(data[: rng.choice((len(data), rng.randrange(len(data))))])


@pytest.mark.parametrize("opened", [False, True], ids=["file", "PIL image"])
def test_damaged_file_raises_os_error_or_user_error(opened):
    """Whatever Pillow raises: SyntaxError, struct.error, RuntimeError ... One line, and no warnings."""
    failed = 0
    for fmt, data in damaged_files(25):
        source = io.BytesIO(data)
        if opened:
            try:
                with warnings.catch_warnings(action="ignore"):
                    source = Image.open(source)
            except Exception:  # the caller's own call of Pillow
                continue
        with warnings.catch_warnings(action="error"):
            try:
                load_image(source, CONFIG)
            except (OSError, UserError) as error:
                failed += 1
                assert str(error) and "\n" not in str(error), fmt
    assert failed > (40 if opened else 100)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_libtiff_prints_nothing(capfd):
    content = bytearray(encoded(noise(64, 64), "TIFF", compression="tiff_lzw").read())
    content[8:200] = bytes(192)
    with pytest.raises(UserError, match="damaged image"):
        load_image(io.BytesIO(content), tiny_config())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["path", "file"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text", "unknown image format"),
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (HEIC, "pip install pillow-heif"),
    ],
)
def test_file_that_is_no_image_gets_a_reason(content, reason, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "register_heif", lambda: False)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        load_image(tmp_path / "a.jpg" if kind == "path" else io.BytesIO(content), CONFIG)


def test_heic_is_read(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    monkeypatch.setattr(Image, "OPEN", {name: opener for name, opener in Image.OPEN.items() if name != "HEIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 40, 40))).save(tmp_path / "a.heic")
    for source in (tmp_path / "a.heic", io.BytesIO((tmp_path / "a.heic").read_bytes())):
        assert np.abs(load_image(source, CONFIG).astype(int) - (200, 40, 40)).max() < 6


@pytest.mark.parametrize("error", [SyntaxError("broken PNG file"), struct.error("unpack"), KeyError(3)])
def test_odd_pillow_exceptions_are_wrapped(error, monkeypatch):
    image = Image.open(encoded(noise(), "PNG"))

    def load():
        raise error

    monkeypatch.setattr(image, "load", load)
    with pytest.raises(UserError, match="damaged image"):
        load_image(image, CONFIG)
