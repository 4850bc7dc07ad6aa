"""A quick look at a data set's files: whether they are still the same."""

from __future__ import annotations

import contextlib
import functools
import os
import zlib

from eanet.data.archives import is_compressed_table
from eanet.data.hub import is_repo_id
from eanet.data.table_files import OTHER_SUFFIXES, TABLE_SUFFIXES


def listing_checksum(path) -> str:
    """Return the CRC-32, in hexadecimal, of the names and sizes of a data set's files, and of the content of a single file.

    A quick look for changes; the size of a tarball says little, since it is filled up to a multiple of 10 KiB.
    """
    listing = [str(path)]
    if path is not None and not is_repo_id(path):
        suffixes = (*TABLE_SUFFIXES, *(suffix for suffix in OTHER_SUFFIXES if suffix != ".parquet"))  # it holds its images
        table = str(path).lower().endswith(suffixes) or is_compressed_table(str(path))
        root = os.path.dirname(path) or "." if table else path  # a table is next to its images
        files = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
        listing = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # deleted since, by another program
                listing.append(f"{os.path.relpath(file, root)} {os.lstat(file).st_size}")
        listing.sort()
        if os.path.isfile(path):
            status = os.stat(path)
            listing.append(str(_content_checksum(path, status.st_size, status.st_mtime_ns)))
    return f"{zlib.crc32(os.fsencode(chr(10).join(listing))):08x}"


@functools.lru_cache(maxsize=1)
def _content_checksum(path, size: int, modified: int) -> int:
    """Return the CRC-32 of a file, or of the first and last 64 MiB of one of more than 1 GiB."""
    checksum, ends = 0, 2**26
    with open(path, "rb") as file:
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
            if size > 2**30 and file.tell() == ends:
                file.seek(-ends, os.SEEK_END)
    return checksum
