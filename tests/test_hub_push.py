"""Push a run: there and back with every client, what a second push changes, and what is refused before the Hub is asked."""

import difflib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, paint, write_official
from hub_server import File
from hub_session import BETWEEN, NEWEST, OLDEST, REPO, card_on, change_accuracy, commit_by_hand, error_line

pytest_plugins = ["hub_fixtures"]

LOOK = f"""
import json, huggingface_hub as h
from huggingface_hub import HfApi, ModelCard
assert h.__version__ == sys.argv[1], h.__version__
info = HfApi().model_info("{REPO}")
card = ModelCard.load("{REPO}")
print(json.dumps({{"sha": info.sha, "files": sorted(HfApi().list_repo_files("{REPO}")), "library": card.data.library_name,
    "results": [[r.metric_type, r.metric_value, r.dataset_name] for r in card.data.eval_results],
    "snapshot": h.snapshot_download("{REPO}", revision="v1")}}))
"""

PREDICT = f"""
import numpy as np
x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
import keras
found = [keras.saving.load_model("hf://{REPO}").predict(x, verbose=0)]
found.append(np.asarray(modeling_eanet.from_pretrained_keras("{REPO}", revision="v1")(x)))
found.append(np.asarray(modeling_eanet.from_pretrained_keras(sys.argv[1])(x)))
import huggingface_hub
if huggingface_hub.__version__.startswith("0."):
    found.append(huggingface_hub.from_pretrained_keras("{REPO}").predict(x, verbose=0))
for other in found:
    np.testing.assert_allclose(other, found[0], atol=1e-5)
print(len(found))
"""


@pytest.mark.parametrize(
    ("version", "xet"),
    [
        (OLDEST, False),
        (NEWEST, True),
        pytest.param(NEWEST, False, marks=pytest.mark.slow),
        pytest.param(BETWEEN, True, marks=pytest.mark.slow),
    ],
)
def test_a_pushed_run_comes_back_and_loads(version, xet, made_run, tmp_path, sessions):
    session = sessions(version, xet)
    hub = session.hub
    done = session.push(made_run)
    assert done.code == 0, done.err
    commit = hub.repos[REPO].head()
    for said in (f"{hub.url}/{REPO}", f"commit {commit.sha}", "new      model.weights.h5"):
        assert said in done.out
    assert [c.title for c in hub.repos[REPO].history()] == ["Push run with push_to_hub.py", "initial commit"]
    if xet:
        assert hub.count("xet-write-token") and not hub.count("/lfs/", "PUT")
    assert session.push(made_run, "--revision", "v1").code == 0  # creates a branch, which is up to date

    seen = session.python(LOOK, version)
    assert seen.code == 0, seen.err
    seen = json.loads(seen.out)
    results = json.loads((made_run / "eval_results.json").read_text())
    assert seen["sha"] == commit.sha and seen["files"] == sorted(commit.files) and seen["library"] == "keras"
    assert seen["results"] == [[key, results[key], "colours"] for key in ("accuracy", "loss")]  # three classes: no top-5

    assert session.pull(tmp_path / "back").code == 0
    for name, file in commit.files.items():
        assert name == ".gitattributes" or (tmp_path / "back" / name).read_bytes() == file.content, name
        if (made_run / name).is_file() and name not in ("README.md", "report.json", "report.md"):
            assert (made_run / name).read_bytes() == file.content, name
        with open(os.path.join(seen["snapshot"], name), "rb") as downloaded:
            assert downloaded.read() == file.content, name

    predicted = session.python(PREDICT, made_run)
    assert predicted.code == 0, predicted.err
    assert predicted.out.split() == ["4" if version == OLDEST else "3"]
    assert any(f"hf_hub/{version}" in agent for agent in hub.agents)


