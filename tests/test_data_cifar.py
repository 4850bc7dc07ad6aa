"""Reading CIFAR-100's python layout, safely, and downloading it."""

import os
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, colour_images, tiny_config, write_official

from eanet.data import archives, cifar, load_dataset, unpickle
from eanet.data.files import File, Folder
from eanet.images import load_image
from modeling_eanet import CIFAR100_LABELS, UserError

FILES = ("train", "test", "meta")


def load(path):
    return load_dataset(None if path is None else str(path), tiny_config())


def write_tar(folder, path, mode="gz"):
    with tarfile.open(path, f"w:{mode}") as tar:
        tar.add(folder, "cifar-100-python")
    return path


def edit(folder, name, **changes):
    """Change entries of one of the pickled files."""
    record = pickle.loads((folder / name).read_bytes())
    record.update({key.encode(): value for key, value in changes.items()})
    (folder / name).write_bytes(pickle.dumps(record, protocol=3))  # 2 has no empty bytes, so no empty array


def error_of(path):
    """Return the error of loading `path`: one line that names it."""
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def assert_is_official(dataset):
    assert dataset.labels == LABELS
    for seed, (split, count) in enumerate(((dataset.train, 192), (dataset.test, 48))):
        x, y = colour_images(count, seed)
        assert split.x.dtype == np.uint8 and split.y.dtype == np.int64
        np.testing.assert_array_equal(split.x, x)
        np.testing.assert_array_equal(split.y, y)
    assert (dataset.train.name, dataset.test.name, dataset.test.note) == ("train", "test", "")


@pytest.fixture
def small(tmp_path):
    """Six images per split, to be damaged."""
    return write_official(tmp_path / "data", 6, 6)


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz", ""])
def test_tarball(official, tmp_path, mode):
    dataset = load(write_tar(official, tmp_path / "colours.tar.gz", mode))
    assert_is_official(dataset)
    assert dataset.name == "colours"


def test_working_directory_gives_its_name(official, monkeypatch):
    monkeypatch.chdir(official)
    dataset = load(".")
    assert_is_official(dataset)
    assert (dataset.id, dataset.name) == ("", "cifar-100-python")  # its labels are not those of CIFAR-100


def test_tarball_is_not_extracted(official, tmp_path, monkeypatch):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        for name in FILES:
            tar.add(official / name, f"../../{name}")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert_is_official(load(path))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "evil.tar"]


@pytest.mark.parametrize(
    ("train", "test", "name", "note"),
    [
        (50_000, 10_000, "test", ""),
        (45_000, 5_000, "hold-out", "hold-out: 5,000 of the official train split, used for selection"),
        (40_000, 10_000, "hold-out", "hold-out: 10,000 images, a part of CIFAR-100"),
        (50_000, 9_999, "hold-out", "hold-out: 9,999 images, a part of CIFAR-100"),
        (300, 100, "hold-out", "hold-out: 100 images, a part of CIFAR-100"),
    ],
)
def test_only_the_official_sizes_have_a_test_split(tmp_path, train, test, name, note):
    files = {"meta": pickle.dumps({b"fine_label_names": [label.encode() for label in CIFAR100_LABELS]}, protocol=2)}
    for split, count in (("train", train), ("test", test)):
        record = {b"data": np.zeros((count, 3072), np.uint8), b"fine_labels": [99] * count}
        files[split] = pickle.dumps(record, protocol=4)
    folder = Folder(files={name: File((name,), lambda content=content: content) for name, content in files.items()})
    dataset = cifar.load_cifar(tmp_path, "CIFAR-100's python layout", folder)
    assert (dataset.id, dataset.name) == ("uoft-cs/cifar100", "CIFAR-100")
    assert (dataset.test.name, dataset.test.note) == (name, note)
    assert dataset.train.name == "train"


# Damaged files --------------------------------------------------------------------------------------------------------


