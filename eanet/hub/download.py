"""Pull a repository of the Hub into a folder, without losing a person's edits there.

`snapshot_download` fetches into the client's cache, and a record, `.pulled.json`, tells the files of an earlier pull from
those of a person. `snapshot_download(local_dir=...)` keeps such a record too, but overwrites edited files and leaves those
that the Hub has deleted. A folder may come from a stranger: a record counts only with the signature of this machine's key,
and no file is written or deleted outside of the folder or through a link in it.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import hmac
import json
import os
import shutil
from pathlib import Path

from eanet.cli import UserError, atomic_path, printable, read_json, remove_leftovers, temporary_folder, write_json
from eanet.hub.errors import set_timeout, with_retries
from eanet.run_dir import RESULTS_FILE
from eanet.saving import KERAS_FILES, LEGACY_ONNX_FILE, SAVED_MODEL_FILES

RECORD = ".pulled.json"
PARTS = {
    "logs": ("logs/*",),
    "weights": (*KERAS_FILES, *SAVED_MODEL_FILES, "variables/*", "onnx/*", "litert/*", LEGACY_ONNX_FILE, RESULTS_FILE),
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
    snapshot, names = with_retries(lambda: _snapshot(repo_id, revision, wanted), repo_id)
    complete = names is not None
    if names is None:
        names = _cached(snapshot, wanted)
        _check_cached(repo_id, snapshot, names, [name for name in before if matches(name, wanted)], part)
    files = {name: sha256(snapshot / name) for name in sorted(names) if name != RECORD}
    if not files:
        raise UserError(f"{repo_id}: revision {revision} has no {'logs' if part == 'logs' else 'model'}")
    gone = [name for name in before if name not in files and matches(name, wanted)] if complete else []
    for name, digest in files.items():
        path = _inside(to, name)
        if name not in before and path.is_file() and sha256(path) != digest:
            raise UserError(f"{to}: {name} already exists and was not pulled; move it, or use another folder")
        if place := _in_place_of(to, name, gone):
            raise UserError(f"{to}: {printable(place)} is in the place of {name}; move it, or use another folder")
    _move_in(snapshot, to, files, gone, before, repo_id)
    changed = sum(before.get(name) != digest for name, digest in files.items())
    deleted = f", {len(gone)} deleted" if gone else ""
    return f"pulled {repo_id} at commit {snapshot.name} to {to}: {len(files)} files, {changed} new or changed{deleted}"


def pulled_digest(folder: Path, name: str) -> str | None:
    """Return the SHA-256 of the file `name` as an earlier pull wrote it to `folder`; None where none did."""
    return (_read_record(folder) or {"files": {}})["files"].get(name)


def sha256(path) -> str:
    """Return the SHA-256 of a file in hexadecimal, reading it block by block."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def matches(name: str, patterns) -> bool:
    """Return True if a file's name matches one of `patterns`, in which `*` also matches "/"; None matches every name."""
    return patterns is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _snapshot(repo_id: str, revision: str, wanted) -> tuple[Path, list[str] | None]:
    """Return the snapshot's folder in the cache, and the commit's files, which are all there; offline None."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    patterns = list(wanted) if wanted else None
    if HF_HUB_OFFLINE:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns)), None
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
    return snapshot, names


def _cached(snapshot: Path, wanted) -> list[str]:
    """Return the files of a snapshot in the cache; programs that ran there have left others, which are no links."""
    paths = [path for path in snapshot.rglob("*") if path.is_file()]
    paths = [path for path in paths if path.is_symlink()] or paths  # there are systems without links
    names = [path.relative_to(snapshot).as_posix() for path in paths if path.suffix != ".pyc"]
    return [name for name in names if matches(name, wanted)]


def _check_cached(repo_id: str, snapshot: Path, names: list[str], before: list[str], part: str | None) -> None:
    """Raise UserError if the cache has only a part of the commit: it would be mixed with the files of an earlier pull."""
    needed = [*before, *(KERAS_FILES if part != "logs" else ())]
    if missing := sorted(set(needed) - set(names)):
        found = f"the cache has only a part of commit {snapshot.name}, without {printable(missing[0])}"
        raise UserError(f"{repo_id}: {found}; pull with a connection")


def _pulled_before(to: Path, repo_id: str) -> dict[str, str]:
    """Return name to SHA-256 of an earlier pull's files, after checking that this pull would overwrite nothing else."""
    if to.exists() and not to.is_dir():
        raise UserError(f"{to}: is a file, not a folder")
    if to.is_dir():
        remove_leftovers(to, r"\.tmp-(\d+)-.+|\.\.pulled\.json\.(\d+)\.tmp")  # of a pull that was killed
    if not to.is_dir() or not any(to.iterdir()):
        return {}
    record = _read_record(to)
    if record is None:
        raise UserError(f"{to}: is not empty and not from an earlier pull on this machine; use another folder")
    if record["repo_id"] != repo_id:
        raise UserError(f"{to}: was pulled from {record['repo_id']}, not from {repo_id}; use another folder")
    for name, digest in record["files"].items():
        path = _inside(to, name)
        if path.is_file() and sha256(path) not in (digest, record["before"].get(name)):
            raise UserError(f"{to}: {name} was changed since it was pulled; move it away, or use another folder")
    return record["files"]


