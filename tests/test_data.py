"""Reading data sets, splitting them and serving them in batches."""

import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import colour_pictures, tiny_config, write_official
from PIL import Image

import data
from data import CIFAR100_SHA256, CIFAR100_URL, Batches, Split, load_dataset
from modeling_eanet import CIFAR100_LABELS

COLOURS = ("red", "green", "blue")


def load(path, **changes):
    return load_dataset(None if path is None else str(path), tiny_config(**changes))


def write_tar(folder, path, mode="gz"):
    with tarfile.open(path, f"w:{mode}") as tar:
        tar.add(folder, "cifar-100-python")
    return path


def write_class_folders(root, train=5, test=None, size=32):
    """`train` pictures of each colour in train/<colour>/, and `test` in test/<colour>/; returns them by colour and split."""
    pictures = {}
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        if count is None:
            continue
        x, y = colour_pictures(30 * count, seed)
        for index, colour in enumerate(COLOURS):
            folder = root / split / colour
            folder.mkdir(parents=True)
            pictures[split, colour] = x[y == index][:count]
            for i, picture in enumerate(pictures[split, colour]):
                Image.fromarray(picture).resize((size, size)).save(folder / f"{i:03d}.png")
    return pictures


def edit(folder, name, **changes):
    """Rewrites entries of one pickled record of the official layout."""
    record = pickle.loads((folder / name).read_bytes())
    record.update({key.encode(): value for key, value in changes.items()})
    (folder / name).write_bytes(pickle.dumps(record, protocol=3))  # 2 has no empty bytes, so no empty array


def error_of(path):
    """The message of the one error that loading `path` must end in: a single line that names the path."""
    with pytest.raises(ValueError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--data {path}")
    return message


# -------------------------------------------------------------------------------------------- the official layout


def assert_is_official(dataset):
    assert dataset.labels == COLOURS
    for seed, (split, count) in enumerate(((dataset.train, 192), (dataset.test, 48))):
        x, y = colour_pictures(count, seed)
        assert split.x.dtype == np.uint8 and split.y.dtype == np.int64
        np.testing.assert_array_equal(split.x, x)
        np.testing.assert_array_equal(split.y, y)
    assert (dataset.train.name, dataset.test.name, dataset.test.note) == ("train", "test", "")


def test_reads_the_official_layout_from_its_folder(official):
    assert_is_official(load(official))


def test_reads_the_official_layout_from_the_folder_above(official):
    assert_is_official(load(official.parent))


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz", ""])
def test_reads_the_official_layout_from_a_tarball(official, tmp_path, mode):
    dataset = load(write_tar(official, tmp_path / "colours.tar.gz", mode))
    assert_is_official(dataset)
    assert dataset.name == "colours"


def test_the_folder_one_stands_in_gives_its_name(official, monkeypatch):
    monkeypatch.chdir(official)
    assert load(".").name == "cifar-100-python"


def test_a_tarball_is_read_without_extracting_anything(official, tmp_path, monkeypatch):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("train", "test", "meta"):
            tar.add(official / name, f"../../{name}")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert_is_official(load(path))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "evil.tar"]


def test_other_labels_are_neither_cifar_100_nor_on_the_hub(official):
    dataset = load(official)
    assert (dataset.id, dataset.name) == ("", "cifar-100-python")


