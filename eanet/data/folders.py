"""Class folders: an image's class is the folder it is in."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from eanet.cli import UserError, printable
from eanet.data.decode import Sample
from eanet.data.files import File, Folder, LeftOut, has_images, images_of, looks_like_image, may_be_image, not_an_image

ORDER = ("train", "validation", "test")
_WORDS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "hold-out", "hold_out"), "test"),
}
# "Training", "seg_train", "test_set", "val-images", "1_train", "val2017"; not "train_station".
_SPLIT_NAME = re.compile(
    r"(\d+[ _.-]+)?((seg|images?|imgs?|data)[ _-]?)?"
    rf"(?P<word>{'|'.join(_WORDS)})([ _-]?(set|split|data|folder|images?|imgs?))?([ _-]?\d{{1,4}})?",
    re.I,
)
_WRAPPERS = {"images", "image", "imgs", "img", "data"}
# Folders of a set for detection or segmentation, which are no classes.
_IMAGES = {"images", "image", "imgs", "img", "jpegimages", "jpg", "png"}
_TARGETS = {"masks", "mask", "annotations", "annotation", "labels", "label", "gt", "ground_truth", "groundtruth",
            "segmentations", "segmentation", "segmentationclass", "trimaps"}  # fmt: skip
_PART = re.compile(
    r"(?P<name>.*?(fold|part|batch|chunk|shard|subset|split|set|volume|vol|images?|imgs?|archive)s?)[ _-]?\d+", re.I
)
_MASK = re.compile(r"(.+)[ _.-](mask|segmentation)([ _-]?\d+)?", re.I)
_SYSTEM = {"lost+found", "#recycle", "@recycle"}  # never a class


@dataclasses.dataclass
class Listing:
    """The labelled images of a data set, not yet read.

    Attributes:
        samples: those of each split that is there ("train", "validation", "test"), with class names as labels.
        labels: class names in the order of the class indices; None for those of the samples, sorted.
        places: where each class was found, for messages.
        source: what the classes are read from, for messages.
        unlabelled: folders of splits without class folders.
        problem: why no table could be read, or "".
        tables: paths of the tables, as names of their parts.
    """

    samples: dict[str, Any]
    labels: tuple[str, ...] | None = None
    places: dict[str, str] = dataclasses.field(default_factory=dict)
    source: str = ""
    unlabelled: dict[str, Folder] = dataclasses.field(default_factory=dict)
    problem: str = ""
    tables: set[tuple[str, ...]] = dataclasses.field(default_factory=set)


def split_of(name: str) -> str | None:
    """Return the split ("train", "validation", "test") that a folder, file or column value means, or None."""
    match = _SPLIT_NAME.fullmatch(name.strip())
    return _WORDS[match["word"].lower()] if match else None


def split_in(name: str) -> str | None:
    """Return the only split among the words of a shard's name: `imagenet1k-validation-00`, `beans-train`; or None."""
    words = [w for w in re.split(r"[\W\d_]+", name.lower()) if w not in ("", "of", "parquet", "arrow", "tar")]
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 and _WORDS.keys() & {words[0], words[-1]} else None


def split_folders(folder: Folder) -> dict[str, Folder]:
    """Return the folders of a data set by split, or {} if its folders are classes.

    `train` can also be a class, of vehicles: it is one if there are other classes, and it holds images directly.

    Raises:
        UserError: two folders are the same split.
    """
    found: dict[str, Folder] = {}
    names = _split_names(folder)
    others = {name for name, f in folder.folders.items() if name not in names and has_images(f)}
    for name, child in folder.folders.items():
        split = names.get(name)
        if split in found:
            raise UserError(f"{found[split].path} and {child.path}: both are the {split} split; put them into one folder")
        if split is not None:
            found[split] = child
    if "train" in found or not others:
        classes = others and found and not _inner(found["train"]).folders and has_images(found["train"])
        return {} if classes else {split: _inner(child) for split, child in found.items()}
    # Classes next to `val` or `test`: splits if they have the same classes, or images without a class.
    held_out = {s: child for s, child in found.items() if others & set(child.folders) or s == "test" and not child.folders}
    if not held_out:
        return {}
    used = {child.parts[-1] for child in held_out.values()}
    classes = {name: child for name, child in folder.folders.items() if name not in used}
    return {"train": Folder(folder.parts, dict(folder.files), classes), **held_out}


def _split_names(folder: Folder) -> dict[str, str]:
    """Return the split of each folder whose name tells one, also of `a_train` and `a_test`."""
    return {name: split for name in folder.folders if (split := split_of(name))} or splits_at_end(folder.folders)


def splits_at_end(names: Iterable[str]) -> dict[str, str]:
    """Return the splits of `a_train` and `a_test`, names that only differ in it; {} for others."""
    groups: dict[tuple, dict[str, str]] = {}
    for name in names:
        words = re.split(r"[ _-]+", name.lower())
        for rest, word in ((words[:-1], words[-1]), (words[1:], words[0])):
            if rest and word in _WORDS:
                groups.setdefault(tuple(rest), {})[name] = _WORDS[word]
    splits = [group for group in groups.values() if "train" in group.values() and len(set(group.values())) == len(group) > 1]
    return splits[0] if len(splits) == 1 else {}


