"""Pull a repository: all of it or nothing, and never over a person's files."""

import hashlib
import json
import os
import tracemalloc

import pytest
from hub_server import File
from hub_session import NEWEST, OLDEST, REPO, Session, commit_by_hand, error_line

from eanet.hub import download, provenance, tokens

pytest_plugins = ["hub_fixtures"]


@pytest.fixture
def pushed(session, made_run):
    assert session.push(made_run).code == 0


def test_a_part_can_be_pulled(pushed, session, tmp_path):
    assert session.pull(tmp_path / "logs", "--logs-only").code == 0
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"logs", ".pulled.json"}
    assert session.pull(tmp_path / "weights", "--weights-only").code == 0
    assert not (tmp_path / "weights" / "logs").exists() and (tmp_path / "weights" / "saved_model.pb").exists()
    assert (tmp_path / "weights" / "variables" / "variables.index").exists()


def test_a_second_pull_follows_the_hub(pushed, session, hub, tmp_path):
    back = tmp_path / "back"
    assert session.pull(back).code == 0
    assert "0 new or changed" in session.pull(back).out
    commit_by_hand(hub, {"handler.py": None, "new.txt": b"new"})
    assert "1 new or changed, 1 deleted" in session.pull(back).out
    assert (back / "new.txt").exists() and not (back / "handler.py").exists()


def test_a_file_becomes_a_folder_and_a_folder_a_file(pushed, session, hub, tmp_path):
    back = tmp_path / "back"
    commit_by_hand(hub, {"data": b"1", "notes/a/1.txt": b"1"})
    assert session.pull(back).code == 0
    commit_by_hand(hub, {"data": None, "data/x": b"2", "notes/a/1.txt": None, "notes": b"2"})
    (back / "notes" / "mine.txt").write_text("mine")
    assert "back: notes/mine.txt is in the place of notes; move it" in error_line(session.pull(back), 2)
    assert (back / "data").read_bytes() == b"1" and (back / "notes" / "a" / "1.txt").exists()
    (back / "notes" / "mine.txt").unlink()
    assert session.pull(back).code == 0
    assert (back / "data" / "x").read_bytes() == (back / "notes").read_bytes() == b"2"
    commit_by_hand(hub, {"data/x": None, "data": b"3", "notes": None, "notes/a/1.txt": b"3"})
    stop = """
from pathlib import Path
from eanet.hub import download
written = []
def write_record(to, **record):
    if written:
        raise KeyboardInterrupt
    written.append(to)
    kept(to, **record)
kept, download.write_record = download.write_record, write_record
try:
    download.pull(sys.argv[1], Path(sys.argv[2]))
except KeyboardInterrupt:
    print("stopped")
finally:
    download.write_record = kept
"""
    assert session.python(stop, REPO, back).out == "stopped\n"  # before the last record
    assert session.pull(back).code == 0
    assert (back / "data").read_bytes() == (back / "notes" / "a" / "1.txt").read_bytes() == b"3"


