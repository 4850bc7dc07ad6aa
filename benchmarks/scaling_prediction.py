"""Measure inference.py on one machine: rate on one thread and on all, memory, and going on after `kill -9`."""

from __future__ import annotations

import csv
import io
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np
from large_sets import memory_of

from eanet.cli import UserError, temporary_folder
from eanet.machine import available_cores

SIDES, KINDS, PART = (300, 1500), 300, 1500
ROUNDS, KILLS = 5, 10
# What one would write by hand, for the images PART of PARTS in a list. Start-up is part of the time, as for inference.py.
PLAIN = """
import csv, json, sys
import numpy as np, onnxruntime
from PIL import Image
paths, out, part, parts = open(sys.argv[1]).read().split("\\n"), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = json.load(open("config.json"))
labels, side, method = config["id2label"], config["image_size"], Image.Resampling[config["interpolation"].upper()]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession("onnx/model.onnx", options, providers=["CPUExecutionProvider"])
with open(out, "w") as file:
    writer, paths = csv.writer(file), paths[part::parts]
    for start in range(0, len(paths), 64):
        batch = paths[start : start + 64]
        images = np.stack([np.asarray(Image.open(p).convert("RGB").resize((side, side), method), np.float32) for p in batch])
        for path, row in zip(batch, session.run(["probabilities"], {"image": images})[0]):
            writer.writerow([path, labels[str(row.argmax())], row.max()])
"""


def write_images(folder: Path, count: int) -> list[str]:
    """Write `count` different JPEGs of 300 to 1,500 pixels, in folders of 1,000, and return their paths in order.

    There are a few hundred contents; each file has a comment of its own.
    """
    from PIL import Image

    rng, contents = np.random.default_rng(0), []
    for _ in range(min(KINDS, count)):
        size = tuple(int(side) for side in rng.integers(*SIDES, 2, endpoint=True))
        coarse = rng.integers(0, 256, (size[1] // 40 + 2, size[0] // 40 + 2, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        noise = rng.integers(-12, 13, smooth.shape, dtype=np.int16)
        file = io.BytesIO()
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        contents.append(file.getvalue())
    paths = []
    for i in range(count):
        place, comment = folder / f"{i // 1000:03d}", f"{i:08d}".encode()
        place.mkdir(parents=True, exist_ok=True)
        content, path = contents[i % len(contents)], place / f"{i:06d}.jpg"
        head = content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        path.write_bytes(head + content[2:])
        paths.append(str(path))
    return paths


def measure(folder: Path, images: int, rounds: int = ROUNDS) -> dict:
    """Return what was measured of `images` JPEGs that are written to `folder`.

    Args:
        folder: new or empty.
        images: how many.
        rounds: how often the contenders take turns, each on `PART` images of its own.
    """
    paths = write_images(folder, images)
    threads = available_cores()
    with temporary_folder() as out:
        contenders = {"one_thread": ("--threads", 1), "all_threads": ("--threads", threads)}
        seconds: dict[str, list[float]] = {name: [] for name in (*contenders, "plain")}
        peaks, same = [], []
        for done in range(rounds):
            first = done * PART % images
            part = paths[first : first + PART]
            listed = out / "part.txt"
            listed.write_text("\n".join(part))
            for name, options in contenders.items():
                table = out / f"{done}-{name}.csv"
                took, peak = _run_inference(f"@{listed}", table, *options)
                seconds[name].append(took / len(part))
                if name == "all_threads":
                    peaks.append(peak)
            took, answers = _run_plain(listed, out, threads)
            seconds["plain"].append(took / len(part))
            same.append(np.mean([answers[path] == label for path, label in _read(table)]))
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
        took, peak = _run_inference(folder, out / "all.csv")
        rows = _kill_and_resume(folder, out / "killed.csv", took)
    if sorted(rows) != sorted(paths):
        raise UserError(f"{len(rows)} rows of {len(set(rows))} images after {KILLS} kills, not {images}")
    return {
        "rows": [
            {
                "program": name,
                "processes": threads if name == "plain" else 1,
                "threads": options[-1] if (options := contenders.get(name)) else 1,
                "images_per_second": 1 / statistics.median(times),
                "times_one_thread": common.ratio(seconds["one_thread"], times),
                "times_plain": common.ratio(seconds["plain"], times),
            }
            for name, times in seconds.items()
        ],
        "rounds": rounds,
        "images_per_round": min(PART, images),
        "same_answers": float(np.mean(same)),
        "num_images": images,
        "seconds": took,
        "peak_memory_mb": peak / 1e6,
        "peak_memory_mb_part": max(peaks) / 1e6,
        "kills": KILLS,
        "rows_after_kills": len(rows),
    }


def _command(source, table: Path, *options) -> list[str]:
    return [sys.executable, "inference.py", str(source), "--output", str(table), *map(str, options)]


def _run_inference(source, table: Path, *options) -> tuple[float, int]:
    """Run inference.py; return its seconds and its peak memory in bytes, looked at 5 times a second."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(_command(source, table, *options), cwd=common.ROOT, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        seconds = time.perf_counter() - start
        if process.returncode:
            raise UserError(f"inference.py: exit status {process.returncode} ({process.stderr.read().strip()})")
    return seconds, peak


def _run_plain(listed: Path, out: Path, processes: int) -> tuple[float, dict]:
    """Run the plain loop in some processes; return its seconds, and the label of each path."""
    start = time.perf_counter()
    tables = [out / f"plain-{part}.csv" for part in range(processes)]
    running = [
        subprocess.Popen([sys.executable, "-c", PLAIN, listed, table, str(part), str(processes)], cwd=common.ROOT)
        for part, table in enumerate(tables)
    ]
    if [process.wait() for process in running] != [0] * processes:
        raise UserError("the plain loop failed")
    seconds = time.perf_counter() - start
    return seconds, {path: label for table in tables for path, label, _ in csv.reader(table.open())}


def _read(table: Path) -> list[tuple[str, str]]:
    """Return path and label of each row."""
    with table.open(newline="") as file:
        return [(row["path"], row["label"]) for row in csv.DictReader(file)]


def _kill_and_resume(folder: Path, table: Path, seconds: float) -> list[str]:
    """Return the paths in the file of a job that is killed `KILLS` times, at random moments of the time it takes."""
    rng = random.Random(0)
    command = _command(folder, table, "--resume")
    for kill in itertools.count(1):
        with subprocess.Popen(command, cwd=common.ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                status = process.wait(rng.uniform(0, 2 * seconds / (KILLS + 1)) if kill <= KILLS else None)
            except subprocess.TimeoutExpired:
                process.kill()
                continue
        if status:
            raise UserError(f"inference.py --resume: exit status {status}")
        if kill > KILLS:
            return [path for path, _ in _read(table)]
    raise AssertionError
