"""Data sets in zip and tar archives."""

import bz2
import errno
import gzip
import io
import os
import tarfile
import time
import tracemalloc
import zipfile

import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import archives, inspect, load_dataset
from eanet.data.files import LeftOut
from modeling_eanet import UserError


def image(seed=0, fmt="PNG"):
    return encoded(noise(12, 12, seed), fmt).read()


def members(prefix="set/train/", count=2):
    """Names and contents of `count` images of the classes cat and dog."""
    return {f"{prefix}{name}/{i}.png": image(i) for name in ("cat", "dog") for i in range(count)}


def write_zip(path, content, **kwargs):
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def write_tar(path, content, mode="gz", links=()):
    with tarfile.open(path, f"w:{mode}") as tar:
        for name, data in content.items() if isinstance(content, dict) else content:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        for name, target, kind in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    return path


def sizes(path):
    found = inspect(load_dataset(path, tiny_config()))
    return found["train"], found["validation"], found["test"], len(found["left_out"])


def error_of(path):
    with pytest.raises(UserError) as caught:
        load_dataset(path, tiny_config())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


WRITERS = {"zip": write_zip} | {m or "tar": lambda p, c, m=m: write_tar(p, c, m) for m in ("", "gz", "bz2", "xz")}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_is_recognised_by_content(tmp_path, kind):
    content = members() | members("set/val/", 1) | {"__MACOSX/set/train/cat/._0.png": b"\0", "set/.DS_Store": b"\0"}
    path = WRITERS[kind](tmp_path / "my.set", content)
    assert sizes(path) == (4, 2, None, 0)
    dataset = load_dataset(path, tiny_config())
    assert (dataset.name, dataset.labels) == ("my", ("cat", "dog"))
    assert [p.name for p in tmp_path.iterdir()] == ["my.set"]


@pytest.mark.parametrize("kind", WRITERS)
def test_archive_and_folder_give_the_same_images(tmp_path, kind):
    path = WRITERS[kind](tmp_path / "set.bin", members(count=5))
    for name, data in members(count=5).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    archive, folder = (load_dataset(p, tiny_config()).train.checksum() for p in (path, tmp_path / "set"))
    assert archive == folder


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "name", ["../evil.png", "set/../../train/cat/evil.png", "/../../evil.png", "../../../../tmp/evil.png"]
)
def test_names_that_lead_out_are_left_out(tmp_path, kind, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = WRITERS[kind](tmp_path / "set.archive", members() | {name: image()})
    assert sizes(path) == (4, None, None, 1)
    assert os.listdir(tmp_path) == ["set.archive"] and not os.path.exists("/tmp/evil.png")


@pytest.mark.parametrize("prefix", ["/home/me/set/train/", "C:/set/train/", "./set/train/", "../set/train/", "a/../train/"])
def test_absolute_and_relative_prefixes(tmp_path, prefix):
    assert sizes(write_zip(tmp_path / "set.zip", members(prefix))) == (4, None, None, 0)
    assert sizes(write_tar(tmp_path / "set.tar.gz", members(prefix))) == (4, None, None, 0)


def test_windows_names_in_a_zip(tmp_path):
    path = write_zip(tmp_path / "set.zip", members("set/train/"))
    for name in members():
        path.write_bytes(path.read_bytes().replace(name.encode(), name.replace("/", "\\").encode()))
    assert sizes(path) == (4, None, None, 0)


def test_names_of_a_mac_are_utf_8(tmp_path):
    path = write_zip(tmp_path / "set.zip", members("set/train/caf_") | members("set/train/the_"))
    path.write_bytes(path.read_bytes().replace(b"caf_", b"\xc3\xa9_f"))  # not flagged as UTF-8
    assert "é_fcat" in load_dataset(path, tiny_config()).labels


def test_links_in_a_tarball(tmp_path):
    links = [
        ("set/train/cat/hard.png", "set/train/cat/0.png", tarfile.LNKTYPE),
        ("set/train/cat/soft.png", "../dog/0.png", tarfile.SYMTYPE),
        ("set/train/cat/out.png", "/etc/passwd", tarfile.SYMTYPE),
        ("set/train/cat/pipe.png", "", tarfile.FIFOTYPE),
    ]
    assert sizes(write_tar(tmp_path / "linked.tar.gz", members(), links=links)) == (6, None, None, 2)


def test_damaged_image_in_a_zip_is_left_out(tmp_path):
    path = write_zip(tmp_path / "set.zip", members(count=10))
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 20] ^= 255
    path.write_bytes(content)
    dataset = load_dataset(path, tiny_config())
    assert len(dataset.train) == 19 and "damaged in the archive" in dataset.left_out[0]["reason"]


