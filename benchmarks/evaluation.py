"""What the shipped model gets right and wrong: accuracy per superclass, confusions, calibration.

python benchmarks/evaluation.py --data cifar-100-dev.tar.gz
"""

from __future__ import annotations

import argparse

import common
import numpy as np

# The 20 superclasses of https://www.cs.toronto.edu/~kriz/cifar.html
SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}
BINS = 15


def calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[float, list[dict]]:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599), over bins of the first answer's probability.

    Args:
        confidence: (n,) probabilities of the first answers, 0 to 1.
        right: (n,) whether they are right.

    Returns:
        The error, 0 to 1, and per bin that is not empty its bounds, count, mean confidence and accuracy.
    """
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for i in range(BINS):
        there = index == i
        if there.any():
            mean, accuracy = float(confidence[there].mean()), float(right[there].mean())
            error += there.mean() * abs(mean - accuracy)
            bins.append({"from": i / BINS, "to": (i + 1) / BINS, "count": int(there.sum()), "confidence": mean,
                         "accuracy": accuracy})  # fmt: skip
    return float(error), bins


def confusions(predicted: np.ndarray, y: np.ndarray, labels, count: int) -> list[dict]:
    """The `count` pairs of classes, whichever of the two was the true one, that are taken for each other most often."""
    table = np.zeros((len(labels), len(labels)), int)
    np.add.at(table, (y, predicted), 1)
    pairs = np.triu(table + table.T, 1)
    best = np.argsort(-pairs, axis=None, kind="stable")[:count]
    return [
        {"classes": [labels[i], labels[j]], "count": int(pairs[i, j]), "of": int(table[i].sum() + table[j].sum())}
        for i, j in zip(*np.unravel_index(best, pairs.shape), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-100, as for train.py")
    args = parser.parse_args()

    from modeling_eanet import from_pretrained_keras, model_checksum, predict_probabilities

    model = from_pretrained_keras(common.HERE.parent)
    dataset = common.cifar100(args.data, model.config)
    split, labels = dataset.test, dataset.labels
    probabilities = predict_probabilities(model, split.x, 500)
    predicted, right = probabilities.argmax(axis=1), probabilities.argmax(axis=1) == split.y
    above = {name: i for i, names in enumerate(SUPERCLASSES.values()) for name in names.split()}
    above = np.array([above[label] for label in labels])
    confusion = np.zeros((len(SUPERCLASSES), len(SUPERCLASSES)), int)
    np.add.at(confusion, (above[split.y], above[predicted]), 1)
    rows = []
    for i, name in enumerate(SUPERCLASSES):
        there = above[split.y] == i
        rows.append([name, int(there.sum()), float(right[there].mean()), float(confusion[i, i] / there.sum())])
    rows.sort(key=lambda row: -row[2])
    per_class = sorted((float(right[split.y == i].mean()), label) for i, label in enumerate(labels))
    error, bins = calibration(probabilities.max(axis=1), right)
    details = {
        "hardest": [{"class": label, "accuracy": accuracy} for accuracy, label in per_class[:5]],
        "easiest": [{"class": label, "accuracy": accuracy} for accuracy, label in per_class[:-6:-1]],
        "confusions": confusions(predicted, split.y, labels, 8),
        "bins": BINS,
        "calibration": bins,
        "superclass_confusion": {"names": list(SUPERCLASSES), "counts": confusion.tolist()},
    }
    common.report(
        "evaluation",
        ["superclass", "pictures", "top-1 accuracy", "some class of the right superclass"],
        rows,
        details,
        checksum=model_checksum(model),
        dataset=dataset.name,
        split=split.note or split.name,
        num_images=len(split),
        accuracy=float(right.mean()),
        superclass_accuracy=float((above[predicted] == above[split.y]).mean()),
        mean_confidence=float(probabilities.max(axis=1).mean()),
        expected_calibration_error=error,
    )


if __name__ == "__main__":
    common.run(main)
