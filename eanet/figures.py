"""Draw the charts of a run: training curves, confused classes, calibration. Needs matplotlib."""

from __future__ import annotations

import dataclasses
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from eanet.cli import atomic_path, write_json
from eanet.train_config import cutmix_epochs

RECORD = "figures.json"
# Figures are transparent. These have a contrast of 4.3:1 on white and on #0b0f19, the most that is possible on both.
INK, BLUE, ORANGE = "#737a87", "#2f75e6", "#ce5310"
PIXELS = 2  # of the file per CSS pixel
WIDTH = 520  # CSS pixels
TEXT = 12  # CSS pixels on a screen that shows the figure 400 wide
COLOURS = 224  # of a figure with photographs: 255 make the screenshot of the demo too large
MAX_MATRIX = 20  # classes whose confusion matrix is legible; of more, the most confused pairs are shown
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "grid.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    "axes.titlelocation": "left",
    "grid.alpha": 0.25,
    "lines.linewidth": 2,
}


@dataclasses.dataclass
class Drawing:
    """A finished figure.

    Attributes:
        image: RGBA PIL image with `PIXELS` pixels per CSS pixel.
        caption: one or two sentences to print under it.
        alt: what it shows, for people who cannot see it.
        photographs: reduce it to `COLOURS`; nothing on it may be half transparent.
    """

    image: Any
    caption: str
    alt: str
    photographs: bool = False


def text_size(width=WIDTH) -> float:
    """Return the smallest text size, in CSS pixels, for a figure of `width` CSS pixels."""
    return TEXT * max(1, width / 400)


def new_figure(width=WIDTH, height=WIDTH):
    """Return an empty matplotlib figure of `width` x `height` CSS pixels, and set colours and font size to match."""
    import matplotlib
    from matplotlib.figure import Figure

    sizes = ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize")
    # 100 CSS pixels are one inch here.
    matplotlib.rcParams.update({**STYLE, **dict.fromkeys(sizes, text_size(width) * 0.72 + 0.1)})
    return Figure(figsize=(width / 100, height / 100), layout="constrained")


def rendered(figure):
    """Return a matplotlib figure as a transparent RGBA PIL image."""
    from PIL import Image

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # of a class name: drawn as a box
        figure.savefig(file, format="png", dpi=100 * PIXELS, transparent=True)
    return Image.open(file).convert("RGBA")


def png(drawing: Drawing) -> bytes:
    """Encode a drawing as a PNG; photographs, which would be too large, get a palette."""
    from PIL import Image

    image, options = drawing.image, {}
    if drawing.photographs:
        image = drawing.image.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, kmeans=1)
        image.putpalette((image.getpalette() + [0] * 768)[:768])
        image.paste(255, mask=drawing.image.getchannel("A").point(lambda alpha: 255 * (alpha < 128)))
        options["transparency"] = 255
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, **options)
    return file.getvalue()


def save(folder: Path, drawings: dict[str, Drawing], depends_on: dict[str, str], checksum: str | None, others=None) -> None:
    """Write figures as PNG files, and figures.json, which says what each shows and of which weights.

    Args:
        folder: an existing folder.
        drawings: by name, without suffix.
        depends_on: "weights" or "code", by name.
        checksum: of the weights; None if no figure depends on weights.
        others: entries of figures.json that stay, by file name.
    """
    entries = dict(others or {})
    for name, drawing in drawings.items():
        with atomic_path(folder / f"{name}.png") as temporary:
            temporary.write_bytes(png(drawing))
        width = drawing.image.width // PIXELS
        entries[f"{name}.png"] = {
            "depends_on": depends_on[name], "width": width, "caption": drawing.caption, "alt": drawing.alt
        }  # fmt: skip
    in_order = {f"{name}.png": entries[f"{name}.png"] for name in depends_on if f"{name}.png" in entries}
    write_json(folder / RECORD, {"checksum": checksum, "figures": in_order})


# Charts ---------------------------------------------------------------------------------------------------------------


def curves(history: dict, recipe: dict, fine_tuned: bool) -> Drawing:
    """Draw accuracy and loss over the epochs of a run.

    Args:
        history: content of history.json: lists by key, one value per epoch.
        recipe: the run's options, of which `cutmix`, `epochs` and `teacher` are read.
        fine_tuned: whether it started from an earlier run's weights.
    """
    epochs = np.arange(1, len(history["loss"]) + 1)
    figure = new_figure(height=480)
    axes = figure.subplots(2, 1, sharex=True)
    loss = "loss" if recipe.get("teacher") else "cross-entropy"
    for axis, key, title in zip(axes, ("accuracy", "loss"), ("top-1 accuracy, %", loss), strict=True):
        scale, unit = (100, "{:.1f}%") if key == "accuracy" else (1, "{:.2f}")
        ends = []
        for name, prefix, colour in (("training", "", ORANGE), ("validation", "val_", BLUE)):
            if prefix + key in history:
                values = scale * np.array(history[prefix + key])
                axis.plot(epochs, values, color=colour, marker="o" if len(values) == 1 else None)
                ends.append((values[-1], f"{name} {unit.format(values[-1])}", colour))
        axis.set_title(title)
        axis.set_xlim(min(0, epochs[-1] - 1), epochs[-1])
        _label_ends(axis, ends)
    axes[-1].set_xlabel("epoch of the last run" if fine_tuned else "epoch")
    start = "of the last run, which started from an earlier run's weights" if fine_tuned else "of training"
    caption = f"Accuracy and loss over the {len(epochs)} epochs {start}."
    if recipe.get("teacher"):
        caption += " The training loss is that of distillation."
    mixed = cutmix_epochs(recipe.get("epochs", len(epochs)))
    if recipe.get("cutmix") and mixed:
        part = {0.5: "half"}.get(recipe["cutmix"], f"{100 * recipe['cutmix']:g}%")
        more = f", {part} of them mixed by CutMix"
        if len(epochs) > mixed:
            better = _improves_at(history, mixed)
            more = (
                "; they improve suddenly when CutMix stops, near the end" if better else f"{more}, which stops near the end"
            )
        caption += f" Training values are for augmented images{more}."
    named = (("training", "accuracy"), ("validation", "val_accuracy"))
    last = ", ".join(f"{name} {100 * history[key][-1]:.1f}%" for name, key in named if key in history)
    return Drawing(rendered(figure), caption, f"Accuracy and loss over the epochs; accuracy at the end: {last}.")


