"""The images of a large job: files, or rows of Parquet files, in a local folder, a bucket or a data set of the Hub."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import glob
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from eanet.cli import UserError, first_line, printable, require
from eanet.image_files import STORAGE_ERRORS, find_images
from eanet.images import image_suffixes, is_hidden, load_image

PARQUET = ".parquet"
READERS = 16  # requests to a bucket at the same time, per process
ROWS = 64  # of a Parquet file that are in memory at a time
Piece = tuple[str, int, int]  # file, first row, end: an image file is (path, 0, 1)


@dataclasses.dataclass(frozen=True)
class Source:
    """A fixed list of images.

    Attributes:
        place: the folder, file or URL they are in.
        base: folder that local paths are relative to, on every machine.
        column: of the images in Parquet files; None for image files.
        files: image files or Parquet files; URLs if `place` is one.
        rows: number of images in each file.
    """

    place: str
    base: str
    column: str | None
    files: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()

    @property
    def root(self) -> str:
        """Return `place` as every machine finds it."""
        return self.place if is_url(self.place) else os.path.join(self.base, self.place)

    @property
    def checksum(self) -> str:
        """Return a checksum of the list."""
        return hashlib.sha256(json.dumps([self.files, self.rows, self.column]).encode()).hexdigest()[:16]

    def shards(self, size: int) -> Iterator[list[Piece]]:
        """Cut the list into shards of `size` images; the last one may have fewer."""
        pieces: list[Piece] = []
        room = size
        for file, rows in zip(self.files, self.rows, strict=True):
            start = 0
            while start < rows:
                stop = min(rows, start + room)
                pieces.append((file, start, stop))
                start, room = stop, room - (stop - start)
                if not room:
                    yield pieces
                    pieces, room = [], size
        if pieces:
            yield pieces


def list_source(place: str, image_column: str | None = None) -> Source:
    """List the images of a source.

    Args:
        place: a folder of images or Parquet files, a Parquet file, a URL that fsspec reads (also one with `*`), or the id of
            a data set on the Hub (user/name).
        image_column: of Parquet files; None to find it by its type, binary or a struct with `bytes`.

    Returns:
        Its image files in order of name, or the rows of its Parquet files. Hidden files are left out.

    Raises:
        UserError: there is nothing, or both; or a Parquet file is damaged or has no such column.
        OSError: it cannot be read.
    """
    from eanet.data.hub import is_repo_id

    source, name = Source(place, os.getcwd(), None), printable(place)
    if os.path.exists(place):
        images, tables = _find_local(place)
    elif is_url(place) or is_repo_id(place):
        source = source if is_url(place) else dataclasses.replace(source, place=f"hf://datasets/{place}")
        with one_line(name, "cannot be listed"):
            images, tables = _find_remote(*filesystem(source.place))
    else:
        raise UserError(f"{name}: no such file or folder")
    if not images and not tables:
        raise UserError(f"{name}: no images and no Parquet files there")
    if not tables and image_column is not None:
        raise UserError(f"{name}: holds image files, which have no column {image_column}")
    if images and image_column is None:
        if found := _column_of_images(source, tables):
            file, column = map(printable, found)
            raise UserError(
                f"{name}: holds image files ({printable(images[0])}) and Parquet files of images ({file}); "
                f"give image_column {column} to read these, or a folder or pattern of the others"
            )
        return dataclasses.replace(source, files=tuple(images), rows=(1,) * len(images))
    column, _ = _inspect(source, tables[0], image_column)
    with ThreadPoolExecutor(READERS) as pool:
        rows = [rows for _, rows in pool.map(lambda file: _inspect(source, file, column), tables)]
    if not any(rows):
        raise UserError(f"{name}: its Parquet files have no rows")
    return dataclasses.replace(source, column=column, files=tuple(tables), rows=tuple(rows))


def is_url(place: str) -> bool:
    """Return whether a place is read by fsspec."""
    return "://" in place


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL or local path, and the path in it."""
    fsspec = require("fsspec", "`pip install fsspec`")
    return fsspec.url_to_fs(url) if is_url(url) else (fsspec.filesystem("file"), url)


