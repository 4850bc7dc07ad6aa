"""The files of a data set as a tree of names, from a folder or an archive, and the list of what is left out."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from eanet.cli import UserError, first_line, printable
from eanet.images import LFS_HINT, LFS_PREFIX, image_suffixes, is_hidden

MAX_DEPTH = 64  # of nested folders
MAX_TEXT_BYTES = 2**28  # of a table or of a file of CIFAR; the largest official one has 155 MB
# What is compressed may expand to 50 times its size, as images hardly compress, or to this: as a table it takes ten times
# as much memory.
MAX_EXPANSION, MAX_DENSE_BYTES = 50, 2**25
MAX_BROKEN = 0.1  # fraction of the images
_OTHER_SUFFIX = re.compile(r"[^.]\.(?!\d+$)[^. ]+$")
_WEB_SUFFIX = re.compile(r"\.(jpe?g|png|gif|webp|bmp|tiff?)[^a-z0-9.][^.]*$", re.I)  # photo.jpg_large, photo.jpg?w=600


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
        parts: its path below the root, one name per item.
        source: where it is on disk, or a function that returns its content, for a member of an archive.
    """

    parts: tuple[str, ...]
    source: str | Callable[[], bytes]

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.parts[-1]

    @property
    def path(self) -> str:
        """Its path below the root as printable text."""
        return printable("/".join(self.parts))

    @property
    def suffix(self) -> str:
        """The suffix of its name, in lower case and with the dot, or ""."""
        return os.path.splitext(self.name)[1].lower()

    def read(self) -> bytes:
        """Return its content. Raises UserError if that is more than `MAX_TEXT_BYTES`, OSError if it cannot be read."""
        if callable(self.source):
            return self.source()
        with open(self.source, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_TEXT_BYTES:
                raise UserError(f"{self.path}: larger than {MAX_TEXT_BYTES:,} bytes")
            return file.read()


@dataclasses.dataclass
class Folder:
    """A folder of a data set; hidden files and folders are not in it.

    Attributes:
        parts: its path below the root.
        files: its files by name.
        folders: its folders by name.
        known_images: whether it holds images, as soon as `has_images` has looked.
    """

    parts: tuple[str, ...] = ()
    files: dict[str, File] = dataclasses.field(default_factory=dict)
    folders: dict[str, Folder] = dataclasses.field(default_factory=dict)
    known_images: bool | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        """Its path below the root as printable text; "." for the root."""
        return printable("/".join(self.parts)) or "."

    def walk(self) -> list[File]:
        """Return the files in it and in the folders below, sorted by path."""
        found: list[File] = []
        stack = [self]
        while stack:
            folder = stack.pop()
            found += folder.files.values()
            stack += folder.folders.values()
        return sorted(found, key=lambda file: file.parts)

    def add(self, parts: tuple[str, ...], source) -> None:
        """Add a file at `parts`, with the folders it needs."""
        folder = self.subfolder(parts[:-1])
        folder.files[parts[-1]] = File((*folder.parts, parts[-1]), source)

    def subfolder(self, parts: tuple[str, ...]) -> Folder:
        """Return the folder at `parts`, made where it is missing."""
        folder = self
        for name in parts:
            folder = folder.folders.setdefault(name, Folder((*folder.parts, name)))
        return folder


class LeftOut:
    """What is not read, and why; a folder with too many broken images is refused in the end.

    Attributes:
        entries: {"path", "reason"} of each file, in the order in which they were found.
        broken: the number of those that should have been images.
        images: the number of files that look like images.
    """

    def __init__(self):
        self.entries: list[dict[str, str]] = []
        self.broken, self.images = 0, 0
        self._worst = ""

    def add(self, path: str, reason: str, broken: bool = False) -> None:
        """Add one file; `broken` if it looks like an image."""
        self.entries.append({"path": path, "reason": reason})
        if broken:
            self.broken += 1
            self._worst = self._worst or f"{path}: {reason}"

    def check(self, where, strict: bool) -> None:
        """Raise UserError if too many images are broken, or with `strict` if anything is left out."""
        if strict and self.entries:
            first, count = self.entries[0], len(self.entries)
            files = "1 file" if count == 1 else f"{count:,} files"
            raise UserError(f"{where}: {files} cannot be read, and strict is on; first {first['path']}: {first['reason']}")
        if self.broken > MAX_BROKEN * self.images:
            raise UserError(
                f"{where}: {self.broken:,} of {self.images:,} images cannot be read, more than a tenth; first {self._worst}"
            )


def is_lfs_pointer(path) -> bool:
    """Return whether the file at `path` is a Git LFS pointer: text that stands for a file that was not downloaded."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_PREFIX)) == LFS_PREFIX
    except OSError:
        return False


def check_not_pointer(path) -> None:
    """Raise UserError if the file at `path` is a Git LFS pointer."""
    if is_lfs_pointer(path):
        raise UserError(f"{path}: {LFS_HINT}")


def scan_folder(root, left_out: LeftOut) -> Folder:
    """List a folder and all folders below it. Links are followed, but never into a folder they are in.

    Args:
        root: the folder.
        left_out: gets what is neither a regular file nor a folder, and folders below that cannot be listed.

    Returns:
        The tree.

    Raises:
        UserError: the folder cannot be listed.
    """
    tree = Folder()
    _scan(os.fspath(root), tree, left_out, ())
    return tree


def _scan(path: str, folder: Folder, left_out: LeftOut, above: tuple) -> None:
    try:
        status = os.stat(path)
        with os.scandir(path) as iterator:
            entries = sorted(iterator, key=lambda entry: entry.name)
    except OSError as error:
        reason = f"cannot be listed ({error.strerror}); change its permissions"
        if not above:
            raise UserError(f"{printable(path)}: {reason}") from None
        left_out.images += 1
        left_out.add(f"{folder.path}/", f"a folder that {reason}", broken=True)
        return
    identity = (status.st_dev, status.st_ino)
    if identity in above or len(above) > MAX_DEPTH:
        left_out.add(folder.path, "a link to a folder that it is in" if identity in above else "nested too deep")
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if _is(entry.is_dir):
            _scan(entry.path, folder.subfolder((entry.name,)), left_out, (*above, identity))
        elif _is(entry.is_file):
            folder.add((entry.name,), entry.path)
        else:
            reason = "a broken link" if entry.is_symlink() else "not a regular file"
            left_out.add(printable("/".join((*folder.parts, entry.name))), reason)


def _is(test) -> bool:
    try:
        return test()
    except OSError:  # a link that leads to itself
        return False


# What is an image -----------------------------------------------------------------------------------------------------


def looks_like_image(file: File) -> bool:
    """Return whether the suffix is that of an image."""
    return file.suffix in image_suffixes()


def may_be_image(file: File) -> bool:
    """Return whether a file is to be opened: by its suffix, or as the suffix says nothing (`scan0001`, `frame.0007`)."""
    return looks_like_image(file) or not _OTHER_SUFFIX.search(file.name) or bool(_WEB_SUFFIX.search(file.name))


def has_images(folder: Folder) -> bool:
    """Return whether there is an image in the folder: by its suffix, or one of the first few files without a suffix."""
    if folder.known_images is None:
        files = list(folder.files.values())
        uncertain = (file for file in files if may_be_image(file) and not looks_like_image(file))
        folder.known_images = (
            any(map(looks_like_image, files))
            or any(map(has_images, folder.folders.values()))
            or any(map(_opens, itertools.islice(uncertain, 5)))
        )
    return folder.known_images


def _opens(file: File) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file.read())):
            return True
    except Exception:  # of Pillow, of the archive; whether the file is damaged is said where it is decoded
        return False


def images_of(folder: Folder) -> Iterator[File]:
    """Iterate over the files of a folder, and of those below, that may be images."""
    return filter(may_be_image, folder.walk())


def not_an_image(file: File) -> str:
    """Return why a file that may not be an image is left out."""
    return f"not an image ({file.suffix})" if file.suffix else "not an image"


def error_reason(error: Exception) -> str:
    """Return in a few words why an image cannot be read."""
    if isinstance(error, MemoryError):
        return "too large for the memory"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    return first_line(error)


def name_of(path) -> str:
    """Return the name of a data set from its path: that of the folder, or of the archive up to the first dot."""
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.name.split(".")[0]
