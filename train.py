"""Train an EANet.

    python train.py                                     CIFAR-100 (downloaded), the "small" preset, into runs/small
    python train.py --data my_images --epochs 30        class folders, a table of labels, an archive, a Hub data set ...
    python train.py --data my_images --inspect          what is read of it, and what is left out
    python train.py                                     again: resumes where the last one was stopped
    python train.py --teacher models/base               learn from another model of the same classes too
    KERAS_BACKEND=jax python train.py --distribute       on all devices; of several machines too, see examples/README.md
    python train.py --evaluate-only --model . --data cifar-100-python.tar.gz
    python train.py --export runs/small                 add the SavedModel to a run trained without TensorFlow

The run folder then holds the EMA weights in two formats (see eanet.save_pretrained_keras), TensorBoard logs in logs/,
history.json, eval_results.json, settings.json and checkpoint.npz. Progress goes to standard error, the result to standard
output. Exit status: 0, done; 1, another process of the run was lost; 2, bad arguments or data; 130, stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys

# In the Hub's cache this file is a link into blobs/; its own folder has the code.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from eanet.cli import check_backend, nonempty, prepare_tensorflow, run  # noqa: E402
from eanet.data.policy import POLICIES  # noqa: E402
from eanet.train_config import FREEZE, PRECISIONS, TrainConfig  # noqa: E402
from modeling_eanet import PRESETS, RESIZES, EANetConfig  # noqa: E402

MODES = {  # instead of training: the options that each accepts; --evaluate-only always prints JSON
    "evaluate_only": {"evaluate_only", "model", "split", "data", "image_column", "label_column", "strict", "json"},
    "export": {"export"},
}


def parse_args(argv=None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_data_options(parser)
    add = parser.add_argument
    add("--output", type=nonempty, metavar="DIR", help="run folder (default: runs/PRESET, or runs/tuned with --init-from)")
    add("--resume", action="store_true", help="fail unless there is a run to resume; without this, resume if there is one")
    add("--json", action="store_true", help="print the full result of a training run as JSON instead of a summary")

    model = parser.add_argument_group("model").add_argument
    model("--preset", metavar="NAME", help=f"architecture: {', '.join(PRESETS)} (default: small)")
    model("--set", type=_assignment, action="append", metavar="FIELD=VALUE", help="change a field of the architecture, for "
          "example --set slots=[16,16]; the fields are those of EANetConfig, the value is JSON")  # fmt: skip
    model("--init-from", metavar="DIR_OR_REPO", help="start from the weights and architecture of this model (fine-tune); "
          "the classifier starts new if the classes differ")  # fmt: skip

    model("--freeze", choices=FREEZE, help="what of the initial weights stays as it is (default: none)")
    model("--image-size", type=int, metavar="N", help="side of the square input in pixels (default: the architecture's)")
    model("--resize", choices=RESIZES, help="how an image becomes a square: squashed, its middle, or padded with black bars "
          "(default: the architecture's)")  # fmt: skip

    _add_recipe_options(parser)
    _add_distribution_options(parser)
    other = parser.add_argument_group("instead of training").add_argument
    other("--evaluate-only", action="store_true", help="measure --model on --data")
    other("--model", metavar="DIR_OR_REPO", help="model to evaluate: a folder or a Hub repo id")
    other("--split", choices=("train", "validation", "test"), help="split to evaluate on (default: test, or the only one)")
    other("--export", type=nonempty, metavar="DIR", help="add the SavedModel to this run folder")
    args = parser.parse_args(argv)
    if args.evaluate_only and not args.model:
        parser.error("--evaluate-only needs --model DIR_OR_REPO")
    _refuse_options_without_effect(args, parser)
    args.set = dict(args.set or ())
    return args


def _refuse_options_without_effect(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    mode = next((mode for mode in MODES if getattr(args, mode)), None)
    for name, value in vars(args).items():
        unused = name not in MODES[mode] if mode else name in ("model", "split")
        if unused and value != parser.get_default(name):
            reason = f"has no effect with {_flag(mode)}; leave it out" if mode else "needs --evaluate-only"
            parser.error(f"{_flag(name)} {reason}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    recipe = parser.add_argument_group("recipe", "options without a default here follow the number of images")

    def option(name, type, metavar, help):
        default = getattr(TrainConfig, name.replace("-", "_"))
        text = help if default is None else f"{help} (default: {default})"
        recipe.add_argument(f"--{name}", type=type, metavar=metavar, default=default, help=text)

    option("epochs", int, "N", "passes over the training images (75 from about 3,600 on; a quarter with --init-from under "
           "10,000 images)")  # fmt: skip
    option(
        "stop-after", int, "N", "write the model after N of the --epochs, and stop; without this, the same command resumes"
    )
    option("batch-size", int, "N", "images per step (128 from about 3,600 images on)")
    option("seed", int, "N", "seed of the weights, image order, augmentation and validation split")
    option("validation-split", float, "F", "fraction of the training images held out to validate each epoch; 0 for none")
    option("learning-rate", float, "X", "peak learning rate: linear warm-up, then a cosine to 0 (0.005; 0.001 with "
           "--init-from under 10,000 images)")  # fmt: skip
    option("weight-decay", float, "X", "weight decay of AdamW, for all but biases and norms")
    option("warmup-epochs", float, "X", "epochs of warm-up (default: 2, at most a tenth of --epochs)")
    option("label-smoothing", float, "X", "label smoothing of the training loss")
    option("cutmix", float, "F", "fraction of the images that get CutMix; none in the last tenth of the epochs")
    recipe.add_argument("--augment", choices=POLICIES, help="augmentation besides crops, flips and CutMix: trivial for "
                        "TrivialAugment (default: none)")  # fmt: skip
    option("ema", float, "X", "momentum of the moving average of the weights, which is saved; 0 saves the final weights "
           "(default: 0.998, less in runs under 10,000 steps)")  # fmt: skip
    recipe.add_argument("--precision", default="float32", choices=PRECISIONS, help="mixed_bfloat16 is faster on processors "
                        "and GPUs with bfloat16, mixed_float16 on older GPUs (default: float32)")  # fmt: skip

    recipe.add_argument("--class-weights", choices=["balanced"], help="make all classes count the same in the loss, "
                        "whatever their number of images")  # fmt: skip

    recipe.add_argument("--teacher", metavar="DIR_OR_REPO", help="distil this model: also learn from its probabilities for "
                        "each augmented image; it must have the same classes")  # fmt: skip
    option("distill", float, "W", "weight of the teacher in the loss; the labels have the rest (default: 0.9)")
    option("distill-temperature", float, "T", "temperature at which the two are compared (default: 1.5)")
    option("teacher-epochs", int, "N", "faster on CPUs: store the teacher's answers of the first N epochs (in RUN/teacher, "
           "2 bytes per image and class); later ones, but for the last tenth, repeat these images and answers (default: new "
           "images in all epochs)")  # fmt: skip


def _add_distribution_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several devices",
        "with KERAS_BACKEND=jax: the same global batch and the same results as on one. Several processes also need the next "
        "three, from here, KERAS_DISTRIBUTION_*, JAX_* (Kubeflow) or SLURM; process 0 writes the run folder",
    )
    add = group.add_argument
    add("--distribute", action="store_true", help="train on all devices of this process, or of all processes")
    add("--coordinator", metavar="HOST:PORT", help="address of process 0, at a free port")
    add("--processes", type=int, metavar="N", help="number of processes")
    add("--process-id", type=int, metavar="I", help="number of this process, from 0")
    add("--start-timeout", type=float, metavar="S", default=TrainConfig.start_timeout, help="seconds to wait for the other "
        f"processes (default: {TrainConfig.start_timeout:g})")  # fmt: skip


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="PATH_OR_REPO", help="class folders, a table of files and labels, CIFAR, an archive of these, "
        "Parquet files, or a data set on the Hub (default: download CIFAR-100)")  # fmt: skip
    add("--inspect", action="store_true", help="print what --data holds as one JSON object, and do nothing else")
    add("--image-column", metavar="NAME", help="column with the images, of a table or Hub data set (default: found by type)")
    add("--label-column", metavar="NAME", help="column with the classes (default: found by type)")
    add(
        "--dataset-name",
        metavar="NAME",
        help="what results call the data (default: the name of the folder or file)",
    )
    add("--strict", action="store_true", help="fail if any file of the data is left out")


def _assignment(text: str) -> tuple:
    """Split FIELD=VALUE; a value that is not JSON is a string."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def config_from_args(args: argparse.Namespace) -> TrainConfig:
    """Return the run's options. Raises UserError if they do not fit together."""
    return TrainConfig(**{field.name: getattr(args, field.name) for field in dataclasses.fields(TrainConfig)})


def main(argv=None) -> int:
    """Run the program and return its exit status."""
    args = parse_args(argv)
    if args.inspect:
        from eanet.data import inspect, load_dataset

        columns = dict(image_column=args.image_column, label_column=args.label_column)
        dataset = load_dataset(args.data, EANetConfig.preset("small"), **columns, strict=args.strict, need_train=False)
        print(json.dumps(inspect(dataset)))
        return 0
    prepare_tensorflow()
    check_backend()
    if args.export:
        from eanet.saving import add_saved_model

        add_saved_model(args.export)
        print(f"wrote the SavedModel in {args.export}")
        return 0
    if args.evaluate_only:
        from eanet.evaluation import evaluate_model, summary

        columns = dict(image_column=args.image_column, label_column=args.label_column)
        results = evaluate_model(args.model, args.data, args.split, **columns, strict=args.strict)
        print(summary(results), file=sys.stderr)
    else:
        from eanet.trainer import train, training_summary

        config = config_from_args(args)
        try:
            results = train(config)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command resumes after the last completed epoch") from None
        if results is None:  # process 0 reports
            return 0
        if not args.json:
            print(training_summary(results, config.output))
            return 0
    print(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
