"""Push and pull against a Hub on loopback, through the real clients."""

import contextlib
import difflib
import functools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from apart import installed
from conftest import ROOT, TINY, run_program, write_official
from hub_server import File, Hub, card_errors, front_matter

import export
import modeling_eanet

NEWEST, OLDEST, BETWEEN = "2.4.0", "0.36.2", "1.33.0"
REPO = "user/pictures-eanet"
TIMEOUT = 4  # seconds without a word from the Hub
SECRET = "hf_" + "pLANTEDsecret" * 3

SETUP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import modeling_eanet
modeling_eanet.PRESETS["tiny"] = {TINY!r}
"""
# Runs push_to_hub.main for each line of JSON it is sent: TensorFlow is imported once and not for every push, and a run that
# was found to hold together is not loaded again as long as it has the same bytes. Waits, ours and the client's, are told
# and cut short.
WORKER = """
import contextlib, io, json, os, time, traceback
import push_to_hub
waits, sleep = [], time.sleep
def nap(seconds):
    waits.append(seconds)
    sleep(min(seconds, 0.02))
time.sleep = nap
check, whole = push_to_hub._check_one_run, set()
def check_once(run, stage, results):
    content = tuple((str(p.relative_to(stage)), p.read_bytes()) for p in sorted(stage.rglob("*")) if p.is_file())
    if content not in whole:
        check(run, stage, results)
        whole.add(content)
push_to_hub._check_one_run = check_once
reply = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    job, out, err = json.loads(line), io.StringIO(), io.StringIO()
    os.environ.update(job["env"])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = push_to_hub.main(job["argv"])
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 99
    print(json.dumps([code, out.getvalue(), err.getvalue(), waits]), file=reply, flush=True)
    waits.clear()
"""


def client_path(version):
    """A folder to put on PYTHONPATH, or "" where that client is the installed one."""
    import huggingface_hub

    return "" if huggingface_hub.__version__ == version else str(installed(f"huggingface_hub=={version}"))


class Session:
    """Programs of ours and snippets, run with one client version, one Hub and one HF_HOME."""

    def __init__(self, hub, home, version):
        self.hub, self.home = hub, home
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        self.env |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_TOKEN": hub.token,
            "HF_HUB_DOWNLOAD_TIMEOUT": str(TIMEOUT),
            "PYTHONPATH": client_path(version),
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "20ms",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if not hub.xet:
            self.env["HF_HUB_DISABLE_XET"] = "1"
        self.worker = None

    def python(self, code, *args, **env):
        """A snippet in a process of its own."""
        command = [sys.executable, "-c", SETUP + code, *map(str, args)]
        done = subprocess.run(command, env=self.env | env, capture_output=True, text=True, timeout=300)
        return self._result(done.returncode, done.stdout, done.stderr)

    def run(self, *args, **env):
        """`push_to_hub.py ARGS`."""
        if self.worker is None:
            command = [sys.executable, "-c", SETUP + WORKER]
            self.worker = subprocess.Popen(command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        job = {"argv": [str(arg) for arg in args], "env": {"HF_TOKEN": self.hub.token} | env}
        print(json.dumps(job), file=self.worker.stdin, flush=True)
        return self._result(*json.loads(self.worker.stdout.readline()))

    def push(self, run, *args, **env):
        return self.run("push", run, "--repo-id", REPO, *args, **env)

    def pull(self, to, *args, **env):
        return self.run("pull", "--repo-id", REPO, "--to", to, *args, **env)

    def _result(self, code, out, err, waits=()):
        for secret in (SECRET, self.hub.token, self.hub.read_token):
            assert secret not in out + err
        return SimpleNamespace(code=code, out=out, err=err, waits=waits)

    def close(self):
        if self.worker:
            self.worker.stdin.close()
            self.worker.wait(30)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """(version, xet) to a Session; each Hub, client process and HF_HOME serves all tests that ask for it."""
    with contextlib.ExitStack() as stack:
        hubs = {xet: stack.enter_context(Hub(xet=xet)) for xet in (False, True)}

        @functools.cache
        def session(version, xet=False):
            made = Session(hubs[xet], tmp_path_factory.mktemp("hf"), version)
            stack.callback(made.close)
            return made

        yield session


@pytest.fixture
def session(sessions):
    return sessions(NEWEST)


@pytest.fixture
def hub(session):
    return session.hub


@pytest.fixture(autouse=True)
def empty_hub(sessions):
    yield
    for xet in (False, True):
        hub = sessions(NEWEST, xet).hub
        complaints = list(hub.complaints)
        hub.reset()
        assert complaints == []


def error_line(done, code):
    """The one line a failed command ends with; there is no traceback."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("push_to_hub.py: error:")]
    assert done.err.rstrip().endswith(line)
    return line


