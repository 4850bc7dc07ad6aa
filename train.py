"""Trains an EANet.

    python train.py                                     CIFAR-100, downloaded; the flagship preset; runs/small
    python train.py --data my_pictures --epochs 30      a folder with train/<class>/*.jpg, and test/ if there is one
    python train.py                                     the same command again goes on where the last one was stopped
    python train.py --evaluate-only --model . --data cifar-100-python.tar.gz
    python train.py --export runs/small                 add the SavedModel to a run trained without TensorFlow

The output folder then holds the EMA weights in two formats (see modeling_eanet.save_pretrained_keras), TensorBoard logs
under logs/, history.json, eval_results.json, settings.json and checkpoint.npz, which a resumed run goes on from.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import importlib
import itertools
import json
import logging
import os
import platform
import shlex
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np

from data import Batches, Dataset, load_dataset
from modeling_eanet import (
    CONFIG_FILE,
    PRESETS,
    EANetConfig,
    build_eanet,
    can_write_saved_model,
    dtype_policy,
    from_pretrained_keras,
    inference_copy,
    model_checksum,
    predict_probabilities,
    save_pretrained_keras,
    write_json,
)

# What makes two runs the same run. The rest of the options may change between a run and its resumption.
RECIPE = ("preset", "epochs", "batch_size", "seed", "validation_split", "learning_rate", "weight_decay")
RECIPE += ("warmup_epochs", "label_smoothing", "cutmix", "ema", "precision", "init_from", "set")
CHECKPOINT = "checkpoint.npz"
EVALUATION_BATCH = 500
NORM_BATCHES, LAST_NORM_BATCHES = 10, 100  # that the statistics of batch norms are measured on, each epoch and at the end


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name, type, default, help, **kwargs):
        parser.add_argument(name, type=type, default=default, help=f"{help} (default: {default})", **kwargs)

    parser.add_argument("--data", metavar="PATH", help="CIFAR-100 as a folder or tarball, or a folder of class folders; "
                        "without it CIFAR-100 is downloaded")  # fmt: skip
    parser.add_argument("--preset", metavar="NAME", help=f"architecture, one of {', '.join(PRESETS)} (default: small)")
    parser.add_argument("--set", type=_setting, action="append", metavar="FIELD=VALUE", help="another value for a field "
                        "of the architecture, as JSON: --set slots=[16,16] (see EANetConfig)")  # fmt: skip
    add("--epochs", _whole, 75, "passes over the training pictures", metavar="N")
    add("--batch-size", _whole, 128, "pictures a step", metavar="N")
    add("--seed", _seed, 0, "of weights, order, augmentation and validation split", metavar="N")
    add("--validation-split", _fraction, 0.02, "part of train held out to watch each epoch; 0 for none", metavar="F")
    add("--learning-rate", _positive, 5e-3, "peak, reached after the warm-up, then a cosine to 0", metavar="X")
    add("--weight-decay", _not_negative, 0.1, "AdamW's, on all but biases and norms", metavar="X")
    parser.add_argument("--warmup-epochs", type=_not_negative, metavar="X",
                        help="epochs of linear warm-up (default: 2, and at most a tenth of --epochs)")  # fmt: skip
    add("--label-smoothing", _fraction, 0.1, "of the training loss", metavar="X")
    add("--cutmix", _part, 0.5, "part of the pictures that get a piece of another; none in the last tenth of the epochs, at "
        "least one", metavar="X")  # fmt: skip
    parser.add_argument("--ema", type=_fraction, metavar="X", help="momentum of the moving average of the weights; that "
                        "average is shipped (default: 0.998, and less in a run of fewer than 10,000 steps)")  # fmt: skip
    add("--precision", str, "float32", "float32, or mixed_bfloat16 for processors with bfloat16 instructions",
        choices=("float32", "mixed_bfloat16"))  # fmt: skip
    parser.add_argument("--init-from", metavar="DIR_OR_REPO", help="begin with the weights, and the architecture, of this "
                        "model; a classifier for other classes begins anew")  # fmt: skip
    parser.add_argument("--output", metavar="DIR", help="run folder (default: runs/PRESET)")
    parser.add_argument("--resume", action="store_true", help="insist on an earlier run to go on with")
    parser.add_argument("--evaluate-only", action="store_true", help="print the results of --model as JSON")
    parser.add_argument("--model", metavar="DIR_OR_REPO", help="model folder or Hub repository, for --evaluate-only")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="split to evaluate (default: test)")
    parser.add_argument("--export", metavar="DIR", help="add the SavedModel to this run folder, and do nothing else")
    args = parser.parse_args(argv)
    args.set = dict(args.set) if args.set else None
    for name in (name for name in ("preset", "set") if getattr(args, name) and args.init_from):
        parser.error(f"--{name}: does not go with --init-from, which brings its architecture; leave one of them out")
    if not args.init_from:
        args.preset = args.preset or "small"
    if args.preset and args.preset not in PRESETS:
        parser.error(f"--preset {args.preset}: must be one of {', '.join(PRESETS)}")
    if args.warmup_epochs is None:
        args.warmup_epochs = min(2.0, args.epochs / 10)
    elif args.warmup_epochs >= args.epochs:
        parser.error(f"--warmup-epochs {args.warmup_epochs}: must be below --epochs {args.epochs}")
    if args.evaluate_only and not args.model:
        parser.error("--evaluate-only needs --model DIR_OR_REPO")
    args.output = Path(args.output) if args.output else _default_output(args)
    return args


def _default_output(args) -> Path:
    return Path("runs", args.preset or "tuned")


def _setting(text):
    name, _, value = text.partition("=")
    if name not in (field.name for field in dataclasses.fields(EANetConfig)) or name in ("id2label", "image_size"):
        raise argparse.ArgumentTypeError(f"{text!r} names no field of the architecture; give FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word


def _number(kind, test, what):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not test(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


_whole = _number(int, lambda v: v >= 1, "a whole number, at least 1")
_seed = _number(int, lambda v: 0 <= v < 2**32, "a whole number from 0 to 4294967295")
_fraction = _number(float, lambda v: 0 <= v < 1, "a number from 0 up to, but not including, 1")
_part = _number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
_positive = _number(float, lambda v: 0 < v < float("inf"), "a number above 0")
_not_negative = _number(float, lambda v: 0 <= v < float("inf"), "a number, at least 0")


# -------------------------------------------------------------------------------------------------------- training


def train(args) -> dict:
    """Trains, or goes on with, the run in `args.output`; returns what `eval_results.json` then holds.

    Raises:
        ValueError, OSError: bad data, an output folder of another run, a loss that is no number, a full disk. Checkpoint
            and artefacts saved before are untouched.
    """
    keep_freed_memory()
    settings, dataset, resuming = _settings_and_data(args)
    training, validation = dataset.carve_validation(args.validation_split, args.seed)

    import keras

    from training_form import training_form

    keras.utils.set_random_seed(args.seed)
    with dtype_policy(args.precision):
        model = build_eanet(EANetConfig.from_dict(settings["config"]))
    if args.init_from and not (args.output / CHECKPOINT).is_file():
        _begin_with(model, from_pretrained_keras(args.init_from))
    model = training_form(model)
    on_jax = keras.backend.backend() == "jax"
    batches = Batches(training, len(dataset.labels), args.batch_size, args.seed, on_jax)
    model.compile(
        optimizer=_optimizer(args, model, steps_per_epoch=len(batches)),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=args.label_smoothing),
        metrics=["accuracy"],
        jit_compile=model.jit_compile,
    )
    model.optimizer.build(model.trainable_variables)
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "settings.json", settings)

    checkpoint = Checkpoint(args.output / CHECKPOINT, model)
    history, elapsed = checkpoint.restore() if resuming else ({}, 0.0)
    start = len(history.get("loss", []))
    if start:
        print(f"going on after epoch {start} of {args.epochs}", file=sys.stderr)
    elif args.resume:
        raise ValueError(f"--resume: {args.output} holds no checkpoint yet; leave --resume out to begin")
    print(
        f"{model.count_params():,} parameters, {len(training):,} pictures, {args.epochs} epochs of {len(batches)} steps; "
        "the first step compiles the graph",
        file=sys.stderr,
        flush=True,
    )
    logs = EventLogs(args.output / "logs", history)
    for epoch in range(start, args.epochs):
        began = time.perf_counter()
        row = _train_epoch(model, batches, epoch, args)
        if validation:
            with _averaged(model):
                _measure_norms(model, batches, epoch, NORM_BATCHES)
                measures = evaluate(model, validation)
            row |= {"val_loss": measures["loss"], "val_accuracy": measures["accuracy"]}
        if not all(np.isfinite(value).all() for value in (*row.values(), *model.get_weights())):
            raise ValueError(
                f"training diverged in epoch {epoch + 1} (loss {row['loss']}); the checkpoint before it is kept. "
                f"Try a --learning-rate below {args.learning_rate}, with another --output"
            )
        row["time"] = time.time()
        elapsed += time.perf_counter() - began
        for key, value in row.items():
            history.setdefault(key, []).append(value)
        checkpoint.save(history, elapsed)
        logs.append(row, epoch)
        left = elapsed / (epoch + 1) * (args.epochs - epoch - 1)
        values = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in ("time", "learning_rate", "images_per_s"))
        print(f"epoch {epoch + 1}/{args.epochs}  {values}  {row['images_per_s']:.0f} images/s  {_clock(left)} left",
              file=sys.stderr, flush=True)  # fmt: skip

    with _averaged(model):
        shipped = inference_copy(model)  # in float32, so that its norms are measured in the precision they will run in
    _measure_norms(shipped, batches, args.epochs, LAST_NORM_BATCHES)
    save_pretrained_keras(shipped, args.output)
    write_json(args.output / "history.json", history)
    split = dataset.test or validation or training
    if split is not dataset.test:
        print(f"no test split: measured on {split.note or 'the pictures it was trained on'}", file=sys.stderr)
    results = _results(from_pretrained_keras(args.output), dataset, split)
    recorded = _recorded_training(args.output)
    results["training"] = (
        recorded
        if recorded and start == args.epochs
        else {
            "seed": args.seed,
            "epochs": args.epochs,
            "num_images": len(training),
            "data_crc32": settings["data_crc32"],
            "init_from": settings["recipe"]["init_from"],
            "begun_with": settings["begun_with"],
            "final_loss": history["loss"][-1],
            "wall_time_s": round(elapsed, 1),
            "hardware": _hardware(),
            "backend": " ".join(_backend()),
            "date": time.strftime("%Y-%m-%d"),
            "command": _command(args),
        }
    )
    results["training"]["recipe"] = settings["recipe"] | {"ema": _ema_momentum(args, args.epochs * len(batches))}
    write_json(args.output / "eval_results.json", results)
    if not can_write_saved_model():
        print(f"no TensorFlow here: `python train.py --export {args.output}` adds the SavedModel where it is installed",
              file=sys.stderr)  # fmt: skip
    return results


def _settings_and_data(args) -> tuple[dict, Dataset, bool]:
    """What settings.json holds of the run, or will; its data; and whether it is there to go on with.

    Raises:
        ValueError, OSError: as `train`; nothing is written yet, and but for a model on the Hub TensorFlow not imported.
    """
    recipe = {name: getattr(args, name) for name in RECIPE} | {"init_from": _place(args.init_from)}
    settings = _check_output(args, recipe)
    resuming = settings is not None
    if resuming:
        config = EANetConfig.from_dict(settings["config"])
    else:
        config = _config_of(args.init_from) if args.init_from else EANetConfig.preset(args.preset, **(args.set or {}))
    dataset = load_dataset(args.data, config)
    checksum = dataset.train.checksum()
    if not resuming:
        config = dataclasses.replace(config, id2label=dataset.labels)
        earlier = _recorded_training(Path(args.init_from)) if args.init_from else None
        settings = {"recipe": recipe, "dataset": dataset.name, "data_crc32": checksum}
        settings |= {"config": config.to_dict(), "begun_with": earlier}
    elif settings["data_crc32"] != checksum:
        raise ValueError(f"--output {args.output}: holds a run on other data than --data {args.data}; name another folder")
    _check_held_out(args, settings)
    return settings, dataset, resuming


def _train_epoch(model, batches, epoch, args) -> dict:
    """One pass, cut short where the loss is no number; returns loss, accuracy, learning rate and images/s."""
    from tqdm import tqdm

    _reseed(model, args.seed, epoch)
    sums, total = {"loss": 0.0, "accuracy": 0.0}, len(batches) * batches.batch_size
    began = time.perf_counter()
    # disable=None: a bar on a terminal, nothing in a log file, where each epoch has its line
    with tqdm(total=total, desc=f"epoch {epoch + 1}/{args.epochs}", unit=" images", disable=None, leave=False) as bar:
        # The last epochs see whole pictures, as a prediction will.
        cutmix = args.cutmix if epoch < args.epochs - max(1, args.epochs // 10) else 0.0
        for step, (x, y) in enumerate(batches.epoch(epoch, cutmix), 1):
            model.reset_metrics()  # Keras before 3.15 would go on with the batches before
            batch = model.train_on_batch(x, y, return_dict=True)
            sums = {k: v + float(batch[k]) for k, v in sums.items()}
            if not np.isfinite(sums["loss"]):
                break
            bar.update(len(x))
            bar.set_postfix({k: f"{v / step:.3f}" for k, v in sums.items()})
    row = {k: v / len(batches) for k, v in sums.items()}
    row["learning_rate"] = float(model.optimizer.learning_rate)
    row["images_per_s"] = total / (time.perf_counter() - began)
    return row


def _optimizer(args, model, steps_per_epoch):
    import keras

    steps, warmup = args.epochs * steps_per_epoch, round(args.warmup_epochs * steps_per_epoch)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else args.learning_rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=args.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    ema = dict(use_ema=True, ema_momentum=_ema_momentum(args, steps))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=args.weight_decay, **ema)
    # Decay pulls weights towards 0, which is no place for a norm's scale.
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


def _ema_momentum(args, steps: int) -> float:
    """The average begins with the first weights; in a short run it must forget them in a part of the run."""
    return min(0.998, max(0.0, 1 - 20 / steps)) if args.ema is None else args.ema


def keep_freed_memory() -> None:
    """Keeps glibc from giving freed tensors back to the kernel, which would clear their pages anew at every step.

    On two CPU cores that is a fifth to a third of the time of a step. mallopt's numbers are those of malloc.h.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            libc.mallopt(option, value)


