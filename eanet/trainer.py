"""The training loop: AdamW with a cosine schedule, CutMix, and an exponential moving average (EMA) of the weights."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from eanet.cli import UserError, duration, write_json
from eanet.data import Batches, balanced_class_weights, describe
from eanet.distillation import (
    StoredOutputs,
    distillation_loss,
    label_accuracy,
    load_teacher,
    pack_targets,
    remove_stored_outputs,
)
from eanet.distributed import Processes, joined
from eanet.evaluation import evaluate, evaluation_results, fitted_temperature, predict_split, summary
from eanet.hub.samples import KEPT, write_samples
from eanet.machine import keep_freed_memory, repeat_gpu_results
from eanet.report import REPORT_MD, describe_predictions, write_report
from eanet.run_dir import (
    CHECKPOINT_FILE,
    HISTORY_FILE,
    LEFT_OUT_FILE,
    RESULTS_FILE,
    SETTINGS_FILE,
    TEACHER_FOLDER,
    Checkpoint,
    Run,
    TensorBoardLog,
    check_outside_data,
    compared_options,
    finished_results,
    parent_run,
    prepare_run,
    recorded_training,
    reproducing_command,
    split_run,
)
from eanet.run_lock import one_process
from eanet.saving import can_write_saved_model, dtype_policy, inference_copy, load_source, save_pretrained_keras
from eanet.train_config import TrainConfig, cutmix_epochs, default_ema, source_epoch
from modeling_eanet import EANetConfig, build_eanet, from_pretrained_keras

# Batches over which batch norm statistics are recomputed, after each epoch and for the final weights.
EPOCH_NORM_BATCHES, FINAL_NORM_BATCHES = 10, 100
MIN_CALIBRATION = 200  # validation images
FEW = 50  # images: an accuracy of 80% on so many has a 95% interval of 22 points


def train(config: TrainConfig) -> dict | None:
    """Train a model, or resume a run, in `config.output`.

    Args:
        config: the options.

    Returns:
        The contents of eval_results.json; None in processes that train with another, which has written them.

    Raises:
        UserError: bad data, an output folder of another run or inside the data, or a loss that is not finite.
        OSError: the folder cannot be written. The checkpoint and earlier results stay as they were.
    """
    check_outside_data(config)
    repeat_gpu_results()
    with joined(config, compared_options(config)) as (config, processes):
        return _train(config, processes)


@one_process
def _train(config: TrainConfig, processes: Processes) -> dict | None:
    if results := processes.share(finished_results(config)):
        _log(f"output {config.output}: {_complete(results['training'], config.output)}")
        return results if processes.is_main else None
    keep_freed_memory()
    processes.mirror(config.output, (SETTINGS_FILE, CHECKPOINT_FILE))
    run = prepare_run(config, processes)
    config = run.config
    training, validation = split_run(run)
    model, batches = _build(run, training)
    if processes.is_main:
        config.output.mkdir(parents=True, exist_ok=True)
        write_json(config.output / SETTINGS_FILE, run.settings)
        if run.dataset.left_out:
            write_json(config.output / LEFT_OUT_FILE, run.dataset.left_out)
    if not run.resuming:
        _log(describe(run.dataset))

    checkpoint = Checkpoint(config.output / CHECKPOINT_FILE, model)
    history, elapsed = checkpoint.restore() if run.resuming else ({}, 0.0)
    start, end = len(history.get("loss", [])), config.stop_after or config.epochs
    if start > end:
        raise UserError(f"stop_after {end}: output {config.output} already holds {start} epochs of this run")
    _log_start(run, model, batches, validation, start)
    elapsed = _train_epochs(run, model, batches, validation, checkpoint, history, elapsed)

    if not processes.is_main:
        return None
    if config.teacher_epochs and end == config.epochs:
        remove_stored_outputs(config.output / TEACHER_FOLDER)
    with ema_weights(model, processes.twin) as averaged:
        final = inference_copy(averaged)  # in float32, so that its norms are recomputed in the precision they will run in
    if not config.freeze:
        recalibrate_batch_norm(final, batches, config.epochs, FINAL_NORM_BATCHES)
    temperature = calibrate(final, validation)
    save_pretrained_keras(final, config.output)
    write_json(config.output / HISTORY_FILE, history)
    split = run.dataset.test or validation or training
    if split is not run.dataset.test:
        more = "a test split" if run.dataset.validation else "a test split or a larger validation_split"
        few = f"; too few to tell much: {more} tells more" if len(split) < FEW else ""
        _log(f"no test split: measured on {split.note or 'the training images'}{few}")
    record = _training_record(run, len(training), history, elapsed, checkpoint.machines)
    if start == end and (written := recorded_training(config.output)) and written.get("epochs") == end:
        record = written  # only the model is written again
    if temperature is not None:
        record["temperature"] = temperature
    record["recipe"] = run.settings["recipe"] | {"ema": ema_momentum(config, config.epochs * len(batches))}
    if split is not training:
        write_samples(config.output / KEPT, split, run.dataset.labels)
    results = _write_results(run, split, record, history)
    if not can_write_saved_model():
        add = f"KERAS_BACKEND=tensorflow python train.py --export {config.output}"
        _log(f"no SavedModel: `{add}` adds it where TensorFlow and tf_keras are installed")
    return results


def compile_model(model, config: TrainConfig, steps_per_epoch: int) -> None:
    """Compile a model with the optimizer, schedule and loss of a run."""
    import keras

    loss = keras.losses.CategoricalCrossentropy(label_smoothing=config.label_smoothing)
    # The string "accuracy" would make its variables in the first trace, and TensorFlow would trace the step twice.
    accuracy = keras.metrics.CategoricalAccuracy("accuracy")
    if config.teacher:
        loss = distillation_loss(config.distill, config.distill_temperature, config.label_smoothing)
        accuracy = label_accuracy()
    optimizer = _optimizer(model, config, steps_per_epoch)
    model.compile(optimizer=optimizer, loss=loss, metrics=[accuracy], jit_compile=model.jit_compile)
    model.optimizer.build(model.trainable_variables)


def train_epoch(model, batches: Batches, epoch: int, config: TrainConfig, teacher=None, runner=None) -> dict:
    """Train for one epoch, or until the loss is not finite. With `teacher_epochs`, `config.output` gets its outputs.

    Args:
        model: compiled by `compile_model`.
        batches: of the training images.
        epoch: counted from 0.
        config: the options.
        teacher: a model that sees the same images, or None.
        runner: the run's `eanet.jax_epoch.EpochRunner`, on an accelerator; None to go through the batches here.

    Returns:
        "loss", "accuracy" (means over the batches), "learning_rate" (after the last step) and "images_per_s".
    """
    reseed_dropout(model, config.seed, epoch)
    # The last epochs see unmixed images, as prediction does.
    cutmix = config.cutmix if epoch < cutmix_epochs(config.epochs) else 0.0
    start = time.perf_counter()
    if runner:
        source, following = (source_epoch(e, config.epochs, config.teacher_epochs) for e in (epoch, epoch + 1))
        loss, accuracy = runner.train(source, cutmix, following)
        row = {"loss": loss, "accuracy": accuracy}
    else:
        row = _train_batches(model, batches, epoch, config, cutmix, teacher)
    row["learning_rate"] = float(model.optimizer.learning_rate)
    row["images_per_s"] = len(batches) * batches.batch_size / (time.perf_counter() - start)
    return row


def _train_batches(model, batches: Batches, epoch: int, config: TrainConfig, cutmix: float, teacher) -> dict:
    from tqdm import tqdm

    sums, total = {"loss": 0.0, "accuracy": 0.0}, len(batches) * batches.batch_size
    # disable=None: a bar on a terminal, nothing in a log file, where each epoch has its line
    with tqdm(total=total, desc=f"epoch {epoch + 1}/{config.epochs}", unit=" images", disable=None, leave=False) as bar:
        for step, (x, y, weights) in enumerate(_targets(batches, epoch, config, cutmix, teacher), 1):
            model.reset_metrics()  # Keras before 3.15 averages over all batches so far
            batch = model.train_on_batch(x, y, weights, return_dict=True)
            sums = {k: v + float(batch[k]) for k, v in sums.items()}
            if not np.isfinite(sums["loss"]):
                break
            bar.update(batches.batch_size)
            bar.set_postfix({k: f"{v / step:.3f}" for k, v in sums.items()})
    return {k: v / len(batches) for k, v in sums.items()}


def _targets(batches: Batches, epoch: int, config: TrainConfig, cutmix: float, teacher):
    """Iterate over the batches: images, targets of the loss, sample weights."""
    import keras

    source = source_epoch(epoch, config.epochs, config.teacher_epochs)
    rows = ((x, y, batches.sample_weights(y)) for x, y in batches.epoch(source, cutmix))
    if teacher is None:
        return rows
    if config.teacher_epochs and source < config.teacher_epochs:
        shape = len(batches), batches.batch_size, len(batches.targets)
        teacher = StoredOutputs(teacher, config.output / TEACHER_FOLDER / f"{source}.npy", shape)
    taught = ((x, pack_targets(teacher, x, y), weights) for x, y, weights in rows)
    # A step of TensorFlow does not fill all cores; JAX may train on several devices, which one thread must lead.
    return _ahead(taught) if keras.backend.backend() == "tensorflow" else taught


def _ahead(items):
    """Yield the items of an iterator; the next one is made in a thread while the caller works on one."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, items, None)
        while (item := ahead.result()) is not None:
            ahead = thread.submit(next, items, None)
            yield item


