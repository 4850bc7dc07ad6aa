"""Classify large numbers of images on all cores of a machine or cluster, with Ray Data.

    python -m eanet.predict_many photos predictions                     a folder, on this machine
    python -m eanet.predict_many s3://bucket/photos s3://bucket/out     a bucket (`pip install s3fs`; gcsfs for gs://)
    python -m eanet.predict_many user/dataset predictions               a data set of the Hub
    python -m eanet.predict_many SOURCE DESTINATION --address auto      on the Ray cluster that this machine belongs to

SOURCE holds image files, or Parquet files with a column of image bytes; where it holds both, --image-column chooses these.
`hf://datasets/user/name/data/test-*` and other patterns choose files of a URL.

DESTINATION gets Parquet files with the columns path, label, score, predictions (a list of label and score) and error. An
image that cannot be read is a row with an error. After a stop, the same command goes on from the finished files.
Exit status: 0, every image has a row, some perhaps with an error; 2, bad arguments, or no image could be read in a job that
ran without a stop; 130, stopped by Ctrl-C.

Needs `pip install "ray[data]" onnxruntime pillow tqdm`. On a cluster, every machine needs these and must see SOURCE and
DESTINATION; code and model are sent to it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from eanet.batch import load_model
from eanet.cli import (
    UserError,
    duration,
    first_line,
    native_stderr_silenced,
    nonempty,
    positive_int,
    printable,
    require,
    run,
)
from eanet.machine import available_cores
from eanet.shards import ShardClassifier, close_job, open_job, shard_name
from eanet.sources import Source, filesystem, is_url, list_source, one_line
from modeling_eanet import CONFIG_FILE

ROOT = Path(os.path.abspath(__file__)).parents[1]  # holds a model unless eanet is installed as a package
HINT = '`pip install "ray[data]"`'
INTERRUPTED = "stopped; the same command goes on from the finished shards"
SHARD_SIZE = 1000
LINE_SECONDS = 30  # between lines of progress where there is no terminal
CONNECT_SECONDS = 15
STORE_BYTES = 2**27  # Ray's object store holds the lists of the shards, no images


class Summary(NamedTuple):
    """What a job has done in this run: images classified, those of them with an error, and images finished before."""

    images: int
    errors: int
    before: int


def predict_many(
    source: str,
    destination: str,
    *,
    model_name: str,
    top_k: int | None = None,
    workers: int | None = None,
    address: str | None = None,
    image_column: str | None = None,
    shard_size: int = SHARD_SIZE,
) -> Summary:
    """Classify all images of a source into Parquet files.

    Args:
        source: see `list_source`.
        destination: folder or URL; of this job, or new.
        model_name: model folder, Hub repo id or ONNX file.
        top_k: labels per image; None for 5, or all if the model has fewer classes.
        workers: processes, with a core each; None for all cores.
        address: of a running Ray cluster, host:port or "auto"; None to use this machine only.
        image_column: of Parquet files; None to find it by its type.
        shard_size: images per file of the destination.

    Returns:
        What was done.

    Raises:
        UserError: an argument is out of range, Ray is missing or does not answer, or a worker fails.
        OSError: a local folder cannot be read or written.
    """
    ray = _import_ray(address)
    model, content = load_model(model_name, "onnx"), _onnx_file(model_name)
    classes = model.config.num_classes
    if top_k is not None and top_k > classes:
        raise UserError(f"top_k {top_k}: the model has only {classes} classes")
    top_k = top_k or min(5, classes)
    listed = list_source(source, image_column)
    destination = destination if is_url(destination) else os.path.abspath(destination)
    root = listed.root if is_url(listed.root) else os.path.normpath(listed.root)
    if listed.column is not None and _is_inside(destination, root):
        raise UserError(f"{printable(destination)}: is inside the source; use another folder")
    job = _describe(listed, root, content, top_k, shard_size)
    finished = open_job(destination, job)
    shards = [(number, pieces) for number, pieces in enumerate(listed.shards(shard_size)) if number not in finished]
    before = job["images"] - sum(stop - start for _, pieces in shards for _, start, stop in pieces)
    arguments = (dataclasses.replace(listed, files=(), rows=()), destination, content, top_k)
    images = errors = 0
    if shards:
        with _cluster(ray, address, workers) as cores:
            count = min(workers or cores, len(shards))
            with contextlib.closing(_classify(ray, shards, count, arguments)) as results:
                for result in with_progress(results, job["images"], before):
                    images, errors = images + int(result["images"]), errors + int(result["errors"])
    close_job(destination)
    return Summary(images, errors, before)


def _is_inside(destination: str, root: str) -> bool:
    """Return whether the files of a job would be listed as those of its source."""
    from fsspec.utils import glob_translate

    with one_line(printable(destination), "cannot be written"):
        (files, inner), (others, outer) = filesystem(destination), filesystem(root)
    if files.protocol != others.protocol:
        return False
    inner, outer = inner.rstrip("/"), outer.rstrip("/")
    if is_url(root) and glob.has_magic(outer):
        return re.fullmatch(glob_translate(outer), f"{inner}/{shard_name(0)}") is not None
    return f"{inner}/".startswith(f"{outer}/")


def _describe(listed: Source, root: str, model: bytes, top_k: int, shard_size: int) -> dict:
    """Return what has to be the same for a job to go on."""
    return {
        "source": printable(root),
        "images": sum(listed.rows),
        "source_checksum": listed.checksum,
        "model_checksum": hashlib.sha256(model).hexdigest()[:16],
        "top_k": top_k,
        "shard_size": shard_size,
    }


def _import_ray(address: str | None):
    """Import Ray with settings that it reads from the environment at this time."""
    settings = {"USAGE_STATS_ENABLED": "0", "ENABLE_AUTO_CONNECT": "0"}
    if address is None:
        settings["ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on every system: listen on the loopback address only
    else:  # or it waits many minutes for a cluster that is gone
        settings |= {"NUM_REDIS_GET_RETRIES": "1", "py_gcs_connect_timeout_s": str(CONNECT_SECONDS)}
    for name, value in settings.items():
        os.environ.setdefault(f"RAY_{name}", value)
    require("pandas", HINT)  # ray.data says less clearly what is missing
    require("pyarrow", HINT)
    ray = require("ray", HINT)
    require("ray.data", HINT)
    return ray


def _onnx_file(name: str) -> bytes:
    from eanet.export.onnx import find_onnx

    return find_onnx(name).read_bytes()


@contextlib.contextmanager
def _cluster(ray, address: str | None, workers: int | None) -> Iterator[int]:
    """Start Ray on this machine, out of reach of others, or connect to a cluster; yield the number of its cores."""
    options: dict = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cores = available_cores()
        _check_workers(workers, cores)
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    else:
        import eanet
        import modeling_eanet

        _check_answers(address)
        options |= {"address": address, "runtime_env": {"py_modules": [eanet, modeling_eanet]}}
    logging.disable(logging.CRITICAL)  # Ray Data sets up its own logger and logs what it raises
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints to it when a worker died, until it is shut down
        try:
            try:
                with native_stderr_silenced():
                    ray.init(**options)
            except Exception as error:  # of many kinds, from ConnectionError to AssertionError
                raise UserError(f"{address or 'Ray'}: cannot be used ({first_line(error)})") from None
            cores = int(ray.cluster_resources().get("CPU", 0))
            if not cores:
                raise UserError(f"{printable(address or 'Ray')}: has no cores for workers; add nodes with CPUs")
            _check_workers(workers, cores)
            yield cores
        finally:
            ray.shutdown()
            logging.disable(logging.NOTSET)


def _check_workers(workers: int | None, cores: int) -> None:
    if workers is not None and workers > cores:
        raise UserError(f"workers {workers}: must be at most {cores}, the number of cores")


def _check_answers(address: str) -> None:
    """Connect to the port first: Ray would wait for minutes."""
    if address == "auto" and not (address := os.environ.get("RAY_ADDRESS", "")):
        return
    match = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    if not match:
        raise UserError(f"{printable(address)}: must be auto, or host:port of a cluster that this machine belongs to")
    try:
        socket.create_connection((match[1], int(match[2])), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"{printable(address)}: does not answer ({first_line(error)})") from None


def _classify(ray, shards: list, workers: int, arguments: tuple) -> Generator[dict]:
    """Yield the result of each shard as it is finished."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    items = [{"shard": json.dumps(shard)} for shard in shards]
    # A block is a shard. Ray Data starts a killed worker again, and repeats its shard.
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardClassifier,
        fn_constructor_args=arguments,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=1,
    )
    try:
        with contextlib.closing(iter(results.iter_rows())) as rows:  # stops Ray Data before Ray
            with native_stderr_silenced():  # Ray warns of the way in which Ray Data starts workers
                first = next(rows)
            for row in itertools.chain([first], rows):
                if row["failure"]:
                    raise _failed(row["failure"])
                yield row
    except ray.exceptions.RayError as error:
        raise _failed(first_line(error)) from None