def test_empty_folder(tmp_path):
    assert "neither class folders, nor a table of files and labels, nor CIFAR" in error_of(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_truncated_tarball(official, tmp_path, keep):
    path = write_tar(official, tmp_path / "cut.tar.gz")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "truncated or damaged" in error_of(path) and error_of(path).endswith("download it again")


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_wrong_bit_in_a_compressed_tarball(official, tmp_path, mode):
    path = write_tar(official, tmp_path / "bit.tar", mode)
    content = path.read_bytes()
    for position in np.linspace(0.1, 0.9, 9):  # most of them only change a pixel or a label
        damaged = bytearray(content)
        damaged[int(len(content) * position)] ^= 4
        path.write_bytes(damaged)
        assert "truncated or damaged" in error_of(path)


def test_too_large_member(official, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    assert "larger than 1000 bytes" in error_of(write_tar(official, tmp_path / "bomb.tar.gz"))


@pytest.mark.parametrize("name", FILES)
def test_missing_file(small, tmp_path, name):
    (small / name).unlink()
    for path in (small, write_tar(small, tmp_path / "part.tar.gz")):
        assert f"the file {name} of CIFAR-100's python layout is missing" in error_of(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps([1, 2]), pickle.dumps({"data": 1})])
def test_file_with_other_content(small, name, content):
    (small / name).write_bytes(content)
    assert f": {name}" in error_of(small)


@pytest.mark.parametrize("label", [3, -1])
def test_label_out_of_range(small, label):
    edit(small, "train", fine_labels=[0, 1, 2, label, 1, 0])
    assert f"train: label {label} is not in 0-2" in error_of(small)


@pytest.mark.parametrize("labels", [[0, 1], [0.5] * 6, ["red"] * 6, [[0], [1, 2], 3, 4, 5, 6], None, [[0]] * 6])
def test_labels_that_are_not_integers(small, labels):
    edit(small, "test", fine_labels=labels)
    assert "test: fine_labels must be 6 integers" in error_of(small)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((6, 3071), np.uint8),
        np.zeros((6, 32, 32, 3), np.uint8),
        np.zeros((0, 3072), np.uint8),
        np.zeros((6, 3072), np.float32),
        [[0] * 3072] * 6,
        b"",
    ],
    ids=["width", "rank", "empty", "float", "list", "bytes"],
)
def test_images_of_another_shape_or_type(small, images):
    edit(small, "train", data=images)
    assert "train: data must be " in error_of(small)


@pytest.mark.parametrize("labels", [["red"], [], ["red", "red", "blue"]])
def test_too_few_or_repeated_class_names(small, labels):
    write_official(small, 6, 6, labels=labels)
    assert "at least two classes, all different" in error_of(small)


# The unpickler --------------------------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tarball"])
def test_a_pickled_call_is_refused(small, tmp_path, name, packed):
    marker = tmp_path / "marker"
    edit(small, name, data=Calls(os.system, f"touch {marker}"))
    message = error_of(write_tar(small, tmp_path / "evil.tar.gz") if packed else small)
    assert f"{name} cannot be unpickled safely" in message and "only arrays, lists and dicts are read" in message
    assert not marker.exists()
    pickle.loads((small / name).read_bytes())
    assert marker.exists()  # the call was there to be refused


@pytest.mark.parametrize("function", [eval, os.system, Path.touch, np.save, np.load, getattr])
def test_only_array_builders_are_allowed(small, function):
    edit(small, "train", data=Calls(function, "1"))
    assert "cannot be unpickled safely" in error_of(small)


def test_forged_dtype_is_refused(tmp_path):
    """NumPy's own `dtype.__setstate__` would take these eight bytes for a pointer to a Python object, and crash."""

    class Forged:
        def __reduce__(self):
            return np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0)

    class Pointer:
        def __reduce__(self):
            return np.ndarray, ((1,), Forged(), b"AAAAAAAA")

    folder = write_official(tmp_path / "cifar-100-python")
    record = {b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [Pointer()]}
    (folder / "train").write_bytes(pickle.dumps(record, protocol=2))
    with pytest.raises(UserError, match="train cannot be unpickled safely: .*'V8'"):
        load(folder)


def test_dtype_state_is_not_trusted(tmp_path):
    """A plain dtype whose forged state claims fields and objects stays a plain dtype."""

    class Forged:
        def __reduce__(self):
            return np.dtype, ("u1", False, True), (3, "|", None, ("a",), {"a": (np.dtype("u1"), 0)}, 8, 8, 63)

    class Array:
        def __reduce__(self):
            return Calls(np.ndarray, (0,), "b").call + ((1, (1, 3072), Forged(), False, bytes(3072)),)

    folder = write_official(tmp_path / "cifar-100-python", 1, 1)
    edit(folder, "train", data=Array())
    assert load(folder).train.x.dtype == np.uint8


def shared_tuples(levels):
    value = ()
    for _ in range(levels):
        value = (value, value)
    return value


