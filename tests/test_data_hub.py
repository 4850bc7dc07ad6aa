"""Hub data sets through the `datasets` library: Parquet, clones, save_to_disk, and repo ids."""

import io
import sys
import zipfile

import numpy as np
import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import check_data_path, hub, inspect, load_dataset
from modeling_eanet import UserError

datasets = pytest.importorskip("datasets")
NAMES = ["green", "red"]


def png(seed):
    return encoded(noise(12, 12, seed), "PNG").read()


def rows(count, image="img", label="label"):
    return {image: [{"bytes": png(i), "path": None} for i in range(count)], label: [1 - i % 2 for i in range(count)]}


def features(image="img", label="label", **others):
    return datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=NAMES), **others})


def table(count=6, image="img", label="label"):
    return datasets.Dataset.from_dict(rows(count, image, label), features(image, label))


def load(path, **options):
    return load_dataset(path, tiny_config(), **options)


def sizes(dataset):
    found = inspect(dataset)
    return found["train"], found["validation"], found["test"], len(found["left_out"])


def error_of(path, **options):
    with pytest.raises(UserError) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path, count=6, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    table(count, **kwargs).to_parquet(path)
    return path


def test_clone_with_shards(tmp_path):
    for name, count in (("train-00000-of-00002", 6), ("train-00001-of-00002", 4), ("test-00000-of-00001", 3)):
        write(tmp_path / "data" / f"{name}.parquet", count)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    dataset = load(tmp_path)
    assert (dataset.labels, sizes(dataset)) == (("green", "red"), (10, None, 3, 0))
    assert dataset.train.y.tolist() == [1, 0] * 5 and dataset.name == tmp_path.name and dataset.id == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0000.parquet", (6, None, None, 0)),
        ("train.parquet", (6, None, None, 0)),
        ("train-00000-of-00001.parquet", (6, None, None, 0)),
        ("my.images.parquet", (6, None, None, 0)),
        ("default/train/0000.parquet", (6, None, None, 0)),
        ("test/0000.parquet", (None, None, 6, 0)),
    ],
)
def test_shard_tells_its_split(tmp_path, name, expected):
    write(tmp_path / "set" / name)
    assert sizes(load(tmp_path / "set", need_train=False)) == expected


def draw(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(seed))


@pytest.mark.parametrize("shard", ["data/train.parquet", "train.parquet"])
@pytest.mark.parametrize("images", [["banner.png"], ["assets/banner.png"], ["assets/banner.png", "assets/scheme.png"]])
def test_shards_next_to_images_without_labels(tmp_path, shard, images):
    draw(tmp_path, *images)
    write(tmp_path / shard)
    assert (load(tmp_path).labels, sizes(load(tmp_path))) == (("green", "red"), (6, None, None, 0))
    assert load(tmp_path, image_column="img", label_column="label").labels == ("green", "red")


def test_images_with_labels_next_to_shards(tmp_path):
    draw(tmp_path, *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)))
    write(tmp_path / "copy.parquet")
    for name in ("embeddings", "damaged"):
        write_columns(tmp_path / f"{name}.parquet", id=list(range(10)), label=[0, 1] * 5)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing else")
    assert (load(tmp_path).labels, sizes(load(tmp_path))) == (("cat", "dog"), (6, None, None, 3))
    (tmp_path / "damaged.parquet").unlink()
    draw(tmp_path, "more.png")  # as many images as rows, at least
    assert load(tmp_path).labels == ("cat", "dog")


def test_images_with_labels_next_to_more_in_shards(tmp_path):
    draw(tmp_path, *(f"assets/{theme}/{i}.png" for theme in ("dark", "light") for i in range(2)))
    write(tmp_path / "data" / "train.parquet")
    kinds = "4 image files with labels and Parquet files with 6 images"
    assert error_of(tmp_path) == f"{tmp_path}: holds {kinds}; give a folder with only one of the two"
    assert sizes(load(tmp_path / "data")) == (6, None, None, 0)


def test_shards_next_to_an_image_that_cannot_be_read(tmp_path):
    draw(tmp_path, "assets/banner.png")
    write(tmp_path / "data" / "train.parquet")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("assets/banner.png", "data/train.parquet"):
            archive.write(tmp_path / name, name)
    assert error_of(tmp_path / "set.zip").endswith("set.zip: Parquet files in an archive are not read; unpack it")
    (tmp_path / "set.zip").unlink()
    (tmp_path / "data" / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "run `git lfs pull`" in error_of(tmp_path)


def test_shard_alone(tmp_path):
    assert sizes(load(write(tmp_path / "train-00000-of-00001.parquet"))) == (6, None, None, 0)
    assert sizes(load(write(tmp_path / "no suffix"))) == (6, None, None, 0)


@pytest.mark.parametrize("image", ["image", "img", "photo", "pixels"])
@pytest.mark.parametrize("label", ["label", "fine_label", "animal"])
def test_columns_are_found_by_type(tmp_path, image, label):
    assert sizes(load(write(tmp_path / "a.parquet", image=image, label=label))) == (6, None, None, 0)


def test_fine_labels_are_preferred_and_others_can_be_named(tmp_path):
    content = rows(4, label="coarse_label") | {"fine_label": [0, 1, 0, 1]}
    kinds = features(label="coarse_label", fine_label=datasets.ClassLabel(names=["a", "b"]))
    datasets.Dataset.from_dict(content, kinds).to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path).labels == ("a", "b")
    assert load(tmp_path, label_column="coarse_label").labels == ("green", "red")
    assert "column colour: it has img, coarse_label, fine_label" in error_of(tmp_path, label_column="colour")


