"""Read the local Xet store that `hf_xet` writes for `local://` addresses."""

import struct
import tempfile
from pathlib import Path


def xet_files(cas: Path) -> list[tuple[str, int, str]]:
    """(Xet hash, size, SHA-256) of every file in a local store, read from its shards.

    A shard is a header of 48 bytes, then per file a record of 48 bytes (hash, flags, number of segments), as many segments
    and, as the flags say, as many verifications and one record with the SHA-256; a record of ones ends the list. A hash is
    four 64-bit numbers, low byte first.
    """

    def text(raw):
        return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))

    found = []
    for shard in sorted(cas.rglob("shards/*.mdb")):
        raw, at = shard.read_bytes(), 48
        while at + 48 <= len(raw) and raw[at : at + 32] != b"\xff" * 32:
            name, flags, count = text(raw[at : at + 32]), *struct.unpack("<II", raw[at + 32 : at + 40])
            segments = [raw[at + 48 * (i + 1) : at + 48 * (i + 2)] for i in range(count)]
            size = sum(struct.unpack("<I", segment[36:40])[0] for segment in segments)
            at += 48 * (1 + count * (2 if flags & 0x80000000 else 1))
            if flags & 0x40000000:
                found.append((name, size, text(raw[at : at + 32])))
                at += 48
    return found


def xet_download(cas: Path, xet_hash: str, size: int) -> bytes:
    import hf_xet

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        info = hf_xet.PyXetDownloadInfo(str(target), xet_hash, size)
        hf_xet.download_files([info], f"local://{cas}", None, None, None)
        return target.read_bytes()
