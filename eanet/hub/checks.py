"""Check that the files of a run belong together, so that no number stands next to weights it was not measured on."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from eanet.cli import UserError, first_line
from eanet.hub.saved_model import check_saved_model, same_keras_config
from eanet.run_dir import HISTORY_FILE, RESULTS_FILE
from eanet.saving import ONNX_FILE, SAVED_MODEL_FILES, checksum_matches
from modeling_eanet import CONFIG_FILE


def check_one_run(run: Path, folder: Path, results: dict, model) -> None:
    """Check that weights, SavedModel, ONNX file, results, history and logs are of one run.

    No code of the folder is executed: the SavedModel and Keras' configuration are compared as data. Only an ONNX file is
    run, whose operations see neither files nor processes.

    Args:
        run: how messages name the folder.
        folder: where the files are.
        results: content of its `eval_results.json`.
        model: its Keras model.

    Raises:
        UserError: two of them are of different runs, or one is damaged.
    """
    same = functools.partial(_check_same, run)
    same(checksum_matches(model, results["model"]["checksum"]), "model.weights.h5 with config.json", RESULTS_FILE)
    if not same_keras_config(folder / CONFIG_FILE, model):
        raise UserError(
            f"{run}: {CONFIG_FILE} describes other layers to Keras than its settings do; `python train.py --export {run}` "
            "writes it again"
        )
    formats = {}
    if (folder / SAVED_MODEL_FILES[0]).exists():
        formats["the SavedModel"] = check_saved_model
    if (folder / ONNX_FILE).exists():
        formats[ONNX_FILE] = _check_onnx
    for name, check in formats.items():
        try:
            of_model = check(folder, model)
        except ImportError:
            print(f"{name} is not checked: its packages are not installed", file=sys.stderr)
            continue
        except UserError as error:
            raise UserError(f"{run}: {name} {error}") from None
        except Exception as error:  # the readers raise anything on a damaged file
            raise UserError(f"{run}: {name} cannot be read ({first_line(error)})") from None
        same(of_model, name, "model.weights.h5")
    if (folder / HISTORY_FILE).is_file() and results["training"] is not None:
        _check_history(run, folder, results["training"], same)


def _check_history(run: Path, folder: Path, training: dict, same) -> None:
    import numpy as np

    try:
        history = json.loads((folder / HISTORY_FILE).read_text(encoding="utf-8"))
        of_run = (len(history["loss"]), history["loss"][-1]) == (training["epochs"], training["final_loss"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise UserError(f"{run}: {HISTORY_FILE} is damaged; delete it, or train the run again") from None
    same(of_run, HISTORY_FILE, RESULTS_FILE)
    for split, key in (("train", "loss"), ("validation", "val_loss")):
        for file in sorted((folder / "logs" / split).glob("*tfevents*")):
            logged, measured = _logged(file, "epoch_loss"), history.get(key, [])
            same(np.shape(logged) == np.shape(measured) and np.allclose(logged, measured), f"logs/{split}", HISTORY_FILE)


def _check_same(run: Path, ok, name: str, other: str) -> None:
    if not ok:
        raise UserError(f"{run}: {name} and {other} are from different runs; put the files of one run together")


def _check_onnx(folder: Path, model) -> bool:
    """Return whether the ONNX file was exported from the model and answers like it."""
    import keras
    import numpy as np
    import onnxruntime  # noqa: F401, an ImportError means that the file is not checked

    from eanet.export import OnnxModel

    exported, size = OnnxModel(folder / ONNX_FILE), model.config.image_size
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.float32)
    if not checksum_matches(model, exported.checksum):
        return False
    found, expected = exported.predict_on_batch(images), keras.ops.convert_to_numpy(model(images))
    return found.shape == expected.shape and bool(np.allclose(found, expected, atol=1e-4))


def _logged(file: Path, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == tag:
                found.append(value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
    return found
