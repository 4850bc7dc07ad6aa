"""From pictures to predictions: `load_image`, `predict_probabilities`, `classify` and the program `inference.py`."""

import csv
import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import warnings
import weakref
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, colour_pictures, tiny_config
from PIL import Image, ImageDraw, UnidentifiedImageError

import inference
import modeling_eanet
from modeling_eanet import INTERPOLATIONS, classify, load_image, predict_probabilities

CONFIG = tiny_config()  # 32 by 32
COLOURS = {"red": (200, 50, 50), "green": (50, 200, 50), "blue": (50, 50, 200)}


class MeanColour:
    """In a model's place where the model does not matter: red, green or blue, by the mean colour. Needs no Keras."""

    config = CONFIG

    def predict_on_batch(self, batch):
        score = np.exp((batch.mean((1, 2)) - 128) / 20)
        return (score / score.sum(-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def mean_colour(monkeypatch):
    """`inference.py` predicts with MeanColour, whatever `--model` says."""
    monkeypatch.setattr(modeling_eanet, "from_pretrained_keras", lambda _: MeanColour())


@pytest.fixture(scope="module")
def colour_folder(tiny_folder, tmp_path_factory):
    """The tiny model with a classifier that knows red, green and blue, so that a wrong answer shows."""
    import keras

    model = modeling_eanet.from_pretrained_keras(tiny_folder)
    x, y = colour_pictures(64)
    features = keras.Model(model.input, model.get_layer("pool").output).predict_on_batch(x)
    features = np.c_[np.asarray(features), np.ones(len(x))]
    wanted = 10 * np.eye(3)[y] - 5
    kernel = np.linalg.solve(features.T @ features + 1e-3 * np.eye(features.shape[1]), features.T @ wanted)
    model.get_layer("classifier").set_weights([kernel[:-1], kernel[-1]])
    folder = tmp_path_factory.mktemp("colours") / "model"
    modeling_eanet.save_pretrained_keras(model, folder, saved_model=False)
    return folder


@pytest.fixture(scope="module")
def colour_model(colour_folder):
    return modeling_eanet.from_pretrained_keras(colour_folder)


def paint(path, colour="red", size=(32, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return str(path)


def noise(height=32, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, fmt, **options):
    """`image` as an open file of format `fmt`."""
    file = io.BytesIO()
    image.save(file, fmt, **options)
    file.seek(0)
    return file


def run(*args):
    """The exit status of `inference.py ARGS`, in this process."""
    try:
        return inference.main([str(arg) for arg in args])
    except SystemExit as stop:  # argparse's way
        return stop.code


def stub_process(*args, **options):
    """`inference.py ARGS` with MeanColour in a process of its own, as a Popen."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; import inference, test_inference as t; "
        "t.modeling_eanet.from_pretrained_keras = lambda _: t.MeanColour(); sys.exit(inference.main())"
    )
    command = [sys.executable, "-c", code, *map(str, args)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, **options)


def only_line(text):
    """`text`, which must be one line."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text[:-1]


# ------------------------------------------------------------------------------------------------ load_image: turning


def stored_as(upright, orientation):
    """The pixels that a file of that EXIF orientation holds. By the standard: where its first row and column show."""
    transposed = upright.transpose(1, 0, 2)
    return {
        1: upright,  # first row at the top, first column on the left
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
def test_every_exif_orientation_is_applied_once(fmt, orientation):
    upright = np.repeat(np.repeat(noise(4, 4), 8, 0), 8, 1)  # blocks, which JPEG leaves nearly alone
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation)))
    options = {"WEBP": dict(lossless=True), "JPEG": dict(quality=100, subsampling=0)}.get(fmt, {})
    loaded = load_image(encoded(stored, fmt, exif=exif, **options), CONFIG)
    assert np.abs(loaded.astype(int) - upright).max() <= (4 if fmt == "JPEG" else 0)


def test_a_large_photograph_lying_on_its_side_is_turned_before_it_is_squeezed():
    upright = Image.new("RGB", (600, 1200), "black")
    upright.paste("white", (0, 0, 600, 300))  # the top quarter
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif), CONFIG)
    assert loaded[:7].min() > 250 and loaded[9:].max() < 5


def test_a_pil_image_is_turned_too_and_left_as_it_was():
    image = Image.fromarray(stored_as(noise(), 6).copy())
    image.getexif()[0x0112] = 6
    before = image.tobytes()
    assert np.array_equal(load_image(image, CONFIG), noise())
    assert image.tobytes() == before and image.getexif()[0x0112] == 6


def test_damaged_exif_data_do_not_make_a_picture_unreadable():
    plain = load_image(encoded(Image.fromarray(noise()), "PNG"), CONFIG)
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06", b"Exif\0\0"):
        assert np.array_equal(load_image(encoded(Image.fromarray(noise()), "PNG", exif=exif), CONFIG), plain)


# ------------------------------------------------------------------------------------------ load_image: transparency


def half_hidden(mode):
    """A picture of `mode` with a visible left half; what is hidden on the right is not white."""
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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "palette index", "palette alphas", "RGB", "L", "1", "I;16"])
def test_what_is_transparent_is_white(mode):
    image, options = half_hidden(mode)
    source = image if mode == "PA" else encoded(image, "PNG", **options)  # no format holds PA
    loaded = load_image(source, CONFIG)
    assert (loaded[:, :16] == (0 if mode == "1" else 30)).all()
    assert (loaded[:, 16:] == 255).all()


