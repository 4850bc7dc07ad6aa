"""The image files behind paths, folders and lists of paths, found while they are worked on."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from pathlib import Path

from eanet.cli import UserError
from eanet.images import image_suffixes, is_hidden

STDIN = "-"
LIST = "@"
_LONGEST_PATH = 2**16


def find_images(paths: Iterable[str], null: bool = False) -> Iterator[str]:
    """Return the image files behind `paths`, in order; folders and lists are read as the iterator goes on.

    Files and folders without read permission are included, and so are missing files of a list: reading gives the reason.

    Args:
        paths: image files; folders, which are searched recursively, without hidden files, in order of name; "-" for an image
            on standard input; "@FILE" for a list of files and folders, "@-" for one on standard input.
        null: whether the paths in lists end with a null character, as `find -print0` writes them, and not with a newline.

    Raises:
        UserError: a path or list does not exist, a folder has no images, a list no paths, or standard input is named twice.
    """
    paths = list(paths)
    if sum(path in (STDIN, LIST + STDIN) for path in paths) > 1:
        raise UserError("-: standard input holds one image; give - only once")
    for path in paths:
        if is_list(path):
            if path != LIST + STDIN:
                next(_listed(path, null))
        elif path != STDIN and _is_folder(path):
            next(_images_in(path))
    return itertools.chain.from_iterable(_found(path, null) for path in paths)


def is_list(path: str) -> bool:
    """Return whether `path` is "@FILE", and not a file or folder whose name begins so."""
    return path.startswith(LIST) and not os.path.lexists(path)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file or folder") from None
    except OSError:
        return False


def _found(path: str, null: bool) -> Iterator[str]:
    if is_list(path):
        for listed in _listed(path, null):
            if os.path.isdir(listed):
                yield from _images_in(listed)
            else:
                yield listed if listed != STDIN else os.path.join(".", STDIN)
    elif path != STDIN and os.path.isdir(path):
        yield from _images_in(path)
    else:
        yield path


def _images_in(folder: str) -> Iterator[str]:
    """Yield the images in a folder and its subfolders, listing one folder at a time."""
    found, left = False, [os.path.join(Path(folder), "")]  # the last one is next; folders end with a separator
    while left:
        path = left.pop()
        if path.endswith(os.sep):
            path = os.path.dirname(path)
            try:
                left += _entries(path)
                continue
            except OSError:  # reading it as an image gives the reason
                pass
        found = True
        yield path
    if not found:
        raise UserError(f"{folder}: no images in this folder")


def _entries(folder: str) -> list[str]:
    """Return the paths of the images and subfolders in a folder, last name first."""
    kept: dict[str, str] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = _is_folder_entry(entry)
            if is_hidden(entry.name) or is_folder and entry.is_symlink():
                continue
            if is_folder or os.path.splitext(entry.name)[1].lower() in image_suffixes():
                kept[entry.name] = os.sep if is_folder else ""
    return [str(Path(folder, name)) + kept[name] for name in sorted(kept, reverse=True)]


def _is_folder_entry(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _listed(path: str, null: bool) -> Iterator[str]:
    """Yield the paths in the list `path`, "@FILE" or "@-". Names are bytes, and stay what they are."""
    found, name = False, path.removeprefix(LIST)
    if name == STDIN and sys.stdin is None:
        raise UserError("standard input is closed")
    try:
        source = contextlib.nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    with source as file:
        for entry in _split(file, path, b"\0" if null else b"\n"):
            if not null:
                entry = entry.removesuffix(b"\r") if found else entry.removeprefix(BOM_UTF8).removesuffix(b"\r")
            if b"\0" in entry:
                raise UserError(f"{path}: has null characters; read it with -0")
            if entry:
                found = True
                yield os.fsdecode(entry)
    if not found:
        raise UserError(f"{path}: no paths in this list")


def _split(file, path: str, end: bytes) -> Iterator[bytes]:
    """Yield what is between the separators, as it comes."""
    rest = b""
    while chunk := file.read1(_LONGEST_PATH):
        *complete, rest = (rest + chunk).split(end)
        yield from complete
        if len(rest) > _LONGEST_PATH:
            kind = "null characters" if end == b"\0" else "lines"
            raise UserError(f"{path}: not a list of paths that end with {kind}")
    yield rest
