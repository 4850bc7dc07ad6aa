"""inference.py with many images: lists of paths, threads, files of results, and going on after a stop."""

import csv
import errno
import io
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, MeanColour, colour_images, only_line, paint, run_main
from PIL import Image

import inference
import modeling_eanet
from eanet import batch, cli
from eanet.image_files import can_be_read_again, find_images
from eanet.predict import classify
from eanet.result_files import SUFFIXES, ResultFile
from eanet.results import Result
from modeling_eanet import UserError

NAMES = [
    "a.png",
    "two words, a comma.png",
    'q"uote.png',
    "line\nend.png",
    "carriage\r.png",
    os.fsdecode(b"not \xff utf-8.png"),
]


@pytest.fixture
def mean_colour(monkeypatch):
    """Let `inference.py --runtime keras` predict with MeanColour; returns the class."""
    monkeypatch.setattr(modeling_eanet, "from_pretrained_keras", lambda _: MeanColour())
    monkeypatch.setattr("eanet.saving.warn_if_foreign", lambda *_: False)
    monkeypatch.setattr(MeanColour, "checksum", "00000000", raising=False)
    return MeanColour


def run(*args):
    return run_main(inference, *args, "--runtime", "keras", "--top-k", 2)


def images(folder, count):
    """Write small images and return their paths."""
    folder.mkdir(exist_ok=True)
    paths = [str(folder / f"{i:03}.png") for i in range(count)]
    for path, image in zip(paths, colour_images(count)[0], strict=True):
        Image.fromarray(image).save(path, compress_level=1)
    return paths


def rows(path):
    """Return the rows of a file of results as [path, predictions, error]."""
    if path.suffix == ".parquet":
        from pyarrow import parquet

        found = parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        found = list(csv.DictReader(io.StringIO(text, newline="")))
        for row in found:
            ranks = [""] + [f"_{rank}" for rank in range(2, len(row) // 2)]
            labels = [(row.pop(f"label{rank}"), row.pop(f"score{rank}")) for rank in ranks]
            row["predictions"] = [{"label": label, "score": float(score)} for label, score in labels if label]
            best = row["predictions"][0] if row["predictions"] else {"label": None, "score": None}
            row |= {**best, "error": row["error"] or None}
    for row in found:
        assert list(row) == ["path", "label", "score", "predictions", "error"] or path.suffix == ".csv"
        assert [row["label"], row["score"]] == ([*row["predictions"][0].values()] if row["error"] is None else [None, None])
    return [[row["path"], row["predictions"], row["error"]] for row in found]


# Lists of paths -------------------------------------------------------------------------------------------------------


def listed(path, content, null=False):
    path.write_bytes(content)
    return list(find_images([f"@{path}"], null))


def test_lists_hold_files_and_folders(tmp_path):
    inside = images(tmp_path / "in", 2)
    content = f"\ufeff{tmp_path}/a b.png\r\n\n{tmp_path}/in\n-\nmissing.png".encode()
    assert listed(tmp_path / "list.txt", content) == [f"{tmp_path}/a b.png", *inside, "./-", "missing.png"]
    paths = [f"{tmp_path}/{name}" for name in NAMES]
    assert listed(tmp_path / "list.txt", b"".join(os.fsencode(path) + b"\0" for path in paths), null=True) == paths
    with pytest.raises(UserError, match="has null characters; read it with -0"):
        listed(tmp_path / "list.txt", b"a.png\0b.png\0")


def test_a_file_whose_name_begins_with_at_is_a_file(mean_colour, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "@red.png")
    assert run("@red.png") == 0 and capsys.readouterr().out.startswith("@red.png\n  red")


@pytest.mark.parametrize("args", [["-0"], ["@-", "-0"], ["@-"]])
def test_a_list_on_standard_input(mean_colour, tmp_path, monkeypatch, capsys, args):
    names = [name for name in NAMES if "-0" in args or "\n" not in name and "\r" not in name]
    paths = [paint(tmp_path / name) for name in names]
    end = b"\0" if "-0" in args else b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(end.join(map(os.fsencode, paths)))))
    assert run(*args, "--format", "json") == 0
    assert [row["image"] for row in json.loads(capsys.readouterr().out)] == paths


