"""Measure prediction speed against the Keras example: batches of 128, a single image, and the cold start of inference.py.

    python benchmarks/predict_speed.py

Cold start is the time of the process `python inference.py samples/apple.png`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import positive_int, run
from eanet.evaluation import preset_name

BATCH, SINGLES = 128, 20
EXAMPLE = "Keras example"


def models() -> dict:
    """Return the models to compare by name; the last two are the shipped one."""
    import keras
    import keras_io_example

    from eanet.folding import fold
    from modeling_eanet import EANetConfig, build_eanet, from_pretrained_keras

    keras.utils.set_random_seed(0)
    preset, shipped = build_eanet(EANetConfig.preset("keras-io")), from_pretrained_keras(common.ROOT)
    found = {EXAMPLE: keras_io_example.build(), "keras-io preset": preset, "keras-io preset, folded": fold(preset)}
    name = f"{preset_name(shipped.config)} preset"
    return found | {name: shipped, f"{name}, folded": fold(shipped)}


def time_predictions(found: dict, images, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of `SINGLES` calls for each model if there is one image, of one call if there are more.

    Args:
        found: name to model.
        images: uint8 (n, 32, 32, 3).
        rounds: how often each is timed.
    """
    calls = SINGLES if len(images) == 1 else 1
    runs = {
        name: lambda model=model: [model.predict_on_batch(images) for _ in range(calls)] for name, model in found.items()
    }
    for warm_up in runs.values():
        warm_up()
    return common.interleave(runs, rounds)


def time_processes(commands: dict, rounds: int) -> dict[str, float]:
    """Return the median seconds of processes, each run first without being timed.

    Args:
        commands: name to the arguments of `python`.
        rounds: how often each is timed.
    """
    runs = {name: lambda command=command: common.run_python(*command, quiet=True) for name, command in commands.items()}
    for warm_up in runs.values():
        warm_up()
    return {name: statistics.median(seconds) for name, seconds in common.interleave(runs, rounds).items()}


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive_int, default=7, metavar="N", help="default: 7")
    args = parser.parse_args(argv)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8)
    found = models()
    batches, singles = (time_predictions(found, images[:count], args.rounds) for count in (BATCH, 1))
    rows = [
        {
            "model": name,
            "parameters": model.count_params(),
            "images_per_second": BATCH / statistics.median(batches[name]),
            "times_the_example": common.ratio(batches[EXAMPLE], batches[name]),
            "one_image_ms": 1000 * statistics.median(singles[name]) / SINGLES,
            "times_the_example_one_image": common.ratio(singles[EXAMPLE], singles[name]),
        }
        for name, model in found.items()
    ]
    commands = {"import_s": ("-c", "import tensorflow, keras"), "cold_start_s": ("inference.py", "samples/apple.png")}
    seconds = time_processes(commands, max(5, args.rounds))
    preset = preset_name(list(found.values())[-2].config)
    common.report("predict_speed", rows, preset=preset, **seconds)


if __name__ == "__main__":
    sys.exit(run(main))
