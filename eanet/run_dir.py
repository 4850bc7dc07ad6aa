"""A run's folder: settings.json, the checkpoint, the TensorBoard log, and where its initial weights come from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from eanet.cli import UserError, atomic_path, first_line, is_temporary, read_json
from eanet.data import Dataset, Split, check_data_path, is_repo_id, load_dataset, split_validation
from eanet.data.listing import listing_checksum
from eanet.distillation import check_teacher
from eanet.distributed import ALONE, Processes
from eanet.loaded_model import load_config
from eanet.machine import backend, hardware
from eanet.run_lock import LOCK_FILE
from eanet.saving import KERAS_FILES
from eanet.train_config import AUTOMATIC_FIELDS, DISTILL_DEFAULTS, OPTIONAL_RECIPE_FIELDS, RECIPE_FIELDS, TrainConfig
from modeling_eanet import CONFIG_FILE, WEIGHTS_FILE, EANetConfig, model_folder

SETTINGS_FILE, CHECKPOINT_FILE = "settings.json", "checkpoint.npz"
RESULTS_FILE, HISTORY_FILE = "eval_results.json", "history.json"
LEFT_OUT_FILE = "left_out.json"
TEACHER_FOLDER = "teacher"  # the teacher's outputs that later epochs will read again
TEACHER_FILES = (*KERAS_FILES, RESULTS_FILE)
WEIGHTS_KEYS = {"init_from": "initial_weights_crc32", "teacher": "teacher_crc32"}  # in settings.json


# Settings and lineage ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """A run that is ready to train.

    Attributes:
        config: its options, resolved.
        settings: what settings.json holds: recipe, dataset, num_images, data_crc32, data_listing_crc32, config,
            initial_weights_crc32, parent_run, stratified; with a teacher also teacher_crc32 and teacher_run.
        dataset: the data, in memory.
        initial_weights: folder of the model to load before the first epoch, or None.
        resuming: whether the folder already holds this run.
        teacher: folder of the model to distil, or None.
        processes: those that train.
    """

    config: TrainConfig
    settings: dict
    dataset: Dataset
    initial_weights: Path | None
    resuming: bool
    teacher: Path | None = None
    processes: Processes = ALONE


def check_outside_data(config: TrainConfig) -> None:
    """Raise UserError if the run folder is inside the folder of the data, and would be read with it."""
    if config.data is None or not os.path.isdir(config.data):
        return
    for resolve in (os.path.abspath, os.path.realpath):  # folders that are linked into the data are read too
        if Path(resolve(config.data)) in Path(resolve(config.output)).parents:
            hint = "name a folder outside it"
            if (config.output / SETTINGS_FILE).is_file():
                hint = "move this run out of it, and name its new folder"
            raise UserError(f"output {config.output}: is inside data {config.data}, and would be read with it; {hint}")


def prepare_run(config: TrainConfig, processes: Processes = ALONE) -> Run:
    """Check the options against the run folder, the data and the parent run. Writes nothing and imports no TensorFlow.

    Raises:
        UserError: the folder holds another run or other files, the data is bad, the teacher does not fit, or the validation
            split overlaps the images that the initial weights or the teacher were trained on.
    """
    check_data_path(config.data)
    recorded = _matching_settings(config)
    initial, teacher = _other_models(config, recorded or {})
    if recorded:
        architecture = EANetConfig.from_dict(recorded["config"])
    else:
        architecture = config.architecture(load_config(initial) if initial else None)
    columns = dict(image_column=config.image_column, label_column=config.label_column)
    dataset = load_dataset(config.data, architecture, **columns, strict=config.strict, name=config.dataset_name)
    config = config.resolved(recorded.get("num_images") if recorded else len(dataset.train))
    settings = recorded or _new_settings(config, architecture, dataset, initial, teacher)
    same = ("num_images", "config", "initial_weights_crc32", "teacher_crc32", "stratified")
    processes.agree({"training data": dataset.train.checksum(), **{name: settings.get(name) for name in same}})
    if settings["data_crc32"] != dataset.train.checksum():
        raise UserError(
            f"output {config.output}: holds a run on other data than {config.data or 'CIFAR-100'}; use another folder"
        )
    settings["data_listing_crc32"] = listing_checksum(config.data)
    # Older runs drew the validation split without regard to the classes: they, and runs that start from them, still do.
    dataset.stratify = settings.get("stratified", False)
    if dataset.validation is None:
        _check_validation_split(config, settings)
    if teacher:
        check_teacher(teacher, config.teacher, EANetConfig.from_dict(settings["config"]))
    return Run(config, settings, dataset, initial, bool(recorded), teacher, processes)


def split_run(run: Run) -> tuple[Split, Split | None]:
    """Return the training and the validation split. Raises UserError unless they are the same in all processes."""
    training, validation = split_validation(run.dataset, run.config.validation_split, run.config.seed)
    if run.processes.distributed:
        splits = {"training": training} | ({"validation": validation} if validation else {})
        counts = {"training images": len(training), "validation images": len(validation) if validation else 0}
        run.processes.agree(counts | {f"{name} split": split.checksum() for name, split in splits.items()})
    return training, validation


def compared_options(config: TrainConfig) -> dict:
    """Return the options that must be the same in all processes; of other models, their weights are compared instead."""
    names = (*OPTIONAL_RECIPE_FIELDS, "stop_after", "strict")
    options = {name: getattr(config, name) for name in names} | recipe_of(config)
    return {name: value for name, value in options.items() if name not in WEIGHTS_KEYS}


def _other_models(config: TrainConfig, recorded: dict) -> tuple[Path | None, Path | None]:
    """Return the folders of the initial weights, unless they are in a checkpoint already, and of the teacher."""
    initial = teacher = None
    if config.init_from and not (config.output / CHECKPOINT_FILE).is_file():
        initial = _source_folder("init_from", config.init_from, (CONFIG_FILE, WEIGHTS_FILE, RESULTS_FILE))
    if config.teacher:
        teacher = _source_folder("teacher", config.teacher, TEACHER_FILES)
    for name, folder, given in (("init_from", initial, config.init_from), ("teacher", teacher, config.teacher)):
        if _same_weights(folder, recorded.get(WEIGHTS_KEYS[name])) is False:  # of a Hub repository that has changed
            raise _another_run(config, name, f"{recorded['recipe'][name]} (other weights)", given)
    return initial, teacher


def _source_folder(option: str, name, files) -> Path:
    try:
        return model_folder(name, files=files)
    except UserError as error:
        raise UserError(f"{option} {error}") from error


def _new_settings(config: TrainConfig, architecture: EANetConfig, dataset: Dataset, initial, teacher) -> dict:
    settings = {
        "recipe": recipe_of(config),
        "dataset": dataset.name,
        "num_images": len(dataset.train),
        "data_crc32": dataset.train.checksum(),
        "data_listing_crc32": listing_checksum(config.data),
        "config": dataclasses.replace(architecture, id2label=dict(enumerate(dataset.labels))).to_dict(),
        "initial_weights_crc32": weights_checksum(initial) if initial else None,
        "parent_run": recorded_training(initial) if initial else None,
    }
    if teacher:
        settings |= {"teacher_crc32": weights_checksum(teacher), "teacher_run": recorded_training(teacher)}
    same_data = _on_same_data(settings, parent_run(settings), settings.get("teacher_run"))
    return settings | {"stratified": dataset.stratify and all(run.get("stratified") for run in same_data)}


def finished_results(config: TrainConfig) -> dict | None:
    """Return the contents of eval_results.json if `config.output` holds this run, complete, on data of the same listing.

    Decodes no image and imports no TensorFlow. Raises UserError if the folder holds something else.
    """
    check_data_path(config.data)
    settings, output = _matching_settings(config), config.output
    if not settings or settings.get("data_listing_crc32") != listing_checksum(config.data):
        return None
    if not all((output / name).is_file() for name in (*KERAS_FILES, RESULTS_FILE, HISTORY_FILE)):
        return None
    history, _ = read_progress(output / CHECKPOINT_FILE)
    epochs = config.stop_after or settings["recipe"]["epochs"]
    if len(history.get("loss", [])) != epochs or (recorded_training(output) or {}).get("epochs") != epochs:
        return None  # or killed before the results of the last epochs took the place of those of stop_after
    return read_json(output / RESULTS_FILE)


def recipe_of(config: TrainConfig) -> dict:
    """Return the options that must match to resume a run, without absolute paths."""
    recipe = {name: getattr(config, name) for name in RECIPE_FIELDS}
    used = {name: value for name in OPTIONAL_RECIPE_FIELDS if (value := getattr(config, name)) is not None}
    recipe |= {"init_from": portable_path(config.init_from)} | used
    return recipe | ({"teacher": portable_path(config.teacher)} if config.teacher else {})


def read_settings(output) -> dict:
    """Read settings.json of a run folder, by any version of train.py. Raises UserError if it is missing or damaged."""
    path = Path(output) / SETTINGS_FILE
    settings = read_json(path)
    try:
        EANetConfig.from_dict(settings["config"])
        dict(settings["recipe"]), int(settings["data_crc32"]), int(settings.get("num_images", 1))
        dict(parent_run(settings) or {}), dict(settings.get("teacher_run") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; use another folder") from None
    return settings


def recorded_training(folder) -> dict | None:
    """Return "training" of a model folder's eval_results.json, or None."""
    try:
        training = json.loads((Path(folder) / RESULTS_FILE).read_text(encoding="utf-8"))["training"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return training if isinstance(training, dict) else None


def parent_run(record: dict) -> dict | None:
    """Return the record of the run whose weights a run began with; older records call it "begun_with"."""
    return record.get("parent_run") or record.get("begun_with")


def training_runs(training: dict) -> list[dict]:
    """Return the runs that led to a model, oldest first, the last being `training` of its eval_results.json."""
    runs: list[dict] = []
    record: dict | None = training
    while record:
        runs.insert(0, record)
        record = parent_run(record)
    return runs


def lineage(record: dict | None) -> list[dict]:
    """Return the runs that a model learned from: `training_runs` with all their teachers' runs, each once, oldest first."""
    found: list[dict] = []
    for each in training_runs(record or {}):
        found += [run for run in (*lineage(each.get("teacher_run")), each) if run not in found]
    return found


def weights_checksum(folder) -> str:
    """Return the CRC-32 of the arrays in a model folder's weights file, in hexadecimal, without importing Keras."""
    import h5py

    path, checksum = Path(folder) / WEIGHTS_FILE, 0
    names: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            for name in sorted(names):
                checksum = zlib.crc32(file[name][()].tobytes(), zlib.crc32(name.encode(), checksum))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the folder does not hold a complete model") from None
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be read, damaged or cut short ({first_line(error)})") from None
    return f"{checksum:08x}"


def _matching_settings(config: TrainConfig) -> dict | None:
    """Return the settings if `config.output` holds this run. Raises UserError if it holds something else."""
    output = config.output
    for path in (output, *output.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"output {output}: {path} is a file, not a folder")
    if not (output / SETTINGS_FILE).is_file():
        if output.is_dir() and not all(is_temporary(path) or path.name == LOCK_FILE for path in output.iterdir()):
            raise UserError(f"output {output}: is not empty and holds no training run; use another folder")
        if config.resume:
            raise UserError(f"output {output}: holds no run to resume; leave out resume to start one")
        return None
    settings = read_settings(output)
    same_weights = {name: _same_weights(getattr(config, name), settings.get(key)) for name, key in WEIGHTS_KEYS.items()}
    options = dict.fromkeys(OPTIONAL_RECIPE_FIELDS) | recipe_of(config.resolved(settings.get("num_images")))
    for name, value in sorted(options.items(), key=lambda option: option[0] != "init_from"):  # it decides on the others
        recorded = settings["recipe"].get(name, getattr(TrainConfig, name))
        same = recorded == value
        if same_weights.get(name) is not None:
            same, recorded = same_weights[name], f"{recorded} (other weights)"
        if not same:
            raise _another_run(config, name, recorded, value)
    if config.resume and not (output / CHECKPOINT_FILE).is_file():
        raise UserError(f"output {output}: holds no checkpoint yet; leave out resume to start")
    return settings


def _another_run(config: TrainConfig, name: str, recorded, value) -> UserError:
    hint = "use another folder, or that run's options to resume it"
    if name == "epochs" and (config.output / RESULTS_FILE).is_file():
        hint = f"to train its weights further, use init_from {config.output} and another folder"
    return UserError(
        f"output {config.output}: holds another run, with {name} {_shown(recorded)} instead of {_shown(value)}; {hint}"
    )


def _same_weights(folder, recorded: str | None) -> bool | None:
    """Compare weights by checksum; None if one is unknown, as for a Hub repository or a deleted folder."""
    if not recorded or not folder or not (Path(folder) / WEIGHTS_FILE).is_file():
        return None
    return weights_checksum(folder) == recorded


def _shown(value) -> str:
    return "none" if value is None else str(value)


def _on_same_data(settings: dict, *records: dict | None) -> list[dict]:
    """Return the runs behind the models of `records` that were trained on the images of `settings`, at any size."""
    known = {(key, settings[key]) for key in ("data_crc32", "data_listing_crc32") if settings.get(key) is not None}
    return [run for record in records for run in lineage(record) if known & {(key, run.get(key)) for key, _ in known}]


def _check_validation_split(config: TrainConfig, settings: dict) -> None:
    """Raise UserError if the validation split overlaps images that the initial weights or the teacher were trained on."""
    sources = {
        f"initial weights ({config.init_from}) were": parent_run(settings),
        f"teacher ({config.teacher}) was": settings.get("teacher_run"),
    }
    chosen = (config.seed, config.validation_split, settings.get("stratified", False))

    def held_out(*records):
        runs = _on_same_data(settings, *records)
        return [(r.get("seed"), (r.get("recipe") or {}).get("validation_split"), r.get("stratified", False)) for r in runs]

    for source, record in sources.items():
        other = [split for split in held_out(record) if split != chosen]
        if config.validation_split == 0 or not other:
            continue
        seed, split, stratified = other[-1]
        fits = set(held_out(*sources.values())) == {(seed, split, stratified)} and split and stratified == chosen[2]
        same = f"use seed {seed} and validation_split {split}, or " if fits else "use "
        raise UserError(
            f"seed {config.seed}, validation_split {config.validation_split}: overlaps the images that the {source} trained "
            f"on; {same}validation_split 0"
        )


# What is recorded of paths ----------------------------------------------------------------------------------------------


def portable_path(path) -> str | None:
    """Return a path below the working directory, or a Hub repo id, as it is given there; the name of any other path."""
    if not path:
        return None
    absolute, here = Path(os.path.abspath(path)), Path(os.path.abspath("."))
    return absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else absolute.name


def reproducing_command(config: TrainConfig, num_images: int | None = None) -> str:
    """Return the command that repeats a run, with options that differ from the defaults and without absolute paths.

    Args:
        config: the run's options.
        num_images: see `TrainConfig.resolved`.
    """
    words = ["python", "train.py"]
    if config.data:
        words += ["--data", config.data if is_repo_id(config.data) else Path(os.path.abspath(config.data)).name]
    defaults = {name: getattr(TrainConfig, name) for name in RECIPE_FIELDS} | DISTILL_DEFAULTS
    for i, name in enumerate(AUTOMATIC_FIELDS):
        # The last two must fit the number of epochs, which may be another one here.
        given: dict[str, Any] = dict.fromkeys((*AUTOMATIC_FIELDS[i:], "stop_after", "teacher_epochs"))
        defaults[name] = getattr(dataclasses.replace(config, **given).resolved(num_images), name)
    defaults["preset"] = "small"
    for name, value in recipe_of(config).items():
        if name == "set":
            for field, setting in (value or {}).items():
                text = setting if isinstance(setting, str) else json.dumps(setting, separators=(",", ":"))
                words += ["--set", f"{field}={text}"]
        elif value not in (None, defaults.get(name)):
            words += ["--" + name.replace("_", "-"), str(value)]
    if config.stop_after:
        words += ["--stop-after", str(config.stop_after)]
    output = Path(os.path.abspath(config.output))
    if output.is_relative_to(os.path.abspath(".")) and output != Path(os.path.abspath(config.default_output)):
        words += ["--output", str(portable_path(output))]
    return shlex.join(words)


# State ------------------------------------------------------------------------------------------------------------------


class Checkpoint:
    """Training state (weights, optimizer, EMA, history) in one file, written atomically."""

    def __init__(self, path: Path, model):
        self.path = path
        weights = [v for v in model.variables if "seed_generator" not in v.path]
        self.variables = weights + list(model.optimizer.variables)
        self.machines: list[list[str]] = []  # [hardware, backend] of every machine that trained, in order

    def save(self, history: dict, elapsed: float) -> None:
        """Write the state, the history and the seconds trained so far."""
        import keras

        here = [hardware(), " ".join(backend())]
        self.machines += [] if here in self.machines else [here]
        arrays = {f"{i:04d}": keras.ops.convert_to_numpy(v) for i, v in enumerate(self.variables)}
        arrays["meta"] = np.array(json.dumps({"history": history, "elapsed": elapsed, "machines": self.machines}))
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def restore(self) -> tuple[dict, float]:
        """Load the state into model and optimizer.

        Returns:
            The history and the seconds trained so far; ({}, 0.0) if there is no checkpoint.

        Raises:
            UserError: the file is damaged, or of another model.
        """
        progress = read_progress(self.path)
        if progress[0]:
            with _damage_reported(self.path):
                with np.load(self.path, allow_pickle=False) as arrays:
                    self.machines = json.loads(str(arrays["meta"])).get("machines", [])
                    values = [arrays[f"{i:04d}"] for i in range(len(self.variables))]
                for variable, value in zip(self.variables, values, strict=True):
                    variable.assign(value)
        return progress


def read_progress(path: Path) -> tuple[dict, float]:
    """Return the history and the seconds trained in a checkpoint; ({}, 0.0) if there is none. Raises UserError."""
    if not path.is_file():
        return {}, 0.0
    with _damage_reported(path), np.load(path, allow_pickle=False) as arrays:
        meta = json.loads(str(arrays["meta"]))
        return dict(meta["history"]), float(meta["elapsed"])


@contextlib.contextmanager
def _damage_reported(path: Path):
    try:
        yield
    except Exception as error:  # zip, NumPy and Keras each have their own
        raise UserError(f"{path}: cannot be resumed from ({first_line(error)}); use another output folder") from None


class TensorBoardLog:
    """TensorBoard events in logs/train and logs/validation, written without TensorFlow, with Keras' tags.

    One file each, rewritten from the history on resuming, so that epochs after the last checkpoint do not appear twice.
    """

    def __init__(self, folder: Path, history: dict):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = Event, Summary, RecordWriter
        self.folder = folder
        self._started: set[str] = set()
        for epoch in range(len(history.get("loss", []))):
            self.append({key: values[epoch] for key, values in history.items()}, epoch)

    def append(self, row: dict, epoch: int) -> None:
        """Add the scalars of one epoch; those that begin with "val_" go to logs/validation."""
        train = {k: v for k, v in row.items() if k != "time" and not k.startswith("val_")}
        self._write("train", train, epoch, row["time"])
        self._write("validation", {k[4:]: v for k, v in row.items() if k.startswith("val_")}, epoch, row["time"])

    def _write(self, run, scalars, epoch, wall_time) -> None:
        if not scalars:
            return
        path = self.folder / run / "events.out.tfevents.eanet"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab" if run in self._started else "wb") as file:
            writer = self._writer(file)
            if run not in self._started:
                writer.write(self._event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
                self._started.add(run)
            values = [self._summary.Value(tag=f"epoch_{k}", simple_value=v) for k, v in scalars.items()]
            event = self._event(wall_time=wall_time, step=epoch, summary=self._summary(value=values))
            writer.write(event.SerializeToString())
            writer.flush()