def shared_lists(levels):
    value = [0]
    for _ in range(levels):
        value = [value, value]
    return value


BUFFER = b"\x80\x05cnumpy._core.numeric\n_frombuffer\n(\x8a\x05" + (2**33).to_bytes(5, "little")
BUFFER += b"cnumpy\ndtype\n(X\x02\0\0\0u1tRK\x01\x85X\x01\0\0\0CtR."


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04B\xff\xff\xff\x7f.",  # 2 GiB of bytes that are not there
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x02]r\xff\xff\xff\x7f.",  # object number 2,147,483,647
        b"\x80\x02N2\x86.",
        BUFFER,  # bytes(2**33)
        pickle.dumps({b"data": np.dtype("u1"), b"x": shared_lists(60)}).replace(b"u1", b"V1"),
        b"\x80\x02}" + pickle.dumps(shared_tuples(60), 2)[2:-1] + b"K\x01s.",  # a key that takes 2**60 steps to hash
    ],
    ids=["bytes", "bytes8", "memo", "dup", "buffer", "dtype", "shared tuples"],
)
def test_small_pickle_cannot_ask_for_gigabytes_or_hours(small, content):
    (small / "train").write_bytes(content)
    tracemalloc.start()
    try:
        assert "train cannot be unpickled safely" in error_of(small) and tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("key", ["fine_labels", "data"])
def test_lists_that_share_lists_are_refused_at_once(small, key):
    edit(small, "train", **{key: shared_lists(60)})
    assert key in error_of(small)


def test_pickle_of_too_many_steps_is_refused(small, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_STEPS", 5)
    assert "not the pickle of a data set" in error_of(small)


def test_array_of_objects_is_refused(small):
    edit(small, "train", data=np.full((6, 3072), None))
    assert "only numbers are read" in error_of(small)


# The download ---------------------------------------------------------------------------------------------------------


def test_download_is_checked_by_its_sha_256(official, tmp_path, monkeypatch, capsys):
    import keras

    calls = []

    def get_file(*args, **kwargs):
        calls.append((args, kwargs))
        print("Downloading data from", args[1])
        return str(write_tar(official, tmp_path / args[0]))

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    assert_is_official(load(None))
    assert calls == [(("cifar-100-python.tar.gz", cifar.URL), {"file_hash": cifar.SHA256})]
    assert cifar.URL == "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    assert cifar.SHA256 == "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    assert capsys.readouterr().out == ""


def test_download_with_another_checksum_is_refused(official, tmp_path, monkeypatch):
    path = write_tar(official, tmp_path / "other.tar.gz")
    # Not KERAS_HOME, which was read when Keras was imported: the file would replace one in the user's cache.
    (tmp_path / "keras").mkdir()
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setattr(cifar, "URL", path.as_uri())
    with pytest.raises(UserError, match=r"^CIFAR-100 could not be downloaded \("):
        load(None)
    assert (tmp_path / "keras" / "datasets").is_dir()


def test_failed_download_is_one_line(monkeypatch):
    import keras

    def get_file(*args, **kwargs):
        raise Exception("URL fetch failure on https://example.org:\n None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(UserError) as caught:
        load(None)
    assert str(caught.value) == (
        "CIFAR-100 could not be downloaded (URL fetch failure on https://example.org: None -- [Errno -2] "
        "Name or service not known); give the path of a copy"
    )


def test_images_are_resized_for_a_model_of_another_size(official):
    dataset, small = load_dataset(official, tiny_config()), load_dataset(official, tiny_config(image_size=16))
    assert small.train.x.shape == (192, 16, 16, 3) and small.test.x.shape == (48, 16, 16, 3)
    np.testing.assert_array_equal(small.train.x[7], load_image(dataset.train.x[7], tiny_config(image_size=16)))
    np.testing.assert_array_equal(small.train.y, dataset.train.y)


@pytest.mark.parametrize(
    ("labels", "named"), [(("red", "green", "violet"), "blue"), (("green", "red", "blue"), "in another")]
)
def test_classes_of_a_model_must_be_those_of_the_data(labels, named, tmp_path):
    """CIFAR is read with the classes that it names, in its own order."""
    folder = write_official(tmp_path / "cifar")
    with pytest.raises(UserError, match=f"data {folder}: its classes are not those of the model .{named}"):
        load_dataset(str(folder), tiny_config(), labels=labels)
    assert load_dataset(str(folder), tiny_config(), labels=LABELS).labels == LABELS
