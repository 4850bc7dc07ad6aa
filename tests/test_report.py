"""What a run says about its model: per-class results, confusions, calibration, mistakes, and their figures."""

import json
import re

import numpy as np
import pytest
from conftest import only_line

from eanet import evaluation, figures, report

LABELS = ["a", "b", "c"]
Y = np.array([0, 0, 1, 1, 2, 2])
PREDICTED = np.array([1, 0, 0, 0, 2, 1])
RESULTS = {
    "loss": 0.5,
    "dataset": {"name": "letters", "split": "test"},
    "model": {"checksum": "12345678"},
    "training": {"recipe": {}, "parent_run": None},
}
HISTORY = {"loss": [2.0, 1.0], "accuracy": [0.2, 0.4], "val_loss": [2.1, 1.2], "val_accuracy": [0.1, 0.3]}


def probabilities(predicted, classes, confidence=0.8):
    rows = np.full((len(predicted), classes), (1 - confidence) / (classes - 1))
    rows[np.arange(len(predicted)), predicted] = confidence
    return rows


@pytest.fixture
def found():
    return report.describe_predictions(probabilities(PREDICTED, 3), Y, LABELS, [f"{i}.png" for i in range(6)])


def test_confusions_count_both_directions():
    counts = report.confusion_counts(PREDICTED, Y, 3)
    assert counts.tolist() == [[1, 1, 0], [2, 0, 0], [0, 1, 1]]
    assert report.confused_pairs(counts, LABELS) == [
        {"classes": ["a", "b"], "count": 3, "of": 4},
        {"classes": ["b", "c"], "count": 1, "of": 4},
    ]


def test_per_class_results_are_those_of_the_definitions():
    rows = report.per_class(report.confusion_counts(PREDICTED, Y, 4), [*LABELS, "d"])
    assert rows[0] == {"class": "a", "images": 2, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5}
    assert rows[1] == {"class": "b", "images": 2, "precision": 0, "recall": 0, "f1": 0}
    assert rows[2] == {"class": "c", "images": 2, "precision": 1, "recall": 1 / 2, "f1": 2 / 3}
    assert rows[3] == {"class": "d", "images": 0, "precision": None, "recall": None, "f1": None}


@pytest.mark.parametrize(
    ("right", "total", "low", "high"), [(8, 8, 0.676, 1), (0, 8, 0, 0.324), (81, 263, 0.255, 0.366), (1, 1, 0.207, 1)]
)
def test_interval_is_wilsons(right, total, low, high):
    assert evaluation.wilson_interval(right, total) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize(("classes", "easiest", "hardest"), [(1, "a", ""), (3, "cb", "a"), (12, "lkjih", "abcde")])
def test_no_class_is_both_easy_and_hard(classes, easiest, hardest):
    labels = [chr(ord("a") + i) for i in range(classes)]
    y = np.repeat(np.arange(classes), 12)
    predicted = np.where(np.tile(np.arange(12), classes) <= y, y, (y + 1) % classes)  # the i-th class: i + 1 of 12 right
    found = report.describe_predictions(probabilities(predicted, max(classes, 2))[:, :classes], y, labels)
    assert "".join(row["class"] for row in found["easiest"]) == easiest
    assert "".join(row["class"] for row in found["hardest"]) == hardest


def test_a_class_without_a_right_answer_is_not_easy_and_one_without_a_wrong_answer_is_not_hard():
    y = np.repeat(np.arange(4), 3)
    for predicted, easiest, hardest in ((y, "dcba"[:2], ""), ((y + 1) % 4, "", "ab")):
        found = report.describe_predictions(probabilities(predicted, 4), y, list("abcd"))
        assert "".join(row["class"] for row in found["easiest"]) == easiest
        assert "".join(row["class"] for row in found["hardest"]) == hardest


def test_mistakes_are_the_most_confident_ones_by_name():
    p = probabilities(PREDICTED, 3)
    p[2] = [0.9, 0.05, 0.05]
    found = report.describe_predictions(p, Y, LABELS, [f"{i}.png" for i in range(6)])
    assert found["mistakes"][0] == {"image": "2.png", "label": "b", "predicted": "a", "probability": 0.9}
    assert [row["image"] for row in found["mistakes"]] == ["2.png", "0.png", "3.png", "5.png"]
    assert report.describe_predictions(p, Y, LABELS)["mistakes"][0]["image"] == "number 2"