def _inner(folder: Folder) -> Folder:
    """Return `train/train` or `train/images` instead of `train`, if that is all there is in it."""
    if len(folder.folders) == 1 and not any(map(looks_like_image, folder.files.values())):
        (name, child), *_ = folder.folders.items()
        if child.folders and (split_of(name) or name.lower() in _WRAPPERS or name == folder.parts[-1]):
            return child
    return folder


def unwrap(folder: Folder) -> Folder:
    """Descend through folders that hold nothing but one folder with all the images."""
    while not split_folders(folder) and not any(map(looks_like_image, folder.files.values())):
        inner = [child for child in folder.folders.values() if has_images(child)]
        empty = [child for child in folder.folders.values() if child not in inner and not child.walk()]
        if len(inner) != 1 or not inner[0].folders or empty and not split_folders(inner[0]):
            break
        folder = inner[0]
    return folder


def class_name(folder: Folder) -> str:
    """Return the name of a class folder in Unicode's composed form (NFC), as most systems write it.

    Raises:
        UserError: the bytes of the name are not text.
    """
    name = folder.parts[-1]
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{folder.path}: the name of this class folder is not UTF-8 text; rename it") from None
    return unicodedata.normalize("NFC", name)


def list_class_folders(root: Folder, where: str, left_out: LeftOut) -> Listing:
    """Find the images of a data set with class folders.

    Args:
        root: the tree.
        where: what to call the data set in messages.
        left_out: gets the files that are not read.

    Returns:
        The listing; without class folders it has no samples.

    Raises:
        UserError: an empty class folder, or other classes in the validation or test split than in the training split.
    """
    folder = unwrap(root)
    splits = split_folders(folder) or _splits_in_classes(folder) or {"train": folder}
    listing, used = Listing({}), set[str]()
    for split in sorted(splits, key=ORDER.index):
        classes = _named_classes(_without_parts(splits[split]))
        if not classes or listing.places and _no_class(split, classes, listing):
            listing.unlabelled[split] = splits[split]
            continue
        samples = _samples_of(classes)
        _check(split, splits[split], classes, samples, listing, where)
        listing.samples[split] = samples
        used |= {sample.path for sample in samples}
    if not listing.samples:
        _refuse_targets(root.folders, where)
    else:
        unlabelled = [child.parts for child in listing.unlabelled.values()]
        for file in root.walk():
            if file.path not in used:
                left_out.add(file.path, _why_not(file, unlabelled))
    return listing


def _no_class(split: str, classes, listing: Listing) -> bool:
    """Return whether the only folder of a split is no class: `val/images`, or `test/unknown`."""
    names = set(classes) - set(listing.places)
    return len(classes) == len(names) == 1 and (split == "test" or names.pop().lower() in _WRAPPERS)


def _splits_in_classes(folder: Folder) -> dict[str, Folder]:
    """Return the splits of `cat/train`, `cat/test`, `dog/train`, ...; {} for another layout."""
    classes = [child for child in folder.folders.values() if has_images(child)]
    splits: dict[str, Folder] = {}
    for child in classes:
        names = {name: split_of(name) for name, inner in child.folders.items() if has_images(inner)}
        if "train" not in names.values() or None in names.values() or any(map(looks_like_image, child.files.values())):
            return {}
        for name, split in names.items():
            part = splits.setdefault(split or "", Folder(folder.parts))
            part.folders[child.parts[-1]] = Folder(child.parts, {}, {name: child.folders[name]})
    return splits if len(classes) > 1 else {}


def are_parts(names) -> bool:
    """Return whether folders are the parts of something, by their names: `fold_1` and `fold_2`, `images_001` and so on."""
    matches = [_PART.fullmatch(name) for name in names]
    return len(matches) > 1 and all(matches) and len({match["name"].lower() for match in matches if match}) == 1


def _without_parts(folder: Folder) -> Folder:
    """Return the classes in `fold_1`, `fold_2`, ... together."""
    parts = [child for child in folder.folders.values() if has_images(child)]
    if len(parts) > 1 and all(map(_is_letter, parts)):
        return Folder(folder.parts, {}, {name: child for part in parts for name, child in part.folders.items()})
    if not are_parts([child.parts[-1] for child in parts]):
        return folder
    merged: dict[str, Folder] = {}
    for part in parts:
        inner = {name: child for name, child in part.folders.items() if has_images(child)}
        if len(inner) < 2 or any(map(looks_like_image, part.files.values())):
            return folder
        for name, child in inner.items():
            merged.setdefault(name, Folder(child.parts)).folders[part.parts[-1]] = child
    return Folder(folder.parts, {}, merged)


def _is_letter(folder: Folder) -> bool:
    """Return whether a folder only divides classes by their first letter: `a/abbey`, as in SUN397 and Places365."""
    letter = folder.parts[-1].lower()
    begin_so = all(name.lower().startswith(letter) and name[1:2].isalpha() for name in folder.folders)
    return len(letter) == 1 and bool(folder.folders) and begin_so and not any(map(looks_like_image, folder.files.values()))


