"""The versions of CIFAR-10 and CIFAR-100: python, binary and MATLAB, as folders and archives, as others rewrote them."""

import io
import pickle
import re
import struct
import tarfile
import time
import zipfile
import zlib

import numpy as np
import pytest
from conftest import tiny_config

from eanet.data import cifar, inspect, load_dataset
from eanet.data.matlab import load_matlab
from modeling_eanet import CIFAR100_LABELS, UserError

NAMES10 = [f"class{i}" for i in range(10)]
NAMES100 = [f"fine {i}" for i in range(100)]


def arrays(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), [i % classes for i in range(count)]


PARTS10 = {"data_batch_1": arrays(20, 10, 1), "data_batch_2": arrays(10, 10, 2), "test_batch": arrays(15, 10, 3)}
PARTS100 = {"train": arrays(200, 100, 1), "test": arrays(100, 100, 2)}


def python10(dump=lambda value: pickle.dumps(value, 2), key=str.encode, labels=list, names=NAMES10):
    content = {"batches.meta": dump({key("label_names"): [key(name) for name in names], key("num_vis"): 3072})}
    for name, (x, y) in PARTS10.items():
        content[name] = dump({key("data"): x, key("labels"): labels(y), key("batch_label"): key("batch 1 of 5")})
    return {f"cifar-10-batches-py/{name}": data for name, data in content.items()}


def python100(dump=lambda value: pickle.dumps(value, 2), key=str.encode):
    content = {"meta": dump({key("fine_label_names"): [key(name) for name in NAMES100], key("coarse_label_names"): []})}
    for name, (x, y) in PARTS100.items():
        content[name] = dump({key("data"): x, key("fine_labels"): y, key("coarse_labels"): y, key("filenames"): []})
    return {f"cifar-100-python/{name}": data for name, data in content.items()}


def binary10():
    content = {"batches.meta.txt": "\n".join(NAMES10).encode() + b"\n\n", "readme.html": b"<html>"}
    for name, (x, y) in PARTS10.items():
        content[name + ".bin"] = b"".join(bytes([k]) + row.tobytes() for row, k in zip(x, y, strict=True))
    return {f"cifar-10-batches-bin/{name}": data for name, data in content.items()}


def binary100():
    content = {"fine_label_names.txt": "\r\n".join(NAMES100).encode(), "coarse_label_names.txt": b"a\nb\n"}
    for name, (x, y) in PARTS100.items():
        content[name + ".bin"] = b"".join(bytes([7, k]) + row.tobytes() for row, k in zip(x, y, strict=True))
    return {f"cifar-100-binary/{name}": data for name, data in content.items()}


def matlab(parts, meta, names, folder):
    io_ = pytest.importorskip("scipy.io")
    fine = "fine_" if len(names) == 100 else ""

    def saved(**values):
        file = io.BytesIO()
        io_.savemat(file, values)
        return file.getvalue()

    column = np.array(names, dtype=object)[:, None]
    content = {meta: saved(**{fine + "label_names": column})}
    for name, (x, y) in parts.items():
        labels = {fine + "labels": np.array(y, np.uint8)[:, None]}
        content[name + ".mat"] = saved(data=x, batch_label="batch", **labels)
    return {f"{folder}/{name}": data for name, data in content.items()}


VERSIONS = {
    "python 10": python10,
    "python 100": python100,
    "python 10, text keys": lambda: python10(key=str),
    "python 100, text keys": lambda: python100(key=str),
    "python 10, protocol 5": lambda: python10(lambda value: pickle.dumps(value, 5), str),
    "python 100, protocol 0": lambda: python100(lambda value: pickle.dumps(value, 0)),
    "python 10, protocol 4": lambda: python10(lambda value: pickle.dumps(value, 4)),
    "python 10, array of labels": lambda: python10(lambda value: pickle.dumps(value, 5), str, np.array),
    "python 10, NumPy numbers": lambda: python10(labels=lambda y: [np.int64(v) for v in y]),
    "binary 10": binary10,
    "binary 100": binary100,
    "MATLAB 10": lambda: matlab(PARTS10, "batches.meta.mat", NAMES10, "cifar-10-batches-mat"),
    "MATLAB 100": lambda: matlab(PARTS100, "meta.mat", NAMES100, "cifar-100-matlab"),
}


