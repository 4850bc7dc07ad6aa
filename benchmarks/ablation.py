"""Measure what each choice of the flagship is worth, in runs of 30 epochs, and what its teacher is worth also in 150.

    KERAS_BACKEND=jax python benchmarks/ablation.py --data cifar-100-dev.tar.gz                           needs a GPU

Each run is one of train.py in runs/ablation/; if stopped, the same command resumes. `--commands` prints the commands, to run
them elsewhere; `--report` takes the runs that are complete and trains nothing. The first row is the flagship's recipe; each
other row changes what it names and nothing else.
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

from eanet.cli import UserError, positive_int, run
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


def row(name: str, runs: list[dict]) -> dict:
    """Return one row of the report.

    Args:
        name: a key of `SETTINGS`.
        runs: contents of eval_results.json, one per seed.
    """
    from ablation_variants import changed_blocks

    from modeling_eanet import EANetConfig, build_eanet

    setting, first = SETTINGS[name], runs[0]["training"]
    folder = run_folder(name, first["seed"], first["epochs"])
    with changed_blocks(setting.variant):
        model = build_eanet(EANetConfig.from_json_file(common.ROOT / folder / "config.json"))
    for each in runs:  # a run does not record its variant
        if model.count_params() != each["model"]["parameters"]:
            wrong = run_folder(name, each["training"]["seed"], first["epochs"])
            raise UserError(f'{wrong}: is no run of "{setting.title}"; delete it, and it is trained again')
    words = command(name, first["seed"], first["epochs"], "cifar-100-dev.tar.gz", folder)
    return {
        "setting": setting.title,
        "top1_accuracy": statistics.fmean(each["accuracy"] for each in runs),
        "seeds": [{"seed": each["training"]["seed"], "top1_accuracy": each["accuracy"]} for each in runs],
        "parameters": runs[0]["model"]["parameters"],
        "macs": count_macs(model),
        "epochs": first["epochs"],
        "command": shlex.join(["python", *words]) if setting.variant else first["command"],
        "hardware": first["hardware"],
        "trained": first["date"],
    }


def main(argv=None) -> None:
    """Parse the arguments, train the runs and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, metavar="N", help=f"per run (default: {EPOCHS})")
    parser.add_argument("--seeds", type=positive_int, default=SEEDS, metavar="N", help=f"per row (default: {SEEDS})")
    parser.add_argument("--commands", action="store_true", help="print the commands of the runs and stop")
    parser.add_argument("--report", action="store_true", help="report the runs that are complete and train none")
    args = parser.parse_args(argv)
    runs = [(name, args.epochs, seed) for seed in range(args.seeds) for name in SETTINGS]
    runs = list(dict.fromkeys([*runs, ("flagship", FULL_EPOCHS, 0), ("no-teacher", FULL_EPOCHS, 0)]))
    if args.commands:
        for name, epochs, seed in runs:
            print(shlex.join(["python", *command(name, seed, epochs, args.data, run_folder(name, seed, epochs))]))
        return
    check_data_path(args.data)
    results: dict = {}
    missing = []
    for name, epochs, seed in runs:
        folder = run_folder(name, seed, epochs)
        words = None if args.report else command(name, seed, epochs, Path(args.data).resolve(), folder)
        if found := common.run_results(folder, words):
            check_recipe(name, seed, epochs, folder, found)
            results.setdefault((epochs, name), []).append(found)
        else:
            missing.append(folder.name)
    if missing:
        print(f"no complete run: {', '.join(missing)}; `--commands` has the commands", file=sys.stderr)
    first = results.get((args.epochs, "flagship"))
    if not first:
        raise UserError(f"{run_folder('flagship', 0, args.epochs)}: no complete run; the others are compared with it")
    rows = [row(name, found) for (_, name), found in results.items()]
    dataset = first[0]["dataset"]
    common.report("ablation", rows, split=dataset["note"] or dataset["split"], num_images=first[0]["num_images"])


if __name__ == "__main__":
    sys.exit(run(main))