@pytest.fixture(scope="module")
def made_run(tmp_path_factory):
    """A run of the tiny preset on pictures of our own, and its ONNX export."""
    folder = tmp_path_factory.mktemp("made")
    data = write_official(folder / "pictures")
    recipe = ["--preset", "tiny", "--epochs", 2, "--batch-size", 64]
    done = run_program("train", "--data", data, *recipe, "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    export.export_onnx(modeling_eanet.from_pretrained_keras(folder / "run"), folder / "run" / "model.onnx")
    return folder / "run"


@pytest.fixture
def run(made_run, tmp_path):
    return shutil.copytree(made_run, tmp_path / "run")


def change(run, accuracy):
    results = json.loads((run / "eval_results.json").read_text())
    (run / "eval_results.json").write_text(json.dumps({**results, "accuracy": accuracy}, indent=2) + "\n")


def card_on(hub, revision="main"):
    return hub.repos[REPO].head(revision).files["README.md"].content.decode()


# ---------------------------------------------------------------------------------------- there and back, every client


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
    [(OLDEST, False), (NEWEST, False), (NEWEST, True), pytest.param(BETWEEN, True, marks=pytest.mark.slow)],
)
def test_what_was_pushed_is_there_and_comes_back(version, xet, made_run, tmp_path, sessions):
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
    assert session.push(made_run, "--revision", "v1").code == 0  # a branch that is made, and is up to date

    seen = session.python(LOOK, version)
    assert seen.code == 0, seen.err
    seen = json.loads(seen.out)
    results = json.loads((made_run / "eval_results.json").read_text())
    assert seen["sha"] == commit.sha and seen["files"] == sorted(commit.files) and seen["library"] == "keras"
    assert seen["results"] == [[key, results[key], "pictures"] for key in ("accuracy", "loss")]  # three classes: no top-5

    assert session.pull(tmp_path / "back").code == 0
    for name, file in commit.files.items():
        for folder in (tmp_path / "back", made_run if (made_run / name).is_file() else ROOT):
            if name not in (".gitattributes", "README.md") or folder.name == "back":
                assert (folder / name).read_bytes() == file.content, (name, folder)
        with open(os.path.join(seen["snapshot"], name), "rb") as downloaded:
            assert downloaded.read() == file.content, name

    predicted = session.python(PREDICT, made_run)
    assert predicted.code == 0, predicted.err
    assert predicted.out.split() == ["4" if version == OLDEST else "3"]
    assert any(f"hf_hub/{version}" in agent for agent in hub.agents)


def test_a_pull_is_a_run_to_go_on_from(session, made_run, tmp_path):
    """Fine-tune from it, on classes of another name; its logs are readable; it can be pushed again."""
    assert session.push(made_run).code == 0
    assert session.pull(tmp_path / "back").code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert len(EventAccumulator(str(tmp_path / "back" / "logs" / "train")).Reload().Scalars("epoch_loss")) == 2

    data = write_official(tmp_path / "fruits", labels=("tomato", "lime", "plum"))
    code = "import train\nsys.exit(train.main(sys.argv[1:]))"
    args = ["--data", data, "--epochs", 1, "--batch-size", 64, "--learning-rate", 1e-6, "--output", tmp_path / "tuned"]
    for source in (tmp_path / "back", REPO):
        done = session.python(code, *args, "--init-from", source)
        assert done.code == 0, done.err
        assert "the classifier begins anew, for 3 classes" in done.err
        results = json.loads((tmp_path / "tuned" / "eval_results.json").read_text())
        name = "back" if source != REPO else REPO
        assert results["training"]["init_from"] == name and f"--init-from {name}" in results["training"]["command"]
        assert results["model"]["preset"] == "tiny" and "--preset" not in results["training"]["command"]
        if source != REPO:
            shutil.rmtree(tmp_path / "tuned")

    done = session.push(tmp_path / "tuned")
    assert done.code == 0, done.err
    card = card_on(session.hub)
    assert "`tomato`, `lime`, `plum`" in card and "`red`" not in card and f"began with the weights of `{REPO}`" in card
    assert session.push(tmp_path / "back").code == 0
    assert "`red`, `green`, `blue`" in card_on(session.hub)


