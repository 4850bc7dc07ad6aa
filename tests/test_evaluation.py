"""Metrics, eval_results.json and --evaluate-only."""

import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
from conftest import colour_images, tiny_config, write_official
from PIL import Image
from training_runs import colours, error_line, finished, main, read_json

from eanet import evaluation
from eanet.data import Split
from eanet.export import agreement


def test_top_1_and_top_5_count_the_classes_that_score_higher(monkeypatch):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(20), 500)
    split = Split(np.zeros((500, 1)), rng.integers(0, 20, 500), "test")
    monkeypatch.setattr(evaluation, "predict_probabilities", lambda model, x, batch_size: probabilities)
    results = evaluation.evaluate(None, split)
    best = np.argsort(-probabilities, axis=1)
    assert results["accuracy"] == np.mean(best[:, 0] == split.y)
    assert results["top5_accuracy"] == np.mean([y in row for row, y in zip(best[:, :5], split.y, strict=True)])
    true = np.take_along_axis(probabilities, split.y[:, None], axis=1)
    assert results["loss"] == pytest.approx(-np.log(true).mean())

    probabilities[:] = 1 / 20  # ties: a model that knows nothing is never right
    assert evaluation.evaluate(None, split)["top5_accuracy"] == 0


class LargeImages:
    """Images of 1024 by 1024 pixels, in a file; at most 4 may be in memory."""

    dtype, shape = np.dtype(np.uint8), (9, 1024, 1024, 3)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        self.read = getattr(self, "read", []) + [len(range(len(self))[rows])]
        assert self.read[-1] <= 4 and Predictor.answered == sum(self.read[:-1])
        return np.zeros((self.read[-1], *self.shape[1:]), np.uint8)


class Predictor:
    """Answers 0; counts the images of all of these."""

    config, answered = tiny_config(), 0

    def predict_on_batch(self, images):
        assert len(images) <= 4
        Predictor.answered += min(4, 9 - self.answered)
        return np.eye(3, dtype=np.float32)[np.zeros(len(images), int)]


@pytest.mark.parametrize("count", [
    lambda split: len(evaluation.predict_split(Predictor(), split)), lambda split: agreement._correct(Predictor(), split)
], ids=["evaluate", "exports"])  # fmt: skip
def test_large_images_are_read_and_predicted_few_at_a_time(count, monkeypatch):
    monkeypatch.setattr(Predictor, "answered", 0)
    split = Split(LargeImages(), np.zeros(9, int), "test")
    assert count(split) == 9 and split.x.read == [4, 4, 1]


def test_calibration_error_is_the_weighted_gap():
    confidence, correct = np.array([0.9, 0.9, 0.6, 1.0]), np.array([True, False, False, True])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    error, bins = evaluation.calibration_error(probabilities, np.where(correct, 0, 1), bins=15)
    assert error == pytest.approx((2 * 0.4 + 0.6 + 0.0) / 4)
    assert [(b["count"], b["accuracy"]) for b in bins] == [(1, 0.0), (2, 0.5), (1, 1.0)]
    assert all(b["from"] <= b["confidence"] <= b["to"] for b in bins)


