"""Measure time and memory of external and of self-attention over the number of tokens.

    python benchmarks/attention_scaling.py          64 to 16,384 tokens; `tools/draw_figures.py scaling` draws them

Batch 4, width 64, 8 heads, 16 memory slots, float32; external attention in the folded form, as in the flagship. Each point
runs in its own process. Memory is the peak resident set minus that before the first call; a point that needs more than
three quarters of the machine's memory is recorded as null.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import positive_int, run

BATCH, WIDTH, HEADS, SLOTS = 4, 64, 8, 16
TOKENS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
FIT_FROM = 1024
OUT_OF_MEMORY = ("OOM", "Resource exhausted", "ResourceExhausted", "bad_alloc", "MemoryError")
KINDS, MODES = ("external", "self"), ("forward", "training_step")


def compiled_call(kind: str, tokens: int, mode: str):
    """Return a function without arguments that runs one attention layer, traced as a graph.

    Args:
        kind: one of `KINDS`.
        tokens: number of tokens.
        mode: one of `MODES`; a training step computes the gradients of inputs and weights.
    """
    import keras
    import tensorflow as tf

    from modeling_eanet import external_attention

    inputs = keras.Input((tokens, WIDTH))
    if kind == "external":
        outputs = external_attention(inputs, heads=HEADS, slots=SLOTS)
    else:
        outputs = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(inputs, inputs)
    model = keras.Model(inputs, outputs)

    @tf.function(jit_compile=False)
    def call(x):
        if mode == "forward":
            return model(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(model(x) ** 2)
        return tape.gradient(loss, [x, *(w.value for w in model.trainable_weights)])

    x = tf.constant(np.random.default_rng(0).normal(size=(BATCH, tokens, WIDTH)).astype(np.float32))
    return functools.partial(call.get_concrete_function(x), x)


def measure(kind: str, tokens: int, mode: str, repeats: int) -> dict:
    """Measure one point in this process.

    Returns:
        "seconds" (median of `repeats` calls) and "megabytes" (peak).
    """
    from eanet.machine import keep_freed_memory

    limit = int(0.75 * proc_kib("meminfo", "MemTotal") * 1024)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    keep_freed_memory()  # as in training: the time is that of the attention, not of the kernel clearing pages
    compiled_call(kind, min(TOKENS), mode)()  # the first call of all also loads libraries and starts threads
    call = compiled_call(kind, tokens, mode)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise the first tensors would reuse freed memory that is still held
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = proc_kib("self/status", "VmRSS")
    call()
    peak = proc_kib("self/status", "VmHWM")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "megabytes": (peak - before) / 1024}


def proc_kib(file: str, key: str) -> int:
    """Return a value of /proc/FILE in KiB."""
    lines = Path("/proc", file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def point(kind: str, tokens: int, mode: str, repeats: int) -> dict | None:
    """Return `measure` from a process of its own, or None if that ran out of memory."""
    command = [sys.executable, __file__, "--point", kind, str(tokens), mode, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    killed = done.returncode == -signal.SIGKILL  # by the kernel, when no memory is left
    if killed or any(word in done.stderr for word in OUT_OF_MEMORY):
        return None
    raise RuntimeError(done.stderr[-2000:])


def slope(points: list[tuple[int, float]]) -> float | None:
    """Return the slope of log(value) over log(tokens), fitted from `FIT_FROM` tokens on; None for fewer than two points."""
    points = [(math.log(n), math.log(v)) for n, v in points if n >= FIT_FROM]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) >= 2 else None


def summarise(found: dict) -> dict:
    """Return the rows and facts of the report.

    Args:
        found: (kind, mode) to {tokens: result of `point`}.
    """
    rows, slopes, crossover = [], [], {}
    for (kind, mode), values in found.items():
        for tokens, value in values.items():
            row = {"attention": kind, "mode": mode, "tokens": tokens}
            row["milliseconds"] = 1000 * value["seconds"] if value else None
            rows.append(row | {"megabytes": value["megabytes"] if value else None})
        time_slope, memory_slope = (
            slope([(n, value[key]) for n, value in values.items() if value]) for key in ("seconds", "megabytes")
        )
        slopes.append({"attention": kind, "mode": mode, "time": time_slope, "memory": memory_slope})
    for mode in MODES:
        external, other = found["external", mode], found["self", mode]
        faster = [n for n in external if external[n] and (not other[n] or external[n]["seconds"] < other[n]["seconds"])]
        # the smallest number from which on external attention is faster at every measured number
        crossover[mode] = next((n for n in external if all(m in faster for m in external if m >= n)), None)
    return {"rows": rows, "slopes": slopes, "external_is_faster_from": crossover}


def main(argv=None) -> None:
    """Parse the arguments, measure every point and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive_int, default=7, metavar="N", help="timed calls per point (default: 7)")
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.point:
        kind, tokens, mode = args.point
        print(json.dumps(measure(kind, int(tokens), mode, args.repeats)))
        return
    found = {(kind, mode): {} for kind in KINDS for mode in MODES}
    for tokens in TOKENS:
        for (kind, mode), values in found.items():  # in turn, so that a slow minute of the machine meets both kinds
            full = bool(values) and list(values.values())[-1] is None
            values[tokens] = None if full else point(kind, tokens, mode, args.repeats)
            print(f"{tokens} tokens, {kind} attention, {mode}: {values[tokens] or 'out of memory'}", file=sys.stderr)
    common.report("attention_scaling", **summarise(found))


if __name__ == "__main__":
    sys.exit(run(main))
