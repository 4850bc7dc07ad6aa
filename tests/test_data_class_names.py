"""Names of numbered classes: which files tell them, and which only look so."""

import json

import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import load_dataset
from eanet.data.class_names import name_classes
from eanet.data.decode import Sample
from eanet.data.files import Folder, LeftOut
from eanet.data.folders import Listing

PETS = ("cat", "dog", "emu")


def named(files, numbers=(0, 1, 2), labels=None, images="img_{:04d}.jpg"):
    """Return the classes of a table with `numbers` next to `files`, and why files are not used."""
    root, left_out = Folder(), LeftOut()
    for name, content in files.items():
        content = content if isinstance(content, str | bytes) else json.dumps(content)
        root.add(tuple(name.split("/")), lambda c=content: c.encode() if isinstance(c, str) else c)
        left_out.add(name, "not an image")
    samples = [Sample(images.format(i), b"", str(numbers[i % len(numbers)])) for i in range(4 * len(numbers))]
    listing = Listing({"train": samples}, labels=tuple(map(str, numbers)))
    name_classes(listing, root, left_out, labels)
    assert [sample.label for sample in samples] == [listing.labels[i % len(numbers)] for i in range(len(samples))]
    return listing.labels, {e["path"]: e["reason"].split(": ")[1] for e in left_out.entries if ": " in e["reason"]}


