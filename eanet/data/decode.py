"""Decode images on all cores, in order, and say which ones cannot be read."""

from __future__ import annotations

import contextlib
import io
import itertools
import operator
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from eanet.cli import UserError
from eanet.data.files import LeftOut, error_reason
from eanet.data.storage import DiskImages, ImageStore
from eanet.images import EMPTY, UNKNOWN, load_image
from modeling_eanet import EANetConfig

CHUNK = 64  # images per task
# Pillow releases Python's lock while it decodes, but half the time of a small image is Python code: from this number on,
# processes are worth their start (0.4 s). 64-px JPEGs on two cores: two threads 0.8 times as fast as one, processes 1.75.
MIN_FOR_PROCESSES = 2000


class Sample(NamedTuple):
    """An image to read.

    Attributes:
        path: what to call it where it is left out.
        source: path, content, or a function that returns the content.
        label: its class, of any type.
        certain: whether it is meant to be an image; if not, other content is no damage.
    """

    path: str
    source: Any
    label: Any
    certain: bool = True


def read_samples(
    samples: Iterable[Sample], config: EANetConfig, left_out: LeftOut, name: str
) -> tuple[np.ndarray | DiskImages, list, list[str]]:
    """Decode the images of one split.

    Args:
        samples: the images; an iterator where there are too many for a list.
        config: size and interpolation they are resized with.
        left_out: gets those that cannot be read.
        name: of the split, for the progress bar.

    Returns:
        uint8 (n, image_size, image_size, 3), and the labels and the names of the n images that could be read.
    """
    from tqdm import tqdm

    expected = operator.length_hint(samples) or None
    store = ImageStore(config.image_size, expected)
    labels: list = []
    names: list[str] = []
    bar = tqdm(total=expected, desc=f"reading {name}", unit=" images", disable=None, leave=False)
    with bar, warnings.catch_warnings():  # load_image changes the filters, which threads would restore out of order
        for chunk, images, reasons in _decoded(samples, config, expected):
            bar.update(len(chunk))
            good = [i for i, reason in enumerate(reasons) if reason is None]
            store.append(images if len(good) == len(chunk) else images[good])
            labels += [chunk[i].label for i in good]
            names += [chunk[i].path for i in good]
            for sample, reason in zip(chunk, reasons, strict=True):
                foreign = not sample.certain and reason in (UNKNOWN, EMPTY)
                left_out.images += not foreign
                if reason is not None:
                    left_out.add(sample.path, "not an image" if foreign else reason, broken=not foreign)
    return store.finish(), labels, names


def count_cores() -> int:
    """Return the number of cores that this process may use, at most 16."""
    try:
        return min(16, len(os.sched_getaffinity(0)))
    except AttributeError:  # macOS, Windows
        return min(16, os.cpu_count() or 1)


def _decoded(samples, config, expected) -> Iterator[tuple[list[Sample], np.ndarray, list]]:
    """Yield (samples, images, why each cannot be read or None) in order, with few chunks in memory."""
    samples, cores, count = iter(samples), count_cores(), expected or 0
    workers: _Workers | None = None
    pending: deque = deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            while chunk := list(itertools.islice(samples, CHUNK)):
                count += 0 if expected else len(chunk)
                if workers is None and cores > 1 and count >= MIN_FOR_PROCESSES:
                    workers = _Workers(cores)
                pending.append((chunk, pool.submit(workers or _decode_here, [s.source for s in chunk], config)))
                if len(pending) > 3 * cores:
                    chunk, future = pending.popleft()
                    yield chunk, *future.result()
            while pending:
                chunk, future = pending.popleft()
                yield chunk, *future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            if workers:
                workers.close()


def _content(source):
    """Return a path, or the content as bytes, or the error of reading it."""
    try:
        return source() if callable(source) else source
    except (OSError, UserError) as error:
        return error


def _decode_here(sources, config):
    return decode_chunk([_content(source) for source in sources], config)


def decode_chunk(sources, config: EANetConfig) -> tuple[np.ndarray, list[str | None]]:
    """Decode some images.

    Args:
        sources: path, content as bytes, or an error, of each.
        config: size and interpolation.

    Returns:
        uint8 (n, image_size, image_size, 3), and for each why it cannot be read, or None.
    """
    images = np.zeros((len(sources), config.image_size, config.image_size, 3), np.uint8)
    reasons: list[str | None] = []
    for i, source in enumerate(sources):
        try:
            if isinstance(source, Exception):
                raise source
            images[i] = load_image(io.BytesIO(source) if isinstance(source, bytes) else source, config)
            reasons.append(None)
        except (OSError, UserError, MemoryError) as error:
            reasons.append(error_reason(error))
    return images, reasons


# Worker processes -----------------------------------------------------------------------------------------------------


class _Workers:
    """Processes that decode chunks. They end when their standard input does, so also if this process is killed."""

    def __init__(self, count: int):
        root = os.path.abspath(__file__).removesuffix(os.path.join("eanet", "data", "decode.py"))
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        self._all: list[Any] = []
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from eanet.data.decode import work; work()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pipesize=2**20,
                env={**os.environ, "PYTHONPATH": path},
            )
            self._all.append(process)
            self._idle.put(process)

    def __call__(self, sources, config):
        """Decode a chunk in an idle process; each thread waits for its own."""
        process = self._idle.get()
        try:
            pickle.dump(([_content(source) for source in sources], config), process.stdin, 5)
            process.stdin.flush()
            reasons, side = pickle.load(process.stdout), config.image_size
            images = np.empty((len(reasons), side, side, 3), np.uint8)
            if process.stdout.readinto(images.reshape(-1).data) != images.nbytes:
                raise EOFError
            return images, reasons
        except (OSError, EOFError, pickle.UnpicklingError):
            raise UserError("a process that decodes images ended unexpectedly; is there enough memory?") from None
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes."""
        for process in self._all:
            with contextlib.suppress(OSError):  # it ended before
                process.stdin.close()
            process.stdout.close()
            process.wait()


def work() -> None:
    """Decode chunks from standard input to standard output until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.current_thread().name = "decoder"
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints must not get among the answers
    while True:
        try:
            sources, config = pickle.load(source)
        except EOFError:
            return
        images, reasons = decode_chunk(sources, config)
        pickle.dump(reasons, out, 5)
        out.write(images.reshape(-1).data)
        out.flush()