def test_a_folder_of_your_own_is_left_alone(pushed, session, made_run, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    assert "not empty" in error_line(session.pull(mine), 2)
    assert "is a file" in error_line(session.pull(mine / "thesis.txt"), 2)
    back = tmp_path / "back"
    assert session.pull(back).code == 0
    (back / "config.json").write_text("mine")
    assert "config.json was changed" in error_line(session.pull(back), 2)
    assert (back / "config.json").read_text() == "mine"
    assert session.run("push", made_run, "--repo-id", "user/other").code == 0
    other = session.run("pull", "--repo-id", "user/other", "--to", back)
    assert f"was pulled from {REPO}" in error_line(other, 2)


def test_a_pull_that_was_killed_is_begun_again(pushed, session, tmp_path):
    left = tmp_path / "back" / ".tmp-999999999-x"
    left.mkdir(parents=True)
    (left / "config.json").write_text("half")
    (tmp_path / "back" / "..pulled.json.999999999.tmp").write_text("half")
    assert session.pull(tmp_path / "back").code == 0
    assert not list((tmp_path / "back").glob(".*tmp*")) and (tmp_path / "back" / "config.json").exists()


def test_large_files_are_read_block_by_block(tmp_path):
    path = tmp_path / "large.onnx"
    path.touch()
    os.truncate(path, 2**27)
    tracemalloc.start()
    assert download.sha256(path) == "254bcc3fc4f27172636df4bf32de9f107f620d559b20d760197e452b97453917"
    tokens.check_file(path, path)
    assert not provenance.export_matches(path, None) and tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_an_unknown_repository_or_revision_is_one_line(pushed, session, tmp_path):
    assert "no such repository" in error_line(session.run("pull", "--repo-id", "user/none", "--to", tmp_path / "x"), 1)
    assert "no such repository" in error_line(session.pull(tmp_path / "x", "--revision", "none"), 1)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("version", [NEWEST, pytest.param(OLDEST, marks=pytest.mark.slow)])
def test_without_a_login_a_private_repository_is_like_none(version, pushed, sessions, hub, tmp_path):
    session = sessions(version)
    hub.repos[REPO].private = True
    for repo in ("user/none", REPO):
        done = session.run("pull", "--repo-id", repo, "--to", tmp_path / "x", HF_TOKEN="")
        assert f"{repo}: no such repository, or it is private (401); check the name, or log in" in error_line(done, 1)
    load = "from eanet.cli import run\nsys.exit(run(lambda argv: modeling_eanet.from_pretrained_keras('user/none')))"
    line = error_line(session.python(load, HF_TOKEN=""), 2)
    assert "could not be downloaded from the Hub (no such repository, or a private" in line
    wrong = session.pull(tmp_path / "x", HF_TOKEN="hf_" + "wrong" * 7)
    assert "the token was not accepted (401); log in again" in error_line(wrong, 1)


def test_a_pull_is_complete_or_changes_nothing(pushed, session, hub, tmp_path):
    back = tmp_path / "back"
    assert session.pull(back).code == 0
    old = (back / "handler.py").read_bytes()
    commit_by_hand(hub, {"handler.py": b"new"})
    hub.fault("/resolve/.*/handler.py", status=403)
    assert REPO in error_line(session.pull(back), 1)
    assert (back / "handler.py").read_bytes() == old and (back / "model.weights.h5").exists()
    hub.faults.clear()
    assert session.pull(back).code == 0
    assert (back / "handler.py").read_bytes() == b"new"


def test_a_partial_pull_keeps_your_files_and_removes_old_logs(pushed, session, hub, tmp_path):
    back = tmp_path / "back"
    assert session.pull(back, "--logs-only").code == 0
    (back / "config.json").write_text("mine")
    assert "config.json already exists and was not pulled; move it" in error_line(session.pull(back), 2)
    assert (back / "config.json").read_text() == "mine"

    name = "logs/train/events.out.tfevents.2"
    log = hub.repos[REPO].head().files["logs/train/events.out.tfevents.eanet"]
    commit_by_hand(hub, {"logs/train/events.out.tfevents.eanet": None, name: File(log.content, True)})
    assert session.pull(back, "--logs-only").code == 0
    assert [p.name for p in (back / "logs" / "train").iterdir()] == ["events.out.tfevents.2"]
    assert (back / "logs" / "validation" / "events.out.tfevents.eanet").exists()

    record = json.loads((back / ".pulled.json").read_text())  # as an interrupted pull leaves it
    record["files"][name], record["before"] = "0" * 64, {name: record["files"][name]}
    del record["signature"]
    write = "import json; from pathlib import Path; from eanet.hub.download import write_record; "
    session.python(f"{write}write_record(Path(sys.argv[1]), **json.loads(sys.argv[2]))", back, json.dumps(record))
    assert session.pull(back, "--logs-only").code == 0


@pytest.mark.parametrize("version", [NEWEST, OLDEST])
def test_offline_a_pull_uses_the_cache_and_a_push_says_so(version, pushed, session, made_run, hub, tmp_path):
    assert session.pull(tmp_path / "one").code == 0
    asked = len(hub.requests)
    offline = Session(hub, session.home, version, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE" in error_line(offline.push(made_run), 2)
    assert "offline: as if" in offline.push(made_run, "--dry-run").err
    assert offline.pull(tmp_path / "two").code == 0
    absent = offline.run("pull", "--repo-id", "user/absent", "--to", tmp_path / "three")
    line = error_line(absent, 2)
    assert "user/absent" in line and "the cache" in line and not (tmp_path / "three").exists()
    offline.close()
    assert len(hub.requests) == asked
    assert (tmp_path / "two" / "model.weights.h5").read_bytes() == (made_run / "model.weights.h5").read_bytes()


@pytest.mark.parametrize("name", ["../victim.txt", "/tmp/victim.txt", "logs/../../victim.txt", "."])
def test_a_record_that_this_machine_did_not_write_is_not_trusted(pushed, session, tmp_path, name):
    back, victim = tmp_path / "back", tmp_path / "victim.txt"
    assert session.pull(back).code == 0
    victim.write_text("mine")
    record = json.loads((back / ".pulled.json").read_text())
    record["files"][name] = hashlib.sha256(b"mine").hexdigest()
    (back / ".pulled.json").write_text(json.dumps(record))
    assert "not from an earlier pull on this machine" in error_line(session.pull(back), 2)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["logs", "config.json"])
def test_a_pull_does_not_write_through_a_link(pushed, session, tmp_path, name):
    back, elsewhere = tmp_path / "back", tmp_path / "elsewhere"
    assert session.pull(back).code == 0
    (back / name).rename(elsewhere)
    (back / name).symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in [elsewhere, *elsewhere.rglob("*")] if path.is_file()}
    assert f"{name}: is a link; remove it" in error_line(session.pull(back), 2)
    assert before == {path: path.read_bytes() for path in [elsewhere, *elsewhere.rglob("*")] if path.is_file()}


