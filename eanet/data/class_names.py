"""Names of classes that tables give as numbers: lines of `classes.txt`, or JSON such as `{"0": "cat", "1": "dog"}`."""

from __future__ import annotations

import json
import posixpath
import re

from eanet.cli import UserError
from eanet.data.files import File, Folder, LeftOut
from eanet.data.folders import Listing
from eanet.data.table_columns import LABEL_COLUMNS, plain_name
from eanet.data.table_files import cell_text, decode_text
from eanet.data.table_index import file_name_of, looks_like_image_name

_FILE = re.compile(
    r"(?!.*(file|image|img|photo|path)[ _-]?name)"  # filenames.txt
    r"(.*(class|label|categor|name|synset|species|breed|map).*\.(txt|json)|.*\.names)",
    re.I,
)
_NUMBER_FIRST = re.compile(r"(\d{1,6})(?:\s*[:,;=|)]\s*|\s*[.-]\s*(?!\d)|\s+)(.*)")  # not "0-2 years"
_NUMBER_LAST = re.compile(r"(.*[^\s:,;=|])(?:\s*[:,;=|]\s*|\s+)(\d{1,6})")
_HEADER = {*LABEL_COLUMNS, "id", "idx", "index", "number", "no", "name"}
_BACKGROUND = re.compile(r"[\W_]*(background|unlabell?ed|void)[\W_]*", re.I)
_MOST = 20  # files that are looked at
Entries = list[tuple[str, str]]  # (number, name); the number is "" if the order tells it


def name_classes(listing: Listing, root: Folder, left_out: LeftOut, labels=None) -> None:
    """Replace the numbers of classes by names, if a file of the data set tells these.

    Args:
        listing: of a table or of pairs; its samples are renamed.
        root: the tree.
        left_out: loses the files with the names; if none can be used, says why.
        labels: classes of a model; nothing is renamed if they are these numbers.
    """
    found = {sample.label for samples in listing.samples.values() for sample in samples}
    if listing.places or not found or not all(re.fullmatch(r"\d{1,6}", label) for label in found):
        return
    numbers = sorted(map(int, found))
    if labels and found <= set(labels) or len(set(numbers)) < len(numbers):
        return
    files = [file for file in root.walk() if _FILE.fullmatch(file.name) and file.parts not in listing.tables]
    if not files:
        return
    paths = {sample.path for samples in listing.samples.values() for sample in samples}
    paths |= {posixpath.splitext(path)[0] for path in paths}
    images = {name.casefold() for path in paths for name in (path, posixpath.basename(path))}
    files = [file for file in files if posixpath.splitext(file.path)[0] not in paths]  # 7.json is about 7.jpg
    files = sorted(files, key=lambda file: (len(file.parts), file.parts))[:_MOST]
    sizes = {len(numbers), numbers[-1] + (numbers[0] == 0), numbers[-1] + 1, len(labels or numbers)}
    results = {file: _read_names(file, numbers, sizes, images) for file in files}
    usable = {file: names for file, names in results.items() if isinstance(names, dict)}
    if usable and all(names == next(iter(usable.values())) for names in usable.values()):
        _rename(listing, numbers, next(iter(usable.values())))
        used = {file.path for file in usable}
        left_out.entries[:] = [entry for entry in left_out.entries if entry["path"] not in used]
        return
    for file, result in results.items():
        if isinstance(result, dict):
            result = f"differs from {next(other.path for other, names in usable.items() if names != result)}"
        if result:
            left_out.entries[:] = [entry for entry in left_out.entries if entry["path"] != file.path]
            left_out.add(file.path, f"not used for class names: {result}")


def _rename(listing: Listing, numbers: list[int], names: dict[int, str]) -> None:
    for samples in listing.samples.values():
        samples[:] = [sample._replace(label=names[int(sample.label)]) for sample in samples]
    listing.labels = tuple(names[number] for number in numbers)


