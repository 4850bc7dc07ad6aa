"""Data sets in zip and tar archives. Nothing is extracted: no member can be written to a path of its choice."""

from __future__ import annotations

import bz2
import copy
import errno
import functools
import gzip
import io
import lzma
import posixpath
import re
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eanet.cli import UserError, first_line, printable
from eanet.data.files import MAX_DENSE_BYTES, MAX_DEPTH, MAX_EXPANSION, MAX_TEXT_BYTES, File, Folder, LeftOut
from eanet.data.storage import large_files_folder
from eanet.images import is_hidden

MAX_MEMBER_BYTES = MAX_TEXT_BYTES
MAX_MEMBERS = 5_000_000
MAX_EXPANDED_BYTES = 2**28  # of a zip, unless it is as large as that suggests
MAX_DICTIONARY_BYTES = 2**28  # of LZMA; 7-Zip's largest preset has 2**26
ENCRYPTED = "encrypted"
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


def foreign_archive(path, kind: str) -> UserError:
    """Return the error for an archive of a kind that is not read."""
    return UserError(f"{path}: a {kind} archive, which is not read; unpack it, or make it a zip")


def is_compressed_table(name: str) -> bool:
    """Return whether a file is a table that is compressed by itself, such as labels.csv.gz."""
    return re.search(r"\.(csv|tsv|jsonl|ndjson|json)\.(gz|bz2|xz)$", name, re.I) is not None


def expand_tables(folder: Folder) -> None:
    """Put tables that are compressed by themselves into the tree as what is in them."""
    for name, file in list(folder.files.items()):
        if is_compressed_table(name):
            del folder.files[name]
            folder.files.setdefault(
                stem := name.rpartition(".")[0], File((*folder.parts, stem), functools.partial(_expand, file))
            )
    for child in folder.folders.values():
        expand_tables(child)


def _expand(file: File) -> bytes:
    content = file.read()
    opener = next((opener for magic, opener in _COMPRESSED.items() if content.startswith(magic)), io.BufferedReader)
    limit = min(MAX_MEMBER_BYTES, max(MAX_DENSE_BYTES, MAX_EXPANSION * len(content)))
    try:
        with opener(io.BytesIO(content)) as stream:
            found = stream.read(limit + 1)
    except Exception as error:  # every compression has its own
        raise UserError(f"{file.path}: damaged ({first_line(error)}); download it again") from None
    if len(found) > limit:
        raise UserError(f"{file.path}: expands to more than {limit:,} bytes; unpack it if it is to be trusted")
    return found


class _Source:
    """An archive on disk, or one that was a member of another."""

    def __init__(self, path, content: bytes | None):
        self.path, self._content = Path(path), content
        self.size = len(content) if content is not None else self.path.stat().st_size

    def open(self):
        """Open it for reading."""
        return open(self.path, "rb") if self._content is None else io.BytesIO(self._content)

    def __str__(self):
        return str(self.path)


def scan_archive(path, left_out: LeftOut, content: bytes | None = None) -> Folder:
    """List an archive: zip, or tar with or without gzip, bzip2 or xz; the kind is recognised by content.

    A compressed tarball is unpacked into one nameless temporary file, in TMPDIR or /var/tmp.

    Args:
        path: the archive.
        left_out: gets the members that are not read.
        content: of an archive in another one; None to read it from `path`.

    Returns:
        The tree of its visible files.

    Raises:
        UserError: damaged, encrypted, of another kind, or much larger than the archive itself; no space to unpack it.
        OSError: it cannot be read.
    """
    source, before = _Source(path, content), len(left_out.entries)
    with source.open() as file:
        head = file.read(8)
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise foreign_archive(path, kind)
    members = _Members(source, left_out)
    try:
        if head.startswith(b"PK"):
            _scan_zip(source, members)
        else:
            _scan_tar(source, head, members)
    except UserError:
        raise
    except Exception as error:  # every compression has its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{large_files_folder()}: no space left to unpack {path}; set TMPDIR") from None
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # that is of a damaged offset
            raise
        reason = first_line(error).rstrip(":")
        raise UserError(f"{path}: not a tarball, truncated or damaged ({reason}); download it again") from None
    if ENCRYPTED in {entry["reason"] for entry in left_out.entries[before:]} and not members.inside:
        raise UserError(f"{path}: its files are encrypted; unpack it with its password")
    return members.tree()