def test_a_transparent_gif_is_over_white():
    image, options = half_hidden("palette index")
    loaded = load_image(encoded(image, "GIF", **options), CONFIG)
    assert (loaded[:, :16] == 30).all() and (loaded[:, 16:] == 255).all()


def test_what_is_half_transparent_is_mixed_with_white():
    loaded = load_image(encoded(Image.new("RGBA", (32, 32), (255, 0, 0, 51)), "PNG"), CONFIG)
    assert (loaded == (255, 204, 204)).all()


def test_hidden_colours_do_not_bleed_into_a_picture_made_smaller():
    image = Image.new("RGBA", (640, 640), (255, 0, 0, 0))
    image.paste((255, 255, 255, 255), (320, 0, 640, 640))
    assert (load_image(encoded(image, "PNG"), CONFIG) == 255).all()


# -------------------------------------------------------------------------------------- load_image: modes and formats


def test_a_grey_picture_has_three_equal_channels():
    grey = noise()[:, :, 0]
    loaded = load_image(encoded(Image.fromarray(grey), "PNG"), CONFIG)
    assert np.array_equal(loaded, np.stack([grey] * 3, -1))


def test_a_palette_picture_has_the_colours_of_its_palette():
    image = Image.new("P", (32, 32), 3)
    image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 10, 120, 230])
    for fmt in ("PNG", "GIF", "BMP"):
        assert (load_image(encoded(image, fmt), CONFIG) == (10, 120, 230)).all(), fmt


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(fmt):
    loaded = load_image(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), fmt), CONFIG)
    assert np.abs(loaded.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "PPM"])
def test_one_bit_becomes_black_and_white(fmt):
    image = Image.new("1", (32, 32))
    image.paste(1, (0, 0, 32, 10))
    loaded = load_image(encoded(image, fmt), CONFIG)
    assert (loaded[:10] == 255).all() and (loaded[10:] == 0).all()


def deep_values():
    """16-bit values over the whole range, and what they are in 8 bits."""
    values = np.linspace(0, 65535, 1024).round().reshape(32, 32)
    return values, np.rint(values / 257).astype(np.uint8)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_to_eight(fmt, mode):
    values, wanted = deep_values()
    data = values.astype("<u2" if mode == "I;16" else ">u2").tobytes()
    image = Image.frombytes(mode, (32, 32), data)
    source = image
    if (fmt, mode) != ("PNG", "I;16B"):  # Pillow does not write that one
        source = encoded(image, fmt)
        with Image.open(source) as opened:
            assert opened.mode == mode
    assert np.array_equal(load_image(source, CONFIG), np.stack([wanted] * 3, -1))


def test_a_dark_sixteen_bit_picture_stays_dark():
    image = Image.fromarray(np.full((32, 32), 200, np.uint16))
    assert load_image(encoded(image, "PNG"), CONFIG).max() == 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_scaled_by_what_they_hold(mode):
    values, wanted = deep_values()
    kind = np.int32 if mode == "I" else np.float32
    cases = [(values, wanted), (wanted, wanted), (values * 32767, wanted)]  # 16-bit, 8-bit and 31-bit numbers
    if mode == "F":
        cases.append((values / 65535, wanted))  # 0 to 1
    for held, result in cases:
        image = Image.fromarray(held.astype(kind))
        assert image.mode == mode
        loaded = load_image(encoded(image, "TIFF"), CONFIG)
        assert np.abs(loaded.astype(int) - result[:, :, None]).max() <= 1, held.max()


def test_floating_point_pixels_that_are_no_numbers_are_black():
    values = np.full((32, 32), 100, np.float32)
    values[0, 0], values[0, 1] = np.nan, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(Image.fromarray(values), CONFIG)
    assert (loaded[0, :2] == 0).all() and (loaded[1:] == 100).all()


@pytest.mark.parametrize(
    "fmt", ["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "WEBP", "JPEG2000", "QOI", "AVIF", "JPEG", "ICO"]
)
def test_every_format_that_pillow_reads_is_read(fmt):
    Image.init()
    if fmt not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {fmt}")
    x = np.repeat(np.repeat(noise(4, 4), 8, 0), 8, 1)
    options = {
        "WEBP": dict(lossless=True),
        "JPEG": dict(quality=100),
        "AVIF": dict(quality=100),
        "ICO": dict(sizes=[(32, 32)]),
    }
    loaded = load_image(encoded(Image.fromarray(x), fmt, **options.get(fmt, {})), CONFIG)
    assert loaded.dtype == np.uint8 and loaded.shape == (32, 32, 3)
    assert np.abs(loaded.astype(int) - x).mean() < (12 if fmt in ("JPEG", "AVIF") else 0.01)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_counts(fmt):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "lime")]
    options = dict(lossless=True) if fmt == "WEBP" else {}
    file = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    with Image.open(file) as image:
        assert image.n_frames == 3
    assert (load_image(file, CONFIG) == (255, 0, 0)).all()


# ------------------------------------------------------------------------------------------- load_image: any size


def test_a_picture_of_one_pixel_fills_the_square():
    assert (load_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), CONFIG) == (1, 2, 3)).all()


@pytest.mark.parametrize("fmt", ["PNG", "JPEG"])
def test_a_very_wide_picture_is_squeezed_whole(fmt):
    image = Image.new("L", (20000, 3))
    image.paste(255, (10000, 0, 20000, 3))
    loaded = load_image(encoded(image, fmt), CONFIG)
    assert loaded.shape == (32, 32, 3)
    assert loaded[:, :15].max() < 5 and loaded[:, 17:].min() > 250


