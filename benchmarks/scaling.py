"""Measure prediction and training on several cores and processes of one machine.

    python benchmarks/scaling.py                          all parts; 4 GB in the temporary folder
    python benchmarks/scaling.py --part prediction        eight minutes on two cores; results of other parts stay
    python benchmarks/scaling.py --images 2000            a quick look at prediction, which writes nothing

Prediction: inference.py on JPEGs of 300 to 1,500 pixels, on one thread and on all, in turns with a plain loop of Pillow and
onnxruntime that has one process per core; the peak memory of all its processes, for a part of the images and for all; and
rows after the process was killed ten times and resumed. Ray: eanet.predict_many in turns with inference.py. Training: one
process and two, and on paper what limits more.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import scaling_prediction

from eanet.cli import positive_int, read_json, run, temporary_folder

IMAGES, RAY_ROUNDS = 20_000, 3


def prediction(images: int = IMAGES) -> dict:
    """Return the part about inference.py."""
    with temporary_folder() as folder:
        rounds = scaling_prediction.ROUNDS if images == IMAGES else 2
        return scaling_prediction.measure(folder / "images", images, rounds)


def ray() -> dict:
    """Return the part about eanet.predict_many."""
    import scaling_ray

    with temporary_folder() as folder:
        scaling_prediction.write_images(folder / "images", IMAGES)
        return scaling_ray.measure(folder / "images", RAY_ROUNDS)


def training() -> dict:
    """Return the part about train.py --distribute."""
    import scaling_training

    return scaling_training.measure()


PARTS = {"prediction": prediction, "ray": ray, "training": training}


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="default: all")
    parser.add_argument("--images", type=positive_int, metavar="N", help="of prediction alone, for a quick look")
    args = parser.parse_args(argv)
    if args.images:
        print(json.dumps(prediction(args.images), indent=2))
        return
    path = common.HERE / "scaling.json"
    before = read_json(path) if path.is_file() else {}
    parts, rows = {name: before[name] for name in PARTS if name in before}, before.get("rows", [])
    for name in [args.part] if args.part else PARTS:
        parts[name] = {**PARTS[name](), "date": time.strftime("%Y-%m-%d")}
        print(json.dumps({name: parts[name]}, indent=2), file=sys.stderr)
        rows = parts.get("prediction", {}).pop("rows", rows)
        common.report("scaling", rows, **parts)


if __name__ == "__main__":
    sys.exit(run(main))
