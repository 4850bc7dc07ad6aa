"""Load the Inference Endpoint: many requests at a time, many in a row, and the most expensive ones that it accepts.

    python benchmarks/endpoint.py

The handler runs in a process without a web server. Expensive requests have as many images of one kind as are accepted, of
noise, which is slowest to decode; each is timed in a process of its own.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import io
import json
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import positive_int, run

SIDE = 4096  # of the images in expensive requests, 16.8 megapixels each
# Kind to Pillow's format, mode and options. As many of these images are sent as are accepted, up to 256.
KINDS = {
    "JPEG": ("JPEG", "RGB", {"quality": 30}),
    "progressive JPEG": ("JPEG", "RGB", {"quality": 30, "progressive": True}),
    "PNG": ("PNG", "RGB", {"compress_level": 1}),
    "PNG with transparency": ("PNG", "RGBA", {"compress_level": 1}),
    "lossless WebP": ("WEBP", "RGB", {"lossless": True, "method": 0}),
    "TIFF of 16 bits": ("TIFF", "I;16", {"compression": "tiff_lzw"}),
    "TIFF of floats": ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
    "PNG of one megapixel": ("PNG", "RGB", {"compress_level": 1, "side": 1000}),
}


def image(fmt: str, mode: str, side: int = SIDE, **options) -> bytes:
    """Return an image file of black and white noise, so that many of them fit into a request."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 2, (side, side, {"RGB": 3, "RGBA": 4}.get(mode, 1)), np.uint8)
    if mode in ("F", "I;16"):
        pixels = Image.fromarray(noise[..., 0].astype(np.float32) * 255 if mode == "F" else noise[..., 0] * np.uint16(65535))
    else:
        pixels = Image.fromarray(noise * np.uint8(255), mode)
    file = io.BytesIO()
    pixels.save(file, fmt, **options)
    return file.getvalue()


def status(key: str) -> int:
    """Return a value of this process's memory, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def worst(kind: str) -> dict:
    """Send the largest request of a kind that is accepted; return its images, seconds and the process's peak memory."""
    from handler import EndpointHandler
    from modeling_eanet import UserError

    fmt, mode, options = KINDS[kind]
    file, count, handler = image(fmt, mode, **options), 256, EndpointHandler()
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak
    while True:
        start, busy = time.perf_counter(), time.process_time()
        try:
            handler({"inputs": [file] * count})
            break
        except UserError:  # by the headers, so at once
            count -= 1
    return {
        "images": count,
        "megapixels": count * options.get("side", SIDE) ** 2 / 1e6,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "peak_gb": status("VmHWM") / 1e9,
    }


def at_a_time(handler, requests: list, expected: list) -> tuple[int, float]:
    """Send all requests at the same moment, each from its own thread; return how many answers are right, and seconds."""
    start = threading.Barrier(len(requests))

    def send(request):
        start.wait()
        return handler(request)

    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        begun = time.perf_counter()
        answers = list(pool.map(send, requests))
    seconds = time.perf_counter() - begun
    return sum(same(a, e) for a, e in zip(answers, expected, strict=True)), seconds


def same(answer, expected) -> bool:
    """Return whether two answers have the same labels, and scores that differ by rounding."""
    labels = [p["label"] for p in answer] == [p["label"] for p in expected]
    return labels and np.allclose([p["score"] for p in answer], [p["score"] for p in expected], atol=1e-5)


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrent", type=positive_int, default=500, metavar="N", help="default: 500")
    parser.add_argument("--requests", type=positive_int, default=5000, metavar="N", help="in a row (default: 5,000)")
    parser.add_argument("--worst", choices=KINDS, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args(argv)
    if args.worst:
        print(json.dumps(worst(args.worst)))
        return
    from handler import EndpointHandler

    handler = EndpointHandler()
    files = [path.read_bytes() for path in sorted((common.ROOT / "samples").glob("*.png"))]
    requests = [{"inputs": files[i % len(files)], "parameters": {"top_k": 3}} for i in range(args.concurrent)]
    expected = [handler(request) for request in requests[: len(files)]]
    expected = [expected[i % len(files)] for i in range(args.concurrent)]
    right, seconds = at_a_time(handler, requests, expected)
    memory, start = [], time.perf_counter()
    for i in range(args.requests):
        handler(requests[i % len(requests)])
        if i % (args.requests // 10) == args.requests // 10 - 1:
            memory.append(status("VmRSS") / 1e6)
    found = {
        "concurrent": {"requests": args.concurrent, "right": right, "seconds": seconds},
        "in_a_row": {"requests": args.requests, "seconds": time.perf_counter() - start, "memory_mb": memory},
    }
    command = [sys.executable, __file__, "--worst"]
    rows = []
    for kind in KINDS:
        done = subprocess.run([*command, kind], capture_output=True, text=True, check=True)
        rows.append({"request": kind, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], file=sys.stderr)
    common.report("endpoint", rows, **found)


if __name__ == "__main__":
    sys.exit(run(main))
