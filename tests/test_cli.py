"""eanet.cli: errors on one line, atomic writes, argument types, quiet imports."""

import argparse
import contextlib
import fcntl
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, only_line, run_main

import export
import inference
import push_to_hub
import train
from eanet import cli, predict_many
from eanet.cli import UserError, prepare_tensorflow

# --------------------------------------------------------------------------------------------------------------- run


def run(error, monkeypatch, status=None, **kwargs):
    """Return what `cli.run` makes of a program that raises `error`, or returns `status`."""
    monkeypatch.setattr(sys, "argv", ["/some/where/program.py"])

    def main(argv):
        if error is not None:
            raise error
        return status

    return cli.run(main, **kwargs)


class StatusOneError(UserError):
    exit_status = 1


@pytest.mark.parametrize(("error", "status", "message"), [
    (UserError("a: is bad"), 2, "a: is bad"),
    (StatusOneError("the Hub"), 1, "the Hub"),
    (FileNotFoundError(2, "No such file", "x.png"), 2, "[Errno 2] No such file: 'x.png'"),
    (UserError("two\nlines,   \x1b[31m and \udcff"), 2, "two lines, \\x1b[31m and \\udcff"),
], ids=["UserError", "own exit status", "OSError", "control characters"])  # fmt: skip
def test_expected_error_is_one_line(error, status, message, monkeypatch, capsys):
    assert run(error, monkeypatch) == status
    out, err = capsys.readouterr()
    assert out == "" and only_line(err) == f"program.py: error: {message}"


@pytest.mark.parametrize(("program", "argv"), [
    (inference, ["--model", "", "image.png"]),
    (inference, ["--output=", "image.png"]),
    (predict_many, ["", "out"]),
    (predict_many, ["photos", ""]),
    (predict_many, ["photos", "out", "--model", ""]),
    (train, ["--output", ""]),
    (train, ["--export="]),
    (export, [""]),
    (export, [".", "--output", ""]),
    (push_to_hub, ["push", "", "--repo-id", "a/b", "--dry-run"]),
    (push_to_hub, ["card", "", "--repo-id", "a/b"]),
    (push_to_hub, ["push", ".", "--repo-id", "a/b", "--publish-samples", ""]),
    (push_to_hub, ["card", ".", "--repo-id", "a/b", "--publish-samples="]),
    (push_to_hub, ["promote", ""]),
    (push_to_hub, ["promote", ".", "--data", ""]),
    (push_to_hub, ["pull", "--repo-id", "a/b", "--to", ""]),
])  # fmt: skip
def test_empty_path_is_not_the_current_folder(program, argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(program, *argv) == 2 and capsys.readouterr().err.endswith(": is empty; name a folder or file\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", [
    ["push", ".", "--repo-id", "a/b", "--revision", ""],
    ["push", ".", "--repo-id", "a/b", "--message="],
    ["card", ".", "--repo-id", "a/b", "--dataset-name", ""],
    ["pull", "--repo-id", "a/b", "--to", "new", "--revision", ""],
    ["demo", ".", "--space", "a/b", "--title", ""],
])  # fmt: skip
def test_empty_text_is_not_the_default(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    expected = ": is empty; give a value, or leave the option out\n"
    assert run_main(push_to_hub, *argv) == 2 and capsys.readouterr().err.endswith(expected)


@pytest.mark.parametrize("error", [ValueError("bug"), TypeError("bug"), KeyError("bug"), ImportError("bug"), RuntimeError()])
def test_programming_error_propagates(error, monkeypatch):
    with pytest.raises(type(error)) as raised:
        run(error, monkeypatch)
    assert raised.value is error


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_eanet_debug_shows_the_traceback(value, shown, monkeypatch, capsys):
    monkeypatch.setenv("EANET_DEBUG", value)
    assert run(UserError("a: is bad"), monkeypatch) == 2
    err = capsys.readouterr().err
    assert err.endswith("program.py: error: a: is bad\n") and ("Traceback" in err and "in main" in err) == shown


def test_interrupt_is_130(monkeypatch, capsys):
    assert run(KeyboardInterrupt(), monkeypatch, interrupted="stopped; nothing was written") == 130
    assert capsys.readouterr().err == "\nprogram.py: stopped; nothing was written\n"


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (1, 1)])
def test_status_of_main_is_returned(returned, status, monkeypatch):
    assert run(None, monkeypatch, status=returned) == status