def test_encrypted_members_are_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", members())
    content = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.index(magic)
        content[at + offset] |= 1
    path.write_bytes(content)
    assert load_dataset(path, tiny_config()).left_out == [{"path": "set/train/cat/0.png", "reason": "encrypted"}]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_truncated(tmp_path, kind, keep):
    path = WRITERS[kind](tmp_path / "set.archive", members(count=30))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert error_of(path).endswith("download it again")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar.gz", gzip.compress(b"hello " * 99, mtime=0), "no images in it: compressed, but not a tarball"),
        ("a.bz2", bz2.compress(b"hello"), "no images in it: compressed, but not a tarball"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "a 7z archive, which is not read; unpack it"),
        ("a.rar", b"Rar!\x1a\x07" + bytes(99), "a RAR archive, which is not read; unpack it"),
        ("a.zip", b"<html>404</html>", "no images: not a tarball or zip"),
        ("a.png", image(), "a single image; a data set is the folder"),
        ("a.zip", b"", "empty; truncated or damaged, download it again"),
        ("a.tar", b"version https://git-lfs.github.com/spec/v1\noid", "run `git lfs pull`"),
    ],
)
def test_other_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in error_of(tmp_path / name)


@pytest.mark.parametrize("kind", WRITERS)
def test_unknown_archive_is_called_unknown(tmp_path, kind):
    message = error_of(WRITERS[kind](tmp_path / "a.archive", {"a/readme.txt": b"hello"}))
    assert "no images" in message and "it holds a/readme.txt" in message and "damaged" not in message


def test_archive_alone_in_a_folder(tmp_path):
    write_zip(tmp_path / "set.zip", members())
    (tmp_path / "README.txt").write_text("text")
    assert sizes(tmp_path) == (4, None, None, 0)


def test_archive_with_a_preview_next_to_it(tmp_path):
    (tmp_path / "preview.png").write_bytes(image())
    write_zip(tmp_path / "train.zip", members("train/"))
    assert sizes(tmp_path) == (4, None, None, 1)
    write_zip(tmp_path / "test.zip", members("test/", 1))
    assert sizes(tmp_path) == (4, None, 2, 1)


