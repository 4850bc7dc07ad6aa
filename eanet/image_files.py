"""The image files behind paths, folders and lists of paths, found while they are worked on."""

from __future__ import annotations

import contextlib
import errno
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
NO_IMAGES = "no images in this folder"
_LONGEST_PATH = 2**16
# A mount that is gone, a server that does not answer, no files or memory left: all other images would fail too.
STORAGE_ERRORS = {
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


class StorageError(UserError):
    """The storage or the machine fails, rather than one image: trying again later may succeed."""


def check_storage(path: str, error: OSError) -> None:
    """Raise StorageError if `error`, of reading `path`, is not about that file or folder alone."""
    if error.errno in STORAGE_ERRORS:
        raise StorageError(f"{path}: cannot be read now ({error.strerror or error})") from None


def find_images(paths: Iterable[str], null: bool = False) -> Iterator[str]:
    """Return the image files behind `paths`, in order; folders and lists are read as the iterator goes on.

    Files and folders without read permission are included, and so are missing files and folders without images of a list:
    reading them gives the reason. Each list is opened once, so it can be a pipe.

    Args:
        paths: image files; folders, which are searched recursively, without hidden files, in order of name; "-" for an image
            on standard input; "@FILE" for a list of files and folders, "@-" for one on standard input.
        null: whether the paths in lists end with a null character, as `find -print0` writes them, and not with a newline.

    Raises:
        UserError: a path or list does not exist, a folder has no images, a list no paths, or standard input is named twice.
            The iterator raises it too, for a list that is damaged or cannot be read further.
        StorageError: a folder cannot be listed because its storage fails.
    """
    paths = list(paths)
    if sum(path in (STDIN, LIST + STDIN) for path in paths) > 1:
        raise UserError("-: standard input holds one image; give - only once")
    found = []
    for path in paths:
        images = _found(path, null)
        found.append(itertools.chain([next(images)], images))
    return itertools.chain.from_iterable(found)


def is_list(path: str) -> bool:
    """Return whether `path` is "@FILE", and not a file or folder whose name begins so."""
    return path.startswith(LIST) and not os.path.lexists(path)


def can_be_read_again(path: str) -> bool:
    """Return whether `find_images` can be called with `path` a second time: not for a list that is a pipe."""
    return not is_list(path) or path != LIST + STDIN and os.path.isfile(path.removeprefix(LIST))


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
                images = _images_in(listed)
                yield next(images, str(Path(listed)))
                yield from images
            else:
                yield listed if listed != STDIN else os.path.join(".", STDIN)
    elif path != STDIN and _is_folder(path):
        images = _images_in(path)
        first = next(images, None)
        if first is None:
            raise UserError(f"{path}: {NO_IMAGES}")
        yield first
        yield from images
    else:
        yield path


def _images_in(folder: str) -> Iterator[str]:
    """Yield the images in a folder and its subfolders, listing one folder at a time."""
    left = [os.path.join(Path(folder), "")]  # the last one is next; folders end with a separator
    while left:
        path = left.pop()
        if path.endswith(os.sep):
            path = os.path.dirname(path)
            try:
                left += _entries(path)
                continue
            except OSError as error:  # reading it as an image gives the reason
                check_storage(path, error)
        yield path


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
        with contextlib.nullcontext(sys.stdin.buffer) if name == STDIN else open(name, "rb") as file:
            for entry in _split(file, path, b"\0" if null else b"\n"):
                if not null:
                    entry = entry.removesuffix(b"\r") if found else entry.removeprefix(BOM_UTF8).removesuffix(b"\r")
                if b"\0" in entry:
                    raise UserError(f"{path}: has null characters; read it with -0")
                if entry:
                    found = True
                    yield os.fsdecode(entry)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
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
