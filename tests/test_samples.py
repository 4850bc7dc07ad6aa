"""Sample images of a person's own data: which are chosen, and that they go up only when asked for."""

import json

import numpy as np
import pytest
from conftest import LABELS, MeanColour, colour_images, paint, tiny_config
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from eanet.data import Split
from eanet.hub import card_facts
from eanet.hub.samples import KEPT, choose_samples, publish_samples, write_samples
from modeling_eanet import UserError


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((9, 9, 9), (2, 2, 2)), ((9, 1, 9), (3, 1, 2)), ((1, 1), (1, 1)), ((5,) * 20, None)],
)
def test_samples_are_of_as_many_classes_as_possible(sizes, expected):
    y = np.repeat(np.arange(len(sizes)), sizes)
    chosen = y[choose_samples(y)]
    assert len(chosen) == min(6, len(y)) and sorted(chosen) == list(chosen)
    counts = np.bincount(chosen, minlength=len(sizes))
    assert sorted(counts[counts > 0]) == (sorted(expected) if expected else [1] * 6)


@pytest.fixture
def staged(tmp_path):
    """A run, and a staging folder with its configuration."""
    for name in ("run", "staged"):
        (tmp_path / name).mkdir()
    (tmp_path / "staged" / "config.json").write_text(json.dumps(tiny_config().to_dict()))
    return tmp_path / "run", tmp_path / "staged"


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_samples_that_the_run_kept(staged):
    run, folder = staged
    x, y = colour_images(30)
    write_samples(run / KEPT, Split(x, y, "test"), LABELS)
    names = [f"{label}_{i}.png" for label in ("blue", "green", "red") for i in (1, 2)]
    assert files_in(run / KEPT) == names and files_in(folder) == ["config.json"]
    publish_samples(run, folder)
    assert files_in(folder / "samples") == names
    found = card_facts.sample_answers(folder, MeanColour())
    assert [sample["label"] for sample in found] == ["blue", "blue", "green", "green", "red", "red"]
    assert all(sample["top1"] for sample in found)


def test_what_somebody_put_in_place_of_the_samples(staged, tmp_path):
    run, folder = staged
    paint(tmp_path / "private" / "red_1.png", "red", size=(300, 200))
    (run / KEPT).symlink_to(tmp_path / "private")
    with pytest.raises(UserError, match=f"{KEPT}: is a link"):
        publish_samples(run, folder)
    (run / KEPT).unlink()
    (run / KEPT).mkdir()
    with Image.open(tmp_path / "private" / "red_1.png") as image:
        image.save(run / KEPT / "red_1.png", pnginfo=_text("GPS", "48.1, 11.5"))
    publish_samples(run, folder)
    with Image.open(folder / "samples" / "red_1.png") as image:
        assert image.size == (32, 32) and not image.info
    (run / KEPT / "red_2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="red_2.png: .*not an image|red_2.png: unknown image format"):
        publish_samples(run, folder)
    (run / KEPT / "red_2.png").unlink()
    token = "hf_" + "pLANTEDsecret" * 3
    paint(run / KEPT / f"{token}.png", "red")
    with pytest.raises(UserError, match="the name .* contains a Hub token") as caught:
        publish_samples(run, folder)
    assert token not in str(caught.value)


def _text(key, value):
    info = PngInfo()
    info.add_text(key, value)
    return info


def test_samples_of_the_data(staged, tmp_path):
    for split, colour in (("train", "red"), ("train", "green"), ("test", "green"), ("test", "red")):
        paint(tmp_path / "data" / split / colour / "private name.png", colour, size=(64, 48))
    publish_samples(*staged, str(tmp_path / "data"))
    assert files_in(staged[1] / "samples") == ["green_1.png", "red_1.png"]
    with Image.open(staged[1] / "samples" / "red_1.png") as image:
        assert image.size == (32, 32) and not image.info


def test_images_that_the_run_trained_on_are_no_samples(staged, tmp_path):
    for colour in ("red", "green"):
        paint(tmp_path / "data" / colour / "a.png", colour)
    with pytest.raises(UserError, match="data: has only training images; --publish-samples without DATA"):
        publish_samples(*staged, str(tmp_path / "data"))


def test_no_samples_to_publish(staged):
    with pytest.raises(UserError, match="run: keeps no test images to publish; name the data"):
        publish_samples(*staged)
    with pytest.raises(UserError, match="data : no such file"):  # of an unset variable, not the images that the run kept
        publish_samples(*staged, "")


def test_file_names_of_classes():
    labels = ["a/b", "a b", "\u65e5\u672c", "cat_2", "<b>"]
    assert [card_facts.file_label(label) for label in labels] == ["a_b", "a_b", "\u65e5\u672c", "cat_2", "b"]
