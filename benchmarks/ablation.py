"""Measure what each choice of the flagship's architecture is worth, in short runs on the hold-out.

    python benchmarks/ablation.py --data cifar-100-dev.tar.gz

Each run is one of train.py in runs/ablation/; if stopped, the same command resumes. The first row is the flagship with
several seeds, which shows the spread. Each other row changes what it names and nothing else. "Without EMA" are the last
weights of the same run instead of their moving average.
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

from eanet.cli import positive_int, read_json, run
from eanet.data import check_data_path
from eanet.evaluation import count_macs

EPOCHS, SEEDS = 8, (0, 1, 2)
# Name of the run folders: what the row is called, and the options added to train.py.
SETTINGS = {
    "flagship": ("flagship", []),
    "one-head": (
        "one head with all 64 and 112 slots (the paper: one head, 64 slots)",
        ["--set", "num_heads=[1,1]", "--set", "slots=[64,112]"],
    ),
    "patches": (
        "2x2 patches and a position embedding (Keras example)",
        ["--set", "tokenizer=patch", "--set", "position_embedding=true"],
    ),
    "no-depthwise": ("no depthwise convolution", ["--set", "depthwise_kernel=0"]),
    "layer-norm": ("layer norm (Keras example)", ["--set", "norm=layer"]),
}


def train_run(setting: str, seed: int, args) -> dict:
    """Train one run, or resume it, and return its eval_results.json with "without_ema", "images_per_second" and "macs"."""
    from modeling_eanet import EANetConfig, build_eanet

    folder = common.ROOT / "runs" / "ablation" / f"{setting}-{args.epochs}-{seed}"
    options = ["--epochs", args.epochs, "--seed", seed, "--precision", args.precision, *SETTINGS[setting][1]]
    common.run_python("train.py", "--data", Path(args.data).resolve(), *options, "--output", folder)
    results = read_json(folder / "eval_results.json")
    speeds = read_json(folder / "history.json")["images_per_s"]
    return results | {
        "without_ema": accuracy_without_ema(folder, args.data),
        "images_per_second": statistics.median(speeds),
        "macs": count_macs(build_eanet(EANetConfig.from_json_file(folder / "config.json"))),
    }


def accuracy_without_ema(folder, data) -> float:
    """Return the accuracy of the last weights in a run's checkpoint, with batch norm statistics recomputed for them.

    Args:
        folder: the run folder.
        data: path of CIFAR-100.
    """
    from eanet.data import Batches, split_validation
    from eanet.evaluation import evaluate
    from eanet.run_dir import CHECKPOINT_FILE, read_settings
    from eanet.trainer import FINAL_NORM_BATCHES, recalibrate_batch_norm
    from modeling_eanet import EANetConfig, build_eanet

    settings = read_settings(folder)
    config, recipe = EANetConfig.from_dict(settings["config"]), settings["recipe"]
    model, dataset = build_eanet(config), common.cifar100(data, config)
    with np.load(Path(folder) / CHECKPOINT_FILE, allow_pickle=False) as arrays:
        model.set_weights([arrays[f"{i:04d}"] for i in range(len(model.weights))])
    training, _ = split_validation(dataset, recipe["validation_split"], recipe["seed"])
    batches = Batches(training, config.num_classes, recipe["batch_size"], recipe["seed"])
    recalibrate_batch_norm(model, batches, recipe["epochs"], FINAL_NORM_BATCHES)
    return evaluate(model, dataset.test)["accuracy"]


def row(setting: str, runs: list[dict]) -> dict:
    """Return one row of the report.

    Args:
        setting: a key of `SETTINGS`.
        runs: results of `train_run`, one per seed.
    """
    first = runs[0]
    accuracy, deviation = mean_and_deviation([r["accuracy"] for r in runs])
    without_ema, without_ema_deviation = mean_and_deviation([r["without_ema"] for r in runs])
    return {
        "setting": SETTINGS[setting][0],
        "top1_accuracy": accuracy,
        "top1_deviation": deviation,
        "top1_without_ema": without_ema,
        "top1_without_ema_deviation": without_ema_deviation,
        "parameters": first["model"]["parameters"],
        "macs": first["macs"],
        "images_per_second": statistics.median(r["images_per_second"] for r in runs),
        "epochs": first["training"]["epochs"],
        "seeds": [r["training"]["seed"] for r in runs],
        "command": first["training"]["command"].partition(" --output")[0],
    }


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Return the mean, and the sample standard deviation or None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def main(argv=None) -> None:
    """Parse the arguments, train the runs and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, metavar="N", help=f"per run (default: {EPOCHS})")
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed_bfloat16"), help="as for train.py")
    args = parser.parse_args(argv)
    check_data_path(args.data)
    rows = []
    for setting in SETTINGS:
        runs = [train_run(setting, seed, args) for seed in (SEEDS if setting == "flagship" else SEEDS[:1])]
        rows.append(row(setting, runs))
    dataset = runs[0]["dataset"]
    name = dataset["name"].removesuffix(f" ({dataset['note']})")
    common.report("ablation", rows, dataset=name, split=dataset["note"] or dataset["split"])


if __name__ == "__main__":
    sys.exit(run(main))
