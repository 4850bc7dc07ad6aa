"""Compare the exports of the shipped model with Keras: size, accuracy on the hold-out, latency and cold start.

    python benchmarks/exports.py --data cifar-100-dev.tar.gz
    python benchmarks/exports.py --data cifar-100-dev.tar.gz --earlier FOLDER   and how much faster today's exporter is

Exports that are not there are left out (`python -m eanet.export --format all --data DATA` writes them). Latency is of single
images and of batches of 128, cold start of the process that classifies one image; all on one core with one thread. Next to
them: well-known networks of the same run (benchmarks/peers.py), and what two converters' default settings make of the model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np
import peers
from predict_speed import BATCH, SINGLES, time_predictions, time_processes

from eanet.cli import UserError, native_stderr_silenced, positive_int, run, temporary_folder
from eanet.evaluation import preset_name
from eanet.export import find_onnx

FILES = {"ONNX": "onnx", "ONNX, float16 weights": "fp16", "ONNX, 8 bits": "int8", "LiteRT": "litert",
         "LiteRT, 8 bits": "litert-int8"}  # fmt: skip


def forms() -> dict:
    """Return the shipped model by form: Keras, folded, and the exports that are there.

    Raises:
        UserError: a file was exported from other weights.
    """
    from eanet.export import LitertModel, OnnxModel
    from eanet.folding import fold
    from eanet.saving import checksum_matches
    from modeling_eanet import from_pretrained_keras

    keras_model = from_pretrained_keras(common.ROOT)
    found = {"Keras": keras_model, "Keras, folded": fold(keras_model)}
    paths = {name: path for name, path in files().items() if path.is_file()}
    for name, path in paths.items():
        found[name] = (LitertModel if path.suffix == ".tflite" else OnnxModel)(path, threads=1)
        if not checksum_matches(keras_model, found[name].checksum):
            raise UserError(f"{path}: exported from other weights; `python -m eanet.export` writes it")
    return found


def files() -> dict[str, Path]:
    """Return where each export is, if it is there."""
    from eanet.export.formats import FORMATS

    return {name: common.ROOT / FORMATS[form] for name, form in FILES.items()}


def default_conversions() -> dict:
    """Return the model as two converters' default settings leave it."""
    import onnxruntime.quantization
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    with temporary_folder() as folder, native_stderr_silenced():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(common.ROOT))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        lite = Interpreter(model_content=converter.convert(), num_threads=1)
        onnxruntime.quantization.quantize_dynamic(common.ROOT / "onnx" / "model.onnx", folder / "m.onnx")
        dynamic = peers.OnnxBytes((folder / "m.onnx").read_bytes())
    return {
        "TFLite, Optimize.DEFAULT, of the SavedModel": _Lite(lite),
        "onnxruntime, quantize_dynamic, of model.onnx": dynamic,
    }


class _Lite:
    """Predicts one image at a time, as a phone does."""

    def __init__(self, interpreter):
        self.interpreter = interpreter
        interpreter.allocate_tensors()

    def predict_on_batch(self, images):
        (source,), (target,) = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        found = []
        for image in np.asarray(images, np.float32):
            self.interpreter.set_tensor(source["index"], image[None])
            self.interpreter.invoke()
            found.append(self.interpreter.get_tensor(target["index"])[0])
        return np.stack(found)


def default_rows(model, split) -> list[dict]:
    """Return accuracy and agreement with Keras of what the converters make of the model; no rows if one is not installed."""
    try:
        converted = default_conversions()
    except ModuleNotFoundError as error:
        print(f"exports.py: the converters' defaults are left out: {error.name} is not installed", file=sys.stderr)
        return []
    expected, rows = accuracy(model, split)[0].argmax(1), []
    for name, each in converted.items():
        probabilities, top1 = accuracy(each, split)
        same = float((probabilities.argmax(1) == expected).mean())
        rows.append({"form": name, "top1_accuracy": top1, "same_answers": same})
    return rows


def accuracy(model, split, step: int = 500) -> tuple[np.ndarray, float]:
    """Return the probabilities of a split's images and the top-1 accuracy."""
    batches = [np.asarray(model.predict_on_batch(split.x[at : at + step])) for at in range(0, len(split), step)]
    probabilities = np.concatenate(batches)
    return probabilities, float((probabilities.argmax(-1) == split.y).mean())