def _improves_at(history: dict, epoch: int) -> bool:
    """Return whether training values improve after `epoch` epochs, by more than twice the change of the epoch before."""
    steps = np.diff([history["accuracy"], history["loss"]], axis=1)[:, max(0, epoch - 2) : epoch]
    usual = 2 * np.abs(steps[:, 0]) if epoch > 1 else 0
    return bool(np.all(steps[:, -1] * [1, -1] > usual))


def _label_ends(axis, ends, gap=0.1) -> None:
    """Write (value, text, colour) to the right of the axis, at least `gap` of its height apart."""
    low, high = axis.get_ylim()
    height = -1
    for value, text, colour in sorted(ends):
        height = max((value - low) / (high - low), height + gap)
        axis.text(1.03, height, text, color=colour, va="center", transform=axis.transAxes)


def calibration(bins: list[dict], error: float, num_images: int) -> Drawing:
    """Draw accuracy over confidence, and how many images have which confidence.

    Args:
        bins: of `evaluation.calibration_error`.
        error: expected calibration error, 0 to 1.
        num_images: in all bins.
    """
    figure = new_figure(300, 380)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    width = bins[0]["to"] - bins[0]["from"]
    centres = [100 * (b["from"] + width / 2) for b in bins]
    upper.bar(centres, [100 * b["accuracy"] for b in bins], 88 * width, color=BLUE, alpha=0.6)
    upper.plot([0, 100], [0, 100], color=ORANGE)
    upper.text(3, 92, f"calibration error {100 * error:.1f}%")
    upper.text(3, 82, "line: perfect", color=ORANGE)
    upper.set(xlim=(0, 100), ylim=(0, 100), title="accuracy, %")
    lower.bar(centres, [100 * b["count"] / num_images for b in bins], 88 * width, color=INK)
    lower.set(title="share of images, %", xlabel="probability of the top answer, %")
    caption = (
        "How often the top answer is right, by its probability, and how many images get such a probability. "
        "Bars above the line mean that the model is under-confident, bars below it over-confident."
    )
    return Drawing(
        rendered(figure), caption, "Reliability diagram: accuracy over confidence, with a histogram of confidence."
    )


def confused_pairs(pairs: list[dict], note: str = "") -> Drawing:
    """Draw the pairs of classes that the model confuses most.

    Args:
        pairs: of `report.confused_pairs`, at least one.
        note: a last sentence of the caption.
    """
    pairs = pairs[:10][::-1]
    names = [" / ".join(label.replace("_", " ") for label in pair["classes"]) for pair in pairs]
    shares = [100 * pair["count"] / pair["of"] for pair in pairs]
    figure = new_figure(height=60 + 36 * len(pairs))
    axis = figure.subplots()
    axis.barh(range(len(pairs)), shares, 0.7, color=BLUE)
    axis.set_yticks(range(len(pairs)), [_plain(name) for name in names])
    for i, share in enumerate(shares):
        axis.text(share, i, f" {share:.0f}%", va="center", color=BLUE)
    axis.set(xlim=(0, 1.12 * max(shares)), xticks=[])
    axis.set_title("confused with each other, % of their images", loc="right")
    _without_frame(axis)
    caption = f"The {len(pairs)} most confused pairs of classes: share of the two classes' images taken for the other class."
    told = "; ".join(f"{name} {share:.0f}%" for name, share in zip(names[::-1], shares[::-1], strict=True))
    return Drawing(
        rendered(figure), f"{caption} {note}".strip(), f"Bar chart of the most confused pairs of classes: {told}."
    )


def confusion_matrix(counts: np.ndarray, labels) -> Drawing:
    """Draw a confusion matrix, each row in per cent of its class.

    Args:
        counts: (classes, classes) images by true (row) and predicted class (column).
        labels: class names, at most `MAX_MATRIX`.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(height=WIDTH if len(labels) > 4 else 320)
    axis = figure.subplots()
    axis.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    short = [_plain(label[:16] + "…" if len(label) > 17 else label) for label in labels]
    axis.set_xticks(range(len(labels)), short, rotation=90 if len(labels) > 4 else 0)
    axis.set_yticks(range(len(labels)), short)
    for i, j in np.argwhere(counts):
        dark = shares[i, j] > 0.5
        axis.text(j, i, str(counts[i, j]), ha="center", va="center", color="white" if dark else "#1f2328")
    axis.set(xlabel="predicted", ylabel="true class")
    _without_frame(axis)
    right = ", ".join(f"{label} {counts[i, i]} of {counts[i].sum()}" for i, label in enumerate(labels))
    caption = "Images by true class (row) and predicted class (column); the diagonal is right."
    return Drawing(rendered(figure), caption, f"Confusion matrix. Right: {right}.")


def _without_frame(axis) -> None:
    axis.grid(False)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _plain(label: str) -> str:
    """Keep matplotlib from reading a label as a formula."""
    return label.replace("$", r"\$")
