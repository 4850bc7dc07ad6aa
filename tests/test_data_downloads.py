"""Folders and tables as well-known data sets and programs write them, where a first look misleads."""

import json
import re
import zipfile

import numpy as np
import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import inspect, load_dataset
from eanet.images import load_image
from modeling_eanet import UserError


def draw(root, *names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(i))
    return root


def png(seed):
    return encoded(noise(12, 12, seed), "PNG").read()


def many(pattern, classes=("cat", "dog"), count=4):
    """Paths of `count` images of each class; `pattern` has {name} and {i}."""
    return [pattern.format(name=name, i=i) for name in classes for i in range(count)]


def read(root):
    """Return the class names, the images in train, validation and test, and the reasons for what is left out."""
    dataset = load_dataset(root, tiny_config())
    found = inspect(dataset)
    reasons = {re.split(r":| \(row", entry["reason"])[0] for entry in dataset.left_out}
    return dataset.labels, tuple(found[split] or 0 for split in ("train", "validation", "test")), reasons


def error_of(root):
    with pytest.raises(UserError) as caught:
        load_dataset(root, tiny_config())
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{root}")


# Folders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (many("{name}/{i}.png") + many("cells/{name}/{i}.png"), "/cells: holds folders of the other classes"),
        (many("data/data/train/{name}/{i}.png") + ["test/test/1.png"], "/data: holds data/data/train"),
        (
            many("data/train/{name}/{i}.png") + many("data/val/{name}/{i}.png") + ["x/0.png"],
            "/data: holds data/train and data/val",
        ),
        (many("{name}/train/a/{i}.png", ("fold_0", "fold_1")), "/fold_0: holds fold_0/train"),
    ],
)
def test_a_data_set_among_the_classes_is_no_class(names, says, tmp_path):
    draw(tmp_path, *names)
    assert error_of(tmp_path) == f"{says}, and is no class; give it as the data, or move it elsewhere"


@pytest.mark.parametrize(
    "inner", [["train 1"], ["left"], ["bar"], ["test1", "test2"], ["dev1", "dev2"], ["day", "night", "test"]]
)
def test_folders_in_class_folders_are_not_taken_for_data_sets(inner, tmp_path):
    draw(tmp_path, *(name for folder in inner for name in many("{name}/" + folder + "/{i}.png", ("bar", "cat", "dog"))))
    assert read(tmp_path) == (("bar", "cat", "dog"), (12 * len(inner), 0, 0), set())


def test_splits_in_class_folders_may_have_folders(tmp_path):
    draw(tmp_path, *many("{name}/train/day 1/{i}.png"), *many("{name}/test/day 2/{i}.png"))
    assert read(tmp_path)[:2] == (("cat", "dog"), (8, 0, 8))


def test_letters_that_divide_the_classes(tmp_path):
    draw(tmp_path, *many("SUN/{name}/{i}.png", ("a/abbey", "a/airport", "b/bar")))
    assert read(tmp_path) == (("abbey", "airport", "bar"), (12, 0, 0), set())


@pytest.mark.parametrize("inner", ["left", "{name}_left", "{name}1"])
def test_letters_that_are_the_classes(inner, tmp_path):
    draw(tmp_path, *many("{name}/" + inner + "/{i}.png", ("A", "B", "0")))
    assert read(tmp_path)[0] == ("0", "A", "B")


@pytest.mark.parametrize("pattern", ["{name}/masks/{i}.png", "{name}/images/{i}_mask.png", "{name}/images/{i}_mask_1.png"])
def test_masks_are_no_images(pattern, tmp_path):
    draw(tmp_path, *many("{name}/images/{i}.png"), *many(pattern))
    assert read(tmp_path) == (("cat", "dog"), (8, 0, 0), {"a mask, for segmentation"})


def test_what_is_only_called_a_mask_is_an_image(tmp_path):
    draw(tmp_path, *many("{name}/{i}_mask.png", ("with_mask", "without_mask")))
    assert read(tmp_path) == (("with_mask", "without_mask"), (8, 0, 0), set())
    draw(tmp_path / "cars", *many("{name}/focus{i}.png"), *many("{name}/focus{i}_gt.png"))
    assert read(tmp_path / "cars") == (("cat", "dog"), (16, 0, 0), set())


def test_parts_of_a_download_belong_together(tmp_path):
    for part, names in {1: many("set/cat/{i}.png"), 2: many("set/cat/1{i}.png"), 3: many("set/dog/{i}.png")}.items():
        with zipfile.ZipFile(tmp_path / f"set-20240101T000000Z-00{part}.zip", "w") as archive:
            for i, name in enumerate(dict.fromkeys(names)):
                archive.writestr(name, png(10 * part + i))
    assert read(tmp_path) == (("cat", "dog"), (12, 0, 0), set())