@contextlib.contextmanager
def ema_weights(model, twin=None):
    """Give the model the moving average of its weights within the context; batch norm statistics stay those of training.

    Args:
        model: compiled by `compile_model`.
        twin: a model with the same layers to give them to instead, or None.

    Yields:
        The model with the average.
    """
    if twin:
        values = [variable.value for variable in model.trainable_variables]
        model.optimizer.finalize_variable_values(model.trainable_variables)
        twin.set_weights(model.get_weights())
        for variable, value in zip(model.trainable_variables, values, strict=True):
            variable.assign(value)
        yield twin
        return
    raw = model.get_weights()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    model.set_weights(model.get_weights())  # copies: JAX donates weights to a prediction, and would donate the average
    try:
        yield model
    finally:
        model.set_weights(raw)


def ema_momentum(config: TrainConfig, steps: int) -> float:
    """Return the EMA momentum of a run of `steps` steps; only runs of older versions leave it to their number."""
    return default_ema(steps) if config.ema is None else config.ema


def recalibrate_batch_norm(model, batches: Batches, epoch: int, count: int, runner=None) -> None:
    """Set every batch norm's statistics to their mean over the first `count` batches of `epoch`, for the current weights.

    `runner` is as for `train_epoch`.
    """
    import keras

    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    reseed_dropout(model, batches.seed, epoch)  # dropout is active here
    if runner:
        runner.recalibrate_batch_norm(epoch, count)
        return
    momenta = [norm.momentum for norm in norms]
    try:
        for done, (x, _) in enumerate(itertools.islice(batches.epoch(epoch), count)):
            for norm in norms:
                norm.momentum = done / (done + 1)  # turns the moving average into a plain mean
            model(x, training=True)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def calibrate(model, validation) -> float | None:
    """Divide the classifier's weights by the temperature that suits the validation split: the order of classes stays.

    Args:
        model: an EANet.
        validation: the validation split, or None.

    Returns:
        The temperature; None with fewer than `MIN_CALIBRATION` images, too few to tell.
    """
    if not validation or len(validation) < MIN_CALIBRATION:
        return None
    temperature = fitted_temperature(predict_split(model, validation), validation.y)
    classifier = model.get_layer("classifier")
    classifier.set_weights([weights / np.float32(temperature) for weights in classifier.get_weights()])
    return round(temperature, 4)


