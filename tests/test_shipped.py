"""The artefacts in the root belong together, and the front matter states what they measured.

test_compatibility loads them without our code.
"""

import json
import re

import keras
import numpy as np
import pytest
import yaml
from conftest import ROOT, sample_crops
from PIL import Image

from eanet.export import OnnxModel
from eanet.predict import classify
from eanet.saving import KERAS_FILES, ONNX_FILE, checksum_matches
from modeling_eanet import CIFAR100_LABELS, EANetConfig, build_eanet, from_pretrained_keras

CARD = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT_MATTER = yaml.safe_load(CARD.split("---\n")[1])
RESULTS = json.loads((ROOT / "eval_results.json").read_text())
SAMPLES = sorted((ROOT / "samples").glob("*.png"))


def region(name):
    return re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", CARD, re.DOTALL).group(1)


def label_of(path):
    return re.sub(r"_\d+$", "", path.stem)


@pytest.fixture(scope="module")
def model():
    return from_pretrained_keras(ROOT)


@pytest.fixture(scope="module")
def images(model):
    return sample_crops(1000, model.config)


@pytest.fixture(scope="module")
def expected(model, images):
    return np.asarray(model(images))


def test_shipped_onnx_predicts_what_keras_predicts(model, expected, images):
    exported = OnnxModel(ROOT / ONNX_FILE)
    assert checksum_matches(model, exported.checksum) and exported.config == model.config
    np.testing.assert_allclose(exported.predict_on_batch(images), expected, atol=1e-4)


def test_shipped_model_is_the_preset_its_results_name(model):
    assert model.config == EANetConfig.preset(RESULTS["model"]["preset"])
    assert model.count_params() == RESULTS["model"]["parameters"] <= 400_000


def test_shipped_config_is_what_this_code_writes(model):
    """Both halves: our settings at the top, and the graph that the rest describes."""
    written = json.loads((ROOT / "config.json").read_text())
    assert {k: written[k] for k in model.config.to_dict()} == model.config.to_dict()
    theirs, ours = keras.saving.deserialize_keras_object(written), build_eanet(model.config)
    assert json.loads(json.dumps(theirs.get_config())) == json.loads(json.dumps(ours.get_config()))


def test_results_have_the_documented_keys():
    assert set(RESULTS) == {*"accuracy top5_accuracy loss num_images dataset model training versions".split()}
    assert set(RESULTS["dataset"]) == {"id", "name", "split", "note"}
    assert {"seed", "epochs", "wall_time_s", "hardware", "command"} <= set(RESULTS["training"])
    assert 0 < RESULTS["accuracy"] <= RESULTS["top5_accuracy"] < 1 and np.isfinite(RESULTS["loss"])


def test_hold_out_accuracy_is_called_hold_out():
    assert RESULTS["num_images"] == 5000
    assert RESULTS["dataset"]["split"] == "hold-out" and "hold-out" in RESULTS["dataset"]["name"]
    assert "| hold-out, 5,000 images | **" in region("results") and "used for selection" in region("summary")


def test_the_larger_model_is_complete_and_more_accurate():
    folder = ROOT / "models" / "base"
    larger, results = from_pretrained_keras(folder), json.loads((folder / "eval_results.json").read_text())
    assert larger.config == EANetConfig.preset("base") and checksum_matches(larger, results["model"]["checksum"])
    assert larger.count_params() <= 1_600_000 and results["dataset"] == RESULTS["dataset"]
    assert results["accuracy"] > max(0.78, RESULTS["accuracy"])
    assert "| `models/base`, its teacher | 1.51M |" in region("results")
    assert f"| {100 * results['accuracy']:.2f}% |" in region("results")
    answers = classify(larger, SAMPLES)
    right = sum(first["label"] == label_of(path) for path, (first, *_) in zip(SAMPLES, answers, strict=True))
    assert right >= 0.8 * len(SAMPLES)


def test_history_and_logs_are_those_of_the_run():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = json.loads((ROOT / "history.json").read_text())
    assert len(history["loss"]) == RESULTS["training"]["epochs"]
    for run, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(ROOT / "logs" / run)).Reload()
        logged = [event.value for event in events.Scalars("epoch_accuracy")]
        np.testing.assert_allclose(logged, history[f"{prefix}accuracy"], atol=1e-6)