def photograph(width, height):
    image = Image.new("RGB", (width, height), (90, 140, 200))
    draw = ImageDraw.Draw(image)
    rng = random.Random(0)
    for _ in range(60):
        x, y, r = rng.randrange(width), rng.randrange(height), rng.randrange(20, 300)
        draw.ellipse((x - r, y - r, x + r, y + r), tuple(rng.randrange(256) for _ in range(3)))
    return image


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(1600, 1200), (1000, 1030), (300, 310)])  # the second leaves a rest at the edges
def test_a_large_jpeg_gives_what_decoding_it_in_full_would_give(interpolation, size):
    config = tiny_config(interpolation=interpolation)
    file = encoded(photograph(*size), "JPEG", quality=95)
    full = Image.open(file).convert("RGB").resize((32, 32), Image.Resampling[interpolation.upper()])
    off = np.abs(load_image(file, config).astype(int) - np.asarray(full))
    assert off.mean() < 1 and off.max() < 16, (off.mean(), off.max())


def test_a_large_jpeg_is_not_decoded_in_full(monkeypatch):
    sizes, convert = [], Image.Image.convert

    def spy(image, *args, **kwargs):
        sizes.append(image.size)
        return convert(image, *args, **kwargs)

    file = encoded(photograph(1600, 1200), "JPEG")
    monkeypatch.setattr(Image.Image, "convert", spy)
    load_image(file, CONFIG)
    assert sizes == [(200, 150)]


def test_the_size_and_the_interpolation_of_the_configuration_are_used():
    image = Image.fromarray(noise(40, 56))
    seen = set()
    for interpolation in INTERPOLATIONS:
        config = tiny_config(interpolation=interpolation, image_size=16)
        wanted = np.asarray(image.resize((16, 16), Image.Resampling[interpolation.upper()]))
        for source in (encoded(image, "PNG"), image, np.asarray(image)):
            assert np.array_equal(load_image(source, config), wanted), (interpolation, type(source))
        seen.add(wanted.tobytes())
    assert len(seen) == len(INTERPOLATIONS)


# --------------------------------------------------------------------------- load_image: arrays, and what is no picture


def test_arrays_are_rounded_and_clipped():
    x = np.full((32, 32, 3), 7.0)
    x[0, 0], x[0, 1], x[0, 2], x[0, 3], x[0, 4] = 254.9, -3, 300, np.nan, np.inf
    for kind in (np.float64, np.float32, np.float16):
        loaded = load_image(x.astype(kind), CONFIG)
        assert loaded[0, :6, 0].tolist() == [255, 0, 255, 0, 255, 7], kind
    assert np.array_equal(load_image(noise().astype(np.int64), CONFIG), noise())
    assert np.array_equal(load_image(noise()[:, :, 0], CONFIG)[:, :, 2], noise()[:, :, 0])


@pytest.mark.parametrize("shape", [(), (32,), (32, 32, 1), (32, 32, 4), (2, 32, 32, 3), (0, 32, 3), (32, 0)])
def test_an_array_of_another_shape_is_refused_by_its_shape(shape):
    with pytest.raises(ValueError, match=re.escape(f"shape {shape}")):
        load_image(np.zeros(shape), CONFIG)


@pytest.mark.parametrize("source", [5, None, [[1, 2], [3, 4]], b"bytes"])
def test_what_is_no_picture_at_all_is_refused_by_its_type(source):
    with pytest.raises(ValueError, match=f"^{type(source).__name__}: a picture is"):
        load_image(source, CONFIG)


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="^picture of 0 by 5 pixels"):
        load_image(Image.new("RGB", (0, 5)), CONFIG)


def test_a_damaged_file_is_an_os_error_or_a_value_error_whatever_pillow_makes_of_it():
    rng, image = random.Random(3), Image.fromarray(noise(48, 40))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x9003] = 6, "maker", "2020"
    Image.init()
    failed = 0
    for fmt in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "ICO", "PPM", "TGA", "SPIDER"):
        if fmt not in Image.SAVE:
            continue
        source = image.convert("F") if fmt == "SPIDER" else image
        whole = encoded(source, fmt, **(dict(exif=exif) if fmt in ("PNG", "JPEG", "TIFF", "WEBP") else {})).getvalue()
        for _ in range(25):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 4, 12))):
                data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # and no noise
                try:
                    load_image(io.BytesIO(data[: rng.choice((len(data), rng.randrange(len(data))))]), CONFIG)
                except (OSError, ValueError) as error:
                    failed += 1
                    assert str(error), fmt
    assert failed > 100


# ------------------------------------------------------------------------------------ predict_probabilities, classify


def test_no_pictures_have_no_probabilities(colour_model):
    for pictures in (np.zeros((0, 32, 32, 3), np.uint8), np.zeros((0, 32, 32, 3), np.float32)):
        probabilities = predict_probabilities(colour_model, pictures)
        assert probabilities.shape == (0, 3) and probabilities.dtype == np.float32
        assert classify(colour_model, pictures, top_k=1) == []
    assert classify(colour_model, [], top_k=1) == []


def test_probabilities_do_not_depend_on_the_batch_size(colour_model):
    x, y = colour_pictures(20, seed=5)
    whole = predict_probabilities(colour_model, x, 20)
    assert whole.shape == (20, 3) and whole.dtype == np.float32
    assert (whole.argmax(1) == y).all()
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-5)
    for batch_size in (1, 7):
        np.testing.assert_allclose(predict_probabilities(colour_model, x, batch_size), whole, atol=1e-5)


