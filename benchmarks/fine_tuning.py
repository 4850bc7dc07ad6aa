"""Measure training with default settings on small sets of one's own images.

    python benchmarks/fine_tuning.py            both sets; the digits need `pip install scikit-learn`

- Shapes: five classes of generated shapes and textures, 80 training and 20 test images each, 64 to 300 pixels, PNG, JPEG,
  WebP, BMP and GIF, one in twenty of them cut short. Trained from the shipped weights and from scratch.
- Digits: the 1,797 handwritten digits of scikit-learn, 8x8 pixels; a stratified fifth is the test split.

Each row is a run of train.py with no options but the data and the initial weights; its time includes start-up, reading the
images and the export.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import read_json, require, run, temporary_folder
from eanet.evaluation import preset_name
from eanet.loaded_model import load_config

CLASSES = ("checkerboard", "circles", "noise", "stripes", "triangles")
TRAIN, TEST = 80, 20  # images per class
BROKEN = 0.05
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def write_shapes(folder: Path, seed: int = 0) -> None:
    """Write the shapes and textures as class folders, `train/` and `test/`."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for label in CLASSES:
            (folder / split / label).mkdir(parents=True)
            broken = rng.permutation(count)[: round(BROKEN * count)] if split == "train" else ()
            for i in range(count):
                fmt = FORMATS[rng.integers(len(FORMATS))]
                content = io.BytesIO()
                draw(label, rng).save(content, fmt)
                data = content.getvalue()
                (folder / split / label / f"{i:03d}.{fmt.lower()}").write_bytes(
                    data[: len(data) // 3] if i in broken else data
                )


def draw(label: str, rng):
    """Return a PIL image of a class, with random size, colours, place, angle and noise."""
    from PIL import Image, ImageDraw

    width = int(rng.integers(64, 301))
    height = int(np.clip(width * rng.uniform(2 / 3, 3 / 2), 64, 300))
    back, front = rng.integers(0, 256, (2, 3))
    while np.abs(back - front).sum() < 150:
        back, front = rng.integers(0, 256, (2, 3))
    rows, columns = np.mgrid[:height, :width]
    period = rng.uniform(0.2, 0.5) * max(width, height)  # at least 6 of the model's 32 pixels
    angle = rng.uniform(0, np.pi)
    across = columns * np.cos(angle) + rows * np.sin(angle) + rng.uniform(0, period)
    along = rows * np.cos(angle) - columns * np.sin(angle) + rng.uniform(0, period)
    if label == "stripes":
        mask = across % period < period / 2
    elif label == "checkerboard":
        mask = (across % period < period / 2) ^ (along % period < period / 2)
    elif label == "noise":
        mask = rng.random((height, width)) < rng.uniform(0.3, 0.7)
    else:
        shape = Image.new("L", (width, height))
        for _ in range(rng.integers(1, 4)):
            radius = rng.uniform(0.15, 0.35) * min(width, height)
            x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
            if label == "circles":
                ImageDraw.Draw(shape).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
            else:
                ImageDraw.Draw(shape).regular_polygon((x, y, radius), 3, rotation=rng.uniform(0, 360), fill=1)
        mask = np.asarray(shape, bool)
    image = np.where(mask[..., None], front, back) + rng.normal(0, rng.uniform(0, 25), (height, width, 1))
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits as class folders; a stratified fifth becomes `test/`."""
    from PIL import Image

    datasets = require("sklearn.datasets", "`pip install scikit-learn`")
    selection = require("sklearn.model_selection", "`pip install scikit-learn`")
    digits = datasets.load_digits()
    parts = selection.train_test_split(np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=0)
    for split, part in zip(("train", "test"), parts, strict=True):
        for i in part:
            place = folder / split / str(digits.target[i])
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[i] * 255 / 16).round().astype(np.uint8)).save(place / f"{i:04d}.png")


def measure(name: str, data: Path, folder: Path, *options) -> dict:
    """Train in a process of its own and return the row."""
    start = time.perf_counter()
    common.run_python("train.py", "--data", data, *options, "--output", folder)
    seconds = time.perf_counter() - start
    results, history = read_json(folder / "eval_results.json"), read_json(folder / "history.json")
    training = results["training"]
    recipe, num_images = training["recipe"], training["num_images"]
    return {
        "run": name,
        "num_images": num_images,
        "num_test_images": results["num_images"],
        "epochs": len(history["loss"]),
        "batch_size": recipe["batch_size"],
        "steps": len(history["loss"]) * (num_images // recipe["batch_size"]),
        "top1_accuracy": results["accuracy"],
        "seconds": seconds,
        "command": training["command"],
    }


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="DIR", type=Path, help="only write the two data sets, in DIR")
    args = parser.parse_args(argv)
    if args.write:
        write_shapes(args.write / "shapes")
        write_digits(args.write / "digits")
        return
    with temporary_folder() as folder:
        write_shapes(folder / "shapes")
        write_digits(folder / "digits")
        tuned = f"shapes, from the shipped weights (preset {preset_name(load_config(common.ROOT))})"
        rows = [
            measure(tuned, folder / "shapes", folder / "tuned", "--init-from", "."),
            measure("shapes, from scratch", folder / "shapes", folder / "scratch"),
            measure("digits, from scratch", folder / "digits", folder / "digits-run"),
        ]
    common.report("fine_tuning", rows)


if __name__ == "__main__":
    sys.exit(run(main))
