"""What every program shares: errors on one line, atomic writes and a quiet TensorFlow import."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import traceback
import unicodedata
from pathlib import Path

from modeling_eanet import UserError, first_line

__all__ = ["UserError", "first_line"]  # re-exported; the rest of this module is public by its names


def run(main, argv=None, interrupted: str = "stopped") -> int:
    """Run a program's `main` and turn expected errors into one line.

    Args:
        main: callable that takes `argv` and returns an exit status or None.
        argv: arguments; None for those of the command line.
        interrupted: what Ctrl-C prints, for example how to go on.

    Returns:
        The exit status: that of `main`; 2 (or the error's own `exit_status`) after a `UserError` or an `OSError`; 130 after
        Ctrl-C. Any other exception is a bug and propagates with its traceback. `EANET_DEBUG=1` also prints the traceback
        of expected errors.
    """
    program = Path(sys.argv[0]).name
    try:
        return main(argv) or 0
    except (UserError, OSError) as error:
        if os.environ.get("EANET_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        print(f"{program}: error: {printable(' '.join(str(error).split()))}", file=sys.stderr)
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt:
        print(f"\n{program}: {interrupted}", file=sys.stderr)
        return 130


def require(package: str, hint: str):
    """Import `package`, or say how to get it.

    Args:
        package: name of the module.
        hint: what to do where it is missing, for example "`pip install onnx`".

    Returns:
        The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; {hint}") from None


def printable(text: str) -> str:
    """Return `text` on one line: control characters and undecodable bytes become escapes."""
    control = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in control else c for c in text)


def duration(seconds: float) -> str:
    """Return a duration such as "1 h 05 min", "12 min" or "40 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


# Files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path):
    """Write a file under a temporary name and rename it to `path` on success.

    Args:
        path: the file's final name; its folder must exist.

    Yields:
        A `Path` in the same folder to write to. After an error it is removed and `path` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path) -> bool:
    """Return whether `path` is what a killed process leaves behind: a temporary file of `atomic_path`."""
    return re.fullmatch(r"\..+\.\d+\.tmp", Path(path).name) is not None


@contextlib.contextmanager
def temporary_folder(parent=None, prefix: str = ".tmp-"):
    """Yield a new folder as a `Path` and remove it with everything in it; inside `parent`, a rename out of it is atomic."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path, value) -> None:
    """Write `value` to `path` as indented JSON, atomically. NaN and infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path):
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON; the message begins with `path`.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({first_line(error)})") from None


# Arguments ------------------------------------------------------------------------------------------------------------


def positive_int(text: str) -> int:
    """Parse an integer from 1 up, for argparse."""
    if not re.fullmatch(r"\s*\+?\d+\s*", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer, at least 1")
    return int(text)


# TensorFlow's messages ------------------------------------------------------------------------------------------------


def check_backend() -> None:
    """Raise UserError if the package of Keras' backend, which KERAS_BACKEND names, is not installed."""
    name = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name not in ("tensorflow", "jax", "torch"):
        raise UserError(f"KERAS_BACKEND={printable(name)}: must be tensorflow, jax or torch")
    if importlib.util.find_spec("keras") and importlib.util.find_spec(name) is None:
        raise UserError(f"{name} is not installed; `pip install {name}`, or set KERAS_BACKEND to another backend of Keras")


def quiet_tensorflow() -> None:
    """Silence TensorFlow's log, including what its C++ code prints while it is imported.

    Does nothing if it is imported already, or if TF_CPP_MIN_LOG_LEVEL asks for its messages (0 or 1).
    """
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "tf2onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not any(isinstance(finder, _QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietImport())


class _QuietImport(importlib.abc.MetaPathFinder):
    """Wraps the import of TensorFlow: no environment variable stops what it prints before its logger is set up."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def quietly(module):
                sys.meta_path.remove(self)
                with _native_stderr_silenced():
                    execute(module)
                    module.config.list_physical_devices()  # the first look for a GPU prints too
                logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the import resets it

            spec.loader.exec_module = quietly
        return spec


@contextlib.contextmanager
def _native_stderr_silenced():
    """Point file descriptor 2 at the null device; Python's own `sys.stderr` would not reach C++."""
    try:
        saved = os.dup(2)
    except OSError:  # closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