@contextlib.contextmanager
def one_line(name: str, problem: str):
    """Turn the errors of a storage service, whose clients have their own each, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and not is_url(name):
            raise
        raise UserError(f"{name}: {problem} ({first_line(error) or type(error).__name__})") from None


def _find_local(place: str) -> tuple[list[str], list[str]]:
    """Return the images and the Parquet files in a folder; a file is one of them by its suffix."""
    if not os.path.isdir(place):
        return ([], [place]) if place.lower().endswith(PARQUET) else ([place], [])
    try:
        images = list(find_images([place]))
    except UserError:  # no images
        found = glob.glob(f"{glob.escape(place)}/**/*{PARQUET}", recursive=True)
        return [], sorted(path for path in found if not is_hidden(os.path.basename(path)))
    files = (os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names)
    tables = sorted(path for path in files if path.lower().endswith(PARQUET))
    return images, [path for path in tables if not any(map(is_hidden, os.path.relpath(path, place).split(os.sep)))]


def _find_remote(files, root: str) -> tuple[list[str], list[str]]:
    pattern = glob.has_magic(root)
    names = files.glob(root) if pattern else files.find(root)
    start = 0 if pattern else len(root)
    visible = [name for name in sorted(names) if not any(map(is_hidden, name[start:].split("/")))]
    images = [name for name in visible if os.path.splitext(name)[1].lower() in image_suffixes()]
    tables = [name for name in visible if name.lower().endswith(PARQUET)]
    return [files.unstrip_protocol(name) for name in images], [files.unstrip_protocol(name) for name in tables]


def _column_of_images(source: Source, tables: list[str]) -> tuple[str, str] | None:
    """Return the first Parquet file with a column of images, and that column; the predictions of a job have none."""

    def columns(file: str) -> list[str]:
        with one_line(printable(file), "not a readable Parquet file"), _parquet(source, file) as table:
            return [field.name for field in table.schema_arrow if _holds_images(field.type)]

    with ThreadPoolExecutor(READERS) as pool:
        return next(((file, names[0]) for file, names in zip(tables, pool.map(columns, tables), strict=True) if names), None)


@contextlib.contextmanager
def _parquet(source: Source, file: str):
    """Yield an opened Parquet file."""
    parquet = require("pyarrow.parquet", "`pip install pyarrow`")
    if is_url(file):
        with one_line(printable(file), "cannot be read"):
            opened = filesystem(file)[0].open(file)
    else:
        opened = open(os.path.join(source.base, file), "rb")
    source_file = _Remote(opened, file) if is_url(file) else opened
    # pre_buffer would read the whole column of a row group into memory.
    with opened, parquet.ParquetFile(source_file, buffer_size=2**22, pre_buffer=False) as table:
        yield table


class _Remote:
    """An open remote file. Failed reads are UserErrors, unlike the OSErrors that pyarrow raises for damaged content."""

    def __init__(self, opened, url: str):
        self.opened, self.name = opened, printable(url)

    def __getattr__(self, name):
        return getattr(self.opened, name)

    def read(self, size: int = -1) -> bytes:
        with one_line(self.name, "cannot be read"):
            content = self.opened.read(size)
        return content


def _inspect(source: Source, file: str, wanted: str | None) -> tuple[str, int]:
    """Return the column with the images, and the number of rows."""
    with one_line(printable(file), "not a readable Parquet file"), _parquet(source, file) as table:
        schema, rows = table.schema_arrow, table.metadata.num_rows
    listed = ", ".join(map(printable, schema.names))
    found = [field.name for field in schema if _holds_images(field.type) and wanted in (None, field.name)]
    if len(found) == 1:
        return found[0], rows
    if wanted is not None:
        raise UserError(f"{printable(file)}: no column {printable(wanted)} with the bytes of images; it has {listed}")
    if found:
        raise UserError(
            f"{printable(file)}: columns {', '.join(map(printable, found))} have images; name one as image_column"
        )
    raise UserError(f"{printable(file)}: no column has the bytes of images; it has {listed}")


def _holds_images(kind) -> bool:
    """Return whether a column has this type: bytes, or a struct of bytes and path, as `datasets` writes it."""
    import pyarrow.types as is_type

    if is_type.is_struct(kind):
        index = kind.get_field_index("bytes")
        if index < 0:
            return False
        kind = kind.field(index).type
    return is_type.is_binary(kind) or is_type.is_large_binary(kind)


# Reading, on the workers ----------------------------------------------------------------------------------------------


class ImageReader:
    """Reads and resizes images of a source, on a worker.

    A row group of a Parquet file can only be read from its first row on. So the file stays open, and its next rows are read
    from where the last ones ended.

    Args:
        source: where the images are; its lists are not used.
        config: EANetConfig, for `load_image`.
    """

    def __init__(self, source: Source, config):
        self.source, self.config = source, config
        self._file, self._resources = "", contextlib.ExitStack()
        self._rows_of_file: _Rows | None = None

    def read(self, pieces: list[Piece]) -> Iterator[tuple[str, np.ndarray | str]]:
        """Read images.

        Args:
            pieces: which ones.

        Yields:
            The path (of a row, "file.parquet[3]") with the image, uint8 (image_size, image_size, 3), or with the reason why
            it cannot be read.

        Raises:
            UserError: the storage fails, rather than one of its files.
        """
        contents = self._contents(pieces)
        if not is_url(self.source.place) or self.source.column is not None:
            yield from (_load(path, content, self.config) for path, content in contents)
            return
        with ThreadPoolExecutor(READERS) as pool:  # a request is mostly waiting
            while window := list(itertools.islice(contents, 4 * READERS)):
                yield from pool.map(lambda found: _load(found[0], found[1], self.config), window)

    def _contents(self, pieces: list[Piece]) -> Iterator[tuple[str, Any]]:
        """Yield each image's path, and a local path, an open file, a function that returns one, or why there is none."""
        files = filesystem(self.source.place)[0] if is_url(self.source.place) else None
        for file, start, stop in pieces:
            if self.source.column is not None:
                yield from self._rows(file, start, stop)
            elif files is not None:
                yield file, functools.partial(_fetch, files, file)
            else:
                yield file, os.path.join(self.source.base, file)

    def _rows(self, file: str, start: int, stop: int) -> Iterator[tuple[str, Any]]:
        import pyarrow

        row = start
        try:
            if file != self._file or self._rows_of_file is None:
                self._close()
                table = self._resources.enter_context(_parquet(self.source, file))
                self._file, self._rows_of_file = file, _Rows(table, self.source.column)
            for cell in self._rows_of_file.read(start, stop):
                content = cell.as_py()
                content = content.get("bytes") if isinstance(content, dict) else content
                yield f"{file}[{row}]", io.BytesIO(content or b"")
                row += 1
        except (OSError, pyarrow.ArrowException) as error:
            self._close()
            _check_storage(file, error)
            reason = f"damaged Parquet file ({first_line(error)})"
            yield from ((f"{file}[{missing}]", UserError(reason)) for missing in range(row, stop))
        except Exception:  # of the storage; the open file has lost its place
            self._close()
            raise

    def _close(self) -> None:
        self._rows_of_file = None
        self._resources.close()


