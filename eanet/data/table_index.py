"""Find the file that a row of a table means, whatever form its name or path was written in."""

from __future__ import annotations

import functools
import posixpath
import re
import unicodedata
import urllib.parse

from eanet.data.files import File, Folder, may_be_image
from eanet.data.folders import split_of
from eanet.images import image_suffixes


def split_of_path(table: tuple[str, ...], file: tuple[str, ...]) -> str | None:
    """Return the split of an image from the folders it is in, or from the name of its table; None without either."""
    for name in file[:-1]:
        if split := split_of(name):
            return split
    stem = re.sub(r"[ _-]?(labels?|metadata|annotations?|classes)[ _-]?", "", _stem(table[-1]), flags=re.I) if table else ""
    return split_of(stem)


def file_name_of(cell: str) -> str:
    """Return the path in a cell: with slashes and composed characters, without the address it may be part of."""
    name = unicodedata.normalize("NFC", cell.strip()).replace("\\", "/")
    if local := re.search(r"[?&]d=([^&]+)", name):  # Label Studio's links to local files
        return urllib.parse.unquote(local[1])
    if "://" in name:
        return urllib.parse.unquote(re.split(r"[?#]", name.split("://", 1)[1])[0])
    return name


def looks_like_image_name(cell: str) -> bool:
    """Return whether a cell is a file name, path or address with the suffix of an image."""
    return posixpath.splitext(file_name_of(cell))[1].lower() in image_suffixes()


class FileIndex:
    """Finds files by what tables call them.

    A row's path is relative to the table or to the root; if nothing is there, as for paths of another computer, the file of
    that name is meant, with the longest end of the path in common. Upper and lower case and the suffix may differ.

    Args:
        root: the tree of the data set.
    """

    def __init__(self, root: Folder):
        self._root = root

    @functools.cached_property
    def _files(self) -> tuple[dict[str, File], dict[str, list[File]]]:
        """The files by path and by name, with and without suffix; made when a table asks."""
        by_path: dict[str, File] = {}
        by_name: dict[str, list[File]] = {}
        for file in self._root.walk():
            if not may_be_image(file):
                continue
            path = unicodedata.normalize("NFC", "/".join(file.parts))
            for key in dict.fromkeys((path, _stem(path))):
                by_path.setdefault(key, file)
                by_name.setdefault(posixpath.basename(key).casefold(), []).append(file)
        return by_path, by_name

    def has(self, table: File, cell: str) -> bool:
        """Return whether `find` finds a file."""
        return self.find(table, cell) is not None

    def find(self, table: File, cell: str) -> File | None:
        """Return the file that `cell` of `table` means, or None if there is none or more than one."""
        name = file_name_of(cell)
        if not name:
            return None
        by_path, by_name = self._files
        for path in (posixpath.join("/".join(table.parts[:-1]), name), name):
            if found := by_path.get(posixpath.normpath(path)):
                return found
        parts = tuple(part for part in name.casefold().split("/") if part not in ("", ".", ".."))
        if not parts:
            return None
        called = by_name.get(parts[-1], [])
        if not called and looks_like_image_name(name):  # the images were converted
            called = by_name.get(_stem(parts[-1]), [])
        if wanted := split_of_path(table.parts, parts):  # train/7.png and test/7.png
            called = [file for file in called if split_of_path((), file.parts) in (None, wanted)]
        if len(called) > 1:
            ends = [_common_end(parts[:-1], tuple(map(str.casefold, file.parts[:-1]))) for file in called]
            called = [file for file, end in zip(called, ends, strict=True) if end == max(ends)]
        if len(called) > 1:
            called = [file for file in called if split_of_path((), file.parts) == (wanted or "train")]
        return called[0] if len(called) == 1 else None


def _common_end(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(reversed(first), reversed(second), strict=False):
        if a != b:
            break
        count += 1
    return count


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]