@pytest.mark.parametrize(("variable", "content", "expected"), [
    (None, None, "tensorflow"),
    ("", '{"backend": "jax"}', "jax"),
    ("torch", '{"backend": "jax"}', "torch"),
    (None, "{}", "tensorflow"),
    (None, "damaged", "tensorflow"),
    (None, '["jax"]', "tensorflow"),
])  # fmt: skip
def test_the_backend_is_the_one_that_keras_takes(variable, content, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    if content:
        (tmp_path / ".keras").mkdir()
        (tmp_path / ".keras/keras.json").write_text(content)
    assert cli.keras_backend() == expected
    if content:
        monkeypatch.setenv("KERAS_HOME", str((tmp_path / ".keras").rename(tmp_path / "elsewhere")))
        assert cli.keras_backend() == expected


# ------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("fails", [False, True])
def test_atomic_path_replaces_the_file_or_leaves_it(tmp_path, fails):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with contextlib.suppress(ZeroDivisionError), cli.atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary != path
        temporary.write_text("new")
        assert path.read_text() == "old"
        _ = 1 / (not fails)
    assert path.read_text() == ("old" if fails else "new") and list(tmp_path.iterdir()) == [path]


def test_json_and_text_are_written_atomically(tmp_path):
    cli.write_json(tmp_path / "a.json", {"b": [1, "größe"]})
    assert cli.read_json(tmp_path / "a.json") == {"b": [1, "größe"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        cli.write_json(tmp_path / "a.json", float("nan"))
    assert cli.read_json(tmp_path / "a.json") == {"b": [1, "größe"]}
    cli.write_text(tmp_path / "a.txt", "größe\n")
    assert (tmp_path / "a.txt").read_bytes() == "größe\n".encode()


@pytest.mark.parametrize("content", [None, b"{", b"", b"\xff\xfe\x00", pytest.param(b"[" * 99999, id="too deep")])
def test_bad_json_file_is_named(content, tmp_path):
    says = "no such file" if content is None else "not JSON"
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"^{tmp_path}/a.json: {says}") as error:
        cli.read_json(tmp_path / "a.json")
    assert "\n" not in str(error.value)


def test_temporary_folder_is_removed(tmp_path):
    with pytest.raises(ZeroDivisionError), cli.temporary_folder(tmp_path, prefix=".x-") as folder:
        (folder / "a").mkdir()
        assert folder.parent == tmp_path and folder.name.startswith(".x-")
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_vanishes_closes_no_other_file(tmp_path, monkeypatch):
    path, flock = tmp_path / "lock", fcntl.flock
    path.touch()

    def vanish(handle, operation):
        path.unlink()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", vanish)
    with cli.locked(path) as state, open(os.devnull) as other:  # which gets the number of the closed one
        assert state is None
        other.fileno()
    assert other.closed


def test_a_folder_that_others_look_at_is_locked_all_the_same(tmp_path, monkeypatch):
    flock, looks = fcntl.flock, []

    def look(handle, operation):
        looks.append(handle)
        if len(looks) < 3:
            raise BlockingIOError
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", look)
    with cli.temporary_folder(tmp_path) as folder:
        monkeypatch.undo()
        with cli.locked(folder) as mine:
            assert mine is False and len(looks) == 3


# --------------------------------------------------------------------------------------------------- text, arguments


def test_printable_is_one_line_without_control_characters():
    assert cli.printable("größe 猫 🐈") == "größe 猫 🐈"
    assert cli.printable("a\nb\x1b\r\udcff\u2028") == "a\\nb\\x1b\\r\\udcff\\u2028"


@pytest.mark.parametrize(("message", "line"), [("\n  a \nb", "a"), ("", "ValueError")])
def test_first_line_of_an_error(message, line):
    assert cli.first_line(ValueError(message)) == line


def test_positive_int_names_the_value():
    assert [cli.positive_int(text) for text in ("1", "64")] == [1, 64]
    for text in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{text!r} is not an integer, at least 1"):
            cli.positive_int(text)


def test_missing_package_says_how_to_get_it(monkeypatch):
    assert cli.require("json", "unused") is json
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="^onnx is not installed; `pip install onnx`$"):
        cli.require("onnx", "`pip install onnx`")


# ----------------------------------------------------------------------------------------------------------- silence


@pytest.mark.parametrize("before", [
    pytest.param("", id="open", marks=pytest.mark.slow),  # test_inference_process: test_program_end_to_end
    pytest.param("sys.stderr.close(); os.close(2)", id="closed stderr"),
])  # fmt: skip
def test_tensorflow_is_imported_silently(before):
    code = f"""
import os, sys
{before}
from eanet import build_eanet, fold
import keras, tensorflow as tf
keras.Sequential([keras.layers.Dense(1)]).predict(tf.zeros((1, 2)), verbose=0)
os.write(1, b"done")
os.write(2, b"heard") if {not before} else None
"""
    assert run_python(code) == (0, "done", "" if before else "heard")


@pytest.mark.parametrize(("level", "first", "quiet"), [("1", "", False), ("2", "", True), (None, "tensorflow", False)])
def test_messages_that_are_asked_for_are_kept(level, first, quiet):
    """By TF_CPP_MIN_LOG_LEVEL, or by importing TensorFlow before. A stand-in for it is enough."""
    code = f"""
import logging, os, sys
sys.modules.update({{name: None for name in {first.split()}}})
import eanet
eanet.build_eanet
print(any(type(f).__name__ == "_QuietImport" for f in sys.meta_path), os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""
    assert run_python(code, level) == (0, f"{quiet} {level}\n", "")


@pytest.mark.parametrize(("given", "machine", "then"), [
    (None, "x86_64", "1"), (None, "aarch64", None), ("0", "x86_64", "0"),
])  # fmt: skip
def test_tensorflow_gets_onednn_on_x86_unless_it_is_turned_off(given, machine, then, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    for name, value in (("TF_ENABLE_ONEDNN_OPTS", given), ("TF_CPP_MIN_LOG_LEVEL", "0")):
        monkeypatch.setenv(name, value or "")  # so that it is restored
        if value is None:
            del os.environ[name]
    prepare_tensorflow()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == then


def run_python(code, level=None):
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"KERAS_BACKEND": "tensorflow"}
    env |= {"TF_CPP_MIN_LOG_LEVEL": level} if level else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr
