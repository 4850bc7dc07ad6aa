"""Images and labels listed in tables: metadata.csv and .jsonl (Hugging Face's imagefolder), labels.csv and the like."""

from __future__ import annotations

import dataclasses
import functools
import posixpath
import re
from collections import Counter

from eanet.cli import UserError, printable
from eanet.data.decode import Sample
from eanet.data.files import File, Folder, LeftOut, may_be_image, not_an_image
from eanet.data.folders import ORDER, Listing, split_of
from eanet.data.table_columns import FILE_COLUMNS, LABEL_COLUMNS, Columns, choose_columns, plain_name
from eanet.data.table_files import OTHER_SUFFIXES, SEVERAL, TABLE_SUFFIXES, Rows, read_rows
from eanet.data.table_index import FileIndex, looks_like_image_name, names_other_folder, split_of_path

# These decide about the labels even where there are class folders, metadata if it has a column for the class by its name;
# any other table only where there are none.
FIRST = re.compile(r"(metadata|labels?)\.(csv|tsv|jsonl|ndjson|parquet)", re.I)
_AMBIGUOUS = {"level", "grade", "tag", "type", "y"}  # columns that may say something else of an image than its class
_SUBMISSION = re.compile("submission", re.I)  # Kaggle's example of an answer: the labels in it mean nothing
MAX_OTHER = 100  # files that may be tables, by their suffix


@dataclasses.dataclass
class Table:
    """A table whose columns are known.

    Attributes:
        file: where it was read from.
        rows: (file, label, split or "") of each row, as text.
        split: of its images, by its name, or None.
        certain: whether the names of its columns tell which one is the class.
        column: name of that with the class; "" if it has none, or several.
    """

    file: File
    rows: list[tuple[str, str, str]]
    split: str | None
    certain: bool
    column: str


def list_tables(
    root: Folder, where: str, left_out: LeftOut, *, first_only: bool, only=None, image_column=None, label_column=None
) -> Listing:
    """Find the images of a data set that tables list.

    Args:
        root: the tree.
        where: what to call the data set in messages.
        left_out: gets the files that are not read, and the rows without a file.
        first_only: only look at `metadata` and `labels` tables, which win over class folders.
        only: name of the table to read, and no other one.
        image_column: name of the column with the file names; None to find it.
        label_column: name of the column with the labels; None to find it.

    Returns:
        The listing. Without a table that has both columns, and files that are there, it has no samples, and `problem` says
        why if a table has no column for the class.

    Raises:
        UserError: a table is damaged.
    """
    index = FileIndex(root)
    columns = dict(image=image_column, label=label_column)
    tables, problem = find_tables(root, index, where, first_only=first_only, only=only, **columns)
    if not tables:
        return Listing({}, problem=problem)
    read = {table.file.parts for table in tables}
    if any(FIRST.fullmatch(table.file.name) for table in tables):  # and not the copy of one in another form
        tables = [table for table in tables if FIRST.fullmatch(table.file.name)]
    samples: dict[str, list[Sample]] = {}
    used: dict = {table.file.parts: "" for table in tables}
    for table in sorted(tables, key=lambda table: table.split is None):  # train.csv and test.csv before all.csv
        _collect(table, index, samples, used, left_out)
    for file in root.walk():
        if file.parts not in used:
            reason = "no label: it is in no table" if may_be_image(file) else not_an_image(file)
            left_out.add(file.path, reason)
    if not samples:
        problem = f"{tables[0].file.path}: no row has one class; images with several are not read"
    by_split = {split: samples[split] for split in ORDER if split in samples}
    return Listing(by_split, problem=problem, tables=read)


