"""The charts: training curves, confused classes, calibration, and how attention scales."""

from __future__ import annotations

import numpy as np
from figures_common import BLUE, INK, ORANGE, Drawing, new_figure, rendered

from eanet.cli import read_json

KEYS = {"training": "accuracy", "validation": "val_accuracy"}


def curves(shipped):
    """Accuracy and loss over the epochs of the last run."""
    history = read_json(shipped.root / "history.json")
    training = shipped.results("eval_results.json")["training"]
    epochs = np.arange(1, len(history["loss"]) + 1)
    figure = new_figure(height=480)
    axes = figure.subplots(2, 1, sharex=True)
    for axis, key, title in zip(axes, ("accuracy", "loss"), ("top-1 accuracy, %", "cross-entropy"), strict=True):
        scale, unit = (100, "{:.1f}%") if key == "accuracy" else (1, "{:.2f}")
        ends = []
        for name, prefix, colour in (("training", "", ORANGE), ("validation", "val_", BLUE)):
            if prefix + key in history:
                values = scale * np.array(history[prefix + key])
                axis.plot(epochs, values, color=colour)
                ends.append((values[-1], f"{name} {unit.format(values[-1])}", colour))
        axis.set_title(title)
        axis.set_xlim(0, epochs[-1])
        _label_ends(axis, ends)
    axes[-1].set_xlabel("epoch of the last run" if _parent(training) else "epoch")
    return Drawing(rendered(figure), _about_curves(training, len(epochs)), _told(history))


def _told(history):
    ends = [f"{name} {100 * history[key][-1]:.1f}%" for name, key in KEYS.items() if key in history]
    return f"Accuracy and loss over the epochs; accuracy at the end: {', '.join(ends)}."


def _parent(training):
    return training.get("parent_run") or training.get("begun_with")  # the key in older runs


def _about_curves(training, epochs):
    recipe = training.get("recipe", {})
    start = "of the last run, which started from an earlier run's weights" if _parent(training) else "of training"
    text = f"Accuracy and loss over the {epochs} epochs {start}."
    if recipe.get("cutmix"):
        text += " Training values are for augmented images; they improve suddenly when CutMix stops, near the end."
    return text


def _label_ends(axis, ends, gap=0.1):
    """Write (value, text, colour) to the right of the axis, at least `gap` of its height apart."""
    low, high = axis.get_ylim()
    height = -1
    for value, text, colour in sorted(ends):
        height = max((value - low) / (high - low), height + gap)
        axis.text(1.03, height, text, color=colour, va="center", transform=axis.transAxes)


def calibration(shipped):
    """Accuracy over confidence, and how many images have which confidence."""
    found = shipped.results("benchmarks/evaluation.json")
    bins, error = found["calibration"], found["expected_calibration_error"]
    figure = new_figure(300, 380)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    width = bins[0]["to"] - bins[0]["from"]
    centres = [100 * (b["from"] + width / 2) for b in bins]
    upper.bar(centres, [100 * b["accuracy"] for b in bins], 88 * width, color=BLUE, alpha=0.6)
    upper.plot([0, 100], [0, 100], color=ORANGE)
    upper.text(3, 92, f"calibration error {100 * error:.1f}%")
    upper.text(3, 82, "line: perfect", color=ORANGE)
    upper.set(xlim=(0, 100), ylim=(0, 100), title="accuracy, %")
    lower.bar(centres, [100 * b["count"] / found["num_images"] for b in bins], 88 * width, color=INK)
    lower.set(title="share of images, %", xlabel="probability of the top answer, %")
    caption = (
        "How often the top answer is right, by its probability, and how many images get such a probability. "
        "Bars above the line mean that the model is under-confident, bars below it over-confident."
    )
    return Drawing(
        rendered(figure), caption, "Reliability diagram: accuracy over confidence, with a histogram of confidence."
    )


def confusion(shipped):
    """The pairs of classes that the model confuses most."""
    found = shipped.results("benchmarks/evaluation.json")
    pairs = found["confusions"][:10][::-1]
    names = [" / ".join(label.replace("_", " ") for label in pair["classes"]) for pair in pairs]
    shares = [100 * pair["count"] / pair["of"] for pair in pairs]
    figure = new_figure(height=60 + 36 * len(pairs))
    axis = figure.subplots()
    axis.barh(names, shares, 0.7, color=BLUE)
    for i, share in enumerate(shares):
        axis.text(share, i, f" {share:.0f}%", va="center", color=BLUE)
    axis.set(xlim=(0, 1.12 * max(shares)), xticks=[])
    axis.set_title("confused with each other, % of their images", loc="right")
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    caption = (
        f"The {len(pairs)} most confused pairs of classes: share of the two classes' images taken for the other class. "
        f"Of all images, {100 * found['superclass_accuracy']:.1f}% get a class of the right superclass."
    )
    told = "; ".join(f"{name} {share:.0f}%" for name, share in zip(names[::-1], shares[::-1], strict=True))
    return Drawing(rendered(figure), caption, f"Bar chart of the most confused pairs of classes: {told}.")


def scaling(shipped):
    """Time and memory of external attention and of self-attention over the number of tokens."""
    rows = read_json(shipped.root / "benchmarks" / "attention_scaling.json")["rows"]
    figure = new_figure(height=560)
    axes = figure.subplots(2, 1, sharex=True)
    tokens = sorted({row["tokens"] for row in rows})
    for axis, key, title in zip(axes, ("milliseconds", "megabytes"), ("time, ms", "peak memory, MB"), strict=True):
        for kind, colour in (("external", BLUE), ("self", ORANGE)):
            for mode, style in (("forward", "-"), ("training_step", "--")):
                chosen = [r for r in rows if (r["attention"], r["mode"]) == (kind, mode) and r[key] is not None]
                axis.plot([r["tokens"] for r in chosen], [r[key] for r in chosen], style, marker="o", ms=4, color=colour)
                _label_line(axis, kind, mode, [(r["tokens"], r[key]) for r in chosen], colour)
        axis.set(xscale="log", yscale="log")
        axis.set_title(title)
        axis.set_xticks(tokens[::2], [f"{n:,}" for n in tokens[::2]])
        axis.minorticks_off()
    axes[-1].set_xlabel("tokens")
    caption = (
        "Time and peak memory of one attention layer for a batch of 4, on log scales: external attention grows linearly "
        "with the number of tokens, self-attention quadratically. Self-attention ends where memory ran out."
    )
    return Drawing(rendered(figure), caption, "Time and memory over tokens, for external attention and self-attention.")


def _label_line(axis, kind, mode, points, colour):
    """Name the mode of a line at its end, and what it belongs to where there is room."""

    def label(text, point, offset, ha, va="center"):
        axis.annotate(text, points[point], offset, textcoords="offset points", ha=ha, va=va, color=colour)

    if mode == "forward":
        label("forward", -1, (8, 0), "left")
    elif kind == "external":
        label("training", -1, (8, 0), "left")
    else:
        label("training", -1, (-8, 2), "right")
        label("self-attention", -3, (-12, 6), "right")
    if (kind, mode) == ("external", "forward"):
        label("external attention", -1, (0, -44), "right", "top")