def test_several_columns_need_a_name(tmp_path):
    content = rows(4, label="shape") | {"colour": [0, 1, 0, 1]}
    kinds = features(label="shape", colour=datasets.ClassLabel(names=["a", "b"]))
    datasets.Dataset.from_dict(content, kinds).to_parquet(tmp_path / "a.parquet")
    assert error_of(tmp_path).endswith("several columns can be the label: shape, colour; name one as label_column")


def test_no_image_column(tmp_path):
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).to_parquet(tmp_path / "a.parquet")
    assert error_of(tmp_path).endswith("no column is the image; it has text, label; name one as image_column")


@pytest.mark.parametrize(
    ("values", "labels"),
    [(["b", "a", "b"], ("a", "b")), ([10, 9, 10], ("9", "10")), ([True, False, True], ("False", "True"))],
)
def test_labels_without_class_names(tmp_path, values, labels):
    pandas = pytest.importorskip("pandas")
    images = [{"bytes": png(i), "path": None} for i in range(3)]
    pandas.DataFrame({"image": images, "label": values}).to_parquet(tmp_path / "a.parquet")
    dataset = load(tmp_path)
    assert dataset.labels == labels and dataset.train.y.tolist() == [1, 0, 1]


def test_rows_that_cannot_be_read_are_listed(tmp_path):
    content = rows(40)
    content["img"][3]["bytes"] = b""
    content["img"][5]["bytes"] = content["img"][5]["bytes"][:150]
    content["img"][6] = None
    content["label"][7], content["label"][8] = None, -1
    datasets.Dataset.from_dict(content, features()).to_parquet(tmp_path / "train.parquet")
    dataset = load(tmp_path)
    reasons = {entry["path"]: entry["reason"] for entry in dataset.left_out}
    assert len(dataset.train) == 35 and reasons.pop("train[5]").startswith("damaged image")
    expected = {"train[3]": "empty file", "train[6]": "empty file", "train[7]": "no label", "train[8]": "no label"}
    assert reasons == expected


def test_unlabelled_test_split(tmp_path):
    write(tmp_path / "train.parquet")
    content = rows(3) | {"label": [-1, -1, -1]}
    datasets.Dataset.from_dict(content, features()).to_parquet(tmp_path / "test.parquet")
    assert sizes(load(tmp_path)) == (6, None, None, 3)