def load_initial_weights(model, source) -> None:
    """Copy the weights of `source` layer by layer; the classifier only if the classes are the same."""
    same = model.config.id2label == source.config.id2label
    for layer in model.layers:
        if same or layer.name != "classifier":
            layer.set_weights(source.get_layer(layer.name).get_weights())
    if not same:
        _log(f"new classifier for {model.config.num_classes} classes")


def reseed_dropout(model, seed: int, epoch: int) -> None:
    """Seed every dropout from (seed, epoch), so that a resumed epoch draws what it would have drawn."""
    import keras

    for i, variable in enumerate(v for v in model.variables if "seed_generator" in v.path):
        state = np.random.SeedSequence((seed, 3, epoch, i)).generate_state(2)
        variable.assign(np.array([state[0], 0], np.uint32))
    if keras.backend.backend() == "torch":  # Keras' dropout draws from its generator
        import torch

        torch.manual_seed(int(np.random.SeedSequence((seed, 3, epoch)).generate_state(1)[0]))


def _build(run: Run, training):
    """Return the compiled model and its batches."""
    import keras

    from eanet.fused_layers import with_fused_layers

    config = run.config
    keras.utils.set_random_seed(config.seed)
    with dtype_policy(config.precision):
        model = build_eanet(EANetConfig.from_dict(run.settings["config"]))
    if run.initial_weights:
        load_initial_weights(model, load_source(run.initial_weights, f"init_from {config.init_from}"))
    with dtype_policy(config.precision):  # Keras scales the loss of a model that is mixed_float16 itself
        model = run.processes.distribute(functools.partial(with_fused_layers, model))
    for layer in model.layers if config.freeze else ():
        layer.trainable = layer.name == "classifier"
    on_jax = keras.backend.backend() == "jax"
    classes = len(run.dataset.labels)
    weights = balanced_class_weights(training.y, classes) if config.class_weights else None
    batches = Batches(training, classes, config.batch_size, config.seed, on_jax, weights, config.augment)
    run.processes.part(batches)  # raises UserError before anything is written
    with run.processes.scope():
        compile_model(model, config, len(batches))
    return model, batches


