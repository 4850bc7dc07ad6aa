"""Measure training speed against the Keras example: full steps with the input pipelines, batches of 128.

    python benchmarks/train_speed.py                                    images/s of the example and of the presets
    python benchmarks/train_speed.py --data cifar-100-dev.tar.gz        also the time to the example's accuracy, 43.91%

All in float32 but for the rows that say bfloat16 (--precision mixed_bfloat16), which is slow on processors without it.
"Stored" is an epoch that repeats images and a teacher's answers (--teacher-epochs).

With data, a short run of the small preset, without CutMix and on all training images, is trained to its end. Its accuracy is
on the data's test split, which is a hold-out if it says so. Its time is compared with 50 epochs of 40,000 images at the
example's speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import UserError, positive_int, read_json, run, temporary_folder

STEPS, BATCH = 6, 128
PUBLISHED = 0.4391  # accuracy of the example on the official test split
EXAMPLE, SMALL = "Keras example", "small preset"


def contenders(folder: Path) -> dict:
    """Return functions by name that train for `STEPS` steps on the same images; the teacher's outputs go to `folder`."""
    import keras
    import keras_io_example

    from eanet.data import Batches, Split
    from eanet.folding import deployment_form
    from eanet.fused_layers import with_fused_layers
    from eanet.machine import keep_freed_memory
    from eanet.saving import dtype_policy
    from eanet.train_config import TrainConfig
    from eanet.trainer import compile_model, train_epoch
    from modeling_eanet import EANetConfig, build_eanet

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (STEPS * BATCH, 32, 32, 3)).astype(np.uint8)
    y = rng.integers(0, 100, len(x))
    keep_freed_memory()
    keras.utils.set_random_seed(0)
    example, targets = keras_io_example.build(x[:256]), np.eye(100, dtype=np.float32)[y]

    def preset(name, teacher=None, stored=False, precision="float32"):
        config = TrainConfig(preset=name, epochs=50, batch_size=BATCH, output=folder).resolved(None)
        config = dataclasses.replace(config, teacher="teacher" if teacher else None, teacher_epochs=1 if stored else None)
        teacher = with_fused_layers(deployment_form(build_eanet(teacher))) if teacher else None
        with dtype_policy(precision):
            model = with_fused_layers(build_eanet(EANetConfig.preset(name)))
        batches = Batches(Split(x, y, "train"), 100, BATCH, config.seed)
        compile_model(model, config, len(batches))
        return lambda: train_epoch(model, batches, 0, config, teacher)

    return {
        EXAMPLE: lambda: example.fit(x, targets, batch_size=BATCH, epochs=1, verbose=0),
        "keras-io preset": preset("keras-io"),
        SMALL: preset("small"),
        "small preset, bfloat16": preset("small", precision="mixed_bfloat16"),
        "pyramid preset": preset("pyramid"),
        "slim preset": preset("slim"),
        "slim preset, bfloat16": preset("slim", precision="mixed_bfloat16"),
        "slim preset, distilled from a small one": preset("slim", EANetConfig.preset("small")),
        "slim preset, distilled from a base one": preset("slim", EANetConfig.preset("base")),
        "slim preset, distilled from a base one, stored": preset("slim", EANetConfig.preset("base"), stored=True),
    }


def time_to_accuracy(data, epochs: int) -> dict:
    """Train a short run in its own process; the time includes start-up, reading the data, compilation and the export."""
    options = ["--data", Path(data).resolve(), "--epochs", epochs, "--validation-split", 0, "--cutmix", 0]
    with temporary_folder() as folder:
        start = time.perf_counter()
        common.run_python("train.py", *options, "--output", folder / "run")
        seconds = time.perf_counter() - start
        results = read_json(folder / "run" / "eval_results.json")
    return {
        "epochs": epochs,
        "accuracy": results["accuracy"],
        "split": results["dataset"]["split"],
        "seconds": seconds,
        "command": results["training"]["command"],
    }


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive_int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--data", metavar="PATH", help="CIFAR-100, to measure the time to 43.91%% too")
    parser.add_argument("--epochs", type=positive_int, default=4, metavar="N", help="of that run (default: 4)")
    args = parser.parse_args(argv)
    if args.data:
        common.check_data(args.data)
    with temporary_folder() as folder:
        runs = contenders(folder)
        for warm_up in runs.values():
            warm_up()
        seconds = common.interleave(runs, args.rounds)
    rows = [
        {
            "model": name,
            "images_per_second": STEPS * BATCH / statistics.median(s),
            "fastest_step_ms": 1000 * min(s) / STEPS,
            "times_the_example": common.ratio(seconds[EXAMPLE], s),
            "times_small": common.ratio(seconds[SMALL], s),
        }
        for name, s in seconds.items()
    ]
    facts = {}
    if args.data:
        from keras_io_example import EPOCHS, IMAGES

        reached = time_to_accuracy(args.data, args.epochs)
        if reached["accuracy"] < PUBLISHED:
            raise UserError(f"epochs {args.epochs}: {100 * reached['accuracy']:.2f}% is below 43.91%; use more epochs")
        example = EPOCHS * IMAGES / rows[0]["images_per_second"]
        facts["time_to_43_91"] = {**reached, "example_seconds": example, "times_sooner": example / reached["seconds"]}
    common.report("train_speed", rows, **facts)


if __name__ == "__main__":
    sys.exit(run(main))
