"""Faults of the Hub: what passes is tried again; what stays is one line, and nothing is published."""

import time

import pytest
from hub_session import NEWEST, OLDEST, REPO, error_line
from hub_sweep import CLIENTS, open_session, sweep

from eanet.hub import errors

pytest_plugins = ["hub_fixtures"]
SILENT = 60  # seconds; the sessions wait for four


def fault_id(value):
    return f"{value['path'].strip('/')}-{value.get('status', value.get('kind'))}" if isinstance(value, dict) else ""


@pytest.mark.parametrize("version", [pytest.param(OLDEST, marks=pytest.mark.slow), NEWEST])
@pytest.mark.parametrize(
    "fault",
    [
        dict(path="/commit/", status=503, times=1),
        dict(path="/commit/", status=429, times=1, headers={"Retry-After": "3"}),
        dict(path="/preupload/", kind="drop", times=1),
        dict(path="/lfs/", method="PUT", kind="cut", times=1),
        dict(path="/commit/", kind="late", times=1),
        dict(path="/tree/", status=502, times=1),
        dict(path="/api/repos/create", kind="drop", times=1),
        dict(path="/revision/", kind="silent", seconds=SILENT, times=1),
        dict(path="/tree/", kind="silent", seconds=SILENT, times=1),
    ],
    ids=fault_id,
)
def test_a_fault_that_passes_is_retried(version, fault, made_run, sessions):
    session = sessions(version)
    session.hub.fault(**fault)
    start = time.monotonic()
    done = session.push(made_run)
    assert time.monotonic() - start < SILENT
    assert done.code == 0, done.err
    repo = session.hub.repos[REPO]
    assert len(repo.history()) == 2 and "model.weights.h5" in repo.head().files
    assert session.hub.faults[0].times == 0 and "pushed" in done.out and "new      model.weights.h5" in done.out
    if fault.get("status") == 429:
        assert "trying again in 3 s" in done.err and 3 in done.waits


@pytest.mark.parametrize(
    ("xet", "version", "fault", "words"),
    [
        (False, NEWEST, dict(path="/commit/", status=401), "log in again"),
        (False, NEWEST, dict(path="/commit/", status=403), "lacks permission (403)"),
        (False, NEWEST, dict(path="/commit/", status=404), "no such repository"),
        (False, NEWEST, dict(path="/commit/", status=409), "conflict"),
        (False, NEWEST, dict(path="/commit/", status=500), "server error (500)"),
        (False, NEWEST, dict(path="/commit/", status=429, headers={"Retry-After": "0"}), "too many requests"),
        (False, NEWEST, dict(path="/commit/", kind="drop"), "connection to the Hub failed"),
        (False, NEWEST, dict(path="/commit/", status=429, headers={"Retry-After": "4000"}), "asks to wait 4000 s"),
        (False, NEWEST, dict(path="/validate-yaml", status=400), "refused"),
        (False, NEWEST, dict(path="/lfs/", method="PUT", status=403), "lacks permission (403)"),
        (False, NEWEST, dict(path="/preupload/", status=503), "server error (503)"),
        (False, NEWEST, dict(path="/tree/", status=401), "log in again"),
        (False, OLDEST, dict(path="/commit/", status=500), "server error (500)"),
        (False, OLDEST, dict(path="/lfs/", method="PUT", kind="drop"), "connection to the Hub failed"),
        (True, NEWEST, dict(path="/xet-write-token/", status=403), "lacks permission (403)"),
        (True, NEWEST, dict(path="/xet-write-token/", status=500), "server error (500)"),
        (True, NEWEST, dict(path="/commit/", status=409), "conflict"),
        (True, NEWEST, dict(path="/commit/", kind="drop"), "connection to the Hub failed"),
    ],
    ids=fault_id,
)
def test_a_fault_that_stays_is_one_line_and_publishes_nothing(xet, version, fault, words, run, sessions):
    session = sessions(version, xet)
    hub, before = session.hub, {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    hub.fault(**fault)
    line = error_line(session.push(run), 1)
    assert words in line and REPO in line
    assert [c.title for c in hub.repos[REPO].history()] == ["initial commit"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    hub.faults.clear()
    assert session.push(run).code == 0
    assert len(hub.repos[REPO].history()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True], ids=["LFS", "Xet"])
@pytest.mark.parametrize("version", CLIENTS)
def test_every_fault_at_every_route_publishes_nothing_or_all_and_later_works(version, xet, made_run, tmp_path):
    with open_session(version, xet, tmp_path / "home") as session:
        cells = list(sweep(session, made_run, tmp_path))
    assert [cell for cell in cells if cell.problem] == []
    assert len(cells) > 100 and {cell.status for cell in cells} == {0, 1}


def test_a_broken_download_is_resumed_and_a_hub_that_is_gone_leaves_no_folder(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    hub.fault("/lfs/", method="GET", kind="cut", times=1)
    assert session.pull(tmp_path / "back").code == 0
    assert (tmp_path / "back" / "model.weights.h5").read_bytes() == (made_run / "model.weights.h5").read_bytes()
    hub.fault("", status=500)
    assert "server error (500)" in error_line(session.pull(tmp_path / "new"), 1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [TypeError("bug"), ValueError("bug"), KeyError("bug"), AttributeError("bug")])
def test_a_programming_error_is_neither_retried_nor_explained(error):
    calls = []

    def call():
        calls.append(1)
        raise error

    with pytest.raises(type(error), match="bug"):
        errors.with_retries(call, REPO)
    assert calls == [1]