def test_all_kinds_of_pictures_are_classified_together(colour_model, tmp_path):
    x, y = colour_pictures(1, seed=9)
    x, name = x[0], ("red", "green", "blue")[y[0]]
    path = tmp_path / "picture.png"
    Image.fromarray(x).save(path)
    with path.open("rb") as file:
        kinds = [str(path), path, file, Image.fromarray(x), x, x.astype(np.float32), x.astype(float)]
        results = classify(colour_model, kinds, top_k=3)
    assert len(results) == len(kinds)
    for result in results:
        assert [set(p) for p in result] == [{"label", "score"}] * 3
        assert result[0]["label"] == name and type(result[0]["score"]) is float
        assert result[0]["score"] > result[1]["score"] >= result[2]["score"] >= 0
        assert [p["label"] for p in result] == [p["label"] for p in results[0]]
        assert [p["score"] for p in result] == pytest.approx([p["score"] for p in results[0]], abs=1e-5)


def test_a_grey_array_is_the_same_picture_as_its_three_equal_channels(colour_model):
    grey = noise()[:, :, 0]
    two, three = classify(colour_model, [grey, np.stack([grey] * 3, -1)], top_k=3)
    assert [p["label"] for p in two] == [p["label"] for p in three]
    assert [p["score"] for p in two] == pytest.approx([p["score"] for p in three], abs=1e-6)


def test_an_array_of_pictures_is_classified_in_order_and_in_batches(colour_model):
    x, y = colour_pictures(20, seed=6)
    for batch_size in (7, 128):
        results = classify(colour_model, x, top_k=np.int64(1), batch_size=batch_size)
        assert [r[0]["label"] for r in results] == [("red", "green", "blue")[i] for i in y]
        assert {len(r) for r in results} == {1}


@pytest.mark.parametrize("top_k", [0, -1, 1.5, None, "2"])
def test_a_wrong_top_k_is_refused_by_name(top_k):
    with pytest.raises(ValueError, match=f"^top_k={top_k}: must be a whole number"):
        classify(MeanColour(), [noise()], top_k=top_k)


def test_a_model_of_fewer_classes_than_top_k_gives_them_all():
    assert len(classify(MeanColour(), [noise()], top_k=5)[0]) == 3


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_a_wrong_batch_size_is_refused_by_name(batch_size):
    with pytest.raises(ValueError, match=f"^batch_size={batch_size}: "):
        classify(MeanColour(), [noise()], top_k=1, batch_size=batch_size)


def test_a_single_picture_not_in_a_list_is_refused(tmp_path):
    path = paint(tmp_path / "a.png")
    singles = [path, Path(path), Image.open(path), noise(), noise()[:, :, 0], io.BytesIO(Path(path).read_bytes())]
    for single in singles:
        with pytest.raises(ValueError, match="^images: .*must be a list of pictures"):
            classify(MeanColour(), single, top_k=1)
        assert classify(MeanColour(), [single], top_k=1)[0][0]["label"] in COLOURS
    with pytest.raises(ValueError, match=r"^images: array of shape \(32, 32, 3\)"):
        classify(MeanColour(), noise(), top_k=1)


def test_an_error_of_classify_says_which_picture_it_is(tmp_path):
    good = noise()
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"^images\[1\]: array of shape \(32, 32, 4\)"):
        classify(MeanColour(), [good, np.zeros((32, 32, 4)), good], top_k=1)
    with pytest.raises(ValueError, match=r"^images\[0\]: array of shape \(32, 32, 1\)"):
        classify(MeanColour(), np.zeros((2, 32, 32, 1)), top_k=1)
    with pytest.raises(ValueError, match=r"^images\[2\]: int"):
        classify(MeanColour(), [good, good, 3], top_k=1, batch_size=2)
    with pytest.raises(UnidentifiedImageError, match=r"^images\[1\]: "):
        classify(MeanColour(), [good, tmp_path / "text.png"], top_k=1)
    with pytest.raises(FileNotFoundError, match=r"^images\[0\]: .*missing\.png"):
        classify(MeanColour(), [tmp_path / "missing.png"], top_k=1)


@pytest.fixture
def most_alive(monkeypatch):
    """A function for the largest number of pictures that `load_image` had made and that were there at the same time."""
    alive, most, load = [], 0, modeling_eanet.load_image

    def spy(*args):
        nonlocal most, alive
        array = load(*args)
        alive = [ref for ref in alive if ref() is not None] + [weakref.ref(array)]
        most = max(most, len(alive))
        return array

    monkeypatch.setattr(modeling_eanet, "load_image", spy)
    return lambda: most


def test_classify_holds_one_batch_of_pictures_at_a_time(most_alive, tmp_path):
    path = paint(tmp_path / "a.png")
    assert len(classify(MeanColour(), [path] * 50, top_k=1, batch_size=8)) == 50
    assert most_alive() == 8


# ------------------------------------------------------------------------------------------- inference.py: pictures


def found(*paths):
    return inference.find_pictures([str(path) for path in paths])