def test_measures_are_those_of_the_saved_weights():
    import keras

    record = pickle.loads((colours() / "test").read_bytes())
    x, y = record[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(record[b"fine_labels"])
    probabilities = keras.saving.load_model(finished()[0]).predict(x, verbose=0)
    results = read_json(finished()[0] / "eval_results.json")
    assert results["accuracy"] == np.mean(probabilities.argmax(axis=1) == y)
    assert results["top5_accuracy"] == 1
    assert results["loss"] == pytest.approx(-np.log(probabilities[np.arange(64), y]).mean(), rel=1e-5)


def test_evaluate_only_prints_what_the_run_recorded():
    recorded = read_json(finished()[0] / "eval_results.json")
    status, out, _ = main("--evaluate-only", "--model", finished()[0], "--data", colours(), "--split", "test", "--json")
    assert (status, json.loads(out)) == (0, recorded)


def test_evaluate_only_prints_json_and_a_summary():
    status, out, err = main("--evaluate-only", "--model", finished()[0], "--data", colours())
    results = read_json(finished()[0] / "eval_results.json")
    assert json.loads(out) == results
    first, second = err.splitlines()[-2:]
    assert status == 0 and first.startswith(f"top-1 {100 * results['accuracy']:.1f}%, 95% interval ")
    assert first.endswith(" on 64 images of cifar-100-python, test split")
    assert second == f"{results['model']['parameters']:,} parameters, preset tiny"


def test_evaluate_only_measures_the_given_split():
    status, out, _ = main("--evaluate-only", "--model", finished()[0], "--data", colours(), "--split", "train", "--json")
    results = json.loads(out)
    assert (status, results["num_images"], results["dataset"]["split"]) == (0, 320, "train")
    assert results["training"] == read_json(finished()[0] / "eval_results.json")["training"]


def test_missing_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for missing in (tmp_path / "nowhere", "nowhere", "runs/nowhere"):
        status, out, err = main("--evaluate-only", "--model", missing, "--data", colours())
        assert str(missing) in error_line(status, err)
        assert out == ""


def test_other_classes(tmp_path):
    other = write_official(tmp_path / "other", labels=("red", "green", "violet"))
    status, out, err = main("--evaluate-only", "--model", finished()[0], "--data", other)
    line = error_line(status, err)
    assert f"data {other}: its classes are not those of the model (blue)" in line
    assert out == ""


def test_missing_split(tmp_path):
    for colour in ("red", "green", "blue"):
        (tmp_path / "train" / colour).mkdir(parents=True)
        Image.fromarray(colour_images(1)[0][0]).save(tmp_path / "train" / colour / "a.png")
    status, _, err = main("--evaluate-only", "--model", finished()[0], "--data", tmp_path, "--split", "test")
    assert f"split test: {tmp_path} has no test split; it has train" in error_line(status, err)


@pytest.mark.parametrize("missing", range(3))
@pytest.mark.parametrize("layout", ["test", "train", ""])
def test_only_some_classes_of_the_model(tmp_path, layout, missing):
    """A folder with one split, and a flat one: all are measured, and the results say on how many classes."""
    x, y = colour_images(30)
    for i in np.flatnonzero(y != missing):
        folder = tmp_path / "images" / layout / ("red", "green", "blue")[y[i]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i]).save(folder / f"{i}.png")
    status, out, _ = main("--evaluate-only", "--model", finished()[0], "--data", tmp_path / "images")
    results = json.loads(out)
    assert status == 0 and results["num_images"] == (y != missing).sum()
    assert results["dataset"]["note"] == "2 of the model's 3 classes" and results["dataset"]["split"] == (layout or "train")


def test_damaged_weights(tmp_path):
    folder = shutil.copytree(finished()[0], tmp_path / "run")
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        file.visititems(lambda name, item: item.write_direct(item[()] * np.nan) if isinstance(item, h5py.Dataset) else None)
    status, out, err = main("--evaluate-only", "--model", folder, "--data", colours())
    assert "its weights are damaged" in error_line(status, err) and out == ""


def test_training_record_of_other_weights_is_not_attached(tmp_path):
    folder = shutil.copytree(finished()[0], tmp_path / "run")
    config = (folder / "config.json").read_text().replace("green", "GREEN").replace("red", "green").replace("GREEN", "red")
    (folder / "config.json").write_text(config)
    data = write_official(tmp_path / "data", 4, 8, read_json(folder / "config.json")["id2label"].values())
    status, out, err = main("--evaluate-only", "--model", folder, "--data", data, "--json")
    assert (status, json.loads(out)["training"]) == (0, None) and "not those of its eval_results.json" in err
