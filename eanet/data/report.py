"""What was found in a data set: three lines for people, and one object for programs."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from eanet.cli import printable
from eanet.data.splits import Dataset, Split

IMBALANCED = 3  # largest class / smallest class that is worth a word


def inspect(dataset: Dataset) -> dict:
    """Return {"classes", "train", "validation", "test", "left_out"} of a data set.

    The classes are the names in their order, a split is its number of images or None, and "left_out" lists {"path",
    "reason"} of each file that was not read.
    """
    sizes = {name: _size(getattr(dataset, name)) for name in ("train", "validation", "test")}
    return {"classes": list(dataset.labels), **sizes, "left_out": dataset.left_out}


def describe(dataset: Dataset) -> str:
    """Return three lines about a data set: its classes, the images per split, and what was left out and why."""
    return "\n".join((_classes(dataset), _images(dataset), _left_out(dataset.left_out)))


def _size(split: Split | None) -> int | None:
    return None if split is None else len(split)


def _classes(dataset: Dataset) -> str:
    names = [printable(name) for name in dataset.labels]
    shown = ", ".join(names if len(names) <= 8 else [*names[:6], "...", names[-1]])
    text = f"{printable(dataset.name)}: {len(names)} classes ({shown})"
    if dataset.train is None:
        return text
    sizes = np.bincount(dataset.train.y, minlength=len(names))
    low, high = int(sizes.argmin()), int(sizes.argmax())
    if sizes[high] > IMBALANCED * sizes[low]:
        text += f"; unbalanced, from {sizes[low]:,} images ({names[low]}) to {sizes[high]:,} ({names[high]}):"
        text += " class_weights balanced makes them count the same"
    return text


def _images(dataset: Dataset) -> str:
    parts = []
    for name in ("train", "validation", "test"):
        split = getattr(dataset, name)
        if split is None:
            parts.append(f"no {name} split")
            continue
        parts.append(f"{len(split):,} {name}" + (f" ({split.repeated:,} of them also in train)" if split.repeated else ""))
    return "images: " + ", ".join(parts)


def _left_out(entries: list[dict[str, str]]) -> str:
    if not entries:
        return "left out: nothing"
    kinds = Counter(re.sub(r" \(row .*|: .*|;.*", "", entry["reason"]) for entry in entries)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in kinds.most_common(5))
    more = f", and {len(kinds) - 5} other reasons" if len(kinds) > 5 else ""
    hint = next((f" (`{m[1]}`)" for e in entries if (m := re.search(r"`(pip [^`]*|git [^`]*)`", e["reason"]))), "")
    files = "1 file" if len(entries) == 1 else f"{len(entries):,} files"
    return f"left out: {files}: {reasons}{more}{hint}; first {entries[0]['path']}"
