"""Labelled images as NumPy arrays, from whatever holds them; no TensorFlow. A new source is one more module."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from eanet.cli import UserError, printable
from eanet.data.archives import ARCHIVE_SUFFIXES, is_archive, scan_archive
from eanet.data.augmentation import Batches
from eanet.data.build import build_dataset, resize_splits
from eanet.data.cifar import download_cifar100, find_cifar, load_cifar
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
from eanet.data.folders import Listing, list_class_folders, split_of
from eanet.data.hub import find_shards, is_repo_id, is_saved, load_hub
from eanet.data.report import describe, inspect
from eanet.data.splits import Dataset, Split, balanced_class_weights, split_validation
from eanet.data.storage import DiskImages
from eanet.data.tables import SUFFIXES, list_tables
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


def check_data_path(path) -> None:
    """Raise UserError if there is nothing at `path`, and it cannot be a data set on the Hub; None is fine."""
    if path is None or os.path.exists(path):
        return
    if not is_repo_id(path):
        raise UserError(f"data {path}: no such file or folder; give none to download CIFAR-100")
    if importlib.util.find_spec("datasets") is None:
        hint = "for a data set of this name on the Hub, `pip install datasets`"
        raise UserError(f"data {path}: no such file or folder; {hint}")


def load_dataset(
    path, config: EANetConfig, *, image_column=None, label_column=None, strict=False, labels=None, need_train=True
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

    Returns:
        The data set, in memory, or where it is too large for that, in a temporary file.

    Raises:
        UserError: no data set there, or one that cannot be used; the message names the path and what to do.
        OSError: it cannot be read.
    """
    check_data_path(path)
    path = download_cifar100() if path is None else path
    options = dict(image_column=image_column, label_column=label_column, strict=strict, labels=labels)
    dataset = load_hub(path, config, **options) if is_repo_id(path) else _load_local(Path(path), config, options)
    if dataset.train is None and need_train:
        raise UserError(f"{path}: no training images in it, only a {'test' if dataset.test else 'validation'} split")
    return dataset


def _load_local(path: Path, config: EANetConfig, options: dict) -> Dataset:
    left_out = LeftOut()
    if path.is_dir() and is_saved(path):
        return load_hub(path, config, **options)
    tree = _scan(path, left_out)
    shards = find_shards(tree)
    if shards and not any(map(looks_like_image, tree.walk())):
        if path.is_file() and is_archive(path):
            raise UserError(f"{path}: Parquet files in an archive are not read; unpack it")
        return load_hub(path, config, shards, **options)
    archives = _archives_in(tree)
    if len(archives) == 1:
        return _load_local(Path(str(archives[0].source)), config, options)
    tree = _scan_splits(archives, left_out) or tree if archives else tree
    if found := find_cifar(tree):
        return resize_splits(load_cifar(path, *found), config)
    listing = _find_images(tree, str(path), left_out, options)
    strict, labels = options["strict"], options["labels"]
    return build_dataset(listing, str(path), name_of(path), config, left_out, strict=strict, labels=labels)


def _scan(path: Path, left_out: LeftOut) -> Folder:
    """List the files of a folder or an archive, or of the folder of a table; a Parquet file is a tree of its own."""
    if path.is_dir():
        return scan_folder(path, left_out)
    if not path.is_file():
        raise UserError(f"{path}: not a regular file, nor a folder")
    check_not_pointer(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if not head:
        raise UserError(f"{path}: empty; truncated or damaged, download it again")
    if is_archive(path):
        return scan_archive(path, left_out)
    if head.startswith(b"PAR1"):
        return Folder(files={path.name: File((path.name + ".parquet",), str(path))})
    if path.suffix.lower() in SUFFIXES:
        tree = scan_folder(path.parent, left_out)
        tables = [name for name, file in tree.files.items() if file.suffix in SUFFIXES and name != path.name]
        for name in tables:
            del tree.files[name]
        return tree
    if path.suffix.lower() in image_suffixes():
        raise UserError(f"{path}: a single image; a data set is the folder with the class folders")
    raise UserError(f"{path}: no images: not a tarball or zip, nor a table or a Parquet file; is the download complete?")


def _archives_in(tree: Folder) -> list[File]:
    """Return the archives in a folder that holds nothing else of use, such as a download of CIFAR."""
    files = tree.walk()
    if len(files) > 10 or any(map(looks_like_image, files)):
        return []
    archives = [file for file in files if file.suffix in ARCHIVE_SUFFIXES and isinstance(file.source, str)]
    return [file for file in archives if is_archive(file.source) or is_lfs_pointer(file.source)]


def _scan_splits(archives: list[File], left_out: LeftOut) -> Folder | None:
    """List archives that hold a split each (`train.zip`, `test.zip`) as one tree, or return None if they do not."""
    names = [file.name.partition(".")[0] for file in archives]
    splits = [split_of(name) for name in names]
    if None in splits or len(set(splits)) < len(splits):
        return None
    tree = Folder()
    for name, archive in zip(names, archives, strict=True):
        check_not_pointer(archive.source)
        for file in scan_archive(archive.source, left_out).walk():
            tree.add((name, *file.parts), file.source)
    return tree


def _find_images(tree: Folder, where: str, left_out: LeftOut, options: dict) -> Listing:
    """List the images by table or class folder: `metadata` and `labels` tables first, then folders, then any table."""
    columns = {name: options[name] for name in ("image_column", "label_column")}
    before = len(left_out.entries)
    if not has_images(tree):
        _refuse(tree, where, columns)
    named = any(columns.values())
    found = list_tables(tree, where, left_out, first_only=not named, **columns)
    if found.samples:
        return found
    if named:
        _refuse(tree, where, columns)
    problem = None
    try:
        found = list_class_folders(tree, where, left_out)
        if len({sample.label for samples in found.samples.values() for sample in samples}) > 1:
            return found
    except UserError as error:  # what looked like classes may be folders of images that a table lists
        problem = error
    kept, left_out.entries = left_out.entries, left_out.entries[:before]
    tables = list_tables(tree, where, left_out, first_only=False, **columns)
    if tables.samples:
        return tables
    if problem:
        raise problem
    left_out.entries = kept
    if not found.samples:
        _refuse(tree, where, columns)
    return found


def _refuse(tree: Folder, where: str, columns: dict) -> None:
    files = tree.walk()
    tables = [file.path for file in files if file.suffix in SUFFIXES]
    named = {name: value for name, value in columns.items() if value}
    if named:
        name, value = next(iter(named.items()))
        listed = f" ({', '.join(tables[:3])})" if tables else "; there is none"
        raise UserError(f"{where}: {name} {printable(value)}: no table has a column of this name{listed}")
    first = f" (it holds {', '.join(file.path for file in files[:3])}{', ...' if len(files) > 3 else ''})" if files else ""
    raise UserError(
        f"{where}: no images with labels in it{first}: neither class folders, nor a table of files and labels, nor CIFAR; "
        "see README.md for the layouts"
    )