def _named_classes(folder: Folder) -> dict[str, list[Folder]]:
    """Return the class folders by class name, sorted; more than one where names differ only in their Unicode form."""
    classes: dict[str, list[Folder]] = {}
    for child in folder.folders.values():
        if child.parts[-1].lower() not in _SYSTEM or has_images(child):
            classes.setdefault(class_name(child), []).append(child)
    return dict(sorted(classes.items()))


def images_without_masks(folder: Folder) -> list[File]:
    """Return the images of a class, but no masks: those in `masks` next to `images`, and `7_mask.png` next to `7.png`."""
    files, depth = list(images_of(folder)), len(folder.parts)
    inner = {file.parts[depth:-1] for file in files}
    images = {folders[:-1] for folders in inner if folders and folders[-1].lower() in _IMAGES}
    masks = {folders for folders in inner if folders and folders[-1].lower() in _TARGETS and folders[:-1] in images}
    stems = {(*file.parts[:-1], file.name.rpartition(".")[0]) for file in files}

    def is_mask(file: File) -> bool:
        match = _MASK.fullmatch(file.name.rpartition(".")[0])
        return file.parts[depth:-1] in masks or match is not None and (*file.parts[:-1], match[1]) in stems

    return [file for file in files if not is_mask(file)]


def _samples_of(classes: dict[str, list[Folder]]) -> list[Sample]:
    return [
        Sample(file.path, file.source, name, looks_like_image(file))
        for name, children in classes.items()
        for child in children
        for file in images_without_masks(child)
    ]


def _check(split: str, folder: Folder, classes: dict, samples: list[Sample], listing: Listing, where: str) -> None:
    """Raise UserError for an empty class, an empty split or an unknown class; note where the classes of train/ are."""

    def empty(place: Folder) -> UserError:
        return UserError(f"{where}/{place.path}: no images in it; add some, or remove it")

    filled = {sample.label for sample in samples}
    if split == "train":
        _refuse_targets(classes, where)
        _refuse_levels(classes, where)
        for name, children in classes.items():
            if name not in filled or not any(map(has_images, children)):
                raise empty(children[0])
        listing.places = {name: children[0].path for name, children in classes.items()}
        listing.source = f"{folder.path}/ " if folder.parts else ""
    elif listing.places and (unknown := sorted(set(classes) - set(listing.places))):
        close = [name for name in listing.places if name.casefold() == unknown[0].casefold()]
        hint = f", which has {printable(close[0])}" if close else ""
        raise UserError(f"{where}/{folder.path}: class {printable(unknown[0])} is not among the classes of train/{hint}")
    elif not samples:
        raise empty(folder)


def _refuse_levels(classes: dict[str, list[Folder]], where: str) -> None:
    """Raise UserError for a class folder that is a data set of its own: with splits, or a copy of the other classes."""
    children = [(name, child) for name, folders in classes.items() for child in folders]
    divided = [child for _, child in children if "train" in map(split_of, child.folders)]
    by_class = len(divided) == len(children) > 1 and not are_parts(classes)  # cat/train, cat/test, dog/train, ...
    for name, child in children:
        try:
            inner = unwrap(child)
            found = {} if by_class else split_folders(inner)
        except UserError:  # cat/test1, cat/test2
            continue
        if found.get("train", inner).parts == inner.parts:  # cat/day, cat/night, cat/test
            found = {}
        splits = {split: _without_parts(folder) for split, folder in found.items()}
        folders = {class_name(folder) for folder in inner.folders.values() if has_images(folder)}
        if "train" in splits and any(map(has_images, splits["train"].folders.values())):
            held = f"holds {' and '.join(splits[split].path for split in ORDER if split in splits)}"
        elif len(classes) > 2 and set(classes) - {name} <= folders:
            held = "holds folders of the other classes"
        else:
            continue
        raise UserError(f"{where}/{child.path}: {held}, and is no class; give it as the data, or move it elsewhere")


def _refuse_targets(names, where: str) -> None:
    """Raise UserError for the folders of a set for detection or segmentation."""
    roles = {name.lower(): name for name in names}
    images, targets = sorted(_IMAGES & set(roles)), sorted(_TARGETS & set(roles))
    if images and targets:
        raise UserError(
            f"{where}: {roles[images[0]]} and {roles[targets[0]]} are not classes but images and their {targets[0]}; "
            "put the images of each class into a folder of its name, or list their classes in a table"
        )


def _why_not(file: File, unlabelled: list[tuple[str, ...]]) -> str:
    if not may_be_image(file):
        return not_an_image(file)
    if file.parts[-2:-1] and file.parts[-2].lower() in _TARGETS or _MASK.fullmatch(file.name.rpartition(".")[0]):
        return "a mask, for segmentation"
    if any(file.parts[: len(parts)] == parts for parts in unlabelled):
        return "no label: its split has no class folders"
    return "no label: it is not in a class folder"
