"""Knowledge distillation (Hinton et al. 2015, https://arxiv.org/abs/1503.02531): training with a teacher's probabilities."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import numpy as np

from eanet.cli import UserError, atomic_path, first_line, read_json
from eanet.folding import deployment_form
from eanet.loaded_model import load_config
from eanet.saving import dtype_policy, load_source
from modeling_eanet import CONFIG_FILE, EANetConfig

SMALLEST = 1e-7  # of a probability before its logarithm, as in Keras' cross-entropy


def check_teacher(folder, name, config: EANetConfig) -> None:
    """Check from its config.json that a teacher fits a student. Imports no TensorFlow.

    Args:
        folder: the teacher's model folder: an EANet, or another Keras model with "id2label" in its config.json.
        name: what messages call it.
        config: the student's.

    Raises:
        UserError: config.json is missing or damaged, or the classes or the image size differ.
    """
    settings = _settings(folder)
    if settings.get("model_type") == "eanet":
        teacher = load_config(folder)
        labels, size = list(teacher.id2label.values()), teacher.image_size
    else:
        named, size = settings.get("id2label"), config.image_size
        if not isinstance(named, dict) or any(str(i) not in named for i in range(len(named))):
            raise UserError(f"teacher {name}: its {CONFIG_FILE} has no class names (id2label: index to name)")
        labels = [named[str(i)] for i in range(len(named))]
    if labels != (own := list(config.id2label.values())):
        differ = f"has {len(labels)} classes, the student {len(own)}"
        if len(labels) == len(own):
            i = next(i for i, label in enumerate(own) if labels[i] != label)
            differ = f"its class {i} is {labels[i]!r}, the student's {own[i]!r}"
        raise UserError(f"teacher {name}: {differ}; it must have the same classes in the same order")
    if size != config.image_size:
        raise UserError(f"teacher {name}: is for images of {size} pixels; the student's have {config.image_size}")


def load_teacher(folder, name, config: EANetConfig, precision: str = "float32"):
    """Load a teacher that `check_teacher` has passed.

    Args:
        folder: its model folder.
        name: what messages call it.
        config: the student's.
        precision: of an EANet, as for the student: one of `eanet.train_config.PRECISIONS`. Others keep their own.

    Returns:
        A `keras.Model`: images (batch, image_size, image_size, 3), 0-255, to probabilities (batch, num_classes).

    Raises:
        UserError: it cannot be loaded, or does not map images to probabilities.
    """
    if _settings(folder).get("model_type") == "eanet":
        from eanet.fused_layers import with_fused_layers

        with dtype_policy(precision):
            return with_fused_layers(deployment_form(load_source(folder, f"teacher {name}")))
    import keras

    size = config.image_size
    try:
        teacher = keras.saving.load_model(folder, compile=False)
        probabilities = keras.ops.convert_to_numpy(teacher(np.zeros((1, size, size, 3), np.float32), training=False))
    except Exception as error:  # of any layer
        raise UserError(f"teacher {name}: cannot be loaded, or takes no images ({first_line(error)})") from None
    if probabilities.shape != (1, config.num_classes) or not abs(probabilities.sum() - 1) < 1e-2:
        raise UserError(f"teacher {name}: must return one probability for each of the {config.num_classes} classes")
    return teacher


class StoredOutputs:
    """A teacher whose outputs for the batches of an epoch are kept in a file, and read from it when they are seen again.

    Stored are logarithms in float16: 2 bytes per image and class, exact to 0.1% of a logarithm. The first time returns what
    the file holds too, so that a run that is resumed after it trains on the same numbers.

    Args:
        teacher: from `load_teacher`.
        path: of the file; written once all batches have been seen.
        shape: of the outputs, (batches, batch, num_classes).
    """

    def __init__(self, teacher, path: Path, shape: tuple[int, int, int]):
        self.teacher, self.path, self.shape = teacher, path, shape
        self.seen: list[np.ndarray] = []
        self.stored = iter(self._read())

    def predict_on_batch(self, x) -> np.ndarray:
        """Return the probabilities of the next batch, float32 (batch, num_classes). OSError if they cannot be stored."""
        logarithms = next(self.stored, None)
        if logarithms is None:
            probabilities = np.asarray(self.teacher.predict_on_batch(x), np.float32)
            logarithms = np.log(np.maximum(probabilities, SMALLEST)).astype(np.float16)
            self.seen.append(logarithms)
            if len(self.seen) == self.shape[0]:
                self.path.parent.mkdir(exist_ok=True)
                with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
                    np.save(file, np.stack(self.seen))
        return np.exp(logarithms.astype(np.float32))

    def _read(self) -> np.ndarray | list:
        """Return the stored logarithms, or [] if there are none or they are damaged: the teacher can be asked again."""
        try:
            stored = np.load(self.path, allow_pickle=False)
            intact = stored.shape == self.shape and stored.dtype == np.float16 and np.isfinite(stored).all()
        except Exception:  # damaged files raise nearly anything
            return []
        return stored if intact else []


def remove_stored_outputs(folder: Path) -> None:
    """Remove the files of `StoredOutputs` from a folder, and the folder if it is empty then."""
    if folder.is_dir() and not folder.is_symlink():
        for path in folder.iterdir():
            if path.is_file() and re.fullmatch(r"\d+\.npy|\.\d+\.npy\.\d+\.tmp", path.name):
                path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()


def pack_targets(teacher, x, y) -> np.ndarray:
    """Return the targets of `distillation_loss` for one batch.

    Args:
        teacher: from `load_teacher`.
        x: the augmented images that the student sees, (batch, image_size, image_size, 3).
        y: their mixed one-hot targets, (batch, num_classes).

    Returns:
        float32 (batch, 2, num_classes): `y`, and the teacher's probabilities.
    """
    return np.stack([np.asarray(y), np.asarray(teacher.predict_on_batch(x))], axis=1, dtype=np.float32)


def distillation_loss(weight: float, temperature: float, label_smoothing: float):
    """Return the loss of a student, a function of targets (batch, 2, classes) and probabilities (batch, classes).

        weight * T^2 * KL(softmax(log p_teacher / T) || softmax(log p_student / T)) + (1 - weight) * cross-entropy

    softmax(log p / T) is softmax(logits / T): log p differs from the logits by a constant per image. T^2 keeps the size of
    the gradients the same at every temperature.

    Args:
        weight: 0 to 1, of the teacher.
        temperature: T, above 0.
        label_smoothing: of the targets in the cross-entropy.

    Returns:
        A function for `keras.Model.compile`; it returns one loss per image, (batch,).
    """
    import keras
    from keras import ops

    def softened(probabilities):
        return ops.log_softmax(ops.log(ops.clip(probabilities, SMALLEST, 1.0)) / temperature, axis=-1)

    def loss(y_true, y_pred):
        teacher, student = softened(y_true[:, 1]), softened(y_pred)
        divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
        entropy = keras.losses.categorical_crossentropy(y_true[:, 0], y_pred, label_smoothing=label_smoothing)
        return weight * temperature**2 * divergence + (1 - weight) * entropy

    return loss


def label_accuracy():
    """Return a Keras metric "accuracy" of the one-hot targets in `pack_targets`."""
    import keras

    def accuracy(y_true, y_pred):
        return keras.metrics.categorical_accuracy(y_true[:, 0], y_pred)

    return keras.metrics.MeanMetricWrapper(accuracy, name="accuracy")


def _settings(folder) -> dict:
    settings = read_json(Path(folder) / CONFIG_FILE)
    return settings if isinstance(settings, dict) else {}
