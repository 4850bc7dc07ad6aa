"""Write cifar-100-dev.tar.gz, the data of the training commands and of the hold-out figures, from the official archive.

    python benchmarks/hold_out.py                               downloads the archive
    python benchmarks/hold_out.py cifar-100-python.tar.gz

It has 45,000 images of the official train split to train on, and the other 5,000, 50 of each class, as its test split. It is
written into the working directory, and replaces nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from eanet.cli import UserError, atomic_path, run
from eanet.data.cifar import SHA256, URL, download_cifar100
from eanet.data.unpickle import load_pickle
from eanet.images import LFS_HINT, LFS_PREFIX

# uint16 (50,000): places in the train images sorted by file name and class, in the order of the data; the hold-out is last.
ORDER = Path(os.path.abspath(__file__)).with_name("hold_out.npy")
OUTPUT, FOLDER = Path("cifar-100-dev.tar.gz"), "cifar-100-python"
TRAINING = 45_000  # images


def read_order() -> np.ndarray:
    """Return what hold_out.npy holds."""
    content = ORDER.read_bytes()
    if content.startswith(LFS_PREFIX):
        raise UserError(f"{ORDER}: {LFS_HINT}")
    return np.load(io.BytesIO(content), allow_pickle=False)


def read_official(path) -> tuple[dict, bytes]:
    """Return the train split, with its "filenames" and so on, and the file with the class names.

    Raises:
        UserError: `path` cannot be read, or is not the official archive.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        hint = "give the official cifar-100-python.tar.gz, or nothing to download it"
        raise UserError(f"{path}: cannot be read ({error.strerror}); {hint}") from None
    if digest != SHA256:
        found = f"its SHA-256 is {digest[:8]}..., not {SHA256[:8]}..."
        raise UserError(f"{path}: is not the official archive ({found}); give no path to download it from {URL}")
    with tarfile.open(path) as archive:
        train, meta = (archive.extractfile(f"{FOLDER}/{name}").read() for name in ("train", "meta"))  # type: ignore
    return load_pickle(train), meta


def split(record: dict, order: np.ndarray) -> tuple[dict, dict]:
    """Return the images to train on, and those held out, with the keys of `record`."""
    keys = list(zip(record[b"filenames"], record[b"fine_labels"], strict=True))  # one image is there twice, in two classes
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__))[order]

    def part(indices, text):
        lists = {key: [record[key][i] for i in indices] for key in (b"filenames", b"fine_labels", b"coarse_labels")}
        return {**lists, b"data": record[b"data"][indices], b"batch_label": text}

    return part(order[:TRAINING], b"45000 of train"), part(order[TRAINING:], b"5000 of train, held out")


def main(argv=None) -> None:
    """Parse the arguments and write the archive into the working directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", metavar="ARCHIVE", nargs="?", help="the official archive (default: download it)")
    args = parser.parse_args(argv)
    if OUTPUT.exists():
        raise UserError(f"{OUTPUT}: exists already; move it, or run this in another folder")
    order = read_order()
    record, meta = read_official(args.archive or download_cifar100())
    training, held_out = split(record, order)
    contents = {"train": pickle.dumps(training, 2), "test": pickle.dumps(held_out, 2), "meta": meta}
    # mtime: the same bytes every time
    with atomic_path(OUTPUT) as temporary, open(temporary, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(f"{FOLDER}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    print(f"wrote {OUTPUT}: {len(training[b'data']):,} images to train on, {len(held_out[b'data']):,} held out")


if __name__ == "__main__":
    sys.exit(run(main))
