"""Evaluate the shipped model in detail: accuracy per superclass, confusions and calibration.

python benchmarks/evaluation.py --data cifar-100-dev.tar.gz
"""

from __future__ import annotations

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common
import numpy as np

from eanet.cli import run

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


def superclass_results(predicted: np.ndarray, y: np.ndarray, labels) -> tuple[list[dict], dict]:
    """Return the accuracies per superclass, best first, and the figures over all superclasses.

    Args:
        predicted: (n,) class indices.
        y: (n,) true class indices.
        labels: the 100 class names.
    """
    superclass = {name: i for i, names in enumerate(SUPERCLASSES.values()) for name in names.split()}
    superclass = np.array([superclass[label] for label in labels])
    counts = np.zeros((len(SUPERCLASSES), len(SUPERCLASSES)), int)
    np.add.at(counts, (superclass[y], superclass[predicted]), 1)
    rows = [
        {
            "superclass": name,
            "num_images": int(counts[i].sum()),
            "top1_accuracy": float((predicted == y)[superclass[y] == i].mean()),
            "superclass_accuracy": float(counts[i, i] / counts[i].sum()),
        }
        for i, name in enumerate(SUPERCLASSES)
    ]
    facts = {
        "superclass_accuracy": float(np.trace(counts) / counts.sum()),
        "superclass_confusion": {"names": list(SUPERCLASSES), "counts": counts.tolist()},
    }
    return sorted(rows, key=lambda row: -row["top1_accuracy"]), facts


def main(argv=None) -> None:
    """Parse the arguments, evaluate and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="PATH", help="CIFAR-100, as for train.py")
    args = parser.parse_args(argv)
    common.check_data(args.data)

    from eanet.predict import predict_probabilities
    from eanet.report import describe_predictions
    from eanet.saving import model_checksum
    from modeling_eanet import from_pretrained_keras

    model = from_pretrained_keras(common.ROOT)
    dataset = common.cifar100(args.data, model.config)
    split, labels = dataset.test, dataset.labels
    probabilities = predict_probabilities(model, split.x, 500)
    predicted = probabilities.argmax(axis=1)
    rows, superclasses = superclass_results(predicted, split.y, labels)
    found = describe_predictions(probabilities, split.y, labels)
    kept = "accuracy mean_confidence expected_calibration_error hardest easiest confusions bins calibration".split()
    common.report(
        "evaluation",
        rows,
        checksum=model_checksum(model),
        dataset=dataset.name,
        split=split.note or split.name,
        num_images=len(split),
        **{key: found[key] for key in kept},
        **superclasses,
    )


if __name__ == "__main__":
    sys.exit(run(main))