def test_report_has_text_data_and_figures(found, tmp_path):
    assert report.write_report(tmp_path, found, RESULTS, HISTORY) == ["curves", "confusion", "calibration"]
    text = (tmp_path / "report.md").read_text()
    assert "2 of 6 images of the test split right: top-1 33.3%, 95% interval 10–70%." in text
    assert "| c | 2 | 100.0% | 50.0% | 66.7% |" in text and "| 2.png | b | a | 80.0% |" in text
    assert json.loads((tmp_path / "report.json").read_text())["confusion"] == found["confusion"]
    record = json.loads((tmp_path / "figures" / "figures.json").read_text())
    assert record["checksum"] == "12345678" and list(record["figures"]) == ["curves.png", "confusion.png", "calibration.png"]
    for name, entry in record["figures"].items():
        assert (tmp_path / "figures" / name).stat().st_size > 1000 and entry["alt"] in text.replace("&#x27;", "'")


def test_with_many_classes_the_confused_pairs_are_drawn(tmp_path):
    y = np.arange(100)
    found = report.describe_predictions(probabilities(y // 2 * 2, 100), y, [f"class {i}" for i in range(100)])
    report.write_report(tmp_path, found, RESULTS, HISTORY)
    assert "most confused pairs" in (tmp_path / "report.md").read_text()


def test_a_perfect_model_has_no_confusions_and_no_mistakes(tmp_path):
    y = np.arange(30)
    found = report.describe_predictions(probabilities(y, 30), y, [f"class {i}" for i in range(30)])
    assert found["confusions"] == [] and found["mistakes"] == []
    assert report.write_report(tmp_path, found, RESULTS, {"loss": [0.1], "accuracy": [1.0]}) == ["curves", "calibration"]
    assert "mistakes" not in (tmp_path / "report.md").read_text()


def test_text_of_the_data_stays_text(tmp_path):
    labels = ["<b>|x|</b>", "$a_b$", "[l](http://evil.example)"]
    found = report.describe_predictions(probabilities(PREDICTED, 3), Y, labels, ["a|b\n# c.png"] * 6)
    report.write_report(tmp_path, found, RESULTS, HISTORY)
    text = re.sub('alt="[^"]*"', "", (tmp_path / "report.md").read_text())
    assert "<b>" not in text and "\n# c" not in text and "[l](" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "Class" not in line and "---" not in line]
    assert all(line.replace(r"\|", "").count("|") in (5, 6) for line in rows)


def test_without_matplotlib_there_are_no_figures(found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert report.write_report(tmp_path, found, RESULTS, HISTORY) == []
    assert "pip install matplotlib" in only_line(capsys.readouterr().err)
    assert (tmp_path / "report.md").exists() and not (tmp_path / "figures").exists()


def test_a_record_of_an_older_run_names_its_parent_otherwise(found, tmp_path):
    results = {**RESULTS, "training": {"recipe": {}, "begun_with": {"epochs": 2}}}
    report.write_report(tmp_path, found, results, HISTORY)
    assert "started from an earlier run's weights" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("cutmix", "words"), [(0.5, ", half of them mixed by CutMix."), (0.2, ", 20% of them mixed by CutMix.")]
)
def test_the_caption_of_the_curves_says_how_many_images_are_mixed(cutmix, words):
    history = {"loss": [2.0, 1.0], "accuracy": [0.5, 0.75]}
    caption = figures.curves(history, {"cutmix": cutmix, "epochs": 20}, False).caption
    assert caption.endswith(words)


@pytest.mark.parametrize(
    ("loss", "accuracy", "words"),
    [
        ([2.0, 1.5, 1.49], [0.5, 0.7, 0.701], "images, half of them mixed by CutMix, which stops near the end."),
        ([2.0, 1.9, 1.5], [0.5, 0.51, 0.75], "images; they improve suddenly when CutMix stops, near the end."),
        ([2.0, 1.0], [0.5, 0.75], "images; they improve suddenly when CutMix stops, near the end."),
        ([1.0, 2.0], [0.5, 0.75], "images, half of them mixed by CutMix, which stops near the end."),
        ([2.0, 1.0], [0.5, 0.5], "images, half of them mixed by CutMix, which stops near the end."),
    ],
)
def test_the_caption_of_the_curves_says_only_what_they_show(loss, accuracy, words):
    history = {"loss": loss, "accuracy": accuracy}
    assert figures.curves(history, {"cutmix": 0.5, "epochs": len(loss)}, False).caption.endswith(words)