def test_fine_tuning_starts_from_the_hub_and_a_pull_has_its_logs(session, made_run, tmp_path):
    assert session.push(made_run).code == 0
    assert session.pull(tmp_path / "back").code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(EventAccumulator(str(tmp_path / "back" / "logs" / "train")).Reload().Scalars("epoch_loss")) == 2

    shown = re.findall(r'(?:src="|\]\()((?!https?:)[^")]+)', card_on(session.hub))
    shown += ["requirements.txt", "LICENSE", "README.md"]  # those that pyproject.toml names
    assert [name for name in shown if not (tmp_path / "back" / name).is_file()] == []
    again = [sys.executable, tmp_path / "back" / "push_to_hub.py", "push", ".", "--repo-id", REPO, "--dry-run"]
    done = subprocess.run(again, cwd=tmp_path / "back", env=session.env, capture_output=True, text=True)
    assert "dry run: no commit" in done.stdout, done.stderr

    data = write_official(tmp_path / "fruits", labels=("tomato", "lime", "plum"))
    code = "import train\nsys.exit(train.main(sys.argv[1:]))"
    args = ["--data", data, "--epochs", 1, "--batch-size", 64, "--learning-rate", 1e-6, "--output", tmp_path / "tuned"]
    done = session.python(code, *args, "--init-from", REPO)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "tuned" / "eval_results.json").read_text())
    assert REPO in results["training"]["init_from"] and f"--init-from {REPO}" in results["training"]["command"]
    assert results["model"]["preset"] == "tiny" and "--preset" not in results["training"]["command"]

    done = session.push(tmp_path / "tuned")
    assert done.code == 0, done.err
    card = card_on(session.hub)
    assert "`tomato`, `lime`, `plum`" in card and "`red`" not in card
    assert session.push(tmp_path / "back").code == 0
    assert "`red`, `green`, `blue`" in card_on(session.hub)


def test_this_tree_is_pushed_with_all_that_its_card_shows(session):
    done = session.run("push", ROOT, "--repo-id", "user/copy", "--revision", "main", "--message", "a copy")
    assert done.code == 0, done.err
    commit = session.hub.repos["user/copy"].head()
    assert commit.title == "a copy"
    card = card_on(session.hub, repo="user/copy")
    ours = (ROOT / "README.md").read_text()
    changed = list(difflib.unified_diff(ours.splitlines(), card.splitlines(), n=0, lineterm=""))[2:]
    changed = [line for line in changed if not line.startswith("@@")]
    assert changed and all("keras-io/" in line or "user/copy" in line for line in changed), changed
    assert 'load_model("hf://user/copy")' in card and 'from_pretrained_keras("user/copy")' in card
    for name in ("samples/apple.png", "tests/conftest.py", "handler.py", "logs/train/events.out.tfevents.eanet"):
        assert commit.files[name].content == (ROOT / name).read_bytes()
    shown = re.findall(r'(?:src="|\]\()((?:figures|samples|benchmarks)/[^")]+)', card)
    assert shown and not set(shown) - set(commit.files)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert {name for name in tracked if (ROOT / name).is_file()} - set(commit.files) - {".gitignore"} == set()


def test_an_unchanged_run_makes_no_commit(session, run, hub):
    assert session.push(run).code == 0
    before = hub.repos[REPO].head().sha
    done = session.push(run)
    assert done.code == 0 and "nothing to push" in done.out and before in done.out
    assert hub.repos[REPO].head().sha == before and hub.count("/commit/", "POST") == 1


def test_one_changed_number_is_one_commit_of_the_changed_files(session, run, hub):
    assert session.push(run).code == 0
    change_accuracy(run, 0.75)
    puts = hub.count("/lfs/", "PUT")
    done = session.push(run)
    assert done.code == 0
    assert sorted(re.findall(r"changed +(\S+)", done.out)) == ["README.md", "eval_results.json"]
    assert len(hub.repos[REPO].history()) == 3 and hub.count("/lfs/", "PUT") == puts