def _read_names(file: File, numbers: list[int], sizes: set[int], images: set[str]) -> dict[int, str] | str:
    """Read the names of classes.

    Args:
        file: text or JSON.
        numbers: of the classes, ascending.
        sizes: how many entries a file may have that names all classes of the data set.
        images: paths and names of the listed images, with and without suffix, in lower case.

    Returns:
        The name of each number; why the file cannot be used, in words; or "" if it does not name classes.
    """
    try:
        text, certain = decode_text(file.read())
        if not certain:
            return "not UTF-8 text; save it as UTF-8"
        entries, swapped = _from_json(json.loads(text)) if file.suffix == ".json" else _from_lines(text)
    except (OSError, UserError, ValueError, RecursionError):
        return ""
    names, given = [name for _, name in entries], [number for number, _ in entries if number]
    if all(map(str.isdecimal, names)) or _are_images(names, images):
        return ""
    fits = len(entries) in sizes
    if len(set(map(int, given))) < len(given):  # the label of each image
        return ""
    if given and not fits and _are_images(given, images):
        return "its numbers may be classes or images"
    if not fits and (swapped or not given):
        return f"{len(entries):,} name{'s' * (len(entries) > 1)} for the classes {numbers[0]} to {numbers[-1]}"
    if given:
        found = {int(number): name for number, name in entries}
    elif file.suffix != ".json" and 0 < numbers[0] and numbers[-1] < len(names) and not _BACKGROUND.fullmatch(names[0]):
        return "its first line may be class 0 or 1; write the numbers, as in `1 cat`"
    else:
        found = dict(enumerate(names, int(numbers[-1] >= len(names))))
    for number in numbers:
        if not found.get(number):
            return f"no name for class {number}"
    found = {number: found[number] for number in numbers}
    return found if len(set(found.values())) == len(found) else "two classes have the same name"


def _are_images(names: list[str], images: set[str]) -> bool:
    """Return whether a list names images, each perhaps with a label: `img_07.jpg`, `train/img_07 3`."""
    known = 0
    for name in names:
        words = re.split(r"[\s,;|]+", name)
        if any(map(looks_like_image_name, words)):
            return True
        paths = [file_name_of(text).casefold() for text in (name, " ".join(words[:-1] if words[-1].isdecimal() else words))]
        known += any(path in images or posixpath.basename(path) in images for path in paths)
    return 2 * known >= len(names)


def _from_lines(text: str) -> tuple[Entries, bool]:
    """Return the entries of lines (`cat`, `0 cat` or `cat 0`), and whether the numbers come last."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("#", "//"))]
    cells = re.split(r"[\s,;:|]+", lines[0]) if lines else []
    header = len(cells) > 1 and all(plain_name(cell) in _HEADER for cell in cells)
    body = lines[1:] if header else lines
    numbered = [match for line in body if (match := _NUMBER_FIRST.fullmatch(line))]
    if len(numbered) == len(body):
        return [(match[1], _unquoted(match[2])) for match in numbered], False
    matches = [match for line in body if (match := _NUMBER_LAST.fullmatch(line))]
    names = {match[1] for match in matches}
    order = sorted(int(match[2]) for match in matches)
    if len(names) == len(body) and order in (list(range(len(body))), list(range(1, len(body) + 1))):  # not "Boeing 737"
        return [(match[2], _unquoted(match[1])) for match in matches], True
    return [("", _unquoted(line)) for line in lines], False


def _from_json(value) -> tuple[Entries, bool]:
    """Return the entries of ["cat"], {"0": "cat"} or {"cat": 0}, and whether the numbers are the values."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [("", cell_text(name)) for name in value], False
    if not isinstance(value, dict):
        return [], False
    if value and all(type(number) is int and 0 <= number < 10**6 for number in value.values()):
        return [(str(number), cell_text(name)) for name, number in value.items()], True
    numbered = {n: name for n, name in value.items() if re.fullmatch(r"\d{1,6}", n) and isinstance(name, str)}
    return [(n, cell_text(name)) for n, name in numbered.items()], False


def _unquoted(text: str) -> str:
    text = text.strip()
    return cell_text(text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text)