NAMES = {
    "lines": ("classes.txt", "cat\ndog\nemu\n"),
    "no last line end": ("labels.txt", "cat\ndog\nemu"),
    "CRLF": ("obj.names", "cat\r\ndog\r\nemu\r\n"),
    "BOM": ("classes.txt", "cat\ndog\nemu\n".encode("utf-8-sig")),
    "UTF-16": ("classes.txt", "cat\ndog\nemu\n".encode("utf-16")),
    "blank last lines": ("classes.txt", "cat\ndog\nemu\n\n  \n"),
    "comments": ("classes.txt", "# pets\ncat\ndog\n// birds\nemu\n"),
    "quotes": ("classes.txt", '"cat"\n"dog"\n"emu"\n'),
    "numbers and spaces": ("classes.txt", "0 cat\n1 dog\n2 emu\n"),
    "numbers and commas": ("classes.txt", "0,cat\n1,dog\n2,emu\n"),
    "numbers and colons": ("classes.txt", "0: cat\n1: dog\n2: emu\n"),
    "numbers and dots": ("classes.txt", "0. cat\n1. dog\n2. emu\n"),
    "header": ("classes.txt", "class_id,class_name\n0,cat\n1,dog\n2,emu\n"),
    "another order": ("classes.txt", "2 emu\n0 cat\n1 dog\n"),
    "more numbers": ("classes.txt", "0 cat\n1 dog\n2 emu\n3 fox\n"),
    "number last": ("class_to_idx.txt", "emu 2\ncat 0\ndog 1\n"),
    "JSON list": ("classes.json", PETS),
    "JSON with BOM": ("classes.json", json.dumps(PETS).encode("utf-8-sig")),
    "JSON by number": ("label_map.json", {"1": "dog", "0": "cat", "2": "emu"}),
    "JSON by name": ("class_to_idx.json", {"emu": 2, "cat": 0, "dog": 1}),
    "JSON by number, and more": ("label_map.json", {"version": "1", "0": "cat", "1": "dog", "2": "emu", "3": "fox"}),
    "below": ("meta/names.txt", "cat\ndog\nemu\n"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert named(dict([NAMES[name]])) == (PETS, {})


def test_names_that_hold_numbers():
    cars = ("Boeing 737", "Airbus 320", "0-2 years")
    assert named({"classes.txt": "\n".join(cars)})[0] == cars
    birds = ("001.Albatross", "002.Auklet", "003.Bunting")
    assert named({"classes.txt": "".join(f"{i} {name}\n" for i, name in enumerate(birds))})[0] == birds


@pytest.mark.parametrize("name", ["classes.txt", "classes.json"])
def test_first_number(name):
    def content(*names):
        return "\n".join(names) if name.endswith("txt") else names

    assert named({name: content(*PETS)}, (1, 2, 3))[0] == PETS
    assert named({name: content(*PETS)}, (1, 3))[0] == ("cat", "emu")
    assert named({name: content(*PETS)}, (0, 2))[0] == ("cat", "emu")
    assert named({name: content("__background__", *PETS)}, (1, 2, 3))[0] == PETS


def test_list_that_may_begin_at_0_or_1():
    labels, reasons = named({"classes.txt": "cat\ndog\nemu\n"}, (1, 2))
    assert labels == ("1", "2")
    assert reasons == {"classes.txt": "its first line may be class 0 or 1; write the numbers, as in `1 cat`"}
    assert named({"classes.json": PETS}, (1, 2))[0] == ("dog", "emu")


IMAGES = [f"img_{i:04d}" for i in range(12)]
NO_NAMES = {
    "labels of images": ("train_labels.txt", "".join(f"{name}.jpg {i % 3}\n" for i, name in enumerate(IMAGES))),
    "labels of other images": ("val_labels.txt", "val/a.jpg 0\nval/b.jpg 1\nval/c.jpg 2\n"),
    "labels of images without suffix": ("train_labels.txt", "".join(f"{name} {i % 3}\n" for i, name in enumerate(IMAGES))),
    "images": ("labels.txt", "".join(f"{name}.jpg\n" for name in IMAGES[:3])),
    "images without suffix": ("labels.txt", "\n".join(IMAGES[:3])),
    "paths of images": ("classmap.txt", "".join(f"data/train/{name}\n" for name in IMAGES[:3])),
    "paths of Windows": ("classmap.txt", "".join(f"C:\\set\\{name}.JPG\n" for name in IMAGES[:3])),
    "file names": ("filenames.txt", "x\ny\nz\n"),
    "image names": ("image_names.json", ["x", "y", "z"]),
    "JSON of images": ("labels.json", {f"{name}.jpg": i % 3 for i, name in enumerate(IMAGES)}),
    "JSON of an image per class": ("labels.json", {f"{name}.jpg": i for i, name in enumerate(IMAGES[:3])}),
    "JSON of images without suffix": ("labels.json", {name: i for i, name in enumerate(IMAGES[:3])}),
    "JSON of images in order": ("labels.json", {str(i): f"{name}.jpg" for i, name in enumerate(IMAGES)}),
    "JSON list of images": ("labels.json", [f"{name}.jpg" for name in IMAGES[:3]]),
    "JSON with one number twice": ("labels.json", {"cat": 0, "dog": 1, "emu": 1}),
    "JSON of truth": ("labels.json", {"cat": False, "dog": True, "emu": 2}),
    "JSON of other things": ("labels.json", [{"id": 0, "name": "cat"}]),
    "JSON list with a hole": ("labels.json", ["cat", None, "emu"]),
    "damaged JSON": ("labels.json", "{"),
    "deep JSON": ("labels.json", "[" * 100_000),
    "numbers of images": ("labels.txt", "0 2\n1 0\n2 1\n"),
    "numbers": ("labels.txt", "2\n0\n1\n"),
    "one number twice": ("labels.txt", "0 cat\n0 dog\n1 emu\n"),
    "empty": ("classes.txt", "\n# none\n"),
    "next to its image": ("img_0000.json", {"name": 0, "map": 1, "class": 2}),
}


@pytest.mark.parametrize("name", NO_NAMES)
def test_other_files_are_no_names(name):
    assert named(dict([NO_NAMES[name]])) == (("0", "1", "2"), {})


def test_file_next_to_an_image_is_about_it():
    assert named({"map_0.json": {"name": 0, "class": 1}}, (0, 1), images="map_{}.jpg") == (("0", "1"), {})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("classes.txt", "cat\ndog\n", "2 names for the classes 0 to 2"),
        ("classes.txt", "cat\ndog\nemu\nfox\n", "4 names for the classes 0 to 2"),
        ("classes.json", ["cat", "dog", "emu", "fox"], "4 names for the classes 0 to 2"),
        ("classes.json", {"cat": 0, "dog": 1, "emu": 2, "fox": 3}, "4 names for the classes 0 to 2"),
        ("classes.json", {"0": "cat", "1": "dog"}, "no name for class 2"),
        ("classes.txt", "1 cat\n2 dog\n3 emu\n", "no name for class 0"),
        ("classes.txt", "cat\ndog\ncat\n", "two classes have the same name"),
        ("classes.txt", "caf\xe9\ndog\nemu\n".encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
    ],
)
def test_names_that_do_not_fit(name, content, reason):
    assert named({name: content}) == (("0", "1", "2"), {name: reason})


def test_numbers_that_may_be_images():
    captions = "".join(f"{i} a photo of {i}\n" for i in range(12))
    assert named({"labels.txt": captions}, images="{}.jpg")[1] == {"labels.txt": "its numbers may be classes or images"}
    assert named({"labels.txt": "0 cat\n1 dog\n2 emu\n"}, images="{}.jpg") == (PETS, {})


def test_files_that_agree():
    files = {"classes.txt": "cat\ndog\nemu\n", "label_map.json": {"0": "cat", "1": "dog", "2": "emu"}, "labels.txt": "fox\n"}
    assert named(files) == (PETS, {})


def test_files_that_disagree():
    labels, reasons = named({"classes.txt": "cat\ndog\nemu\n", "labels.txt": "emu\ndog\ncat\n", "names.txt": "cat\n"})
    assert labels == ("0", "1", "2")
    assert reasons == {
        "classes.txt": "differs from labels.txt",
        "labels.txt": "differs from classes.txt",
        "names.txt": "1 name for the classes 0 to 2",
    }


def test_classes_of_a_model():
    """The data may have fewer than the model, whose names then tell how many there are."""
    files = {"class_to_idx.json": {"cat": 0, "dog": 1, "emu": 2}}
    assert named(files, (0, 1))[0] == ("0", "1")
    assert named(files, (0, 1), PETS)[0] == ("cat", "dog")
    assert named(files, (0, 1), ("0", "1"))[0] == ("0", "1")


TABLES = {
    "train_labels.txt": "".join(f"{i}.png {i % 2}\n" for i in range(6)),
    "labels.json": json.dumps({f"{i}.png": i % 2 for i in range(6)}),
    "labels.csv": "file,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(6)),
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("other", [{}, {"filenames.txt": "0.png\n1.png\n"}, {"val_labels.txt": "0 1\n1 0\n"}])
def test_tables_do_not_name_their_classes(tmp_path, table, other):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(encoded(noise(12, 12, i), "PNG").read())
    for name, content in {table: TABLES[table], **other}.items():
        (tmp_path / name).write_text(content)
    assert load_dataset(tmp_path, tiny_config()).labels == ("0", "1")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = load_dataset(tmp_path, tiny_config())
    assert dataset.labels == ("cat", "dog") and dataset.train.y.tolist() == [0, 1] * 3
