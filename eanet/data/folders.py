"""Image folders: train/<class>/*.png and, if there is a test split, test/<class>/*.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eanet.cli import UserError
from eanet.data.splits import Dataset, Split
from modeling_eanet import EANetConfig


def load_image_folders(root, config: EANetConfig) -> Dataset:
    """Read a data set from class folders.

    Args:
        root: the folder that holds `train/` and perhaps `test/`; the classes are the folders in `train/`, sorted by name.
        config: size and interpolation the images are resized with.

    Returns:
        The data set, named like `root`.

    Raises:
        UserError: fewer than two classes, a class without images, an unknown class in `test/`, or a damaged image; the
            message begins with the path.
    """
    root = Path(root)
    labels = tuple(sorted(p.name for p in (root / "train").iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(labels) < 2:
        raise UserError(f"{root}: train/ has {len(labels)} class folder(s); at least two classes are needed")
    train = _read_split(root / "train", labels, config)
    test = _read_split(root / "test", labels, config) if (root / "test").is_dir() else None
    return Dataset("", root.resolve().name, labels, train, test)


def _read_split(folder: Path, labels: tuple[str, ...], config: EANetConfig) -> Split:
    from PIL import Image
    from tqdm import tqdm

    from eanet.images import load_image

    unknown = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in labels and p.name[0] != ".")
    if unknown:
        raise UserError(f"{folder}: class {unknown[0]} is not among the classes of train/")
    suffixes = Image.registered_extensions()
    files = [
        (file, index)
        for index, label in enumerate(labels)
        for file in sorted((folder / label).rglob("*"))
        if file.suffix.lower() in suffixes and file.is_file()
    ]
    empty = sorted(set(range(len(labels))) - {index for _, index in files}) if folder.name == "train" else []
    if empty or not files:
        raise UserError(f"{folder / (labels[empty[0]] if empty else '')}: no images in it; add some, or remove it")
    x = np.empty((len(files), config.image_size, config.image_size, 3), np.uint8)
    for i, (file, _) in enumerate(tqdm(files, f"reading {folder.name}", unit=" images", disable=None, leave=False)):
        try:
            x[i] = load_image(file, config)
        except (OSError, UserError) as error:
            raise UserError(f"{file}: {error}; replace or remove it") from None
    return Split(x, np.array([index for _, index in files], np.int64), folder.name)
