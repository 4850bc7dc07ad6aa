"""Reading class folders, and the validation split."""

import shutil

import numpy as np
import pytest
from conftest import LABELS, colour_images, tiny_config
from PIL import Image

from eanet.data import Dataset, Split, load_dataset, split_validation
from modeling_eanet import UserError


def load(path, **changes):
    return load_dataset(path, tiny_config(**changes))


def write_class_folders(root, train=5, test=None, size=32):
    """Write `train` images per colour to train/<colour>/, `test` to test/<colour>/; return them by (split, colour)."""
    images = {}
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        if count is None:
            continue
        x, y = colour_images(30 * count, seed)
        for index, colour in enumerate(LABELS):
            folder = root / split / colour
            folder.mkdir(parents=True)
            images[split, colour] = x[y == index][:count]
            for i, image in enumerate(images[split, colour]):
                Image.fromarray(image).resize((size, size)).save(folder / f"{i:03d}.png")
    return images


def error_of(path):
    with pytest.raises(UserError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_with_a_test_split(tmp_path):
    images = write_class_folders(tmp_path / "colours", train=5, test=2)
    dataset = load(tmp_path / "colours")
    assert (dataset.id, dataset.name, dataset.labels) == ("", "colours", ("blue", "green", "red"))
    for split, count in ((dataset.train, 5), (dataset.test, 2)):
        assert len(split) == 3 * count
        for index, colour in enumerate(dataset.labels):
            np.testing.assert_array_equal(split.x[split.y == index], images[split.name, colour])


def test_folders_without_a_test_split(tmp_path):
    write_class_folders(tmp_path)
    assert len(load(tmp_path).train) == 15 and load(tmp_path).test is None


def test_test_split_may_lack_a_class(tmp_path):
    write_class_folders(tmp_path, train=2, test=2)
    shutil.rmtree(tmp_path / "test" / "green")
    assert load(tmp_path).test.y.tolist() == [0, 0, 2, 2]


def test_images_are_resized_and_converted(tmp_path):
    write_class_folders(tmp_path, size=48)
    Image.new("L", (20, 70), 128).save(tmp_path / "train" / "red" / "grey.jpg")
    train = load(tmp_path, image_size=16).train
    assert train.x.shape == (16, 16, 16, 3)
    brightest = train.x[:15].mean(axis=(1, 2)).argmax(axis=1)
    np.testing.assert_array_equal(brightest, 2 - train.y[:15])  # blue, green, red by name; RGB by channel
    np.testing.assert_allclose(train.x[15], 128, atol=2)


def test_other_files_and_hidden_folders_are_ignored(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "red" / "notes.txt").write_text("red")
    (tmp_path / "train" / ".cache").mkdir()
    dataset = load(tmp_path)
    assert dataset.labels == ("blue", "green", "red") and len(dataset.train) == 15


def test_one_class(tmp_path):
    write_class_folders(tmp_path)
    for colour in ("red", "green"):
        shutil.rmtree(tmp_path / "train" / colour)
    assert error_of(tmp_path) == f"{tmp_path}: train/ has 1 class folder(s); at least two classes are needed"


def test_class_without_images(tmp_path):
    write_class_folders(tmp_path)
    for path in (tmp_path / "train" / "green").iterdir():
        path.unlink()
    assert error_of(tmp_path) == f"{tmp_path / 'train' / 'green'}: no images in it; add some, or remove it"


def test_test_split_without_images(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "test" / "red").mkdir(parents=True)
    assert error_of(tmp_path) == f"{tmp_path / 'test'}: no images in it; add some, or remove it"


def test_unknown_class_in_test(tmp_path):
    write_class_folders(tmp_path, train=1, test=1)
    (tmp_path / "test" / "yellow").mkdir()
    assert error_of(tmp_path) == f"{tmp_path / 'test'}: class yellow is not among the classes of train/"


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "truncated"])
def test_damaged_image_is_named(tmp_path, content):
    write_class_folders(tmp_path)
    path = tmp_path / "train" / "blue" / "002.png"
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    message = error_of(tmp_path)
    assert message.startswith(f"{path}: ") and message.endswith("; replace or remove it")


# Validation split -----------------------------------------------------------------------------------------------------


def numbers(count):
    """A data set of images whose label, and every pixel, is their index."""
    x = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 8, 8, 3))
    return Dataset("", "numbers", ("a", "b"), Split(x, np.arange(count), "train"), None)


def test_validation_split_depends_on_the_seed_and_does_not_overlap():
    training, validation = split_validation(numbers(200), 0.25, seed=1)
    assert (len(training), len(validation)) == (150, 50)
    assert (training.name, validation.name) == ("train", "validation")
    assert validation.note == "50 images of the train split, held out by seed 1"
    assert sorted([*training.y, *validation.y]) == list(range(200))
    for split in (training, validation):
        np.testing.assert_array_equal(split.x[:, 0, 0, 0], split.y)

    _, same = split_validation(numbers(200), 0.25, seed=1)
    _, other = split_validation(numbers(200), 0.25, seed=2)
    np.testing.assert_array_equal(validation.y, same.y)
    assert set(validation.y) != set(other.y)


def test_validation_split_of_0_is_none():
    dataset = numbers(10)
    assert split_validation(dataset, 0, seed=1) == (dataset.train, None)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_validation_split_that_empties_one_side(fraction):
    with pytest.raises(
        UserError, match=rf"^validation_split {fraction}: .*\(192 images\); use another fraction, or 0 for none"
    ):
        split_validation(numbers(192), fraction, seed=0)


def test_checksum_covers_images_labels_and_order():
    x, y = colour_images(10)
    split = Split(x, y, "train")
    assert split.checksum() == Split(x.copy(), y.copy(), "other name").checksum()
    changed = x.copy()
    changed[3, 2, 1, 0] ^= 1
    for other in (Split(changed, y, "train"), Split(x, (y + 1) % 3, "train"), Split(x[::-1], y[::-1], "train")):
        assert other.checksum() != split.checksum()
