"""Images with their class in a file of the same name next to them, as in the tarballs of WebDataset: `07.jpg`, `07.cls`."""

from __future__ import annotations

import json
import os
import re
from collections import Counter

from eanet.cli import UserError
from eanet.data.decode import Sample
from eanet.data.files import File, Folder, LeftOut, looks_like_image, not_an_image
from eanet.data.folders import ORDER, Listing, split_in, split_of
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
    images = [file for file in files if looks_like_image(file)]
    for suffix in LABEL_SUFFIXES:
        named = _label_files(images, [file for file in files if file.suffix == suffix])
        if certain and suffix != ".cls":
            named = {image: file for image, file in named.items() if callable(file.source)} if _are_shards(images) else {}
        stems = set(map(_stem, named))
        # Next to 07.jpg, a 07.mask.png is no image of its own.
        enough = ALMOST_ALL * sum(image in named or _key(image) not in stems for image in images)
        if len(named) < max(2, enough):
            continue
        labels = {file: label for file in dict.fromkeys(named.values()) if (label := _label(file))}
        several = len(set(labels.values())) > 1
        # Text is a caption, unless the same words come again.
        repeated = (
            suffix != ".txt" or len(set(labels.values())) <= len(labels) / 2 and not any(map(_is_box, labels.values()))
        )
        labelled = {image: labels[file] for image, file in named.items() if file in labels}
        if several and repeated and len(labelled) >= enough:
            return _listing(files, labelled, left_out)
    return None


def _are_shards(images: list[File]) -> bool:
    """Return whether images are in one folder, or in those of numbered shards, and not in class folders."""
    folders = {image.parts[:-1] for image in images}
    return len(folders) < 2 or all(folder and re.search(r"(\d|[-.])\d$", folder[-1]) for folder in folders)


def _label_files(images: list[File], files: list[File]) -> dict[File, File]:
    """Return the file that goes with each image: 07.json or 07.jpg.json with 07.jpg, 07.a.json with 07.a.jpg.

    WebDataset divides names at the first dot. So other files go with the only image of that name, and 07.json with all of
    07.left.jpg and 07.right.jpg, unless there is a 07.jpg.
    """
    by_stem, by_key = {_stem(file): file for file in files}, {_key(file): file for file in files}
    own = {image: file for image in images if (file := by_stem.get(image.parts) or by_stem.get(_stem(image)))}
    taken, count = set(own.values()), Counter(map(_key, images))
    found = {}
    for image in images:
        key = _key(image)
        shared = by_stem.get(key) or (by_key.get(key) if count[key] == 1 else None)
        if file := own.get(image) or (shared if shared not in taken else None):
            found[image] = file
    return found


def _listing(files: list[File], labels: dict[File, str], left_out: LeftOut) -> Listing:
    samples: dict[str, list[Sample]] = {}
    for file, label in labels.items():
        samples.setdefault(_split(file), []).append(Sample(file.path, file.source, label))
    keys = set(map(_key, filter(looks_like_image, files)))
    for file in files:
        if looks_like_image(file):
            if file not in labels:
                left_out.add(file.path, "no label: no file next to it tells its class")
        elif file.suffix not in LABEL_SUFFIXES or _key(file) not in keys:
            left_out.add(file.path, not_an_image(file))
    return Listing({split: samples[split] for split in ORDER if split in samples})


def _stem(file: File) -> tuple[str, ...]:
    return (*file.parts[:-1], os.path.splitext(file.name)[0])


def _key(file: File) -> tuple[str, ...]:
    return (*file.parts[:-1], file.name.partition(".")[0])


def _split(file: File) -> str:
    """Return the split of an image from its folder, or from the shard it is in: `train-000007.tar`."""
    names = [re.split(r"[-_.]\d", name)[0] for name in file.parts[:-1]]
    return next(filter(None, (split_of(name) or split_in(name) for name in names)), "train")


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
