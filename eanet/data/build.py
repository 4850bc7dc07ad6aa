"""From listed images to a data set in memory, with the checks that all sources share."""

from __future__ import annotations

import re

import numpy as np

from eanet.cli import UserError, printable
from eanet.data.decode import Sample, read_samples
from eanet.data.files import LeftOut
from eanet.data.folders import ORDER, Listing
from eanet.data.splits import Dataset, Split
from modeling_eanet import EANetConfig


def build_dataset(
    listing: Listing, where: str, name: str, config: EANetConfig, left_out: LeftOut, *, strict=False, labels=None, repo_id=""
) -> Dataset:
    """Read the listed images.

    Args:
        listing: samples by split; the samples may be an iterator.
        where: what to call the data set in messages.
        name: of the data set, for people.
        config: size and interpolation the images are resized with.
        left_out: what has been left out so far; gets the images that cannot be read.
        strict: refuse the data set if anything is left out.
        labels: classes of a model, in its order, if the data is to be measured with it; it may have fewer of them.
        repo_id: of the data set on the Hub.

    Returns:
        The data set.

    Raises:
        UserError: fewer than two classes, one without a readable image, an unknown class, or too many broken images.
    """
    lists = [samples for samples in listing.samples.values() if isinstance(samples, list)]
    if listing.labels is None and len(lists) == len(listing.samples):
        source = lists if labels else lists[:1]
        listing.labels = _sorted({sample.label for samples in source for sample in samples}, listing)
        for split, samples in listing.samples.items():
            if unknown := {sample.label for sample in samples} - set(listing.labels):
                first = printable(min(unknown))
                raise UserError(
                    f"{where}: class {first} of the {split} split is not among the classes of the training split"
                )
    if listing.labels is not None:
        check_labels(listing, where, labels)
    arrays = {split: read_samples(samples, config, left_out, split) for split, samples in listing.samples.items()}
    if listing.labels is None:
        if not any(found for _, found, _ in arrays.values()):
            left_out.check(where, strict)
        listing.labels = _sorted({label for _, found, _ in arrays.values() for label in found}, listing)
        check_labels(listing, where, labels)
    index = {label: i for i, label in enumerate(labels or listing.labels)}
    splits = {}
    for split, (x, found, names) in arrays.items():
        if found:
            note = "the validation split of the data" if split == "validation" else ""
            splits[split] = Split(x, np.array([index[label] for label in found], np.int64), split, note, names)
    check_classes(listing, set(arrays["train"][1]) if "train" in arrays else set(), where, left_out)
    left_out.check(where, strict)
    if not splits:
        raise UserError(f"{where}: no images in it that can be read")
    train, validation, test = (splits.get(split) for split in ORDER)
    return Dataset(repo_id, name, tuple(labels or listing.labels), train, test, validation, left_out.entries)


def resize_splits(dataset: Dataset, config: EANetConfig) -> Dataset:
    """Resize images that are read as arrays of another size, in place, and return the data set."""
    for split in (dataset.train, dataset.validation, dataset.test):
        if split is not None and split.x.shape[1] != config.image_size:
            samples = [Sample(str(i), image, label) for i, (image, label) in enumerate(zip(split.x, split.y, strict=True))]
            split.x, *_ = read_samples(samples, config, LeftOut(), split.name)
    return dataset


def _sorted(labels: set[str], listing: Listing) -> tuple[str, ...]:
    """Sort class names: folders by name, as they always were; labels that are all numbers by value, 10 after 9."""
    numbers = not listing.places and all(re.fullmatch(r"-?\d{1,15}", label) for label in labels)
    return tuple(sorted(labels, key=int if numbers else None))


def check_labels(listing: Listing, where: str, labels) -> None:
    """Raise UserError for fewer than two classes, or for one that is not in `labels`, the classes of a model."""
    found = listing.labels or ()
    if labels:
        if unknown := sorted(set(found) - set(labels)):
            raise UserError(f"{where}: class {printable(unknown[0])} is not among the {len(labels)} classes of the model")
    elif len(found) < 2:
        names = f" ({', '.join(map(printable, found))})" if found else ""
        raise UserError(f"{where}: {listing.source}has {len(found)} class(es){names}; at least two classes are needed")


def check_classes(listing: Listing, read: set[str], where: str, left_out: LeftOut) -> None:
    """Raise UserError if a class has no image among those that were read, whose classes are `read`."""
    if not listing.places or "train" not in listing.samples:
        return
    for label in sorted({sample.label for sample in listing.samples["train"]} - read):
        paths = {sample.path for sample in listing.samples["train"] if sample.label == label}
        first = next(entry for entry in left_out.entries if entry["path"] in paths)
        reason = f"{first['path']}: {first['reason']}"
        raise UserError(f"{where}/{listing.places[label]}: none of its {len(paths):,} images can be read; first {reason}")
