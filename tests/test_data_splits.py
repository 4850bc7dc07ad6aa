"""Data sets, the validation split, class weights, and images on disk."""

import numpy as np
import pytest
from conftest import colour_images

from eanet.data import Batches, Dataset, DiskImages, Split, balanced_class_weights, split_validation, storage
from modeling_eanet import UserError


def numbers(count):
    """A data set of images whose label, and every pixel, is their index."""
    x = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))
    return Dataset("", "numbers", ("a", "b"), Split(x, np.arange(count) % 2, "train"), None)


def test_validation_split_depends_on_the_seed_and_does_not_overlap():
    training, validation = split_validation(numbers(200), 0.25, seed=1)
    assert (len(training), len(validation)) == (150, 50)
    assert (training.name, validation.name) == ("train", "validation")
    assert validation.note == "50 images of the train split, held out by seed 1"
    assert sorted([*training.x[:, 0, 0, 0], *validation.x[:, 0, 0, 0]]) == list(range(200))
    for split in (training, validation):
        np.testing.assert_array_equal(split.x[:, 0, 0, 0] % 2, split.y)
        assert (np.diff(split.x[:, 0, 0, 0].astype(int)) > 0).all()

    _, same = split_validation(numbers(200), 0.25, seed=1)
    _, other = split_validation(numbers(200), 0.25, seed=2)
    np.testing.assert_array_equal(validation.x, same.x)
    assert not np.array_equal(validation.x, other.x)


def test_validation_split_of_0_is_none():
    dataset = numbers(10)
    assert split_validation(dataset, 0, seed=1) == (dataset.train, None)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_plain_draw_that_empties_one_side(fraction):
    message = rf"^validation_split {fraction}: .*\(192 images\); use another fraction, or 0 for none"
    with pytest.raises(UserError, match=message):
        split_validation(dataset_of([96, 96], stratify=False), fraction, seed=0)


def test_plain_draw_is_that_of_earlier_versions():
    """The runs that are published hold out these images of CIFAR-100."""
    dataset = dataset_of([450] * 100, stratify=False)
    training, validation = split_validation(dataset, 0.02, seed=0)
    order = np.random.default_rng((0, 1)).permutation(45_000)
    np.testing.assert_array_equal(validation.y, dataset.train.y[np.sort(order[:900])])
    np.testing.assert_array_equal(training.y, dataset.train.y[np.sort(order[900:])])


def dataset_of(counts, stratify=True):
    """A data set with this number of images of each class."""
    y = np.repeat(np.arange(len(counts)), counts)
    x = np.zeros((len(y), 1, 1, 3), np.uint8)
    return Dataset("", "set", tuple(map(str, range(len(counts)))), Split(x, y, "train"), None, stratify=stratify)


@pytest.mark.parametrize(
    ("counts", "fraction", "held_out"),
    [
        ([5, 5], 0.02, [1, 1]),
        ([5, 5], 0.99, [4, 4]),
        ([1, 5], 0.2, [0, 1]),
        ([0, 5, 5], 0.2, [0, 1, 1]),
        ([100, 50, 10], 0.1, [10, 5, 1]),
        ([74] * 10, 0.02, [2, 2, 2, 2, 2, 1, 1, 1, 1, 1]),
        ([100, 2], 0.2, [20, 1]),
    ],
)
def test_stratified_draw(counts, fraction, held_out):
    training, validation = split_validation(dataset_of(counts), fraction, seed=3)
    assert np.bincount(validation.y, minlength=len(counts)).tolist() == held_out
    assert (np.bincount(training.y, minlength=len(counts)) + held_out).tolist() == counts


def test_one_image_per_class_leaves_nothing_to_hold_out():
    with pytest.raises(UserError, match="empty training or validation set"):
        split_validation(dataset_of([1, 1, 1]), 0.2, seed=0)


