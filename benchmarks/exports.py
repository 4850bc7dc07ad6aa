"""Compare the exports of the shipped model with Keras: size, accuracy on the hold-out, latency and cold start.

    python benchmarks/exports.py --data cifar-100-dev.tar.gz

Latency is of single images, cold start of the process that classifies one; both on one core with one thread. The ONNX export
is of the folded model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np
from predict_speed import SINGLES, time_predictions, time_processes

from eanet.cli import UserError, positive_int, run
from eanet.data import check_data_path
from eanet.evaluation import preset_name


def forms() -> dict:
    """Return the shipped model by form: Keras, folded, and ONNX.

    Raises:
        UserError: the ONNX file was exported from other weights.
    """
    from eanet.export import OnnxModel, find_onnx
    from eanet.folding import fold
    from eanet.saving import checksum_matches
    from modeling_eanet import from_pretrained_keras

    keras_model, path = from_pretrained_keras(common.ROOT), find_onnx(str(common.ROOT))
    onnx_model = OnnxModel(path, threads=1)
    if not checksum_matches(keras_model, onnx_model.checksum):
        raise UserError(f"{path}: exported from other weights; `python -m eanet.export` writes it")
    return {"Keras": keras_model, "Keras, folded": fold(keras_model), "ONNX": onnx_model}


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--rounds", type=positive_int, default=7, metavar="N", help="default: 7")
    args = parser.parse_args(argv)
    check_data_path(args.data)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow counts the cores; child processes inherit it

    from eanet.export import find_onnx
    from eanet.predict import predict_probabilities
    from eanet.saving import KERAS_FILES, model_checksum

    found = forms()
    files = {"Keras": [common.ROOT / name for name in KERAS_FILES], "ONNX": [find_onnx(str(common.ROOT))]}
    sizes = {form: sum(path.stat().st_size for path in paths) / 1e6 for form, paths in files.items()}
    split = common.cifar100(args.data, found["Keras"].config).test
    probabilities = {form: predict_probabilities(model, split.x, 500) for form, model in found.items()}
    answers = {form: p.argmax(axis=1) for form, p in probabilities.items()}
    seconds = time_predictions(found, split.x[:1], args.rounds)
    one = ("inference.py", "samples/apple.png")
    commands = {"Keras": one, "ONNX": (*one, "--runtime", "onnx"), "import": ("-c", "import tensorflow")}
    starts = time_processes(commands, args.rounds)
    rows = [
        {
            "form": form,
            "size_mb": sizes.get(form),
            "top1_accuracy": float((answers[form] == split.y).mean()),
            "same_answers": float((answers[form] == answers["Keras"]).mean()),
            "largest_difference": float(np.abs(probabilities[form] - probabilities["Keras"]).max()),
            "one_image_ms": 1000 * statistics.median(seconds[form]) / SINGLES,
            "cold_start_s": starts.get(form),
        }
        for form in found
    ]
    common.report(
        "exports",
        rows,
        preset=preset_name(found["Keras"].config),
        import_s=starts["import"],
        split=split.name,
        num_images=len(split),
        checksum=model_checksum(found["Keras"]),
    )


if __name__ == "__main__":
    sys.exit(run(main))
