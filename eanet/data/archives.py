"""Data sets in zip and tar archives. Nothing is extracted: no member can be written to a path of its choice."""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import posixpath
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eanet.cli import UserError, first_line, printable
from eanet.data.files import MAX_DEPTH, MAX_TEXT_BYTES, Folder, LeftOut
from eanet.images import is_hidden

MAX_MEMBER_BYTES = MAX_TEXT_BYTES
MAX_MEMBERS = 5_000_000
# A compressed archive may expand to this, or 50 times its size: images hardly compress.
MAX_EXPANDED_BYTES, MAX_EXPANSION = 2**29, 50
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_FOREIGN = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}


def is_archive(path) -> bool:
    """Return whether the content of a file begins like that of an archive, supported or not."""
    try:
        with open(path, "rb") as file:
            head = file.read(265)
    except OSError:
        return False
    return head.startswith((b"PK\3\4", b"PK\5\6", *_COMPRESSED, *_FOREIGN)) or head[257:262] == b"ustar"


def scan_archive(path, left_out: LeftOut) -> Folder:
    """List an archive: zip, or tar with or without gzip, bzip2 or xz; the kind is recognised by content.

    A compressed tarball is unpacked into one nameless temporary file.

    Args:
        path: the archive.
        left_out: gets the members that are not read.

    Returns:
        The tree of its visible files.

    Raises:
        UserError: damaged, of another kind, or much larger than the archive itself.
    """
    path = Path(path)
    with open(path, "rb") as file:
        head = file.read(8)
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise UserError(f"{path}: a {kind} archive, which is not read; unpack it, or make it a zip")
    members = _Members(path, left_out)
    try:
        if head.startswith(b"PK"):
            _scan_zip(path, members)
        else:
            _scan_tar(path, head, members)
    except UserError:
        raise
    except Exception as error:  # every compression has its own
        reason = first_line(error).rstrip(":")
        raise UserError(f"{path}: not a tarball, truncated or damaged ({reason}); download it again") from None
    return members.tree()


class _Members:
    """Collects the members of an archive under clean names."""

    def __init__(self, path: Path, left_out: LeftOut):
        self.path, self.left_out, self.count = path, left_out, 0
        self.inside: list[tuple] = []
        self.outside: list[tuple] = []

    def wanted(self, name: str, size: int, problem: str = "") -> tuple[str, ...] | None:
        """Return the path of a member that is to be read, or None."""
        self.count += 1
        if self.count > MAX_MEMBERS:
            raise UserError(f"{self.path}: more than {MAX_MEMBERS:,} members; unpack it")
        relative = re.sub(r"^([A-Za-z]:)?/+", "../", name)  # an absolute name leads out too
        parts = tuple(posixpath.normpath(relative).split("/"))
        if any(is_hidden(part) for part in parts if part != ".."):
            return None
        if len(parts) > MAX_DEPTH:
            problem = "nested too deep"
        if size > MAX_MEMBER_BYTES:
            problem = f"larger than {MAX_MEMBER_BYTES} bytes"
            if posixpath.splitext(name)[1] in ("", ".bin", ".mat"):  # no image, and more than any file of CIFAR
                raise UserError(f"{self.path}: {printable(name)}: {problem}")
        if problem:
            self.left_out.add(printable("/".join(parts)), problem)
            return None
        return parts

    def add(self, parts: tuple[str, ...], source) -> None:
        (self.outside if ".." in parts else self.inside).append((parts, source))

    def tree(self) -> Folder:
        """Return the tree. Names that lead out of it are left out, unless all do, as in `tar -P ../data`."""
        root = Folder()
        for parts, source in self.inside or [(tuple(p for p in parts if p != ".."), s) for parts, s in self.outside]:
            root.add(parts, source)
        if self.inside:
            for parts, _ in self.outside:
                self.left_out.add(printable("/".join(parts)), "its name leads out of the archive")
        return root


# zip ------------------------------------------------------------------------------------------------------------------