def _failed(reason: str) -> UserError:
    return UserError(f"a worker failed ({reason}); the same command goes on from the finished shards")


def with_progress(results: Iterable[dict], total: int, done: int) -> Iterator[dict]:
    """Show progress on standard error: a bar on a terminal, else a line now and then."""
    from tqdm import tqdm

    start = last = time.monotonic()
    before = done
    with tqdm(total=total, initial=done, unit=" images", disable=None, leave=False) as bar:
        for result in results:
            done += int(result["images"])
            bar.update(int(result["images"]))
            now = time.monotonic()
            if bar.disable and now - last > LINE_SECONDS:
                rate, last = (done - before) / (now - start), now
                left = duration((total - done) / rate)
                print(f"{done:,} of {total:,} images, {rate:,.0f} images/s, {left} left", file=sys.stderr, flush=True)
            yield result


def parse_args(argv=None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eanet.predict_many", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=nonempty, metavar="SOURCE",
                        help="folder, URL, Parquet file, or data set of the Hub (user/name)")  # fmt: skip
    parser.add_argument("destination", type=nonempty, metavar="DESTINATION", help="folder or URL for the Parquet files")
    default = str(ROOT) if (ROOT / CONFIG_FILE).is_file() else None
    parser.add_argument("--model", type=nonempty, default=default, required=default is None, metavar="NAME",
                        help="folder, Hub repository or ONNX file (default: the model of this repository)")  # fmt: skip
    parser.add_argument("--top-k", type=positive_int, metavar="K", help="labels per image (default: 5)")
    parser.add_argument("--workers", type=positive_int, metavar="N", help="processes, with a core each (default: all cores)")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster, or auto (default: this machine only)")
    parser.add_argument("--image-column", metavar="NAME", help="of Parquet files (default: found by its type)")
    parser.add_argument("--shard-size", type=positive_int, default=SHARD_SIZE, metavar="N",
                        help="images per output file, which is what a stop loses per worker (default: 1000)")  # fmt: skip
    return parser.parse_args(argv)


def main(argv=None) -> int:
    """Run the program and return its exit status."""
    args = parse_args(argv)
    start = time.monotonic()
    done = predict_many(args.source, args.destination, model_name=args.model, top_k=args.top_k, workers=args.workers,
                        address=args.address, image_column=args.image_column, shard_size=args.shard_size)  # fmt: skip
    rate = done.images / (time.monotonic() - start)
    before = f", {done.before:,} before" if done.before else ""
    print(f"{printable(args.destination)}: {done.images:,} images ({rate:,.0f}/s){before}; {done.errors:,} with an error")
    return 2 if done.errors and done.errors == done.images + done.before else 0


if __name__ == "__main__":
    sys.argv[0] = "eanet.predict_many"  # names the program in error messages
    sys.exit(run(main, interrupted=INTERRUPTED))
