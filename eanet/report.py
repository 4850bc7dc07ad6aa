"""Describe a trained model in detail: per-class results, confusions, calibration, its most confident mistakes.

A run's folder gets `report.md` to read, `report.json` for programs, and the charts in `figures/`.
"""

from __future__ import annotations

import html
import importlib.util
import sys
from pathlib import Path

import numpy as np

from eanet.cli import printable, write_json, write_text
from eanet.evaluation import calibration_error, interval_text, wilson_interval
from eanet.hub.card import escape
from eanet.run_dir import parent_run

REPORT_JSON, REPORT_MD = "report.json", "report.md"
BINS, MISTAKES, PAIRS = 15, 20, 8
FIGURES = dict.fromkeys(("curves", "confusion", "calibration"), "weights")  # and what they show


def confusion_counts(predicted: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Return the number of images by true (row) and predicted class (column).

    Args:
        predicted: (n,) class indices.
        y: (n,) true class indices.
        classes: number of classes.
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (y, predicted), 1)
    return counts


def confused_pairs(counts: np.ndarray, labels, most: int = PAIRS) -> list[dict]:
    """Return the most confused pairs of classes, in both directions together: "classes", "count", "of" (their images).

    Args:
        counts: of `confusion_counts`.
        labels: class names.
        most: number of pairs; fewer are returned where fewer are confused.
    """
    pairs = np.triu(counts + counts.T, 1)
    best = [divmod(int(k), len(labels)) for k in np.argsort(-pairs, axis=None, kind="stable")[:most]]
    return [
        {"classes": [labels[i], labels[j]], "count": int(pairs[i, j]), "of": int(counts[i].sum() + counts[j].sum())}
        for i, j in best
        if pairs[i, j]
    ]


def per_class(counts: np.ndarray, labels) -> list[dict]:
    """Return precision, recall and F1 of every class, in the order of `labels`; None where there is nothing to divide by.

    Args:
        counts: of `confusion_counts`.
        labels: class names.
    """
    rows = []
    for i, label in enumerate(labels):
        right, images, predicted = int(counts[i, i]), int(counts[i].sum()), int(counts[:, i].sum())
        f1 = 2 * right / (images + predicted) if images + predicted else None
        precision, recall = right / predicted if predicted else None, right / images if images else None
        rows.append({"class": label, "images": images, "precision": precision, "recall": recall, "f1": f1})
    return rows