def test_this_tree_is_pushed_with_all_that_its_card_shows(session, tmp_path):
    done = session.run("push", ROOT, "--repo-id", "user/copy", "--revision", "main", "--message", "a copy")
    assert done.code == 0, done.err
    commit = session.hub.repos["user/copy"].head()
    assert commit.title == "a copy"
    card = commit.files["README.md"].content.decode()
    ours = (ROOT / "README.md").read_text()
    changed = [line for line in difflib.ndiff(ours.splitlines(), card.splitlines()) if line[0] in "+-"]
    assert changed and all("keras-io/" in line or "user/copy" in line for line in changed), changed
    assert 'load_model("hf://user/copy")' in card and 'from_pretrained_keras("user/copy")' in card
    for name in ("samples/apple.png", "tests/hub_server.py", "handler.py", "logs/train/events.out.tfevents.eanet"):
        assert commit.files[name].content == (ROOT / name).read_bytes()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    left_out = set(tracked) - set(commit.files) - {".gitignore"}
    assert not tracked or left_out == set()


# ------------------------------------------------------------------------------------------------------ pushing again


def test_a_push_that_changes_nothing_makes_no_commit(session, run, hub):
    assert session.push(run).code == 0
    before = hub.repos[REPO].head().sha
    done = session.push(run)
    assert done.code == 0 and "nothing to push" in done.out and before in done.out
    assert hub.repos[REPO].head().sha == before and hub.count("/commit/", "POST") == 1


def test_one_changed_number_is_one_commit_of_the_files_that_changed(session, run, hub):
    assert session.push(run).code == 0
    change(run, 0.75)
    puts = hub.count("/lfs/", "PUT")
    done = session.push(run)
    assert done.code == 0
    assert sorted(re.findall(r"changed +(\S+)", done.out)) == ["README.md", "eval_results.json"]
    assert len(hub.repos[REPO].history()) == 3 and hub.count("/lfs/", "PUT") == puts
    result = front_matter(card_on(hub))["model-index"][0]["results"][0]
    assert "75.00 %" in card_on(hub) and result["metrics"][0]["value"] == 0.75


def test_files_of_an_earlier_run_are_deleted_in_the_same_commit_and_a_persons_stay(session, run, hub):
    assert session.push(run).code == 0
    repo = hub.repos[REPO]
    files = dict(repo.head().files)
    stale = ("logs/old/events.out.tfevents.1.host", "variables/variables.data-00000-of-00002")
    theirs = ("notes.md", "onnx/model.onnx", "figures/paper.png", "samples/mine/cat.png", "logs/NOTES.md", "pyproject.toml")
    for name in (*stale, *theirs):
        files[name] = File(b"old", name.endswith((".onnx", ".png", ".host", "02")))
    repo.commit("main", "by hand", files)
    done = session.push(run)
    assert done.code == 0, done.err
    assert sorted(re.findall(r"deleted +(\S+)", done.out)) == sorted(stale)
    assert {*theirs, ".gitattributes"} <= set(repo.head().files)
    assert not set(stale) & set(repo.head().files)
    assert len(repo.history()) == 4


def test_a_dry_run_says_what_would_be_done_and_does_nothing(session, run, hub):
    done = session.push(run, "--dry-run")
    assert done.code == 0, done.err
    assert hub.repos == {} and {method for method, _ in hub.requests} == {"GET"}
    size = (run / "model.weights.h5").stat().st_size
    assert re.search(rf"new +{size:,} bytes  model\.weights\.h5", done.out) and "+# EANet" in done.out

    assert session.push(run).code == 0
    files = dict(hub.repos[REPO].head().files)
    hub.repos[REPO].commit("main", "by hand", files | {"logs/train/events.out.tfevents.old": File(b"x" * 9, True)})
    change(run, 0.5)
    before, posts = hub.repos[REPO].head().sha, hub.count("", "POST")
    done = session.push(run, "--dry-run")
    assert re.search(r"delete +9 bytes  logs/train/events\.out\.tfevents\.old", done.out)
    assert re.search(r"changed .*eval_results\.json", done.out) and re.search(r"unchanged .*config\.json", done.out)
    assert re.search(r"^-\| pictures .*100\.00 %", done.out, re.MULTILINE)
    assert re.search(r"^\+\| pictures .*50\.00 %", done.out, re.MULTILINE)
    assert hub.repos[REPO].head().sha == before and hub.count("", "POST") == posts


