"""Shared by the benchmarks: interleaved timing, data, child processes and reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import readme

from eanet.cli import UserError, prepare_tensorflow, read_json, write_json

HERE = Path(os.path.abspath(__file__)).parent
ROOT = HERE.parent
PACKAGES = ("keras", "tensorflow", "jax", "onnxruntime")  # whose versions are recorded
prepare_tensorflow()


def interleave(contenders: dict, rounds: int) -> dict[str, list[float]]:
    """Time all contenders in turn, so that a slow minute of the machine meets each of them.

    Args:
        contenders: name to a function without arguments, called once before so that nothing is compiled in here.
        rounds: how often each runs.

    Returns:
        Name to its seconds, one per round.
    """
    seconds = {name: [] for name in contenders}
    for done in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """Return the median over the rounds of slow / fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def run_python(*command, quiet: bool = False) -> None:
    """Run `python COMMAND` in the repository's root.

    Args:
        *command: the arguments.
        quiet: keep its standard error for the error message instead of showing it.

    Raises:
        UserError: it failed.
    """
    errors = subprocess.PIPE if quiet else None
    command = [str(word) for word in command]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors, text=True)
    if done.returncode:
        last = f" ({done.stderr.strip().rpartition(chr(10))[2]})" if quiet else ""
        raise UserError(f"python {shlex.join(command)}: exit status {done.returncode}{last}")


def check_data(path) -> None:
    """Raise UserError if there is no file or folder at `path`."""
    if not os.path.exists(path):
        raise UserError(f"data {path}: no such file or folder; `python benchmarks/hold_out.py` makes cifar-100-dev.tar.gz")


def run_results(folder, command=None) -> dict | None:
    """Return the results of a training run; None if it is not complete and not to be trained.

    Args:
        folder: of the run, relative to the repository's root.
        command: for `run_python`, to train or resume it unless it is complete; None not to.
    """
    written = ROOT / folder / "eval_results.json"  # by a complete run, last
    if command and not written.is_file():
        run_python(*command)
    return read_json(written) if written.is_file() else None


def cifar100(path, config):
    """Return the Dataset at `path`.

    Raises:
        UserError: it is not CIFAR-100 with a test split and the classes of `config`.
    """
    from eanet.data import load_dataset

    dataset = load_dataset(path, config)
    if dataset.labels != tuple(config.id2label.values()) or dataset.id != "uoft-cs/cifar100" or dataset.test is None:
        raise UserError(f"{path}: must be CIFAR-100 with a test split")
    return dataset


def report(name: str, rows: list[dict], **facts) -> None:
    """Write `benchmarks/<name>.json` and, from all results, `benchmarks/README.md`.

    Args:
        name: the benchmark.
        rows: the rows of its main table.
        **facts: what else was measured; command, date, hardware and versions are added.
    """
    from eanet.machine import hardware

    command = shlex.join(["python", f"benchmarks/{name}.py", *map(without_folder, sys.argv[1:])])
    made = {"command": command, "date": time.strftime("%Y-%m-%d"), "hardware": hardware(), "versions": versions()}
    write_json(HERE / f"{name}.json", {"rows": rows, **facts, **made})
    readme.write(HERE)
    print(f"wrote benchmarks/{name}.json and README.md")


def without_folder(argument: str) -> str:
    """Return a command-line argument with an existing path (`PATH` or `--option=PATH`) reduced to its last part."""
    option, equals, path = argument.rpartition("=")
    return f"{option}{equals}{Path(path).name if os.sep in path and Path(path).exists() else path}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