def describe_predictions(probabilities: np.ndarray, y: np.ndarray, labels, names=None) -> dict:
    """Return what the report says of a model's predictions.

    Args:
        probabilities: (n, classes).
        y: (n,) true class indices.
        labels: class names.
        names: (n,) names of the images; None to number them.

    Returns:
        JSON values: "accuracy", "interval" (95%, of the accuracy), "num_images", "classes" (`per_class`), "confusion"
        (`confusion_counts`), "confusions" (`confused_pairs`), "easiest" and "hardest" (by recall, up to five each),
        "expected_calibration_error", "bins", "calibration", "mean_confidence", and "mistakes": the most confident ones.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    counts = confusion_counts(predicted, y, len(labels))
    rows = per_class(counts, labels)
    ranked = sorted((row for row in rows if row["images"]), key=lambda row: (row["recall"], row["class"]))
    ranked = [{"class": row["class"], "accuracy": row["recall"]} for row in ranked]
    half = len(ranked) // 2  # of a few classes, none is listed twice
    error, bins = calibration_error(probabilities, y, BINS)
    wrong = np.flatnonzero(predicted != y)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES]
    right = len(y) - int((predicted != y).sum())
    return {
        "accuracy": right / len(y),
        "interval": list(wilson_interval(right, len(y))),
        "num_images": len(y),
        "classes": rows,
        "confusion": counts.tolist(),
        "confusions": confused_pairs(counts, labels),
        "easiest": [row for row in ranked[half:][::-1][:5] if row["accuracy"] > 0],
        "hardest": [row for row in ranked[:half][:5] if row["accuracy"] < 1],
        "expected_calibration_error": error,
        "bins": BINS,
        "calibration": bins,
        "mean_confidence": float(confidence.mean()),
        "mistakes": [
            {
                "image": str(names[i]) if names is not None else f"number {i}",
                "label": labels[y[i]],
                "predicted": labels[predicted[i]],
                "probability": float(confidence[i]),
            }
            for i in wrong
        ],
    }


def write_report(folder: Path, found: dict, results: dict, history: dict) -> list[str]:
    """Write `report.md`, `report.json` and, where matplotlib is installed, `figures/` of a run.

    Args:
        folder: the run's folder.
        found: of `describe_predictions`.
        results: content of its eval_results.json.
        history: content of its history.json.

    Returns:
        The names of the figures, without suffix; empty without matplotlib.
    """
    drawings = {}
    if importlib.util.find_spec("matplotlib"):
        drawings = _draw(found, results, history)
        from eanet import figures

        (folder / "figures").mkdir(exist_ok=True)
        figures.save(folder / "figures", drawings, FIGURES, results["model"]["checksum"])
    else:
        print("no figures: matplotlib is not installed; `pip install matplotlib`", file=sys.stderr)
    write_json(folder / REPORT_JSON, {"checksum": results["model"]["checksum"], "dataset": results["dataset"], **found})
    write_text(folder / REPORT_MD, _markdown(found, results, drawings))
    return list(drawings)


def _draw(found: dict, results: dict, history: dict) -> dict:
    from eanet import figures

    labels, training = [row["class"] for row in found["classes"]], results["training"]
    drawings = {"curves": figures.curves(history, training["recipe"], parent_run(training) is not None)}
    if len(labels) <= figures.MAX_MATRIX:
        drawings["confusion"] = figures.confusion_matrix(np.array(found["confusion"]), labels)
    elif found["confusions"]:
        drawings["confusion"] = figures.confused_pairs(found["confusions"])
    drawings["calibration"] = figures.calibration(
        found["calibration"], found["expected_calibration_error"], found["num_images"]
    )
    return drawings


def _markdown(found: dict, results: dict, drawings: dict) -> str:
    dataset = results["dataset"]
    interval = interval_text(found["accuracy"], found["num_images"])
    right = round(found["accuracy"] * found["num_images"])
    lines = [
        f"# Results on {escape(dataset['name'])}",
        "",
        f"{right:,} of {found['num_images']:,} images of the {escape(dataset['split'])} split right: top-1 "
        f"{100 * found['accuracy']:.1f}%{interval}. Cross-entropy {results['loss']:.3f}, expected calibration error "
        f"{100 * found['expected_calibration_error']:.1f}%.",
    ]
    for name, drawing in drawings.items():
        lines += [
            "",
            f'<img src="figures/{name}.png" width="520" alt="{html.escape(printable(drawing.alt))}">',
            "",
            drawing.caption,
        ]
    lines += ["", "## Classes", "", "| Class | Images | Precision | Recall | F1 |", "| --- | --- | --- | --- | --- |"]
    for row in found["classes"]:
        shares = (f"{100 * v:.1f}%" if (v := row[key]) is not None else "–" for key in ("precision", "recall", "f1"))
        lines.append(f"| {escape(row['class'])} | {row['images']:,} | {' | '.join(shares)} |")
    if found["mistakes"]:
        lines += ["", "## Most confident mistakes", "", "| Image | Class | Predicted | Probability |"]
        lines.append("| --- | --- | --- | --- |")
        for row in found["mistakes"]:
            cells = (escape(row[key]) for key in ("image", "label", "predicted"))
            lines.append(f"| {' | '.join(cells)} | {100 * row['probability']:.1f}% |")
    return "\n".join(lines) + "\n"
