"""Measure `python -m eanet.predict_many` against inference.py; the times include the start of the processes and of Ray."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common

from eanet.cli import temporary_folder
from eanet.image_files import find_images
from eanet.machine import available_cores


def measure(folder, rounds: int) -> dict:
    """Return the rates on all cores of this machine, and the seconds that Ray takes for a single image.

    Args:
        folder: images.
        rounds: how often each program runs.
    """
    found = list(find_images([str(folder)]))
    with temporary_folder() as out:
        runs = {
            "inference": lambda: _run("inference.py", folder, "--runtime", "onnx", "--output", _new(out, "csv")),
            "ray": lambda: _run("-m", "eanet.predict_many", folder, _new(out, "ray")),
            "start": lambda: _run("-m", "eanet.predict_many", found[0], _new(out, "ray")),
        }
        seconds = common.interleave(runs, rounds)
    rates = {f"{name}_images_per_second": len(found) / statistics.median(seconds[name]) for name in ("inference", "ray")}
    return {
        "images": len(found),
        "workers": available_cores(),
        **rates,
        "ray_start_s": statistics.median(seconds["start"]),
        "ray_times_inference": common.ratio(seconds["inference"], seconds["ray"]),
    }


def _run(*command) -> None:
    common.run_python(*command, quiet=True)


def _new(folder: Path, suffix: str) -> Path:
    """Return a name that is not taken."""
    return folder / f"{len(os.listdir(folder))}.{suffix}"
