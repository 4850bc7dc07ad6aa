"""Draws the figures of the card from the shipped artefacts, logs and benchmarks.

    python figures/draw.py                      all of them
    python figures/draw.py attention slots      some

Each is figures/<name>.png, on white, so that it reads on light and on dark pages.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

BLUE, RED, GREY = "#1f5fa8", "#c8501e", "#6b7280"
PICTURES = ("aquarium_fish", "apple", "bottle", "sunflower", "skyscraper", "rocket")  # of samples/
plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                     "grid.alpha": 0.25, "axes.axisbelow": True, "legend.frameon": False})  # fmt: skip


def _json(name):
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def architecture():
    """The parts of the model, left to right, with the shape of what goes from one to the next."""
    from modeling_eanet import EANetConfig

    config = EANetConfig.from_json_file(ROOT / "config.json")
    side = config.image_size // config.patch_size
    parts = [("picture", f"{config.image_size}×{config.image_size}×3", GREY)]
    parts.append(("3×3\nconvolutions", f"{side}×{side}×{config.embed_dims[0]}", BLUE))
    for stage, depth in enumerate(config.depths):
        if stage:
            side //= 2
            parts.append(("3×3\nconvolution,\nstride 2", f"{side}×{side}×{config.embed_dims[stage]}", BLUE))
        parts.append((f"{depth} blocks", f"{side}×{side}×{config.embed_dims[stage]}", RED))
    parts.append(("average,\nclassifier", f"{config.num_classes} scores", BLUE))
    heads = " then ".join(f"{h} heads × {s} slots" for h, s in zip(config.num_heads, config.slots, strict=True))
    norm = f"{config.norm} norm"
    block = [
        (norm, GREY),
        ("to logits,\nheads × slots", BLUE),
        ("double\nnormalisation", RED),
        ("back to tokens", BLUE),
    ]
    mlp = [(norm, GREY), (f"widen ×{config.mlp_ratio:g}", BLUE), ("3×3 depthwise\nconvolution", BLUE), ("narrow", BLUE)]

    figure = plt.figure(figsize=(10, 4.6))
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axis.set(xlim=(0, 100), ylim=(0, 46))
    axis.axis("off")
    _boxes(axis, [(name, colour) for name, _, colour in parts], 35, 10, [shape for _, shape, _ in parts])
    axis.text(0, 28.6, f"A block is two branches, each added to what goes in. Attention has {heads}.", fontsize=11)
    for y, row, name in ((19, block, "attention"), (5, mlp, "MLP")):
        axis.text(0, y + 3.6, name, fontsize=11, va="center", color=GREY)
        _boxes(axis, row, y, 7.5, None, left=13)
    return figure


def _boxes(axis, boxes, y, height, below, left=0):
    gap = 3
    width = (100 - left - gap * (len(boxes) - 1)) / len(boxes)
    for i, (text, colour) in enumerate(boxes):
        x = left + i * (width + gap)
        axis.add_patch(plt.Rectangle((x, y), width, height, facecolor=colour, alpha=0.13, edgecolor=colour, linewidth=1.2))
        axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10.5)
        if below:
            axis.text(x + width / 2, y - 1.2, below[i], ha="center", va="top", fontsize=10, color=GREY)
        if i:
            axis.annotate("", (x, y + height / 2), (x - gap, y + height / 2), arrowprops=dict(arrowstyle="->", color=GREY))


def curves():
    """Accuracy and loss over the epochs, on the training pictures as they were augmented and on those that watched."""
    history = _json("history.json")
    begun = _json("eval_results.json")["training"].get("begun_with")  # with weights that were trained before
    epochs = np.arange(1, len(history["loss"]) + 1)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, key, label in zip(axes, ("accuracy", "loss"), ("top-1 accuracy", "cross-entropy"), strict=True):
        axis.plot(epochs, history[key], color=GREY, label="training pictures, augmented")
        if f"val_{key}" in history:
            axis.plot(epochs, history[f"val_{key}"], color=BLUE, label="validation pictures, averaged weights")
        axis.set(xlabel="epoch of the last run" if begun else "epoch", ylabel=label)
    axes[0].legend(loc="lower right")
    return figure


def confusion():
    """How often a picture of one superclass (row) is called a class of another (column)."""
    found = _json("benchmarks/evaluation.json")["superclass_confusion"]
    counts = np.array(found["counts"])
    per_cent = 100 * counts / counts.sum(axis=1, keepdims=True)
    figure, axis = plt.subplots(figsize=(10, 9.4), constrained_layout=True)
    axis.imshow(np.sqrt(per_cent), cmap="Blues")  # the square root shows the rare ones
    for (i, j), value in np.ndenumerate(per_cent):
        if value >= 1.5:
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=9, color="white" if value > 40 else "black")
    axis.set_xticks(range(len(counts)), found["names"], rotation=55, ha="right")
    axis.set_yticks(range(len(counts)), found["names"])
    axis.set(xlabel="superclass of the first answer", ylabel="true superclass; the numbers are per cent of its pictures")
    axis.grid(False)
    return figure


def calibration():
    """Accuracy over the probability of the first answer."""
    found = _json("benchmarks/evaluation.json")
    bins = found["calibration"]
    figure, axis = plt.subplots(figsize=(6.4, 5), constrained_layout=True)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="calibrated")
    width = bins[0]["to"] - bins[0]["from"]
    axis.bar([b["from"] + width / 2 for b in bins], [b["accuracy"] for b in bins], 0.92 * width, color=BLUE, alpha=0.35)
    sizes = [5 + 400 * b["count"] / found["num_images"] for b in bins]
    axis.scatter(
        [b["confidence"] for b in bins], [b["accuracy"] for b in bins], sizes, color=BLUE, label="pictures, by area"
    )
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the first answer", ylabel="part of them that is right")
    axis.set_title(f"expected calibration error {100 * found['expected_calibration_error']:.1f} %", fontsize=11)
    axis.legend(loc="upper left")
    return figure


def _attention(names):
    """Pictures uint8 (n, size, size, 3) and, per block, float32 (n, side, side, heads, slots)."""
    import keras

    from modeling_eanet import attention_layer_name, from_pretrained_keras, load_image

    model = from_pretrained_keras(ROOT)
    pictures = np.stack([load_image(ROOT / "samples" / f"{name}.png", model.config) for name in names])
    layers = [model.get_layer(attention_layer_name(i)).output for i in range(sum(model.config.depths))]
    maps = [np.asarray(a) for a in keras.Model(model.input, layers)(pictures)]
    return pictures, [a.reshape(len(a), *2 * (round(a.shape[1] ** 0.5),), *a.shape[2:]) for a in maps]


def attention():
    """What every head of every block does with one picture: the slot that each token attends to most."""
    pictures, maps = _attention(PICTURES[:1])
    heads = max(a.shape[3] for a in maps)
    figure, axes = plt.subplots(len(maps), heads + 1, figsize=(10, 1.16 * len(maps) + 0.3), constrained_layout=True)
    colours = plt.get_cmap("tab20")
    for block, a in enumerate(maps):
        axes[block, 0].imshow(pictures[0])
        axes[block, 0].set_ylabel(f"block {block}", fontsize=10)
        for head in range(heads):
            best, weight = a[0, :, :, head].argmax(axis=-1), a[0, :, :, head].max(axis=-1)
            shade = 0.25 + 0.75 * np.clip(weight * a.shape[4] / 4, 0, 1)[..., None]  # full where four times its share
            axes[block, head + 1].imshow(1 - shade * (1 - colours(best)[..., :3]))
            if block == 0:
                axes[block, head + 1].set_title(f"head {head}", fontsize=10)
    _bare(axes)
    return figure


def slots():
    """What the slots of one head look at: the weight of each, over tokens, for several pictures."""
    pictures, maps = _attention(PICTURES)
    block = int(len(maps) > 1)
    a = maps[block][:, :, :, 0]
    count = a.shape[-1]
    figure, axes = plt.subplots(len(pictures), count + 1, figsize=(10, 1.12 * len(pictures) + 0.5), constrained_layout=True)
    for i, picture in enumerate(pictures):
        axes[i, 0].imshow(picture)
        for slot in range(count):
            axes[i, slot + 1].imshow(a[i, :, :, slot], cmap="magma", vmin=0, vmax=a[..., slot].max())
            if i == 0:
                axes[i, slot + 1].set_title(f"slot {slot}", fontsize=10)
    figure.suptitle(f"block {block}, head 0", fontsize=11)
    _bare(axes)
    return figure


def _bare(axes):
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(False)


def scaling():
    """Time and memory of external and of self attention over the number of tokens."""
    found = _json("benchmarks/attention_scaling.json")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), constrained_layout=True)
    tokens = sorted({row["tokens"] for row in found["rows"]})
    for axis, key, label in zip(axes, ("ms", "peak MB"), ("time, ms", "peak memory, MB"), strict=True):
        for kind, colour in (("external", BLUE), ("self", RED)):
            for mode, style in (("forward", "-o"), ("training step", "--s")):
                rows = [r for r in found["rows"] if (r["attention"], r["mode"]) == (kind, mode)]
                points = [(r["tokens"], r[key]) for r in rows if isinstance(r[key], float)]
                axis.plot(*zip(*points, strict=True), style, color=colour, markersize=4, label=f"{kind} attention, {mode}")
        axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel=label)
        axis.set_xticks(tokens[::2], [f"{n:,}" for n in tokens[::2]])
        axis.minorticks_off()
    axes[0].legend(fontsize=9)
    return figure


FIGURES = {f.__name__: f for f in (architecture, curves, confusion, calibration, attention, slots, scaling)}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in FIGURES:
            parser.error(f"{name}: must be one of {', '.join(FIGURES)}")
    for name in args.names or FIGURES:
        try:
            figure = FIGURES[name]()
        except (OSError, ValueError) as error:
            parser.error(f"{name}: {' '.join(str(error).split())}")
        temporary = HERE / f".{name}.{os.getpid()}.tmp"
        try:
            # Without the version of Matplotlib in it, the same picture is the same file.
            figure.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})
            os.replace(temporary, HERE / f"{name}.png")
        finally:
            temporary.unlink(missing_ok=True)
            plt.close(figure)
        print(f"wrote {HERE / name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
