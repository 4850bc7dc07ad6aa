"""Prediction speed beside the Keras example: a single picture, batches of 128, and the cold start of `inference.py`.

    python benchmarks/predict_speed.py

Cold start is the time of the whole process, beside that of a process which imports TensorFlow and Keras and does no more.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import common
import numpy as np

BATCH, SINGLES = 128, 20


def models() -> dict:
    import keras
    import keras_io_example

    from modeling_eanet import EANetConfig, build_eanet, fold, from_pretrained_keras

    keras.utils.set_random_seed(0)
    found = {"Keras example": keras_io_example.build(), "keras-io preset": build_eanet(EANetConfig.preset("keras-io"))}
    found["keras-io preset, folded"] = fold(found["keras-io preset"])
    shipped = from_pretrained_keras(common.HERE.parent)
    found |= {f"{shipped.config.preset_name} preset": shipped, f"{shipped.config.preset_name} preset, folded": fold(shipped)}
    return found


def cold_start(rounds: int) -> dict[str, list[float]]:
    def run(*command):
        return lambda: subprocess.run([sys.executable, *command], cwd=common.HERE.parent, check=True, capture_output=True)

    commands = {
        "import tensorflow, keras": run("-c", "import tensorflow, keras"),
        "inference.py, one picture": run("inference.py", "samples/apple.png"),
    }
    for command in commands.values():
        command()
    return common.interleave(commands, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=common.whole, default=7)
    args = parser.parse_args()
    pictures = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3)).astype(np.uint8)
    found = models()

    def batch(model):
        return lambda: model.predict_on_batch(pictures)

    def singles(model):
        return lambda: [model.predict_on_batch(pictures[:1]) for _ in range(SINGLES)]

    rows, times = [], {}
    for kind, make in (("batch", batch), ("single", singles)):
        runs = {name: make(model) for name, model in found.items()}
        for run in runs.values():
            run()
        times[kind] = common.interleave(runs, args.rounds)
    for name in found:
        batches, single = times["batch"][name], times["single"][name]
        rows.append(
            [
                name,
                found[name].count_params(),
                BATCH / statistics.median(batches),
                common.ratio(times["batch"]["Keras example"], batches),
                1000 * statistics.median(single) / SINGLES,
                common.ratio(times["single"]["Keras example"], single),
            ]
        )
    starts = {name: statistics.median(seconds) for name, seconds in cold_start(max(5, args.rounds)).items()}
    columns = ["model", "parameters", "images/s, batch 128", "times the example"]
    columns += ["one picture, ms", "times the example, one picture"]
    common.report("predict_speed", columns, rows, cold_start_seconds=starts)


if __name__ == "__main__":
    common.run(main)
