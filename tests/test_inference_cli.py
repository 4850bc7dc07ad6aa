"""inference.py: which files it finds, what it writes, its errors and exit statuses."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    LABELS,
    ROOT,
    MeanColour,
    colour_images,
    encoded,
    noise,
    only_line,
    paint,
    png_header,
    run_main,
    tiny_config,
)
from PIL import Image

import inference
import modeling_eanet
from eanet.image_files import find_images
from eanet.predict import classify
from eanet.results import Result, TextWriter


@pytest.fixture
def mean_colour(monkeypatch):
    """Let inference.py predict with MeanColour, whatever `--model` says."""
    monkeypatch.setattr(modeling_eanet, "from_pretrained_keras", lambda _: MeanColour())
    monkeypatch.setattr("eanet.saving.warn_if_foreign", lambda *_: False)


def run(*args):
    return run_main(inference, *args)


def start(*args, **options):
    """Start `inference.py ARGS` with MeanColour in its own process; returns the Popen."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; import conftest, inference, modeling_eanet; "
        "modeling_eanet.from_pretrained_keras = lambda _: conftest.MeanColour(); "
        "import eanet.saving; eanet.saving.warn_if_foreign = lambda *_: False; sys.argv[0] = 'inference.py'; "
        "from eanet import cli; sys.exit(cli.run(inference.main))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, **options)


# ------------------------------------------------------------------------------------------------------ finding files


def found(*paths):
    return list(find_images([str(path) for path in paths]))


