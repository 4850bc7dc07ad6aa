"""Read tables as rows of text: CSV, JSON, JSON lines, lists of files, and Parquet."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from eanet.cli import UserError, first_line, require
from eanet.data.files import MAX_DENSE_BYTES, MAX_EXPANSION, File
from eanet.data.table_index import looks_like_image_name
from eanet.images import LFS_HINT, LFS_PREFIX

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
# Files of these kinds may be a table, or something else that is no fault.
OTHER_SUFFIXES = (".txt", ".lst", ".json", ".parquet")
SEVERAL = "\0several"  # the label of a row with more than one class
MAX_CELL = 2**20
MAX_COLUMNS = 256
TOO_WIDE = f"more than {MAX_COLUMNS} columns; if they are pixels, save each image as a file"
MAX_ROWS = 5_000_000
MIN_ROWS = 100_000  # of a Parquet file with less than one byte per row
SAMPLE = 100  # rows by which columns are recognised
PARQUET_HINT = "`pip install datasets` to read Parquet files"


@dataclasses.dataclass
class Rows:
    """The rows of a table as text.

    Attributes:
        file: where they were read from.
        header: names of the columns; empty names if it has none.
        rows: returns an iterator over the rows, each with one cell per column.
        sample: up to about `SAMPLE` rows from all of it.
        certain_text: False if the encoding is a guess, so that only ASCII can be trusted.
    """

    file: File
    header: list[str]
    rows: Callable[[], Iterator[list[str]]]
    sample: list[list[str]]
    certain_text: bool = True

    @property
    def named(self) -> bool:
        """Whether the table has a header."""
        return any(self.header)


def read_rows(file: File, where: str) -> Rows | str | None:
    """Read a table.

    Args:
        file: CSV with comma, semicolon, tabulator or bar between the columns, JSON lines, a JSON list of objects, a JSON
            object of labels by file, lines with a file and a label, or Parquet.
        where: what to call the data set in messages.

    Returns:
        Its rows; why they cannot be used, in words; or None if it is no table.

    Raises:
        UserError: a CSV or JSON lines file is damaged.
    """
    place = f"{where}: {file.path}"
    if file.suffix == ".parquet":
        return _read_parquet(file)
    try:
        content = file.read()
    except (OSError, UserError):
        if file.suffix in OTHER_SUFFIXES:
            return None
        raise
    if content.startswith(LFS_PREFIX):
        raise UserError(f"{place}: {LFS_HINT}")
    text, certain = decode_text(content)
    if file.suffix in (".txt", ".lst"):
        return _read_list(file, text, certain)
    if file.suffix == ".json":
        return _read_json(file, text)
    if file.suffix in (".jsonl", ".ndjson"):
        return _from_objects(file, _json_lines(text, place))
    return _read_csv(file, text, place, certain)


def cell_text(value) -> str:
    """Return a cell as text: NFC, 3.0 as "3", the only item of a list, `SEVERAL` for more, "" for what is no value."""
    if isinstance(value, list) and value:
        value = value[0] if len(value) == 1 else SEVERAL
    if value is None or isinstance(value, list | dict | bytes):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


def decode_text(content: bytes) -> tuple[str, bool]:
    """Return the text, and whether its encoding is known rather than that of a Windows machine somewhere."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in content[:2]:  # UTF-16 without its mark, as it begins with a letter
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        return content.decode(encoding), True
    except UnicodeDecodeError:
        return content.decode("latin-1"), False


# CSV ------------------------------------------------------------------------------------------------------------------


def _read_csv(file: File, text: str, place: str, certain: bool) -> Rows | str | None:
    if told := re.match(r"\s*\"?sep=([^\s\w\"]|\t)\"?[^\S\n]*\r?\n", text, re.I):  # for Excel
        text = text[told.end() :]
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = told[1] if told else max(",;\t|", key=first.count)
    csv.field_size_limit(MAX_CELL)

    def lines() -> Iterator[list[str]]:
        try:
            for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
                if any(map(str.strip, line)):
                    yield [cell_text(cell) for cell in line]
        except csv.Error as error:
            raise UserError(f"{place}: damaged ({first_line(error)})") from None

    header = next(lines(), None)
    if header is None or len(header) > MAX_COLUMNS:
        return TOO_WIDE if header else None
    if any(map(looks_like_image_name, header)):
        return _rows(file, [""] * len(header), lines, text.count("\n"), certain)

    def below_header() -> Iterator[list[str]]:
        rows = lines()
        next(rows)
        return rows

    wider = [len(row) == len(header) + 1 and row[-1] for row in itertools.islice(below_header(), SAMPLE)]
    if wider and all(wider) and not looks_like_image_name(next(below_header())[0]):  # R gives its row names no header
        header.insert(0, "")
    return _rows(file, header, below_header, text.count("\n"), certain)


def _read_list(file: File, text: str, certain: bool) -> Rows | None:
    """Read lines of file and label, with a tabulator, comma, semicolon or spaces between them; None for other text."""
    kept = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    separator = next((mark for mark in "\t;," if kept and mark in kept[0]), None)
    with_spaces = not separator and bool(kept) and looks_like_image_name(kept[0].rpartition(" ")[0])  # my image.jpg 3

    def cells(line: str) -> list[str]:
        return [cell_text(cell) for cell in (line.rsplit(None, 1) if with_spaces else line.split(separator))]

    width = len(cells(kept[0])) if kept else 0
    if not 1 < width <= MAX_COLUMNS or any(len(cells(line)) != width for line in kept):
        return None
    return _rows(file, [""] * width, lambda: map(cells, kept), len(kept), certain)