def _begin_with(model, other) -> None:
    """Takes over the weights of `other`, layer by layer; the classifier only if it is for the same classes."""
    same = model.config.id2label == other.config.id2label
    for layer in model.layers:
        if same or layer.name != "classifier":
            layer.set_weights(other.get_layer(layer.name).get_weights())
    if not same:
        print(f"the classifier begins anew, for {model.config.num_classes} classes", file=sys.stderr)


def _reseed(model, seed, epoch) -> None:
    """Sets every dropout's generator from (seed, epoch), so that a resumed epoch draws what it would have drawn."""
    for i, variable in enumerate(v for v in model.variables if "seed_generator" in v.path):
        state = np.random.SeedSequence((seed, 3, epoch, i)).generate_state(2)
        variable.assign(np.array([state[0], 0], np.uint32))


@contextlib.contextmanager
def _averaged(model):
    """Inside, the model has the moving average of its weights; the statistics of its norms are still those of training."""
    raw = model.get_weights()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.set_weights(model.get_weights())  # copies: JAX donates its weights to a prediction, and the average with them
    try:
        yield
    finally:
        model.set_weights(raw)


def _measure_norms(model, batches, epoch, count) -> None:
    """Sets the statistics of every BatchNormalization to their mean over the first `count` batches of `epoch`."""
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    _reseed(model, batches.seed, epoch)  # dropout, if there is any, acts while norms are measured
    momenta = [norm.momentum for norm in norms]
    try:
        for done, (x, _) in enumerate(itertools.islice(batches.epoch(epoch), count)):
            for norm in norms:
                norm.momentum = done / (done + 1)  # makes the moving average a plain one
            model(x, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class Checkpoint:
    """All that a run is, in one file that is written to a temporary name and renamed: weights, optimizer, EMA, history."""

    def __init__(self, path: Path, model):
        self.path = path
        weights = [v for v in model.variables if "seed_generator" not in v.path]
        self.variables = weights + list(model.optimizer.variables)

    def save(self, history: dict, elapsed: float) -> None:
        import keras

        arrays = {f"{i:04d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self.variables)}
        arrays["meta"] = np.array(json.dumps({"history": history, "elapsed": elapsed}))
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self) -> tuple[dict, float]:
        """Puts the saved state into model and optimizer; returns the history and the seconds trained so far.

        Raises:
            ValueError: the file is damaged or of another model.
        """
        if not self.path.is_file():
            return {}, 0.0
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                meta = json.loads(str(arrays["meta"]))
                values = [arrays[f"{i:04d}"] for i in range(len(self.variables))]
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign(value)
        except Exception as error:  # zip, NumPy and Keras each have their own
            raise ValueError(f"{self.path}: cannot be resumed from ({error}); use a new --output") from None
        return meta["history"], meta["elapsed"]


class EventLogs:
    """TensorBoard events, logs/train and logs/validation, written by TensorBoard's own record writer, without TensorFlow.

    One file each, rewritten from the history when a run goes on: epochs after the last checkpoint leave no double points.
    The tags are those of `keras.callbacks.TensorBoard`.
    """

    def __init__(self, folder: Path, history: dict):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._record = Event, Summary, RecordWriter
        self.folder, self.started = folder, {}
        for epoch in range(len(history.get("loss", []))):
            self.append({key: values[epoch] for key, values in history.items()}, epoch)

    def append(self, row: dict, epoch: int) -> None:
        train = {k: v for k, v in row.items() if k != "time" and not k.startswith("val_")}
        self._write("train", train, epoch, row["time"])
        self._write("validation", {k[4:]: v for k, v in row.items() if k.startswith("val_")}, epoch, row["time"])

    def _write(self, run, scalars, epoch, wall_time) -> None:
        if not scalars:
            return
        path = self.folder / run / "events.out.tfevents.eanet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab" if run in self.started else "wb") as file:
            writer = self._record(file)
            if run not in self.started:
                writer.write(self._event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
                self.started[run] = True
            values = [self._summary.Value(tag=f"epoch_{k}", simple_value=v) for k, v in scalars.items()]
            event = self._event(wall_time=wall_time, step=epoch, summary=self._summary(value=values))
            writer.write(event.SerializeToString())
            writer.flush()


def _settings_of(output: Path) -> dict:
    """What settings.json holds of a run: recipe, CRC-32 of the data, configuration, and the run it began with."""
    try:
        settings = json.loads((output / "settings.json").read_text(encoding="utf-8"))
        EANetConfig.from_dict(settings["config"])
        dict(settings["recipe"]), int(settings["data_crc32"]), dict(settings["begun_with"] or {})
        return settings
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"--output {output}: its settings.json is damaged; name another folder") from None


