"""Accuracy, loss and calibration of a model, and the contents of eval_results.json."""

from __future__ import annotations

import math

import numpy as np

from eanet.cli import UserError
from eanet.data import Dataset, Split, load_dataset
from eanet.loaded_model import load_config
from eanet.machine import versions
from eanet.predict import fitting_batch, predict_probabilities
from eanet.run_dir import RESULTS_FILE, recorded_training
from modeling_eanet import CONFIG_FILE, PRESETS, WEIGHTS_FILE, EANetConfig, from_pretrained_keras, model_folder

BATCH_SIZE = 500


def predict_split(model, split: Split) -> np.ndarray:
    """Return the class probabilities of a split's images, float64 (n, num_classes)."""
    batch_size = fitting_batch(min(BATCH_SIZE, len(split)), split.x.shape[1])
    return predict_probabilities(model, split.x, batch_size).astype(np.float64)


def measure(probabilities: np.ndarray, y: np.ndarray) -> dict:
    """Measure predictions.

    Args:
        probabilities: (n, num_classes).
        y: (n,) class indices.

    Returns:
        "accuracy" and "top5_accuracy" (fractions; ties count against the model), "loss" (cross-entropy in nats) and
        "num_images".
    """
    true = probabilities[np.arange(len(y)), y]
    rank = (~(probabilities < true[:, None])).sum(axis=1)  # number of classes at least as probable
    return {
        "accuracy": float((rank <= 1).mean()),
        "top5_accuracy": float((rank <= 5).mean()),
        "loss": float(-np.log(np.maximum(true, 1e-12)).mean()),
        "num_images": len(y),
    }


def evaluate(model, split: Split) -> dict:
    """Return `measure` of the model's predictions for a split."""
    return measure(predict_split(model, split), split.y)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction (Wilson 1927), which also holds near 0 and 1 and for few images.

    Args:
        right: number of successes, 0 to `total`.
        total: number of trials, at least 1.

    Returns:
        Lower and upper bound, 0 to 1.
    """
    z, share = 1.959964, right / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def interval_text(accuracy: float, num_images: int) -> str:
    """Return ", 95% interval 68–100%" for an accuracy on fewer than 1,000 images, or ""."""
    if num_images >= 1000:
        return ""
    low, high = wilson_interval(round(accuracy * num_images), num_images)
    return f", 95% interval {100 * low:.0f}–{100 * high:.0f}%"


def calibration_error(probabilities: np.ndarray, y: np.ndarray, bins: int = 15) -> tuple[float, list[dict]]:
    """Compute the expected calibration error (Guo et al. 2017, arXiv:1706.04599) over bins of the top-1 probability.

    Args:
        probabilities: (n, classes).
        y: (n,) class indices.
        bins: number of bins of equal width.

    Returns:
        The error, 0 to 1; and "from", "to", "count", "confidence" (mean) and "accuracy" of every bin that is not empty.
    """
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    error, rows = 0.0, []
    for i in np.unique(index):
        inside = index == i
        mean, accuracy = float(confidence[inside].mean()), float(correct[inside].mean())
        error += inside.mean() * abs(mean - accuracy)
        bounds = {"from": int(i) / bins, "to": (int(i) + 1) / bins}
        rows.append(bounds | {"count": int(inside.sum()), "confidence": mean, "accuracy": accuracy})
    return float(error), rows


def fitted_temperature(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Return the temperature T that minimises the loss of softmax(log p / T) (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities: (n, classes).
        y: (n,) class indices.

    Returns:
        0.2 to 5: below 1 for a model that is less sure than it could be.
    """
    logits = np.log(np.maximum(probabilities, 1e-12))
    low, high = 0.2, 5.0  # of 1 / T, in which the loss is convex: bisect its slope
    for _ in range(50):
        middle = (low + high) / 2
        scaled = np.exp(middle * logits - (middle * logits).max(axis=1, keepdims=True))
        expected = (scaled * logits).sum(axis=1) / scaled.sum(axis=1)
        low, high = (middle, high) if (expected - logits[np.arange(len(y)), y]).mean() < 0 else (low, middle)
    return 1 / low