# ----------------------------------------------------------------------------------------------------------- the card


def test_every_word_a_person_wrote_on_the_hub_stays(session, run, hub):
    assert session.push(run).code == 0
    repo = hub.repos[REPO]
    card = card_on(hub)
    card = card.replace("language: en\n", "language: de  # a comment\nthumbnail: mine.png\n")
    card = card.replace("  - results:\n", "  - results:\n").replace("tags:\n", "tags:\n- birds\n")
    card = card.replace("## Results\n", "My own words.\n\n## Results of mine\n") + "\nThe end, by hand.\n"
    data = yaml.safe_load(card.split("---\n")[1])
    other = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "other/birds", "name": "Birds"},
        "metrics": [{"type": "accuracy", "value": 0.25}],
    }
    (entry,) = data["model-index"]
    index = yaml.safe_dump({"model-index": [{**entry, "results": entry["results"] + [other]}]})
    card = re.sub(r"^model-index:\n(?:(?: |- ).*\n)*", lambda _: index, card, flags=re.M)
    repo.commit("main", "by hand", dict(repo.head().files) | {"README.md": File(card.encode(), False)})
    change(run, 0.5)
    assert session.push(run).code == 0
    after = card_on(hub)
    kept = ["language: de  # a comment\n", "thumbnail: mine.png\n", "- birds\n", "\nThe end, by hand.\n"]
    for words in (*kept, "My own words.\n\n## Results of mine\n"):
        assert words in after
    results = front_matter(after)["model-index"][0]["results"]
    assert [r["dataset"]["name"] for r in results] == ["pictures", "Birds"] and results[1] == other
    assert results[0]["metrics"][0]["value"] == 0.5 and "50.00 %" in after and "**100.00 %**" not in after


def test_a_card_without_our_markers_keeps_its_text_and_gets_the_results(session, run, hub):
    session.python(f"from huggingface_hub import create_repo\ncreate_repo('{REPO}')")
    theirs = "# My birds\n\nAll mine.\n"
    repo = hub.repos[REPO]
    repo.commit("main", "by hand", dict(repo.head().files) | {"README.md": File(theirs.encode(), False)})
    assert session.push(run).code == 0
    body = card_on(hub).split("---\n", 2)[2]
    assert body.startswith(theirs) and "## Results\n\n<!-- results -->\n| Measured on" in body
    assert front_matter(card_on(hub))["library_name"] == "keras"