def check_names(listing: Listing, root: Folder, where: str) -> None:
    """Raise UserError if a table tells other classes of images that all class folders hold, as in different sizes."""
    names: dict[str, set[str]] = {}
    for sample in (sample for samples in listing.samples.values() for sample in samples):
        names.setdefault(sample.label, set()).add(posixpath.basename(sample.path))
    if len(set(map(frozenset, names.values()))) > 1:
        return
    index = FileIndex(root)
    for file in (file for file in root.walk() if file.suffix in TABLE_SUFFIXES and not _SUBMISSION.search(file.name)):
        try:
            rows = read_rows(file, where)
        except UserError:  # the class folders do without
            continue
        if not isinstance(rows, Rows) or choose_columns(rows, functools.partial(index.has, file)):
            continue
        columns = choose_columns(rows, bool)
        cells = list(columns.read(rows)) if isinstance(columns, Columns) else []
        listed = {name for name, _, _ in cells}
        once = len(listed) == len(cells) >= max(map(len, names.values()))  # not 0.png of cat, 0.png of dog
        others = not {label for _, label, _ in cells} & set(names)
        if once and others and (problem := _unmatched(rows, index, copies_only=True)):
            raise UserError(f"{where}: {problem}")


def label_splits(listing: Listing, root: Folder, where: str, left_out: LeftOut) -> None:
    """Add the images of splits without class folders whose classes a table tells, as `Test.csv` or `val_annotations.txt`.

    Args:
        listing: of `list_class_folders`; gets the samples.
        root: the tree.
        where: what to call the data set in messages.
        left_out: loses the files that are labelled so.
    """
    if not listing.unlabelled:
        return
    index = FileIndex(root)
    labels: dict[tuple[str, ...], str] = {}
    try:
        tables, _ = find_tables(root, index, where, first_only=False)
    except UserError:  # the class folders do without
        return
    for table in tables:
        for name, label, _ in table.rows:
            if label in listing.places and (found := index.find(table.file, name)):
                labels.setdefault(found.parts, label)
    for split, folder in listing.unlabelled.items():
        files = [file for file in folder.walk() if may_be_image(file)]
        samples = [Sample(f.path, f.source, labels[f.parts]) for f in files if f.parts in labels]
        if len(samples) > 0.9 * len(files):
            listing.samples[split] = samples
            read = {sample.path for sample in samples}
            left_out.entries[:] = [entry for entry in left_out.entries if entry["path"] not in read]


def apply_splits(listing: Listing, root: Folder, where: str) -> None:
    """Divide class folders without splits by the tables or lists of files that name these.

    Args:
        listing: of `list_class_folders`; its training samples are divided if nearly all of them are named.
        root: the tree.
        where: what to call the data set in messages.

    Raises:
        UserError: a table gives other classes than the folders.
    """
    index = FileIndex(root)
    splits = _splits_of_tables(listing, root, index, where)
    if set(listing.samples) != {"train"}:
        return
    for path, split in _splits_of_lists(root, index).items():
        splits.setdefault(path, split)
    samples = listing.samples["train"]
    if len(set(splits.values())) > 1 and len(splits) > 0.9 * len(samples):
        found_splits = {split: [s for s in samples if splits.get(s.path, "train") == split] for split in ORDER}
        listing.samples = {split: part for split, part in found_splits.items() if part}


def _splits_of_lists(root: Folder, index: FileIndex) -> dict[str, str]:
    """Return the splits of files that lists name, as `meta/train.txt` and `meta/test.txt` of Food-101."""
    lists: dict[int, dict[str, str]] = {}
    for file in root.walk():
        if file.suffix in (".txt", ".lst", ".csv") and (split := split_of_path(file.parts, ())):
            try:
                lines = file.read().decode("utf-8").splitlines()
            except (OSError, UserError, UnicodeDecodeError):
                continue
            lines = [line for line in lines if line.strip()]
            if not any(index.has(file, line) for line in lines[:20]):  # a table
                continue
            found = [index.find(file, line) for line in lines]
            number = re.search(r"(\d*)\.\w+$", file.name)
            splits = lists.setdefault(int(number[1] or 0) if number else 0, {})
            for named in filter(None, found if found.count(None) < 0.1 * len(found) else []):
                splits.setdefault(named.path, split)
    # train1.txt, test1.txt, train2.txt, ... as of DTD each divide all images: what the first ones say counts.
    return {path: split for number in sorted(lists, reverse=True) for path, split in lists[number].items()}