def _scan_zip(path: Path, members: _Members) -> None:
    archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    _check_expansion(path, sum(info.file_size for info in infos))
    for info in infos:
        problem = "encrypted" if info.flag_bits & 1 else ""
        if stat.S_ISLNK(info.external_attr >> 16):
            problem = "a link"
        if parts := members.wanted(_zip_name(info), info.file_size, problem):
            members.add(parts, functools.partial(_read_zipped, archive, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & 0x800:  # said to be of code page 437; macOS writes UTF-8 without saying so
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            pass
    return name.replace("\\", "/")


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except Exception as error:  # a wrong checksum, an unknown compression, zlib's own
        raise UserError(f"damaged in the archive ({first_line(error)})") from None


# tar ------------------------------------------------------------------------------------------------------------------


def _scan_tar(path: Path, head: bytes, members: _Members) -> None:
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    if opener is None:
        with tarfile.open(path, "r:") as tar:
            _scan_members(tar, open(path, "rb"), members, False)  # noqa: SIM115 - the readers keep it open
        with open(path, "rb") as file:  # tarfile takes a header that is cut short for the end
            file.seek(-min(512, path.stat().st_size), 2)
            if any(file.read()):
                raise EOFError("it has no end mark")
        return
    spool = tempfile.TemporaryFile(prefix="eanet-")  # noqa: SIM115 - has no name, and goes with the last reader
    with opener(path, "rb") as file:
        stream: Any = _Bounded(file, path)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                _scan_members(tar, spool, members, True)
        except tarfile.ReadError as error:
            while stream.read(2**20):  # damaged, if the checksum at the end says so
                pass
            if members.count == 0:
                raise UserError(f"{path}: no images in it: compressed, but not a tarball ({first_line(error)})") from None
            raise
        while stream.read(2**20):  # to the end, where a compressed file has its checksum
            pass


def _scan_members(tar: tarfile.TarFile, file, members: _Members, copy: bool) -> None:
    """Add the members of a tarball, read from `file`, or copied there first."""
    read_range = functools.partial(_read_range, file, threading.Lock())
    readers: dict[str, Callable[[], bytes]] = {}
    for member in tar:
        if member.isdir():
            continue
        problem = "" if member.isreg() or member.islnk() or member.issym() else "not a regular file"
        if member.issparse():
            problem = "a sparse file"
        parts = members.wanted(member.name, member.size, problem)
        if parts is None:
            continue
        if member.islnk() or member.issym():
            base = posixpath.dirname(member.name) if member.issym() else ""
            target = posixpath.normpath(posixpath.join(base, member.linkname))
            if target not in readers:
                members.left_out.add(printable("/".join(parts)), "a link to a file that is not in the archive")
                continue
            reader = readers[target]
        elif copy:
            reader = functools.partial(read_range, file.tell(), member.size)
            _copy(tar.extractfile(member), file, member.size)
        else:
            reader = functools.partial(read_range, member.offset_data, member.size)
        readers[posixpath.normpath(member.name)] = reader
        members.add(parts, reader)


def _copy(source, target, size: int) -> None:
    while size:
        block = source.read(min(size, 2**20))
        if not block:
            raise EOFError("it ends within a member")
        target.write(block)
        size -= len(block)


def _read_range(file, lock, start: int, size: int) -> bytes:
    """Read some bytes of a file that other threads read too."""
    with lock:
        file.seek(start)
        return file.read(size)


class _Bounded:
    """Reads a decompressed stream, and raises UserError when it grows out of proportion."""

    def __init__(self, file, path):
        self.file, self.path, self.total = file, path, 0

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self.total += len(block)
        _check_expansion(self.path, self.total)
        return block


def _check_expansion(path: Path, size: int) -> None:
    if size > MAX_EXPANDED_BYTES and size > MAX_EXPANSION * path.stat().st_size:
        raise UserError(f"{path}: expands to more than {MAX_EXPANSION} times its size; unpack it if it is to be trusted")