def _check_output(args, recipe) -> dict | None:
    """The settings of this run if `args.output` holds it already. Raises ValueError when it holds something else."""
    output = args.output
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: is a file, not a folder")
    if not (output / "settings.json").is_file():
        if output.is_dir() and any(output.iterdir()):
            raise ValueError(f"--output {output}: is not empty and holds no run of train.py; name another folder")
        if args.resume:
            raise ValueError(f"--resume: {output} holds no run to go on with; leave --resume out to begin one")
        return None
    settings = _settings_of(output)
    for name, value in recipe.items():
        theirs = settings["recipe"].get(name)
        if theirs != value:
            option = "--" + name.replace("_", "-")
            raise ValueError(
                f"--output {output}: holds another run, with {option} {theirs} instead of {value}; "
                "name another folder, or give that run's options to go on with it"
            )
    return settings


def _check_held_out(args, settings) -> None:
    """Raises ValueError where pictures would be held out that the weights to begin with were trained on."""
    earlier = settings["begun_with"] or {}
    if args.validation_split == 0 or earlier.get("data_crc32") != settings["data_crc32"]:
        return
    seed, split = earlier.get("seed"), (earlier.get("recipe") or {}).get("validation_split")
    if (seed, split) != (args.seed, args.validation_split):
        raise ValueError(
            f"--seed {args.seed} --validation-split {args.validation_split}: holds out pictures that --init-from "
            f"{args.init_from} was trained on; give --seed {seed} --validation-split {split}, or --validation-split 0"
        )


