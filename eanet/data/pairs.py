"""Images with their class in a file of the same name next to them, as in the tarballs of WebDataset: `07.jpg`, `07.cls`."""

from __future__ import annotations

import json
import re

from eanet.cli import UserError
from eanet.data.decode import Sample
from eanet.data.files import File, Folder, LeftOut, looks_like_image
from eanet.data.folders import ORDER, Listing, split_of
from eanet.data.table_columns import LABEL_COLUMNS, plain_name
from eanet.data.table_files import SEVERAL, cell_text

LABEL_SUFFIXES = (".cls", ".json", ".txt")
ALMOST_ALL = 0.9  # of the images have a class


def list_pairs(root: Folder, left_out: LeftOut, certain: bool) -> Listing | None:
    """List the images of a data set whose classes are in files next to them.

    Args:
        root: the tree.
        left_out: gets the other files, if the classes are told so.
        certain: only look at `.cls` files, and at others in archives: next to images in class folders they say other things.

    Returns:
        The listing, or None if the classes are not told so.
    """
    files = root.walk()
    images = {_key(file): file for file in files if looks_like_image(file)}
    for suffix in LABEL_SUFFIXES:
        named = {key: file for file in files if file.suffix == suffix and (key := _key(file)) in images}
        if certain and suffix != ".cls":
            named = {key: file for key, file in named.items() if callable(file.source)}
        if len(named) < max(2, ALMOST_ALL * len(images)):
            continue
        labels = {key: label for key, file in named.items() if (label := _label(file))}
        several = len(set(labels.values())) > 1
        # Text is a caption, unless the same words come again.
        repeated = (
            suffix != ".txt" or len(set(labels.values())) <= len(labels) / 2 and not any(map(_is_box, labels.values()))
        )
        if several and repeated and len(labels) >= ALMOST_ALL * len(images):
            return _listing(files, images, named, labels, left_out)
    return None


def _listing(files: list[File], images: dict, named: dict, labels: dict, left_out: LeftOut) -> Listing:
    samples: dict[str, list[Sample]] = {}
    for key, label in labels.items():
        file = images[key]
        samples.setdefault(_split(file), []).append(Sample(file.path, file.source, label))
    for key in images.keys() - labels.keys():
        left_out.add(images[key].path, "no label: no file next to it tells its class")
    for file in files:
        if not looks_like_image(file) and file is not named.get(_key(file)) and file.suffix not in LABEL_SUFFIXES:
            left_out.add(file.path, f"not an image ({file.suffix})")
    return Listing({split: samples[split] for split in ORDER if split in samples})


def _key(file: File) -> tuple[str, ...]:
    return (*file.parts[:-1], file.name.partition(".")[0])


def _split(file: File) -> str:
    """Return the split of an image from its folder, or from the shard it is in: `train-000007.tar`."""
    names = [re.split(r"[-_.]\d", name)[0] for name in file.parts[:-1]]
    return next(filter(None, map(split_of, names)), "train")


def _label(file: File) -> str:
    """Return the class in a file, or ""."""
    try:
        text = file.read()[:10_000].decode("utf-8").strip()
        if file.suffix != ".json":
            return cell_text(text) if "\n" not in text else ""
        values = {plain_name(str(name)): value for name, value in json.loads(text).items()}
    except (OSError, UserError, ValueError, RecursionError, AttributeError):
        return ""
    found = (cell_text(values.get(name)) for name in ("cls", *LABEL_COLUMNS))
    return next((label for label in found if label not in ("", SEVERAL)), "")


def _is_box(label: str) -> bool:
    return re.fullmatch(r"\d+( [\d.]+){4,}", label) is not None