def _fetch(files, url: str) -> io.BytesIO | OSError:
    """Return a remote file's content, or the error where it is missing from its folder."""
    with one_line(printable(url), "cannot be read"):
        try:
            content = files.cat_file(url)
        except (FileNotFoundError, IsADirectoryError) as error:
            if not files.exists(url.rpartition("/")[0]):  # without its token, a private repository is not found either
                raise
            return error
    return io.BytesIO(content)


class _Rows:
    """The rows of one column of an opened Parquet file; reading rows after the last ones decodes none of these again."""

    def __init__(self, table, column: str | None):
        self._table, self._column = table, column
        counts = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        self._starts = list(itertools.accumulate(counts, initial=0))
        self._row, self._cells, self._batches = 0, (), self._decode(0)

    def read(self, start: int, stop: int) -> Iterator:
        """Yield the rows from `start` to `stop`, as pyarrow scalars."""
        group = bisect.bisect_right(self._starts, start) - 1
        if start < self._row or self._row < self._starts[group]:
            self._row, self._cells, self._batches = self._starts[group], (), self._decode(group)
        while True:
            yield from self._cells[max(0, start - self._row) : stop - self._row]
            end = self._row + len(self._cells)
            if end >= stop:
                return
            cells = next(self._batches, None)
            if cells is None:
                raise OSError(f"has {end} rows; row {stop - 1} was listed")
            self._row, self._cells = end, cells

    def _decode(self, group: int) -> Iterator:
        for number in range(group, self._table.num_row_groups):
            for batch in self._table.iter_batches(ROWS, [number], [self._column]):
                yield batch.column(0)


def _load(path: str, content, config) -> tuple[str, np.ndarray | str]:
    """Return the path with the image, or with the reason why it cannot be read."""
    if callable(content):
        content = content()
    try:
        if isinstance(content, Exception):
            raise content
        return path, load_image(content, config)
    except (OSError, ValueError, MemoryError) as error:
        _check_storage(path, error)
        return path, getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_storage(path: str, error: Exception) -> None:
    """Raise UserError if an error is not about this one file."""
    if getattr(error, "errno", None) in STORAGE_ERRORS:
        raise UserError(f"{printable(path)}: cannot be read ({first_line(error)})") from None