def test_a_model_of_own_data_claims_no_cifar(session, run, hub):
    assert session.push(run).code == 0
    card = card_on(hub)
    assert "cifar" not in card.lower() and "datasets" not in front_matter(card)
    assert "`red`, `green`, `blue`" in card and "3 classes" in card
    result = front_matter(card)["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "imagefolder", "name": "pictures", "split": "test"}

    repo = hub.repos[REPO]
    claims = card.replace("## Training", "Trained on CIFAR-100.\n\n## Training")
    repo.commit("main", "by hand", dict(repo.head().files) | {"README.md": File(claims.encode(), False)})
    line = error_line(session.push(run), 2)
    assert "CIFAR-100" in line and "pictures" in line and "--new-card" in line
    assert session.push(run, "--new-card").code == 0
    assert "cifar" not in card_on(hub).lower()


def test_the_front_matter_is_what_the_hub_wants(session, run, hub):
    assert session.push(run).code == 0
    for card, results in (
        (card_on(hub), json.loads((run / "eval_results.json").read_text())),
        ((ROOT / "README.md").read_text(), json.loads((ROOT / "eval_results.json").read_text())),
    ):
        data = front_matter(card)
        assert card_errors(card) == []
        assert data["library_name"] == "keras" and data["pipeline_tag"] == "image-classification"
        assert data["license"] == "apache-2.0" and "arxiv.org/abs/2105.02358" in card
        assert {"tf-keras", "keras", "tensorflow", "image-classification"} <= set(data["tags"])
        (entry,) = data["model-index"]
        values = {m["type"]: m["value"] for m in entry["results"][0]["metrics"]}
        assert all(math.isfinite(value) for value in values.values())
        five = {"top_5_accuracy": results["top5_accuracy"]} if data.get("datasets") else {}  # not among three classes
        assert values == {"accuracy": results["accuracy"], **five, "loss": results["loss"]}
        assert entry["results"][0]["source"]["name"] == "eval_results.json"


# -------------------------------------------------------------------------------------------------- two pushes at once


def test_a_hub_that_moved_on_loses_nothing(session, run, hub):
    assert session.push(run).code == 0
    change(run, 0.5)
    repo = hub.repos[REPO]
    moved = """
import push_to_hub
real = push_to_hub._commit
def late(api, *args):  # someone else's commit lands between our look at the Hub and our commit
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id="%s")
    return real(api, *args)
push_to_hub._commit = late
sys.exit(push_to_hub.main(sys.argv[1:]))
"""
    done = session.python(moved % REPO, "push", run, "--repo-id", REPO)
    line = error_line(done, 1)
    assert "newer commit" in line and "made none" in line and "same command again" in line
    assert repo.head().files["theirs.txt"].content == b"theirs" and "50.00 %" not in card_on(hub)
    assert session.push(run).code == 0
    assert repo.head().files["theirs.txt"].content == b"theirs" and "50.00 %" in card_on(hub)


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
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
        dict(path="/revision/", kind="slow", seconds=TIMEOUT + 2, times=1),
    ],
    ids=lambda fault: f"{fault.get('status', fault.get('kind'))}",
)
def test_a_fault_that_passes_is_sat_out(version, fault, made_run, sessions):
    session = sessions(version)
    session.hub.fault(**fault)
    done = session.push(made_run)
    assert done.code == 0, done.err
    repo = session.hub.repos[REPO]
    assert len(repo.history()) == 2 and "model.weights.h5" in repo.head().files
    assert session.hub.faults[0].times == 0 and "pushed" in done.out and "new      model.weights.h5" in done.out
    if fault.get("status") == 429:
        assert "trying again in 3 s" in done.err and 3 in done.waits


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (dict(path="/commit/", status=401), "log in again"),
        (dict(path="/commit/", status=403), "role write"),
        (dict(path="/commit/", status=404), "no such repository"),
        (dict(path="/commit/", status=409), "conflict"),
        (dict(path="/commit/", status=500), "problem of its own (500)"),
        (dict(path="/commit/", status=429, headers={"Retry-After": "0"}), "too many requests"),
        (dict(path="/commit/", kind="drop"), "connection to the Hub failed"),
        (dict(path="/commit/", status=429, headers={"Retry-After": "4000"}), "asks to wait 4000 s"),
        (dict(path="/validate-yaml", status=400), "refused"),
    ],
    ids=lambda value: f"{value.get('status', value.get('kind'))}" if isinstance(value, dict) else "",
)
def test_a_fault_that_stays_is_one_line_and_publishes_nothing(fault, words, run, session):
    stays(fault, words, run, session)


@pytest.mark.parametrize(
    ("xet", "version", "fault", "words"),
    [
        (False, OLDEST, dict(path="/commit/", status=500), "problem of its own (500)"),
        (False, OLDEST, dict(path="/lfs/", method="PUT", kind="drop"), "connection to the Hub failed"),
        (False, NEWEST, dict(path="/lfs/", method="PUT", status=403), "no right to do this (403)"),
        (False, NEWEST, dict(path="/preupload/", status=503), "problem of its own (503)"),
        (False, NEWEST, dict(path="/tree/", status=401), "log in again"),
        (True, NEWEST, dict(path="/xet-write-token/", status=403), "no right to do this (403)"),
        (True, NEWEST, dict(path="/xet-write-token/", status=500), "problem of its own (500)"),
        (True, NEWEST, dict(path="/commit/", status=409), "conflict"),
        (True, NEWEST, dict(path="/commit/", kind="drop"), "connection to the Hub failed"),
    ],
    ids=lambda value: f"{value['path'].strip('/')}-{value.get('status', 'drop')}" if isinstance(value, dict) else "",
)
def test_a_fault_that_stays_anywhere_on_the_way(xet, version, fault, words, run, sessions):
    stays(fault, words, run, sessions(version, xet))