# ------------------------------------------------------------------------------------------------------ evaluation


def evaluate(model, split) -> dict:
    """Top-1 and top-5 accuracy (fractions), cross-entropy in nats, and the number of pictures."""
    probabilities = predict_probabilities(model, split.x, min(EVALUATION_BATCH, len(split))).astype(np.float64)
    true = probabilities[np.arange(len(split)), split.y]
    # How many classes are at least as probable; a tie counts against the model.
    rank = (~(probabilities < true[:, None])).sum(axis=1)
    return {
        "accuracy": float((rank <= 1).mean()),
        "top5_accuracy": float((rank <= 5).mean()),
        "loss": float(-np.log(np.maximum(true, 1e-12)).mean()),
        "num_images": len(split),
    }


def _results(model, dataset, split) -> dict:
    import keras

    backend, version = _backend()
    versions = {"python": platform.python_version(), "keras": keras.__version__, "backend": backend, backend: version}
    measures = evaluate(model, split)
    if not np.isfinite(measures["loss"]):
        raise ValueError("the model gives probabilities that are no numbers; its weights are damaged")
    return {
        **measures,
        "dataset": {
            "id": dataset.id,
            "name": f"{dataset.name} ({split.note})" if split.note else dataset.name,
            "split": split.name,
            "note": split.note,
        },
        "model": {
            "preset": model.config.preset_name,
            "parameters": model.count_params(),
            "checksum": model_checksum(model),
        },
        "training": None,
        "versions": versions,
    }


