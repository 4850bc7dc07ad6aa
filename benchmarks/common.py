"""What the benchmarks share: interleaved timing, the machine, a table and a JSON file."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from modeling_eanet import write_json  # noqa: E402


def interleave(contenders: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender, one after the other in each of `rounds` rounds: a machine that slows down, slows all.

    Each contender is a function without arguments; it has run once before, so nothing is compiled in here.
    """
    seconds = {name: [] for name in contenders}
    for done in range(rounds):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over the rounds of how many times faster the second is."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def report(name: str, columns: list[str], rows: list[list], **facts) -> None:
    """Prints a Markdown table and writes `benchmarks/<name>.json`: rows, facts, command, machine, versions, date."""
    print("| " + " | ".join(columns) + " |\n| " + " | ".join("---" for _ in columns) + " |")
    for row in rows:
        print("| " + " | ".join(f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    for key, value in facts.items():
        print(f"{key}: {value}")
    written = {
        "rows": [dict(zip(columns, row, strict=True)) for row in rows],
        **facts,
        "command": " ".join(["python", f"benchmarks/{name}.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        **machine(),
    }
    write_json(HERE / f"{name}.json", written)
    print(f"wrote benchmarks/{name}.json", file=sys.stderr)


def machine() -> dict:
    """Hardware and versions."""
    from importlib.metadata import PackageNotFoundError, version

    from train import _hardware

    versions = {"python": platform.python_version()}
    for package in ("keras", "tensorflow", "jax", "onnxruntime"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"hardware": _hardware(), "versions": versions}