def measure(found: dict, split, rounds: int) -> tuple[list[dict], list[dict], float]:
    """Return the rows of the exports, those of the peers, and the seconds that importing TensorFlow takes."""
    built = {peer.name: peer.build() for peer in peers.PEERS}
    contenders = found | {name: peers.OnnxBytes(content) for name, (_, content) in built.items()}
    singles = time_predictions(contenders, split.x[:1], rounds)
    batches = time_predictions(contenders, split.x[:BATCH], rounds)
    one = ("inference.py", "samples/apple.png")
    starts = {name: (*one, "--model", str(path.relative_to(common.ROOT))) for name, path in files().items() if name in found}
    starts = time_processes({"Keras": one, **starts, "import": ("-c", "import tensorflow")}, rounds)
    sizes = {name: path.stat().st_size / 1e6 for name, path in files().items() if path.is_file()} | {"Keras": keras_size()}
    answers = {name: accuracy(model, split) for name, model in found.items()}
    probabilities = answers["Keras"][0]
    rows = []
    for name in found:
        row = {
            "form": name,
            "size_mb": sizes.get(name),
            "top1_accuracy": answers[name][1],
            "same_answers": float((answers[name][0].argmax(1) == probabilities.argmax(1)).mean()),
            "largest_difference": float(np.abs(answers[name][0] - probabilities).max()),
            "one_image_ms": 1000 * statistics.median(singles[name]) / SINGLES,
            "images_per_second": BATCH / statistics.median(batches[name]),
            "cold_start_s": starts.get(name),
        }
        rows.append(row)
    parameters = {name: net.parameters for name, (net, _) in built.items()}
    return rows, peers.rows(singles, batches, parameters, SINGLES, BATCH), starts["import"]


def earlier_export(folder: str, split, rounds: int) -> dict:
    """Compare the ONNX file that a model came with and today's export of the same weights.

    Args:
        folder: the model, such as a checkout of an earlier version of this repository.
        split: images.
        rounds: how often each is timed.

    Returns:
        "times_one_image" and "times_batch", how many times as fast the new file is; "same_answers"; and "parameters".
    """
    from eanet.export import OnnxModel, export_onnx
    from modeling_eanet import from_pretrained_keras

    model = from_pretrained_keras(folder)
    with temporary_folder() as home:
        export_onnx(model, home / "m.onnx")
        files = {"earlier": find_onnx(folder), "today": home / "m.onnx"}
        found = {name: OnnxModel(path, threads=1) for name, path in files.items()}
    singles = time_predictions(found, split.x[:1], rounds)
    batches = time_predictions(found, split.x[:BATCH], rounds)
    earlier, today = (accuracy(each, split)[0].argmax(1) for each in found.values())
    return {
        "parameters": model.count_params(),
        "times_one_image": common.ratio(singles["earlier"], singles["today"]),
        "times_batch": common.ratio(batches["earlier"], batches["today"]),
        "same_answers": float((earlier == today).mean()),
    }


def keras_size() -> float:
    """Return the size of Keras' files in MB."""
    from eanet.saving import KERAS_FILES

    return sum((common.ROOT / name).stat().st_size for name in KERAS_FILES) / 1e6


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--rounds", type=positive_int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--earlier", metavar="FOLDER", help="a model with an ONNX file that an earlier version wrote")
    args = parser.parse_args(argv)
    common.check_data(args.data)
    if args.earlier:
        find_onnx(args.earlier)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before TensorFlow counts the cores; child processes inherit it

    from eanet.saving import model_checksum

    found = forms()
    model = found["Keras"]
    split = common.cifar100(args.data, model.config).test
    rows, others, import_s = measure(found, split, args.rounds)
    facts = dict(preset=preset_name(model.config), split=split.name, num_images=len(split), checksum=model_checksum(model))
    if args.earlier:
        facts["earlier"] = earlier_export(args.earlier, split, args.rounds)
    common.report("exports", rows, peers=others, defaults=default_rows(model, split), import_s=import_s, **facts)


if __name__ == "__main__":
    sys.exit(run(main))
