"""One process at a time trains in a run folder, and the leftovers of killed processes go."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import ROOT

from eanet import cli
from eanet.cli import UserError, temporary_folder
from eanet.export.__main__ import main as export
from eanet.hub.staging import check_run
from eanet.run_lock import LOCK_FILE, lock_run, one_process
from eanet.saving import add_saved_model

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from types import SimpleNamespace
from eanet.cli import atomic_path, temporary_folder
from eanet.run_lock import one_process
@one_process
def train(config):
    with temporary_folder(config.output), atomic_path(config.output / "a.json") as path:
        path.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
train(SimpleNamespace(output=Path(sys.argv[2])))
"""


@pytest.fixture
def holder(tmp_path):
    """A process that trains in `tmp_path / "run"`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(ROOT), tmp_path / "run"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    yield process
    process.kill()
    process.wait()


@one_process
def names(config):
    return sorted(path.name for path in config.output.iterdir())


def test_a_folder_is_trained_by_one_process_at_a_time_until_it_is_killed(holder, tmp_path):
    run = SimpleNamespace(output=tmp_path / "run")
    before = sorted(path.name for path in run.output.iterdir())
    assert len(before) == 3
    with pytest.raises(UserError, match=f"run: process {holder.pid} on .* is training there; wait until it ends"):
        names(run)
    assert sorted(path.name for path in run.output.iterdir()) == before
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert names(run) == [LOCK_FILE] and list(run.output.iterdir()) == []


@pytest.mark.parametrize("use", [add_saved_model, check_run, lambda run: export([str(run)])], ids=["export", "push", "onnx"])
def test_a_run_that_is_trained_is_neither_exported_nor_pushed(use, holder, tmp_path):
    with pytest.raises(UserError, match=f"run: process {holder.pid} on .* is training there; wait until it ends"):
        use(tmp_path / "run")
    holder.kill()
    holder.wait()
    check_run(tmp_path / "run")


def test_a_link_in_place_of_the_lock_is_not_written_through(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run" / LOCK_FILE).symlink_to(tmp_path / "victim")
    with lock_run(tmp_path / "run", "training"):
        check_run(tmp_path / "run")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_folder_in_which_nothing_was_written_goes_and_others_stay(tmp_path):
    assert names(SimpleNamespace(output=tmp_path / "a" / "b")) == [LOCK_FILE]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="bad data"):
        one_process(_fail)(SimpleNamespace(output=tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError):  # the function itself says what is wrong with the folder
        one_process(lambda config: (config.output / "x").write_text(""))(SimpleNamespace(output=tmp_path / "file" / "a"))


def _fail(config):
    raise UserError("bad data")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_killed_processes_have_left_is_removed_and_that_of_living_ones_stays(kind, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = {"file": ".a.json.{}.tmp", "folder": ".tmp-{}-x"}[kind]
    paths = {pid: tmp_path / name.format(pid) for pid in (gone.pid, os.getppid(), 10**12)}
    for path in paths.values():
        path.mkdir() if kind == "folder" else path.write_text("half")
    (tmp_path / ".tmp-mine").mkdir()
    if kind == "folder":
        with temporary_folder(tmp_path) as folder, temporary_folder(tmp_path):
            assert folder.exists()
            old = time.time() - 100
            os.utime(folder, (old, old))  # locked, so it stays although it is not new
            os.utime(paths[os.getppid()], (old, old))  # not locked: that number has another process now
            with temporary_folder(tmp_path):
                assert folder.exists() and not paths[os.getppid()].exists()
    else:
        cli.write_text(tmp_path / "a.json", "whole")
        assert paths[os.getppid()].exists()
    assert not paths[gone.pid].exists() and not paths[10**12].exists() and (tmp_path / ".tmp-mine").exists()


def test_a_link_named_like_a_leftover_is_not_followed(tmp_path):
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims" / "a").write_text("mine")
    (tmp_path / ".tmp-999999999-x").symlink_to(tmp_path / "victims")
    with temporary_folder(tmp_path):
        pass
    assert (tmp_path / "victims" / "a").exists()


def test_only_what_killed_processes_left_is_removed(tmp_path):
    gone = 2**22 + 1  # no system has a process of this number
    names = [".tmp-mine/a", ".notes.tmp", f".results.parquet.{os.getpid()}.tmp", f".a.{gone}.tmp", f".tmp-{gone}-x/a"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / f".tmp-{gone}-x", (0, 0))
    with lock_run(tmp_path, "exporting"):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", *(name.partition("/")[0] for name in names[:3])}