def test_folders_are_listed_as_they_are_read(tmp_path, monkeypatch):
    for name in "abc":
        images(tmp_path / name, 3)
    asked = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: asked.append(os.path.basename(path)) or scan(path))
    found = find_images([str(tmp_path)])
    assert next(found).endswith("a/000.png") and asked == [tmp_path.name, "a"]
    assert len(list(found)) == 8 and asked == [tmp_path.name, "a", "b", "c"]


def test_a_list_can_be_a_pipe(tmp_path):
    """As of `inference.py @<(find photos)`: it is opened once, and not to count the images."""
    reader, writer = os.pipe()
    os.write(writer, b"a.png\nb.png\n")
    os.close(writer)
    pipe = f"@/dev/fd/{reader}"
    assert list(find_images([pipe])) == ["a.png", "b.png"]
    (tmp_path / "list.txt").write_text("a.png")
    assert [can_be_read_again(path) for path in (pipe, "@-", f"@{tmp_path}/list.txt", "-", "a.png")] == [0, 0, 1, 1, 1]
    os.close(reader)


def test_a_folder_without_images_in_a_list_has_a_row(mean_colour, tmp_path):
    (first, last), out = images(tmp_path / "in", 2), tmp_path / "x.csv"
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text(f"{first}\n{tmp_path}/empty/\n{last}\n")
    for resume in ([], ["--resume"]):
        assert run(f"@{tmp_path}/list.txt", "--output", out, *resume) == 1
        assert [(path, error) for path, _, error in rows(out)] == [
            (first, None), (f"{tmp_path}/empty", "no images in this folder"), (last, None)
        ]  # fmt: skip


def test_results_before_an_error_in_a_list_are_written(mean_colour, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batch, "MANY", 2)
    paths = images(tmp_path, 6)
    (tmp_path / "list.txt").write_text("\n".join([*paths, "a\0b"]))
    assert run(f"@{tmp_path}/list.txt", "--format", "json", "--batch-size", 4) == 2
    out, err = capsys.readouterr()
    assert [row["image"] for row in json.loads(out)] == paths
    assert only_line(err) == f"inference.py: error: @{tmp_path}/list.txt: has null characters; read it with -0"


# Threads --------------------------------------------------------------------------------------------------------------


class ThreadSafe(MeanColour):
    """Notes which threads predict; odd batches take longer."""

    thread_safe = True

    def __init__(self):
        self.threads, self.calls = set(), itertools.count()

    def predict_on_batch(self, batch):
        self.threads.add(threading.current_thread())
        time.sleep(0.02 * (next(self.calls) % 2))
        return super().predict_on_batch(batch)


def test_threads_predict_and_keep_the_order(tmp_path):
    paths, model = images(tmp_path, 40), ThreadSafe()
    found = list(batch.classify_files(model, iter(paths), 2, 4, threads=3))
    assert [result.path for result in found] == paths and 1 < len(model.threads) <= 3
    assert threading.main_thread() not in model.threads
    assert [result.predictions for result in found] == classify(MeanColour(), paths, 2)


@pytest.mark.parametrize(("model", "most"), [(ThreadSafe, 32), (MeanColour, 13)])
def test_few_files_are_read_in_advance(tmp_path, model, most):
    asked = []
    paths = (asked.append(path) or path for path in images(tmp_path, 60))
    found = batch.classify_files(model(), paths, 1, 4, threads=2)
    next(found)
    assert len(asked) <= most
    found.close()


def test_a_broken_model_ends_all_threads(tmp_path):
    model = ThreadSafe()
    model.predict_on_batch = lambda images: np.full((len(images), 3), np.nan)
    before = threading.active_count()
    with pytest.raises(UserError, match="not probabilities"):
        list(batch.classify_files(model, images(tmp_path, 20), 1, 2, threads=3))
    assert threading.active_count() == before


# The runtime ----------------------------------------------------------------------------------------------------------


