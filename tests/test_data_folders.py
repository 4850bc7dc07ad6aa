"""Reading class folders: layouts, names, and what is left out."""

import os
import shutil
import zlib

import numpy as np
import pytest
from conftest import LABELS, colour_images, noise, tiny_config
from PIL import Image

from eanet.data import describe, files, inspect, load_dataset
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


def test_other_files_are_listed_and_hidden_ones_ignored(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "red" / "notes.txt").write_text("red")
    (tmp_path / "train" / ".cache").mkdir()
    dataset = load(tmp_path)
    assert dataset.labels == ("blue", "green", "red") and len(dataset.train) == 15
    assert dataset.left_out == [{"path": "train/red/notes.txt", "reason": "not an image (.txt)"}]


# Layouts --------------------------------------------------------------------------------------------------------------


def draw(root, *names, size=20, fmt=None):
    """Write a noise image at each of the paths below `root`; they differ from each other."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(size, size, zlib.crc32(name.encode()))).save(path, fmt)
    return root


def sizes(dataset):
    found = inspect(dataset)
    return found["train"], found["validation"], found["test"], len(found["left_out"])


def two(split, count=2, suffix="png"):
    """Paths of `count` images of the classes cat and dog in a split, or in the root for ""."""
    return [f"{split}/{name}/{i}.{suffix}".lstrip("/") for name in ("cat", "dog") for i in range(count)]


LAYOUTS = {
    "flat": ([*two("")], (4, None, None, 0)),
    "upper case": ([*two("TRAIN"), *two("Valid", 1), *two("Test", 1)], (4, 2, 2, 0)),
    "dev and testing": ([*two("training"), *two("dev", 1), *two("testing", 1)], (4, 2, 2, 0)),
    "eval": ([*two("train"), *two("eval", 1)], (4, 2, None, 0)),
    "wrapped": ([*two("set/train"), *two("set/test", 1)], (4, None, 2, 0)),
    "wrapped twice": ([*two("a/b/train")], (4, None, None, 0)),
    "wrapped flat": ([*two("my set")], (4, None, None, 0)),
    "wrapped, next to a text": ([*two("set/train"), "README.txt"], (4, None, None, 1)),
    "split in itself": ([*two("train/train"), *two("test/test", 1)], (4, None, 2, 0)),
    "seg_train": ([*two("seg_train/seg_train"), *two("seg_test/seg_test", 1)], (4, None, 2, 0)),
    "training_set": ([*two("training_set/training_set"), *two("test_set", 1)], (4, None, 2, 0)),
    "nested in a class": (["train/cat/a/b/0.png", "train/cat/1.png", "train/dog/a/0.png"], (3, None, None, 0)),
    "nested in a flat class": (["cat/a/0.png", "cat/b/0.png", "dog/a/0.png"], (3, None, None, 0)),
    "train is a class": (["train/0.png", "bus/0.png", "car/0.png"], (3, None, None, 0)),
    "train is a nested class": (["train_station/0.png", "test_tube/0.png"], (2, None, None, 0)),
    "flat with val": ([*two(""), *two("val", 1)], (4, 2, None, 0)),
    "flat with images in test": ([*two(""), "test/7.png"], (4, None, None, 1)),
    "test without classes": ([*two("train"), "test/7.png", "test/8.png"], (4, None, None, 2)),
    "test with a folder that is no class": ([*two("train"), "test/unknown/7.png"], (4, None, None, 1)),
    "images above the classes": ([*two("train"), "cover.png", "train/cover.png"], (4, None, None, 2)),
    "next to train": ([*two("train"), "extra/7.png", "labels.pdf"], (4, None, None, 2)),
    "only test": ([*two("test")], (None, None, 4, 0)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(tmp_path, name):
    paths, expected = LAYOUTS[name]
    for path in paths:
        if path.endswith("png"):
            draw(tmp_path, path)
        else:
            (tmp_path / path).write_text("text")
    dataset = load_dataset(tmp_path, tiny_config(), need_train=False)
    assert sizes(dataset) == expected
    classes = {"train is a class": ("bus", "car", "train"), "train is a nested class": ("test_tube", "train_station")}
    assert dataset.labels == classes.get(name, ("cat", "dog"))


def test_only_a_test_split_cannot_be_trained_on(tmp_path):
    draw(tmp_path, *two("test"))
    assert error_of(tmp_path) == f"{tmp_path}: no training images in it, only a test split"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["train/cat/0.png"], ": train/ has 1 class(es) (cat); at least two classes are needed"),
        ([*two("train"), "train/emu/"], "/train/emu: no images in it; add some, or remove it"),
        (["cat/a/0.png", "cat/b/0.png", "emu/"], "/emu: no images in it; add some, or remove it"),
        ([*two("train"), "test/cat/"], "/test: no images in it; add some, or remove it"),
        ([*two("train"), "test/cat/0.png", "test/emu/"], "/test: class emu is not among the classes of train/"),
        ([*two("train"), "val/Cat/0.png"], "/val: class Cat is not among the classes of train/, which has cat"),
    ],
)
def test_classes_that_do_not_fit(tmp_path, paths, message):
    for path in paths:
        draw(tmp_path, path) if path.endswith("png") else (tmp_path / path).mkdir(parents=True)
    assert error_of(tmp_path) == f"{tmp_path}{message}"


def test_one_split_in_two_folders(tmp_path):
    draw(tmp_path, *two("train"), *two("val"), *two("valid"))
    assert error_of(tmp_path) == "val and valid: both are the validation split; put them into one folder"


def test_classes_of_a_model_may_be_more_and_in_another_order(tmp_path):
    draw(tmp_path, *two("test"))
    dataset = load_dataset(tmp_path, tiny_config(), labels=("dog", "emu", "cat"), need_train=False)
    assert dataset.labels == ("dog", "emu", "cat") and dataset.test.y.tolist() == [2, 2, 0, 0]
    with pytest.raises(UserError, match="class dog is not among the 2 classes of the model"):
        load_dataset(tmp_path, tiny_config(), labels=("cat", "emu"), need_train=False)


# Names and kinds of files ---------------------------------------------------------------------------------------------


def test_hidden_names_never_count(tmp_path):
    draw(tmp_path, *two("train"))
    copies = (".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/0.png", "@eaDir/0.png", ".thumbs/0.png")
    draw(tmp_path, *(f"train/cat/{name}" for name in copies), "__MACOSX/train/cat/0.png", ".git/0.png")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "train" / "dog" / name).write_bytes(b"\0" * 9)
    assert sizes(load(tmp_path)) == (4, None, None, 0)


def test_class_names_are_composed(tmp_path):
    draw(tmp_path, "train/cafe\u0301/0.png", "train/tea/0.png", "val/caf\u00e9/0.png", "val/tea/0.png")
    dataset = load(tmp_path)
    assert dataset.labels == ("caf\u00e9", "tea") and dataset.validation.y.tolist() == [0, 1]


def test_both_forms_of_a_name_are_one_class(tmp_path):
    draw(tmp_path, "cafe\u0301/0.png", "caf\u00e9/0.png", "tea/0.png")
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system composes names")
    assert load(tmp_path).train.y.tolist() == [0, 0, 1]


def test_class_name_that_is_not_text(tmp_path):
    draw(tmp_path, *two("train"))
    try:
        os.rename(tmp_path / "train" / "cat", os.fsencode(tmp_path / "train") + b"/c\xe4t")
    except OSError:
        pytest.skip("this file system refuses such names")
    assert error_of(tmp_path) == r"train/c\udce4t: the name of this class folder is not UTF-8 text; rename it"


def test_file_name_that_is_not_text(tmp_path):
    draw(tmp_path, *two("train"))
    try:
        os.rename(tmp_path / "train" / "cat" / "0.png", os.fsencode(tmp_path / "train") + b"/cat/c\xe4t.png")
        (tmp_path / "train" / "dog" / os.fsdecode(b"\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system refuses such names")
    dataset = load(tmp_path)
    assert len(dataset.train) == 4 and dataset.left_out[0]["path"] == r"train/dog/\udcff.txt"


@pytest.mark.parametrize("suffix", ["BMP", "gif", "tiff", "TIF", "webp", "jpeg", "JPG", "ppm"])
def test_formats(tmp_path, suffix):
    draw(tmp_path, *two("train", suffix=suffix))
    assert sizes(load(tmp_path)) == (4, None, None, 0)


def test_files_without_a_suffix_are_opened_by_content(tmp_path):
    draw(tmp_path, "cat/0", "cat/scan.0007", "dog/2024.01", fmt="PNG")
    draw(tmp_path, "dog/0.png")
    (tmp_path / "dog" / "LICENSE").write_text("text")
    (tmp_path / "dog" / "empty").write_bytes(b"")
    dataset = load(tmp_path)
    assert sizes(dataset) == (4, None, None, 2)
    assert {entry["reason"] for entry in dataset.left_out} == {"not an image"}


def test_linked_files_and_folders(tmp_path):
    draw(tmp_path / "blobs", *two(""))
    (tmp_path / "set" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "train" / "dog").symlink_to(tmp_path / "blobs" / "dog")
    for i in range(2):
        (tmp_path / "set" / "train" / "cat" / f"{i}.png").symlink_to(tmp_path / "blobs" / "cat" / f"{i}.png")
    (tmp_path / "set" / "train" / "cat" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    dataset = load(tmp_path / "set")
    assert len(dataset.train) == 4
    assert sorted(dataset.left_out, key=str) == [
        {"path": "train/cat/gone.png", "reason": "a broken link"},
        {"path": "train/cat/loop", "reason": "a link to a folder that it is in"},
    ]


def test_pipe_is_not_opened(tmp_path):
    draw(tmp_path, *two("train"))
    os.mkfifo(tmp_path / "train" / "cat" / "a.png")
    assert load(tmp_path).left_out == [{"path": "train/cat/a.png", "reason": "not a regular file"}]


@pytest.mark.parametrize("images", [20, 2])
def test_folder_that_cannot_be_listed_is_counted_as_broken(images, tmp_path, monkeypatch):
    draw(tmp_path, *two("train", images), "train/cat/inner/0.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(files.os, "scandir", refuse)
    reason = "a folder that cannot be listed (Permission denied); change its permissions"
    if images == 20:
        assert load(tmp_path).left_out == [{"path": "train/cat/inner/", "reason": reason}]
    else:  # too few images for that to be less than a tenth
        assert f"train/cat/inner/: {reason}" in error_of(tmp_path)


def test_class_that_lists_of_files_leave_to_the_test_split_is_measured(tmp_path):
    kinds = ("cat", "cow", "dog")
    draw(tmp_path, *(f"{kind}/{i}.png" for kind in kinds for i in range(10)))
    for split, numbers, listed in (("train", range(8), ("cat", "dog")), ("test", range(8, 10), kinds)):
        (tmp_path / f"{split}.txt").write_text("".join(f"{kind}/{i}\n" for kind in listed for i in numbers))
    with (tmp_path / "test.txt").open("a") as file:
        file.writelines(f"cow/{i}\n" for i in range(8))
    dataset = load_dataset(tmp_path, tiny_config(), labels=kinds, need_train=False)
    assert sizes(dataset) == (16, None, 14, 2) and (dataset.test.y == 1).sum() == 10
    assert error_of(tmp_path).endswith("class cow of the test split is not among the classes of the training split")


# Broken images --------------------------------------------------------------------------------------------------------


@pytest.fixture
def forty(tmp_path):
    """Forty images of two classes."""
    return draw(tmp_path / "set", *two("train", 20))


def damage(root, *paths):
    for path in paths:
        (root / path).write_bytes(b"")


def test_each_kind_of_damage_is_listed(forty):
    cat = forty / "train" / "cat"
    (cat / "0.png").write_bytes(b"")
    (cat / "1.png").write_text("<html>404 Not Found</html>")
    (cat / "2.png").write_bytes((cat / "2.png").read_bytes()[:700])
    (cat / "3.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    dataset = load(forty)
    reasons = {entry["path"][10:]: entry["reason"] for entry in dataset.left_out}
    assert (reasons["0.png"], reasons["1.png"]) == ("empty file", "unknown image format")
    assert reasons["2.png"].startswith("damaged image (") and "git lfs pull" in reasons["3.png"]
    assert len(dataset.train) == 36 and len(reasons) == 4
    text = describe(dataset)
    assert text.count("\n") == 2 and "36 train, no validation split, no test split" in text
    assert "left out: 4 files: 1 empty file" in text and "(`git lfs pull`)" in text


def test_more_than_a_tenth_is_too_much(forty):
    damage(forty, *(f"train/cat/{i}.png" for i in range(4)))
    assert len(load(forty).train) == 36
    damage(forty, "train/dog/0.png")
    message = error_of(forty)
    assert message == f"{forty}: 5 of 40 images cannot be read, more than a tenth; first train/cat/0.png: empty file"


def test_class_that_loses_everything(forty):
    draw(forty, "train/emu/0.png")
    damage(forty, "train/emu/0.png")
    reason = "none of its 1 images can be read; first train/emu/0.png: empty file"
    assert error_of(forty) == f"{forty}/train/emu: {reason}"


def test_strict_stops_at_any(forty):
    (forty / "train" / "cat" / "notes.txt").write_text("text")
    with pytest.raises(UserError, match="1 file cannot be read, and strict is on; first train/cat/notes.txt: not an image"):
        load_dataset(forty, tiny_config(), strict=True)


def test_heic_is_read(forty):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64))).save(forty / "train" / "cat" / "IMG_1.HEIC")
    assert sizes(load(forty)) == (41, None, None, 0)


def test_oversized_image(forty):
    Image.new("1", (14000, 14000)).save(forty / "train" / "cat" / "map.png")
    assert load(forty).left_out[0]["reason"].startswith("too large: ")


def test_imbalance_is_described(tmp_path):
    draw(tmp_path, *(f"cat/{i}.png" for i in range(7)), "dog/0.png", "dog/1.png")
    assert "unbalanced, from 2 images (dog) to 7 (cat)" in describe(load(tmp_path))


def test_images_of_two_splits_are_counted(tmp_path):
    draw(
        tmp_path, *(f"train/{name}.png" for name in ("cat/0", "cat/1", "dog/0", "dog/1")), "test/cat/9.png", "test/dog/9.png"
    )
    assert describe(load(tmp_path)).splitlines()[1] == "images: 4 train, no validation split, 2 test"
    shutil.copyfile(tmp_path / "train/cat/0.png", tmp_path / "test/cat/8.png")
    assert "no validation split, 3 test (1 of them also in train)" in describe(load(tmp_path))