def _optimizer(model, config: TrainConfig, steps_per_epoch: int):
    import keras

    steps, warmup = config.epochs * steps_per_epoch, round(config.warmup_epochs * steps_per_epoch)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=max(1, steps - warmup),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    ema = dict(use_ema=True, ema_momentum=ema_momentum(config, steps))
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay, **ema)
    # Decay pulls towards 0, which is no place for the scale of a norm.
    optimizer.exclude_from_weight_decay([v for v in model.trainable_variables if len(v.shape) < 2])
    return optimizer


def _log_start(run: Run, model, batches: Batches, validation, start: int) -> None:
    if start:
        _log(f"resuming after epoch {start} of {run.config.epochs}")
    held_out = f" ({len(validation):,} held out for validation)" if validation and run.dataset.validation is None else ""
    _log(
        f"{model.count_params():,} parameters, {len(batches.labels):,} training images{held_out}, "
        f"epochs: {run.config.epochs}, steps per epoch: {len(batches)}; the first step compiles the graph"
    )


def _train_epochs(run: Run, model, batches, validation, checkpoint, history, elapsed) -> float:
    """Train the epochs that `history` lacks, adding to it, and return the seconds trained in all."""
    config, processes, start_epoch, teacher = run.config, run.processes, len(history.get("loss", [])), None
    rows = processes.part(batches)
    log = TensorBoardLog(config.output / "logs", history) if processes.is_main else None
    end = config.stop_after or config.epochs
    if run.teacher and start_epoch < end:
        teacher = load_teacher(run.teacher, config.teacher, model.config, config.precision)
        last, first = cutmix_epochs(config.epochs), config.teacher_epochs
        repeated = f"; epochs {first + 1} to {last} repeat the images and answers of the first {first}" if first else ""
        _log(f"learning from teacher {config.teacher}{repeated}")
    runner = None if processes.distributed else _epoch_runner(model, batches, teacher)
    if runner and config.teacher_epochs:
        _log(f"teacher_epochs {config.teacher_epochs}: saves no time here, where teacher and student run as one program")
    earlier = elapsed
    for epoch in range(start_epoch, end):
        start = time.perf_counter()
        with processes.scope():
            row = train_epoch(model, rows, epoch, config, teacher, runner)
        if validation:
            with ema_weights(model, processes.twin) as averaged:
                if not config.freeze:
                    recalibrate_batch_norm(averaged, batches, epoch, EPOCH_NORM_BATCHES, runner)
                measures = {"loss": np.nan, "accuracy": np.nan}
                with contextlib.suppress(UserError):  # its outputs are not probabilities: training diverged
                    measures = evaluate(averaged, validation)
            row |= {"val_loss": measures["loss"], "val_accuracy": measures["accuracy"]}
        if not all(np.isfinite(value).all() for value in (*row.values(), *model.get_weights())):
            raise UserError(
                f"training diverged in epoch {epoch + 1} (loss {row['loss']}); the checkpoint before it is kept. "
                f"Try a learning_rate below {config.learning_rate}, with another output folder"
            )
        row["time"] = time.time()
        elapsed += time.perf_counter() - start
        for key, value in row.items():
            history.setdefault(key, []).append(value)
        if log:  # in process 0
            checkpoint.save(history, elapsed)
            log.append(row, epoch)
        per_epoch = (elapsed - earlier) / (epoch + 1 - start_epoch)  # on this machine, which may not have begun the run
        left = duration(per_epoch * (end - epoch - 1))
        values = "  ".join(f"{k} {v:.4f}" for k, v in row.items() if k not in ("time", "learning_rate", "images_per_s"))
        _log(f"epoch {epoch + 1}/{config.epochs}  {values}  {row['images_per_s']:.0f} images/s  {left} left")
    return elapsed