def test_folders_are_searched_recursively_in_order_of_name(tmp_path):
    wanted = ["Z.PNG", "a/x.png", "a/y/z.jpeg", "a-b/y.webp", "a.png", "b.TIFF", "c.HEIC", "folder.png/in it.gif"]
    others = ["notes.txt", "a/README", "config.json", "model.weights.h5", "paper.pdf", "a/figure.eps", "film.mpg", "png"]
    others += ["._a.png", ".DS_Store", "a/.ipynb_checkpoints/x.png", "__MACOSX/a/x.png", "Thumbs.db"]
    for name in [*reversed(wanted), *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert found(tmp_path) == [str(tmp_path / name) for name in wanted]
    assert found(tmp_path / "png") == [str(tmp_path / "png")]  # a file that is named needs no suffix


def test_results_are_in_the_order_of_the_paths(mean_colour, tmp_path, capsys):
    blue, red = paint(tmp_path / "x" / "blue.png", "blue"), paint(tmp_path / "x" / "red.png", "red")
    green = paint(tmp_path / "a green.bmp", "green")
    assert run(red, tmp_path / "x", green, red, "--format", "json", "--top-k", 1, "--batch-size", 2) == 0
    out, err = capsys.readouterr()
    results = json.loads(out)
    assert [r["image"] for r in results] == [red, blue, red, green, red]
    assert [r["predictions"][0]["label"] for r in results] == ["red", "blue", "red", "green", "red"]
    assert err == ""


def give_stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_image_on_standard_input(mean_colour, tmp_path, monkeypatch, capsys):
    path = paint(tmp_path / "blue.jpg", "blue")
    give_stdin(monkeypatch, Path(path).read_bytes())
    assert run(paint(tmp_path / "red.png"), "-", "--format", "json", "--top-k", 1) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first["predictions"][0]["label"] == "red"
    assert second["image"] == "-" and second["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize("data", [b"", b"not an image", None])
def test_bad_standard_input_gets_one_line(mean_colour, monkeypatch, capsys, data):
    monkeypatch.setattr(sys, "stdin", None) if data is None else give_stdin(monkeypatch, data)
    assert run("-") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.match(r"inference\.py: -: cannot be read as an image \([\w ]+\)$", only_line(err))


# ------------------------------------------------------------------------------------------------------------- output


def test_text_is_a_table_per_image(mean_colour, tmp_path, capsys):
    red, green = paint(tmp_path / "red.png"), paint(tmp_path / "green.png", "green")
    assert run(red, green, "--top-k", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[3]] == [red, green] and len(lines) == 6
    rows = [lines[i] for i in (1, 2, 4, 5)]
    assert len({len(row) for row in rows}) == 1  # aligned
    parts = [re.fullmatch(r"  (\w+) +(\d+\.\d)%", row).groups() for row in rows]
    assert [parts[0][0], parts[2][0]] == ["red", "green"]
    assert all(float(best) > 90 > 10 > float(other) for (_, best), (_, other) in (parts[:2], parts[2:]))


def test_text_escapes_and_aligns_odd_labels(capsys):
    labels = ["a label of more than sixteen letters", "short", "new\nline", "\x1b[31mred"]
    TextWriter(sys.stdout).write([Result("x.png", [{"label": label, "score": 0.25} for label in labels])])
    lines = capsys.readouterr().out.split("\n")
    assert lines[3].startswith("  new\\nline ") and lines[4].startswith("  \\x1b[31mred ") and lines[5:] == [""]
    assert len({row.index("25.0%") for row in lines[1:5]}) == 1


def test_json_and_csv_have_the_predictions(mean_colour, tmp_path, capsys):
    paths = [paint(tmp_path / "red.png"), paint(tmp_path / "blue.png", "blue")]
    expected = classify(MeanColour(), paths, top_k=2)
    assert run(*paths, "--format", "json", "--top-k", 2) == 0
    results = [{"image": path, "predictions": p} for path, p in zip(paths, expected, strict=True)]
    assert json.loads(capsys.readouterr().out) == results
    assert run(*paths, "--format", "csv", "--top-k", 2) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [(r["image"], r["rank"]) for r in rows] == [(path, rank) for path in paths for rank in "12"]
    assert [{"label": r["label"], "score": float(r["score"])} for r in rows] == [p for result in expected for p in result]


@pytest.mark.parametrize(("fmt", "wanted"), [("json", []), ("csv", [["image", "rank", "label", "score"]]), ("text", "")])
def test_no_results_are_still_valid_output(mean_colour, tmp_path, capsys, fmt, wanted):
    (tmp_path / "empty.png").touch()
    assert run(tmp_path / "empty.png", "--format", fmt) == 2
    out = capsys.readouterr().out
    assert {"json": json.loads, "csv": lambda t: list(csv.reader(io.StringIO(t))), "text": str}[fmt](out) == wanted


ODD_NAMES = ["two words.png", "größe 猫 🐈.png", 'q"uote, comma;.png', "line\nend.png", "carriage\rreturn.png", " .png"]
ODD_NAMES += ["%s{0}.png", os.fsdecode(b"not \xff utf-8.png")]


@pytest.mark.parametrize("fmt", ["json", "csv"])
def test_odd_file_names_are_written_exactly(mean_colour, tmp_path, capsysbinary, fmt):
    paths = [paint(tmp_path / name) for name in ODD_NAMES]
    assert run(*paths, "--format", fmt, "--top-k", 1) == 0
    out, err = capsysbinary.readouterr()
    text = out.decode("utf-8", "surrogateescape")
    if fmt == "json":
        assert [r["image"] for r in json.loads(text)] == paths
    else:
        assert [row["image"] for row in csv.DictReader(io.StringIO(text, newline=""))] == paths
    assert err == b""


def test_odd_file_names_take_one_line(mean_colour, tmp_path, capsys):
    paths = [paint(tmp_path / name) for name in [*ODD_NAMES, "\x1b[31mred.png", "separator\u2028.png"]]
    assert run(*paths, "--top-k", 1) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 2 * len(paths) + 1 and lines[-1] == ""
    assert lines[0:4:2] == paths[:2]
    assert lines[6].endswith("/line\\nend.png")
    for path in paths:
        Path(path).write_text("no longer an image")
    assert run(*paths, "--top-k", 1) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == err.count("\n") == len(paths)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_on_a_terminal_only(mean_colour, tmp_path, monkeypatch, capsys):
    for i in range(9):
        paint(tmp_path / f"{i}.png")
    assert run(tmp_path, "--top-k", 1, "--batch-size", 2) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert run(tmp_path, "--top-k", 1, "--batch-size", 2) == 0
    assert "/9" in terminal.getvalue() and "images" in terminal.getvalue()
    assert capsys.readouterr().out == out


def test_progress_and_results_on_one_terminal_do_not_mix(mean_colour, tmp_path, monkeypatch):
    paths = [paint(tmp_path / f"{i}.png") for i in range(6)]
    (tmp_path / "4.png").write_text("damaged")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(*paths, "--top-k", 1, "--batch-size", 2) == 1
    shown = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]  # after overwriting
    results = [line for line in shown[:-1] if not line.startswith("inference.py: ")]
    assert results[::2] == [path for path in paths if path != paths[4]]
    assert [line[:5] for line in results[1::2]] == ["  red"] * 5 and len(shown) == 12


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_closed_pipe_ends_quietly(tmp_path):
    path = paint(tmp_path / "red.png")
    process = start(*[path] * 2000, "--top-k", 3, "--runtime", "keras", stdout=subprocess.PIPE)
    assert process.stdout.readline() == f"{path}\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_standard_output_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        process = start(paint(tmp_path / "red.png"), "--top-k", 1, stdout=full)
        assert "No space left" in only_line(process.stderr.read())
    assert process.wait(60) == 2


def test_closed_standard_output_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)
    assert run("x.png") == 2
    assert only_line(capsys.readouterr().err) == "inference.py: error: standard output is closed"


