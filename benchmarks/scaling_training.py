"""Measure training over one and two processes, and compute on paper what limits 8, 64 and 1,000 hosts.

    from scaling_training import measure; measure()

Two processes have one core each; next to them one process has the same one core, and both. Alone, this prints the results as
JSON. The rows for many hosts are arithmetic: nothing of them was measured.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import UserError, read_json, temporary_folder

BATCH, STEPS, EPOCHS, HOSTS = 128, 12, 3, (1, 8, 64, 1000)
BYTES = 4  # of a gradient
NETWORKS = {"10 Gbit/s": (1.25e9, 30e-6), "200 Gbit/s": (25e9, 5e-6)}  # bytes/s of a host each way; seconds per message
GPU_SPEED = 60_000  # images/s of an H200 without communication, in mixed_bfloat16: CHANGELOG.md
IMAGES = 1_000_000
SHARD = 20_000  # images


def all_reduce(size: float, hosts: int, bandwidth: float, latency: float) -> float:
    """Return the seconds of a ring all-reduce: each host sends 2 (n - 1) / n of the bytes, in 2 (n - 1) messages."""
    return 2 * (hosts - 1) / hosts * size / bandwidth + 2 * (hosts - 1) * latency


def on_paper(parameters: int, reductions: int, hosts: int, speed: float, network: tuple[float, float]) -> dict:
    """Return what a step costs with `BATCH` images per host, next to one host.

    Args:
        parameters: of the model.
        reductions: all-reduces per step, of gradients and batch norm statistics.
        hosts: their number.
        speed: images/s of one host.
        network: bytes/s and seconds per message.
    """
    bandwidth, latency = network
    compute, size = BATCH / speed, BYTES * parameters
    communication = all_reduce(size, hosts, bandwidth, latency * reductions) if hosts > 1 else 0.0
    return {
        "hosts": hosts,
        "global_batch": BATCH * hosts,
        "megabytes_per_host_and_step": 2 * (hosts - 1) / hosts * size / 1e6,
        "compute_ms": 1000 * compute,
        "communication_ms": 1000 * communication,
        "efficiency": compute / (compute + communication),
        "images_per_second": BATCH * hosts / (compute + communication),
        "steps_per_epoch": IMAGES // (BATCH * hosts),
        "shards_per_host": IMAGES / SHARD / hosts,  # of a prediction job; in training every process reads all images
    }


def paper_rows(parameters: int, reductions: int, core_speed: float) -> list[dict]:
    """Return the rows of `on_paper` for two kinds of hosts and of networks.

    Args:
        parameters: of the model.
        reductions: all-reduces per step.
        core_speed: images/s of one CPU core, as measured.
    """
    return [
        {"host": host, "network": network, **on_paper(parameters, reductions, hosts, speed, numbers)}
        for host, speed in {"16 CPU cores": 16 * core_speed, "H200": GPU_SPEED}.items()
        for network, numbers in NETWORKS.items()
        for hosts in HOSTS
    ]


def _commands(data, folder, processes: int) -> list[list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "train.py", "--data", str(data), "--preset", "pyramid", "--epochs", str(EPOCHS)]
    command += ["--batch-size", str(BATCH), "--validation-split", "0", "--output", str(folder)]
    several = ["--distribute", "--coordinator", address, "--processes", str(processes), "--process-id"]
    return [command if processes == 1 else [*command, *several, str(i)] for i in range(processes)]


def _images_per_second(data, folder, processes: int, cores: list[str]) -> float:
    env = dict(os.environ, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    options = dict(env=env, cwd=common.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    commands = [["taskset", "-c", *pair] for pair in zip(cores, _commands(data, folder, processes), strict=True)]
    running = [subprocess.Popen([*words[:3], *words[3]], **options) for words in commands]
    errors = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        raise UserError(f"{processes} processes: {errors[0].strip().rpartition(chr(10))[2]}")
    return statistics.median(read_json(folder / "history.json")["images_per_s"][1:])  # the first epoch compiles


def measure(reductions: int = 69, rounds: int = 3) -> dict:
    """Measure one and two processes in turn, and compute the rows of many hosts.

    Args:
        reductions: all-reduces per step, after XLA has combined those of 214 gradients and statistics, in its dump.
        rounds: the median of this many.

    Returns:
        "processes": rows; "on_paper": rows, with "parameters" and "reductions_per_step".
    """
    from modeling_eanet import EANetConfig, build_eanet

    rng = np.random.default_rng(0)
    cases = {
        "1 process, 1 core": (1, ["0"]),
        "2 processes, 1 core each": (2, ["0", "1"]),
        "1 process, 2 cores": (1, ["0,1"]),
    }
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    with temporary_folder() as folder:
        data = folder / "cifar-100-python"
        data.mkdir()
        for name, count in (("train", STEPS * BATCH), ("test", BATCH)):
            images, labels = rng.integers(0, 256, (count, 3072)).astype(np.uint8), rng.integers(0, 100, count)
            (data / name).write_bytes(pickle.dumps({b"data": images, b"fine_labels": labels.tolist()}, protocol=2))
        (data / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"%d" % i for i in range(100)]}, protocol=2))
        for done in range(rounds):
            for name, (processes, cores) in cases.items():
                speeds[name].append(_images_per_second(data, folder / f"{name} {done}", processes, cores))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    one = medians["1 process, 1 core"]
    parameters = build_eanet(EANetConfig.preset("pyramid")).count_params()
    return {
        "processes": [{"case": k, "images_per_second": v, "times_one_core": v / one} for k, v in medians.items()],
        "on_paper": paper_rows(parameters, reductions, one),
        "parameters": parameters,
        "reductions_per_step": reductions,
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