@pytest.mark.parametrize(
    ("train", "test", "name", "note"),
    [
        (50_000, 10_000, "test", ""),
        (45_000, 5_000, "hold-out", "hold-out: 5,000 of the official train split, used for selection"),
        (40_000, 10_000, "hold-out", "hold-out: 10,000 pictures, a part of CIFAR-100"),
        (50_000, 9_999, "hold-out", "hold-out: 9,999 pictures, a part of CIFAR-100"),
        (300, 100, "hold-out", "hold-out: 100 pictures, a part of CIFAR-100"),
    ],
    ids=["whole", "of train", "most of train", "one missing", "few"],
)
def test_only_the_whole_of_cifar_100_has_a_split_called_test(tmp_path, train, test, name, note):
    meta = pickle.dumps({b"fine_label_names": [label.encode() for label in CIFAR100_LABELS]}, protocol=2)
    members = {"meta": meta}
    for split, count in (("train", train), ("test", test)):
        record = {b"data": np.zeros((count, 3072), np.uint8), b"fine_labels": [99] * count}
        members[split] = pickle.dumps(record, protocol=4)
    dataset = data._official(tmp_path, members)
    assert (dataset.id, dataset.name) == ("uoft-cs/cifar100", "CIFAR-100")
    assert (dataset.test.name, dataset.test.note) == (name, note)
    assert dataset.train.name == "train"


# -------------------------------------------------------------------------------------------------- class folders


def test_reads_class_folders_with_a_test_split(tmp_path):
    pictures = write_class_folders(tmp_path / "colours", train=5, test=2)
    dataset = load(tmp_path / "colours")
    assert (dataset.id, dataset.name, dataset.labels) == ("", "colours", ("blue", "green", "red"))
    for split, count in ((dataset.train, 5), (dataset.test, 2)):
        assert len(split) == 3 * count
        for index, colour in enumerate(dataset.labels):
            np.testing.assert_array_equal(split.x[split.y == index], pictures[split.name, colour])


def test_reads_class_folders_without_a_test_split(tmp_path):
    write_class_folders(tmp_path)
    dataset = load(tmp_path)
    assert len(dataset.train) == 15 and dataset.test is None


def test_a_test_split_may_lack_a_class(tmp_path):
    write_class_folders(tmp_path, train=2, test=2)
    shutil.rmtree(tmp_path / "test" / "green")
    assert load(tmp_path).test.y.tolist() == [0, 0, 2, 2]


def test_pictures_of_another_size_and_mode_are_resized(tmp_path):
    write_class_folders(tmp_path, size=48)
    Image.new("L", (20, 70), 128).save(tmp_path / "train" / "red" / "grey.jpg")
    dataset = load(tmp_path, image_size=16)
    assert dataset.train.x.shape == (16, 16, 16, 3)
    brightest = dataset.train.x[:15].mean(axis=(1, 2)).argmax(axis=1)
    np.testing.assert_array_equal(brightest, 2 - dataset.train.y[:15])  # blue, green, red by name; RGB by channel
    np.testing.assert_allclose(dataset.train.x[15], 128, atol=2)


def test_files_that_are_no_pictures_and_hidden_folders_are_passed_over(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "train" / "red" / "notes.txt").write_text("red")
    (tmp_path / "train" / ".cache").mkdir()
    dataset = load(tmp_path)
    assert dataset.labels == ("blue", "green", "red") and len(dataset.train) == 15


# ------------------------------------------------------------------------------------------------------ validation


def test_validation_is_carved_off_by_seed_without_overlap():
    n = 200  # the label of a picture is its index, and so is its first pixel
    x = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 8, 8, 3))
    dataset = data.Dataset("", "numbers", ("a", "b"), Split(x, np.arange(n), "train"), None)
    training, validation = dataset.carve_validation(0.25, seed=1)
    assert (len(training), len(validation)) == (150, 50)
    assert (training.name, validation.name) == ("train", "validation")
    assert validation.note == "50 pictures of the train split, held out by seed 1"
    assert sorted([*training.y, *validation.y]) == list(range(n))
    for split in (training, validation):
        np.testing.assert_array_equal(split.x[:, 0, 0, 0], split.y)

    _, again = dataset.carve_validation(0.25, seed=1)
    _, other = dataset.carve_validation(0.25, seed=2)
    np.testing.assert_array_equal(validation.y, again.y)
    assert set(validation.y) != set(other.y)


def test_a_validation_split_of_zero_leaves_the_training_split_whole(official):
    dataset = load(official)
    assert dataset.carve_validation(0, seed=1) == (dataset.train, None)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_validation_split_that_empties_one_side_is_an_error(official, fraction):
    with pytest.raises(ValueError, match=rf"^--validation-split {fraction}: .* 192; name another part, or 0"):
        load(official).carve_validation(fraction, seed=0)


