"""Compare the epochs of a distilled run with those that its teacher was trained for, from the two runs' records.

    python benchmarks/distillation.py STUDENT TEACHER ...     run folders; those of the teacher oldest first
    python tools/draw_figures.py distillation                 draws what this wrote

Nothing is trained here: the commands are in the result.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common

from eanet.cli import UserError, read_json, run
from eanet.run_dir import training_runs

FACTS = ("command", "hardware", "date", "seed")  # of each run


def summary(folders: list[Path]) -> dict:
    """Return the record of one or more runs that went on from each other.

    Args:
        folders: oldest first, each with history.json; the last one also with eval_results.json.

    Returns:
        "epochs", "parameters", "top1_accuracy" on the images of "split", "validation_accuracy" by epoch, and "runs".

    Raises:
        UserError: a file is missing, or the runs are not those of the last one's record.
    """
    results = read_json(folders[-1] / "eval_results.json")
    curves = [read_json(folder / "history.json")["val_accuracy"] for folder in folders]
    runs = training_runs(results["training"])
    if [len(curve) for curve in curves] != [each["epochs"] for each in runs]:
        raise UserError(
            f"{folders[-1]}: was trained for {[each['epochs'] for each in runs]} epochs; name the folders of these runs"
        )
    return {
        "epochs": sum(map(len, curves)),
        "preset": results["model"]["preset"],
        "parameters": results["model"]["parameters"],
        "top1_accuracy": results["accuracy"],
        "split": results["dataset"]["split"],
        "validation_accuracy": [round(value, 4) for curve in curves for value in curve],
        "runs": [{fact: each[fact] for fact in FACTS} for each in runs],
    }


def main(argv=None) -> None:
    """Parse the arguments, compare and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", metavar="STUDENT", type=Path, help="folder of the distilled run")
    parser.add_argument(
        "teacher", metavar="TEACHER", type=Path, nargs="+", help="folders of the teacher's runs, oldest first"
    )
    args = parser.parse_args(argv)
    taught_by = read_json(args.student / "eval_results.json")["training"].get("teacher_run")
    taught = read_json(args.teacher[-1] / "eval_results.json")["training"]
    if not taught_by or (taught_by["command"], taught_by["date"]) != (taught["command"], taught["date"]):
        raise UserError(f"{args.student}: was not distilled from {args.teacher[-1]}")
    rows = [
        {"model": name, **summary(folders)} for name, folders in (("teacher", args.teacher), ("student", [args.student]))
    ]
    if rows[0]["split"] != rows[1]["split"]:
        raise UserError(f"measured on different images: {rows[0]['split']} and {rows[1]['split']}")
    common.report("distillation", rows)


if __name__ == "__main__":
    sys.exit(run(main))
