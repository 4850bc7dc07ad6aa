"""What every program shares: errors on one line, atomic writes, and how TensorFlow is imported."""

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
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import unicodedata
from pathlib import Path

from modeling_eanet import UserError, first_line

# onnxruntime would report its use to Microsoft, and complain about a home that cannot be written.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Tokens of Hugging Face: of users and organisations, their older forms, and those of OAuth, which are longer.
TOKEN = re.compile(rb"(?:hf|api(?:_org)?)_[A-Za-z0-9]{30,}|hf_(?:(?:oauth|refresh|jwt|app|org)_)+[A-Za-z0-9_.-]{20,}")

__all__ = ["UserError", "first_line"]  # re-exported; the rest of this module is public by its names


def run(main, argv=None, interrupted: str = "stopped") -> int:
    """Run a program's `main` and turn expected errors into one line.

    Args:
        main: callable that takes `argv` and returns an exit status or None.
        argv: arguments; None for those of the command line.
        interrupted: what Ctrl-C prints, for example how to go on, unless the `KeyboardInterrupt` has a message.

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
        print(f"{program}: error: {printable(masked(' '.join(str(error).split())))}", file=sys.stderr)
        return getattr(error, "exit_status", 2)
    except KeyboardInterrupt as stop:
        print(f"\n{program}: {printable(str(stop)) or interrupted}", file=sys.stderr)
        return 130


@contextlib.contextmanager
def uninterrupted():
    """Hold Ctrl-C back until the block ends, so that what it writes is complete; a second Ctrl-C gets through."""
    before, held = signal.getsignal(signal.SIGINT), False

    def hold(*args):
        nonlocal held
        if held:
            before(*args)
        held = True

    # Only the main thread gets it; a background job of a script ignores it.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(signal.SIGINT, None)


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


def masked(text: str) -> str:
    """Return `text` with Hugging Face tokens replaced by "hf_***"."""
    return TOKEN.sub(b"hf_***", text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


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
    remove_leftovers(path.parent, rf"\.{re.escape(path.name)}\.(\d+)\.tmp")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder(parent=None, prefix: str = ".tmp-"):
    """Yield a new folder as a `Path` and remove it with everything in it; inside `parent`, a rename out of it is atomic.

    What killed processes have left under the same prefix is removed first.
    """
    parent = Path(parent or tempfile.gettempdir())
    remove_leftovers(parent, rf"{re.escape(prefix)}(\d+)-.+")
    folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(100):  # another process may be looking at it, to see whether it is used
                if stack.enter_context(locked(folder)) is not False:
                    break
                time.sleep(0.01)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(path, flags: int = os.O_RDONLY):
    """Open a file or folder and lock it for this process, until it ends; the system forgets the lock of a killed process.

    Yields:
        True, or False if another process has the lock; None where the file system has no locks, or `path` cannot be opened.
    """
    handle: int | None = None
    state: bool | None = None
    try:
        import fcntl

        while state is None:
            handle = os.open(path, flags, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                state = os.path.samestat(os.fstat(handle), os.stat(path)) or None
            if state is None:  # its last owner has just removed it
                os.close(handle)
                handle = None
    except BlockingIOError:
        state = False
    except (ImportError, OSError):
        pass
    try:
        yield state
    finally:
        if handle is not None:
            os.close(handle)


def is_temporary(path) -> bool:
    """Return whether `path` has the name of a temporary file of `atomic_path`, or of a folder of `temporary_folder`."""
    return re.fullmatch(r"\..+\.\d+\.tmp|\.tmp-.+", Path(path).name) is not None


def remove_leftovers(folder, pattern: str) -> None:
    """Remove temporary files and folders of processes that were killed.

    Args:
        folder: where they are.
        pattern: regular expression of their names, in which the group that matches is the number of the process.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = re.fullmatch(pattern, entry.name)
            if match and not entry.is_symlink() and not _is_used(entry, int(next(filter(None, match.groups())))):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    os.unlink(entry)


def _is_used(entry: os.DirEntry, process: int) -> bool:
    """Return whether a living process writes to a temporary file or folder.

    The lock of a folder counts, also where its process is in another container, or its number was given to another process.
    The number counts for files, for a day, and for folders in the minute before they are locked.
    """
    age = time.time() - entry.stat().st_mtime
    if entry.is_dir():
        with locked(entry) as mine:
            if mine is False or mine and age > 60:
                return mine is False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return age < 86_400


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


def nonempty(text: str) -> str:
    """Refuse "", as of an unset variable, for argparse: as a path it would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder or file")
    return text


def nonempty_path(text: str) -> Path:
    """Parse a path, for argparse, as `nonempty` does a text."""
    return Path(nonempty(text))


# TensorFlow's messages ------------------------------------------------------------------------------------------------


def keras_backend() -> str:
    """Return the name of the backend that Keras will use: KERAS_BACKEND, else that of its keras.json, else TensorFlow."""
    home = os.path.expanduser("~")
    folder = os.environ.get("KERAS_HOME", os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras"))
    name = os.environ.get("KERAS_BACKEND")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        name = name or json.loads(Path(folder, "keras.json").expanduser().read_text())["backend"]
    return str(name or "tensorflow")


def check_backend() -> None:
    """Raise UserError if the package of Keras' backend (`keras_backend`) is not installed."""
    name = keras_backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise UserError(f"Keras backend {printable(name)}: set KERAS_BACKEND to tensorflow, jax or torch")
    if importlib.util.find_spec("keras") and importlib.util.find_spec(name) is None:
        gpus = ' (with NVIDIA GPUs `pip install "jax[cuda12]"`)' if name == "jax" else ""
        hint = f"`pip install {name}`{gpus}, or set KERAS_BACKEND to another backend of Keras"
        raise UserError(f"{name} is not installed; {hint}")


def prepare_tensorflow() -> None:
    """Prepare the import of TensorFlow: with oneDNN's kernels, and without its log, even what its C++ code prints.

    TensorFlow turns oneDNN on by default only with AVX-512 VNNI or later; on other x86 processors, too, training is faster
    with it. TF_ENABLE_ONEDNN_OPTS=0 keeps it off, TF_CPP_MIN_LOG_LEVEL=0 or 1 keeps the log. Does nothing if TensorFlow is
    imported already.
    """
    if "tensorflow" in sys.modules:
        return
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("tensorflow", "matplotlib"):  # Keras imports matplotlib, which complains about a read-only home
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
                with native_stderr_silenced():
                    execute(module)
                    module.config.list_physical_devices()  # the first look for a GPU prints too
                logging.getLogger("tensorflow").setLevel(logging.ERROR)  # the import resets it

            spec.loader.exec_module = quietly
        return spec


@contextlib.contextmanager
def native_stderr_silenced():
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
