"""Short runs that show what each choice of the flagship is worth, on the hold-out; writes ablation.md and ablation.json.

    python benchmarks/ablation.py --data cifar-100-dev.tar.gz

Every run is one of train.py in runs/ablation/<name>; stopped, the same command goes on. The first row is the flagship, and
each other row differs from it in what it names and in nothing else; with the depthwise convolution goes its activation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import common

EPOCHS, SEED = 3, 0
ROWS = {
    "flagship": [],
    "layer norm, as the paper and the Keras example": ["--set", "norm=layer"],
    "no depthwise convolution": ["--set", "depthwise_kernel=0"],
    "bare 2x2 patches and a position embedding, as the Keras example": [
        *("--set", "tokenizer=patch", "--set", "position_embedding=true"),
    ],
}


def run(setting: str, options: list[str], args) -> tuple[list, str]:
    """One row (setting, top-1, parameters, MACs, images/s, epochs, seed, command), and what it was measured on."""
    folder = common.HERE.parent / "runs" / "ablation" / f"{setting.split(',')[0].replace(' ', '-')}-{args.epochs}"
    command = ["train.py", "--data", str(Path(args.data).resolve()), "--epochs", str(args.epochs), "--seed", str(SEED)]
    done = subprocess.run(
        [sys.executable, *command, *options, "--output", str(folder)],
        cwd=common.HERE.parent,
        stdout=subprocess.PIPE,
        check=True,
    )
    results = json.loads(done.stdout)
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))

    from modeling_eanet import EANetConfig, build_eanet

    macs = common.macs(build_eanet(EANetConfig.from_json_file(folder / "config.json")))
    row = [
        setting,
        f"{100 * results['accuracy']:.2f} %",
        f"{results['model']['parameters']:,}",
        f"{macs / 1e6:.1f} M",
        f"{statistics.median(history['images_per_s']):.0f}",
        args.epochs,
        SEED,
        f"`{results['training']['command']}`",
    ]
    return row, results["dataset"]["name"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=common.whole, default=EPOCHS, help=f"of every run (default: {EPOCHS})")
    args = parser.parse_args()
    rows, measured_on = zip(*(run(setting, options, args) for setting, options in ROWS.items()), strict=True)
    columns = ["setting", "top-1", "parameters", "MACs a picture", "images/s", "epochs", "seed", "command"]
    speed = "the median over the epochs of each run, whatever else the machine did; train_speed.md compares speeds"
    common.report("ablation", columns, list(rows), measured_on=measured_on[0], images_per_second=speed)


if __name__ == "__main__":
    common.run(main)
