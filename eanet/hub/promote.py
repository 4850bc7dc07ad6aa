"""Make a run the shipped one of this repository, with everything that depends on the weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from eanet.cli import UserError, atomic_path, first_line, require, temporary_folder, write_text
from eanet.hub.card import repository_of, update_card
from eanet.hub.card_facts import collect_facts
from eanet.hub.download import matches
from eanet.hub.provenance import (
    UNRECORDED,
    checksum_of,
    drop_other_weights,
    onnx_matches,
    other_weights,
    unrecorded_figures,
)
from eanet.hub.staging import ARTEFACTS, CARD, LOGS, MEASURED, ONNX, TREE, clear_outputs, same_architecture, stage_run
from eanet.hub.upload import export_if_possible
from eanet.loaded_model import load_config
from eanet.run_dir import HISTORY_FILE
from eanet.saving import LEGACY_ONNX_FILE, ONNX_FILE

INSTALLED = (*ARTEFACTS, *MEASURED, *LOGS, ONNX)
REPLACED = ("variables/*", "logs/*tfevents*", HISTORY_FILE, LEGACY_ONNX_FILE)  # unless installed
FIGURES = ("samples", "slots", "architecture", "curves", "attention", "scaling")
EVALUATION_FIGURES = ("confusion", "calibration")  # drawn from benchmarks/evaluation.json


def promote(run: Path, *, data: str | None = None, dry_run: bool = False, tree: Path = TREE) -> str:
    """Copy a run's model, results and logs into the repository and bring what depends on the weights up to date.

    The run is checked, exported and staged before the repository is touched; then each file gets a temporary name and is
    renamed. Measurements and figures are made again where possible and deleted otherwise, and the card is rewritten.

    Args:
        run: folder of a finished run.
        data: CIFAR-100, to measure superclasses, calibration and exports; None deletes the measurements of other weights.
        dry_run: change nothing and return what would be done.
        tree: the repository.

    Returns:
        What was done, in several lines.

    Raises:
        UserError: the run does not belong together or has other classes, matplotlib is missing, or `tree` is not a
            repository with a card.
    """
    repo_id = _check(run, data, tree)
    commands = _commands(tree, data)
    with temporary_folder(prefix="eanet-promote-") as folder:
        print(f"checking {run} …", file=sys.stderr)
        staged = stage_run(run, folder, tree)
        if load_config(folder).id2label != load_config(tree).id2label:
            raise UserError(
                f"{run}: has other classes than the model here, which {CARD} describes; push it to a repository of its own"
            )
        if not (folder / ONNX_FILE).exists():
            export_if_possible(staged.model, folder / ONNX_FILE)
        new = [name for name in _files(folder) if matches(name, INSTALLED)]
        gone = [name for name in _replaced(tree, folder, staged.model) if name not in new]
        unrecorded = unrecorded_figures(tree)
        if dry_run:
            lines = _lines("write", [*new, CARD]) + _lines("delete", gone) + _lines("run", commands)
            return "\n".join(["dry run: nothing was changed", *lines])
        for name in unrecorded:
            print(f"{name} is deleted: {UNRECORDED}", file=sys.stderr)
        _install(new, gone, folder, tree)
        drop_other_weights(tree, staged.model)
        failed = [command for command in commands if not _run(command, tree)]
        drop_other_weights(tree, staged.model)  # what a script that failed has left
        facts = collect_facts(tree, staged.results, staged.model, repo_id)
        write_text(tree / CARD, update_card((tree / CARD).read_text(encoding="utf-8"), facts, str(tree / CARD)))
    lines = _lines("wrote", [*new, CARD]) + _lines("deleted", [name for name in gone if not (tree / name).exists()])
    lines += _lines("ran", [command for command in commands if command not in failed]) + _lines("failed", failed)
    return "\n".join([f"promoted {run} to {tree}", *lines])


def _check(run: Path, data: str | None, tree: Path) -> str:
    """Check the arguments of `promote`, and return the repository that the card names."""
    if not (tree / "pyproject.toml").is_file() or not (tree / CARD).is_file():
        raise UserError(f"{tree}: not a copy of the repository, with pyproject.toml and {CARD}; run promote in one")
    if run.is_dir() and run.resolve() == tree.resolve():
        raise UserError(f"{run}: is the repository itself; give the folder of a run")
    if data is not None and not Path(data).exists():
        raise UserError(f"{data}: no such file or folder")
    if (tree / "tools" / "draw_figures.py").is_file():
        require("matplotlib", "`pip install matplotlib` to draw the figures")
    repo_id = repository_of((tree / CARD).read_text(encoding="utf-8"))
    if repo_id is None:
        raise UserError(f"{tree / CARD}: its code must load the model from one Hub repository, user/name")
    return repo_id


def _replaced(tree: Path, folder: Path, model) -> list[str]:
    """Return the names of the files in the tree that are not of the model in the staging folder."""
    names = [name for name in _files(tree) if matches(name, REPLACED)]
    names += [name for name in _files(tree) if matches(name, [ONNX]) and not onnx_matches(tree / name, model)]
    names += other_weights(tree, model)
    if not same_architecture(tree, folder):
        names += [path.relative_to(tree).as_posix() for path in tree.glob("figures/architecture.*")]
    return list(dict.fromkeys(names))


def _install(new: list[str], gone: list[str], folder: Path, tree: Path) -> None:
    """Copy the files `new` from the staging folder to the tree and delete those in `gone`."""
    if checksum_of(tree) != checksum_of(folder):
        for path in tree.glob("examples/*.ipynb"):
            clear_outputs(path)
    for name in new:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(tree / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    for name in gone:
        (tree / name).unlink(missing_ok=True)


def _commands(tree: Path, data: str | None) -> list[tuple]:
    """Return the scripts, with their arguments, that measure and draw what depends on the weights."""
    place = ("--data", str(Path(data or "").absolute()))
    commands: list[tuple] = [(f"benchmarks/{name}.py", *place) for name in ("evaluation", "exports")] if data else []
    figures = (*FIGURES, *EVALUATION_FIGURES) if data else FIGURES
    commands += [("benchmarks/readme.py",), ("tools/draw_figures.py", *figures)]
    return [command for command in commands if (tree / command[0]).is_file()]


def _run(command: tuple, tree: Path) -> bool:
    """Run a script of the repository; where it fails, say why and return False."""
    print(f"running {' '.join(command)} …", file=sys.stderr)
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{command[0]} failed: {first_line(reason)}", file=sys.stderr)
    return done.returncode == 0


def _files(root: Path) -> list[str]:
    places = ("*", "variables/*", "onnx/*", "logs/*", "logs/*/*")
    return sorted({p.relative_to(root).as_posix() for place in places for p in root.glob(place) if p.is_file()})


def _lines(verb: str, items) -> list[str]:
    return [f"  {verb:8} {item if isinstance(item, str) else ' '.join(item)}" for item in items]