def _recorded_training(folder: Path) -> dict | None:
    """How the model in `folder` was trained, if its eval_results.json tells."""
    try:
        training = json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))["training"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return training if isinstance(training, dict) else None


def evaluate_only(args) -> dict:
    """Measures `args.model` on `args.split` of `args.data`; "training" comes from the model's eval_results.json if any.

    Raises:
        ValueError, OSError: no such model, data or split, or data of other classes than the model's.
    """
    config = _config_of(args.model)
    dataset = load_dataset(args.data, config)
    split = getattr(dataset, args.split)
    if split is None:
        raise ValueError(f"--split {args.split}: --data {args.data} has no such split")
    if tuple(config.id2label.values()) != dataset.labels:
        other = sorted(set(config.label2id) ^ set(dataset.labels)) or ["in another order"]
        raise ValueError(
            f"--data {args.data}: its classes are not those of --model {args.model} ({other[0]}); it must have all "
            f"{config.num_classes} of them and no other"
        )
    results = _results(from_pretrained_keras(args.model), dataset, split)
    results["training"] = _recorded_training(Path(args.model))
    return results


def _config_of(name: str) -> EANetConfig:
    """A folder's configuration is read by itself, so that the data is checked before TensorFlow is imported."""
    folder = Path(name)
    return EANetConfig.from_json_file(folder / CONFIG_FILE) if folder.is_dir() else from_pretrained_keras(name).config


# ---------------------------------------------------------------------------------------------------- what and how


def _backend() -> tuple[str, str]:
    """What Keras runs on, and its version."""
    import keras

    name = keras.backend.backend()
    return name, importlib.import_module(name).__version__


def _hardware() -> str:
    """Processor or accelerator, as its driver names it, and the number of cores."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        if jax.devices()[0].platform != "cpu":
            return jax.devices()[0].device_kind
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} CPU cores"


def _command(args) -> str:
    """The command that makes this run, with the name of the data but not its place on this machine."""
    parts = ["python", "train.py"] + (["--data", _name(args.data)] if args.data else [])
    defaults = parse_args(["--epochs", str(args.epochs)])
    defaults.epochs = parse_args([]).epochs
    for name in RECIPE:
        if name == "set":
            parts += [part for field, value in (args.set or {}).items() for part in ("--set", f"{field}={_word(value)}")]
        elif getattr(args, name) not in (None, getattr(defaults, name)):
            value = _place(args.init_from) if name == "init_from" else str(getattr(args, name))
            parts += ["--" + name.replace("_", "-"), value]
    output = args.output.absolute()
    if output.is_relative_to(Path.cwd()) and output != _default_output(args).absolute():
        parts += ["--output", _place(args.output)]
    return shlex.join(parts)


def _word(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _name(path: str | None) -> str | None:
    """A file or folder without its place on this machine; anything else, a Hub repository say, as it is."""
    return Path(path).absolute().name if path and Path(path).exists() else path


def _place(path) -> str | None:
    """A folder below the one worked in, or a Hub repository, as it is given there; another folder without its place."""
    there = Path(path or "").absolute()
    place = there.relative_to(Path.cwd()).as_posix() if there.is_relative_to(Path.cwd()) else there.name
    return place if path else None


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def export(directory: Path) -> None:
    """Writes the SavedModel beside the Keras files of `directory`, from their weights.

    Raises:
        ValueError, OSError: no model in `directory`, a damaged one, or a full disk.
        ImportError: TensorFlow or tf_keras is missing, or Keras runs on another backend.
    """
    if not directory.is_dir():
        raise ValueError(f"--export {directory}: no such folder")
    model = from_pretrained_keras(directory)
    if not can_write_saved_model():
        raise ImportError("--export: needs TensorFlow, tf_keras, and KERAS_BACKEND=tensorflow")
    save_pretrained_keras(model, directory, saved_model=True)


def main(argv=None) -> int:
    args = parse_args(argv)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # tf_keras warns that what it saves is not compiled
    try:
        if args.export:
            export(Path(args.export))
        else:
            results = evaluate_only(args) if args.evaluate_only else train(args)
            print(json.dumps(results, indent=2))
    except (ValueError, OSError, ImportError) as error:
        print(f"train.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntrain.py: stopped; the same command goes on after the last whole epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