# Splits ---------------------------------------------------------------------------------------------------------------


def test_shards_whose_names_hold_the_split(tmp_path):
    for split, count in (("train", 6), ("validation", 4)):
        with zipfile.ZipFile(tmp_path / f"pets1k-{split}-0000.zip", "w") as archive:
            for i in range(count):
                archive.writestr(f"{i}.png", png(i))
                archive.writestr(f"{i}.cls", str(i % 2))
    assert read(tmp_path)[:2] == (("0", "1"), (6, 4, 0))


@pytest.mark.parametrize("shards", ["taste-test-food-000{}.zip", "mydata-{}.zip"])
def test_shards_whose_names_hold_no_split(shards, tmp_path):
    for number in (0, 1):
        with zipfile.ZipFile(tmp_path / shards.format(number), "w") as archive:
            for i in range(6):
                archive.writestr(f"{i}.png", png(6 * number + i))
                archive.writestr(f"{i}.json", json.dumps({"label": "ab"[i % 2]}))
    assert read(tmp_path)[:2] == (("a", "b"), (12, 0, 0))


def test_parquet_files_whose_names_hold_the_split(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split, count in (("train", 6), ("validation", 2), ("test", 4)):
        columns = {"image": [png(i) for i in range(count)], "label": ["cat", "dog"] * (count // 2)}
        parquet.write_table(pyarrow.table(columns), tmp_path / f"beans-{split}.parquet")
    assert read(tmp_path)[:2] == (("cat", "dog"), (6, 2, 4))


def test_the_first_of_several_divisions_counts(tmp_path):
    images = draw(tmp_path, *many("images/{name}/{i}.png", count=6))
    for number in range(1, 11):
        for k, split in enumerate(("train", "val", "test")):
            chosen = [f"{name}/{(2 * k + i + number) % 6}.png\n" for name in ("cat", "dog") for i in range(2)]
            (images / "labels").mkdir(exist_ok=True)
            (images / "labels" / f"{split}{number}.txt").write_text("".join(chosen))
    assert read(tmp_path) == (("cat", "dog"), (4, 4, 4), {"not an image (.txt)"})


@pytest.mark.parametrize("names", [("train_80", "test_20"), ("train1", "test"), ("train1", "train2", "test")])
def test_numbers_of_lists_that_are_no_divisions(names, tmp_path):
    images = many("{name}/{name}{i}.png", count=10)
    draw(tmp_path, *images)
    train, test = ([name for name in images if (name[7] in "89") == held_out] for held_out in (False, True))
    parts = {2: (train,), 3: (train[::2], train[1::2])}[len(names)]
    for name, part in zip(names, (*parts, test), strict=True):
        (tmp_path / f"{name}.txt").write_text("\n".join(part))
    assert read(tmp_path)[:2] == (("cat", "dog"), (16, 0, 4))


# Tables ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nid;file;label;split\r\n"
        + "".join(f"9;{i}.png;{'ab'[i % 2]};{'train' if i < 8 else 'test'}\r\n" for i in range(12)),
        '"file","label","split"\n'
        + "".join(f'"{i + 1}","{i}.png","{"ab"[i % 2]}","{"train" if i < 8 else "test"}"\n' for i in range(12)),
    ],
    ids=["Excel", "R"],
)
def test_a_table_with_more_cells_than_its_first_line(text, tmp_path):
    draw(tmp_path, *(f"{i}.png" for i in range(12)))
    (tmp_path / "data.csv").write_bytes(text.encode())
    assert read(tmp_path) == (("a", "b"), (8, 0, 4), set())


def test_a_column_without_a_name_is_not_taken_for_row_names(tmp_path):
    draw(tmp_path, *(f"{i}.png" for i in range(8)))
    rows = "".join(f"{i}.png,{'cat' if i % 2 else 'dog'},{'day' if i < 4 else 'night'}\n" for i in range(8))
    (tmp_path / "data.csv").write_text(f"file,label\n{rows}")
    assert read(tmp_path)[0] == ("cat", "dog")


def test_a_list_whose_later_labels_have_spaces_is_not_cut_off(tmp_path):
    draw(tmp_path, *(f"img_{i:03}.png" for i in range(130)))
    labels = ["cat", "dog"] * 60 + ["golden retriever", "golden eagle"] * 5
    (tmp_path / "list.txt").write_text("".join(f"img_{i:03} {label}\n" for i, label in enumerate(labels)))
    assert "golden" not in error_of(tmp_path)


@pytest.mark.parametrize("header", ["file_name,width,type", "file_name,x,y"])
def test_metadata_of_something_else_than_the_class(header, tmp_path):
    names = many("{name}/{i}.png")
    draw(tmp_path, *names)
    (tmp_path / "metadata.csv").write_text(f"{header}\n" + "".join(f"{n},{i},{i % 3}\n" for i, n in enumerate(names)))
    assert read(tmp_path) == (("cat", "dog"), (8, 0, 0), {"not an image (.csv)"})


@pytest.mark.parametrize("header", ["file_name,grade", "file_name,age,grade,label"])
def test_metadata_of_nothing_else_than_the_class(header, tmp_path):
    names = many("{name}/{i}.png", ("patient 1", "patient 2"))
    draw(tmp_path, *names)
    cells = "9,9," if "age" in header else ""
    (tmp_path / "metadata.csv").write_text(f"{header}\n" + "".join(f"{n},{cells}{i % 2}\n" for i, n in enumerate(names)))
    assert read(tmp_path) == (("0", "1"), (8, 0, 0), set())


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_files_next_to_images_in_class_folders_of_an_archive(suffix, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, name in enumerate(many("set/{name}/{i}.png")):
            archive.writestr(name, png(i))
            text = "photo" if i % 2 else "video"
            archive.writestr(name.replace(".png", suffix), json.dumps({"type": text}) if suffix == ".json" else text)
    assert read(tmp_path / "set.zip")[:2] == (("cat", "dog"), (8, 0, 0))


def test_a_table_whose_names_are_those_of_several_files(tmp_path):
    draw(tmp_path, *many("{name}/{i}.png", ("full", "small")))
    (tmp_path / "labels.csv").write_text("image,level\n" + "".join(f"{i},{i % 2}\n" for i in range(4)))
    assert error_of(tmp_path) == ": labels.csv: 0: may be full/0.png or small/0.png; keep one of them"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.csv", "id,label\n0,cat\n1,dog\n"),
        ("log.jsonl", '{"a": 1}\n{"a"'),
        ("all.csv", "image,label\n" + "".join(f"{i}.png,{name}\n" for name in ("cat", "dog") for i in range(4))),
        ("some.csv", "image,quality_label\n0.png,good\n1.png,bad\n"),
        ("all.csv", "image,quality\n" + "".join(f"{i}.png,{i}\n" for i in (0, 1, 2, 3, 0, 1, 2, 3))),
    ],
)
def test_other_tables_next_to_class_folders_with_equal_names(name, text, tmp_path):
    draw(tmp_path, *many("{name}/{i}.png"))
    (tmp_path / name).write_text(text)
    assert read(tmp_path)[:2] == (("cat", "dog"), (8, 0, 0))