def test_the_checksum_tells_pictures_labels_and_order_apart():
    x, y = colour_pictures(10)
    split = Split(x, y, "train")
    assert split.checksum() == Split(x.copy(), y.copy(), "other name").checksum()
    changed = x.copy()
    changed[3, 2, 1, 0] ^= 1
    for other in (Split(changed, y, "train"), Split(x, (y + 1) % 3, "train"), Split(x[::-1], y[::-1], "train")):
        assert other.checksum() != split.checksum()


# --------------------------------------------------------------------------------------------------------- batches


def numbered(count, size=32):
    """Pictures of noise, each a class of its own: the target of a batch tells which picture it is."""
    x = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Split(x, np.arange(count), "train")


def epoch_of(batches, epoch):
    """One epoch as arrays (pictures, indices)."""
    x, y = zip(*batches.epoch(epoch), strict=True)
    return np.concatenate(x), np.concatenate(y).argmax(axis=1)


def test_batches_have_their_shapes_types_and_number():
    batches = Batches(numbered(50), 50, 16, seed=0)
    got = list(batches.epoch(0))
    assert len(got) == len(batches) == 3
    for x, y in got:
        assert x.shape == (16, 32, 32, 3) and x.dtype == np.uint8
        assert y.shape == (16, 50) and y.dtype == np.float32
        np.testing.assert_array_equal(y.sum(axis=1), 1)


def test_every_picture_comes_at_most_once_an_epoch():
    split = numbered(50)
    batches = Batches(split, 50, 16, seed=0)
    for epoch in range(3):
        _, index = epoch_of(batches, epoch)
        assert len(index) == len(set(index)) == 48
    _, index = epoch_of(Batches(split, 50, 10, seed=0), 0)
    assert sorted(index) == list(range(50))


def test_a_batch_is_never_larger_than_the_split():
    x, index = epoch_of(Batches(numbered(5), 5, 128, seed=0), 0)
    assert len(x) == 5 and sorted(index) == list(range(5))


def test_order_and_augmentation_follow_from_seed_and_epoch_alone():
    split = numbered(40)
    batches = Batches(split, 40, 8, seed=7)
    for epoch in range(3):
        last = epoch_of(batches, epoch)
    np.random.seed(99)
    for got, expected in zip(epoch_of(Batches(split, 40, 8, seed=7), 2), last, strict=True):
        np.testing.assert_array_equal(got, expected)

    def differ(other):
        x, index = other
        # In the order of the pictures, so that a mere shuffling of the same crops would be found out.
        same_crops = np.array_equal(x[index.argsort()], last[0][last[1].argsort()])
        return not np.array_equal(index, last[1]) and not same_crops

    assert differ(epoch_of(batches, 1))
    assert differ(epoch_of(Batches(split, 40, 8, seed=8), 2))


def test_every_picture_is_a_crop_of_its_reflection_and_half_are_flipped():
    size, margin, count = 32, 4, 600
    split = numbered(count, size)
    x, index = epoch_of(Batches(split, count, 100, seed=0), 0)

    def mirrored(i):
        return size - 1 - np.abs(size - 1 - np.abs(i))

    seen = []
    for picture, source in zip(x, split.x[index], strict=True):
        found = []
        for top in range(-margin, margin + 1):
            for left in range(-margin, margin + 1):
                rows, columns = mirrored(np.arange(top, top + size)), mirrored(np.arange(left, left + size))
                for flip, order in ((False, columns), (True, columns[::-1])):
                    if picture[0, 0, 0] != source[rows[0], order[0], 0]:
                        continue
                    if np.array_equal(picture, source[rows[:, None], order]):
                        found.append((top, left, flip))
        assert len(found) == 1
        seen += found
    tops, lefts, flips = map(np.array, zip(*seen, strict=True))
    assert len({(top, left) for top, left, _ in seen}) == 81
    assert 0.4 < flips.mean() < 0.6
    for offsets in (tops, lefts):  # all alike, and independent of the flip
        assert np.bincount(offsets + margin, minlength=9).min() > 30
        assert abs(np.corrcoef(offsets, flips)[0, 1]) < 0.15
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.15


