"""Measure what each choice of the flagship is worth, in runs of 30 epochs, and what its teacher is worth also in 150.

    KERAS_BACKEND=jax python benchmarks/ablation.py --data cifar-100-dev.tar.gz                           needs a GPU

Each run is one of train.py in runs/ablation/; if stopped, the same command resumes. `--commands` prints the commands, to run
them elsewhere; `--report` adds the runs that are complete to those reported so far, and trains nothing. The first row is the
flagship's recipe; each other row changes what it names and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common

from eanet.cli import UserError, positive_int, read_json, run
from eanet.data import check_data_path
from eanet.evaluation import count_macs

EPOCHS, SEEDS, FULL_EPOCHS = 30, 2, 150
FLAGSHIP = {  # options of train.py
    "preset": "pyramid",
    "augment": "trivial",
    "teacher": "models/base",
    "batch-size": 256,
    "precision": "mixed_bfloat16",
    "set": None,
}


class Setting(NamedTuple):
    """A row: its name, the options that differ from `FLAGSHIP` (None for one left out), and a variant of the blocks."""

    title: str
    options: dict = {}  # noqa: RUF012
    variant: str | None = None  # one of `ablation_variants.VARIANTS`


SETTINGS = {  # by the name of the run folders
    "flagship": Setting("flagship's recipe"),
    "no-teacher": Setting("no teacher", {"teacher": None}),
    "no-policy": Setting("no TrivialAugment", {"augment": None}),
    "neither": Setting("neither teacher nor TrivialAugment", {"teacher": None, "augment": None}),
    "two-stages": Setting("two stages, 16x16 and 8x8", {"preset": "small", "set": {"redundant_bias": False}}),
    "weight-decay": Setting("weight decay 0.01 instead of 0.1", {"weight-decay": 0.01}),
    "squeeze-excitation": Setting("with squeeze-and-excitation", variant="squeeze-excitation"),
    "branches": Setting("with foldable depthwise branches", variant="branches"),
    "no-attention": Setting("a linear map instead of external attention", variant="no-attention"),
    "one-head": Setting(
        "one head with all slots (the paper: one head, 64 slots)", {"set": {"num_heads": [1, 1, 1], "slots": [24, 64, 112]}}
    ),
    "no-depthwise": Setting("no depthwise convolution, nor its activation", {"set": {"depthwise_kernel": 0}}),
}


def command(name: str, seed: int, epochs: int, data, folder: Path) -> list[str]:
    """Return the program and arguments of one run, to be run in the repository's root.

    Args:
        name: a key of `SETTINGS`.
        seed: of the run.
        epochs: of the run.
        data: path of CIFAR-100.
        folder: of the run.
    """
    setting, options = SETTINGS[name], {"data": data, **recipe(name, seed, epochs)}
    words = ["benchmarks/ablation_variants.py", setting.variant] if setting.variant else ["train.py"]
    for option, value in options.items():
        if isinstance(value, dict):
            fields = [f"{field}={json.dumps(each, separators=(',', ':'))}" for field, each in value.items()]
            words += [word for field in fields for word in (f"--{option}", field)]
        elif value is not None:
            words += [f"--{option}", str(value)]
    return [*words, "--output", str(folder)]


def recipe(name: str, seed: int, epochs: int) -> dict:
    """Return the options of a run that are not paths of this machine, by name; None for one left out."""
    options = {"epochs": epochs, "seed": seed, **FLAGSHIP, **SETTINGS[name].options}
    if seed:  # another seed's validation split has images that the teacher, of seed 0, was trained on
        options["validation-split"] = 0
    return options


def check_recipe(name: str, seed: int, epochs: int, folder: Path, results: dict) -> None:
    """Raise UserError if the results in a run's folder are of another recipe."""
    recorded = results["training"]["recipe"]
    for option, value in recipe(name, seed, epochs).items():
        found = recorded.get(option.replace("-", "_"))
        if found != value:
            raise UserError(f"{folder}: was trained with {option} {found}, not {value}; delete it, and it is trained again")


def run_folder(name: str, seed: int, epochs: int) -> Path:
    """Return the folder of a run, relative to the repository's root."""
    return Path("runs", "ablation", f"{name}-{epochs}-{seed}")


