"""Measure decoding on one core and on all, and the memory of training on 200,000 images.

    python benchmarks/large_sets.py                   a quarter of an hour on two cores; 1 GB in the temporary folder
    python benchmarks/large_sets.py --images 20000    a quick look, which writes nothing

The images are JPEGs of 64x64 noise and gradients in ten class folders. Decoding is `eanet.data.load_dataset` in a process of
its own, allowed on one core or on all; the two take turns. Training is one epoch of train.py with default settings; its
memory is the proportional set size of all its processes, looked at twice a second.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import UserError, positive_int, run, temporary_folder

IMAGES, CLASSES, SIDE = 200_000, 10, 64
DECODED, ROUNDS = 40_000, 5
DECODE = """
import os, sys, time
os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:int(sys.argv[2])]))
from eanet.data import load_dataset
from modeling_eanet import EANetConfig
config, start = EANetConfig.preset("small"), time.perf_counter()
count = len(load_dataset(sys.argv[1], config).train)
print(count / (time.perf_counter() - start))
"""


def write_images(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` different images: a gradient of the class's direction, with noise."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 60, (256, SIDE, SIDE, 3), dtype=np.int16)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for label in range(CLASSES):
        place = folder / f"class {label}"
        place.mkdir(parents=True)
        angle = np.pi * label / CLASSES
        gradient = (rows * np.sin(angle) + columns * np.cos(angle)) % SIDE * 3
        for i in range(label, count, CLASSES):
            pixels = gradient[..., None] * rng.random(3) + noise[i % 256]
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place / f"{i:06d}.jpg", quality=90)


def decode(folder: Path, cores: int) -> float:
    """Return the images per second that are listed, read and decoded on some of the cores."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE, folder, str(cores)], cwd=common.ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"decoding failed ({done.stderr.strip().splitlines()[-1]})")
    return float(done.stdout)


def compare_decoding(folder: Path, cores: int, rounds: int) -> list[dict]:
    """Return a row for one core and one for all."""
    speeds: dict[int, list[float]] = {1: [], cores: []}
    for done in range(rounds):
        for count, found in speeds.items():
            found.append(decode(folder, count))
        print(f"round {done + 1} of {rounds}", file=sys.stderr)
    times = [common.ratio(found, speeds[1]) for found in speeds.values()]
    return [
        {"cores": count, "images_per_second": statistics.median(found), "times_one_core": ratio}
        for (count, found), ratio in zip(speeds.items(), times, strict=True)
    ]


def memory_of(process: int) -> int:
    """Return the proportional set size in bytes of a process and all its descendants; 0 for those that have ended."""
    total = 0
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(memory_of(int(child)) for child in (task / "children").read_text().split())
    except (OSError, StopIteration):
        pass
    return total


def train(folder: Path, output: Path) -> dict:
    """Train one epoch and return its facts."""
    command = ["train.py", "--data", str(folder), "--epochs", "1", "--output", str(output)]
    start, peak = time.perf_counter(), 0
    with subprocess.Popen([sys.executable, *command], cwd=common.ROOT, stdout=subprocess.DEVNULL) as process:
        ended = threading.Event()
        threading.Thread(target=lambda: (process.wait(), ended.set()), daemon=True).start()
        while not ended.wait(0.5):
            peak = max(peak, memory_of(process.pid))
    if process.returncode:
        raise UserError(f"python {shlex.join(command)}: exit status {process.returncode}")
    shown = shlex.join(["python", "train.py", "--data", folder.name, "--epochs", "1"])
    return {
        "training_command": shown,
        "training_seconds": time.perf_counter() - start,
        "peak_memory_gb": peak / 1e9,
    }


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive_int, default=IMAGES, metavar="N", help=f"images (default: {IMAGES:,})")
    parser.add_argument("--decoding-only", action="store_true", help="do not train, and write nothing")
    args = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    decoded = min(DECODED, args.images)
    with temporary_folder() as folder:
        write_images(folder / "decoded", decoded)
        rows = compare_decoding(folder / "decoded", cores, ROUNDS if args.images == IMAGES else 2)
        for row in rows:
            print(
                f"{row['cores']} cores: {row['images_per_second']:,.0f} images/s, {row['times_one_core']:.2f} times one core"
            )
        if args.decoding_only:
            return
        write_images(folder / "images", args.images, seed=1)
        facts = train(folder / "images", folder / "run")
        print(f"{args.images:,} images: {facts['training_seconds']:.0f} s, peak memory {facts['peak_memory_gb']:.2f} GB")
    if args.images == IMAGES:
        common.report("large_sets", rows, num_images=args.images, decoded_images=decoded, rounds=ROUNDS, **facts)


if __name__ == "__main__":
    sys.exit(run(main))
