"""The data of the hold-out figures, made from the official archive."""

import hashlib
import pickle
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
    """An archive of 20 images in the official layout, 15 of them to train on; the images, and their order."""
    folder = write_official(tmp_path / hold_out.FOLDER, train=20, test=4)
    record = pickle.loads((folder / "train").read_bytes())
    record |= {b"filenames": NAMES, b"fine_labels": list(range(20)), b"coarse_labels": [i % 4 for i in range(20)]}
    (folder / "train").write_bytes(pickle.dumps(record, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"n%d" % i for i in range(20)]}, protocol=2))
    archive = tmp_path / "official.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, hold_out.FOLDER)
    order = np.random.default_rng(1).permutation(20).astype(np.uint16)
    np.save(tmp_path / "order.npy", order)
    monkeypatch.setattr(hold_out, "ORDER", tmp_path / "order.npy")
    monkeypatch.setattr(hold_out, "TRAINING", 15)
    monkeypatch.setattr(hold_out, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    monkeypatch.chdir(tmp_path)
    by_name = sorted(range(20), key=lambda i: (NAMES[i], i))
    images = record[b"data"].reshape(20, 3, 32, 32).transpose(0, 2, 3, 1)
    return archive, images, np.array([by_name[place] for place in order])  # the label of an image is its number


@pytest.mark.parametrize("downloaded", [False, True])
def test_the_archive_has_the_images_in_their_order(downloaded, official, tmp_path, monkeypatch, capsys):
    archive, images, chosen = official
    monkeypatch.setattr(hold_out, "download_cifar100", lambda: str(archive))
    assert run_main(hold_out, *(() if downloaded else (archive,))) == 0
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
    assert run_main(hold_out, archive) == 2 and "cifar-100-dev.tar.gz: exists already; move it" in capsys.readouterr().err
    written.unlink()
    assert run_main(hold_out, archive) == 0 and written.read_bytes() == content


def test_other_archives_are_refused(official, tmp_path, capsys):
    archive, *_ = official
    (tmp_path / "other.tar.gz").write_bytes(archive.read_bytes()[:-1])
    for name, says in (
        ("nowhere", "cannot be read (No such file"),
        (".", "cannot be read (Is a directory)"),
        ("other.tar.gz", "is not the official archive (its SHA-256 is "),
    ):
        assert run_main(hold_out, name) == 2
        err = capsys.readouterr().err
        assert err.startswith("hold_out.py: error: ") and f"{name}: {says}" in err and err.count("\n") == 1
    (tmp_path / "order.npy").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert run_main(hold_out, archive) == 2 and "order.npy: a Git LFS pointer" in capsys.readouterr().err
    assert not list(tmp_path.glob("*dev*"))


def test_the_order_names_every_image_once():
    order = np.load(hold_out.ORDER)
    assert order.dtype == np.uint16 and sorted(order) == list(range(50_000))