def stays(fault, words, run, session):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    hub = session.hub
    hub.fault(**fault)
    line = error_line(session.push(run), 1)
    assert words in line and REPO in line
    assert [c.title for c in hub.repos[REPO].history()] == ["initial commit"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    hub.faults.clear()
    assert session.push(run).code == 0
    assert len(hub.repos[REPO].history()) == 2


def test_a_download_that_breaks_goes_on_and_a_hub_that_is_gone_leaves_the_folder(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    hub.fault("/lfs/", method="GET", kind="cut", times=1)
    assert session.pull(tmp_path / "back").code == 0
    weights = (made_run / "model.weights.h5").read_bytes()
    assert (tmp_path / "back" / "model.weights.h5").read_bytes() == weights
    hub.fault("", status=500)
    assert "problem of its own" in error_line(session.pull(tmp_path / "new"), 1)
    assert not (tmp_path / "new").exists()


# ---------------------------------------------------------------------------------------------------------- bad input


def test_no_login_is_one_line(session, run, hub):
    line = error_line(session.push(run, HF_TOKEN=""), 2)
    assert "hf auth login" in line and hub.repos == {}
    done = session.push(run, "--dry-run", HF_TOKEN="")  # which needs none
    assert done.code == 0 and "not logged in: as if user/pictures-eanet were new" in done.err
    assert re.search(r"new .* model\.weights\.h5\n", done.out) and "+# EANet" in done.out and hub.repos == {}
    assert session.push(run).code == 0
    again = session.push(run, "--dry-run", HF_TOKEN="")  # a public repository can be read all the same
    assert "dry run: no commit" in again.out and "as if" not in again.err


def test_a_token_that_cannot_write_and_one_that_is_wrong(session, run, hub):
    assert "role write" in error_line(session.push(run, HF_TOKEN=hub.read_token), 1)
    assert "log in again" in error_line(session.push(run, HF_TOKEN="hf_" + "wrong" * 7), 1)
    assert "role write for someone" in error_line(session.run("push", run, "--repo-id", "someone/x"), 1)
    assert hub.repos == {}


@pytest.mark.parametrize("repo_id", ["pictures", "a/b/c", "user/na me", "user/..", "/x", ""])
def test_a_malformed_repo_id_is_one_line(repo_id, session, run, hub):
    done = session.run("push", run, "--repo-id", repo_id)
    assert done.code == 2 and "USER/NAME" in done.err and "Traceback" not in done.err
    assert hub.requests == []


def break_results(run):
    (run / "eval_results.json").write_text("{")


def unlist_artefacts(run):
    shutil.rmtree(run)
    run.mkdir()
    (run / "notes.txt").write_text("hello")


def remove_saved_model(run):
    (run / "saved_model.pb").unlink()


def results_of_another_run(run):
    results = json.loads((run / "eval_results.json").read_text())
    results["model"]["checksum"] = "00000000"
    (run / "eval_results.json").write_text(json.dumps(results))


def results_without_a_key(run):
    results = json.loads((run / "eval_results.json").read_text())
    del results["versions"]
    (run / "eval_results.json").write_text(json.dumps(results))


def class_names_of_another_run(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"red"', '"rouge"'))


def history_of_another_run(run):
    history = json.loads((run / "history.json").read_text())
    (run / "history.json").write_text(json.dumps({k: v[::-1] for k, v in history.items()}))


def saved_model_of_another_run(run):
    config = modeling_eanet.EANetConfig.from_json_file(run / "config.json")
    modeling_eanet.save_pretrained_keras(modeling_eanet.build_eanet(config), run.parent / "other", saved_model=True)
    shutil.rmtree(run / "variables")
    shutil.copytree(run.parent / "other" / "variables", run / "variables")


def onnx_of_another_run(run):
    config = modeling_eanet.EANetConfig.from_json_file(run / "config.json")
    export.export_onnx(modeling_eanet.build_eanet(config), run / "model.onnx")


def damaged_saved_model(run):
    (run / "saved_model.pb").write_bytes(b"x")


def damaged_history(run):
    (run / "history.json").write_text("{}")


def link_within(run):
    (run / ".env").write_text("secret")
    (run / "samples").mkdir()
    (run / "samples" / "notes.md").symlink_to("../.env")


def linked_folder(run):
    (run / "logs").rename(run.parent / "logs")
    (run / "logs").symlink_to(run.parent / "logs")


def linked_card(run):
    (run.parent / "private.md").write_text("secret")
    (run / "README.md").symlink_to("../private.md")


def card_in_latin_1(run):
    (run / "README.md").write_bytes(b"caf\xe9")


def link_out(run):
    (run.parent / "secret.png").write_bytes(b"secret")
    (run / "samples").mkdir()
    (run / "samples" / "a.png").symlink_to(run.parent / "secret.png")


def broken_card(run):
    (run / "README.md").write_text("---\nlanguage: en\ntags: [a\nlicense: x\n---\nhello\n")


def token_in_card(run):
    (run / "README.md").write_text(f"# mine\n\n{SECRET}\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, ["no such folder"]),
        (unlist_artefacts, ["holds no model", "train.py"]),
        (remove_saved_model, ["saved_model.pb is missing", "--export"]),
        (break_results, ["eval_results.json is damaged"]),
        (results_of_another_run, ["different runs", "eval_results.json"]),
        (history_of_another_run, ["different runs", "history.json"]),
        (class_names_of_another_run, ["different runs", "config.json"]),
        (saved_model_of_another_run, ["different runs", "SavedModel"]),
        (onnx_of_another_run, ["different runs", "model.onnx"]),
        (damaged_saved_model, ["SavedModel cannot be loaded"]),
        (damaged_history, ["history.json is damaged"]),
        (results_without_a_key, ["eval_results.json", "versions", "train.py"]),
        (link_out, ["samples/a.png", "link"]),
        (link_within, ["samples/notes.md", "link"]),
        (linked_folder, ["logs/", "link"]),
        (linked_card, ["README.md", "link"]),
        (card_in_latin_1, ["README.md", "UTF-8"]),
        (broken_card, ["README.md, line 4", "broken YAML"]),
        (token_in_card, ["README.md", "token"]),
    ],
)
def test_a_run_that_does_not_hold_together_is_not_pushed(spoil, words, session, run, hub):
    spoil(run)
    line = error_line(session.push(run), 2)
    assert all(word in line for word in words), line
    assert hub.count("", "POST") == 0


def test_a_broken_card_on_the_hub_is_left_and_named(session, run, hub):
    assert session.push(run).code == 0
    repo = hub.repos[REPO]
    broken = File(b"---\nlanguage: en\ntags: [a\nlicense: x\n---\nhello\n", False)
    repo.commit("main", "by hand", dict(repo.head().files) | {"README.md": broken})
    line = error_line(session.push(run), 2)
    assert f"README.md of {REPO} on the Hub, line 4" in line and "broken YAML" in line
    assert repo.head().files["README.md"] == broken


def test_private_is_not_ignored(session, run, hub):
    assert session.push(run, "--private").code == 0
    assert hub.repos[REPO].private
    hub.repos[REPO].private = False
    assert "is public already" in error_line(session.push(run, "--private"), 2)


def test_offline_nothing_is_asked(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    assert session.pull(tmp_path / "one").code == 0
    asked = len(hub.requests)
    offline = Session(hub, session.home, NEWEST)
    offline.env["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE" in error_line(offline.push(made_run), 2)
    assert "offline: as if" in offline.push(made_run, "--dry-run").err
    assert offline.pull(tmp_path / "two").code == 0  # out of the cache
    offline.close()
    assert len(hub.requests) == asked
    assert (tmp_path / "two" / "model.weights.h5").read_bytes() == (made_run / "model.weights.h5").read_bytes()


def test_pull_takes_a_part_and_overwrites_nothing_of_yours(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    assert session.pull(tmp_path / "logs", "--logs-only").code == 0
    assert {p.name for p in (tmp_path / "logs").iterdir()} == {"logs", ".pulled.json"}
    assert session.pull(tmp_path / "weights", "--weights-only").code == 0
    assert not (tmp_path / "weights" / "logs").exists() and (tmp_path / "weights" / "saved_model.pb").exists()

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    assert "not empty" in error_line(session.pull(mine), 2)

    back = tmp_path / "back"
    assert session.pull(back).code == 0
    assert "0 new or changed" in session.pull(back).out
    repo = hub.repos[REPO]
    files = {name: file for name, file in repo.head().files.items() if name != "handler.py"}
    repo.commit("main", "by hand", files | {"new.txt": File(b"new", False)})
    assert "1 new or changed, 1 deleted" in session.pull(back).out
    assert (back / "new.txt").exists() and not (back / "handler.py").exists()
    (back / "config.json").write_text("mine")
    assert "config.json was changed" in error_line(session.pull(back), 2)
    assert (back / "config.json").read_text() == "mine"
    assert "no such repository" in error_line(session.run("pull", "--repo-id", "user/none", "--to", tmp_path / "x"), 1)
    assert "no such repository" in error_line(session.pull(tmp_path / "x", "--revision", "none"), 1)
    assert not (tmp_path / "x").exists()


def test_an_edited_card_of_a_pull_is_pushed_and_any_other_is_left_out_aloud(session, run, hub, tmp_path):
    assert session.push(run).code == 0
    assert session.pull(tmp_path / "back").code == 0
    card = tmp_path / "back" / "README.md"
    card.write_text(card.read_text().replace("## Results", "My own words.\n\n## Results"))
    done = session.push(tmp_path / "back")
    assert done.code == 0 and re.findall(r"changed +(\S+)", done.out) == ["README.md"]
    assert "My own words." in card_on(hub)

    (run / "README.md").write_text("# Another card\n")
    done = session.push(run)
    assert "nothing to push" in done.out and "is left out (--new-card takes it)" in done.err
    assert session.push(run, "--new-card").code == 0
    assert "# Another card" in card_on(hub) and "My own words." not in card_on(hub)


def test_a_pull_is_whole_or_fails(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    assert session.pull(tmp_path / "back").code == 0
    repo = hub.repos[REPO]
    files = dict(repo.head().files)
    repo.commit("main", "by hand", files | {"handler.py": File(b"new", False)})
    hub.fault("/resolve/.*/handler.py", status=403)
    line = error_line(session.pull(tmp_path / "back"), 1)
    assert REPO in line
    assert (tmp_path / "back" / "handler.py").read_bytes() == files["handler.py"].content
    assert (tmp_path / "back" / "model.weights.h5").exists()
    hub.faults.clear()
    assert session.pull(tmp_path / "back").code == 0
    assert (tmp_path / "back" / "handler.py").read_bytes() == b"new"


def test_a_pull_overwrites_no_file_of_your_own_and_takes_old_logs_away(session, made_run, hub, tmp_path):
    assert session.push(made_run).code == 0
    back = tmp_path / "back"
    assert session.pull(back, "--logs-only").code == 0
    (back / "config.json").write_text("mine")
    assert "config.json is there and of your own" in error_line(session.pull(back), 2)
    assert (back / "config.json").read_text() == "mine"

    repo = hub.repos[REPO]
    files = dict(repo.head().files)
    log = files.pop("logs/train/events.out.tfevents.eanet")
    repo.commit("main", "by hand", files | {"logs/train/events.out.tfevents.2": log})
    assert session.pull(back, "--logs-only").code == 0
    assert [p.name for p in (back / "logs" / "train").iterdir()] == ["events.out.tfevents.2"]
    assert (back / "logs" / "validation" / "events.out.tfevents.eanet").exists()

    record = json.loads((back / ".pulled.json").read_text())  # as an interrupted pull leaves it
    name = "logs/train/events.out.tfevents.2"
    record["files"][name], record["before"] = "0" * 64, {name: record["files"][name]}
    (back / ".pulled.json").write_text(json.dumps(record))
    assert session.pull(back, "--logs-only").code == 0


def test_only_listed_files_go_up_and_no_token_anywhere(session, run, hub):
    """A secret lies in every place a careless upload would take along."""
    places = [".env", ".git/config", "notes.txt", "logs/notes.txt", "logs/train/.env", "samples/.env", "variables/x.txt"]
    places += ["figures/secret.txt", ".ipynb_checkpoints/a.ipynb", "__pycache__/a.pyc", "data/a.png", "token"]
    for name in places:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(SECRET)
    saved = session.home / "token"
    saved.write_text(hub.token)
    done = session.push(run, HF_TOKEN="")  # with the saved login
    saved.unlink()
    assert done.code == 0, done.err
    files = hub.repos[REPO].head().files
    assert "checkpoint.npz" not in files and "settings.json" not in files
    for name, file in files.items():
        assert SECRET.encode() not in file.content and hub.token.encode() not in file.content, name
        assert (run / name).name not in (".env", "notes.txt", "token")
    for path in run.rglob("*"):
        assert path.is_dir() or hub.token.encode() not in path.read_bytes()
    (run / "history.json").write_text(json.dumps({"note": SECRET}))
    line = error_line(session.push(run), 2)
    assert "history.json" in line and "token" in line and SECRET not in line