def test_a_table_whose_names_are_those_of_no_file(tmp_path):
    draw(tmp_path, *(f"img/{i:05}.png" for i in range(6)))
    (tmp_path / "data.csv").write_text("id,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(6)))
    assert error_of(tmp_path) == ": data.csv: 0: no such file"


def test_images_of_several_classes_are_left_out(tmp_path):
    draw(tmp_path, *(f"{i}.png" for i in range(10)))
    boxes = "".join(f"{i}.png,{'cat' if i % 2 else 'dog'},1,2,3,4\n" for i in range(10)) + "0.png,cat,5,6,7,8\n"
    (tmp_path / "annotations.csv").write_text(f"filename,class,xmin,ymin,xmax,ymax\n{boxes}")
    assert read(tmp_path) == (("cat", "dog"), (9, 0, 0), {"several labels"})
    labels = ["Effusion", "No Finding"] * 4 + ["Effusion|Mass", "Mass"]
    findings = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    (tmp_path / "annotations.csv").write_text(f"Image Index,Finding Labels\n{findings}")
    assert read(tmp_path) == (("Effusion", "Mass", "No Finding"), (9, 0, 0), {"several labels"})
    (tmp_path / "annotations.csv").write_text(
        "file,label\n" + "".join(f"{i}.png,{'a|b' if i % 2 else 'c|d'}\n" for i in range(10))
    )
    assert read(tmp_path)[0] == ("a|b", "c|d")


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_deep_tiff_with_small_values_is_as_bright_as_its_array():
    values = noise(32, 32, 0)[..., 0].astype(np.uint16)
    found = load_image(encoded(values, "TIFF"), tiny_config(image_size=32))
    assert found.max() > 200
    np.testing.assert_array_equal(found, load_image(values, tiny_config(image_size=32)))
