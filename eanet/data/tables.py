"""Tables of files and labels: metadata.csv and metadata.jsonl (Hugging Face's imagefolder), labels.csv and the like."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import posixpath
import re
import unicodedata

from eanet.cli import UserError, first_line, printable
from eanet.data.decode import Sample
from eanet.data.files import File, Folder, LeftOut, looks_like_image, may_be_image, not_an_image
from eanet.data.folders import ORDER, Listing, split_of
from eanet.images import LFS_HINT, LFS_PREFIX

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
# These decide about the labels even where there are class folders; any other table only where there are none.
FIRST = re.compile(r"(metadata|labels?)\.(csv|tsv|jsonl|ndjson)", re.I)
FILE_COLUMNS = tuple(
    "file_name filename file image img path filepath file_path image_path img_path image_name img_name image_file image_id "
    "id name images".split()
)
LABEL_COLUMNS = tuple(
    "label labels class classes class_name label_name category categories target fine_label class_id label_id category_id "
    "species breed diagnosis dx tag type y".split()
)
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "data_set", "dataset")
_SUBMISSION = re.compile("submission", re.I)  # Kaggle's example of an answer: the labels in it mean nothing
MAX_CELL = 2**20


@dataclasses.dataclass
class Table:
    """A table whose columns for file and label are known.

    Attributes:
        file: where it was read from.
        rows: (file, label, split or "") of each row, as text.
    """

    file: File
    rows: list[tuple[str, str, str]]


def list_tables(
    root: Folder, where: str, left_out: LeftOut, *, first_only: bool, image_column=None, label_column=None
) -> Listing:
    """Find the images of a data set that tables list.

    Args:
        root: the tree.
        where: what to call the data set in messages.
        left_out: gets the files that are not read, and the rows without a file.
        first_only: only look at `metadata` and `labels` tables, which win over class folders.
        image_column: name of the column with the file names; None to find it.
        label_column: name of the column with the labels; None to find it.

    Returns:
        The listing; without a table that has both columns, and files that are there, it has no samples.

    Raises:
        UserError: a table is damaged.
    """
    candidates = [file for file in root.walk() if file.suffix in SUFFIXES and not _SUBMISSION.search(file.name)]
    candidates = [file for file in candidates if FIRST.fullmatch(file.name) or not first_only]
    tables = [t for t in (read_table(file, where, image_column, label_column) for file in candidates) if t is not None]
    index = _Index(root)
    tables = [table for table in tables if any(index.find(table.file, row[0]) for row in table.rows)]
    if not tables:
        return Listing({})
    if any(FIRST.fullmatch(table.file.name) for table in tables):  # and not the copy of one in another form
        tables = [table for table in tables if FIRST.fullmatch(table.file.name)]
    samples: dict[str, list[Sample]] = {}
    used: set = {table.file.parts for table in tables}
    for table in tables:
        _collect(table, index, samples, used, left_out)
    for file in root.walk():
        if file.parts not in used:
            reason = "no label: it is in no table" if may_be_image(file) else not_an_image(file)
            left_out.add(file.path, reason)
    return Listing({split: samples[split] for split in ORDER if split in samples})


def _collect(table: Table, index: _Index, samples: dict, used: set, left_out: LeftOut) -> None:
    """Add the samples of a table by split."""
    where = table.file.path
    for number, (name, label, split_name) in enumerate(table.rows, 1):
        found = index.find(table.file, name)
        if found is None:
            if name:
                left_out.images += 1
                left_out.add(printable(name), f"no such file (row {number} of {where})", broken=True)
            continue
        if found.parts in used:
            left_out.add(found.path, f"listed again (row {number} of {where})")
            continue
        used.add(found.parts)
        if not label:
            left_out.add(found.path, f"no label (row {number} of {where})")
            continue
        split = split_of(split_name) or _split_of_path(table.file.parts, found.parts)
        samples.setdefault(split, []).append(Sample(found.path, found.source, label))


def _split_of_path(table: tuple[str, ...], file: tuple[str, ...]) -> str:
    """Return the split of an image from the folders it is in, or from the name of its table; "train" without any."""
    for name in file[:-1]:
        if split := split_of(name):
            return split
    stem = re.sub(r"[ _-]?(labels?|metadata|annotations?)[ _-]?", "", posixpath.splitext(table[-1])[0], flags=re.I)
    return split_of(stem) or "train"


class _Index:
    """Finds the file that a row means: relative to its table or to the root, or the only one of that name in its split."""

    def __init__(self, root: Folder):
        self.by_path: dict[str, File] = {}
        self.by_name: dict[str, list[File]] = {}
        for file in root.walk():
            if not may_be_image(file):
                continue
            path = unicodedata.normalize("NFC", "/".join(file.parts))
            stem, suffix = posixpath.splitext(path)
            for key in {path, stem} if suffix else {path}:
                self.by_path.setdefault(key, file)
                self.by_name.setdefault(posixpath.basename(key), []).append(file)

    def find(self, table: File, name: str) -> File | None:
        name = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
        folder = "/".join(table.parts[:-1])
        for path in (posixpath.join(folder, name), name):
            if found := self.by_path.get(posixpath.normpath(path)):
                return found
        called = self.by_name.get(posixpath.basename(name), []) if name else []
        if len(called) > 1:  # train/7.png and test/7.png: that of the table's split
            split = _split_of_path(table.parts, ())
            called = [file for file in called if _split_of_path(table.parts, file.parts) == split]
        return called[0] if len(called) == 1 else None


# Reading --------------------------------------------------------------------------------------------------------------


def read_table(file: File, where: str, image_column=None, label_column=None) -> Table | None:
    """Read a table.

    Args:
        file: CSV with comma, semicolon or tabulator between the columns, or JSON lines.
        where: what to call the data set in messages.
        image_column: name of the column with the file names; None to find it.
        label_column: name of the column with the labels; None to find it.

    Returns:
        The table, or None if it has no column for files or for labels.

    Raises:
        UserError: it is not UTF-8 text, or has broken lines.
    """
    place = f"{where}: {file.path}"
    content = file.read()
    if content.startswith(LFS_PREFIX):
        raise UserError(f"{place}: {LFS_HINT}")
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(f"{place}: not UTF-8 text; save it as UTF-8") from None
    reader = _json_rows if file.suffix in (".jsonl", ".ndjson") else _csv_rows
    header, rows = reader(text, place)
    columns = {}
    for kind, given, names in (("image", image_column, FILE_COLUMNS), ("label", label_column, LABEL_COLUMNS)):
        columns[kind] = _column(header, given, names)
    split = _column(header, None, SPLIT_COLUMNS)
    if columns["image"] and not columns["label"]:  # the only other column, unless it says something else of each image
        others = [name for name in header if name not in (columns["image"], split)]
        if len(others) == 1 and len({_text(row.get(others[0])) for row in rows}) <= len(rows) / 2:
            columns["label"] = others[0]
    if None in columns.values():
        return None
    wanted = (columns["image"], columns["label"], split)
    cells = [[_text(row.get(name)) if name else "" for name in wanted] for row in rows]
    return Table(file, [(image, label, part) for image, label, part in cells])


def _column(header: list[str], given: str | None, names: tuple[str, ...]) -> str | None:
    if given is not None:
        return given if given in header else None
    lower = {re.sub(r"[ -]", "_", name.strip().lower()): name for name in reversed(header)}
    return next((lower[name] for name in names if name in lower), None)


def _text(value) -> str:
    """Return a cell as text: NFC, 3.0 as "3", the only item of a list, and "" for what is no single value."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or isinstance(value, list | dict):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


def _csv_rows(text: str, place: str) -> tuple[list[str], list[dict]]:
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    csv.field_size_limit(MAX_CELL)
    try:
        lines = [
            line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(map(str.strip, line))
        ]
    except csv.Error as error:
        raise UserError(f"{place}: damaged ({first_line(error)})") from None
    if not lines:
        return [], []
    header = [name.strip() for name in lines[0]]
    if len(header) == 2 and looks_like_image(File((posixpath.basename(header[0]) or ".",), "")):
        return ["file", "label"], [dict(zip(("file", "label"), line, strict=False)) for line in lines]  # no header
    return header, [dict(zip(header, line, strict=False)) for line in lines[1:]]


def _json_rows(text: str, place: str) -> tuple[list[str], list[dict]]:
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
    return list(dict.fromkeys(name for row in rows for name in row)), rows
