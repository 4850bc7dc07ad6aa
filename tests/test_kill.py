"""`kill -9` at any moment, and disks that are full: the same command goes on, to the same result. All slow."""

import random
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import run_program
from hub_session import REPO, SETUP, commit_by_hand
from isolated import run_patched
from training_runs import (
    ARTEFACTS,
    FIGURES,
    RECIPE,
    assert_logs_match_history,
    assert_same_weights,
    colours,
    error_line,
    files_in,
    finished,
    main,
)

pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.slow

# Kills the process at its KILL_AT-th change of a file or connection to the Hub; with KILL_AT=0 it counts them.
KILLER = """
import os, signal, sys
WATCHED = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "shutil.rmtree", "socket.connect")
count, at, roots = 0, int(os.environ.get("KILL_AT", 0)), tuple(os.environ["KILL_ROOTS"].split(":"))
def hook(event, args):
    global count
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event == "socket.connect" or (writes or event in WATCHED) and str(args[0]).startswith(roots):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


def test_training_killed_25_times_ends_with_the_same_weights(tmp_path):
    folder, patch, rng = tmp_path / "run", tmp_path / "patch", random.Random(0)
    patch.mkdir()
    command = ["--data", colours(), *RECIPE, "--output", folder]
    for kill in range(25):
        moment = str(rng.randint(1, 12 + 2 * kill))
        done = run_patched(patch, KILLER, *command, timeout=1200, KILL_ROOTS=str(folder), KILL_AT=moment)
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    done = run_program("train", *command, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert_same_weights(finished()[0], folder)
    assert_logs_match_history(folder)
    assert files_in(folder).keys() == ARTEFACTS - FIGURES


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB, and a function that leaves some bytes free on it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("must be root to mount a file system")

    def leave(free):
        ballast = disk / "ballast"
        ballast.unlink(missing_ok=True)
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - free)))

    yield disk, leave
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_full_at_any_file_is_one_line_and_the_run_goes_on(small_disk):
    disk, leave = small_disk
    status, free, full = None, 0, 0
    while status != 0:
        leave(free)
        status, _, err = main("--data", colours(), *RECIPE, "--output", disk / "run")
        if status:
            full += 1
            assert "No space left on device" in error_line(status, err), err
            assert not [name for name in files_in(disk) if "tmp" in name]
        free += 48 * 1024
    assert full > 10 and free < 4_000_000
    assert_same_weights(finished()[0], disk / "run")
    assert_logs_match_history(disk / "run")
    assert files_in(disk / "run").keys() == ARTEFACTS


def run_killed(session, killed_at, tmp_path, *args):
    """Run push_to_hub.py in a process that is killed at a moment; return its exit status and how many moments it had."""
    temporary = tmp_path / "temporary"
    temporary.mkdir(exist_ok=True)
    count = tmp_path / "count"
    code = f"{KILLER}\nimport push_to_hub\nfrom eanet.cli import run\nstatus = run(push_to_hub.main, sys.argv[1:])\n"
    code += 'open(os.environ["KILL_COUNT"], "w").write(str(count))\nsys.exit(status)'
    env = {"TMPDIR": str(temporary), "KILL_ROOTS": str(tmp_path), "KILL_AT": str(killed_at), "KILL_COUNT": str(count)}
    command = [sys.executable, "-c", SETUP + code, *map(str, args)]
    done = subprocess.run(command, env=session.env | env, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, int(count.read_text()) if count.exists() else 0


def test_a_push_killed_at_20_moments_publishes_all_or_nothing(session, run, hub, tmp_path):
    push = ("push", run, "--repo-id", REPO)
    status, moments = run_killed(session, 0, tmp_path, *push)
    assert status == 0 and moments > 20
    complete = {name: file.content for name, file in hub.repos[REPO].head().files.items()}
    for i in range(20):
        hub.reset()
        status, _ = run_killed(session, 1 + i * moments // 20, tmp_path, *push)
        assert status == -signal.SIGKILL
        history = hub.repos[REPO].history() if REPO in hub.repos else []
        assert len(history) <= 2 and (len(history) < 2 or set(hub.repos[REPO].head().files) == set(complete))
        if i % 4 == 3:  # the same command goes on
            assert run_killed(session, 0, tmp_path, *push)[0] == 0
            assert {name: file.content for name, file in hub.repos[REPO].head().files.items()} == complete
            assert list((tmp_path / "temporary").iterdir()) == []


def test_a_pull_killed_at_20_moments_is_continued(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    back = tmp_path / "back"
    pull = ("pull", "--repo-id", REPO, "--to", back)
    status, moments = run_killed(session, 0, tmp_path, *pull)
    assert status == 0 and moments > 20
    first = files_in(back)
    commit_by_hand(hub, {"handler.py": b"new", "train.py": None, "more.txt": b"more"})
    for i in range(20):
        new = i % 2 == 0  # into a new folder, or over an earlier commit
        shutil.rmtree(back, ignore_errors=True)
        if not new:
            assert session.pull(back, "--revision", hub.repos[REPO].history()[1].sha).code == 0
        status, _ = run_killed(session, 1 + i * moments // 20, tmp_path, *pull)
        done = session.pull(back)
        assert done.code == 0, done.err
        after = files_in(back)
        assert after["handler.py"] == b"new" and "train.py" not in after and after["more.txt"] == b"more"
        assert after.keys() == first.keys() - {"train.py"} | {"more.txt"}, after.keys() ^ first.keys()
