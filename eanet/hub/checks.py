"""Check that the files of a run belong together, so that no number stands next to weights it was not measured on."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

from eanet.cli import UserError, first_line
from eanet.run_dir import HISTORY_FILE, RESULTS_FILE
from eanet.saving import ONNX_FILE, SAVED_MODEL_FILES, checksum_matches


def check_one_run(run: Path, folder: Path, results: dict, model) -> None:
    """Check that weights, SavedModel, ONNX file, results, history and logs are of one run.

    Args:
        run: how messages name the folder.
        folder: where the files are.
        results: content of its `eval_results.json`.
        model: its Keras model.

    Raises:
        UserError: two of them are of different runs, or one is damaged.
    """
    import numpy as np

    same = functools.partial(_check_same, run)
    same(checksum_matches(model, results["model"]["checksum"]), "model.weights.h5 with config.json", RESULTS_FILE)
    size = model.config.image_size
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3)).astype(np.float32)
    expected = np.asarray(model(images))
    formats = {"the Keras model of config.json": _predict_keras}
    if (folder / SAVED_MODEL_FILES[0]).exists():
        formats["the SavedModel"] = _predict_saved_model
    if (folder / ONNX_FILE).exists():
        formats[ONNX_FILE] = functools.partial(_predict_onnx, model)
    for name, predict in formats.items():
        try:
            predicted = predict(folder, images)
        except ImportError:
            print(f"{name} is not checked: its packages are not installed", file=sys.stderr)
            continue
        except Exception as error:  # the loaders raise anything on a damaged file
            raise UserError(f"{run}: {name} cannot be loaded ({first_line(error)})") from None
        same(predicted.shape == expected.shape and np.allclose(predicted, expected, atol=1e-4), name, "model.weights.h5")
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


def _predict_keras(folder: Path, images):
    import keras
    import numpy as np

    return np.asarray(keras.saving.load_model(folder)(images))


def _predict_saved_model(folder: Path, images):
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (probabilities,) = signature(tf.constant(images)).values()
    return probabilities.numpy()


def _predict_onnx(model, folder: Path, images):
    """Return an empty array for a file made from another model."""
    import numpy as np
    import onnxruntime  # noqa: F401, an ImportError means that the file is not checked

    from eanet.export import OnnxModel

    exported = OnnxModel(folder / ONNX_FILE)
    return exported.predict_on_batch(images) if checksum_matches(model, exported.checksum) else np.empty(0)


def _logged(file: Path, tag: str) -> list[float]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == tag:
                found.append(value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
    return found