@pytest.mark.parametrize(("classes", "rows"), [(2, 2), (3, 3), (7, 5)])
def test_five_labels_are_shown_or_all_if_fewer(mean_colour, tmp_path, monkeypatch, capsys, classes, rows):
    monkeypatch.setattr(MeanColour, "config", tiny_config(id2label=list("abcdefg")[:classes]))
    monkeypatch.setattr(MeanColour, "predict_on_batch", lambda _, batch: np.full((len(batch), classes), 1 / classes))
    assert run(paint(tmp_path / "red.png")) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list("abcde")[:rows]


def test_top_k_above_the_number_of_classes_is_refused(mean_colour, tmp_path, capsys):
    assert run(paint(tmp_path / "red.png"), "--top-k", 4) == 2
    out, err = capsys.readouterr()
    assert out == "" and only_line(err) == "inference.py: error: top_k 4: the model has only 3 classes"


# --------------------------------------------------------------------------------------------------- unreadable files


def truncated(fmt):
    data = encoded(noise(64, 64), fmt).getvalue()
    return data[: len(data) // 2]


UNREADABLE = {
    "text": b"This is a text.\n",
    "empty": b"",
    **{f"truncated {fmt}": truncated(fmt) for fmt in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")},
    "header only": png_header(64, 64)[:33],
    "too few rows": png_header(64, 64),
    "bomb": png_header(60000, 60000),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_file_gets_one_line_and_the_others_are_classified(mean_colour, tmp_path, capsys, what):
    bad, red, blue = tmp_path / "bad.png", paint(tmp_path / "red.png"), paint(tmp_path / "blue.png", "blue")
    bad.write_bytes(UNREADABLE[what])
    with warnings.catch_warnings(record=True, action="always") as warned:
        assert run(red, bad, blue, "--format", "json", "--top-k", 1) == 1
    out, err = capsys.readouterr()
    assert [(r["image"], r["predictions"][0]["label"]) for r in json.loads(out)] == [(red, "red"), (blue, "blue")]
    line = only_line(err)
    assert line.startswith(f"inference.py: {bad}: cannot be read as an image (") and line.endswith(")")
    assert line.count(str(bad)) == 1 and "0x" not in line  # no repetition and no Python internals
    assert warned == []


def test_very_large_image_is_refused_and_a_large_one_read(mean_colour, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns above it and refuses above twice that
    large, larger = paint(tmp_path / "large.png", "blue", (40, 40)), paint(tmp_path / "larger.png", "blue", (50, 50))
    with warnings.catch_warnings(record=True, action="always") as warned:
        assert run(large, larger, "--top-k", 1) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == large and out.splitlines()[1].startswith("  blue")
    assert larger in only_line(err) and "2500 pixels" in err
    assert warned == []


def deny(path, monkeypatch):
    """Take the permission to read `path` away, also from root."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        import builtins

        def denying(call):
            def denied(name=".", *args, **kwargs):
                if isinstance(name, (str, os.PathLike)) and Path(name) == path:
                    raise PermissionError(13, "Permission denied", str(name))
                return call(name, *args, **kwargs)

            return denied

        monkeypatch.setattr(builtins, "open", denying(open))
        monkeypatch.setattr(os, "scandir", denying(os.scandir))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_no_permission_gets_one_line(mean_colour, tmp_path, monkeypatch, capsys, kind):
    red, secret = paint(tmp_path / "red.png"), tmp_path / ("secret.png" if kind == "file" else "secret")
    paint(secret if kind == "file" else secret / "blue.png")
    deny(secret, monkeypatch)
    try:
        for paths in ((tmp_path,), (red, secret)):
            assert run(*paths, "--top-k", 1) == 1
            out, err = capsys.readouterr()
            assert out.splitlines()[0] == red and len(out.splitlines()) == 2
            assert only_line(err) == f"inference.py: {secret}: cannot be read as an image (Permission denied)"
    finally:
        secret.chmod(0o700)


# --------------------------------------------------------------------------------------------------------- many files


def test_many_images_take_two_batches_of_memory_and_one_trace(colour_folder, most_alive, tmp_path, monkeypatch, capsys):
    x, y = colour_images(300, seed=7)
    for i, image in enumerate(x):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png", compress_level=1)
    (tmp_path / "100.png").write_text("damaged")
    traces, batches = [], []
    load = modeling_eanet.from_pretrained_keras

    def spied(folder):
        model = load(folder)
        call, predict = model.call, model.predict_on_batch
        model.call = lambda *args, **kwargs: traces.append(1) or call(*args, **kwargs)
        model.predict_on_batch = lambda images: batches.append(images.shape) or predict(images)
        return model

    monkeypatch.setattr(modeling_eanet, "from_pretrained_keras", spied)
    assert run(tmp_path, "--model", colour_folder, "--batch-size", 64, "--format", "json", "--top-k", 1) == 1
    results = json.loads(capsys.readouterr().out)
    rest = [i for i in range(300) if i != 100]
    assert [r["image"] for r in results] == [str(tmp_path / f"{i:03}.png") for i in rest]
    assert [r["predictions"][0]["label"] for r in results] == [LABELS[y[i]] for i in rest]
    assert batches == [(64, 32, 32, 3)] * 5
    assert len(traces) == 1
    assert 64 < most_alive() <= 2 * 64 + 1  # the next batch is decoded while the model runs


def test_scores_do_not_depend_on_the_batch_size(colour_folder, tmp_path, capsys):
    for i, image in enumerate(colour_images(10, seed=8)[0]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    tables = []
    for batch_size in (1, 4, 64):
        assert run(tmp_path, "--model", colour_folder, "--batch-size", batch_size, "--format", "json", "--top-k", 3) == 0
        results = json.loads(capsys.readouterr().out)
        tables.append([{p["label"]: p["score"] for p in r["predictions"]} for r in results])
    for table in tables[1:]:
        for row, first in zip(table, tables[0], strict=True):
            assert row == pytest.approx(first, abs=1e-5)
