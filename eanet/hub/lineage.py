"""Tell a run's own training from that of the published model it was fine-tuned from."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import eanet
from eanet.data import is_repo_id
from eanet.hub.card import repository_of
from eanet.run_dir import lineage, recorded_training

# The package's folder, not resolved: in the Hub's cache every file is a link into blobs/.
TREE = Path(eanet.__file__).absolute().parent.parent
LARGER = "models/base"  # folder of another model in the repository of the published one: its teacher
OUTPUTS = "runs/"  # where train.py puts runs: a path that starts so is not a repository's name
INIT_FROM = re.compile(r"(--init-from[ =])(?:'[^']*'|[^\s'])+")


def split_lineage(runs: list[dict], repo_id: str, tree: Path = TREE) -> tuple[str | None, list[dict]]:
    """Find the published model that the latest runs were fine-tuned from.

    Args:
        runs: from `run_dir.training_runs`, oldest first.
        repo_id: the repository of the card; a model is not its own base.
        tree: folder of the code, which may be a copy of the published model.

    Returns:
        "user/name" of the base model, or None; and the runs that are not part of its own training.
    """
    for i in range(len(runs) - 1, -1, -1):
        base = _published(runs[i].get("init_from"), runs[i - 1] if i else None, tree)
        if base not in (None, repo_id):
            return base, runs[i:]
    return None, runs


def own_teachers(runs: list[dict], sibling: dict | None = None) -> list[dict]:
    """Return the runs that trained the teachers of `runs`, oldest first; not those of models published elsewhere.

    Args:
        runs: from `split_lineage`.
        sibling: record of the run that trained `LARGER` in the same repository, or None.
    """
    found: list[dict] = []
    for run in runs:
        recipe, teacher = run.get("recipe"), run.get("teacher_run")
        name = recipe.get("teacher") if isinstance(recipe, dict) else None
        if str(name).startswith(OUTPUTS) or sibling and teacher == sibling:
            found += [each for each in lineage(teacher) if each not in found]
    return found


def name_base(run: dict, base: str) -> None:
    """Put the repository of the base model in place of a local path into the record of a run that starts from it."""
    run["init_from"] = base
    run["command"] = INIT_FROM.sub(lambda match: match[1] + shlex.quote(base), run["command"], count=1)


def _published(init_from, parent: dict | None, tree: Path) -> str | None:
    """Return the repository of the initial weights, given by its name or as a local copy with a card that names it."""
    if not init_from:
        return None
    for folder, card in ((tree, tree), (tree / LARGER, tree), (Path(init_from), Path(init_from))):
        if parent and recorded_training(folder) == parent and (card / "README.md").is_file():
            name = repository_of((card / "README.md").read_text(encoding="utf-8", errors="replace"))
            if name:
                return name
    return init_from if is_repo_id(init_from) and init_from != LARGER and not init_from.startswith(OUTPUTS) else None
