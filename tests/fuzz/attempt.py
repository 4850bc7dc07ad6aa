"""Run a program on an input in this process, and check what holds for every input: see `attempt`."""

import contextlib
import io
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass

from eanet.data.storage import large_files_folder

MAX_SECONDS = 5
MAX_GROWTH = 10**9  # bytes on top of the process, which holds TensorFlow (about 0.5 GB)
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn")
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.truncate", "os.chmod")


class Violation(AssertionError):
    """A program did with an input what it must never do."""


@dataclass
class Outcome:
    """What a program did: its exit status, its output, and its cost."""

    status: int
    out: str
    err: str
    seconds: float
    growth: int  # peak memory above that before the call, in bytes


class _Watch:
    """An audit hook that notes processes started and files written outside of the allowed folders."""

    def __init__(self):
        self.allowed, self.found = None, []

    def __call__(self, event, args):
        if self.allowed is None:
            return
        if event in EXECUTES:
            self.found.append(f"{event} {args[0]!r}")
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._path(event, args[0])
        elif event in CHANGES and (len(args) < 2 or args[-1] in (-1, None) or event == "os.truncate"):  # not within a dir_fd
            for path in args[: 2 if event in ("os.rename", "os.symlink", "os.link") else 1]:
                self._path(event, path)

    def _path(self, event, path):
        if isinstance(path, str | bytes | os.PathLike):
            path = os.fsdecode(path)
            real = os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
            if real != os.devnull and "__pycache__" not in real and not real.startswith(self.allowed):
                self.found.append(f"{event} {real}")


WATCH = _Watch()
sys.addaudithook(WATCH)


def attempt(call, folder, *, lines=1, status=None) -> Outcome:
    """Call a program and check that it stays within bounds.

    Args:
        call: a function that returns the exit status.
        folder: the only folder, next to the temporary one, where files may be written.
        lines: most lines on standard error when the status is not 0.
        status: the statuses allowed; None for 0, 1 and 2.

    Raises:
        Violation: a traceback, several lines, another status, too slow, too much memory, a file written outside of
            `folder` and the temporary folders, or a process started.
    """
    out, err = io.StringIO(), io.StringIO()
    allowed = tuple(map(os.path.realpath, (folder, tempfile.gettempdir(), large_files_folder())))
    before = _reset_peak()
    start, busy = time.perf_counter(), time.process_time()
    WATCH.allowed, WATCH.found = allowed, []
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _native_stderr(err), _alarm(4 * MAX_SECONDS):
            code = call()
    except Exception as error:
        raise Violation(f"{type(error).__name__}: {error}") from error
    finally:
        WATCH.allowed = None
    seconds = min(time.perf_counter() - start, time.process_time() - busy)  # other programs may be using the machine
    done = Outcome(code, out.getvalue(), err.getvalue(), seconds, _peak() - before)
    shown = done.err[-500:]
    for ok, problem in (
        (code in (status or (0, 1, 2)), f"exit status {code}: {shown}"),
        ("Traceback" not in done.err, f"a traceback: {shown}"),
        (code == 0 or 1 <= done.err.count("\n") <= lines, f"{done.err.count(chr(10))} lines: {shown}"),
        (done.seconds <= MAX_SECONDS, f"{done.seconds:.1f} s: {shown}"),
        (done.growth <= MAX_GROWTH, f"{done.growth / 1e9:.2f} GB: {shown}"),
        (not WATCH.found, f"{WATCH.found[:3]}"),
    ):
        if not ok:
            raise Violation(problem)
    return done


def _reset_peak() -> int:
    """Reset the peak memory of this process; return its memory now, in bytes."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(key) -> int:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))
    except (OSError, StopIteration):  # not Linux: memory is not checked
        return 0


@contextlib.contextmanager
def _native_stderr(err):
    """Add what libraries in C print to file descriptor 2."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            err.write(file.read().decode(errors="replace"))


@contextlib.contextmanager
def _alarm(seconds):
    """Raise TimeoutError in the block after `seconds`, as far as Python gets to run."""

    def stop(*_):
        raise Violation(f"still running after {seconds} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