def write(root, content, form):
    if form == "tar":
        with tarfile.open(root / "download", "w:gz") as tar:
            for name, data in content.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    elif form == "zip":
        with zipfile.ZipFile(root / "download", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    else:
        for name, data in content.items():
            path = root / "download" / (name if form == "folder above" else name.split("/")[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root / "download"


@pytest.mark.parametrize("form", ["tar", "zip", "folder", "folder above"])
@pytest.mark.parametrize("version", VERSIONS)
def test_version(tmp_path, version, form):
    dataset = load_dataset(write(tmp_path, VERSIONS[version](), form), tiny_config())
    parts, names = (PARTS100, NAMES100) if "100" in version else (PARTS10, NAMES10)
    assert list(dataset.labels) == names and inspect(dataset)["left_out"] == []
    for split, start in ((dataset.train, ("train", "data")), (dataset.test, ("test",))):
        x, y = (np.concatenate(both) for both in zip(*(parts[n] for n in parts if n.startswith(start)), strict=True))
        np.testing.assert_array_equal(split.x, x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(split.y, y)


def test_many_batches_are_in_the_order_of_their_numbers(tmp_path):
    content = python10()
    for i in range(3, 12):
        x, y = arrays(10, 10, i)
        content[f"cifar-10-batches-py/data_batch_{i}"] = pickle.dumps({b"data": x, b"labels": y}, 2)
    dataset = load_dataset(write(tmp_path, content, "folder"), tiny_config())
    last = arrays(10, 10, 11)[0].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(dataset.train.x[-10:], last)


def test_official_names(tmp_path):
    content = python10(names=cifar.CIFAR10_LABELS)
    dataset = load_dataset(write(tmp_path, content, "tar"), tiny_config())
    assert (dataset.id, dataset.name) == ("uoft-cs/cifar10", "CIFAR-10")
    assert (dataset.test.name, dataset.test.note) == ("hold-out", "hold-out: 15 images, a part of CIFAR-10")
    assert len(CIFAR100_LABELS) == 100


def test_draws_are_plain_only_where_runs_are_recorded(tmp_path):
    assert not load_dataset(write(tmp_path, python100(), "folder"), tiny_config()).stratify
    (tmp_path / "other").mkdir()
    assert load_dataset(write(tmp_path / "other", binary100(), "folder"), tiny_config()).stratify


@pytest.mark.parametrize(
    ("version", "name", "content", "message"),
    [
        ("binary 10", "test_batch.bin", b"\0" * 3000, "3,000 bytes are not rows of 3073; truncated"),
        ("binary 10", "test_batch.bin", b"\x0b" + bytes(3072), "test_batch.bin: label 11 is not in 0-9"),
        ("binary 10", "batches.meta.txt", b"\xff\xfe", "batches.meta.txt is not text"),
        ("binary 10", "batches.meta.txt", b"cat\ncat\n", "must name at least two classes, all different"),
        ("MATLAB 10", "test_batch.mat", b"MATLAB 5.0", "cannot be read as a MATLAB file"),
        ("python 10", "test_batch", None, "the file test_batch of CIFAR-10's python layout is missing"),
        ("binary 10", "data_batch", None, "the file data_batch_1.bin of CIFAR-10's binary layout is missing"),
        ("python 10", "test_batch", b"version https://git-lfs.github.com/spec/v1\noid", "test_batch: a Git LFS pointer"),
        ("python 10", "test_batch", b"r\xff\xff\xff\x7f.", "test_batch cannot be unpickled safely"),
        ("python 10", "test_batch", b"\x80\x05\x8e" + b"\xff" * 7 + b"\x0f", "test_batch cannot be unpickled safely"),
    ],
)
def test_damaged(tmp_path, version, name, content, message):
    files = VERSIONS[version]()
    for path in [path for path in files if path.split("/")[1].startswith(name)]:
        files[path] = content
    path = write(tmp_path, {path: data for path, data in files.items() if data is not None}, "folder")
    with pytest.raises(UserError) as caught:
        load_dataset(path, tiny_config())
    assert message in str(caught.value) and str(path) in str(caught.value)


def element(kind, data, size=None):
    return struct.pack("<II", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def matrix(kind, shape, value, name=b"data"):
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, flags + element(5, struct.pack("<2i", *shape)) + element(1, name) + value)


def cells(depth):
    value = b""
    for _ in range(depth):
        value = matrix(1, (1, 1), value)
    return value


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        (b"", "'data'"),
        (element(15, zlib.compress(bytes(2**25))), "expands to more than 50 times its size"),
        (element(15, zlib.compress(matrix(9, (2, 2), element(2, b"abcd")))[:-9]), "it is cut short"),
        (element(15, b"abcdefgh"), "incorrect header"),
        (element(14, b"", 2**31), "it is cut short"),
        (matrix(9, (2**30, 2**30), element(2, b"ab")), "a matrix in it is cut short"),
        (matrix(9, (-1, -2), element(2, b"ab")), "a matrix in it is cut short"),
        (cells(20_000), "another kind (1)"),
        (matrix(16, (1, 1), b""), "another kind (16)"),
        (matrix(9, (1, 2), element(9, bytes(16))), "'labels'"),
    ],
)
def test_forged_matlab_files_are_refused_in_time(variables, reason, tmp_path):
    content = b"MATLAB 5.0".ljust(124) + b"\0\1IM" + variables
    files = VERSIONS["MATLAB 10"]()
    files["cifar-10-batches-mat/test_batch.mat"] = content
    start = time.process_time()
    with pytest.raises(UserError, match=f"test_batch.mat cannot be read as a MATLAB file: .*{re.escape(reason)}"):
        load_dataset(write(tmp_path, files, "folder"), tiny_config())
    assert time.process_time() - start < 2


def test_matlab_files_are_read_as_scipy_writes_them():
    scipy_io = pytest.importorskip("scipy.io")
    values = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": np.array([[1.0], [2.0], [300.0]])}
    values["label_names"] = np.array(["a", "größe", ""], dtype=object)[:, None]
    for compressed in (False, True):
        file = io.BytesIO()
        scipy_io.savemat(file, {**values, "other": {"x": 1}}, do_compression=compressed)
        found = load_matlab(file.getvalue(), ("data", "labels", "label_names"))
        assert found["label_names"] == ["a", "größe", ""] and (found["labels"] == values["labels"]).all()
        assert (found["data"] == values["data"]).all() and found["data"].dtype == np.uint8 and "other" not in found


def test_shared_lists_of_labels_do_not_grow(tmp_path):
    labels = [0]
    for _ in range(40):
        labels = [labels, labels]
    files = python10()
    files["cifar-10-batches-py/test_batch"] = pickle.dumps({b"data": PARTS10["test_batch"][0], b"labels": labels})
    with pytest.raises(UserError, match="test_batch: labels must be 15 integers"):
        load_dataset(write(tmp_path, files, "folder"), tiny_config())