def test_model_index_states_the_results_key_by_key():
    (entry,) = FRONT_MATTER["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "Image-Classification-using-EANet"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["type"] == RESULTS["dataset"]["id"] == "uoft-cs/cifar100"
    assert result["dataset"]["name"] == RESULTS["dataset"]["name"]
    assert result["dataset"]["split"] == RESULTS["dataset"]["split"]
    stated = {metric["type"]: metric["value"] for metric in result["metrics"]}
    expected = {"accuracy": "accuracy", "top_5_accuracy": "top5_accuracy", "loss": "loss"}
    assert stated == {ours: RESULTS[key] for ours, key in expected.items()}


def test_card_rounds_the_results():
    assert f"**{100 * RESULTS['accuracy']:.2f}% top-1 accuracy**" in region("summary")
    assert f"Top-5 accuracy {100 * RESULTS['top5_accuracy']:.2f}%, cross-entropy {RESULTS['loss']:.3f}" in region("results")


def test_samples_are_named_after_classes():
    assert len(SAMPLES) >= 10
    assert {label_of(path) for path in SAMPLES} <= set(CIFAR100_LABELS)


def test_card_shows_the_predictions_on_the_samples(model):
    table, answers = region("samples"), classify(model, SAMPLES)
    for path, (first, *_) in zip(SAMPLES, answers, strict=True):
        label, percent = re.search(rf"\(samples/{path.name}\): (\S.*?) (\d+)%", table).groups()
        assert label == (f"**{first['label']}**" if first["label"] == label_of(path) else first["label"])
        assert float(percent) == pytest.approx(100 * first["score"], abs=0.6)
    answers = [[p["label"] for p in answer] for answer in answers]
    top1 = sum(label_of(path) == answer[0] for path, answer in zip(SAMPLES, answers, strict=True))
    top5 = sum(label_of(path) in answer for path, answer in zip(SAMPLES, answers, strict=True))
    assert f"top-1 right for {top1} of {len(SAMPLES)}, top-5 for {top5}" in table and top5 > len(SAMPLES) / 2


def test_widget_shows_the_predictions_on_six_samples(model):
    widget = FRONT_MATTER["widget"]
    assert [entry["src"] for entry in widget] == [f"samples/{path.name}" for path in SAMPLES[:6]]
    for entry, answer in zip(widget, classify(model, SAMPLES[:6], top_k=3), strict=True):
        assert [o["label"] for o in entry["output"]] == [p["label"] for p in answer]
        assert [o["score"] for o in entry["output"]] == pytest.approx([p["score"] for p in answer], abs=1e-3)


def test_figures_exist_and_have_alt_texts_and_captions():
    figures = re.findall(r'<img src="([^"]*)"[^>]* alt="([^"]*)">\n\n(.)', CARD)
    assert len(figures) == CARD.count("<img ") >= 5
    for name, alt, caption in figures:
        assert Image.open(ROOT / name).format == "PNG" and len(alt) > 20 and caption == "*", name
    assert FRONT_MATTER["thumbnail"].endswith(tuple(name for name, _, _ in figures))


def test_evaluation_is_of_these_weights(model):
    measured = json.loads((ROOT / "benchmarks" / "evaluation.json").read_text())
    assert checksum_matches(model, measured["checksum"]) and checksum_matches(model, RESULTS["model"]["checksum"])
    assert measured["accuracy"] == pytest.approx(RESULTS["accuracy"]) and measured["num_images"] == RESULTS["num_images"]
    assert f"calibration error {100 * measured['expected_calibration_error']:.1f}% (15 bins)" in region("evaluation")


def test_no_text_or_artefact_holds_an_absolute_path_or_a_token():
    names = [*KERAS_FILES, "eval_results.json", "history.json", "README.md", "saved_model.pb", "keras_metadata.pb"]
    files = [ROOT / name for name in names] + [p for p in (ROOT / "logs").rglob("*") if p.is_file()]
    for file in files:
        content = file.read_bytes()
        assert not re.search(rb"/(home|root|Users|work|tmp)/", content), file.name
        assert not re.search(rb"hf_[A-Za-z0-9]{30,}", content), file.name