def test_long_jobs_use_the_onnx_file_of_the_same_weights(tmp_path, monkeypatch, capsys):
    folder, table = tmp_path / "model", tmp_path / "x.jsonl"
    folder.mkdir()
    for name in ("config.json", "model.weights.h5", "eval_results.json", "onnx"):
        (folder / name).symlink_to(ROOT / name)
    apple = str(ROOT / "samples" / "apple.png")
    assert run_main(inference, apple, "--model", folder, "--output", table, "--threads", 2) == 0
    first, last = capsys.readouterr().err.splitlines()
    assert first == "inference.py: using the model's ONNX file (threads: 2); --runtime keras uses Keras"
    assert last == f"inference.py: {table}: 1 image" and rows(table)[0][1][0]["label"] == "apple"
    assert json.loads((tmp_path / "x.jsonl.job").read_text())["runtime"] == "onnx"
    monkeypatch.setattr(batch, "MANY", 3)
    monkeypatch.setattr(batch, "load_model", lambda name, runtime, threads: (_ for _ in ()).throw(UserError(f"{runtime}")))
    for count, runtime in ((2, None), (3, "onnx")):
        assert run_main(inference, *[apple] * count, "--model", folder) == 2
        assert capsys.readouterr().err.endswith(f"inference.py: error: {runtime}\n")
    (folder / "model.weights.h5").unlink()
    shutil.copy(ROOT / "model.weights.h5", folder)
    import h5py

    with h5py.File(folder / "model.weights.h5", "r+") as file:
        file["layers/dense/vars/0"][0] += 1
    assert run_main(inference, *[apple] * 3, "--model", folder) == 2
    assert capsys.readouterr().err == "inference.py: error: None\n"


def test_without_permission_to_read_the_onnx_file_keras_runs(tmp_path, monkeypatch, capsys):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", "model.onnx")

    monkeypatch.setattr("eanet.export.onnx.OnnxModel", denied)
    monkeypatch.setattr(batch, "load_model", lambda name, runtime, threads: (_ for _ in ()).throw(UserError(f"{runtime}")))
    assert run_main(inference, ROOT / "samples", "--output", tmp_path / "x.csv") == 2
    assert capsys.readouterr().err == "inference.py: error: None\n"


# Files of results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_output_has_a_row_per_image(mean_colour, tmp_path, capsys, suffix):
    red, blue = paint(tmp_path / "red.png"), paint(tmp_path / "blue.png", "blue")
    (tmp_path / "bad.png").touch()
    out = tmp_path / f"x{suffix}"
    assert run(red, tmp_path / "bad.png", blue, "--output", out) == 1
    first, second = classify(MeanColour(), [red, blue], 2)
    assert rows(out) == [[red, first, None], [str(tmp_path / "bad.png"), [], "empty file"], [blue, second, None]]
    assert capsys.readouterr() == ("", f"inference.py: {out}: 3 images, 1 of them unreadable\n")
    assert sorted(path.name for path in tmp_path.glob("x.*")) == [out.name, f"{out.name}.job"]
    assert run(tmp_path, "--output", out, "--resume") == 1  # all have a row
    assert len(rows(out)) == 3


RESULTS = [Result(name, [{"label": "la,bel", "score": 0.5}, {"label": 'b"', "score": 0.25}]) for name in NAMES]
RESULTS[1] = Result(NAMES[1], [], 'damaged image ("x",\nline)')
JOB = {"runtime": "keras", "top_k": 2}


