"""The exports of the shipped model beside Keras: size, agreement and accuracy on the hold-out, latency and cold start.

    python benchmarks/exports.py --data cifar-100-dev.tar.gz

Latency is of one picture after another, cold start of the whole process that classifies one; both on one core, so with one
thread. The ONNX export is of the folded model. Cold start stands beside a process that imports TensorFlow and does no more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

import common
import numpy as np

SINGLES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-100, as for train.py")
    parser.add_argument("--rounds", type=common.whole, default=7)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow counts the cores; processes inherit it

    from export import OnnxModel
    from modeling_eanet import KERAS_FILES, ONNX_FILE, fold, from_pretrained_keras, model_checksum, predict_probabilities

    root = common.HERE.parent
    forms = {"Keras": from_pretrained_keras(root)}
    forms |= {"Keras, folded": fold(forms["Keras"]), "ONNX": OnnxModel(root / ONNX_FILE, threads=1)}
    if forms["ONNX"].checksum != model_checksum(forms["Keras"]):
        raise ValueError(f"{ONNX_FILE}: is of other weights; `python export.py --format onnx` writes it anew")
    sizes = {"Keras": KERAS_FILES, "Keras, folded": (), "ONNX": [ONNX_FILE]}
    split = common.cifar100(args.data, forms["Keras"].config).test
    predicted = {name: predict_probabilities(model, split.x, 500) for name, model in forms.items()}

    def singles(model):
        return lambda: [model.predict_on_batch(split.x[i : i + 1]) for i in range(SINGLES)]

    runs = {name: singles(model) for name, model in forms.items()}
    for run in runs.values():
        run()
    seconds = common.interleave(runs, args.rounds)

    def start(*command):
        return lambda: subprocess.run([sys.executable, *command], cwd=root, check=True, capture_output=True)

    one = ("inference.py", "samples/apple.png")
    starts = {"Keras": start(*one), "ONNX": start(*one, "--runtime", "onnx"), "import": start("-c", "import tensorflow")}
    for run in starts.values():
        run()
    starts = {name: statistics.median(s) for name, s in common.interleave(starts, args.rounds).items()}

    rows = []
    for name in forms:
        difference = np.abs(predicted[name] - predicted["Keras"]).max()
        rows.append(
            [
                name,
                sum((root / file).stat().st_size for file in sizes[name]) / 1e6 or "",
                100 * float((predicted[name].argmax(1) == split.y).mean()),
                100 * float((predicted[name].argmax(1) == predicted["Keras"].argmax(1)).mean()),
                float(difference),
                1000 * statistics.median(seconds[name]) / SINGLES,
                starts.get(name, ""),
            ]
        )
    columns = ["form", "MB", "top-1, %", "same first answer, %", "largest difference", "one picture, ms", "cold start, s"]
    common.report(
        "exports",
        columns,
        rows,
        details={"checksum": model_checksum(forms["Keras"])},
        import_tensorflow_seconds=starts["import"],
        pictures=f"{len(split):,} {split.name}",
    )


if __name__ == "__main__":
    common.run(main)
