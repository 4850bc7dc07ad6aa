"""Time and memory of external and of self attention over the number of tokens, with fitted slopes.

    python benchmarks/attention_scaling.py          64 to 16,384 tokens; `figures/draw.py scaling` draws them

Batch 4, width 64, 8 heads, 16 memory slots, float32; external attention in the folded form, which is the flagship's. Each
point is a process of its own, so that one's memory is not another's; memory is the highest resident set above what the
process held before the first call. A point that does not fit into three quarters of the machine's memory is a result too.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import math
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import common
import numpy as np

BATCH, WIDTH, HEADS, SLOTS = 4, 64, 8, 16
TOKENS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
FIT_FROM = 1024
OUT_OF_MEMORY = ("OOM", "Resource exhausted", "ResourceExhausted", "bad_alloc", "MemoryError")
KINDS, MODES = ("external", "self"), ("forward", "training step")


def measure(kind: str, tokens: int, mode: str, repeats: int) -> dict:
    """Seconds (median) and peak megabytes of one point, in this process."""
    limit = int(0.75 * _memory())
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    from train import keep_freed_memory

    keep_freed_memory()  # as train.py does: time is that of the attention, not of the kernel clearing pages
    import tensorflow as tf
    from keras import Input, Model, layers

    from modeling_eanet import external_attention

    def attend(x):
        if kind == "external":
            return external_attention(x, heads=HEADS, slots=SLOTS)
        return layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, x)

    def compiled(tokens):
        inputs = Input((tokens, WIDTH))
        model = Model(inputs, attend(inputs))

        @tf.function(jit_compile=False)
        def run(x):
            if mode == "forward":
                return model(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(model(x) ** 2)
            return tape.gradient(loss, [x, *(w.value for w in model.trainable_weights)])

        x = tf.constant(np.random.default_rng(0).normal(size=(BATCH, tokens, WIDTH)).astype(np.float32))
        return functools.partial(run.get_concrete_function(x), x)

    compiled(min(TOKENS))()  # what the first call of all takes, threads and libraries, is none of the attention's
    run = compiled(tokens)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # or the first tensors would go where freed memory is still held
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    run()
    peak = _status("VmHWM")
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "megabytes": (peak - before) / 1024}


def _status(key: str) -> int:
    """Kibibytes."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))


def _memory() -> int:
    """Bytes of the machine."""
    total = next(int(li.split()[1]) for li in Path("/proc/meminfo").read_text().splitlines() if li.startswith("MemTotal"))
    return total * 1024


def point(kind: str, tokens: int, mode: str, repeats: int) -> dict | None:
    """`measure` in a process of its own; None where that ran out of memory."""
    command = [sys.executable, __file__, "--point", kind, str(tokens), mode, "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    killed = done.returncode == -signal.SIGKILL  # what the kernel does to a process that takes all there is
    if killed or any(word in done.stderr for word in OUT_OF_MEMORY):
        return None
    raise RuntimeError(done.stderr[-2000:])


def slope(points: list[tuple[int, float]]) -> float | None:
    """Least squares of log(value) over log(tokens), from `FIT_FROM` tokens on."""
    points = [(math.log(n), math.log(v)) for n, v in points if n >= FIT_FROM]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0]) if len(points) >= 2 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=common.whole, default=7)
    parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        kind, tokens, mode = args.point
        return print(json.dumps(measure(kind, int(tokens), mode, args.repeats)))
    found = {(kind, mode): {} for kind in KINDS for mode in MODES}
    for tokens in TOKENS:
        for (kind, mode), values in found.items():  # in turn, so that a slow minute of the machine meets both kinds
            full = bool(values) and list(values.values())[-1] is None
            values[tokens] = None if full else point(kind, tokens, mode, args.repeats)
            print(f"{tokens} tokens, {kind} attention, {mode}: {values[tokens] or 'out of memory'}", file=sys.stderr)
    rows, slopes, crossover = [], {}, {}
    for (kind, mode), values in found.items():
        for tokens, value in values.items():
            time_memory = [1000 * value["seconds"], value["megabytes"]] if value else ["out of memory"] * 2
            rows.append([kind, mode, tokens, *time_memory])
        for key in ("seconds", "megabytes"):
            slopes[f"{kind}, {mode}, {key}"] = slope([(n, v[key]) for n, v in values.items() if v])
    for mode in MODES:
        ours, theirs = found["external", mode], found["self", mode]
        cheaper = [n for n in TOKENS if ours[n] and (not theirs[n] or ours[n]["seconds"] < theirs[n]["seconds"])]
        # from which number on external attention is the faster one, at every number measured
        crossover[mode] = next((n for n in TOKENS if all(m in cheaper for m in TOKENS if m >= n)), None)
    columns = ["attention", "mode", "tokens", "ms", "peak MB"]
    common.report("attention_scaling", columns, rows, slopes=slopes, external_is_faster_from=crossover)


if __name__ == "__main__":
    common.run(main)
