"""Data sets of the Hugging Face Hub, and their files on disk, through the `datasets` library."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from eanet.cli import UserError, first_line, printable, require
from eanet.data.build import build_dataset
from eanet.data.decode import Sample
from eanet.data.files import Folder, LeftOut, check_not_pointer, name_of
from eanet.data.folders import ORDER, Listing, split_in, split_of
from eanet.data.splits import Dataset
from eanet.data.table_columns import LABEL_COLUMNS, plain_name
from eanet.data.table_files import check_parquet
from modeling_eanet import EANetConfig

HINT = "`pip install datasets` to read data sets in the Hub's formats"
REPO_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_repo_id(path) -> bool:
    """Return whether a path can be the id of a data set on the Hub (user/name): nothing is there, nor a folder `user`."""
    return isinstance(path, str) and bool(REPO_ID.fullmatch(path)) and not os.path.isdir(path.split("/")[0])


def find_saved(folder: Path) -> Path | None:
    """Return the folder that `save_to_disk` wrote: this one, or the only one in it; or None."""
    for place in (folder, *(inner := [path for path in folder.iterdir() if path.is_dir()])[:1]):
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file() and any(place.glob("*.arrow")):
            return place if place is folder or len(inner) == 1 else None
    return None


def find_shards(root: Folder, where: str) -> dict[str, list]:
    """Return the Parquet or Arrow files of a tree by split, which the folder's or the file's name tells; {} for none.

    Raises:
        UserError: they are of several configurations of a data set.
    """
    shards: dict[str, list] = {}
    found = [file for file in root.walk() if file.suffix in (".parquet", ".arrow")]
    configurations = {tuple(part for part in file.parts[:-1] if split_of(part) is None) for file in found}
    if len(configurations) > 1:
        listed = ", ".join(sorted(printable("/".join(parts)) or "." for parts in configurations)[:4])
        raise UserError(f"{where}: several configurations of a data set ({listed}); give the folder of one")
    for file in found:
        shards.setdefault(shard_split(file.parts), []).append(file.source)
    return shards


def shard_split(parts: tuple[str, ...]) -> str:
    """Return the split of a shard such as `data/train-00000-of-00001.parquet` or `default/test/0000.parquet`."""
    for name in (re.split(r"[-_.]\d|\.(?:parquet|arrow)", parts[-1])[0], *reversed(parts[:-1])):
        if split := split_of(name):
            return split
    return split_in(parts[-1]) or "train"


def load_hub(
    path, config: EANetConfig, shards=None, *, image_column=None, label_column=None, strict=False, labels=None
) -> Dataset:
    """Read a data set through the `datasets` library, image by image.

    Args:
        path: repo id (user/name), or the folder or file that the data is in, for messages.
        config: size and interpolation the images are resized with.
        shards: Parquet files by split, as paths; None for a repo id or a folder written by `save_to_disk`.
        image_column: name of the column with the images; None to find it by its type.
        label_column: name of the column with the classes; None to find it by its type.
        strict: refuse the data set if anything is left out.
        labels: classes of a model, see `build_dataset`.

    Returns:
        The data set.

    Raises:
        UserError: `datasets` is not installed, there is no such data set, or its columns do not fit.
    """
    for shard in (shard for found in (shards or {}).values() for shard in found):
        check_not_pointer(shard)
        check_parquet(shard)
    require("datasets", HINT)
    try:
        return _load_tables(path, config, open_tables(path, shards), image_column, label_column, strict, labels)
    except UserError:
        raise
    except Exception as error:  # of the download or of a damaged shard; each library has its own
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None


def _load_tables(path, config: EANetConfig, tables: dict, image_column, label_column, strict, labels) -> Dataset:
    where, local = str(path), os.path.exists(path)
    left_out, splits = LeftOut(), {}
    for name, table in tables.items():
        split = split_of(name) or ("train" if len(tables) == 1 else None)
        if split is None or split in splits:
            left_out.add(printable(name), "a split that is not used")
        else:
            splits[split] = table
    if not splits:
        raise UserError(f"{where}: its splits are {', '.join(map(printable, tables))}; none is for training or testing")
    first = splits[min(splits, key=ORDER.index)]
    image, label = find_columns(first, where, image_column, label_column)
    names = getattr((first.features or {}).get(label), "names", None)
    samples = {s: _Rows(splits[s], s, image, label, names, left_out) for s in ORDER if s in splits}
    listing = Listing(samples, tuple(names) if names else None)
    kwargs = dict(strict=strict, labels=labels, repo_id="" if local else where)
    name = name_of(path) if local else where.split("/")[-1]
    return build_dataset(listing, where, name, config, left_out, **kwargs)


def open_tables(path, shards) -> dict[str, Any]:
    """Open a data set's splits without reading the images."""
    import datasets

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # or each retry prints two lines
    logging.getLogger("datasets").setLevel(logging.CRITICAL)  # what it says of a damaged file is in its error too
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # ours counts images
    try:
        if shards:
            kind = "arrow" if next(iter(shards.values()))[0].endswith(".arrow") else "parquet"
            tables = datasets.load_dataset(kind, data_files=shards, streaming=True)
        elif os.path.isdir(path):
            tables = datasets.load_from_disk(os.fspath(path))
        else:
            tables = datasets.load_dataset(os.fspath(path), streaming=True)
    except Exception as error:  # of the Hub, of a damaged file, of a choice that is missing
        raise UserError(f"{path}: {_why(error)}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
    if not hasattr(tables, "keys"):
        tables = {str(tables.split or "train"): tables}
    return dict(tables)


def _why(error: Exception) -> str:
    text = first_line(error)
    if re.search("onnection|ffline|Couldn't reach", text) or type(error).__name__ == "OfflineModeIsEnabled":
        return f"no such file or folder, and the Hub cannot be reached for a data set of this name ({text})"
    if type(error).__name__ in ("DatasetNotFoundError", "RepositoryNotFoundError"):
        return "no such file or folder, and no such data set on the Hub (a private one needs a login: `hf auth login`)"
    return f"cannot be read as a data set ({text})"


def find_columns(table, where: str, image_column=None, label_column=None) -> tuple[str, str]:
    """Return the names of the columns with images and classes.

    Args:
        table: a split.
        where: what to call the data set in messages.
        image_column: name that is given, or None.
        label_column: name that is given, or None.

    Raises:
        UserError: no such column, none of the right type, or several.
    """
    import datasets

    features = table.features or _features_of_first_row(table)
    for name in filter(None, (image_column, label_column)):
        if name not in features:
            raise UserError(f"{where}: column {name}: it has {', '.join(map(printable, features))}")

    def one(kind, given, candidates):
        if given is not None:
            return given
        if len(candidates) == 1:
            return candidates[0]
        reason = f"several columns can be the {kind}: " if candidates else f"no column is the {kind}; it has "
        listed = ", ".join(map(printable, candidates or features))
        raise UserError(f"{where}: {reason}{listed}; name one as {kind}_column")

    images = [name for name, feature in features.items() if _is_image(feature)]
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    plain = {plain_name(name): name for name in reversed(classes or list(features))}
    usual = [plain[name] for name in LABEL_COLUMNS if name in plain]
    classes = classes if len(classes) == 1 else usual[:1] or classes
    return one("image", image_column, images), one("label", label_column, classes)


def _is_image(feature) -> bool:
    """Return whether a column holds images: by its type, or as bytes and path, as files without the type do."""
    import datasets

    if isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary") or feature is bytes:
        return True
    return isinstance(feature, datasets.Image) or isinstance(feature, dict) and "bytes" in feature


def _features_of_first_row(table) -> dict[str, Any]:
    import datasets

    row: dict[str, Any] = next(iter(table), {})
    return {k: datasets.Image() if hasattr(v, "convert") else v if isinstance(v, dict) else type(v) for k, v in row.items()}


class _Rows(Iterable[Sample]):
    """The samples of one split, in its order; rows without a label are left out."""

    def __init__(self, table, split: str, image: str, label: str, names, left_out: LeftOut):
        import datasets

        self.split, self.image, self.label, self.names, self.left_out = split, image, label, names, left_out
        table = table.select_columns([image, label])
        if isinstance((table.features or {}).get(image), datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        self.table = table
        self.count = table.num_rows if hasattr(table, "num_rows") else _rows_known(table, split)

    def __len__(self):
        if self.count is None:
            raise TypeError("unknown")
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        for i, row in enumerate(self.table):
            place, label = f"{self.split}[{i}]", row[self.label]
            if isinstance(label, list) and len(label) == 1:
                label = label[0]
            if label is None or self.names and not 0 <= label < len(self.names) or isinstance(label, list | dict):
                self.left_out.add(place, "no label")
                continue
            yield Sample(place, image_source(row[self.image]), self.names[label] if self.names else str(label))


def _rows_known(table, split) -> int | None:
    splits = getattr(table.info, "splits", None) or {}
    return getattr(splits.get(split), "num_examples", None)


def image_source(cell):
    """Return the content of an image, its path, an image that is decoded already, or a function that downloads it."""
    if isinstance(cell, str) and cell.startswith(("http://", "https://")):
        return functools.partial(_download, cell)
    if not isinstance(cell, dict):
        return cell if cell is not None else b""
    if cell.get("bytes") is not None:
        return cell["bytes"]
    path = cell.get("path") or ""
    return functools.partial(_download, path) if "://" in path else path or b""


def _download(path: str) -> bytes:
    from datasets.utils.file_utils import xopen

    try:
        with xopen(path, "rb") as file:
            return file.read()
    except Exception as error:  # of fsspec, of the HTTP client
        raise UserError(f"could not be downloaded ({first_line(error)})") from None