def _splits_of_tables(listing: Listing, root: Folder, index: FileIndex, where: str) -> dict[str, str]:
    """Return the splits of files in tables with the classes of the folders, as `train.csv` and `test.csv` of EuroSAT."""
    folders = {sample.path: sample.label for samples in listing.samples.values() for sample in samples}
    splits: dict[str, str] = {}
    try:
        tables, _ = find_tables(root, index, where, first_only=False)
    except UserError:  # the class folders do without
        return splits
    for table in tables:
        files = [index.find(table.file, name) for name, _, _ in table.rows]
        rows = [(f.path, label, part) for f, (_, label, part) in zip(files, table.rows, strict=True) if f]
        rows = [(path, label, part) for path, label, part in rows if path in folders and label not in ("", SEVERAL)]
        pairs = {(label, folders[path]) for path, label, _ in rows}
        labels, places = Counter(label for label, _ in pairs), Counter(place for _, place in pairs)
        if len(pairs) == len(labels) == len(places):
            for path, _, part in rows:
                if split := split_of(part) or (None if part else table.split):
                    splits.setdefault(path, split)
        elif (
            plain_name(table.column) in {*LABEL_COLUMNS} - _AMBIGUOUS
            and len({path for path, _, _ in rows}) > 0.9 * len(folders)
            and len(labels) <= len(rows) / 2
            and max(labels.values()) > 1 < max(places.values())
        ):
            raise UserError(
                f"{where}: {table.file.path} has other classes than the folders; to use these classes, give the table as "
                f"the data, or {printable(table.column)} as label_column; to use the folders, remove the table"
            )
    return splits


def find_tables(
    root: Folder, index: FileIndex, where: str, *, first_only: bool, only=None, image=None, label=None
) -> tuple[list[Table], str]:
    """Return the tables that list images of a data set, and what is missing in another, or "".

    Args:
        root: the tree.
        index: of it.
        where: what to call the data set in messages.
        first_only: only look at `metadata` and `labels` tables.
        only: name of the only table to look at, or None.
        image: name of the column with the file names; None to find it.
        label: name of the column with the labels; None to find it.

    Raises:
        UserError: a table is damaged.
    """
    files = [file for file in root.walk() if not _SUBMISSION.search(file.name)]
    candidates = [file for file in files if file.suffix in TABLE_SUFFIXES or FIRST.fullmatch(file.name)]
    others = [file for file in files if file.suffix in OTHER_SUFFIXES and file not in candidates]
    if only:
        candidates = [root.files[only]]
    elif first_only:
        candidates = [file for file in candidates if FIRST.fullmatch(file.name)]
    elif len(others) <= MAX_OTHER:
        candidates += others
    tables, problem = [], ""
    for file in candidates:
        rows = read_rows(file, where)
        if isinstance(rows, str):
            problem = problem or f"{file.path}: {rows}"
            continue
        columns = rows and choose_columns(rows, functools.partial(index.has, file), image, label)
        if not rows or not columns:
            if only and rows and len(rows.header) > 1 and not rows.sample:
                problem = f"{file.path}: has no rows"
            problem = problem or (_unmatched(rows, index) if rows and not (image or label) else "")
            continue
        if isinstance(columns, str):
            problem = problem or f"{file.path}: {columns}"
            continue
        if first_only and file.name.lower().startswith("metadata") and not _surely_has_classes(columns):
            continue
        cells = _with_several(list(columns.read(rows)), rows.header)
        if not rows.certain_text and not all((name + label).isascii() for name, label, _ in cells):
            raise UserError(f"{where}: {file.path}: not UTF-8 text; save it as UTF-8")
        if not columns.certain_split and None in {split_of(part) for _, _, part in cells}:
            cells = [(name, label, "") for name, label, _ in cells]
        if any(index.find(file, name) for name, _, _ in cells):
            certain = columns.certain_label or label is not None
            column = columns.names[columns.labels[0]] if len(columns.labels) == 1 else ""
            tables.append(Table(file, cells, split_of_path(file.parts, ()), certain, column))
    tables = [table for table in tables if len(tables) == 1 or not _names_classes(table)] or tables
    return [table for table in tables if table.certain] or tables, problem