def test_cutmix_puts_a_box_of_the_neighbour_into_a_picture_and_mixes_the_labels_by_its_area():
    size, count = 32, 200
    colours = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)  # every picture of one colour, and no two alike
    batches = Batches(Split(np.tile(colours, (1, size, size, 3)), np.arange(count), "train"), count, count, seed=0)
    ((_, plain),), ((x, y),) = batches.epoch(0), batches.epoch(0, cutmix=0.75)
    own = plain.argmax(axis=1)
    taken, boxes = [], set()
    for i in range(count):
        box = x[i, :, :, 0] != own[i]
        assert (x[i][box] == own[i - 1]).all() and (x[i][~box] == own[i]).all()
        rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
        assert box.sum() == len(rows) * len(columns)  # full, and so one rectangle once its sides have no gap
        if len(rows):
            assert np.ptp(rows) == len(rows) - 1 and np.ptp(columns) == len(columns) - 1
            boxes.add((rows[0], rows[-1], columns[0], columns[-1]))
        expected = np.zeros(count)
        expected[own[i]], expected[own[i - 1]] = 1 - box.mean(), box.mean()
        np.testing.assert_allclose(y[i], expected, atol=1e-6)
        taken.append(box.mean())
    taken = np.array(taken)
    assert 0.6 < (taken > 0).mean() < 0.8  # three quarters, but for boxes that hold no pixel's centre
    assert len(boxes) > 0.9 * np.count_nonzero(taken)
    assert taken.max() > 0.5 and 0.2 < taken[taken > 0].mean() < 0.5


def test_cutmix_follows_from_seed_and_epoch_alone():
    first, second = (list(Batches(numbered(40), 40, 8, seed=7).epoch(2, cutmix=0.5)) for _ in range(2))
    for (x, y), (same_x, same_y) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_array_equal(y, same_y)