def test_files_of_earlier_runs_and_layouts_go_and_a_persons_stay(session, run, hub):
    assert session.push(run).code == 0
    stale = ["logs/old/events.out.tfevents.1.host", "variables/variables.data-00000-of-00002", "model.onnx", "data.py"]
    stale += ["onnx/model_int8.onnx", "figures/slots.png", "card_regions.py", "benchmarks/evaluation.json"]
    same = (run / "onnx" / "model.onnx").read_bytes()  # a quantized form has the metadata of the file it was made from
    theirs = ["notes.md", "onnx/NOTES.md", "figures/paper.png", "samples/mine/cat.png", "logs/NOTES.md", "my/data.py"]
    large = (".onnx", ".png", ".host", "02")
    by_hand = {name: File(b"old", name.endswith(large)) for name in stale + theirs}
    by_hand["onnx/model_int4.onnx"] = File(same, True)
    hub.uploads |= {file.sha256: file.content for file in by_hand.values() if file.lfs}
    commit_by_hand(hub, by_hand)
    done = session.push(run)
    assert done.code == 0, done.err
    assert sorted(re.findall(r"deleted +(\S+)", done.out)) == sorted(stale)
    files = set(hub.repos[REPO].head().files)
    assert {*theirs, ".gitattributes", "onnx/model_int4.onnx"} <= files and not set(stale) & files
    assert len(hub.repos[REPO].history()) == 4
    commit_by_hand(hub, {"data.py": b"a person's", "tests/test_data.py": b"a person's"})
    assert session.push(run).code == 0
    assert {"data.py", "tests/test_data.py"} <= set(hub.repos[REPO].head().files)


def test_own_samples_replace_those_of_an_earlier_push(session, run, hub, tmp_path):
    for label in ("red", "green", "blue"):
        paint(tmp_path / ("second" if label == "blue" else "first") / "test" / label / "image.png", label)
    assert session.push(run, "--publish-samples", tmp_path / "first").code == 0
    assert {"samples/red_1.png", "samples/green_1.png"} <= set(hub.repos[REPO].head().files)
    image = File(b"a person's", True)
    hub.uploads[image.sha256] = image.content
    commit_by_hand(hub, {"samples/NOTES.md": b"mine", "samples/mine/cat.png": image})
    second = ["--publish-samples", tmp_path / "second"]
    assert re.findall(r"delete .* (\S+)", session.push(run, *second, "--dry-run").out) == [
        "samples/green_1.png", "samples/red_1.png"
    ]  # fmt: skip
    for options in (second, []):  # a push without the flag keeps those on the Hub
        assert session.push(run, *options).code == 0
        samples = {name for name in hub.repos[REPO].head().files if name.startswith("samples/")}
        assert samples == {"samples/NOTES.md", "samples/mine/cat.png", "samples/blue_1.png"}
        assert "samples/blue_1.png" in card_on(hub) and "red_1.png" not in card_on(hub)
    shutil.rmtree(run / "test_samples")
    paint(run / "test_samples" / "green_1.png", "green")  # which the run kept
    done = session.push(run, "--publish-samples")
    assert re.findall(r"(new|deleted) +(samples/\S+)", done.out) == [
        ("new", "samples/green_1.png"), ("deleted", "samples/blue_1.png")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (b'{"model_type": "bert"}', "bert"),
        (b'{"architecture": "resnet18", "num_classes": 10}', "resnet18"),
        (b'{"class_name": "Functional", "config": {}}', "Functional"),
        (b'{"channels": [3]}', "its config.json is not of an EANet"),
        (b'{"model_type": "eanet"}', None),
        (b"{}", None),
        (b"no JSON", None),
        (b"[1]", None),
    ],
)
def test_a_repository_of_another_model_is_refused(config, kind, session, run, hub):
    assert session.python(f"import huggingface_hub; huggingface_hub.create_repo('{REPO}')").code == 0
    before = commit_by_hand(hub, {"config.json": File(config, False), "LICENSE": File(b"mine", False)})
    done = session.push(run)
    files = hub.repos[REPO].head().files
    assert files["LICENSE"].content == b"mine"  # its owner's choice
    if kind:
        line = error_line(done, 2)
        assert line.endswith(f"{REPO}: holds a model of another kind ({kind}); push to a new repository")
        assert hub.repos[REPO].head() == before
    else:
        assert done.code == 0 and files["model.weights.h5"], done.err


