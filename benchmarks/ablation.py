"""Short runs that show what each choice of the flagship is worth, on the hold-out; writes ablation.md and ablation.json.

    python benchmarks/ablation.py --data cifar-100-dev.tar.gz

Every run is one of train.py in runs/ablation/<name>; stopped, the same command goes on. The first row is the flagship with
several seeds, which says how far chance goes. Each other row differs from it in what it names and in nothing else; with the
depthwise convolution goes its activation. "Without EMA" are the last weights of the same run instead of their average.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import common
import numpy as np

EPOCHS, SEEDS = 8, (0, 1, 2)
ROWS = {
    "flagship": [],
    "one head with all the slots, 64 and 112, where the paper has one with 64": [
        *("--set", "num_heads=[1,1]", "--set", "slots=[64,112]"),
    ],
    "bare 2x2 patches and a position embedding, as the Keras example": [
        *("--set", "tokenizer=patch", "--set", "position_embedding=true"),
    ],
    "no depthwise convolution": ["--set", "depthwise_kernel=0"],
    "layer norm, as the Keras example": ["--set", "norm=layer"],
}


def run(setting: str, seed: int, options: list[str], args) -> dict:
    """What one run measured, with its EMA and without it."""
    name = f"{setting.split(',')[0].replace(' ', '-')}-{args.epochs}-{seed}"
    folder = common.HERE.parent / "runs" / "ablation" / name
    command = ["train.py", "--data", str(Path(args.data).resolve()), "--epochs", str(args.epochs), "--seed", str(seed)]
    command += ["--precision", args.precision, *options, "--output", str(folder)]
    done = subprocess.run([sys.executable, *command], cwd=common.HERE.parent, stdout=subprocess.PIPE, check=True)
    results = json.loads(done.stdout)
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    results |= {"without EMA": without_ema(folder, args.data, seed), "images/s": statistics.median(history["images_per_s"])}
    results["command"] = results["training"]["command"].rpartition(" --output")[0]
    return results | {"config": json.loads((folder / "config.json").read_text(encoding="utf-8"))}


def without_ema(folder: Path, data: str, seed: int) -> float:
    """Accuracy of the last weights in a run's checkpoint; the statistics of their norms are measured as for its average."""
    import train
    from data import Batches
    from modeling_eanet import EANetConfig, build_eanet

    config = EANetConfig.from_json_file(folder / "config.json")
    dataset, recipe = common.cifar100(data, config), train._settings_of(folder)["recipe"]
    model = build_eanet(config)
    with np.load(folder / train.CHECKPOINT, allow_pickle=False) as arrays:
        model.set_weights([arrays[f"{i:04d}"] for i in range(len(model.weights))])
    training, _ = dataset.carve_validation(recipe["validation_split"], seed)
    batches = Batches(training, config.num_classes, recipe["batch_size"], seed)
    train._measure_norms(model, batches, recipe["epochs"], train.LAST_NORM_BATCHES)
    return train.evaluate(model, dataset.test)["accuracy"]


def row(setting: str, options: list[str], args) -> tuple[list, str]:
    """One row, and what it was measured on."""
    from modeling_eanet import EANetConfig, build_eanet

    seeds = SEEDS if setting == "flagship" else SEEDS[:1]
    runs = [run(setting, seed, options, args) for seed in seeds]
    cells = [
        setting,
        percent([r["accuracy"] for r in runs]),
        percent([r["without EMA"] for r in runs]),
        f"{runs[0]['model']['parameters']:,}",
        f"{common.macs(build_eanet(EANetConfig.from_dict(runs[0]['config']))) / 1e6:.1f} M",
        f"{statistics.median(r['images/s'] for r in runs):.0f}",
        args.epochs,
        ", ".join(map(str, seeds)),
        f"`{runs[0]['command']}`",
    ]
    return cells, runs[0]["dataset"]["name"]


def percent(accuracies: list[float]) -> str:
    """The mean, and the sample standard deviation of several."""
    deviation = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.fmean(accuracies):.2f}{deviation} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=common.whole, default=EPOCHS, help=f"of every run (default: {EPOCHS})")
    parser.add_argument("--precision", default="float32", choices=("float32", "mixed_bfloat16"), help="as for train.py")
    args = parser.parse_args()
    common.check_data(args.data)
    rows, measured_on = zip(*(row(setting, options, args) for setting, options in ROWS.items()), strict=True)
    columns = ["setting", "top-1", "without EMA", "parameters", "MACs a picture", "images/s", "epochs", "seeds", "command"]
    speed = "the median over the epochs of each run, whatever else the machine did; train_speed.md compares speeds"
    common.report("ablation", columns, list(rows), measured_on=measured_on[0], images_per_second=speed)


if __name__ == "__main__":
    common.run(main)
