"""Make a run the shipped one of this repository, with everything that depends on the weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from eanet.cli import UserError, atomic_path, first_line, require, temporary_folder, write_text
from eanet.hub import provenance, staging
from eanet.hub.card import repository_of, update_card
from eanet.hub.card_facts import collect_facts
from eanet.hub.download import matches
from eanet.hub.staging import CARD
from eanet.hub.upload import export_if_possible
from eanet.loaded_model import load_config
from eanet.run_dir import HISTORY_FILE
from eanet.saving import LEGACY_ONNX_FILE, ONNX_FILE

INSTALLED = (*staging.ARTEFACTS, *staging.MEASURED, *staging.LOGS, *staging.EXPORTS)
REPLACED = ("variables/*", "logs/*tfevents*", HISTORY_FILE, LEGACY_ONNX_FILE)  # unless installed
FIGURES = ("samples", "slots", "architecture", "curves", "attention", "scaling")
EVALUATION_FIGURES = ("confusion", "calibration")  # drawn from benchmarks/evaluation.json


class ScriptFailed(UserError):
    """The run is promoted, but a script that measures or draws failed. Exit status 1."""

    exit_status = 1


def promote(run: Path, *, data: str | None = None, dry_run: bool = False, tree: Path = staging.TREE) -> str:
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
            repository with a card; nothing was changed.
        ScriptFailed: at the end, when what was done has been printed.
    """
    repo_id = _check(run, data, tree)
    commands = _commands(tree, data)
    with temporary_folder(prefix="eanet-promote-") as folder:
        print(f"checking {run} …", file=sys.stderr)
        staged = staging.stage_run(run, folder, tree)
        if load_config(folder).id2label != load_config(tree).id2label:
            raise UserError(
                f"{run}: has other classes than the model here, which {CARD} describes; push it to a repository of its own"
            )
        if not (folder / ONNX_FILE).exists():
            export_if_possible(staged.model, folder / ONNX_FILE)
        new = [name for name in _files(folder) if matches(name, INSTALLED)]
        gone = [name for name in _replaced(tree, folder, staged.model) if name not in new]
        unrecorded = provenance.unrecorded_figures(tree)
        _update_card(tree, folder, staged, repo_id)  # shows what is wrong with it before anything is changed
        edited = [CARD, *(name for name in ("benchmarks/README.md", provenance.FIGURES_RECORD) if (tree / name).is_file())]
        edited += [path.relative_to(tree).as_posix() for path in _notebooks(tree, folder)]
        if dry_run:
            lines = _lines("write", new) + _lines("update", edited) + _lines("delete", gone) + _lines("run", commands)
            return "\n".join(["dry run: nothing was changed", *lines])
        for name in unrecorded:
            print(f"{name} is deleted: {provenance.UNRECORDED}", file=sys.stderr)
        _install(new, gone, folder, tree)
        provenance.drop_other_weights(tree, staged.model)
        failed = [command for command in commands if not _run(command, tree)]
        provenance.drop_other_weights(tree, staged.model)  # what a script that failed has left
        write_text(tree / CARD, _update_card(tree, tree, staged, repo_id))
    lines = _lines("wrote", new) + _lines("updated", [name for name in edited if (tree / name).exists()])
    lines += _lines("deleted", [name for name in gone if not (tree / name).exists()])
    lines += _lines("ran", [command for command in commands if command not in failed]) + _lines("failed", failed)
    said = "\n".join([f"promoted {run} to {tree}", *lines])
    if failed:
        print(said)
        names = ", ".join(command[0] for command in failed)
        raise ScriptFailed(f"failed: {names}; without what they measure or draw. Promote the run again when they work")
    return said


def _update_card(tree: Path, folder: Path, staged, repo_id: str) -> str:
    """Return the tree's card, brought up to date with the files in `folder`."""
    facts = collect_facts(folder, staged.results, staged.model, repo_id)
    return update_card((tree / CARD).read_text(encoding="utf-8"), facts, str(tree / CARD))


def _check(run: Path, data: str | None, tree: Path) -> str:
    """Check the arguments of `promote`, and return the repository that the card names."""
    if not (tree / "pyproject.toml").is_file() or not (tree / CARD).is_file():
        raise UserError(f"{tree}: not a copy of the repository, with pyproject.toml and {CARD}; run promote in one")
    staging.check_run(run)
    if run.resolve() == tree.resolve():
        raise UserError(f"{run}: is the repository itself; give the folder of a run")
    if data is not None and not os.path.exists(data):  # "" is nothing, and not the current folder
        raise UserError(f"data {data}: no such file or folder")
    if (tree / "tools" / "draw_figures.py").is_file():
        require("matplotlib", "`pip install matplotlib` to draw the figures")
    repo_id = repository_of((tree / CARD).read_text(encoding="utf-8"))
    if repo_id is None:
        raise UserError(f"{tree / CARD}: its code must load the model from one Hub repository, user/name")
    return repo_id


def _replaced(tree: Path, folder: Path, model) -> list[str]:
    """Return the names of the files in the tree that are not of the model in the staging folder."""
    names = [name for name in _files(tree) if matches(name, REPLACED)]
    names += [
        name for name in _files(tree) if matches(name, staging.EXPORTS) and not provenance.export_matches(tree / name, model)
    ]
    names += provenance.other_weights(tree, model)
    if not staging.same_architecture(tree, folder):
        names += [path.relative_to(tree).as_posix() for path in tree.glob("figures/architecture.*")]
    return list(dict.fromkeys(names))


def _notebooks(tree: Path, folder: Path) -> list[Path]:
    """Return the notebooks in the tree whose outputs are of other weights than those in the staging folder."""
    return sorted(tree.glob("examples/*.ipynb")) if provenance.checksum_of(tree) != provenance.checksum_of(folder) else []


def _install(new: list[str], gone: list[str], folder: Path, tree: Path) -> None:
    """Copy the files `new` from the staging folder to the tree and delete those in `gone`."""
    for path in _notebooks(tree, folder):
        staging.clear_outputs(path)
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
    places = ("*", "variables/*", "onnx/*", "litert/*", "logs/*", "logs/*/*")
    return sorted({p.relative_to(root).as_posix() for place in places for p in root.glob(place) if p.is_file()})


def _lines(verb: str, items) -> list[str]:
    return [f"  {verb:8} {item if isinstance(item, str) else ' '.join(item)}" for item in items]