def test_a_dry_run_changes_nothing(session, run, hub):
    done = session.push(run, "--dry-run")
    assert done.code == 0, done.err
    assert hub.repos == {} and {method for method, _ in hub.requests} == {"GET"}
    size = (run / "model.weights.h5").stat().st_size
    assert re.search(rf"new +{size:,} bytes  model\.weights\.h5", done.out) and "+# EANet" in done.out

    assert session.push(run).code == 0
    commit_by_hand(hub, {"logs/train/events.out.tfevents.old": File(b"x" * 9, True)})
    change_accuracy(run, 0.5)
    before, posts = hub.repos[REPO].head().sha, hub.count("", "POST")
    done = session.push(run, "--dry-run")
    assert re.search(r"delete +9 bytes  logs/train/events\.out\.tfevents\.old", done.out)
    assert re.search(r"changed .*eval_results\.json", done.out) and re.search(r"unchanged .*config\.json", done.out)
    assert re.search(r"^-\| \*\*this model.*100\.00%", done.out, re.MULTILINE)
    assert re.search(r"^\+\| \*\*this model.*50\.00%", done.out, re.MULTILINE)
    assert hub.repos[REPO].head().sha == before and hub.count("", "POST") == posts


def test_a_dry_run_to_a_new_branch_starts_from_main(session, run, hub):
    assert session.push(run).code == 0
    commit_by_hand(hub, {"model.onnx": File(b"old", False)})  # of an earlier layout
    change_accuracy(run, 0.5)
    done = session.push(run, "--revision", "v2", "--dry-run")
    assert done.code == 0 and re.findall(r"^  (?:new|delete) .* (\S+)$", done.out, re.MULTILINE) == ["model.onnx"]
    assert "(branch v2)" in done.out and "-| **this model" in done.out and list(hub.repos[REPO].branches) == ["main"]
    assert session.push(run, "--revision", "v2").out.count("\n  new ") == 0


LATE = f"""
import push_to_hub
from eanet.cli import run
from huggingface_hub import HfApi
create = HfApi.create_commit
def late(api, *args, **kwargs):  # another commit lands between our look at the Hub and our commit
    HfApi.create_commit = create
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="{REPO}")
    return create(api, *args, **kwargs)
HfApi.create_commit = late
sys.exit(run(push_to_hub.main, sys.argv[1:]))
"""


def test_a_branch_that_moved_is_not_overwritten(session, run, hub):
    assert session.push(run).code == 0
    change_accuracy(run, 0.5)
    repo = hub.repos[REPO]
    line = error_line(session.python(LATE, "push", run, "--repo-id", REPO), 1)
    assert "newer commit" in line and "made none" in line and "same command again" in line
    assert repo.head().files["theirs.txt"].content == b"theirs" and "50.00%" not in card_on(hub)
    assert session.push(run).code == 0
    assert repo.head().files["theirs.txt"].content == b"theirs" and "50.00%" in card_on(hub)


def test_no_login_is_one_line(session, run, hub):
    line = error_line(session.push(run, HF_TOKEN=""), 2)
    assert "hf auth login" in line and hub.repos == {}
    assert "no such folder" in error_line(session.push(run / "none", HF_TOKEN=""), 2)  # first, before anything about the Hub
    done = session.push(run, "--dry-run", HF_TOKEN="")  # needs none
    assert done.code == 0 and f"not logged in: as if {REPO} were new" in done.err
    assert re.search(r"new .* model\.weights\.h5\n", done.out) and "+# EANet" in done.out and hub.repos == {}
    assert session.push(run).code == 0
    again = session.push(run, "--dry-run", HF_TOKEN="")  # a public repository can be read all the same
    assert "dry run: no commit" in again.out and "as if" not in again.err


def test_tokens_that_cannot_write_or_are_wrong(session, run, hub):
    assert "lacks permission (403)" in error_line(session.push(run, HF_TOKEN=hub.read_token), 1)
    assert "log in again" in error_line(session.push(run, HF_TOKEN="hf_" + "wrong" * 7), 1)
    assert "no token has" in error_line(session.push(run, HF_TOKEN="hf_é"), 2)
    assert "needs write access to someone" in error_line(session.run("push", run, "--repo-id", "someone/x"), 1)
    assert hub.repos == {}


@pytest.mark.parametrize("repo_id", ["colours", "a/b/c", "user/na me", "user/..", "/x", ""])
def test_a_malformed_repo_id_is_one_line(repo_id, session, run, hub):
    done = session.run("push", run, "--repo-id", repo_id)
    assert done.code == 2 and "USER/NAME" in done.err and "Traceback" not in done.err
    assert hub.requests == []


def test_private_is_not_ignored(session, run, hub):
    assert session.push(run, "--private").code == 0
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    assert "is public already" in error_line(session.push(run, "--private"), 2)