def preset_name(config: EANetConfig) -> str:
    """Return the name of the preset with this architecture, whatever the labels, or "custom"."""
    return next((name for name in PRESETS if EANetConfig.preset(name, id2label=config.id2label) == config), "custom")


def evaluation_results(model, dataset: Dataset, split: Split, probabilities: np.ndarray) -> dict:
    """Return the contents of eval_results.json, with None as "training".

    Args:
        model: with its `config`.
        dataset: the data set.
        split: the part of it that was predicted.
        probabilities: of `predict_split`.
    """
    from eanet.saving import model_checksum

    name = f"{dataset.name} ({split.note})" if split.note else dataset.name
    facts = {"preset": preset_name(model.config), "parameters": model.count_params(), "checksum": model_checksum(model)}
    return {
        **measure(probabilities, split.y),
        "dataset": {"id": dataset.id, "name": name, "split": split.name, "note": split.note},
        "model": facts,
        "training": None,
        "versions": versions(),
    }


def evaluate_model(name, data, split: str | None = None, *, image_column=None, label_column=None, strict=False) -> dict:
    """Measure a saved model on a data set with its classes, or some of them.

    Args:
        name: model folder or Hub repo id.
        data: path of the data set, see `eanet.data.load_dataset`, as for the next three.
        split: "train", "validation" or "test"; None for the test split, or, where there is none, the only other one.
        image_column: column of a table with the images.
        label_column: column with the classes.
        strict: refuse the data set if anything is left out.

    Returns:
        The contents of eval_results.json; "training" is that of the model's own, if its checksum fits.

    Raises:
        UserError: no such model, data or split, or a class that the model does not have.
    """
    from eanet.saving import warn_if_foreign

    folder = model_folder(name, files=(CONFIG_FILE, WEIGHTS_FILE, RESULTS_FILE))
    config = load_config(folder)
    labels = tuple(config.id2label.values())
    columns = dict(image_column=image_column, label_column=label_column)
    dataset = load_dataset(data, config, **columns, strict=strict, labels=labels, need_train=False)
    images = _split_of(dataset, split, data)
    covered = len(np.unique(images.y))
    if covered < len(labels):
        images.note = "; ".join(filter(None, (images.note, f"{covered} of the model's {len(labels)} classes")))
    model = from_pretrained_keras(folder)
    results = evaluation_results(model, dataset, images, predict_split(model, images))
    return results | {"training": None if warn_if_foreign(model, folder) else recorded_training(folder)}


def _split_of(dataset: Dataset, name: str | None, data) -> Split:
    found = {key: split for key in ("test", "validation", "train") if (split := getattr(dataset, key)) is not None}
    if name is None and ("test" in found or len(found) == 1):
        return next(iter(found.values()))
    if name not in found:
        which = f"split {name}: " if name else ""
        there = f"it has {', '.join(found)}; name one as split"
        raise UserError(f"{which}{data or 'CIFAR-100'} has no {name or 'test'} split; {there}")
    return found[name]


def summary(results: dict) -> str:
    """Return the main figures of an eval_results.json in two lines."""
    dataset, model = results["dataset"], results["model"]
    measured_on = dataset["name"] if dataset["note"] else f"{dataset['name']}, {dataset['split']} split"
    interval = interval_text(results["accuracy"], results["num_images"])
    top5 = f"top-5 {100 * results['top5_accuracy']:.1f}%, " if results["top5_accuracy"] < 1 else ""  # with few classes
    return (
        f"top-1 {100 * results['accuracy']:.1f}%{interval}, {top5}loss {results['loss']:.3f} on {results['num_images']:,} "
        f"images of {measured_on}\n{model['parameters']:,} parameters, preset {model['preset']}"
    )


def count_macs(model) -> int:
    """Return the multiplications with a weight for one image; norms, activations and sums are not counted."""
    from keras import layers

    count = 0
    for layer in model.layers:
        if isinstance(layer, layers.Dense | layers.EinsumDense):  # each position with the full kernel
            count += math.prod(layer.input.shape[1:-1]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D):
            count += math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    return count
