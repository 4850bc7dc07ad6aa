"""What the benchmarks share: interleaved timing, the machine, a table and a JSON file."""

from __future__ import annotations

import argparse
import math
import os
import platform
import shlex
import statistics
import subprocess
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


def whole(text: str) -> int:
    """A whole number, at least 1, of a command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 1")
    return int(text)


def ratio(slow: list[float], fast: list[float]) -> float:
    """The median over the rounds of how many times faster the second is."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def check_data(path: str) -> None:
    """Raises ValueError where there is nothing at `path`, before a benchmark begins that will read it later."""
    if not Path(path).exists():
        raise ValueError(f"--data {path}: no such file or folder")


def cifar100(path: str, config):
    """The Dataset at `path`. Raises ValueError where it is not CIFAR-100 with the classes of `config`."""
    from data import load_dataset

    dataset = load_dataset(path, config)
    if dataset.labels != tuple(config.id2label.values()) or dataset.id != "uoft-cs/cifar100":
        raise ValueError(f"--data {path}: must be CIFAR-100, with a test split")
    return dataset


def macs(model) -> int:
    """Multiplications with a weight that one picture takes; sums, norms and activations are not counted."""
    from keras import layers

    count = 0
    for layer in model.layers:
        if isinstance(layer, (layers.Dense, layers.EinsumDense)):  # every position with the whole kernel
            count += math.prod(layer.input.shape[1:-1]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            count += math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    return count


def report(name: str, columns: list[str], rows: list[list], details: dict | None = None, **facts) -> None:
    """Prints a Markdown table, and writes it to `benchmarks/<name>.md` and, with `details`, to `<name>.json`; both say with
    which command, where and when it was made."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    for row in rows:
        lines.append("| " + " | ".join(f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    command = shlex.join(["python", f"benchmarks/{name}.py", *_without_places(sys.argv[1:])])
    where = machine()
    written = {"rows": [dict(zip(columns, row, strict=True)) for row in rows], **facts, **(details or {})}
    written |= {"command": command, "date": time.strftime("%Y-%m-%d"), **where}
    write_json(HERE / f"{name}.json", written)
    versions = ", ".join(f"{package} {version}" for package, version in where["versions"].items())
    lines += ["", *(f"- {key.replace('_', ' ')}: {_words(value)}" for key, value in facts.items()), ""]
    lines += [f"`{command}` on {where['hardware']}, with {versions}; {written['date']}.", ""]
    temporary = HERE / f".{name}.{os.getpid()}.tmp"
    temporary.write_text("\n".join(lines), encoding="utf-8")
    os.replace(temporary, HERE / f"{name}.md")
    print("\n".join(lines))
    print(f"wrote benchmarks/{name}.json and .md", file=sys.stderr)


def _words(value) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key.replace('_', ' ')} {_words(item)}" for key, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _without_places(arguments: list[str]) -> list[str]:
    """Paths that are there, by their names alone."""
    split = [argument.rpartition("=") for argument in arguments]
    return [f"{a}{b}{Path(c).name if os.sep in c and Path(c).exists() else c}" for a, b, c in split]


def run(main) -> None:
    """Calls `main`; what is wrong with its input is one line and exit status 2."""
    try:
        main()
    except (ValueError, OSError, ImportError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


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
