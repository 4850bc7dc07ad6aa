"""The data of the hold-out figures, made from the official archive."""

import pickle
import shutil
import sys
import tarfile

import numpy as np
import pytest
from conftest import ROOT, run_main, write_official

from eanet.data import load_dataset
from modeling_eanet import EANetConfig

sys.path.insert(0, str(ROOT / "benchmarks"))
import hold_out

NAMES = [f"{name}_{i:03d}.png".encode() for i in range(5) for name in ("b", "a", "c", "a")]  # each "a" is there twice


@pytest.fixture
def official(tmp_path, monkeypatch):
    """An archive of 20 images in the official layout, 15 of them to train on, and their order."""
    folder = write_official(tmp_path / hold_out.FOLDER, train=20, test=4)
    record = pickle.loads((folder / "train").read_bytes())
    record |= {b"filenames": NAMES, b"fine_labels": list(range(20)), b"coarse_labels": [i % 4 for i in range(20)]}
    (folder / "train").write_bytes(pickle.dumps(record, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"n%d" % i for i in range(20)]}, protocol=2))
    order = np.random.default_rng(1).permutation(20).astype(np.uint16)
    np.save(tmp_path / "hold_out.npy", order)
    monkeypatch.setattr(hold_out, "HERE", tmp_path)
    monkeypatch.setattr(hold_out, "TRAINING", 15)
    monkeypatch.chdir(tmp_path)
    by_name = sorted(range(20), key=lambda i: (NAMES[i], i))
    chosen = np.array([by_name[place] for place in order])
    images = record[b"data"].reshape(20, 3, 32, 32).transpose(0, 2, 3, 1)
    training = hold_out.Split(images[chosen[:15]], chosen[:15], "train")  # the label of an image is its number
    monkeypatch.setattr(hold_out, "CHECKSUM", training.checksum())
    return folder, images, chosen


def archive(folder, name="cifar-100-python.tar.gz"):
    with tarfile.open(name, "w:gz") as tar:
        tar.add(folder, hold_out.FOLDER)
    return name


def test_the_archive_has_the_images_in_their_order(official, tmp_path, capsys):
    folder, images, chosen = official
    assert run_main(hold_out, archive(folder)) == 0
    assert capsys.readouterr().out == "wrote cifar-100-dev.tar.gz: 15 images to train on, 5 held out\n"
    written = tmp_path / "cifar-100-dev.tar.gz"
    dataset = load_dataset(written, EANetConfig())
    for split, part in ((dataset.train, chosen[:15]), (dataset.test, chosen[15:])):
        np.testing.assert_array_equal(split.x, images[part])
        np.testing.assert_array_equal(split.y, part)
    assert dataset.labels == tuple(f"n{i}" for i in range(20))
    with tarfile.open(written) as tar:
        record = pickle.load(tar.extractfile(f"{hold_out.FOLDER}/test"), encoding="bytes")
    assert record[b"filenames"] == [NAMES[i] for i in chosen[15:]]
    assert record[b"coarse_labels"] == [i % 4 for i in chosen[15:]]
    content = written.read_bytes()
    assert run_main(hold_out, archive(folder)) == 0 and written.read_bytes() == content


def test_other_archives_are_refused(official, tmp_path, capsys):
    folder, *_ = official
    other = shutil.copytree(folder, tmp_path / "other")
    record = pickle.loads((other / "train").read_bytes())
    record[b"fine_labels"][3] = 4
    (other / "train").write_bytes(pickle.dumps(record, protocol=2))
    fewer = write_official(tmp_path / "fewer", train=12)
    (tmp_path / "text").write_text("text")
    for name, says in (
        ("nowhere", "no such file"),
        ("text", "must be the official cifar-100-python.tar.gz ("),
        (archive(fewer, "fewer.tar.gz"), "must be the official cifar-100-python.tar.gz ("),
        (archive(other, "other.tar.gz"), "its train images are not those of the official archive"),
    ):
        assert run_main(hold_out, name) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"hold_out.py: error: {name}: {says}") and err.count("\n") == 1
    assert not list(tmp_path.glob("*dev*"))


def test_the_order_names_every_image_once():
    order = np.load(hold_out.HERE / "hold_out.npy")
    assert order.dtype == np.uint16 and sorted(order) == list(range(50_000))
