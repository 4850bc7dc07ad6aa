"""predict_probabilities, top_predictions and classify."""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import COLOURS, LABELS, ROOT, MeanColour, colour_images, noise, paint, tiny_config
from PIL import Image

import modeling_eanet
from eanet.predict import classify, fitting_batch, predict_batch, predict_probabilities, top_predictions
from modeling_eanet import UserError


def same(answer, expected, tolerance=1e-5):
    """Assert that two lists of predictions agree."""
    assert [p["label"] for p in answer] == [p["label"] for p in expected]
    assert [p["score"] for p in answer] == pytest.approx([p["score"] for p in expected], abs=tolerance)


# -------------------------------------------------------------------------------------------- predict_probabilities


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_no_images_give_no_rows(colour_model, dtype):
    images = np.zeros((0, 32, 32, 3), dtype)
    probabilities = predict_probabilities(colour_model, images)
    assert probabilities.shape == (0, 3) and probabilities.dtype == np.float32
    assert classify(colour_model, images, top_k=1) == classify(colour_model, [], top_k=1) == []


def test_probabilities_do_not_depend_on_the_batch_size(colour_model):
    x, y = colour_images(20, seed=5)
    expected = predict_probabilities(colour_model, x, 20)
    assert expected.shape == (20, 3) and expected.dtype == np.float32
    assert (expected.argmax(1) == y).all()
    np.testing.assert_allclose(expected.sum(1), 1, atol=1e-5)
    for batch_size in (1, 7):
        np.testing.assert_allclose(predict_probabilities(colour_model, x, batch_size), expected, atol=1e-5)


class Recorder(MeanColour):
    """MeanColour that records the size of every batch."""

    def __init__(self):
        self.sizes = []

    def predict_on_batch(self, batch):
        self.sizes.append(len(batch))
        return super().predict_on_batch(batch)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(1, 128, [1]), (2, 128, [2]), (100, 128, [100]), (128, 128, [128]), (150, 64, [64] * 3), (9, 4, [4, 4, 4])],
)
def test_batches_are_padded_to_few_shapes(count, batch_size, sizes):
    """Each shape costs a trace, and padding costs time: one image runs as one, a short last batch as a full one."""
    model, x = Recorder(), colour_images(count)[0]
    probabilities = predict_probabilities(model, x, batch_size)
    assert model.sizes == sizes
    np.testing.assert_allclose(probabilities, MeanColour().predict_on_batch(x), atol=1e-6)


