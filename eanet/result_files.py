"""Files of results that a job which was stopped, or killed, can go on with: CSV, JSON Lines and Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from eanet.cli import UserError, atomic_path, first_line, locked, read_json, require
from eanet.results import Result, csv_writer

SUFFIXES = (".csv", ".jsonl", ".parquet")
SYNC_SECONDS = 5
_PARQUET_ROWS = 5000  # at a time


class JsonLines:
    """Rows as JSON objects with the keys path, label, score, predictions and error, one per line."""

    header = b""

    def encode(self, result: Result) -> bytes:
        """Return a result as one row."""
        return json.dumps(row_of(*result)).encode() + b"\n"

    def decode(self, row: bytes) -> tuple[str, bool]:
        """Return the path in a row, and whether the image could not be read. Raises ValueError, KeyError or TypeError."""
        found = json.loads(row)
        return found["path"], found["error"] is not None

    def ends(self, row: bytes) -> bool:
        """Return whether bytes that end with a newline are a complete row."""
        return True


class CommaSeparated:
    """Rows of the columns path, label, score, label_2, score_2, … and error.

    Args:
        top_k: number of labels.
    """

    def __init__(self, top_k: int):
        self._columns = 2 * top_k
        names = [f"{name}_{rank}" if rank > 1 else name for rank in range(1, top_k + 1) for name in ("label", "score")]
        self.header = self._row(["path", *names, "error"])

    def _row(self, values) -> bytes:
        text = io.StringIO(newline="")
        csv_writer(text).writerow(values)
        return text.getvalue().encode("utf-8", "surrogateescape")

    def encode(self, result: Result) -> bytes:
        """Return a result as one row."""
        values = [value for p in result.predictions for value in (p["label"], p["score"])]
        return self._row([result.path, *(values or [""] * self._columns), result.error or ""])

    def decode(self, row: bytes) -> tuple[str, bool]:
        """Return the path in a row, and whether the image could not be read. Raises ValueError."""
        values = next(csv.reader(io.StringIO(row.decode("utf-8", "surrogateescape"), newline="")))
        if len(values) != self._columns + 2:
            raise ValueError(f"{len(values)} columns instead of {self._columns + 2}")
        return values[0], values[-1] != ""

    def ends(self, row: bytes) -> bool:
        """Return whether bytes that end with a newline are a complete row: not if the newline is within quotes."""
        return row.count(b'"') % 2 == 0


class ResultFile:
    """A file with one row per image, in a format that its suffix names.

    Rows are appended as they come, so a killed process leaves complete rows and at most a torn one, which the next process
    removes. Next to the file, NAME.job says what the results are made with; the process that writes has locked it. Rows for
    a Parquet file, which cannot be appended to, are kept in NAME.part, as JSON Lines, until all are there.

    Args:
        path: the file, with one of `SUFFIXES`.
        resume: go on with a file that exists; else it is refused.

    Attributes:
        rows: how many images have a row.
        errors: how many of them could not be read.

    Raises:
        UserError: another suffix, the folder does not exist or cannot be written, the file exists, or pyarrow is missing.
    """

    def __init__(self, path, resume: bool = False):
        self.path, self.rows, self.errors, self._resume = Path(path), 0, 0, resume
        if self.path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path}: unknown format; the name must end with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        self._parquet = self.path.suffix.lower() == ".parquet"
        self._row_path = self.path.with_name(f"{self.path.name}.part") if self._parquet else self.path
        self._job_path = self.path.with_name(f"{self.path.name}.job")
        self._done: Counter[str] = Counter()
        self._synced, self._resources = time.monotonic(), contextlib.ExitStack()
        folder = self.path.parent
        if not folder.is_dir():
            raise UserError(f"{path}: no such folder: {folder}")
        if not os.access(folder, os.W_OK):
            raise UserError(f"{path}: no permission to write to its folder")
        if self.path.exists() and not self.path.is_file():
            raise UserError(f"{path}: exists, and is not a regular file")
        if self._parquet:
            require("pyarrow", "`pip install pyarrow`, or write .csv or .jsonl")
        self._started()

    def _started(self) -> bool:
        """Return whether there are rows; raise UserError if there are and they must not be added to."""
        started = _has_content(self.path) or _has_content(self._row_path)
        if started and not self._resume:
            raise UserError(f"{self.path}: already exists; use --resume to continue, or write to another file")
        return started

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._resources.close()

    def begin(self, job: dict) -> None:
        """Open the file, and read what it has.

        Args:
            job: the options that must match to resume, JSON values by name; "top_k" must be there.

        Raises:
            UserError: the file was started with another job, is no file of results, or another process writes to it.
            OSError: it cannot be written.
        """
        self._format = JsonLines() if self.path.suffix.lower() != ".csv" else CommaSeparated(job["top_k"])
        if self._resources.enter_context(locked(self._job_path, os.O_RDWR | os.O_CREAT)) is False:
            raise UserError(f"{self.path}: another process is writing to it")
        started = self._started()  # only now: what another process has just finished is there
        if started:
            self._check_job(job)
        if self._parquet and _has_content(self.path) and not _has_content(self._row_path):
            with atomic_path(self._row_path) as temporary, open(temporary, "wb") as file:
                file.writelines(map(self._format.encode, _read_parquet(self.path)))
        self._file = self._resources.enter_context(open(self._row_path, "ab", buffering=0))
        if not started:
            self._write_job(job)
        self._read()

    def _write_job(self, job: dict) -> None:
        with open(self._job_path, "w", encoding="utf-8") as file:  # in place: another file would not be locked
            file.write(json.dumps(job, indent=2, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _check_job(self, job: dict) -> None:
        if not _has_content(self._job_path):
            self._job_path.unlink(missing_ok=True)  # locking has made it
            raise UserError(f"{self.path}: cannot be resumed without {self._job_path.name}; write to another file")
        before = read_json(self._job_path)
        before = before if isinstance(before, dict) else {}
        for name, value in job.items():
            if before.get(name) != value:
                reason = f"was started with {name} {before.get(name)}, not {value}"
                raise UserError(f"{self.path}: {reason}; resume it with the same settings, or write to another file")

    def _read(self) -> None:
        """Count the rows, and cut off what is not a complete one."""
        size = 0
        with open(self._row_path, "rb") as file:
            if self._format.header:
                header = file.readline()
                if not self._format.header.startswith(header):
                    raise UserError(f"{self.path}: its columns are not those of results")
                size = len(header) if header == self._format.header else 0
            for row in self._complete_rows(file):
                try:
                    path, failed = self._format.decode(row)
                    self._done[valid_text(path)] += 1
                except (ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
                    where = f"{self._row_path}: row {self.rows + 1}"
                    raise UserError(f"{where} is not a result ({first_line(error)}); remove it to resume") from None
                self.rows, self.errors, size = self.rows + 1, self.errors + failed, size + len(row)
        self._file.truncate(size)
        if not size:
            self._append([self._format.header])

    def _complete_rows(self, file) -> Iterator[bytes]:
        row = b""
        for line in file:
            row += line
            if line.endswith(b"\n") and self._format.ends(row):
                yield row
                row = b""

    def without_row(self, files: Iterable[str]) -> Iterator[str]:
        """Yield the files that have no row yet; of a file named twice, one for each row that is missing."""
        for file in files:
            name = valid_text(file)
            if not self._done.get(name):
                yield file
            elif self._done[name] == 1:
                del self._done[name]
            else:
                self._done[name] -= 1

    def write(self, results: list[Result]) -> None:
        """Append some rows.

        Raises:
            UserError: the disk is full, for example; all complete rows stay.
        """
        self._append(map(self._format.encode, results))
        self.rows += len(results)
        self.errors += sum(result.error is not None for result in results)

    def _append(self, rows: Iterable[bytes]) -> None:
        try:
            left = memoryview(b"".join(rows))
            while left:
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"{self.path}: {error.strerror or error}; what was written stays, and --resume goes on with it")

    def finish(self) -> None:
        """Write everything to the disk, and the Parquet file from its rows.

        Raises:
            UserError: the disk is full, for example; all rows stay.
        """
        try:
            os.fsync(self._file.fileno())
            if self._parquet:
                with atomic_path(self.path) as temporary:
                    _write_parquet(self._row_path, temporary)
                self._row_path.unlink()
        except OSError as error:
            raise self._failed(error) from None


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def valid_text(path: str) -> str:
    r"""Return a path as text that every format can hold: bytes that are not UTF-8 become escapes such as \udcff."""
    return path.encode("utf-8", "backslashreplace").decode()


def row_of(path: str, predictions: list[dict], error: str | None = None) -> dict:
    """Return the columns of an image's row; label and score are those of the best prediction, if there is one."""
    best = predictions[0] if predictions else {"label": None, "score": None}
    return {"path": path, **best, "predictions": predictions, "error": error}


def parquet_schema():
    """Return the `pyarrow.Schema` of rows."""
    import pyarrow as pa

    text, score = pa.string(), pa.float32()
    predictions = pa.list_(pa.struct([("label", text), ("score", score)]))
    return pa.schema([("path", text), ("label", text), ("score", score), ("predictions", predictions), ("error", text)])


def _write_parquet(source: Path, target: Path) -> None:
    """Convert rows of JSON to Parquet, a few thousand at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = parquet_schema()
    with open(source, "rb") as file, parquet.ParquetWriter(target, schema) as writer:
        while lines := list(itertools.islice(file, _PARQUET_ROWS)):
            rows = [json.loads(line) for line in lines]
            for row in rows:
                row["path"] = valid_text(row["path"])
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _read_parquet(path: Path) -> Iterator[Result]:
    """Yield the rows of a Parquet file of results."""
    from pyarrow import lib, parquet

    try:
        for batch in parquet.ParquetFile(path).iter_batches(_PARQUET_ROWS):
            for row in batch.to_pylist():
                yield Result(row["path"], row["predictions"], row["error"])
    except (lib.ArrowException, KeyError) as error:
        raise UserError(f"{path}: not a Parquet file of results ({first_line(error)})") from None