def test_folders_are_searched_to_the_bottom_in_order_of_name(tmp_path):
    wanted = ["Z.PNG", "a/x.png", "a/y/z.jpeg", "a-b/y.webp", "a.png", "b.TIFF", "folder.png/in it.gif"]
    for name in reversed(wanted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    others = ["notes.txt", "a/README", "config.json", "model.weights.h5", "paper.pdf", "a/figure.eps", "film.mpg", "png"]
    for name in others:
        (tmp_path / name).touch()
    assert found(tmp_path) == [str(tmp_path / name) for name in wanted]


def test_a_file_that_is_named_is_taken_whatever_its_name(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "picture", "PNG")
    path = str(tmp_path / "picture")
    assert found(path) == [path]


def test_results_are_in_the_order_of_the_paths_also_of_one_given_twice(mean_colour, tmp_path, capsys):
    blue, red = paint(tmp_path / "x" / "blue.png", "blue"), paint(tmp_path / "x" / "red.png", "red")
    green = paint(tmp_path / "a green.bmp", "green")
    assert run(red, tmp_path / "x", green, red, "--format", "json", "--top-k", 1, "--batch-size", 2) == 0
    out, err = capsys.readouterr()
    results = json.loads(out)
    assert [r["image"] for r in results] == [red, blue, red, green, red]
    assert [r["predictions"][0]["label"] for r in results] == ["red", "blue", "red", "green", "red"]
    assert err == ""


def give_stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_picture_comes_on_standard_input(mean_colour, tmp_path, monkeypatch, capsys):
    path = paint(tmp_path / "blue.jpg", "blue")
    give_stdin(monkeypatch, Path(path).read_bytes())
    assert run(paint(tmp_path / "red.png"), "-", "--format", "json", "--top-k", 1) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["predictions"][0]["label"] == "red"
    assert second["image"] == "-" and second["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize("data", [b"", b"no picture", None])
def test_standard_input_that_is_no_picture_gets_its_line(mean_colour, monkeypatch, capsys, data):
    monkeypatch.setattr(sys, "stdin", None) if data is None else give_stdin(monkeypatch, data)
    assert run("-") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"inference\.py: -: cannot be read as a picture \([\w ]+\)$", only_line(err))


# ---------------------------------------------------------------------------------------------- inference.py: output


def test_without_keras_the_error_names_the_way_without_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert inference.main([str(ROOT / "samples" / "apple.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "keras is not installed" in line and "requirements.txt" in line and "--runtime onnx" in line


def test_text_is_a_table_for_each_picture(mean_colour, tmp_path, capsys):
    red, green = paint(tmp_path / "red.png"), paint(tmp_path / "green.png", "green")
    assert run(red, green, "--top-k", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == [red, green] and len(lines) == 6
    rows = [lines[i] for i in (1, 2, 4, 5)]
    assert len({len(row) for row in rows}) == 1  # the columns stand under each other
    parts = [re.fullmatch(r"  (\w+) +(\d+\.\d) %", row).groups() for row in rows]
    assert [parts[0][0], parts[2][0]] == ["red", "green"]
    assert all(float(best) > 90 > 10 > float(other) for (_, best), (_, other) in (parts[:2], parts[2:]))


def test_columns_of_text_stand_under_each_other_also_with_long_labels(capsys):
    predictions = [{"label": "a label of more than sixteen letters", "score": 0.75}, {"label": "short", "score": 0.25}]
    inference.write_text([("x.png", predictions)], sys.stdout)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.index(".") for row in rows] == [rows[0].index(".")] * 2


def test_json_is_a_list_of_pictures_and_predictions(mean_colour, tmp_path, capsys):
    path = paint(tmp_path / "green.png", "green")
    assert run(path, "--format", "json", "--top-k", 3) == 0
    wanted = classify(MeanColour(), [path], top_k=3)[0]
    assert json.loads(capsys.readouterr().out) == [{"image": path, "predictions": wanted}]
    assert [p["label"] for p in wanted][0] == "green" and sum(p["score"] for p in wanted) == pytest.approx(1)


def test_csv_has_a_row_for_each_prediction(mean_colour, tmp_path, capsys):
    red, blue = paint(tmp_path / "red.png"), paint(tmp_path / "blue.png", "blue")
    assert run(red, blue, "--format", "csv", "--top-k", 2) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [(r["image"], r["rank"]) for r in rows] == [(red, "1"), (red, "2"), (blue, "1"), (blue, "2")]
    wanted = [p for result in classify(MeanColour(), [red, blue], top_k=2) for p in result]
    assert [{"label": r["label"], "score": float(r["score"])} for r in rows] == wanted


@pytest.mark.parametrize(("fmt", "wanted"), [("json", []), ("csv", [["image", "rank", "label", "score"]]), ("text", "")])
def test_no_results_at_all_are_still_valid(mean_colour, tmp_path, capsys, fmt, wanted):
    (tmp_path / "empty.png").touch()
    assert run(tmp_path / "empty.png", "--format", fmt) == 1
    out = capsys.readouterr().out
    assert {"json": json.loads, "csv": lambda t: list(csv.reader(io.StringIO(t))), "text": str}[fmt](out) == wanted


ODD_NAMES = [
    "two words.png",
    "größe 猫 🐈.png",
    'q"uote, comma;.png',
    "line\nend.png",
    "carriage\rreturn.png",
    " .png",
    "%s{0}.png",
]


@pytest.mark.parametrize("fmt", ["json", "csv"])
def test_odd_file_names_come_through_unharmed(mean_colour, tmp_path, capsysbinary, fmt):
    names = [*ODD_NAMES, os.fsdecode(b"not \xff utf-8.png")]
    paths = [paint(tmp_path / name) for name in names]
    assert run(*paths, "--format", fmt, "--top-k", 1) == 0
    out, err = capsysbinary.readouterr()
    text = out.decode("utf-8", "surrogateescape")
    if fmt == "json":
        assert [r["image"] for r in json.loads(text)] == paths
    else:
        assert [row["image"] for row in csv.DictReader(io.StringIO(text, newline=""))] == paths
    assert err == b""


def test_an_odd_file_name_takes_one_line_of_text_and_of_error(mean_colour, tmp_path, capsys):
    names = [*ODD_NAMES, os.fsdecode(b"not \xff utf-8.png"), "\x1b[31mred.png", "separator\u2028.png"]
    paths = [paint(tmp_path / name) for name in names]
    assert run(*paths, "--top-k", 1) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 2 * len(paths) + 1 and lines[-1] == ""
    assert lines[0:4:2] == paths[:2]
    assert lines[6].endswith("/line\\nend.png")
    for path in paths:
        Path(path).write_text("no picture any more")
    assert run(*paths, "--top-k", 1) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == err.count("\n") == len(paths)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_on_a_terminal_at_standard_error_alone(mean_colour, tmp_path, monkeypatch, capsys):
    for i in range(9):
        paint(tmp_path / f"{i}.png")
    assert run(tmp_path, "--top-k", 1, "--batch-size", 2) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run(tmp_path, "--top-k", 1, "--batch-size", 2) == 0
    assert "/9" in terminal.getvalue() and "pictures" in terminal.getvalue()
    assert capsys.readouterr().out == out


def test_progress_and_results_on_one_terminal_do_not_mix(mean_colour, tmp_path, monkeypatch):
    paths = [paint(tmp_path / f"{i}.png") for i in range(6)]
    (tmp_path / "4.png").write_text("damaged")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(*paths, "--top-k", 1, "--batch-size", 2) == 1
    shown = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]  # what a line ends up as
    results = [line for line in shown[:-1] if not line.startswith("inference.py: ")]
    assert results[::2] == [path for path in paths if path != paths[4]]
    assert [line[:5] for line in results[1::2]] == ["  red"] * 5 and len(shown) == 12


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_output_into_a_closed_pipe_ends_quietly(tmp_path):
    path = paint(tmp_path / "red.png")
    process = stub_process(*[path] * 2000, "--top-k", 3, stdout=subprocess.PIPE)
    assert process.stdout.readline() == f"{path}\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        process = stub_process(paint(tmp_path / "red.png"), "--top-k", 1, stdout=full)
        assert "No space left" in only_line(process.stderr.read())
    assert process.wait(60) == 2


# ------------------------------------------------------------------------------------- inference.py: unreadable pictures


def png_header(width, height):
    """A PNG that promises to be that large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def truncated(fmt, **options):
    data = encoded(Image.fromarray(noise(64, 64)), fmt, **options).getvalue()
    return data[: len(data) // 2]


UNREADABLE = {
    "text": b"This is a text.\n",
    "empty": b"",
    "truncated png": truncated("PNG"),
    "truncated jpeg": truncated("JPEG"),
    "truncated gif": truncated("GIF"),
    "truncated tiff": truncated("TIFF"),
    "truncated webp": truncated("WEBP"),
    "header only": png_header(64, 64)[:33],
    "too few rows": png_header(64, 64),
    "bomb": png_header(60000, 60000),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unreadable_picture_gets_its_line_and_the_others_are_done(mean_colour, tmp_path, capsys, what):
    bad, red, blue = tmp_path / "bad.png", paint(tmp_path / "red.png"), paint(tmp_path / "blue.png", "blue")
    bad.write_bytes(UNREADABLE[what])
    with warnings.catch_warnings(record=True) as noise_made:
        warnings.simplefilter("always")
        assert run(red, bad, blue, "--format", "json", "--top-k", 1) == 1
    out, err = capsys.readouterr()
    assert [(r["image"], r["predictions"][0]["label"]) for r in json.loads(out)] == [(red, "red"), (blue, "blue")]
    line = only_line(err)
    assert line.startswith(f"inference.py: {bad}: cannot be read as a picture (") and line.endswith(")")
    assert line.count(str(bad)) == 1 and "0x" not in line  # says it once, and nothing of Python's insides
    assert noise_made == []


def test_a_very_large_picture_is_read_without_a_warning_and_a_larger_one_refused(mean_colour, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it and refuses above twice that
    large, larger = paint(tmp_path / "large.png", "blue", (40, 40)), paint(tmp_path / "larger.png", "blue", (50, 50))
    with warnings.catch_warnings(record=True) as noise_made:
        warnings.simplefilter("always")
        assert run(large, larger, "--top-k", 1) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == large and out.splitlines()[1].startswith("  blue")
    assert larger in only_line(err) and "2500 pixels" in err
    assert noise_made == []


def deny(path, monkeypatch):
    """Takes the right to read `path` away, from the administrator too."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        import builtins

        def denying(call):
            def denied(name=".", *args, **kwargs):
                if isinstance(name, (str, os.PathLike)) and Path(name) == path:
                    raise PermissionError(13, "Permission denied", str(name))
                return call(name, *args, **kwargs)

            return denied

        monkeypatch.setattr(builtins, "open", denying(open))
        monkeypatch.setattr(os, "scandir", denying(os.scandir))


def test_a_picture_we_may_not_read_gets_its_line(mean_colour, tmp_path, monkeypatch, capsys):
    red, mine = paint(tmp_path / "red.png"), paint(tmp_path / "secret.png")
    deny(Path(mine), monkeypatch)
    assert run(tmp_path, "--top-k", 1) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == red
    assert only_line(err) == f"inference.py: {mine}: cannot be read as a picture (Permission denied)"


def test_a_folder_we_may_not_list_gets_its_line(mean_colour, tmp_path, monkeypatch, capsys):
    red, secret = paint(tmp_path / "red.png"), Path(paint(tmp_path / "secret" / "blue.png")).parent
    deny(secret, monkeypatch)
    try:
        for paths in ((tmp_path,), (red, secret)):
            assert run(*paths, "--top-k", 1) == 1
            out, err = capsys.readouterr()
            assert out.splitlines()[0] == red and len(out.splitlines()) == 2
            assert only_line(err) == f"inference.py: {secret}: cannot be read as a picture (Permission denied)"
    finally:
        secret.chmod(0o700)


# --------------------------------------------------------------------------------------------- inference.py: many files


def test_many_pictures_take_one_batch_of_memory_and_one_trace(colour_folder, most_alive, tmp_path, monkeypatch, capsys):
    x, y = colour_pictures(300, seed=7)
    for i, picture in enumerate(x):
        Image.fromarray(picture).save(tmp_path / f"{i:03}.png", compress_level=1)
    (tmp_path / "100.png").write_text("damaged")
    traces, batches = [], []
    load = modeling_eanet.from_pretrained_keras

    def spied(folder):
        model = load(folder)
        call, predict = model.call, model.predict_on_batch
        model.call = lambda *args, **kwargs: traces.append(1) or call(*args, **kwargs)
        model.predict_on_batch = lambda batch: batches.append(batch.shape) or predict(batch)
        return model

    monkeypatch.setattr(modeling_eanet, "from_pretrained_keras", spied)
    assert run(tmp_path, "--model", colour_folder, "--batch-size", 64, "--format", "json", "--top-k", 1) == 1
    results = json.loads(capsys.readouterr().out)
    rest = [i for i in range(300) if i != 100]
    assert [r["image"] for r in results] == [str(tmp_path / f"{i:03}.png") for i in rest]
    assert [r["predictions"][0]["label"] for r in results] == [("red", "green", "blue")[y[i]] for i in rest]
    assert batches == [(64, 32, 32, 3)] * 5
    assert len(traces) == 1
    assert most_alive() == 64


def test_a_single_batch_is_predicted_without_a_trace_and_the_same(colour_folder, monkeypatch):
    model = modeling_eanet.from_pretrained_keras(colour_folder)
    x = colour_pictures(3, seed=9)[0]
    traced = modeling_eanet.predict_probabilities(model, x, 3)
    monkeypatch.setattr(model, "predict_on_batch", lambda _: pytest.fail("traced"))
    np.testing.assert_allclose(modeling_eanet.predict_probabilities(model, x, 3, once=True), traced, atol=1e-6)
    np.testing.assert_allclose(modeling_eanet.predict_probabilities(model, x, 4, once=True), traced, atol=1e-6)


def test_scores_of_the_program_do_not_depend_on_the_batch_size(colour_folder, tmp_path, capsys):
    for i, picture in enumerate(colour_pictures(10, seed=8)[0]):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    runs = []
    for batch_size in (1, 4, 64):
        assert run(tmp_path, "--model", colour_folder, "--batch-size", batch_size, "--format", "json", "--top-k", 3) == 0
        runs.append(json.loads(capsys.readouterr().out))
    tables = [[[(p["label"], p["score"]) for p in r["predictions"]] for r in results] for results in runs]
    for table in tables[1:]:
        for row, first in zip(table, tables[0], strict=True):
            assert dict(row) == pytest.approx(dict(first), abs=1e-5)


# ----------------------------------------------------------------------------------------- inference.py: usage and model

FRUITLESS = {
    "a missing file": (["missing.png"], "missing.png: no such file or folder"),
    "a missing file beside a good one": (["red.png", "missing.png"], "missing.png: no such file or folder"),
    "a file as a folder": (["red.png/x.png"], "red.png/x.png: no such file or folder"),
    "an empty path": ([""], "no such file or folder"),
    "an empty folder": (["empty"], "empty: no pictures in this folder"),
    "a folder of other files": (["texts"], "texts: no pictures in this folder"),
    "standard input twice": (["-", "-"], "-: standard input"),
    "top-k 0": (["red.png", "--top-k", "0"], "--top-k 0: must be at least 1"),
    "top-k -1": (["red.png", "--top-k", "-1"], "--top-k -1: must be at least 1"),
    "top-k that is no number": (["red.png", "--top-k", "many"], "--top-k"),
    "batch-size 0": (["red.png", "--batch-size", "0"], "--batch-size 0: must be at least 1"),
    "unknown format": (["red.png", "--format", "xml"], "xml"),
    "nothing": ([], "PATH"),
    "a model that is nowhere": (["red.png", "--model", "nowhere"], "nowhere: no such model folder"),
    "a model folder that is not there": (["red.png", "--model", "./no/where"], "./no/where: no such model folder"),
    "a model that is a file": (["red.png", "--model", "red.png"], "red.png: no such model folder"),
    "a repository name that cannot be": (["red.png", "--model", "bad name/x"], "bad name/x"),
    "a repository that is not in the cache": (["red.png", "--model", "nobody/nothing"], ""),
    "a model folder without a configuration": (["red.png", "--model", "empty"], "empty/config.json: no such file"),
    "a configuration that is no JSON": (["red.png", "--model", "texts"], "texts/config.json: not JSON"),
}


@pytest.fixture(scope="module")
def fruitless(tmp_path_factory):
    """What all of FRUITLESS came to, in one process: status, output, error, and whether Keras or TensorFlow was there."""
    folder = tmp_path_factory.mktemp("fruitless")
    paint(folder / "red.png")
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "config.json").write_text("{")
    code = f"""
import contextlib, io, json, sys
sys.path.insert(0, {str(ROOT)!r})
import inference
results = {{}}
for name, args in json.loads(sys.stdin.read()).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = inference.main(args)
        except SystemExit as stop:
            status = stop.code
    heavy = sorted({{"keras", "tensorflow", "tf_keras"}} & set(sys.modules))
    results[name] = [status, out.getvalue(), err.getvalue(), heavy]
print(json.dumps(results))
"""
    cases = json.dumps({name: args for name, (args, _) in FRUITLESS.items()})
    env = {**os.environ, "HF_HOME": str(folder / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], input=cases, capture_output=True, text=True, cwd=folder, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", FRUITLESS)
def test_a_fruitless_call_is_one_line_and_needs_no_keras(fruitless, what):
    status, out, err, heavy = fruitless[what]
    assert status == 2 and out == ""
    *usage, line = err.splitlines()
    assert line.startswith("inference.py: error: ") and FRUITLESS[what][1] in line
    assert not usage or usage[0].startswith("usage: ")  # argparse's
    assert heavy == []


@pytest.mark.parametrize(("classes", "rows"), [(2, 2), (3, 3), (7, 5)])
def test_five_labels_are_shown_unless_there_are_fewer(mean_colour, tmp_path, monkeypatch, capsys, classes, rows):
    monkeypatch.setattr(MeanColour, "config", tiny_config(id2label=list("abcdefg")[:classes]))
    monkeypatch.setattr(MeanColour, "predict_on_batch", lambda _, batch: np.full((len(batch), classes), 1 / classes))
    assert run(paint(tmp_path / "red.png")) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list("abcde")[:rows]


def test_more_labels_than_classes_are_refused(mean_colour, tmp_path, capsys):
    assert run(paint(tmp_path / "red.png"), "--top-k", 4) == 2
    out, err = capsys.readouterr()
    assert out == "" and only_line(err) == "inference.py: error: --top-k 4: the model has 3 classes"


def other_config(**changes):
    return lambda folder: tiny_config(**changes).to_json_file(folder / "config.json")


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


BROKEN_MODELS = {
    "configuration missing": ("config.json", lambda folder: (folder / "config.json").unlink()),
    "configuration empty": ("config.json", cut("config.json", 0)),
    "configuration cut short": ("config.json", cut("config.json", 500)),
    "configuration of something else": ("config.json", lambda folder: (folder / "config.json").write_text('{"a": 1}')),
    "configuration that is no text": ("config.json", lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00")),
    "weights missing": ("model.weights.h5", lambda folder: (folder / "model.weights.h5").unlink()),
    "weights empty": ("model.weights.h5", cut("model.weights.h5", 0)),
    "weights cut short": ("model.weights.h5", cut("model.weights.h5", -1)),
    "weights cut in half": ("model.weights.h5", cut("model.weights.h5", 60000)),
    "weights that are a text": (
        "model.weights.h5",
        lambda folder: (folder / "model.weights.h5").write_text("version https://"),
    ),
    "weights of other classes": ("model.weights.h5", other_config(id2label=list("abcd"))),
    "weights of another width": ("model.weights.h5", other_config(embed_dims=(16, 32))),
    "weights of another depth": ("model.weights.h5", other_config(depths=(2, 1))),
    "weights of another form": ("model.weights.h5", other_config(shared_memory=True)),
}


@pytest.mark.parametrize("what", BROKEN_MODELS)
def test_a_broken_model_folder_is_one_line_that_names_the_file(tiny_folder, tmp_path, capsys, what):
    for name in ("config.json", "model.weights.h5"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    name, spoil = BROKEN_MODELS[what]
    spoil(tmp_path)
    with warnings.catch_warnings(record=True) as noise_made:
        warnings.simplefilter("always", UserWarning)
        assert run(paint(tmp_path / "red.png"), "--model", tmp_path, "--top-k", 1) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert only_line(err).startswith(f"inference.py: error: {tmp_path / name}: ")
    assert noise_made == []


def test_the_default_model_is_the_folder_of_the_program(colour_folder, tmp_path, monkeypatch, capsys):
    assert Path(inference.parse_args(["x.png"]).model) == Path(inference.__file__).resolve().parent == ROOT
    monkeypatch.setattr(inference, "HERE", colour_folder)
    monkeypatch.chdir(tmp_path)
    picture, label = colour_pictures(1, seed=3)
    Image.fromarray(picture[0]).save("x.png")
    assert run("x.png", "--format", "json", "--top-k", 1) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["predictions"][0]["label"] == ("red", "green", "blue")[label[0]]


def test_the_program_works_from_end_to_end(colour_folder, tmp_path):
    x, y = colour_pictures(4, seed=4)
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.fromarray(x[i]).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "pictures" / "1a.png").write_text("damaged")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "inference.py",
            "pictures",
            "-",
            "--model",
            colour_folder,
            "--format",
            "json",
            "--top-k",
            "1",
        ],
        input=encoded(Image.fromarray(x[3]), "PNG").getvalue(),
        capture_output=True,
        cwd=tmp_path,
        timeout=300,
    )
    results = json.loads(done.stdout)
    assert [r["image"] for r in results] == ["pictures/0.png", "pictures/1.png", "pictures/2.png", "-"]
    assert [r["predictions"][0]["label"] for r in results] == [("red", "green", "blue")[i] for i in y]
    ours = [line for line in done.stderr.decode().splitlines() if "inference.py" in line or "Traceback" in line]
    assert ours == ["inference.py: pictures/1a.png: cannot be read as a picture (unknown picture format)"]
    assert done.returncode == 1
