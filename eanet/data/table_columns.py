"""Recognise the columns of a table: file, class, and split."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator

from eanet.cli import printable
from eanet.data.folders import split_of
from eanet.data.table_files import SEVERAL, Rows

FILE_COLUMNS = (
    "filename file image img path filepath imagepath imgpath imagename imgname imagefile imageid imageindex idcode id name "
    "images url imageurl"
).split()
LABEL_COLUMNS = (
    "label labels class classes classname labelname category categories target finelabel classid labelid categoryid species "
    "breed diagnosis dx choice level grade emotion finding findings findinglabels disease variety tag type y"
).split()
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "dataset", "datasettype", "usage")
HELD_OUT_COLUMNS = {"isvalid": "validation", "isval": "validation", "isvalidation": "validation", "istest": "test"}
# What else tells a part of the data, and is no class: fold, kfold, fold_1, eval_partition.
_PART_COLUMN = re.compile(r"(k|cv|eval|data|train|val|test)?(fold|split|partition|subset)s?(id|no|number|index)?\d*")
_PART_FILE = re.compile(r"(partitions?|folds|train[ _-]?test[ _-]?split)\.\w+$", re.I)  # list_eval_partition.txt of CelebA
_MOST = 64  # columns that are looked at for file names


@dataclasses.dataclass
class Columns:
    """Where a table has what.

    Attributes:
        image: index of the column with the files.
        labels: of those with the class: one, or several with 0 and 1.
        split: of that with the split, or None.
        held_out: split that a true value in the column `split` means; "" if it holds the name of a split.
        names: of the columns.
    """

    image: int
    labels: list[int]
    split: int | None
    held_out: str
    names: list[str]

    @property
    def certain_split(self) -> bool:
        """Whether the column `split` is one by its name; if not, all of its values must be splits."""
        return self.split is None or bool(self.held_out) or plain_name(self.names[self.split]) in SPLIT_COLUMNS

    @property
    def certain_label(self) -> bool:
        """Whether the class is found by the names of columns, if these have some; if not, it is in the only other one."""
        name = plain_name(self.names[self.labels[0]])
        return len(self.labels) > 1 or not any(self.names) or name in LABEL_COLUMNS or _tells_class(name)

    def read(self, rows: Rows) -> Iterator[tuple[str, str, str]]:
        """Yield (file, class or "" or `SEVERAL`, split or "") of each row, as text."""
        for row in rows.rows():
            yield row[self.image], self._label(row), self._split(row)

    def _label(self, row: list[str]) -> str:
        if len(self.labels) == 1:
            return row[self.labels[0]]
        found = [i for i in self.labels if _truth(row[i])]
        return self.names[found[0]] if len(found) == 1 else SEVERAL if found else ""

    def _split(self, row: list[str]) -> str:
        if self.split is None:
            return ""
        return row[self.split] if not self.held_out else self.held_out if _truth(row[self.split]) else "train"


def choose_columns(rows: Rows, is_file: Callable[[str], bool], image_column=None, label_column=None) -> Columns | str | None:
    """Recognise the columns of a table by their names and by what is in them.

    Args:
        rows: the table.
        is_file: whether a cell means an image of the data set.
        image_column: name of the column with the files, or its number from 1 on in a table without names; None to find it.
        label_column: the same of the column with the class.

    Returns:
        The columns; why none is the class, in words; or None for a table that lists no images of this data set.
    """
    names, cells = [plain_name(name) for name in rows.header], list(zip(*rows.sample, strict=True))
    header = rows.header if rows.named else [str(number) for number in range(1, len(rows.header) + 1)]
    for given in (image_column, label_column):
        if given is not None and given not in header:
            return None
    if not cells:
        return None
    image = header.index(image_column) if image_column is not None else _image_column(names, cells, is_file)
    if image is None:
        return "its column pixels is no file name; save each image as a file" if "pixels" in names else None
    split, held_out = _split_column(names, cells, image)
    others = [i for i in range(len(names)) if i not in (image, split)]
    if label_column is not None:
        labels: list[int] | str = [header.index(label_column)]
    else:
        labels = _label_columns(rows, names, cells, others)
    return labels if isinstance(labels, str) else Columns(image, labels, split, held_out, rows.header)


def _image_column(names: list[str], cells: list[tuple], is_file) -> int | None:
    def share(i: int) -> float:
        filled = [cell for cell in cells[i] if cell]
        return sum(map(is_file, filled)) / len(filled) if filled else 0

    ranked = [names.index(name) for name in FILE_COLUMNS if name in names]
    known = {*ranked, *(i for i, name in enumerate(names) if name in LABEL_COLUMNS)}
    usual = [i for i, n in enumerate(names) if re.search("image|img|file|path|photo", n) or n.endswith("id")]
    ranked += [i for i in usual if i not in known]
    # A column of another name may hold names, but not numbers: those would be found as 7.png too.
    speaking = [
        i for i in range(min(len(names), _MOST)) if i not in ranked and any(re.search(r"[^\d.]", cell) for cell in cells[i])
    ]
    shares = {i: share(i) for i in (*ranked, *speaking)}
    return next((i for i in shares if shares[i] >= 0.5), next((i for i in ranked if shares[i]), None))


def _split_column(names: list[str], cells: list[tuple], image: int) -> tuple[int | None, str]:
    for i, name in enumerate(names):
        if name in HELD_OUT_COLUMNS and all(_is_truth(cell) for cell in cells[i]):
            return i, HELD_OUT_COLUMNS[name]
    for i, name in enumerate(names):
        filled = [cell for cell in cells[i] if cell]
        known = sum(split_of(cell) is not None for cell in filled)
        if i != image and known and (known == len(filled) or name in SPLIT_COLUMNS):
            return i, ""
    return None, ""


def _label_columns(rows: Rows, names: list[str], cells: list[tuple], others: list[int]) -> list[int] | str:
    """Return the columns with the class, or why there is none."""
    for name in LABEL_COLUMNS:
        for i in others:
            if names[i] == name:
                return [i]
    possible = [i for i in others if not _tells_part(names[i])]
    if not rows.named:
        if len(others) == 1 and _PART_FILE.search(rows.file.name):
            return "it tells splits or folds by its name, not classes; give the number of a column as label_column"
        repeated = others if len(others) == 1 else [i for i in others if _repeats(rows, i)]
        words = [i for i in repeated if any(re.search(r"[^\d.-]", cell) for cell in cells[i])]
        found = words if len(words) == 1 else repeated
    else:
        found = [i for i in possible if _tells_class(names[i])]
    if len(found) == 1:
        return found
    flags = [i for i in possible if all(map(_is_truth, cells[i])) and any(cells[i])]
    if rows.named and len(flags) > 1:
        single = sum(sum(_truth(cells[i][k]) for i in flags) == 1 for k in range(len(cells[0])))
        if single >= 0.9 * len(cells[0]):
            return flags
        return f"it has several classes per image ({_listed(rows.header, flags)}); name one column as label_column"
    if len(others) == len(possible) == 1 and _repeats(rows, others[0]):  # unless it says something else of each image
        return others
    if not others:
        return "it has no column with the class"
    if not rows.named:
        return f"which column is the class? It has {len(names)} without names; give the number of one as label_column"
    return f"which column is the class? It has {_listed(rows.header, others)}; name one as label_column"


def _tells_class(name: str) -> bool:
    return "label" in name or "class" in name


def _tells_part(name: str) -> bool:
    return name in SPLIT_COLUMNS or name in HELD_OUT_COLUMNS or _PART_COLUMN.fullmatch(name) is not None


def _repeats(rows: Rows, column: int) -> bool:
    """Return whether a column has the same few values again and again."""
    values = [row[column] for row in rows.rows() if row[column]]
    return 1 < len(set(values)) <= len(values) / 2


def plain_name(name: str) -> str:
    """Return the name of a column without what differs from table to table: case, spaces, underscores."""
    return re.sub(r"[\W_]+", "", name.lower())


def _truth(cell: str) -> bool:
    return cell.lower() in ("1", "1.0", "true", "yes")


def _is_truth(cell: str) -> bool:
    return _truth(cell) or cell.lower() in ("", "0", "0.0", "false", "no")


def _listed(header: list[str], columns: list[int]) -> str:
    names = [printable(header[i]) for i in columns]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