def test_offline_a_part_of_a_commit_is_not_mixed_with_an_earlier_pull(pushed, session, hub, tmp_path):
    back, new = tmp_path / "back", tmp_path / "new"
    assert session.pull(back).code == 0
    before = {path: path.read_bytes() for path in back.rglob("*") if path.is_file()}
    commit_by_hand(hub, {"config.json": File(b"{}", False)})
    session.python("import huggingface_hub; huggingface_hub.hf_hub_download(sys.argv[1], 'config.json')", REPO)
    offline = Session(hub, session.home, NEWEST, HF_HUB_OFFLINE="1")
    for to in (back, new):
        line = error_line(offline.pull(to), 2)
        assert "the cache has only a part of commit" in line and line.endswith("; pull with a connection")
    offline.close()
    assert before == {path: path.read_bytes() for path in back.rglob("*") if path.is_file()} and not new.exists()


def test_a_pull_takes_no_files_that_programs_left_in_the_cache(pushed, session, hub, tmp_path):
    assert session.pull(tmp_path / "one").code == 0
    commit = json.loads((tmp_path / "one/.pulled.json").read_text())["commit"]
    (snapshot,) = session.home.glob(f"hub/models--*/snapshots/{commit}")
    for name in ("eanet/__pycache__/cli.cpython-311.pyc", "runs/small/history.json"):
        (snapshot / name).parent.mkdir(parents=True)
        (snapshot / name).write_text("{}")
    offline = Session(hub, session.home, NEWEST, HF_HUB_OFFLINE="1")
    for number, each in enumerate((session, offline)):
        to = tmp_path / f"to-{number}"
        assert each.pull(to).code == 0
        assert not (to / "eanet/__pycache__").exists() and not (to / "runs").exists()
        assert (to / "eanet/cli.py").is_file()
    offline.close()


def test_a_gated_repository_says_where_to_ask(pushed, session, hub, tmp_path):
    hub.fault("/api/models/", status=403, headers={"X-Error-Code": "GatedRepo"})
    line = error_line(session.pull(tmp_path / "back"), 1)
    assert "access is granted to single accounts (403); ask for it on the repository's page" in line