def test_single_batch_runs_eagerly_with_the_same_result(colour_folder, monkeypatch):
    model = modeling_eanet.from_pretrained_keras(colour_folder)
    x = colour_images(3, seed=9)[0]
    traced = predict_batch(model, x, 3)
    monkeypatch.setattr(model, "predict_on_batch", lambda _: pytest.fail("traced"))
    for batch_size in (3, 4):
        np.testing.assert_allclose(predict_batch(model, x, batch_size, eager=True), traced, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_images_of_0_to_1_are_refused(dtype):
    x = colour_images(4)[0]
    with pytest.raises(UserError, match="array with values from 0 to 1: the scale is 0-255"):
        predict_probabilities(MeanColour(), (x / x.max()).astype(dtype))


def test_top_predictions_are_sorted_and_ties_are_by_class():
    (best,) = top_predictions(np.float32([[0.25, 0.5, 0.25]]), tiny_config(), 3)
    assert best == [{"label": "green", "score": 0.5}, {"label": "red", "score": 0.25}, {"label": "blue", "score": 0.25}]


# --------------------------------------------------------------------------------------------------------- classify


def test_all_kinds_of_images_are_classified_together(colour_model, tmp_path):
    x, y = colour_images(1, seed=9)
    path = tmp_path / "image.png"
    Image.fromarray(x[0]).save(path)
    with path.open("rb") as file:
        kinds = [str(path), path, file, Image.fromarray(x[0]), x[0], x[0].astype(np.float32), x[0].astype(float)]
        results = classify(colour_model, kinds, top_k=3)
    assert len(results) == len(kinds)
    for result in results:
        assert [set(p) for p in result] == [{"label", "score"}] * 3
        assert result[0]["label"] == LABELS[y[0]] and type(result[0]["score"]) is float
        assert result[0]["score"] > result[1]["score"] >= result[2]["score"] >= 0
        same(result, results[0])


def test_greyscale_array_equals_its_three_channels(colour_model):
    grey = noise()[:, :, 0]
    same(*classify(colour_model, [grey, np.stack([grey] * 3, -1)], top_k=3), tolerance=1e-6)


@pytest.mark.parametrize("batch_size", [7, 128])
def test_array_of_images_is_classified_in_order(colour_model, batch_size):
    x, y = colour_images(20, seed=6)
    results = classify(colour_model, x, top_k=np.int64(1), batch_size=batch_size)
    assert [r[0]["label"] for r in results] == [LABELS[i] for i in y]
    assert {len(r) for r in results} == {1}


def test_shipped_model_loaded_by_keras_is_classified():
    """The first snippet of the card: keras.saving.load_model attaches no config."""
    ours, theirs = modeling_eanet.from_pretrained_keras(ROOT), keras.saving.load_model(ROOT)
    for answer, expected in zip(*(classify(model, colour_images(3)[0]) for model in (theirs, ours)), strict=True):
        same(answer, expected)


@pytest.mark.parametrize("config", ["folder", "config"])
def test_other_model_loaded_by_keras_needs_its_config(colour_folder, colour_model, config):
    model, (x, _) = keras.saving.load_model(colour_folder), colour_images(2, seed=1)
    config = colour_folder if config == "folder" else colour_model.config
    for answer, expected in zip(classify(model, x, config=config), classify(colour_model, x), strict=True):
        same(answer, expected)
    with pytest.raises(UserError, match="no configuration.*pass config="):
        classify(model, x)
    assert predict_probabilities(model, x).shape == (2, 3)


@pytest.mark.parametrize("value", [0, -1, 1.5, None, "2", True])
@pytest.mark.parametrize("name", ["top_k", "batch_size"])
def test_wrong_count_is_named(name, value):
    with pytest.raises(UserError, match=f"^{name}={value!r}: must be"):
        classify(MeanColour(), [noise()], **{name: value})


def test_top_k_above_the_number_of_classes_gives_all():
    assert len(classify(MeanColour(), [noise()], top_k=5)[0]) == 3


def test_single_image_without_a_list_is_refused(tmp_path):
    path = paint(tmp_path / "a.png")
    singles = [path, Path(path), Image.open(path), noise(), noise()[:, :, 0], io.BytesIO(Path(path).read_bytes())]
    for single in singles:
        with pytest.raises(UserError, match="^images: .*must be a list"):
            classify(MeanColour(), single, top_k=1)
        assert classify(MeanColour(), [single], top_k=1)[0][0]["label"] in COLOURS
    with pytest.raises(UserError, match=r"^images: array of shape \(32, 32, 3\)"):
        classify(MeanColour(), noise(), top_k=1)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([noise(), np.zeros((32, 32, 4)), noise()], UserError, r"images\[1\]: array of shape \(32, 32, 4\)"),
        (np.zeros((2, 32, 32, 1)), UserError, r"images\[0\]: array of shape \(32, 32, 1\)"),
        ([noise(), noise(), 3], UserError, r"images\[2\]: int"),
        ([noise(), __file__], UserError, r"images\[1\]: unknown image format"),
        (["missing.png"], OSError, r"images\[0\]: .*missing\.png"),
    ],
    ids=["array", "arrays", "type", "not an image", "missing"],
)
def test_error_names_the_index_of_the_image(images, error, message):
    with pytest.raises(error, match=f"^{message}"):
        classify(MeanColour(), images, top_k=1, batch_size=2)


def test_classify_holds_one_batch_at_a_time(most_alive, tmp_path):
    path = paint(tmp_path / "a.png")
    assert len(classify(MeanColour(), [path] * 50, top_k=1, batch_size=8)) == 50
    assert most_alive() == 8


@pytest.mark.parametrize(("size", "expected"), [(32, 128), (224, 83), (1024, 4)])
def test_batches_of_large_images_are_small(size, expected):
    assert fitting_batch(128, size) == expected