class _Members:
    """Collects the members of an archive under clean names."""

    def __init__(self, path: _Source, left_out: LeftOut):
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
            suffix = posixpath.splitext(name)[1].lower()
            if suffix in ("", ".bin", ".mat", *ARCHIVE_SUFFIXES):  # no image, and more than any file of CIFAR
                hint = "; unpack the outer archive" if suffix in ARCHIVE_SUFFIXES else ""
                raise UserError(f"{self.path}: {printable(name)}: {problem}{hint}")
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


def _scan_zip(source: _Source, members: _Members) -> None:
    archive = zipfile.ZipFile(source.open())
    infos = [info for info in archive.infolist() if not info.is_dir()]
    expanded = sum(info.file_size for info in infos)
    if expanded > MAX_EXPANDED_BYTES and expanded > MAX_EXPANSION * source.size:
        raise _bomb(source)
    for info in infos:
        problem = ENCRYPTED if info.flag_bits & 1 else ""
        if stat.S_ISLNK(info.external_attr >> 16):
            problem = "a link"
        if info.file_size > max(MAX_DENSE_BYTES, MAX_EXPANSION * info.compress_size):
            problem = f"expands to more than {MAX_EXPANSION} times its size"
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
        if info.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            return _expand_member(archive, info)
        with archive.open(info) as file:
            return file.read(info.file_size)  # `read()` would expand all of it, and then cut
    except NotImplementedError:  # deflate64, by Windows for large files
        raise UserError("compressed by a method that is not read; unpack the archive") from None
    except Exception as error:  # a wrong checksum, zlib's own
        raise UserError(f"damaged in the archive ({first_line(error)})") from None


def _expand_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return a member compressed by bzip2 or LZMA, of which `zipfile` expands more than the declared size."""
    stored: Any = copy.copy(info)
    stored.compress_type, stored.file_size, stored.CRC = zipfile.ZIP_STORED, info.compress_size, None
    with archive.open(stored) as file:
        content = file.read()
    decompressor: Any = bz2.BZ2Decompressor()
    if info.compress_type == zipfile.ZIP_LZMA:  # version, size of the properties and these; an .lzma file has the size next
        end = 4 + int.from_bytes(content[2:4], "little")
        content = content[4:end] + b"\xff" * 8 + content[end:]
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MAX_DICTIONARY_BYTES)
    found = decompressor.decompress(content, info.file_size)
    if zlib.crc32(found) != info.CRC:
        raise zipfile.BadZipFile("Bad CRC-32")
    return found


# tar ------------------------------------------------------------------------------------------------------------------


def _scan_tar(source: _Source, head: bytes, members: _Members) -> None:
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    if opener is None:
        with source.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
            _scan_members(tar, source.open(), members, False)  # the readers keep it open
        with source.open() as file:  # tarfile takes a header that is cut short for the end
            file.seek(-min(512, source.size), 2)
            if any(file.read()):
                raise EOFError("it has no end mark")
        return
    # It has no name, and goes with the last reader.
    spool = tempfile.TemporaryFile(prefix="eanet-", dir=large_files_folder())  # noqa: SIM115
    with source.open() as raw, opener(raw, "rb") as file:
        stream: Any = _Bounded(file, raw, source)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                _scan_members(tar, spool, members, True)
        except tarfile.ReadError as error:
            while stream.read(2**20):  # damaged, if the checksum at the end says so
                pass
            if members.count == 0:
                raise UserError(f"{source}: no images in it: compressed, but not a tarball ({first_line(error)})") from None
            raise
        while stream.read(2**20):  # to the end, where a compressed file has its checksum
            pass
    spool.flush()


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
    """Reads a decompressed stream, and raises UserError when too much of it is out of proportion to what was compressed."""

    WINDOW = 2**23  # bytes over which the proportion is taken: decompressors read ahead

    def __init__(self, file, raw, source: _Source):
        self.file, self.raw, self.source = file, raw, source
        self.window, self.start, self.excess = 0, 0, 0

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(size)
        self.window += len(block)
        if self.window >= self.WINDOW:
            here = self.raw.tell()
            if self.window > MAX_EXPANSION * (here - self.start):
                self.excess += self.window
            self.window, self.start = 0, here
            if self.excess > MAX_DENSE_BYTES:
                raise _bomb(self.source)
        return block


def _bomb(source: _Source) -> UserError:
    return UserError(f"{source}: expands to more than {MAX_EXPANSION} times its size; unpack it if it is to be trusted")
