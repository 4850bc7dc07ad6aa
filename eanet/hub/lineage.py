"""Tell a run's own training from that of the published model it was fine-tuned from."""

from __future__ import annotations

import re
from pathlib import Path

import eanet
from eanet.data import is_repo_id
from eanet.hub.card import repository_of
from eanet.run_dir import parent_run, recorded_training, training_runs

# The package's folder, not resolved: in the Hub's cache every file is a link into blobs/.
TREE = Path(eanet.__file__).absolute().parent.parent
LARGER = "models/base"  # folder of another model in the repository of the published one: its teacher
OUTPUTS = "runs/"  # where train.py puts runs: a path that starts so is not a repository's name
OPTIONS = {name: re.compile(rf"(--{name}[ =])(?:'[^']*'|[^\s'])+") for name in ("init-from", "teacher")}  # with a path


def split_lineage(runs: list[dict], repo_id: str | None, tree: Path = TREE) -> tuple[str | None, list[dict]]:
    """Find the published model that the latest runs were fine-tuned from.

    Args:
        runs: from `run_dir.training_runs`, oldest first.
        repo_id: the repository of the card, if it has one; a model is not its own base.
        tree: folder of the code, which may be a copy of the published model.

    Returns:
        "user/name" of the base model, or None; and the runs that are not part of its own training.
    """
    for i in range(len(runs) - 1, -1, -1):
        base, _ = _published(runs[i].get("init_from"), parent_run(runs[i]), tree)
        if base not in (None, repo_id):
            return base, runs[i:]
    return None, runs


def own_teachers(runs: list[dict], sibling: dict | None = None, repo_id: str | None = None, tree: Path = TREE) -> list[dict]:
    """Return the runs that trained the teachers of `runs`, oldest first; not those of models published elsewhere.

    Args:
        runs: from `split_lineage`.
        sibling: record of the run that trained `LARGER` in the same repository, or None.
        repo_id: as for `split_lineage`.
        tree: as for `split_lineage`.
    """
    found: list[dict] = []
    for run in runs:
        recipe, teacher = run.get("recipe"), run.get("teacher_run")
        name = recipe.get("teacher") if isinstance(recipe, dict) else None
        published = _published(name, teacher, tree)[0] not in (None, repo_id)
        if sibling and teacher == sibling or not published and str(name).startswith(OUTPUTS):
            found += [each for each in _own_lineage(teacher, repo_id, tree) if each not in found]
    return found


def _own_lineage(record: dict | None, repo_id: str | None, tree: Path) -> list[dict]:
    """Return the runs that a model learned from, as `run_dir.lineage`, but for those of models published elsewhere."""
    found: list[dict] = []
    for run in split_lineage(training_runs(record or {}), repo_id, tree)[1]:
        teacher = run.get("teacher_run")
        base, _ = _published((run.get("recipe") or {}).get("teacher"), teacher, tree)
        behind = _own_lineage(teacher, repo_id, tree) if base in (None, repo_id) else []
        found += [each for each in (*behind, run) if each not in found]
    return found


def name_sources(runs: list[dict], repo_id: str, sibling: dict | None = None, tree: Path = TREE) -> None:
    """Name the published models that runs begin with or learn from, in place of local paths, in the runs' records.

    Args:
        runs: from `split_lineage`.
        repo_id: the repository of the card, whose own models keep their paths.
        sibling: as for `own_teachers`.
        tree: as for `split_lineage`.
    """
    found = []  # all of them before a record changes, since records are compared; equal ones change alike
    for run in _nested(runs):
        recipe = run.get("recipe") or {}
        found.append((run, run, "init_from", _published(run.get("init_from"), parent_run(run), tree)))
        teacher = run.get("teacher_run")
        if not sibling or teacher != sibling:
            found.append((run, recipe, "teacher", _published(recipe.get("teacher"), teacher, tree)))
    for run, record, key, (name, folder) in found:
        if name in (None, repo_id):
            continue
        record[key] = "/".join(filter(None, (name, folder)))
        if not folder:  # a command takes the name of a repository, but of none of its folders
            run["command"] = OPTIONS[key.replace("_", "-")].sub(rf"\g<1>{name}", run["command"], count=1)


def _nested(runs):
    """Yield the records of runs and of all the runs that these name."""
    for run in filter(None, runs):
        yield run
        yield from _nested((parent_run(run), run.get("teacher_run")))


def _published(path, training: dict | None, tree: Path) -> tuple[str | None, str | None]:
    """Return the repository of a published model, and its folder there if it has one; (None, None) for any other model.

    Args:
        path: name of the repository, or of a local copy with a card that names it.
        training: record of the run that trained the model.
        tree: as for `split_lineage`.
    """
    if not path:
        return None, None
    for root, folder in ((tree, None), (tree, LARGER), (Path(path), None)):
        if training and recorded_training(root / (folder or ".")) == training and (root / "README.md").is_file():
            name = repository_of((root / "README.md").read_text(encoding="utf-8", errors="replace"))
            if name:
                return name, folder
    named = is_repo_id(path) and path != LARGER and not path.startswith(OUTPUTS)
    return path if named else None, None
