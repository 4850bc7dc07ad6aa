"""Train the short version of the shipped model's recipe twice, and compare the results to the last digit.

    KERAS_BACKEND=jax python benchmarks/reproduction.py --data cifar-100-dev.tar.gz            a few minutes on a GPU

Each run is one of train.py in runs/reproduction/; if stopped, the same command resumes, and complete runs that were made
elsewhere are taken as they are.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ablation
import common

from eanet.cli import positive_int, run

EPOCHS, RUNS = 10, 2


def main(argv=None) -> None:
    """Parse the arguments, train the runs and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, metavar="N", help=f"of a run (default: {EPOCHS})")
    args = parser.parse_args(argv)
    common.check_data(args.data)
    rows = []
    for number in range(1, RUNS + 1):
        folder = Path("runs", "reproduction", f"{args.epochs}-{number}")
        command = ablation.command("slim", 0, args.epochs, Path(args.data).resolve(), folder)
        results = common.run_results(folder, command)
        ablation.check_recipe("slim", 0, args.epochs, folder, results)
        training = results["training"]
        rows.append(
            {
                "run": number,
                "top1_accuracy": results["accuracy"],
                "loss": results["loss"],
                "checksum": results["model"]["checksum"],
                "hardware": f"{training['hardware']}, {training['backend']}",
                "seconds": training["wall_time_s"],
                "trained": training["date"],
            }
        )
    facts = {"train": training["command"].partition(" --output")[0], "split": results["dataset"]["note"]}
    common.report("reproduction", rows, same=len({row["checksum"] for row in rows}) == 1, **facts)


if __name__ == "__main__":
    sys.exit(run(main))
