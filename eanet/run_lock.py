"""One process at a time writes in a run folder."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from pathlib import Path

from eanet.cli import UserError, locked, printable, remove_leftovers

LOCK_FILE = ".lock"


def one_process(function):
    """Decorate a function of a TrainConfig and other arguments, which then has the run folder for itself.

    It raises UserError while another process runs it there, also on another machine that shares the folder. A lock that a
    killed process has left does not count, and what else it has left is removed. A new folder in which nothing was written
    is removed at the end.
    """

    @functools.wraps(function)
    def alone(config, *args):
        output = config.output
        new = [folder for folder in (output, *output.parents) if not folder.exists()]
        with contextlib.suppress(OSError):  # whoever writes there says what is wrong with the folder
            output.mkdir(parents=True, exist_ok=True)
        try:
            with lock_run(output, "training"):
                return function(config, *args)
        finally:
            with contextlib.suppress(OSError):  # not empty
                for folder in new:
                    folder.rmdir()

    return alone


@contextlib.contextmanager
def lock_run(folder, doing: str):
    """Have a run folder for this process inside the `with` block, as far as it can be written.

    Args:
        folder: the folder.
        doing: what for, for the message that another process shows: "training", "exporting".

    Raises:
        UserError: another process has it.
    """
    path = Path(folder) / LOCK_FILE
    # A folder may come from a stranger: what a link named .lock leads to is not written.
    with locked(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)) as mine:
        if mine is False:
            raise _in_use(path)
        try:
            if mine:
                path.write_text(f"process {os.getpid()} on {platform.node()} is {doing}", encoding="utf-8")
                remove_leftovers(path.parent, r"\..+\.(\d+)\.tmp|\.tmp-(\d+)-.+")
            yield
        finally:
            if mine:
                path.unlink(missing_ok=True)


def check_idle(folder) -> None:
    """Raise UserError if a process writes in a run folder: what is read there may be of two runs."""
    path = Path(folder) / LOCK_FILE
    with locked(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)) as mine:
        if mine is False:
            raise _in_use(path)


def _in_use(path: Path) -> UserError:
    with open(path, encoding="utf-8", errors="replace") as file:
        holder = printable(file.read(300).strip()) or "another process is writing"
    return UserError(f"{path.parent}: {holder} there; wait until it ends, or use another folder")
