"""Images with their class in a file next to them."""

import json
import zipfile

import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import load_dataset


@pytest.fixture(params=["folder", "zip"])
def written(request, tmp_path):
    """Return a function that writes {name: content, or None for an image}, and returns the path."""

    def write(content):
        images = {name: encoded(noise(12, 12, i), "PNG").read() for i, name in enumerate(content)}
        content = {name: images[name] if data is None else data for name, data in content.items()}
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
            return tmp_path / "set.zip"
        for name, data in content.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data) if isinstance(data, bytes) else path.write_text(data)
        return tmp_path / "set"

    return write


def read(path):
    """Return the labels of the training images, and the paths of the files that are left out."""
    dataset = load_dataset(path, tiny_config())
    return [dataset.labels[i] for i in dataset.train.y], [entry["path"] for entry in dataset.left_out]


def label(name):
    return json.dumps({"label": name})


@pytest.mark.parametrize("suffix", ["json", "png.json"])
def test_names_with_several_dots_lose_no_image(written, suffix):
    content = {}
    for name, kind in (("a.1", "cat"), ("a.2", "dog"), ("a.3", "cat"), ("b.1", "dog"), ("b.2", "cat"), ("b.3", "dog")):
        content |= {f"{name}.png": None, f"{name}.{suffix}": label(kind)}
    assert read(written(content)) == (["cat", "dog", "cat", "dog", "cat", "dog"], [])


def test_several_images_of_a_sample_have_its_class(written):
    content = {}
    for i, kind in enumerate(("cat", "dog")):
        content |= {f"{i}.left.png": None, f"{i}.right.png": None, f"{i}.cls": kind}
    assert read(written(content)) == (["cat", "cat", "dog", "dog"], [])


def test_names_up_to_the_first_dot_are_those_of_a_sample(written):
    content = {}
    for i, kind in enumerate(("cat", "dog", "cat")):
        content |= {f"{i}.input.png": None, f"{i}.target.cls": kind}
    assert read(written(content)) == (["cat", "dog", "cat"], [])


def test_other_images_of_a_sample_are_left_out(written):
    content = {}
    for i, kind in enumerate(("cat", "dog")):
        content |= {f"{i}.png": None, f"{i}.mask.png": None, f"{i}.cls": kind, f"{i}.json": "{}"}
    assert read(written(content)) == (["cat", "dog"], ["0.mask.png", "1.mask.png"])


def test_captions_of_two_formats_of_an_image_are_no_classes(written):
    content = {"cats/0.png": None, "cats/1.png": None, "dogs/2.png": None}
    content |= {f"{name[:-4]}.webp": None for name in content}
    content |= {f"{name[:-5]}.txt": f"caption {name}" for name in [*content] if name.endswith("webp")}
    labels, left_out = read(written(content))
    assert labels == ["cats"] * 4 + ["dogs"] * 2 and len(left_out) == 3


def test_what_belongs_to_no_image_is_left_out(written):
    content = {"notes.txt": "text", "other.json": label("cat"), "x.bin": "x"}
    for i in range(20):
        content |= {f"a.{i:02}.png": None, f"a.{i:02}.json": label(("cat", "dog")[i % 2])}
    del content["a.07.json"]
    labels, left_out = read(written(content))
    assert labels == [("cat", "dog")[i % 2] for i in range(20) if i != 7]
    assert left_out == ["a.07.png", "notes.txt", "other.json", "x.bin"]