def test_validation_split_of_the_data_is_used():
    dataset = dataset_of([5, 5])
    dataset.validation = Split(np.zeros((3, 1, 1, 3), np.uint8), np.array([0, 1, 1]), "validation")
    assert split_validation(dataset, 0.2, seed=0) == (dataset.train, dataset.validation)


def test_balanced_class_weights():
    y = np.repeat([0, 1, 3], [60, 6, 3])
    weights = balanced_class_weights(y, 4)
    np.testing.assert_allclose(weights, [69 / 180, 69 / 18, 0, 69 / 9], rtol=1e-6)
    assert weights.dtype == np.float32 and abs(weights[y].mean() - 1) < 1e-6


def test_checksum_covers_images_labels_and_order():
    x, y = colour_images(10)
    split = Split(x, y, "train")
    assert split.checksum() == Split(x.copy(), y.copy(), "other name").checksum()
    changed = x.copy()
    changed[3, 2, 1, 0] ^= 1
    for other in (Split(changed, y, "train"), Split(x, (y + 1) % 3, "train"), Split(x[::-1], y[::-1], "train")):
        assert other.checksum() != split.checksum()


# Images on disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_disk(monkeypatch):
    """The same 50 noise images as `DiskImages` and as an array."""
    monkeypatch.setattr(storage, "MAX_MEMORY_BYTES", 5000)
    x = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    store = storage.ImageStore(8)
    for start in range(0, 50, 7):
        store.append(x[start : start + 7])
    images = store.finish()
    assert isinstance(images, DiskImages)
    return images, x


@pytest.mark.parametrize(
    "key",
    [
        3,
        -1,
        slice(None),
        slice(4, 9),
        slice(None, None, -2),
        [5, 5, 2, 3, 4],
        np.arange(50) % 3 == 0,
        (2, 1),
        [],
        slice(60, 70),
    ]
    + [(slice(2, 5), slice(1, 3)), (slice(None), 0, 0, 0), np.array([[1, 2], [3, 4]])],
)
def test_disk_images_read_like_an_array(on_disk, key):
    images, x = on_disk
    np.testing.assert_array_equal(images[key], x[key])
    subset = np.r_[40:50, 0:40]
    np.testing.assert_array_equal(images.take(subset)[key], x[subset][key])


def test_disk_images_out_of_range(on_disk):
    with pytest.raises(IndexError):
        on_disk[0][50]


def test_disk_images_as_an_array(on_disk):
    images, x = on_disk
    np.testing.assert_array_equal(np.asarray(images), x)
    assert (images.shape, images.dtype, images.nbytes, len(images)) == (x.shape, x.dtype, x.nbytes, 50)


@pytest.mark.parametrize("expected", [None, 30, 50, 70])
def test_small_sets_stay_in_memory(expected):
    store, x = storage.ImageStore(8, expected), np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    for start in range(0, 50, 8):
        store.append(x[start : start + 8])
    images = store.finish()
    assert isinstance(images, np.ndarray) and images.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(images, x)


def test_no_space_for_the_images(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/tmp")
    with pytest.raises(UserError, match=r"/tmp: the images take .* GB, and .* GB are free; set TMPDIR"):
        storage.ImageStore(1000, expected=10**9)


def test_splits_and_batches_from_disk_are_bit_equal(on_disk):
    images, x = on_disk
    y = np.arange(50) % 2
    for seed in (0, 1):
        memory, disk = (
            split_validation(Dataset("", "", ("a", "b"), Split(z, y, "train"), None), 0.2, seed) for z in (x, images)
        )
        assert isinstance(disk[0].x, DiskImages)
        for one, other in zip(memory, disk, strict=True):
            assert one.checksum() == other.checksum()
        for on_jax in (False, True):
            batches = [list(Batches(pair[0], 2, 8, seed, on_jax).epoch(1, 0.5)) for pair in (memory, disk)]
            for (a, b), (c, d) in zip(*batches, strict=True):
                np.testing.assert_array_equal(a, c)
                np.testing.assert_allclose(b, d, atol=1e-6)
