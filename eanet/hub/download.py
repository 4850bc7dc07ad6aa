"""Pull a repository of the Hub into a folder, without losing a person's edits there.

`snapshot_download` fetches into the client's cache, and a record, `.pulled.json`, tells the files of an earlier pull from
those of a person. `snapshot_download(local_dir=...)` keeps such a record too, but overwrites edited files and leaves those
that the Hub has deleted.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import shutil
from pathlib import Path

from eanet.cli import UserError, temporary_folder, write_json
from eanet.hub.errors import set_timeout, with_retries
from eanet.run_dir import RESULTS_FILE
from eanet.saving import KERAS_FILES, LEGACY_ONNX_FILE, SAVED_MODEL_FILES

RECORD = ".pulled.json"
PARTS = {
    "logs": ("logs/*",),
    "weights": (*KERAS_FILES, *SAVED_MODEL_FILES, "variables/*", "onnx/*", LEGACY_ONNX_FILE, RESULTS_FILE),
}


def pull(repo_id: str, to: Path, *, revision: str = "main", part: str | None = None) -> str:
    """Download a repository into the folder `to`, or bring that folder up to date.

    Args:
        repo_id: "user/name".
        to: a new or empty folder, or one of an earlier pull from the same repository.
        revision: branch, tag or commit.
        part: "logs" or "weights" for these files only; None for everything.

    Returns:
        One line on what was done.

    Raises:
        HubError: the Hub refuses or does not answer; `to` is unchanged.
        UserError: `to` holds files that a pull would overwrite, or the revision has nothing of `part`.
    """
    set_timeout()
    wanted = PARTS[part] if part else None
    before = _pulled_before(to, repo_id)
    snapshot, complete = with_retries(lambda: _snapshot(repo_id, revision, wanted), repo_id)
    files = {}
    for path in sorted(p for p in snapshot.rglob("*") if p.is_file()):
        name = path.relative_to(snapshot).as_posix()
        if name != RECORD and matches(name, wanted):
            files[name] = sha256(path.read_bytes())
    if not files:
        raise UserError(f"{repo_id}: no {'logs' if part == 'logs' else 'model'} at revision {revision}")
    for name, digest in files.items():
        if name not in before and (to / name).exists() and sha256((to / name).read_bytes()) != digest:
            raise UserError(f"{to}: {name} already exists and was not pulled; move it, or use another folder")
    gone = [name for name in before if name not in files and matches(name, wanted)] if complete else []
    _move_in(snapshot, to, files, gone, before, repo_id)
    changed = sum(before.get(name) != digest for name, digest in files.items())
    deleted = f", {len(gone)} deleted" if gone else ""
    return f"pulled {repo_id} at commit {snapshot.name} to {to}: {len(files)} files, {changed} new or changed{deleted}"


def pulled_digest(folder: Path, name: str) -> str | None:
    """Return the SHA-256 of the file `name` as an earlier pull wrote it to `folder`; None where none did."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"].get(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sha256(content: bytes) -> str:
    """Return the SHA-256 of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def matches(name: str, patterns) -> bool:
    """Return True if a file's name matches one of `patterns`, in which `*` also matches "/"; None matches every name."""
    return patterns is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _snapshot(repo_id: str, revision: str, wanted) -> tuple[Path, bool]:
    """Return the snapshot's folder in the cache, and whether it has every file of the commit."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    patterns = list(wanted) if wanted else None
    if HF_HUB_OFFLINE:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns)), False
    api = HfApi(library_name="eanet")
    commit = api.model_info(repo_id, revision=revision).sha
    names = [name for name in api.list_repo_files(repo_id, revision=commit) if matches(name, wanted)]
    # By the revision's name, not by the commit: otherwise the cache does not know the name when it is asked offline.
    snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    if snapshot.name != commit:
        raise ConnectionError(f"{revision} moved, or the Hub stopped answering")
    # When the Hub fails halfway, the client silently returns what is cached.
    missing = [name for name in names if not (snapshot / name).is_file()]
    if missing:
        raise ConnectionError(f"{missing[0]} was not downloaded")
    return snapshot, True


def _pulled_before(to: Path, repo_id: str) -> dict[str, str]:
    """Return name to SHA-256 of an earlier pull's files, after checking that this pull would overwrite nothing else."""
    if to.exists() and not to.is_dir():
        raise UserError(f"{to}: is a file, not a folder")
    if not to.is_dir() or not any(to.iterdir()):
        return {}
    try:
        record = json.loads((to / RECORD).read_text(encoding="utf-8"))
        theirs, files, earlier = record["repo_id"], dict(record["files"]), dict(record.get("before", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{to}: is not empty and not from an earlier pull; use another folder") from None
    if theirs != repo_id:
        raise UserError(f"{to}: was pulled from {theirs}, not from {repo_id}; use another folder")
    for name, digest in files.items():
        if (to / name).is_file() and sha256((to / name).read_bytes()) not in (digest, earlier.get(name)):
            raise UserError(f"{to}: {name} was changed since it was pulled; move it away, or use another folder")
    return files


def _move_in(snapshot: Path, to: Path, files: dict, gone: list, before: dict, repo_id: str) -> None:
    to.mkdir(parents=True, exist_ok=True)
    with temporary_folder(parent=to) as folder:  # inside `to`, so that moving is a rename
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, folder / name)
        # The record comes first, with old and new digests: a pull interrupted from here on can be repeated.
        record = {"repo_id": repo_id, "commit": snapshot.name, "files": {**before, **files}, "before": before}
        write_json(to / RECORD, record)
        for name in files:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, to / name)
    for name in gone:
        (to / name).unlink(missing_ok=True)
    kept = {name: digest for name, digest in before.items() if name not in gone}
    write_json(to / RECORD, {"repo_id": repo_id, "commit": snapshot.name, "files": {**kept, **files}})