def _rows(file: File, header: list[str], rows: Callable, count: int, certain: bool = True) -> Rows:
    """Return `Rows` of lists that may be shorter or longer than the header."""
    if count > MAX_ROWS:
        raise UserError(f"{file.path}: more than {MAX_ROWS:,} rows; divide it")
    width, step = len(header), max(1, count // SAMPLE)

    def padded() -> Iterator[list[str]]:
        return ((row + [""] * width)[:width] for row in rows())

    return Rows(file, header, padded, [row for i, row in enumerate(padded()) if i % step == 0], certain)


# JSON and Parquet -----------------------------------------------------------------------------------------------------


def _from_objects(file: File, objects: list[dict]) -> Rows | None:
    header = list(dict.fromkeys(str(name) for item in objects for name in item))
    if not header or len(header) > MAX_COLUMNS:
        return None
    return _rows(file, header, lambda: ([cell_text(item.get(name)) for name in header] for item in objects), len(objects))


def _json_lines(text: str, place: str) -> list[dict]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: line {number} is not JSON ({first_line(error)})") from None
        if not isinstance(row, dict):
            raise UserError(f"{place}: line {number} is not a JSON object")
        rows.append(row)
    return rows


def _read_json(file: File, text: str) -> Rows | None:
    """Read a list of objects, or an object of labels by file; None for other JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return _from_objects(file, value)
    if isinstance(value, dict) and all(
        isinstance(value.get(name), list) for name in ("images", "annotations", "categories")
    ):
        return _read_coco(file, value)
    if isinstance(value, dict) and value and all(map(looks_like_image_name, value)):
        return _rows(file, ["file", "label"], lambda: ([name, cell_text(v)] for name, v in value.items()), len(value))
    return None


def _read_coco(file: File, value: dict) -> Rows | None:
    """Read an object of COCO's form: the class of an image is that of all its annotations."""
    try:
        names = {category["id"]: category["name"] for category in value["categories"]}
        labels: dict = {image["id"]: set() for image in value["images"]}
        for note in value["annotations"]:
            labels[note["image_id"]].add(names[note["category_id"]])
        rows = [[cell_text(image["file_name"]), _only(labels[image["id"]])] for image in value["images"]]
    except (KeyError, TypeError):
        return None
    return _rows(file, ["file", "label"], lambda: iter(rows), len(rows))


def _only(labels: set) -> str:
    return cell_text(next(iter(labels), "")) if len(labels) < 2 else SEVERAL


def _read_parquet(file: File) -> Rows | None:
    """Read the columns of a Parquet file that are not images."""
    if not isinstance(file.source, str):
        return None
    parquet = require("pyarrow.parquet", PARQUET_HINT)
    check_parquet(file.source)
    try:
        table = parquet.read_table(
            file.source, columns=[name for name, kind in parquet_columns(file.source) if kind == "cell"]
        )
        return _from_objects(file, table.to_pylist())
    except Exception:  # damaged, or of a kind that pyarrow does not know: no table
        return None


def check_parquet(path: str) -> None:
    """Raise UserError for a Parquet file that declares much, and is small."""
    parquet = require("pyarrow.parquet", PARQUET_HINT)
    try:
        metadata = parquet.read_metadata(path)
        size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    except Exception:  # damaged: said where it is read
        return
    there = os.path.getsize(path)
    if metadata.num_rows > max(MIN_ROWS, there) or size > max(MAX_DENSE_BYTES, MAX_EXPANSION * there):
        raise UserError(f"{path}: declares {metadata.num_rows:,} rows in {there:,} bytes; damaged, or not to be trusted")


def parquet_columns(path: str) -> list[tuple[str, str]]:
    """Return name and kind of each column of a Parquet file: "image" (bytes), "cell" (text or a number) or "other".

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    parquet, types = require("pyarrow.parquet", PARQUET_HINT), require("pyarrow.types", PARQUET_HINT)
    try:
        schema = parquet.read_schema(path)
    except Exception as error:  # of Arrow
        raise UserError(f"{path}: cannot be read as a Parquet file ({first_line(error)})") from None

    def kind(arrow_type) -> str:
        if types.is_binary(arrow_type) or types.is_large_binary(arrow_type):
            return "image"
        if types.is_struct(arrow_type):
            names = {arrow_type.field(i).name for i in range(arrow_type.num_fields)}
            return "image" if "bytes" in names else "other"
        return "other" if types.is_nested(arrow_type) else "cell"

    return [(field.name, kind(field.type)) for field in schema]


def count_images(sources: Iterable) -> int | None:
    """Return the number of rows of Parquet files that have a column of images; None if a file cannot be read as Parquet."""
    count = 0
    for source in sources:
        try:
            if callable(source):  # in an archive
                return None
            if "image" in dict(parquet_columns(source)).values():
                count += require("pyarrow.parquet", PARQUET_HINT).read_metadata(source).num_rows
        except UserError:
            return None
    return count
