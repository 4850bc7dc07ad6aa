"""Fuzz `pull`: whatever the folder holds, nothing outside of it is written or deleted."""

import contextlib
import json
import os
import shutil

import pytest
from conftest import run_main

from fuzz.attempt import Violation, attempt
from fuzz.mutate import to_json

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.weights.h5": b"weights", "logs/train/events.1": b"log", "onnx/model.onnx": b"onnx"}
NAMES = ["../victim.txt", "../victims/a.txt", "/victim.txt", "logs/../../victim.txt", "logs/train/../../../victim.txt",
         ".", "..", "", "config.json", "logs", "a/b", "./config.json", "link.txt", "logs/old", "\0", "x" * 300]  # fmt: skip


def cache(home):
    """Make a cache of the Hub's client that holds the repository, as it is used offline."""
    repo = home / "cache" / "models--user--colours"
    if not repo.exists():
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(COMMIT)
        for name, content in FILES.items():
            path = repo / "snapshots" / COMMIT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return home / "cache"


def pull_into(rng, folder, materials):
    """Pull into a folder with a forged record and links."""
    from huggingface_hub import constants

    import push_to_hub

    area = folder / "pulls"
    shutil.rmtree(area, ignore_errors=True)
    to = area / "to"
    (area / "victims").mkdir(parents=True)
    to.mkdir()
    for victim in (area / "victim.txt", area / "victims" / "a.txt", area / "victims" / "config.json"):
        victim.write_text("mine")
    before = _content(area, to)
    call = ("pull", "--repo-id", "user/colours", "--to", to)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(cache(materials.home)))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr(constants, "HF_HOME", str(folder / "home"))
        if rng.random() < 0.3:  # a record that we wrote
            attempt(lambda: run_main(push_to_hub, *call), folder)
        _plant(rng, area, to)
        done = attempt(lambda: run_main(push_to_hub, *call), folder)
    if _content(area, to) != before:
        raise Violation("a file outside of the folder was changed")
    return 1, int(done.status == 0), [done]


def _plant(rng, area, to):
    digests = dict.fromkeys(rng.choice(NAMES, 3), "0" * 64)
    record = {"repo_id": "user/colours", "commit": COMMIT, "files": digests}
    if rng.random() < 0.5:
        record["before"] = {str(rng.choice(NAMES)): "0" * 64}
    content = to_json(rng, record) if rng.random() < 0.5 else json.dumps(record).encode()
    if rng.random() < 0.5:
        (to / ".pulled.json").write_bytes(content)
    links = {"logs": area / "victims", "onnx": area / "victims", "config.json": area / "victim.txt",
             "link.txt": "../victim.txt", ".pulled.json": area / "victim.txt", "model.weights.h5": "nowhere"}  # fmt: skip
    for name in rng.choice(list(links), int(rng.integers(0, 3))):
        with contextlib.suppress(FileExistsError):
            os.symlink(links[name], to / name)


def _content(area, to):
    files = {}
    for path in sorted(area.rglob("*")):
        if path.is_file() and to not in path.parents:
            files[path.relative_to(area)] = path.read_bytes()
    return files
