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
    that name is meant, with the longest end of the path in common. Upper and lower case and the suffix may differ. A folder
    of the row that holds images here must hold this one.

    Args:
        root: the tree of the data set.
    """

    def __init__(self, root: Folder):
        self._root = root
        self._by_end: dict[tuple, dict[tuple[str, ...], File | None]] = {}

    @functools.cached_property
    def _files(self) -> tuple[dict[str, File], dict[str, list[File]], set[tuple[str, ...]]]:
        """The files by path and by name, with and without suffix, and all ends of their folders; made when a table asks."""
        by_path: dict[str, File] = {}
        by_name: dict[str, list[File]] = {}
        folders = set()
        for file in self._root.walk():
            if not may_be_image(file):
                continue
            path = unicodedata.normalize("NFC", "/".join(file.parts))
            for key in dict.fromkeys((path, _stem(path))):
                by_path.setdefault(key, file)
                by_name.setdefault(posixpath.basename(key).casefold(), []).append(file)
            folders.add(file.parts[:-1])
        return by_path, by_name, {end for folder in folders for end in _ends(folder) if end}

    def has(self, table: File, cell: str) -> bool:
        """Return whether `find` finds a file."""
        return self.find(table, cell) is not None

    def find(self, table: File, cell: str) -> File | None:
        """Return the file that `cell` of `table` means, or None if there is none or more than one."""
        name = file_name_of(cell)
        if not name:
            return None
        by_path, by_name, folders = self._files
        for path in (posixpath.join("/".join(table.parts[:-1]), name), name):
            if found := by_path.get(posixpath.normpath(path)):
                return found
        parts = _parts(name)
        if not parts:
            return None
        called = parts[-1]
        if called not in by_name and looks_like_image_name(name):  # the images were converted
            called = _stem(called)
        files = self._files_by_end(called, split_of_path(table.parts, parts))  # train/7.png and test/7.png
        for end in _ends(parts[:-1]):
            if end in files:
                return files[end]
            if end in folders:  # which does not hold it, unless it is further below
                found = files.get(())
                return found if found and end[-1] in _folded(found.parts[:-1]) else None
        return None

    def called(self, cell: str) -> list[File]:
        """Return the files whose name is that in `cell`, in whatever folder."""
        return self._files[1].get((_parts(file_name_of(cell)) or ("",))[-1], [])

    def _files_by_end(self, name: str, wanted: str | None) -> dict[tuple[str, ...], File | None]:
        """Return the files of a name, and of a split if that is known, by all ends of their folders; None for several."""
        if (name, wanted) in self._by_end:
            return self._by_end[name, wanted]
        by_end: dict[tuple[str, ...], list[tuple[File, str | None]]] = {}
        called = self._files[1].get(name, [])
        for file in called:
            split = split_of_path((), file.parts)
            if not wanted or split in (None, wanted):
                for end in _ends(file.parts[:-1]):
                    by_end.setdefault(end, []).append((file, split))
        found = {end: _only(files, wanted or "train") for end, files in by_end.items()}
        if len(called) > 1:  # other names are asked for once
            self._by_end[name, wanted] = found
        return found


def names_other_folder(cell: str, file: File) -> bool:
    """Return whether a cell gives a folder, and another one than that of the file."""
    folders = _parts(file_name_of(cell))[:-1]
    return bool(folders) and folders[-1:] != _folded(file.parts[:-1])[-1:]


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.casefold().split("/") if part not in ("", ".", ".."))


def _folded(folders: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", name).casefold() for name in folders)


@functools.lru_cache(2**16)
def _ends(folders: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the ends of a path in lower case, from all of it to nothing."""
    folded = _folded(folders)
    return [folded[start:] for start in range(len(folded) + 1)]


def _only(found: list[tuple[File, str | None]], split: str) -> File | None:
    """Return the only file, or the only one of a split."""
    files = [file for file, own in found if len(found) == 1 or own == split]
    return files[0] if len(files) == 1 else None


def _stem(path: str) -> str:
    return posixpath.splitext(path)[0]
