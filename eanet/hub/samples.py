"""Images of a person's own data on the Hub: only if they say so, a few, scaled to the model's input, without metadata."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import numpy as np

from eanet.cli import UserError
from eanet.hub.card_facts import file_label
from eanet.hub.tokens import check_no_token
from eanet.images import load_image
from eanet.loaded_model import load_config
from modeling_eanet import EANetConfig

KEPT = "test_samples"  # in a run's folder; does not go up unless asked for
COUNT = 6


def choose_samples(y: np.ndarray, count: int = COUNT, seed: int = 0) -> list[int]:
    """Choose images by chance, not by how well they are classified: of as many classes as possible.

    Args:
        y: (n,) class indices.
        count: number of images.
        seed: of the choice.

    Returns:
        Up to `count` indices, sorted by class.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    rank = np.zeros(len(y), int)  # first image of each class, second image of each class, ...
    seen: dict[int, int] = {}
    for i in order:
        rank[i] = seen[y[i]] = seen.get(y[i], -1) + 1
    shuffled_classes = rng.permutation(int(y.max()) + 1)
    chosen = sorted(range(len(y)), key=lambda i: (rank[i], shuffled_classes[y[i]]))[:count]
    return sorted(chosen, key=lambda i: (y[i], i))


def write_samples(folder: Path, split, labels) -> None:
    """Write a few images of a split as PNG files that are named by class; earlier ones are replaced.

    Args:
        folder: where to; `RUN/test_samples` for those that a run keeps.
        split: an `eanet.data.Split`.
        labels: class names.
    """
    from PIL import Image

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names: dict[str, int] = {}
    for i in choose_samples(split.y):
        stem = file_label(labels[split.y[i]])
        names[stem] = number = names.get(stem, 0) + 1
        Image.fromarray(np.asarray(split.x[i])).save(folder / f"{stem}_{number}.png")


def publish_samples(run: Path, folder: Path, data: str | Literal[True] = True) -> None:
    """Put sample images into a staging folder: those that the run kept, or images of its data.

    Args:
        run: folder of the run.
        folder: the staging folder, with the model.
        data: path or Hub id of the data set; True for the images that the run kept.

    Raises:
        UserError: the run kept none, or the data cannot be used.
    """
    target, config = folder / "samples", load_config(folder)
    shutil.rmtree(target, ignore_errors=True)
    if data is not True:
        from eanet.data import load_dataset

        labels = tuple(config.id2label.values())
        dataset = load_dataset(data, config, labels=labels, need_train=False)
        split = dataset.test or dataset.validation
        if split is None:
            raise UserError(
                f"{data}: has only training images; --publish-samples without DATA publishes test images of the run"
            )
        write_samples(target, split, labels)
        return
    if (run / KEPT).is_symlink():
        raise UserError(f"{run / KEPT}: is a link; name the data: --publish-samples DATA")
    kept = sorted(path for path in (run / KEPT).glob("*.png") if path.is_file() and not path.is_symlink())
    if not kept:
        raise UserError(f"{run}: keeps no test images to publish; name the data: --publish-samples DATA")
    target.mkdir()
    for path in kept[:COUNT]:
        check_no_token(path.name, f"the name {path}")
        _copy_scaled(path, target / path.name, config)


def _copy_scaled(path: Path, target: Path, config: EANetConfig) -> None:
    """Write an image as the model sees it: somebody may have put another one there than the run did."""
    from PIL import Image

    try:
        Image.fromarray(load_image(path, config)).save(target)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