def test_images_next_to_an_archive_with_their_labels(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(image(i))
    write_zip(tmp_path / "labels.zip", {"labels.csv": "file,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(4))})
    assert sizes(tmp_path) == (4, None, None, 0)


@pytest.mark.parametrize("labels", ["labels.csv", "labels.csv.gz", "pairs", "folders"])
def test_archive_next_to_images_with_labels_is_not_opened(tmp_path, labels):
    parents = [tmp_path / f"{i % 2}" for i in range(4)] if labels == "folders" else [tmp_path] * 4
    for i, parent in enumerate(parents):
        parent.mkdir(exist_ok=True)
        (parent / f"{i}.png").write_bytes(image(i))
        write_zip(parent / "originals.zip", members())
        if labels == "pairs":
            (tmp_path / f"{i}.cls").write_text(str(i % 2))
    table = b"file,label\n" + b"".join(b"%d.png,%d\n" % (i, i % 2) for i in range(4))
    if labels.startswith("labels"):
        (tmp_path / labels).write_bytes(gzip.compress(table) if labels.endswith(".gz") else table)
    assert sizes(tmp_path) == (4, None, None, 2 if labels == "folders" else 1)


def test_an_archive_for_each_split(tmp_path):
    write_zip(tmp_path / "train.zip", members("train/"))
    write_tar(tmp_path / "test.tar.gz", members("", 1))
    assert sizes(tmp_path) == (4, None, 2, 0)


@pytest.mark.parametrize("names", [("set.0.tar", "set.1.tar"), ("set.tar", "set.tgz"), ("a/set.tar", "b/set.tar")])
def test_archives_whose_names_begin_alike(tmp_path, names):
    content = {f"{i}.png": image(i) for i in range(4)} | {f"{i}.cls": str(i % 2).encode() for i in range(4)}
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, content, "")
    assert sizes(tmp_path) == (8, None, None, 0)


def test_archives_and_tables_of_splits(tmp_path):
    for split, count in (("train", 6), ("test", 4)):
        write_zip(tmp_path / f"v1.0-{split}.zip", {f"{i}.png": image(i) for i in range(count)})
        (tmp_path / f"{split}.csv").write_text("file,label\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(count)))
    assert sizes(tmp_path) == (6, None, 4, 0)


def test_no_member_replaces_another_file(tmp_path):
    write_zip(tmp_path / "images.zip", {f"img/{i}.png": image(i) for i in range(4)} | {"README.txt": b"images"})
    rows = "".join(f"img/{i}.png,{i % 2}\n" for i in range(4)).encode()
    write_zip(tmp_path / "tables.zip", {"labels.csv": b"file,label\n" + rows, "README.txt": b"tables"})
    (tmp_path / "README.txt").write_text("all")
    dataset = load_dataset(tmp_path, tiny_config())
    listed = [entry["path"] for entry in dataset.left_out]
    assert len(dataset.train) == 4 and listed == ["README.txt", "images.zip/README.txt", "tables.zip/README.txt"]


def test_table_in_an_archive(tmp_path):
    rows = "".join(f"{name},{name.split('/')[0]}\r\n" for name in members(""))
    content = {f"set/{name}": data for name, data in members("").items()} | {
        "set/labels.csv": b"file;label\r\n" + rows.encode()
    }
    content["set/labels.csv"] = content["set/labels.csv"].replace(b",", b";")
    assert sizes(write_zip(tmp_path / "set.zip", content)) == (4, None, None, 0)


def test_long_names_and_deep_folders(tmp_path):
    content = members("a" * 200 + "/train/") | {"/".join("d" * 3000) + "/a.png": image()}
    assert sizes(write_tar(tmp_path / "set.tar", content, "")) == (4, None, None, 1)


@pytest.mark.parametrize("first", [0, 2**22], ids=["zeros", "after images"])
def test_bombs_are_refused_in_time(first, tmp_path):
    zeros = tmp_path / "zeros.tar.gz"
    with tarfile.open(zeros, "w:gz", compresslevel=1) as tar:
        entry = tarfile.TarInfo("train/cat/noise.png")
        entry.size = first
        tar.addfile(entry, io.BytesIO(os.urandom(first)))
        for i in range(4):
            entry = tarfile.TarInfo(f"train/cat/{i}.raw")
            entry.size = 30 * 2**20
            tar.addfile(entry, Zeros())
    start = time.process_time()
    assert "expands to more than 50 times its size" in error_of(zeros)
    assert time.process_time() - start < 5


def test_a_table_that_a_zip_makes_large_is_left_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members().items():
            archive.writestr(name, content)
        archive.writestr("labels.json", b"[[]" + b",[]" * 2**24 + b"]")
    dataset = load_dataset(tmp_path / "set.zip", tiny_config())
    assert dataset.left_out == [{"path": "labels.json", "reason": "expands to more than 50 times its size"}]


METHODS = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "LZMA": zipfile.ZIP_LZMA}


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_zip(tmp_path, method):
    path = write_zip(tmp_path / "set.zip", members(count=20), compression=METHODS[method])
    stored = write_zip(tmp_path / "stored.zip", members(count=20))
    assert load_dataset(path, tiny_config()).train.checksum() == load_dataset(stored, tiny_config()).train.checksum()
    content = bytearray(path.read_bytes())
    content[content.index(b"cat/0.png") + 60] ^= 255
    path.write_bytes(content)
    assert "damaged in the archive" in load_dataset(path, tiny_config()).left_out[0]["reason"]


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_that_declares_too_little_is_expanded_no_further(tmp_path, method):
    path = write_zip(tmp_path / "set.zip", {"set/cat/0.png": bytes(2**26)}, compression=METHODS[method])
    path.write_bytes(path.read_bytes().replace((2**26).to_bytes(4, "little"), (2**10).to_bytes(4, "little")))
    (file,) = archives.scan_archive(path, LeftOut()).walk()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="damaged in the archive"):
            file.read()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


class Zeros:
    def read(self, size):
        return bytes(size)


def test_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    assert "more than 3 members; unpack it" in error_of(write_zip(tmp_path / "set.zip", members()))


def test_duplicate_member_counts_as_one(tmp_path):
    content = [*members().items(), *members().items()]
    assert sizes(write_tar(tmp_path / "set.tar", content, "")) == (4, None, None, 0)


def test_nothing_is_left_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    tree = archives.scan_archive(write_tar(tmp_path / "set.tar.gz", members()), LeftOut())
    assert len(tree.walk()) == 4 and list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
@pytest.mark.parametrize("count", [2, 200], ids=["at the end", "on the way"])
def test_a_full_disk_is_no_damage(tmp_path, monkeypatch, count):
    path = write_tar(tmp_path / "set.tar.gz", members(count=count))
    full = {str(tmp_path): "/dev/full"}
    monkeypatch.setattr(archives.tempfile, "TemporaryFile", lambda dir, prefix: open(full[dir], "r+b"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert error_of(path) == f"{tmp_path}: no space left to unpack {path}; set TMPDIR"


def test_a_device_that_fails_is_no_damage(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    path = write_tar(tmp_path / "set.tar.gz", members())
    monkeypatch.setattr(archives, "_copy", fail)
    with pytest.raises(OSError, match="Input/output error"):
        load_dataset(path, tiny_config())
