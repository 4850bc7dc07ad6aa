"""Measure what each choice of the recipe is worth, in runs of 30 epochs; the presets and the teacher also in 150.

    KERAS_BACKEND=jax python benchmarks/ablation.py --data cifar-100-dev.tar.gz                           needs a GPU

Each run is one of train.py in runs/ablation/; if stopped, the same command resumes. Runs that are complete there, or that
ablation.json has, from whatever machine, are not trained again. `--commands` prints the commands of the others, to run them
elsewhere; `--report` adds what is complete and trains nothing. The first row is the preset pyramid; the others change
what they name and nothing else.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common

from eanet.cli import UserError, positive_int, read_json, run
from eanet.evaluation import count_macs
from modeling_eanet import EANetConfig, build_eanet

EPOCHS, SEEDS, FULL_EPOCHS = 30, 2, 150
RECIPE = {  # options of train.py
    "preset": "pyramid",
    "augment": "trivial",
    "teacher": "models/base",
    "batch-size": 256,
    "precision": "mixed_bfloat16",
    "set": None,
}


class Setting(NamedTuple):
    """A row: its name, the options that differ from `RECIPE` (None for one left out), and a variant of the blocks."""

    title: str
    options: dict = {}  # noqa: RUF012
    variant: str | None = None  # one of `ablation_variants.VARIANTS`


SETTINGS = {  # by the name of the run folders
    "pyramid": Setting("preset pyramid"),
    "slim": Setting("preset slim: its widths, and norms inside the branches", {"preset": "slim"}),
    "slim-widths": Setting("the widths of slim", {"preset": "slim", "set": {"inner_norm": False}}),
    "no-teacher": Setting("no teacher", {"teacher": None}),
    "no-policy": Setting("no TrivialAugment", {"augment": None}),
    "repeated": Setting("images and answers of the first 8 epochs repeated", {"teacher-epochs": 8}),
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
    options = {"epochs": epochs, "seed": seed, **RECIPE, **SETTINGS[name].options}
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


@functools.cache
def model_size(name: str) -> dict:
    """Return "parameters" and "macs" of the model of a setting."""
    from ablation_variants import changed_blocks

    setting = SETTINGS[name]
    options = RECIPE | setting.options
    with changed_blocks(setting.variant):
        model = build_eanet(EANetConfig.preset(options["preset"], **(options["set"] or {})))
    return {"parameters": model.count_params(), "macs": count_macs(model)}


def reported(name: str, epochs: int, size: dict) -> dict[int, dict]:
    """Return the runs of a row of the last report, by seed; none if it is of a model of another size."""
    path, wanted = common.HERE / "ablation.json", {"setting": SETTINGS[name].title, "epochs": epochs, **size}
    for row in read_json(path)["rows"] if path.is_file() else ():
        if wanted.items() <= row.items():
            return {each["seed"]: each for each in row["seeds"]}
    return {}


def collect(runs: list[tuple[str, int, int]]) -> tuple[list[dict], list[tuple[str, int, int]]]:
    """Return the rows of the report, from the last one and from complete runs, and the runs that are in neither.

    Args:
        runs: name, epochs and seed of each.

    Raises:
        UserError: a folder holds a run of another recipe or variant.
    """
    rows: dict = {}
    missing = []
    for name, epochs, seed in runs:
        if (name, epochs) not in rows:
            size = model_size(name)
            rows[name, epochs] = {"setting": SETTINGS[name].title, "epochs": epochs, **size}
            rows[name, epochs]["seeds"] = reported(name, epochs, size)
        row, folder = rows[name, epochs], run_folder(name, seed, epochs)
        if found := common.run_results(folder):
            check_recipe(name, seed, epochs, folder, found)
            if found["model"]["parameters"] != row["parameters"]:  # a run does not record its variant
                raise UserError(f'{folder}: is no run of "{row["setting"]}"; delete it, and it is trained again')
            row["seeds"][seed] = entry(name, found, folder)
        elif seed not in row["seeds"]:
            missing.append((name, epochs, seed))
    complete = [row for row in rows.values() if row["seeds"]]
    for row in complete:
        row["seeds"] = [row["seeds"][seed] for seed in sorted(row["seeds"])]
        row["top1_accuracy"] = statistics.fmean(each["top1_accuracy"] for each in row["seeds"])
    return complete, missing


def train_all(runs: list[tuple[str, int, int]], data: Path, jobs: int) -> None:
    """Train or resume runs, `jobs` at the same time. Raises UserError if one fails, once the others have ended."""
    if jobs > 1:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would give a GPU's memory to the first

    def train(each):
        name, epochs, seed = each
        folder = run_folder(name, seed, epochs)
        common.run_python(*command(name, seed, epochs, data, folder), quiet=jobs > 1)
        return folder

    with ThreadPoolExecutor(jobs) as pool:
        for done, folder in enumerate(pool.map(train, runs), 1):
            print(f"{folder}: complete, {done} of {len(runs)}", file=sys.stderr)


def main(argv=None) -> None:
    """Parse the arguments, train the runs that are missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    parser.add_argument("--epochs", type=positive_int, default=EPOCHS, metavar="N", help=f"per run (default: {EPOCHS})")
    parser.add_argument("--seeds", type=positive_int, default=SEEDS, metavar="N", help=f"per row (default: {SEEDS})")
    parser.add_argument("--rows", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME", help="train only "
                        f"these, of {', '.join(SETTINGS)} (default: all)")  # fmt: skip
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument("--commands", action="store_true", help="print the commands of the missing runs and stop")
    parser.add_argument("--report", action="store_true", help="report the complete runs and train none")
    args = parser.parse_args(argv)
    runs = [(name, args.epochs, seed) for seed in range(args.seeds) for name in SETTINGS]
    runs = list(dict.fromkeys([*runs, *((name, FULL_EPOCHS, 0) for name in ("pyramid", "slim", "no-teacher"))]))
    rows, missing = collect(runs)
    wanted = [each for each in missing if each[0] in args.rows]
    if args.commands:
        for name, epochs, seed in wanted:
            print(shlex.join(["python", *command(name, seed, epochs, args.data, run_folder(name, seed, epochs))]))
        return
    common.check_data(args.data)
    if not args.report:
        train_all(wanted, Path(args.data).resolve(), args.jobs)
        rows, missing = collect(runs)
    if missing:
        names = ", ".join(run_folder(name, seed, epochs).name for name, epochs, seed in missing)
        print(f"no complete run: {names}; `--commands` has the commands", file=sys.stderr)
    if not rows or (rows[0]["setting"], rows[0]["epochs"]) != (SETTINGS["pyramid"].title, args.epochs):
        raise UserError(f"{run_folder('pyramid', 0, args.epochs)}: no complete run; the others are compared with it")
    dataset = common.cifar100(args.data, EANetConfig.preset("pyramid")).test
    common.report("ablation", rows, split=dataset.note or dataset.name, num_images=len(dataset))


if __name__ == "__main__":
    sys.exit(run(main))
