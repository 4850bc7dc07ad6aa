"""Compare what is read of small data sets in the forms that people have, by three loaders.

    python benchmarks/reading.py                 the cases of reading_cases.py; needs `pip install datasets`
    python benchmarks/reading.py --cases DIR     those of DIR/cases.json ({"name", "path", "expect"}); only prints

- `eanet.data.load_dataset`, which `train.py --data` uses.
- `datasets.load_dataset("imagefolder")`, on the folder, or on the archive as a file or alone in a folder.
- `keras.utils.image_dataset_from_directory`, which reads one folder: for each split the one with the right classes, and if
  possible the right number of images.

Every image is decoded. A case is right if the classes, and the number of images in each split, are as they should be.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import reading_cases

from eanet.cli import UserError, first_line, read_json, require, run, temporary_folder
from modeling_eanet import EANetConfig

LOADERS = ("ours", "datasets", "keras")
SPLITS = ("train", "validation", "test")


def read_ours(path: Path, _expected) -> dict:
    from eanet.data import inspect, load_dataset

    found = inspect(load_dataset(str(path), EANetConfig.preset("small"), need_train=False))
    return {"classes": sorted(found["classes"]), **{split: found[split] for split in SPLITS}}


def read_datasets(path: Path, expected: dict) -> dict:
    """Read a folder; an archive as a file, and where that is not right, alone in a folder."""
    if path.is_dir():
        return read_imagefolder(data_dir=str(path))
    with contextlib.suppress(Exception):  # of many kinds; the other way says which
        found = read_imagefolder(data_files=str(path))
        if all(found[key] == expected[key] for key in found):
            return found
    with temporary_folder() as folder:
        shutil.copy(path, folder)
        return read_imagefolder(data_dir=str(folder))


def read_imagefolder(**source) -> dict:
    import datasets

    with temporary_folder() as cache:
        found = datasets.load_dataset("imagefolder", **source, cache_dir=str(cache))
        sizes: dict = dict.fromkeys(SPLITS)
        for split, table in found.items():
            sizes[split] = sum(row["image"] is not None for row in table)
        feature = next(iter(found.values())).features.get("label")
        names = getattr(feature, "names", None)
        if names is None and feature is not None:
            names = {str(label) for table in found.values() for label in table["label"]}
    return {"classes": sorted(names or []), **sizes}


def read_keras(path: Path, expected: dict) -> dict:
    if not path.is_dir():
        raise UserError("not a folder")
    found: dict = {"classes": [], **dict.fromkeys(SPLITS)}
    wanted = {split: expected[split] for split in SPLITS if expected[split] is not None}
    best = {split: best_folder(path, expected["classes"], count) or path for split, count in wanted.items()}
    for split, folder in best.items():
        data = keras_dataset(folder)
        found["classes"] = sorted(data.class_names)
        found[split] = sum(len(labels) for _, labels in data)
    return found


def keras_dataset(folder: Path):
    import keras

    return keras.utils.image_dataset_from_directory(folder, image_size=(32, 32), shuffle=False, verbose=False)


def best_folder(path: Path, classes: list[str], count: int) -> Path | None:
    """Return the folder at or below `path` with these class folders, and if possible this number of images; or None."""
    found = []
    for folder in (path, *sorted(p for p in path.rglob("*") if p.is_dir())):
        if sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(classes):
            with contextlib.suppress(ValueError):  # it has no images
                found.append((abs(len(keras_dataset(folder).file_paths) - count), folder))
    return min(found, default=(0, None))[1]


READERS = dict(zip(LOADERS, (read_ours, read_datasets, read_keras), strict=True))


def compare(path: Path, expected: dict) -> dict:
    """Return for each loader whether it is right, and what it read: "images" and "classes", or "error"."""
    row = {}
    for loader, read in READERS.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read(path, expected)
        except Exception as error:  # each loader has its own
            reason = re.sub(r"{{.*?}} ", "", first_line(error)).replace(str(path), "PATH")
            row[loader] = {"right": False, "images": None, "classes": None, "error": reason}
            continue
        images = sum(found[split] or 0 for split in SPLITS)
        right = all(found[key] == expected[key] for key in found)
        row[loader] = {"right": right, "images": images, "classes": len(found["classes"]), "error": None}
    return row


def given_cases(folder: Path):
    """Yield (group, case) of a folder with cases.json, without those that are to be refused."""
    for case in read_json(folder / "cases.json"):
        yield "given", reading_cases.Case(case["name"], folder / case["path"], case["expect"], case["path"])


def measure(cases) -> list[dict]:
    rows = []
    for group, case in cases:
        if isinstance(case.expected, str) or "error" in case.expected:
            continue
        images = sum(case.expected[split] or 0 for split in SPLITS)
        row = {"group": group, "case": case.name, "about": case.about, "images": images}
        rows.append({**row, "classes": len(case.expected["classes"]), **compare(case.path, case.expected)})
        print(case.name, *(f"{name}: {describe(rows[-1][name])}" for name in LOADERS), sep="; ", file=sys.stderr)
    return rows


def describe(found: dict) -> str:
    return "right" if found["right"] else found["error"] or f"{found['images']} images, {found['classes']} classes"


def main(argv=None) -> None:
    """Parse the arguments, read all cases and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", metavar="DIR", type=Path, help="read these cases, and only print what is read")
    args = parser.parse_args(argv)
    datasets = require("datasets", "`pip install datasets`")
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    if args.cases:
        rows = measure(given_cases(args.cases))
        print(json.dumps({name: sum(row[name]["right"] for row in rows) for name in LOADERS} | {"cases": len(rows)}))
        return
    with temporary_folder() as folder:
        rows = measure(reading_cases.build(folder))
    common.report("reading", rows, datasets_version=datasets.__version__)


if __name__ == "__main__":
    sys.exit(run(main))