def _epoch_runner(model, batches: Batches, teacher=None):
    """Return an `EpochRunner` where there is an accelerator for it, or None."""
    if not batches.on_device:
        return None
    from eanet.jax_epoch import EpochRunner, runs_whole_epochs

    return EpochRunner(model, batches, teacher) if runs_whole_epochs(model, batches) else None


def _write_results(run: Run, split, record: dict, history: dict) -> dict:
    """Measure the model that was saved; write eval_results.json and the report, and return the former."""
    folder = run.config.output
    model = from_pretrained_keras(folder)
    probabilities = predict_split(model, split)
    results = {**evaluation_results(model, run.dataset, split, probabilities), "training": record}
    found = describe_predictions(probabilities, split.y, run.dataset.labels, split.names)
    write_report(folder, found, results, history)
    write_json(folder / RESULTS_FILE, results)  # last: with it the run is complete
    return results


def _training_record(run: Run, num_images: int, history: dict, elapsed: float, machines: list) -> dict:
    hardware, backends = ("; ".join(dict.fromkeys(names)) for names in zip(*machines, strict=True))
    return {
        "seed": run.config.seed,
        "epochs": len(history["loss"]),
        "num_images": num_images,
        "data_crc32": run.settings["data_crc32"],
        "data_listing_crc32": run.settings["data_listing_crc32"],
        "stratified": run.settings.get("stratified", False),
        "init_from": run.settings["recipe"]["init_from"],
        "parent_run": parent_run(run.settings),
        **({"teacher_run": run.settings["teacher_run"]} if run.settings.get("teacher_run") else {}),
        "final_loss": history["loss"][-1],
        "wall_time_s": round(elapsed, 1),
        "hardware": hardware,
        "backend": backends,
        "date": time.strftime("%Y-%m-%d"),
        "command": reproducing_command(run.config, run.settings.get("num_images")),
        **run.processes.record,
    }


def training_summary(results: dict, folder) -> str:
    """Return what a run achieved, where it is, and the next command, in four lines."""
    training = results["training"]
    epochs = f"{training['epochs']} epoch{'s' * (training['epochs'] != 1)}"
    return (
        f"{summary(results)}, trained for {epochs} in {duration(training['wall_time_s'])}\n"
        f"written to {folder}: the model, {REPORT_MD}, figures/, {RESULTS_FILE}, {HISTORY_FILE}, logs/\n"
        f"next: python inference.py IMAGE --model {shlex.quote(str(folder))}"
    )


def _complete(training: dict, output) -> str:
    """Say that there is nothing left to train, and what else can be done."""
    epochs = training["epochs"]
    if epochs < (planned := training.get("recipe", {}).get("epochs", epochs)):
        return f"stopped after {epochs} of {planned} epochs, as stop_after says; without it, the same command resumes"
    return f"already complete, {epochs} epochs; to train its weights further, use init_from {output} and another folder"


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