def written(path, results, resume=False, finish=True, job=JOB):
    """Write the results that have no row yet, and return those that had one."""
    with ResultFile(path, resume) as file:
        file.begin(job)
        had = file.rows, file.errors
        by_path = {result.path: result for result in results}
        file.write([by_path[path] for path in file.without_row([result.path for result in results])])
        if finish:
            file.finish()
        return had


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_is_completed(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    written(path, RESULTS, finish=False)
    file = path if suffix != ".parquet" else tmp_path / "x.parquet.part"
    content, job = file.read_bytes(), (tmp_path / f"{path.name}.job").read_bytes()
    written(path, RESULTS, resume=True)
    wanted = rows(path)
    names = [name.encode("utf-8", "backslashreplace").decode() if suffix == ".parquet" else name for name in NAMES]
    assert [row[0] for row in wanted] == names and len(wanted[1][1]) == 0 and len(wanted[0][1]) == 2
    for size in range(0, len(content), {".csv": 1, ".jsonl": 5, ".parquet": 60}[suffix]):
        path.unlink()
        file.write_bytes(content[:size])
        had, _ = written(path, RESULTS, resume=True)
        assert had == sum(content[:size].endswith(b"\n") for size in range(1, size + 1)) or suffix == ".csv"
        assert rows(path) == wanted
        assert (tmp_path / f"{path.name}.job").read_bytes() == job


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_finished_file_can_be_extended(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    written(path, RESULTS[:2])
    more = [RESULTS[0], *RESULTS, RESULTS[0]]  # one file three times
    assert written(path, more, resume=True) == (2, 1)
    found = [row[0] for row in rows(path)]
    assert len(found) == len(set(found)) + 2 == len(more)


def changed(path, content):
    return lambda folder: (folder / path).write_bytes(content)


REFUSED = {
    "another job": (lambda folder: None, {"top_k": 3}, "was started with top_k 2, not 3; resume it with the same settings"),
    "no record": (lambda folder: (folder / "x.csv.job").unlink(), {}, "cannot be resumed without x.csv.job"),
    "record of something else": (changed("x.csv.job", b"[]"), {}, "was started with runtime None, not keras"),
    "a table of something else": (changed("x.csv", b"a,b\n1,2\n"), {}, "its columns are not those of results"),
    "a row of something else": (changed("x.csv", None), {}, "row 7 is not a result"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_resume_is_refused_in_one_line(tmp_path, what):
    path = tmp_path / "x.csv"
    written(path, RESULTS)
    change, job, message = REFUSED[what]
    if what.startswith("a row"):
        change = changed("x.csv", path.read_bytes() + b'"a","b"\n')
    change(tmp_path)
    content = path.read_bytes()
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        written(path, RESULTS, resume=True, job=JOB | job)
    assert path.read_bytes() == content


def test_what_stands_in_the_way_of_a_file_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="^pyarrow is not installed; `pip install pyarrow`, or write .csv or .jsonl$"):
        ResultFile(tmp_path / "x.parquet")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"x\.csv: no permission to write to its folder"):
        ResultFile(tmp_path / "x.csv")


def test_two_processes_do_not_write_one_file(tmp_path):
    with ResultFile(tmp_path / "x.csv") as file:
        file.begin(JOB)
        with pytest.raises(UserError, match="another process is writing to it"):
            written(tmp_path / "x.csv", RESULTS, resume=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_another_process_has_just_finished_is_kept(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    new = ResultFile(path)
    with ResultFile(path) as first:
        first.begin(JOB)
        first.write(RESULTS[:2])
        second = ResultFile(path, resume=True)
        first.finish()
    with second:
        second.begin(JOB)
        assert second.rows == 2
        with pytest.raises(UserError, match="another process is writing to it"):
            written(path, RESULTS, resume=True)
        second.finish()
    with pytest.raises(UserError, match="already exists; use --resume to continue"), new:
        new.begin(JOB)
    assert len(rows(path)) == 2


FAILURES = {"file": (batch, "load_image", "013.png", 12), "folder": (os, "scandir", "in2", 20)}


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_storage_failure_is_no_row(mean_colour, tmp_path, monkeypatch, capsys, kind, number):
    """Resuming classifies what could not be read."""
    module, name, at, count = FAILURES[kind]
    paths, out = images(tmp_path / "in", 20) + images(tmp_path / "in2", 2), tmp_path / "x.csv"
    (tmp_path / "list.txt").write_text(f"{tmp_path}/in\n{tmp_path}/in2\n")
    call = getattr(module, name)

    def failing(path, *args):
        if str(path).endswith(at):
            raise OSError(number, os.strerror(number), path)
        return call(path, *args)

    args = [f"@{tmp_path}/list.txt", "--batch-size", 4]
    with monkeypatch.context() as patch:
        patch.setattr(batch, "MANY", 2)
        patch.setattr(module, name, failing)
        assert run(*args, "--output", out) == 2
        line = only_line(capsys.readouterr().err)
        assert f"{at}: cannot be read now ({os.strerror(number)}); stopped after {count} images; the same command" in line
        assert run(*args, "--format", "json") == 2
        assert [row["image"] for row in json.loads(capsys.readouterr().out)] == paths[:count]
    assert run(*args, "--output", out, "--resume") == 0
    assert [row[0] for row in rows(out)] == paths


def test_a_full_disk_is_one_line_and_loses_nothing(mean_colour, tmp_path, capsys):
    paths, out = images(tmp_path / "in", 30), tmp_path / "x.csv"
    args = [tmp_path / "in", "--output", out, "--batch-size", 4, "--resume"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        assert run(*args) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    line = only_line(capsys.readouterr().err)
    assert line == f"inference.py: error: {out}: File too large; what was written stays, and --resume goes on with it"
    assert out.stat().st_size == 1500
    assert run(*args) == 0
    assert [row[0] for row in rows(out)] == paths


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C interrupts, also where a shell has started the tests in the background, with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(monkeypatch, call):
    """Let Ctrl-C come while MeanColour predicts for the `call`th time."""
    calls, predict = itertools.count(1), MeanColour.predict_on_batch

    def interrupted(self, batch):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return predict(self, batch)

    monkeypatch.setattr(MeanColour, "predict_on_batch", interrupted)


def test_after_ctrl_c_the_json_is_valid(mean_colour, tmp_path, monkeypatch, capsys):
    paths = images(tmp_path, 20)
    interrupt_at(monkeypatch, 3)
    assert run(tmp_path, "--format", "json", "--batch-size", 4) == 130
    out, err = capsys.readouterr()
    assert [row["image"] for row in json.loads(out)] == paths[:8] and err == "\ninference.py: stopped\n"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_after_ctrl_c_resume_goes_on(mean_colour, tmp_path, monkeypatch, capsys, suffix):
    paths, out = images(tmp_path / "in", 20), tmp_path / f"x{suffix}"
    interrupt_at(monkeypatch, 3)
    args = [tmp_path / "in", "--output", out, "--batch-size", 4]
    assert run(*args) == 130
    line = "inference.py: stopped after 8 images; the same command with --resume goes on\n"
    assert capsys.readouterr().err == f"\n{line}"
    assert run(*args) == 2 and "already exists" in only_line(capsys.readouterr().err)
    assert run(*args, "--resume") == 0
    assert capsys.readouterr().err.splitlines()[0] == f"inference.py: {out} has 8 images already"
    assert [row[0] for row in rows(out)] == paths


def test_ctrl_c_waits_until_a_row_is_written():
    written = []
    with pytest.raises(KeyboardInterrupt):
        with cli.uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            written.append("row")
    assert written == ["row"]
    with pytest.raises(KeyboardInterrupt):
        with cli.uninterrupted():
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            written.append("never")
    assert written == ["row"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_killed_ten_times_every_image_has_one_row(tmp_path, suffix):
    paths, out, rng = images(tmp_path / "in", 3000), tmp_path / f"x{suffix}", random.Random(0)
    file = tmp_path / f"{out.name}.part" if suffix == ".parquet" else out
    command = [sys.executable, ROOT / "inference.py", tmp_path / "in", "--output", out, "--resume", "--batch-size", "8"]
    for kill in range(10):
        before = file.stat().st_size if file.exists() else 0
        more = rng.randint(0, 40_000) if kill else -1  # bytes of about 120 images; -1: as soon as it starts
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and (file.stat().st_size if file.exists() else 0) <= before + more:
                time.sleep(0.001)
            process.kill()
    assert not out.exists() or suffix != ".parquet"
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert sorted(row[0] for row in rows(out)) == sorted(paths)
