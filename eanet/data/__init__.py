"""Labelled images as NumPy arrays, from whatever holds them; no TensorFlow. A new source is one more module."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from eanet.cli import UserError, printable
from eanet.data.archives import (
    ARCHIVE_SUFFIXES,
    expand_tables,
    foreign_archive,
    is_archive,
    is_compressed_table,
    scan_archive,
)
from eanet.data.augmentation import Batches
from eanet.data.build import build_dataset, resize_splits
from eanet.data.cifar import download_cifar100, find_cifar, load_cifar
from eanet.data.class_names import name_classes
from eanet.data.files import (
    File,
    Folder,
    LeftOut,
    check_not_pointer,
    has_images,
    is_lfs_pointer,
    looks_like_image,
    name_of,
    scan_folder,
)
from eanet.data.folders import Listing, are_parts, list_class_folders, split_of, splits_at_end
from eanet.data.hub import find_saved, find_shards, is_repo_id, load_hub
from eanet.data.pairs import list_pairs
from eanet.data.report import describe, inspect
from eanet.data.splits import Dataset, Split, balanced_class_weights, count_repeated, split_validation
from eanet.data.storage import DiskImages
from eanet.data.table_files import OTHER_SUFFIXES, TABLE_SUFFIXES, count_images, parquet_columns
from eanet.data.tables import apply_splits, check_names, label_splits, list_tables
from eanet.images import image_suffixes
from modeling_eanet import EANetConfig

__all__ = [
    "Batches",
    "Dataset",
    "DiskImages",
    "Split",
    "balanced_class_weights",
    "check_data_path",
    "describe",
    "inspect",
    "is_lfs_pointer",
    "is_repo_id",
    "load_dataset",
    "split_validation",
]

SHEETS = (".xlsx", ".xls", ".ods", ".numbers")
OTHER_ARCHIVES = (".7z", ".rar", ".zst", ".tzst", ".lz4", ".lzma", ".cab", ".iso", ".dmg")
SPREADSHEET = "a spreadsheet, which is not read; save it as a CSV file"
MAX_ARCHIVES, MAX_NESTED = 1000, 3  # files of a folder that is searched for archives; archives in archives


def check_data_path(path) -> None:
    """Raise UserError if there is nothing at `path`, and it cannot be a data set on the Hub; None is fine."""
    if path is None or os.path.exists(path):
        return
    if "://" in str(path):
        raise UserError(f"data {path}: an address is not downloaded; download it, and give the path of the file")
    if not is_repo_id(path):
        raise UserError(f"data {path}: no such file or folder")
    if importlib.util.find_spec("datasets") is None:
        hint = "for a data set of this name on the Hub, `pip install datasets`"
        raise UserError(f"data {path}: no such file or folder; {hint}")


def load_dataset(
    path, config: EANetConfig, *, image_column=None, label_column=None, strict=False, labels=None, need_train=True, name=None
) -> Dataset:
    """Recognise and read a data set.

    Args:
        path: a folder, an archive (zip, tar) or a table (CSV, JSON lines): class folders, with or without `train/`; images
            listed in a table; CIFAR-10 or CIFAR-100 in any official version; Parquet files or a `save_to_disk` folder.
            Or the id of a data set on the Hub (user/name). None to download CIFAR-100.
        config: size and interpolation the images are resized with.
        image_column: column of a table or Hub data set with the images; None to find it.
        label_column: column with the classes; None to find it.
        strict: refuse the data set if anything is left out.
        labels: class names of a model, in its order, if the data is to be measured with it; the data may lack some of them.
        need_train: refuse a data set without training images.
        name: of the data set, for people; None for that of its folder or file.

    Returns:
        The data set, in memory, or where it is too large for that, in a temporary file.

    Raises:
        UserError: no data set there, or one that cannot be used; the message names the path and what to do.
        OSError: it cannot be read.
    """
    check_data_path(path)
    given, path = path or "CIFAR-100", download_cifar100() if path is None else path
    options = dict(image_column=image_column, label_column=label_column, strict=strict, labels=labels)
    dataset = load_hub(path, config, **options) if is_repo_id(path) else _load_local(Path(path), config, options)
    dataset.name = name or dataset.name
    if labels is not None and tuple(labels) != tuple(dataset.labels):  # CIFAR comes with its own
        other = sorted(set(labels) ^ set(dataset.labels)) or ["in another order"]
        raise UserError(f"data {given}: its classes are not those of the model ({other[0]})")
    if dataset.train is None and need_train:
        raise UserError(f"{path}: no training images in it, only a {'test' if dataset.test else 'validation'} split")
    count_repeated(dataset)
    for split in (dataset.validation, dataset.test):
        if split and split.repeated and not dataset.id.startswith("uoft-cs/cifar"):
            split.note = f"{split.name} split, {split.repeated:,} of its {len(split):,} images also in train"
    return dataset


def _load_local(path: Path, config: EANetConfig, options: dict) -> Dataset:
    left_out = LeftOut()
    if path.is_dir() and (saved := find_saved(path)):
        return load_hub(saved, config, **options)
    tree, table = _scan(path, left_out)
    archives = _archives_in(tree, options, table)
    alone = len(archives) == 1 and not table and not _tables_in(tree) and not has_images(tree)
    if alone and isinstance(archives[0].source, str):
        return _load_local(Path(archives[0].source), config, options)
    for _ in range(MAX_NESTED):
        tree = _opened(tree, archives, str(path), left_out) if archives else tree
        archives = _archives_in(tree, options, table)
    shards = {} if table else find_shards(tree, str(path))
    expand_tables(tree)
    if shards and _holds_images(shards, tree, str(path), options):
        if any(callable(source) for found in shards.values() for source in found):
            raise UserError(f"{path}: Parquet files in an archive are not read; unpack it")
        return load_hub(path, config, shards, **options)
    if not table and (found := find_cifar(tree)):
        return resize_splits(load_cifar(path, *found), config)
    listing = _find_images(tree, str(path), left_out, options, table)
    name_classes(listing, tree, left_out, options["labels"])
    strict, labels = options["strict"], options["labels"]
    return build_dataset(listing, str(path), name_of(path), config, left_out, strict=strict, labels=labels)


def _holds_images(shards: dict[str, list], tree: Folder, where: str, options: dict) -> bool:
    """Return whether Parquet files are the data set: there are no image files, or only some without labels, as in a README.

    Raises:
        UserError: the image files have labels too, and are fewer.
    """
    images = sum(map(looks_like_image, tree.walk()))
    if not images:
        return True
    rows = count_images(source for found in shards.values() for source in found)
    if rows is not None and rows <= images:
        return False
    try:
        listing = _find_images(tree, where, LeftOut(), options)
    except UserError:
        return True
    if len({sample.label for samples in listing.samples.values() for sample in samples}) < 2:
        return True
    if rows is not None:
        kinds = f"{images:,} image files with labels and Parquet files with {rows:,} images"
        raise UserError(f"{where}: holds {kinds}; give a folder with only one of the two")
    return False


def _scan(path: Path, left_out: LeftOut) -> tuple[Folder, str | None]:
    """List the files of a folder or an archive, or of the folder of a table; a Parquet file is a tree of its own.

    Returns:
        The tree; the name of the table if `path` is one, which decides alone, or None.
    """
    if path.is_dir():
        return scan_folder(path, left_out), None
    if not path.is_file():
        raise UserError(f"{path}: not a regular file, nor a folder")
    check_not_pointer(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if not head and path.suffix.lower() in TABLE_SUFFIXES:
        raise UserError(f"{path}: empty, a table without rows")
    if not head:
        raise UserError(f"{path}: empty; truncated or damaged, download it again")
    if path.suffix.lower() in SHEETS:
        raise UserError(f"{path}: {SPREADSHEET}")
    if is_compressed_table(path.name):
        return _with_one_table(path, left_out), path.name.rpartition(".")[0]
    if is_archive(path):
        return scan_archive(path, left_out), None
    if head.startswith(b"PAR1") and "image" in dict(parquet_columns(str(path))).values():
        return Folder(files={path.name: File((path.name + ".parquet",), str(path))}), None
    if path.suffix.lower() in (*TABLE_SUFFIXES, *OTHER_SUFFIXES):
        tree = _with_one_table(path, left_out)
        return tree, path.name if path.suffix.lower() != ".parquet" or has_images(tree) else None
    if path.suffix.lower() in image_suffixes():
        raise UserError(f"{path}: a single image; a data set is the folder with the class folders")
    raise UserError(f"{path}: no images: not a tarball or zip, nor a table or a Parquet file; is the download complete?")


def _with_one_table(path: Path, left_out: LeftOut) -> Folder:
    """List the folder of a table without the other tables next to it."""
    tree = scan_folder(path.parent, left_out)
    for other in [name for name, file in tree.files.items() if _is_table(file)]:
        del tree.files[other]
    tree.add((path.name,), str(path))
    return tree


def _is_table(file: File) -> bool:
    return file.suffix in TABLE_SUFFIXES or is_compressed_table(file.name)


def _archives_in(tree: Folder, options: dict, table: str | None = None) -> list[File]:
    """Return the archives in a folder such as a download: without images, or with some without labels next to them."""
    files = tree.walk()
    if len(files) > MAX_ARCHIVES:
        return []
    named = [file for file in files if file.suffix in ARCHIVE_SUFFIXES and not is_compressed_table(file.name)]
    archives = [f for f in named if callable(f.source) or is_archive(f.source) or is_lfs_pointer(f.source)]
    images = {file.parts[:-1] for file in files if looks_like_image(file)}
    if not images or len(images) == 1 and images == {f.parts[:-1] for f in archives} and not _told(tree, options, table):
        return archives
    return []


def _told(tree: Folder, options: dict, table: str | None) -> bool:
    """Return whether other files than folders may tell the classes of images, or are the data set themselves."""
    columns = {name: options[name] for name in ("image_column", "label_column")}
    if any(is_compressed_table(file.name) or file.suffix in (".parquet", ".arrow") for file in tree.walk()):
        return True
    try:
        tables = list_tables(tree, "", LeftOut(), first_only=False, only=table, **columns)
        return bool(tables.samples or list_pairs(tree, LeftOut(), certain=False))
    except UserError:
        return True


def _tables_in(tree: Folder) -> list[File]:
    return [file for file in tree.walk() if file.suffix in TABLE_SUFFIXES]


def _opened(tree: Folder, archives: list[File], where: str, left_out: LeftOut) -> Folder:
    """Return the tree with the members of archives in place of these: each in a folder of its name, if there are several.

    A member whose path is taken goes into a folder called as the archive is.
    """
    inside = {}
    for file in archives:
        if not callable(file.source):
            check_not_pointer(file.source)
        content = file.source() if callable(file.source) else None
        inside[file] = scan_archive(file.source if content is None else f"{where}/{file.path}", left_out, content)
    full = [file for file in archives if has_images(inside[file])]
    names = _folder_names(full)
    splits = [split_of(name) for name in names.values()]
    flat = all(len({f.parts[:-1] for f in inside[file].walk() if looks_like_image(f)}) == 1 for file in full)
    joined = _are_downloads(full)
    told = joined or flat or _tables_in(tree) or None not in splits and len(set(splits)) == len(splits)
    if len(full) > 1 and not told:
        listed = ", ".join(file.path for file in full[:4]) + (", ..." if len(full) > 4 else "")
        raise UserError(f"{where}: several archives with images ({listed}); give one of them, or unpack them")
    placed = {file.parts: file.source for file in tree.walk() if file not in inside}
    for file, members in inside.items():
        name = names.get(file) or file.name.partition(".")[0]
        within = (*file.parts[:-1], name) if file in full and len(full) > 1 and not joined else file.parts[:-1]
        same = list(members.folders) in ([name], [_stem(file)]) and not members.files
        twice = within and within[-1] == name and same  # train/train/
        for member in members.walk():
            parts = (*within, *member.parts[bool(twice) :])
            placed[parts if parts not in placed else (*file.parts, *member.parts)] = member.source
    merged = Folder()
    for parts, source in placed.items():
        merged.add(parts, source)
    return merged


def _are_downloads(archives: list[File]) -> bool:
    """Return whether archives are the parts of one download of Google Drive or Takeout: `data-20240101T000000Z-001.zip`."""
    found = [re.fullmatch(r"(.*-\d{8}T\d{6}Z)(-\d+)?-\d{3}", _stem(file)) for file in archives]
    return all(found) and len({match[1] for match in found if match}) == 1


def _folder_names(archives: list[File]) -> dict[File, str]:
    """Return a folder for each archive: its name up to the first dot, or more of it if others begin alike; or its split."""
    forms = ([file.name.partition(".")[0] for file in archives], [_stem(f) for f in archives], [f.name for f in archives])
    folders = [file.parts[:-1] for file in archives]
    names = next(names for names in forms if len({*zip(folders, names, strict=True)}) == len(archives))
    splits = splits_at_end(names)  # of v1.0-train.zip and v1.0-test.zip
    return {file: splits[name] if len(splits) == len(names) else name for file, name in zip(archives, names, strict=True)}


def _stem(file: File) -> str:
    return re.sub(rf"({'|'.join(map(re.escape, ARCHIVE_SUFFIXES))})+$", "", file.name, flags=re.I)


def _find_images(tree: Folder, where: str, left_out: LeftOut, options: dict, table: str | None = None) -> Listing:
    """List the images by the table that is given; or by `metadata` and `labels`, then class folders, then any table."""
    columns = {name: options[name] for name in ("image_column", "label_column")}
    named, there = any(columns.values()), has_images(tree)
    if table or not there:
        tables = list_tables(tree, where, left_out, first_only=False, only=table, **columns)
        if there and tables.samples:
            return tables
        unknown = f"{table}: no table of images in its folder and their classes" if there and not named else ""
        _refuse(tree, where, columns, left_out, tables.problem or unknown)
    if not named and (pairs := list_pairs(tree, left_out, certain=True)):
        return pairs
    tables = list_tables(tree, where, left_out, first_only=not named, **columns)
    if tables.samples:
        return tables
    if named:
        _refuse(tree, where, columns, left_out, tables.problem)
    before, found = list(left_out.entries), Listing({})
    problem: UserError | None = None
    try:
        found = list_class_folders(tree, where, left_out)
    except UserError as error:  # what looked like classes may be folders of images that a table lists
        problem = error
    classes = {sample.label for samples in found.samples.values() for sample in samples}
    if len(classes) > 1 and not are_parts(classes):
        check_names(found, tree, where)
        label_splits(found, tree, where, left_out)
        apply_splits(found, tree, where)
        return found
    after, left_out.entries = left_out.entries, before
    tables = list_tables(tree, where, left_out, first_only=False, **columns)
    if tables.samples:
        return tables
    if pairs := list_pairs(tree, left_out, certain=False):
        return pairs
    left_out.entries = after
    if problem and not tables.problem:
        raise problem
    if not classes or len(classes) == 1 and not options["labels"] and (tables.problem or _sheets_in(tree)):
        _refuse(tree, where, columns, left_out, tables.problem)
    return found


def _sheets_in(tree: Folder) -> list[File]:
    return [file for file in tree.walk() if file.suffix in SHEETS]


def _refuse(tree: Folder, where: str, columns: dict, left_out: LeftOut, problem: str = "") -> None:
    """Raise UserError that says what there is instead of images with labels."""
    files, sheets = tree.walk(), _sheets_in(tree)
    named = {name: value for name, value in columns.items() if value}
    if named and not problem:
        name, value = next(iter(named.items()))
        listed = ", ".join(file.path for file in _tables_in(tree)[:3])
        there = f" ({listed})" if listed else "; there is none"
        raise UserError(f"{where}: {name} {printable(value)}: no table has a column of this name{there}")
    if problem:
        raise UserError(f"{where}: {problem}")
    if sheets:
        raise UserError(f"{where}: {sheets[0].path}: {SPREADSHEET}")
    if others := [file for file in files if file.suffix in OTHER_ARCHIVES]:
        raise foreign_archive(f"{where}: {others[0].path}", others[0].suffix.removeprefix("."))
    first = f" (it holds {', '.join(file.path for file in files[:3])}{', ...' if len(files) > 3 else ''})" if files else ""
    if not files and left_out.entries:
        first = f" (left out: {left_out.entries[0]['path']}: {left_out.entries[0]['reason']})"
    raise UserError(
        f"{where}: no images with labels in it{first}: neither class folders, nor a table of files and labels, nor CIFAR; "
        "see README.md for the layouts"
    )