def _inside(to: Path, name: str) -> Path:
    """Return the path of the file `name` in `to`; raise UserError if it leads out of it, or over a link."""
    path = to / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{to}: {printable(name)} leads out of the folder; use another folder")
    for part in (path, *path.parents):
        if part == to:
            return path
        if part.is_symlink():
            raise UserError(f"{part}: is a link; remove it, or use another folder")
    raise UserError(f"{to}: {printable(name)!r} is not the name of a file; use another folder")


def _in_place_of(to: Path, name: str, gone: list[str]) -> str | None:
    """Return a file in a folder that is where the file `name` goes, or a file where its folder does; but none of `gone`."""
    path = to / name
    inside = (each for each in path.rglob("*") if each.is_symlink() or not each.is_dir()) if path.is_dir() else ()
    above = (each for each in path.parents if to in each.parents and each.exists() and not each.is_dir())
    found = (each.relative_to(to).as_posix() for each in (*inside, *above))
    return next((each for each in found if each not in gone), None)


def _read_record(folder: Path) -> dict | None:
    """Return the record of an earlier pull into `folder`, or None if there is none that this machine signed."""
    with contextlib.suppress(OSError, UserError, KeyError, TypeError, AttributeError):
        record = read_json(folder / RECORD)
        signature = record.pop("signature")
        if hmac.compare_digest(signature, _sign(record)):
            return record
    return None


def write_record(to: Path, **record) -> None:
    """Write the signed record of a pull: `repo_id`, `commit`, `files` and `before` (name to SHA-256)."""
    write_json(to / RECORD, {**record, "signature": _sign(record)})


def _sign(record: dict) -> str:
    """Return the signature of a record, with a key that only this user's programs can read."""
    from huggingface_hub.constants import HF_HOME

    path = Path(HF_HOME, "eanet-pull.key")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.touch(0o600)
            temporary.write_bytes(os.urandom(32))
    return hmac.new(path.read_bytes(), json.dumps(record, sort_keys=True).encode(), "sha256").hexdigest()


def _move_in(snapshot: Path, to: Path, files: dict, gone: list, before: dict, repo_id: str) -> None:
    to.mkdir(parents=True, exist_ok=True)
    with temporary_folder(parent=to) as folder:  # inside `to`, so that moving is a rename
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(snapshot / name, folder / name)
        # The record comes first, with old and new digests: a pull interrupted from here on can be repeated.
        write_record(to, repo_id=repo_id, commit=snapshot.name, files={**before, **files}, before=before)
        for name in gone:  # first: a folder may come in place of a file, or a file in place of a folder
            if (path := _inside(to, name)).is_file():  # or what took its place before an interruption
                path.unlink()
        for name in files:
            for empty, _, _ in os.walk(to / name, topdown=False):
                os.rmdir(empty)
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, to / name)
    kept = {name: digest for name, digest in before.items() if name not in gone}
    write_record(to, repo_id=repo_id, commit=snapshot.name, files={**kept, **files}, before={})