def entry(name: str, results: dict, folder: Path) -> dict:
    """Return what a row reports of one run.

    Args:
        name: a key of `SETTINGS`.
        results: contents of its eval_results.json.
        folder: of the run, relative to the repository's root.
    """
    training = results["training"]
    words = command(name, training["seed"], training["epochs"], "cifar-100-dev.tar.gz", folder)
    return {
        "seed": training["seed"],
        "top1_accuracy": results["accuracy"],
        "command": shlex.join(["python", *words]) if SETTINGS[name].variant else training["command"],
        "hardware": training["hardware"],
        "trained": training["date"],
    }


def model_size(name: str) -> dict:
    """Return "parameters" and "macs" of the model of a setting."""
    from ablation_variants import changed_blocks

    from modeling_eanet import EANetConfig, build_eanet

    setting = SETTINGS[name]
    options = FLAGSHIP | setting.options
    with changed_blocks(setting.variant):
        model = build_eanet(EANetConfig.preset(options["preset"], **(options["set"] or {})))
    return {"parameters": model.count_params(), "macs": count_macs(model)}


def reported(name: str, epochs: int, size: dict) -> dict[int, dict]:
    """Return the runs of a row of the last report, by seed; none if it is of a model of another size."""
    path = common.HERE / "ablation.json"
    for row in read_json(path)["rows"] if path.is_file() else ():
        if {**row, "setting": SETTINGS[name].title, "epochs": epochs, **size} == row:
            return {each["seed"]: each for each in row["seeds"]}
    return {}


def main(argv=None) -> None:
    """Parse the arguments, train the runs and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, metavar="N", help=f"per run (default: {EPOCHS})")
    parser.add_argument("--seeds", type=positive_int, default=SEEDS, metavar="N", help=f"per row (default: {SEEDS})")
    parser.add_argument("--commands", action="store_true", help="print the commands of the runs and stop")
    parser.add_argument("--report", action="store_true", help="add the complete runs to the report and train none")
    args = parser.parse_args(argv)
    runs = [(name, args.epochs, seed) for seed in range(args.seeds) for name in SETTINGS]
    runs = list(dict.fromkeys([*runs, ("flagship", FULL_EPOCHS, 0), ("no-teacher", FULL_EPOCHS, 0)]))
    if args.commands:
        for name, epochs, seed in runs:
            print(shlex.join(["python", *command(name, seed, epochs, args.data, run_folder(name, seed, epochs))]))
        return
    check_data_path(args.data)
    rows: dict = {}
    missing, dataset = [], {}
    for name, epochs, seed in runs:
        folder = run_folder(name, seed, epochs)
        words = None if args.report else command(name, seed, epochs, Path(args.data).resolve(), folder)
        found = common.run_results(folder, words)
        if (epochs, name) not in rows:
            size = model_size(name)
            rows[epochs, name] = {"setting": SETTINGS[name].title, **size, "epochs": epochs}
            rows[epochs, name]["seeds"] = reported(name, epochs, size) if args.report else {}
        row = rows[epochs, name]
        if found:
            check_recipe(name, seed, epochs, folder, found)
            if found["model"]["parameters"] != row["parameters"]:  # a run does not record its variant
                raise UserError(f'{folder}: is no run of "{row["setting"]}"; delete it, and it is trained again')
            row["seeds"][seed], dataset = entry(name, found, folder), found
        elif seed not in row["seeds"]:
            missing.append(folder.name)
    if missing:
        print(f"no complete run: {', '.join(missing)}; `--commands` has the commands", file=sys.stderr)
    if not dataset or not rows[args.epochs, "flagship"]["seeds"]:
        raise UserError(f"{run_folder('flagship', 0, args.epochs)}: no complete run; the others are compared with it")
    complete = [
        row | {"seeds": [row["seeds"][seed] for seed in sorted(row["seeds"])]} for row in rows.values() if row["seeds"]
    ]
    for row in complete:
        row["top1_accuracy"] = statistics.fmean(each["top1_accuracy"] for each in row["seeds"])
    split = dataset["dataset"]["note"] or dataset["dataset"]["split"]
    common.report("ablation", complete, split=split, num_images=dataset["num_images"])


if __name__ == "__main__":
    sys.exit(run(main))