def _with_several(cells: list[tuple[str, str, str]], header: list[str]) -> list[tuple[str, str, str]]:
    """Mark rows of several classes: `a|b` where both are classes, and images with boxes of several, a row for each."""
    labels: dict[str, set[str]] = {}
    for name, label, _ in cells:
        labels.setdefault(name, set()).add(label)
    alone, boxes = set().union(*labels.values()), "xmin" in map(plain_name, header)
    if not boxes and not any("|" in label for label in alone):
        return cells

    def several(name: str, label: str) -> bool:
        return boxes and len(labels[name]) > 1 or "|" in label and alone >= {*label.split("|")}

    return [(name, SEVERAL if several(name, label) else label, part) for name, label, part in cells]


def _unmatched(rows: Rows, index: FileIndex, copies_only: bool = False) -> str:
    """Return which image of a table is not there, or is there more than once; "" for a table of something else."""
    columns = choose_columns(rows, bool) if rows.named else None
    if not isinstance(columns, Columns) or not columns.certain_label:
        return ""
    name = plain_name(columns.names[columns.image])
    named = name in {*FILE_COLUMNS} - {"name"}  # which may be that of a class, as may an id
    for cell in filter(None, (row[columns.image] for row in rows.sample if named)):
        found = index.called(cell)
        if len(found) > 1 and (not copies_only or looks_like_image_name(cell) or name != "id"):
            there = f"may be {found[0].path} or {found[1].path}; keep one of them"
            return f"{rows.file.path}: {printable(cell)}: {there}"
        if not found and not copies_only:
            return f"{rows.file.path}: {printable(cell)}: no such file"
    return ""


def _surely_has_classes(columns: Columns) -> bool:
    names = [plain_name(columns.names[i]) for i in columns.labels]
    alone = len(columns.names) == 2  # with the column of the images
    return columns.certain_label and (alone or len(names) > 1 or names[0] not in _AMBIGUOUS)


def _names_classes(table: Table) -> bool:
    """Return whether a table gives the names of class 0, 1, 2, ..., which are also files here."""
    labels = {label for _, label, _ in table.rows}
    return len(labels) == len(table.rows) > 1 and all(name.isdecimal() for name, _, _ in table.rows)


def _collect(table: Table, index: FileIndex, samples: dict, used: dict, left_out: LeftOut) -> None:
    """Add the samples of a table by split; `used` gets their labels by file."""
    where = table.file.path
    known = any(split_of(part) for _, _, part in table.rows)
    files = [index.find(table.file, name) for name, _, _ in table.rows]
    pairs = [(name, file) for (name, _, _), file in zip(table.rows, files, strict=True) if file]
    certain = {file.parts for name, file in pairs if not names_other_folder(name, file)}
    folders = {split for _, file in pairs if (split := split_of_path((), file.parts))}
    own = table.split if len(folders) < 2 else None  # val.csv of images in train/, but not of those in train/ and test/
    for number, ((name, label, part), found) in enumerate(zip(table.rows, files, strict=True), 1):
        row = f"(row {number} of {where})"
        if found is None or found.parts in certain and names_other_folder(name, found):  # it is that of another row
            if name:
                left_out.images += 1
                left_out.add(printable(name), f"no such file {row}", broken=True)
            continue
        if found.parts in used:
            if used[found.parts] != label:
                left_out.add(found.path, f"listed again {row}")
            continue
        used[found.parts] = label
        split = split_of(part) or (
            None if known and part else own or split_of_path(table.file.parts, found.parts) or "train"
        )
        if not label or label == SEVERAL:
            left_out.add(found.path, f"{'several labels' if label else 'no label'} {row}")
        elif split is None:
            left_out.add(found.path, f"the split {printable(part)} is not used {row}")
        else:
            samples.setdefault(split, []).append(Sample(found.path, found.source, label))
