"""A large job in shards: what it is, what is finished, and how a worker classifies one shard into one Parquet file."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import posixpath
import re
import socket
import time
import uuid
from collections.abc import Iterator

import numpy as np

from eanet.cli import UserError, atomic_path, first_line, printable, temporary_folder
from eanet.images import is_hidden
from eanet.predict import fitting_batch, predict_batch, top_predictions
from eanet.result_files import parquet_schema, row_of, valid_text
from eanet.sources import ImageReader, Piece, Source, filesystem, is_url, one_line

JOB_FILE = "_job.json"  # readers of Parquet folders leave out names that begin with _ or .
BATCH = 64
LEFT_SECONDS = 3600  # a temporary file lives for seconds; one of this age is a killed worker's


def shard_name(number: int) -> str:
    """Return the name of a shard's file."""
    return f"part-{number:06d}.parquet"


def open_job(destination: str, job: dict) -> set[int]:
    """Create a job's folder, or go on with it.

    Args:
        destination: a folder or URL.
        job: what makes the predictions, by identifier; written to `JOB_FILE`.

    Returns:
        The numbers of its finished shards.

    Raises:
        UserError: the folder holds another job, or other files.
    """
    name = printable(destination)
    with one_line(name, "cannot be written"):
        files, root = filesystem(destination)
        files.invalidate_cache()
        names = [posixpath.basename(path) for path in files.ls(root, detail=False)] if files.isdir(root) else []
        names = [name for name in names if name]  # storage services list an empty folder as "predictions/" in itself
        if JOB_FILE in names:
            earlier = json.loads(files.cat_file(posixpath.join(root, JOB_FILE)))
            for key in job:
                if earlier.get(key) != job[key]:
                    was, now = printable(str(earlier.get(key))), printable(str(job[key]))
                    key = key.replace("_", " ")
                    raise UserError(f"{name}: holds a job with another {key} ({was}, now {now}); use a new folder")
        elif not all(map(is_hidden, names)):
            raise UserError(f"{name}: is not empty, and holds no job; use a new folder")
        else:
            files.makedirs(root, exist_ok=True)
            write_file(destination, JOB_FILE, json.dumps(job, indent=2).encode())
    return {int(match[1]) for match in map(re.compile(r"part-(\d+)\.parquet").fullmatch, names) if match}


def close_job(destination: str) -> None:
    """Remove the temporary files that killed workers left in a finished job's folder, as far as possible."""
    with contextlib.suppress(Exception):  # clients of storage services have their own errors
        files, root = filesystem(destination)
        files.invalidate_cache()
        for path in files.ls(root, detail=False):
            temporary = re.fullmatch(r"\..+\.tmp", posixpath.basename(path))
            if temporary and time.time() - files.modified(path).timestamp() > LEFT_SECONDS:
                files.rm_file(path)


def write_file(destination: str, name: str, content: bytes) -> None:
    """Write a file under a temporary name and rename it."""
    if not is_url(destination):
        with atomic_path(posixpath.join(destination, name)) as path:
            path.write_bytes(content)
        return
    files, root = filesystem(destination)
    temporary = posixpath.join(root, f".{name}.{uuid.uuid4().hex}.tmp")
    files.pipe_file(temporary, content)
    files.mv(temporary, posixpath.join(root, name))


class ShardClassifier:
    """Classifies shards, one Parquet file each; for `map_batches`, which makes one of these in every worker.

    Args:
        source: where the images are; its lists are not used.
        destination: an existing folder or URL.
        model: content of the ONNX file.
        top_k: labels per image.
    """

    def __init__(self, source: Source, destination: str, model: bytes, top_k: int):
        from eanet.export.onnx import OnnxModel

        self.source, self.destination, self.top_k = source, destination, top_k
        with temporary_folder() as folder:
            path = folder / "model.onnx"
            path.write_bytes(model)
            self.model = OnnxModel(path, threads=1)
        self.batch_size = fitting_batch(BATCH, self.model.config.image_size)
        self.reader = ImageReader(source, self.model.config)

    def __call__(self, batch: dict) -> dict:
        """Classify a shard.

        Args:
            batch: `shard`, a list of one, JSON of its number and pieces.

        Returns:
            Lists of one: `images` and `errors`, how many there were, and `failure`, why the shard has no file, or "". Ray
            Data would keep of an exception no more than that there was one.
        """
        images = errors = 0
        failure = ""
        try:
            images, errors = self.classify(*json.loads(batch["shard"][0]))
        except UserError as error:
            failure = str(error)
        except Exception as error:  # of the storage service's client
            failure = f"{type(error).__name__}: {first_line(error)}"
        return {"images": np.array([images]), "errors": np.array([errors]), "failure": np.array([failure])}

    def classify(self, number: int, pieces: list[Piece]) -> tuple[int, int]:
        """Classify one shard and write its file; return the number of its images, and of those with an error.

        Raises:
            UserError: this machine cannot see the source or the destination.
            Exception: the storage service fails.
        """
        for place in (self.source.root, posixpath.join(self.destination, JOB_FILE)):
            if not is_url(place) and not os.path.exists(place):
                where = f"{printable(place)}: not there on the worker {socket.gethostname()}"
                raise UserError(f"{where}; use a folder that all machines share, or a bucket")
        rows: list[dict] = []
        images = self.reader.read(pieces)
        while batch := list(itertools.islice(images, self.batch_size)):
            rows += self._classify_batch(batch)
        write_file(self.destination, shard_name(number), _parquet(rows))
        return len(rows), sum(row["error"] is not None for row in rows)

    def _classify_batch(self, batch) -> list[dict]:
        images = [image for _, image in batch if not isinstance(image, str)]
        best: Iterator[list[dict]] = iter(())
        if images:
            probabilities = predict_batch(self.model, np.stack(images), self.batch_size)
            best = iter(top_predictions(probabilities, self.model.config, self.top_k))
        return [_row(path, [], image) if isinstance(image, str) else _row(path, next(best), None) for path, image in batch]


def _row(path: str, predictions: list[dict], error: str | None) -> dict:
    return row_of(valid_text(path), predictions, error and valid_text(error))


def _parquet(rows: list[dict]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, parquet_schema()), out)
    return out.getvalue().to_pybytes()
