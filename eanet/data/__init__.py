"""Labelled images from disk as NumPy arrays; no TensorFlow. A new source is one more module and one more line here."""

from __future__ import annotations

from pathlib import Path

from eanet.cli import UserError
from eanet.data.augmentation import Batches
from eanet.data.cifar import FILES, download_cifar100, load_cifar_python
from eanet.data.folders import load_image_folders
from eanet.data.splits import Dataset, Split, split_validation
from modeling_eanet import EANetConfig

__all__ = ["Batches", "Dataset", "Split", "check_data_path", "load_dataset", "split_validation"]


def check_data_path(path) -> None:
    """Raise UserError if there is nothing at `path`; None, for a download, is fine."""
    if path is not None and not Path(path).exists():
        raise UserError(f"data {path}: no such file or folder; give none to download CIFAR-100")


def load_dataset(path, config: EANetConfig) -> Dataset:
    """Recognise and read a data set.

    Args:
        path: CIFAR-100's python layout, as a folder or a tarball; or a folder with `train/<class>/*.png` and perhaps
            `test/<class>/*.png`; None to download CIFAR-100.
        config: size and interpolation the images of class folders are resized with.

    Returns:
        The data set, in memory.

    Raises:
        UserError: no data set there, or a damaged one; the message names the path and what to do.
        OSError: it cannot be read.
    """
    check_data_path(path)
    root = Path(download_cifar100() if path is None else path)
    if (root / "cifar-100-python").is_dir():
        root = root / "cifar-100-python"
    if (root / "train").is_dir():
        return load_image_folders(root, config)
    if root.is_dir() and not any((root / name).is_file() for name in FILES):
        raise UserError(f"{root}: holds neither train/<class>/ folders nor the files train, test and meta of CIFAR-100")
    return load_cifar_python(root)
