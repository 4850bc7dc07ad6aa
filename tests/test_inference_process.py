"""The programs in a process of their own: usage errors, broken models, the Hub's cache, other folders, no noise."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import LABELS, ROOT, colour_images, encoded, only_line, paint, run_main, tiny_config
from PIL import Image

import inference
from eanet.saving import KERAS_FILES

USAGE_ERRORS = {
    "missing file": (["missing.png"], "missing.png: no such file or folder"),
    "missing file next to a good one": (["red.png", "missing.png"], "missing.png: no such file or folder"),
    "file as a folder": (["red.png/x.png"], "red.png/x.png: no such file or folder"),
    "empty path": ([""], "no such file or folder"),
    "empty folder": (["empty"], "empty: no images in this folder"),
    "folder of other files": (["texts"], "texts: no images in this folder"),
    "standard input twice": (["-", "-"], "-: standard input"),
    "top-k 0": (["red.png", "--top-k", "0"], "argument --top-k: '0' is not"),
    "top-k -1": (["red.png", "--top-k", "-1"], "argument --top-k: expected one argument"),
    "top-k not a number": (["red.png", "--top-k", "many"], "argument --top-k: 'many' is not"),
    "batch-size 0": (["red.png", "--batch-size", "0"], "argument --batch-size: '0' is not"),
    "threads 0": (["red.png", "--threads", "0"], "argument --threads: '0' is not"),
    "missing list": (["@nowhere.txt"], "@nowhere.txt: no such file"),
    "empty list": (["@empty.txt"], "@empty.txt: no paths in this list"),
    "list of another kind": (["@list.txt", "-0"], "@list.txt: not a list of paths that end with null characters"),
    "null characters without a list": (["red.png", "-0"], "argument -0/--null: goes with a list"),
    "output of another format": (["red.png", "--output", "x.xls"], "x.xls: unknown format; the name must end with .csv"),
    "output without a name": (["red.png", "--output", ""], "argument --output: is empty; name a folder or file"),
    "output in no folder": (["red.png", "--output", "no/x.csv"], "no/x.csv: no such folder: no"),
    "output is a folder": (["red.png", "--output", "folder.csv"], "folder.csv: exists, and is not a regular file"),
    "output exists": (["red.png", "--output", "old.jsonl"], "old.jsonl: already exists; use --resume to continue, or"),
    "output with a format": (
        ["red.png", "--output", "x.csv", "--format", "csv"],
        "argument --format: is for standard output",
    ),
    "resume without output": (["red.png", "--resume"], "argument --resume: goes with --output"),
    "unknown format": (["red.png", "--format", "xml"], "xml"),
    "nothing": ([], "PATH"),
    "model name": (["red.png", "--model", "nowhere"], "nowhere: not a local folder"),
    "model path": (["red.png", "--model", "./no/where"], "./no/where: not a local folder"),
    "an export for Keras": (
        ["red.png", "--model", "m.onnx", "--runtime", "keras"],
        "m.onnx: is for the runtime onnx, not keras",
    ),
    "model is a file": (["red.png", "--model", "red.png"], "red.png: not a local folder"),
    "invalid repo id": (["red.png", "--model", "bad name/x"], "bad name/x"),
    "repository not in the cache": (["red.png", "--model", "nobody/nothing"], "nobody/nothing: "),
    "model folder without config.json": (["red.png", "--model", "empty"], "empty/config.json: no such file"),
    "config.json is not JSON": (["red.png", "--model", "texts"], "texts/config.json: not JSON"),
}


@pytest.fixture(scope="module")
def usage_errors(tmp_path_factory):
    """Status, output, error and heavy modules imported for all USAGE_ERRORS, from one process."""
    folder = tmp_path_factory.mktemp("usage")
    paint(folder / "red.png")
    for name in ("empty", "folder.csv"):
        (folder / name).mkdir()
    for name, content in (("empty.txt", "\n\n"), ("list.txt", "red.png\n" * 10_000), ("old.jsonl", "{}\n"), ("m.onnx", "")):
        (folder / name).write_text(content)
    (folder / "texts").mkdir()
    (folder / "texts" / "config.json").write_text("{")
    code = f"""
import contextlib, io, json, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["inference.py"]
import inference
from eanet.cli import run
results = {{}}
for name, args in json.loads(sys.stdin.read()).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run(inference.main, args)
        except SystemExit as stop:
            status = stop.code
    heavy = sorted({{"keras", "tensorflow", "tf_keras"}} & set(sys.modules))
    results[name] = [status, out.getvalue(), err.getvalue(), heavy]