@pytest.mark.parametrize("cutmix", [0.0, 0.5])
def test_on_jax_the_batches_are_the_same_and_lie_on_its_device(cutmix):
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8), rng.integers(0, 5, 40), "train")
    plain, on_jax = (Batches(split, 5, 8, seed=7, on_jax=on_jax).epoch(2, cutmix) for on_jax in (False, True))
    for (x, y), (same_x, same_y) in zip(plain, on_jax, strict=True):
        assert isinstance(same_x, jax.Array) and isinstance(same_y, jax.Array)
        assert same_x.dtype == np.uint8 and same_y.dtype == np.float32
        np.testing.assert_array_equal(x, same_x)
        np.testing.assert_allclose(y, same_y, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- errors


def test_a_missing_path_is_an_error(tmp_path):
    assert "no such file or folder; without --data CIFAR-100 is downloaded" in error_of(tmp_path / "nowhere")


def test_an_empty_folder_is_an_error_that_says_what_would_do(tmp_path):
    assert "train/<class>/ folders nor the files train, test and meta" in error_of(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_tarball_is_an_error(official, tmp_path, keep):
    path = write_tar(official, tmp_path / "cut.tar.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert "cut short or damaged" in error_of(path) and error_of(path).endswith("fetch it again")


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_single_wrong_bit_in_a_compressed_tarball_is_an_error(official, tmp_path, mode):
    path = write_tar(official, tmp_path / "bit.tar", mode)
    whole = path.read_bytes()
    for position in np.linspace(0.1, 0.9, 9):  # most of them only change a pixel or a label
        damaged = bytearray(whole)
        damaged[int(len(whole) * position)] ^= 4
        path.write_bytes(damaged)
        assert "cut short or damaged" in error_of(path)


def test_a_file_that_is_no_tarball_is_an_error(tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    path.write_text("<html>404</html>\n")
    assert "no tarball" in error_of(path)


def test_a_member_too_large_to_be_pictures_is_an_error(official, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "LARGEST_MEMBER", 1000)
    assert "larger than 1000 bytes" in error_of(write_tar(official, tmp_path / "bomb.tar.gz"))


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["train", "test", "meta"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tarball"])
def test_a_pickle_that_calls_a_function_is_refused_and_nothing_is_called(tmp_path, name, packed):
    folder = write_official(tmp_path / "cifar-100-python", 6, 6)
    marker = tmp_path / "marker"
    edit(folder, name, data=Calls(os.system, f"touch {marker}"))
    path = write_tar(folder, tmp_path / "evil.tar.gz") if packed else folder
    message = error_of(path)
    assert f"{name} cannot be unpickled safely" in message and "only arrays, lists and dicts are read" in message
    assert not marker.exists()
    pickle.loads((folder / name).read_bytes())
    assert marker.exists()  # so the refusal above had something to refuse


@pytest.mark.parametrize("function", [eval, os.system, Path.touch, np.save, np.load, getattr])
def test_no_function_but_numpys_array_builder_is_called_from_a_pickle(tmp_path, function):
    folder = write_official(tmp_path / "data", 6, 6)
    edit(folder, "train", data=Calls(function, "1"))
    assert "cannot be unpickled safely" in error_of(folder)


def test_a_forged_dtype_gets_no_bytes_taken_for_pointers(tmp_path):
    """NumPy's own `dtype.__setstate__` would believe that these eight bytes are a Python object, and crash on them."""

    class Forged:
        def __reduce__(self):
            return np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0)

    class Pointer:
        def __reduce__(self):
            return np.ndarray, ((1,), Forged(), b"AAAAAAAA")

    folder = write_official(tmp_path / "cifar-100-python")
    record = {b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [Pointer()]}
    (folder / "train").write_bytes(pickle.dumps(record, protocol=2))
    with pytest.raises(ValueError, match="train cannot be unpickled safely: .*'V8'"):
        load_dataset(folder, tiny_config())


@pytest.mark.parametrize(("label", "named"), [(3, "label 3 is not in 0-2"), (-1, "label -1 is not in 0-2")])
def test_a_label_out_of_range_is_an_error(tmp_path, label, named):
    folder = write_official(tmp_path / "data", 6, 6)
    edit(folder, "train", fine_labels=[0, 1, 2, label, 1, 0])
    assert f"train: {named}" in error_of(folder)


@pytest.mark.parametrize("labels", [[0, 1], [0.5] * 6, ["red"] * 6, [[0], [1, 2], 3, 4, 5, 6], None, [[0]] * 6])
def test_labels_that_are_no_list_of_whole_numbers_are_an_error(tmp_path, labels):
    folder = write_official(tmp_path / "data", 6, 6)
    edit(folder, "test", fine_labels=labels)
    assert "test: fine_labels must be 6 whole numbers" in error_of(folder)


@pytest.mark.parametrize(
    "pictures",
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
def test_pictures_of_the_wrong_shape_or_type_are_an_error(tmp_path, pictures):
    folder = write_official(tmp_path / "data", 6, 6)
    edit(folder, "train", data=pictures)
    assert "train: data must be " in error_of(folder)


def test_an_array_of_python_objects_is_an_error(tmp_path):
    folder = write_official(tmp_path / "data", 6, 6)
    edit(folder, "train", data=np.full((6, 3072), None))
    assert "only numbers are read" in error_of(folder)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_missing_file_of_the_official_layout_is_an_error(tmp_path, name):
    folder = write_official(tmp_path / "data", 6, 6)
    (folder / name).unlink()
    message = f"the file {name} of CIFAR-100's python layout is missing"
    assert message in error_of(folder)
    assert message in error_of(write_tar(folder, tmp_path / "part.tar.gz"))


@pytest.mark.parametrize("name", ["train", "test", "meta"])
@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({"data": 1})],
    ids=["empty", "text", "list", "dict"],
)
def test_a_file_of_the_official_layout_that_holds_something_else_is_an_error(tmp_path, name, content):
    folder = write_official(tmp_path / "data", 6, 6)
    (folder / name).write_bytes(content)
    assert f": {name}" in error_of(folder)


@pytest.mark.parametrize("labels", [["red"], [], ["red", "red", "blue"]])
def test_class_names_that_are_too_few_or_twice_there_are_an_error(tmp_path, labels):
    folder = write_official(tmp_path / "data", 6, 6, labels=labels)
    assert "at least two classes, each once" in error_of(folder)


def test_a_single_class_folder_is_an_error(tmp_path):
    write_class_folders(tmp_path)
    for colour in ("red", "green"):
        shutil.rmtree(tmp_path / "train" / colour)
    assert "train/ has 1 class folder(s); at least two classes are needed" in error_of(tmp_path)


def test_a_class_folder_without_pictures_is_an_error_that_names_it(tmp_path):
    write_class_folders(tmp_path)
    for picture in (tmp_path / "train" / "green").iterdir():
        picture.unlink()
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"--data {tmp_path / 'train' / 'green'}: no pictures in it; add some, or remove it"


def test_a_test_folder_without_pictures_is_an_error(tmp_path):
    write_class_folders(tmp_path)
    (tmp_path / "test" / "red").mkdir(parents=True)
    with pytest.raises(ValueError, match="no pictures in it; add some, or remove it") as caught:
        load(tmp_path)
    assert str(tmp_path / "test") in str(caught.value)


def test_a_test_class_that_is_not_in_train_is_an_error(tmp_path):
    write_class_folders(tmp_path, train=1, test=1)
    (tmp_path / "test" / "yellow").mkdir()
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"--data {tmp_path / 'test'}: class yellow is not among the classes of train/"


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "cut short"])
def test_a_broken_picture_in_a_class_folder_is_an_error_that_names_it(tmp_path, content):
    write_class_folders(tmp_path)
    path = tmp_path / "train" / "blue" / "002.png"
    path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"--data {path}: ") and message.endswith("; replace or remove it")
    assert "\n" not in message


