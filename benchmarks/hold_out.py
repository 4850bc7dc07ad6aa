"""Write cifar-100-dev.tar.gz, the data of the training commands and of the hold-out figures, from the official archive.

    python benchmarks/hold_out.py cifar-100-python.tar.gz

It has 45,000 images of the official train split to train on, and the other 5,000, 50 of each class, as its test split.
hold_out.npy holds the order: uint16 (50,000), places in the train images sorted by file name and class, the hold-out last.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from eanet.cli import UserError, atomic_path, first_line, run
from eanet.data.splits import Split
from eanet.data.unpickle import load_pickle

HERE = Path(os.path.abspath(__file__)).parent
FOLDER, TRAINING = "cifar-100-python", 45_000  # images
CHECKSUM = 1479891949  # of the training images, as the results of runs record it
FIELDS = (b"filenames", b"fine_labels", b"coarse_labels", b"data")


def read_official(path) -> tuple[dict, bytes]:
    """Return the train split, "filenames" and so on, and the file with the class names of CIFAR-100's python archive.

    Raises:
        UserError: it is something else, or damaged.
    """
    try:
        with tarfile.open(path) as archive:
            train, meta = (archive.extractfile(f"{FOLDER}/{name}").read() for name in ("train", "meta"))
        record = load_pickle(train)
        rows = [len(record[field]) for field in FIELDS]
        if record[b"data"].shape[1:] != (3072,) or set(rows) != {len(np.load(HERE / "hold_out.npy"))}:
            raise ValueError(f"its train split has {rows[0]:,} images")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # damaged archives and pickles raise nearly anything
        raise UserError(f"{path}: must be the official cifar-100-python.tar.gz ({first_line(error)})") from None
    return {field: record[field] for field in FIELDS}, meta


def split(record: dict) -> tuple[dict, dict]:
    """Return the images to train on, and those held out. Raises UserError unless the former are those of the results."""
    keys = list(zip(record[b"filenames"], record[b"fine_labels"], strict=True))  # one image is there twice, in two classes
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))[np.load(HERE / "hold_out.npy")]

    def part(indices, text):
        chosen = {field: [record[field][i] for i in indices] for field in FIELDS[:3]}
        return {**chosen, b"data": record[b"data"][indices], b"batch_label": text}

    training, held_out = part(order[:TRAINING], b"45000 of train"), part(order[TRAINING:], b"5000 of train, held out")
    images = training[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    if Split(images, np.array(training[b"fine_labels"]), "train").checksum() != CHECKSUM:
        raise UserError("its train images are not those of the official archive")
    return training, held_out


def main(argv=None) -> None:
    """Parse the arguments and write the archive into the working directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", metavar="ARCHIVE", help="cifar-100-python.tar.gz from CIFAR's page")
    args = parser.parse_args(argv)
    record, meta = read_official(args.archive)
    try:
        training, held_out = split(record)
    except UserError as error:
        raise UserError(f"{args.archive}: {error}") from None
    contents = {"train": pickle.dumps(training, 2), "test": pickle.dumps(held_out, 2), "meta": meta}
    output = Path("cifar-100-dev.tar.gz")
    # mtime: the same bytes every time
    with atomic_path(output) as temporary, open(temporary, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(f"{FOLDER}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    print(f"wrote {output}: {len(training[b'data']):,} images to train on, {len(held_out[b'data']):,} held out")


if __name__ == "__main__":
    sys.exit(run(main))
