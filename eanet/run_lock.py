"""One process at a time trains in a run folder."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
from pathlib import Path

from eanet.cli import UserError, is_temporary, locked

LOCK_FILE = ".lock"


def one_process(function):
    """Decorate a function of a TrainConfig, which then has the run folder for itself.

    It raises UserError while another process runs it there, also on another machine that shares the folder. A lock that a
    killed process has left does not count, and what else it has left is removed. A new folder in which nothing was written
    is removed at the end.
    """

    @functools.wraps(function)
    def alone(config):
        output = config.output
        new = [folder for folder in (output, *output.parents) if not folder.exists()]
        with contextlib.suppress(OSError):  # whoever writes there says what is wrong with the folder
            output.mkdir(parents=True, exist_ok=True)
        try:
            with _lock(output):
                return function(config)
        finally:
            with contextlib.suppress(OSError):  # not empty
                for folder in new:
                    folder.rmdir()

    return alone


@contextlib.contextmanager
def _lock(output: Path):
    path = output / LOCK_FILE
    with locked(path, os.O_RDWR | os.O_CREAT) as mine:
        if mine is False:
            holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
            raise UserError(f"output {output}: {holder} is training there; wait until it ends, or use another folder")
        try:
            if mine:
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
                for leftover in filter(is_temporary, output.iterdir()):
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield
        finally:
            if mine:
                path.unlink(missing_ok=True)
