"""Names of classes that tables give as numbers: lines of `classes.txt`, or JSON such as `{"0": "cat", "1": "dog"}`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from eanet.cli import UserError
from eanet.data.files import File, Folder, LeftOut
from eanet.data.folders import Listing
from eanet.data.table_files import cell_text

_FILE = re.compile(r".*(class|label|categor|name|synset|species|breed|map).*\.(txt|names|json)", re.I)
_MOST = 20  # files that are looked at


def name_classes(listing: Listing, root: Folder, left_out: LeftOut, labels=None) -> None:
    """Replace the numbers of classes by names, if a file of the data set tells these.

    Args:
        listing: of a table or of pairs; its samples are renamed.
        root: the tree.
        left_out: loses the file with the names.
        labels: classes of a model; nothing is renamed if they are these numbers.
    """
    found = {sample.label for samples in listing.samples.values() for sample in samples}
    if listing.places or not found or not all(re.fullmatch(r"\d{1,6}", label) for label in found):
        return
    if labels and found <= set(labels):
        return
    numbers = sorted(map(int, found))
    for file in [file for file in root.walk() if _FILE.fullmatch(file.name)][:_MOST]:
        names = _names(file, numbers)
        if names:
            for samples in listing.samples.values():
                samples[:] = [sample._replace(label=names[int(sample.label)]) for sample in samples]
            listing.labels = tuple(names[number] for number in numbers)
            left_out.entries[:] = [entry for entry in left_out.entries if entry["path"] != file.path]
            return


def _names(file: File, numbers: list[int]) -> dict[int, str]:
    """Return the name of each number; {} if the file does not tell all of them."""
    try:
        text = file.read().decode("utf-8-sig")
        names = _from_json(json.loads(text)) if file.suffix == ".json" else _from_lines(text, numbers)
    except (OSError, UserError, ValueError, RecursionError):
        return {}
    names = {number: names[number] for number in numbers if names.get(number)}
    return names if len(names) == len(numbers) == len(set(names.values())) else {}


def _from_lines(text: str, numbers: list[int]) -> dict[int, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbered = [re.fullmatch(r"(\d{1,6})[\s:,;.)=-]+(.*)", line) for line in lines]
    if all(numbered):
        return {int(match[1]): cell_text(match[2]) for match in numbered if match}
    first = 1 if numbers[0] > 0 and numbers[-1] == len(lines) else 0
    return _numbered(lines, first) if len(lines) > numbers[-1] - first else {}


def _from_json(value) -> dict[int, str]:
    if isinstance(value, list):
        return _numbered(value)
    if not isinstance(value, dict):
        return {}
    if all(isinstance(number, int) for number in value.values()):  # {"cat": 0}
        value = {number: name for name, number in value.items()}
    return {
        int(n): cell_text(name) for n, name in value.items() if re.fullmatch(r"\d{1,6}", str(n)) and isinstance(name, str)
    }


def _numbered(names: Iterable, first: int = 0) -> dict[int, str]:
    return {number: cell_text(name) for number, name in enumerate(names, first) if isinstance(name, str)}
