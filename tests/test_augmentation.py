"""Training batches: order, crops, flips and CutMix."""

import numpy as np
import pytest

from eanet.data import Batches, Split
from eanet.data.policy import OPERATIONS, draw_policy, recolour, source_pixels


def numbered(count, size=32):
    """Noise images, each a class of its own, so that targets tell which image is which."""
    x = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Split(x, np.arange(count), "train")


def epoch_of(batches, epoch):
    """Return one epoch as arrays (images, indices)."""
    x, y = zip(*batches.epoch(epoch), strict=True)
    return np.concatenate(x), np.concatenate(y).argmax(axis=1)


def test_shapes_types_and_number():
    batches = Batches(numbered(50), 50, 16, seed=0)
    got = list(batches.epoch(0))
    assert len(got) == len(batches) == 3
    for x, y in got:
        assert x.shape == (16, 32, 32, 3) and x.dtype == np.uint8
        assert y.shape == (16, 50) and y.dtype == np.float32
        np.testing.assert_array_equal(y.sum(axis=1), 1)


def test_images_do_not_repeat_within_an_epoch():
    split = numbered(50)
    batches = Batches(split, 50, 16, seed=0)
    for epoch in range(3):
        _, index = epoch_of(batches, epoch)
        assert len(index) == len(set(index)) == 48
    _, index = epoch_of(Batches(split, 50, 10, seed=0), 0)
    assert sorted(index) == list(range(50))


def test_batch_is_never_larger_than_the_split():
    x, index = epoch_of(Batches(numbered(5), 5, 128, seed=0), 0)
    assert len(x) == 5 and sorted(index) == list(range(5))


def test_order_and_augmentation_depend_on_seed_and_epoch_alone():
    split = numbered(40)
    batches = Batches(split, 40, 8, seed=7)
    for epoch in range(3):
        last = epoch_of(batches, epoch)
    np.random.seed(99)
    for got, expected in zip(epoch_of(Batches(split, 40, 8, seed=7), 2), last, strict=True):
        np.testing.assert_array_equal(got, expected)

    def differ(other):
        x, index = other
        # In the order of the images, so that a different order of the same crops would show.
        same_crops = np.array_equal(x[index.argsort()], last[0][last[1].argsort()])
        return not np.array_equal(index, last[1]) and not same_crops

    assert differ(epoch_of(batches, 1))
    assert differ(epoch_of(Batches(split, 40, 8, seed=8), 2))


def test_crops_of_the_reflected_image_and_half_flipped():
    size, margin, count = 32, 4, 600
    split = numbered(count, size)
    x, index = epoch_of(Batches(split, count, 100, seed=0), 0)

    def mirrored(i):
        return size - 1 - np.abs(size - 1 - np.abs(i))

    seen = []
    for image, source in zip(x, split.x[index], strict=True):
        found = []
        for top in range(-margin, margin + 1):
            for left in range(-margin, margin + 1):
                rows, columns = mirrored(np.arange(top, top + size)), mirrored(np.arange(left, left + size))
                for flip, order in ((False, columns), (True, columns[::-1])):
                    if image[0, 0, 0] != source[rows[0], order[0], 0]:
                        continue
                    if np.array_equal(image, source[rows[:, None], order]):
                        found.append((top, left, flip))
        assert len(found) == 1
        seen += found
    tops, lefts, flips = map(np.array, zip(*seen, strict=True))
    assert len({(top, left) for top, left, _ in seen}) == 81
    assert 0.4 < flips.mean() < 0.6
    for offsets in (tops, lefts):  # uniform, and independent of the flip
        assert np.bincount(offsets + margin, minlength=9).min() > 30
        assert abs(np.corrcoef(offsets, flips)[0, 1]) < 0.15
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.15


def test_cutmix_pastes_a_box_of_the_neighbour_and_mixes_labels_by_area():
    size, count = 32, 200
    colours = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)  # every image of one colour, all different
    batches = Batches(Split(np.tile(colours, (1, size, size, 3)), np.arange(count), "train"), count, count, seed=0)
    ((_, plain),), ((x, y),) = batches.epoch(0), batches.epoch(0, cutmix=0.75)
    own = plain.argmax(axis=1)
    taken, boxes = [], set()
    for i in range(count):
        box = x[i, :, :, 0] != own[i]
        assert (x[i][box] == own[i - 1]).all() and (x[i][~box] == own[i]).all()
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box.sum() == len(rows) * len(columns)  # full, and without gaps one rectangle
        if len(rows):
            assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
            boxes.add((rows[0], rows[-1], columns[0], columns[-1]))
        expected = np.zeros(count)
        expected[own[i]], expected[own[i - 1]] = 1 - box.mean(), box.mean()
        np.testing.assert_allclose(y[i], expected, atol=1e-6)
        taken.append(box.mean())
    taken = np.array(taken)
    assert 0.6 < (taken > 0).mean() < 0.8  # three quarters, except for boxes without a pixel's centre
    assert len(boxes) > 0.9 * np.count_nonzero(taken)
    assert taken.max() > 0.5 and 0.2 < taken[taken > 0].mean() < 0.5