# -------------------------------------------------------------------------------------------- the default download


def test_without_a_path_cifar_100_is_downloaded_and_checked_by_its_sha_256(official, tmp_path, monkeypatch, capsys):
    import keras

    calls = []

    def get_file(*args, **kwargs):
        calls.append((args, kwargs))
        print("Downloading data from", args[1])
        return str(write_tar(official, tmp_path / args[0]))

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    assert_is_official(load(None))
    assert calls == [(("cifar-100-python.tar.gz", CIFAR100_URL), {"file_hash": CIFAR100_SHA256})]
    assert CIFAR100_URL == "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    assert CIFAR100_SHA256 == "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    assert capsys.readouterr().out == ""


def test_a_download_with_another_checksum_is_refused(official, tmp_path, monkeypatch):
    path = write_tar(official, tmp_path / "other.tar.gz")
    # Not KERAS_HOME, which was read when Keras was imported: the download would take a place in the user's own cache.
    (tmp_path / "keras").mkdir()
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setattr(data, "CIFAR100_URL", path.as_uri())
    with pytest.raises(ValueError) as caught:
        load(None)
    assert str(caught.value).startswith("CIFAR-100 could not be downloaded (")
    assert (tmp_path / "keras" / "datasets").is_dir()


def test_a_download_that_fails_is_one_clear_line(monkeypatch):
    import keras

    def get_file(*args, **kwargs):
        raise Exception("URL fetch failure on https://example.org:\n None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(ValueError) as caught:
        load(None)
    assert str(caught.value) == (
        "CIFAR-100 could not be downloaded (URL fetch failure on https://example.org: None -- [Errno -2] "
        "Name or service not known); name a copy with --data"
    )