def test_save_to_disk(tmp_path):
    splits = {"train": table(6), "validation": table(4), "extra": table(2)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    dataset = load(tmp_path / "saved")
    assert sizes(dataset) == (6, 4, None, 1)
    assert dataset.left_out == [{"path": "extra", "reason": "a split that is not used"}]
    table(5).save_to_disk(tmp_path / "one")
    assert sizes(load(tmp_path / "one")) == (5, None, None, 0)


def test_same_images_as_from_a_folder(tmp_path):
    write(tmp_path / "a.parquet", 8)
    for i in range(8):
        folder = tmp_path / "folders" / NAMES[1 - i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(png(i))
    shard, folders = load(tmp_path / "a.parquet").train, load(tmp_path / "folders").train
    order = np.argsort(shard.y, kind="stable")
    np.testing.assert_array_equal(shard.x[order], folders.x)


@pytest.mark.parametrize("content", [b"PAR1 and nothing else", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_shard(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    assert "cannot be read" in error_of(tmp_path)


def test_lfs_pointer_instead_of_a_shard(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "run `git lfs pull`" in error_of(tmp_path)


def test_without_the_library(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert error_of(tmp_path) == "datasets is not installed; `pip install datasets` to read data sets in the Hub's formats"
    hint = "for a data set of this name on the Hub, `pip install datasets`"
    assert error_of("user/name") == f"data user/name: no such file or folder; {hint}"


# Repo ids -------------------------------------------------------------------------------------------------------------


def test_repo_id_is_streamed(tmp_path, monkeypatch, capsys):
    splits = {"train": write(tmp_path / "train.parquet"), "test": write(tmp_path / "test.parquet", 4)}
    original, calls = datasets.load_dataset, []

    def load_remote(name, **kwargs):
        calls.append((name, kwargs))
        return original("parquet", data_files={k: str(v) for k, v in splits.items()}, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", load_remote)
    dataset = load("user/colours")
    assert calls == [("user/colours", {"streaming": True})]
    assert (dataset.id, dataset.name, sizes(dataset)) == ("user/colours", "colours", (6, None, 4, 0))
    assert capsys.readouterr().out == ""


def test_repo_id_that_cannot_be_reached():
    assert error_of("user/no-such-set").startswith("user/no-such-set: no such file or folder, and the Hub cannot be reached")


def test_files_of_a_streamed_set_are_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.utils.file_utils.xopen", lambda path, mode: io.BytesIO(png(len(path))))
    source = hub.image_source({"bytes": None, "path": "hf://datasets/user/name/a.png"})
    assert source() == png(29)


def test_typo_in_a_local_path_is_not_looked_up(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert error_of("data/pest") == "data data/pest: no such file or folder"


@pytest.mark.parametrize(
    ("path", "fine"),
    [("user/name", True), ("a/b/c", False), ("name", False), ("../x", False), ("/a/b", False), ("a//b", False)],
)
def test_what_can_be_a_repo_id(path, fine):
    assert hub.is_repo_id(path) == fine
    if not fine:
        with pytest.raises(UserError, match="no such file or folder"):
            check_data_path(path)


# Other forms of Parquet and Arrow files --------------------------------------------------------------------------------


def write_columns(path, /, **columns):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_images_as_plain_bytes(tmp_path):
    path = write_columns(tmp_path / "train.parquet", image=[png(i) for i in range(6)], label=[i % 2 for i in range(6)])
    assert load(path).labels == load(tmp_path).labels == ("0", "1") and sizes(load(path)) == (6, None, None, 0)


def test_parquet_with_a_preview_and_an_archive_next_to_it(tmp_path):
    write_columns(tmp_path / "data" / "train.parquet", image=[png(i) for i in range(6)], label=[i % 2 for i in range(6)])
    (tmp_path / "preview.png").write_bytes(png(0))
    with zipfile.ZipFile(tmp_path / "extra.zip", "w") as archive:
        for name in ("cat/0.png", "dog/0.png"):
            archive.writestr(name, png(1))
    assert load(tmp_path).labels == ("0", "1") and sizes(load(tmp_path))[0] == 6


@pytest.mark.parametrize(("name", "column"), [("metadata.parquet", "file_name"), ("index.parquet", "path")])
def test_parquet_table_of_files(tmp_path, name, column):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    names, labels = [f"{i}.png" for i in range(6)], ["cat", "dog"] * 3
    path = write_columns(tmp_path / name, **{column: names, "label": labels})
    for place in (tmp_path, path):
        dataset = load(place)
        assert (dataset.labels, sizes(dataset), dataset.train.y.tolist()) == (("cat", "dog"), (6, None, None, 0), [0, 1] * 3)


def test_several_configurations(tmp_path):
    for name, split in (("large", "train"), ("large", "test"), ("small", "train")):
        write(tmp_path / name / split / "0000.parquet")
    assert error_of(tmp_path) == f"{tmp_path}: several configurations of a data set (large, small); give the folder of one"
    assert sizes(load(tmp_path / "large")) == (6, None, 6, 0)


def test_saved_set_in_a_folder_and_its_arrow_files_alone(tmp_path):
    datasets.DatasetDict({"train": table(6), "test": table(2)}).save_to_disk(str(tmp_path / "outer" / "saved"))
    assert sizes(load(tmp_path / "outer")) == (6, None, 2, 0)
    for split in ("train", "test"):
        (tmp_path / "arrow").mkdir(exist_ok=True)
        (arrow,) = (tmp_path / "outer" / "saved" / split).glob("*.arrow")
        arrow.rename(tmp_path / "arrow" / f"{split}.arrow")
    assert sizes(load(tmp_path / "arrow")) == (6, None, 2, 0)


def test_a_small_parquet_file_that_declares_much_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet, count = pytest.importorskip("pyarrow.parquet"), 150_000
    path = tmp_path / "train.parquet"
    parquet.write_table(arrow.table({"image": [png(0)] * count, "label": [0] * count}), path)
    assert path.stat().st_size < 100_000
    for data in (path, tmp_path):
        assert "train.parquet: declares 150,000 rows in " in error_of(data)


def test_addresses_are_downloaded_where_they_are_named(tmp_path, monkeypatch):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"url": [f"https://example.org/{i}.jpg" for i in range(6)], "label": ["a", "b"] * 3}
    parquet.write_table(arrow.table(columns), tmp_path / "train.parquet")
    assert "no column is the image; it has url, label; name one as image_column" in error_of(tmp_path)
    monkeypatch.setattr("datasets.utils.file_utils.xopen", lambda path, mode: io.BytesIO(png(int(path[-5]))))
    assert sizes(load(tmp_path, image_column="url")) == (6, None, None, 0)
    monkeypatch.setattr("datasets.utils.file_utils.xopen", lambda path, mode: open(path))
    message = "6 of 6 images cannot be read, more than a tenth; first train[0]: could not be downloaded ("
    assert message in error_of(tmp_path, image_column="url")


def test_a_damaged_parquet_file_prints_nothing_else(tmp_path, capfd):
    (tmp_path / "train.parquet").write_bytes(b"PAR1xxxxPAR1")
    assert "cannot be read as a data set" in error_of(tmp_path)
    assert capfd.readouterr() == ("", "")