def test_cutmix_depends_on_seed_and_epoch_alone():
    first, second = (list(Batches(numbered(40), 40, 8, seed=7).epoch(2, cutmix=0.5)) for _ in range(2))
    for (x, y), (same_x, same_y) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)


@pytest.mark.parametrize(("cutmix", "policy"), [(0.0, None), (0.5, None), (0.5, "trivial")])
def test_jax_batches_are_equal_and_on_its_device(cutmix, policy):
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8), rng.integers(0, 5, 40), "train")
    plain, on_jax = (Batches(split, 5, 8, 7, on_jax, policy=policy).epoch(2, cutmix) for on_jax in (False, True))
    for (x, y), (same_x, same_y) in zip(plain, on_jax, strict=True):
        assert isinstance(same_x, jax.Array) and isinstance(same_y, jax.Array)
        assert same_x.dtype == np.uint8 and same_y.dtype == np.float32
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_allclose(y, same_y, atol=1e-6)


# Augmentation policy ----------------------------------------------------------------------------------------------------


def applied(operation, image, seed=0):
    """Return the image after a random draw of one operation."""
    rng = np.random.default_rng(seed)
    chosen, draw = iter([np.full(64, OPERATIONS.index(operation))]), None

    class Chosen:
        integers = staticmethod(lambda *args: next(chosen))
        random = staticmethod(rng.random)

    draw = draw_policy(Chosen, 64, len(image)) | {"shift": np.zeros((64, 2), np.int32), "flip": np.zeros(64, bool)}
    rows, columns = source_pixels(np, len(image), draw)
    return recolour(np, image[rows, columns], draw)


def photo(size=32):
    down, right = np.mgrid[40 : 200 : size * 1j, 40 : 200 : size * 1j]
    noise = np.random.default_rng(0).integers(-30, 30, (size, size, 3))
    return np.clip(np.stack([down, right, np.full_like(down, 90)], axis=-1) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_changes_images_and_only_identity_does_not(operation):
    image = photo()
    out = applied(operation, image)
    assert out.shape == (64, 32, 32, 3) and out.dtype == np.uint8
    changed = [not np.array_equal(each, image) for each in out]
    assert sum(changed) == 0 if operation == "identity" else sum(changed) > 45


def test_geometric_operations_move_pixels_and_colour_operations_do_not():
    one = np.full((32, 32, 3), 50, np.uint8)
    for operation in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        np.testing.assert_array_equal(applied(operation, one), np.tile(one, (64, 1, 1, 1)))  # reflected, no black borders
    rows = np.repeat(np.arange(32, dtype=np.uint8), 32).reshape(32, 32, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(applied("translate_x", rows), np.tile(rows, (64, 1, 1, 1)))
    shifts = {int(each[16, 16, 0]) - 16 for each in applied("translate_y", rows)}
    assert min(shifts) >= -10 and max(shifts) <= 10 and len(shifts) > 10


def test_colour_operations_agree_with_pillow():
    from PIL import Image, ImageEnhance, ImageOps

    image, seed = photo(), 3
    pil, rng = Image.fromarray(image), np.random.default_rng(seed)
    strength, negative = rng.random(64), rng.random(64) < 0.5
    factors = 1 + 0.9 * strength * np.where(negative, -1, 1)
    pairs = {"brightness": "Brightness", "saturation": "Color", "contrast": "Contrast", "sharpness": "Sharpness"}
    for operation, name in pairs.items():
        for ours, factor in zip(applied(operation, image, seed), factors, strict=True):
            theirs = np.asarray(getattr(ImageEnhance, name)(pil).enhance(factor)).astype(int)
            assert np.abs(ours.astype(int) - theirs).max() <= 2, (operation, factor)
    np.testing.assert_allclose(applied("autocontrast", image)[0], np.asarray(ImageOps.autocontrast(pil)), atol=1)
    solarized = [np.asarray(ImageOps.solarize(pil, round(256 * (1 - each)))) for each in strength]
    np.testing.assert_array_equal(applied("solarize", image, seed), solarized)


def test_policy_leaves_order_crops_and_cutmix_alone():
    split = numbered(40)
    plain, policy = (list(Batches(split, 40, 8, 7, policy=name).epoch(1, 0.5)) for name in (None, "trivial"))
    for (x, y), (changed, same) in zip(plain, policy, strict=True):
        np.testing.assert_array_equal(y, same)
        assert not np.array_equal(x, changed)
    again = list(Batches(split, 40, 8, 7, policy="trivial").epoch(1, 0.5))
    np.testing.assert_array_equal([x for x, _ in again], [x for x, _ in policy])