print(json.dumps(results))
"""
    cases = json.dumps({name: args for name, (args, _) in USAGE_ERRORS.items()})
    env = {**os.environ, "HF_HOME": str(folder / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code], input=cases, capture_output=True, text=True, cwd=folder, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", USAGE_ERRORS)
def test_usage_error_is_one_line_and_needs_no_keras(usage_errors, what):
    status, out, err, heavy = usage_errors[what]
    assert status == 2 and out == ""
    *usage, line = err.splitlines()
    assert line.startswith("inference.py: error: ") and USAGE_ERRORS[what][1] in line
    assert not usage or usage[0].startswith("usage: ")  # argparse
    assert heavy == []


def test_missing_keras_names_the_way_without_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras", None)
    assert run_main(inference, ROOT / "samples" / "apple.png") == 2
    line = only_line(capsys.readouterr().err)
    assert "keras is not installed" in line and "requirements.txt" in line and "onnx" in line


def with_config(**changes):
    return lambda folder: (folder / "config.json").write_text(json.dumps(tiny_config(**changes).to_dict()))


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


CONFIG, _, WEIGHTS = KERAS_FILES
BROKEN_MODELS = {
    "config missing": (CONFIG, lambda folder: (folder / CONFIG).unlink()),
    "config empty": (CONFIG, cut(CONFIG, 0)),
    "config cut short": (CONFIG, cut(CONFIG, 500)),
    "config of something else": (CONFIG, written(CONFIG, b'{"a": 1}')),
    "config not text": (CONFIG, written(CONFIG, b"\xff\xfe\x00")),
    "weights missing": (WEIGHTS, lambda folder: (folder / WEIGHTS).unlink()),
    "weights empty": (WEIGHTS, cut(WEIGHTS, 0)),
    "weights cut short": (WEIGHTS, cut(WEIGHTS, -1)),
    "weights cut in half": (WEIGHTS, cut(WEIGHTS, 60000)),
    "weights a Git LFS pointer": (WEIGHTS, written(WEIGHTS, b"version https://")),
    "weights of other classes": (WEIGHTS, with_config(id2label=list("abcd"))),
    "weights of another width": (WEIGHTS, with_config(embed_dims=(16, 32))),
    "weights of another depth": (WEIGHTS, with_config(depths=(2, 1))),
    "weights of another form": (WEIGHTS, with_config(shared_memory=True)),
}


@pytest.mark.parametrize("what", BROKEN_MODELS)
def test_broken_model_is_one_line_that_names_the_file(tiny_folder, tmp_path, capsys, what):
    for name in (CONFIG, WEIGHTS):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    name, spoil = BROKEN_MODELS[what]
    spoil(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        assert run_main(inference, paint(tmp_path / "red.png"), "--model", tmp_path, "--top-k", 1) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert only_line(err).startswith(f"inference.py: error: {tmp_path / name}: ")
    assert warned == []


# ----------------------------------------------------------------------------------------------- the program as it is


def python(*args, cwd, home=None, **options):
    """Run `python ARGS` and return the CompletedProcess."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TF_CPP_MIN_LOG_LEVEL")}
    env |= {"HOME": home} if home else {}
    return subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, timeout=300, **{"text": True, **options}
    )


def test_default_model_is_next_to_the_program():
    assert inference.parse_args(["x.png"]).model == str(ROOT)


def test_program_end_to_end(colour_folder, tmp_path):
    """Files, a folder and standard input; one damaged file; nothing else on standard error, not even of TensorFlow."""
    x, y = colour_images(4, seed=4)
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(x[i]).save(tmp_path / "images" / f"{i}.png")
    (tmp_path / "images" / "1a.png").write_text("damaged")
    args = ["images", "-", "--model", colour_folder, "--format", "json", "--top-k", "1"]
    image = encoded(x[3], "PNG").getvalue()
    done = python(ROOT / "inference.py", *args, cwd=tmp_path, input=image, text=False)
    results = json.loads(done.stdout)
    assert [r["image"] for r in results] == ["images/0.png", "images/1.png", "images/2.png", "-"]
    assert [r["predictions"][0]["label"] for r in results] == [LABELS[i] for i in y]
    line = only_line(done.stderr.decode())
    assert line == "inference.py: images/1a.png: cannot be read as an image (unknown image format)"
    assert done.returncode == 1


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """The repository as `snapshot_download` leaves it: every file a link into blobs/."""
    repo = tmp_path_factory.mktemp("hub") / "models--user--name"
    folder, blobs = repo / "snapshots" / "0123abc", repo / "blobs"
    blobs.mkdir(parents=True)
    for i, path in enumerate(p for pattern in ("*", "eanet/**/*", "onnx/*", "samples/*") for p in ROOT.glob(pattern)):
        if path.is_file() and path.suffix != ".pyc":
            link = folder / path.relative_to(ROOT)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(shutil.copy(path, blobs / f"{i:040x}"), link.parent))
    return folder


@pytest.mark.parametrize(("elsewhere", "runtime"), [
    (False, "onnx"), (True, "keras"),
    pytest.param(False, "keras", marks=pytest.mark.slow), pytest.param(True, "onnx", marks=pytest.mark.slow),
])  # fmt: skip
def test_inference_runs_from_a_snapshot_of_links(snapshot, tmp_path, elsewhere, runtime):
    program, samples = ("inference.py", "samples") if not elsewhere else (snapshot / "inference.py", snapshot / "samples")
    options = ["--format", "json", "--top-k", 1, "--runtime", runtime]
    home = "/proc/none" if elsewhere else None  # cannot be written
    done = python(program, samples, *options, cwd=tmp_path if elsewhere else snapshot, home=home)
    assert (done.returncode, done.stderr) == (0, "")
    labels = {Path(r["image"]).name: r["predictions"][0]["label"] for r in json.loads(done.stdout)}
    assert sorted(labels) == sorted(path.name for path in (ROOT / "samples").glob("*.png"))
    assert labels["apple.png"] == "apple"


@pytest.mark.parametrize("program", ["train", "push_to_hub", "export"])
def test_other_programs_start_from_a_snapshot_of_links(snapshot, tmp_path, program):
    done = python(snapshot / f"{program}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr


def test_handler_loads_from_a_snapshot_of_links(snapshot, tmp_path):
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("handler", sys.argv[1])
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
print(handler.EndpointHandler()({"inputs": open(sys.argv[2], "rb").read(), "parameters": {"top_k": 1}})[0]["label"])
"""
    done = python("-c", code, snapshot / "handler.py", snapshot / "samples" / "apple.png", cwd=tmp_path, home="/proc/none")
    assert (done.stdout, done.stderr) == ("apple\n", "")
