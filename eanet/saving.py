"""A model on disk: the files that Keras reads, the SavedModel that huggingface_hub reads, and the checksum."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import mmap
import os
import re
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

import modeling_eanet
from eanet.cli import printable, read_json, temporary_folder
from eanet.folding import deployment_form
from eanet.loaded_model import config_of
from eanet.run_lock import lock_run
from modeling_eanet import CONFIG_FILE, WEIGHTS_FILE, EANetConfig, UserError, build_eanet, first_line, from_pretrained_keras

KERAS_FILES = (CONFIG_FILE, "metadata.json", WEIGHTS_FILE)
SAVED_MODEL_FILES = ("saved_model.pb", "keras_metadata.pb", "fingerprint.pb", "variables")
ONNX_FILE = "onnx/model.onnx"  # written by eanet.export from the others
LEGACY_ONNX_FILE = "model.onnx"  # its place before
# The settings that the checksum covered until it became one of weights and labels.
_OLD_CHECKSUM_FIELDS = (
    "model_type image_size tokenizer patch_size embed_dims depths num_heads slots shared_memory head_dims mlp_ratio "
    "depthwise_kernel position_embedding norm final_norm activation attention_dropout projection_dropout mlp_dropout "
    "drop_path norm_epsilon id2label input_range pixel_mean pixel_std interpolation label2id"
).split()


def save_pretrained_keras(model, directory, *, saved_model: bool | None = None, config=None) -> list[str]:
    """Save a model in two formats, both of which load without code from this project.

    - `config.json`, `metadata.json`, `model.weights.h5`: for `keras.saving.load_model(directory)` or `"hf://user/name"` with
      Keras 3.11 and later on every backend. The top of `config.json` is the EANetConfig.
    - `saved_model.pb`, `keras_metadata.pb`, `fingerprint.pb`, `variables/`: the SavedModel that
      `huggingface_hub.from_pretrained_keras` reads, written by TensorFlow and tf_keras in the deployment form.

    Everything is written to a temporary folder inside `directory` and then moved in file by file, so that a full disk or an
    interruption leaves the old files. Only then are exports made from other weights removed.

    Args:
        model: an EANet. Weights are saved in float32; optimizer state is not saved.
        directory: created if necessary.
        saved_model: whether to write the SavedModel; None for wherever that is possible.
        config: EANetConfig, folder or Hub repo id of a model that has none attached (see `config_of`).

    Returns:
        The names written, relative to `directory`.

    Raises:
        UserError: `saved_model=True` without TensorFlow or tf_keras, or no configuration.
        OSError: the folder cannot be written.
    """
    import keras

    if saved_model and not can_write_saved_model():
        backend = keras.backend.backend()
        how = "`pip install tensorflow tf_keras`, KERAS_BACKEND=tensorflow"
        raise UserError(f"backend {backend}: the SavedModel needs TensorFlow, tf_keras and TensorFlow's backend; {how}")
    saved_model = can_write_saved_model() if saved_model is None else saved_model
    clean = inference_copy(model, config_of(model, config))
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with temporary_folder(directory) as folder:  # inside, so that moving out is a rename
        archive = folder / "model.keras"
        keras.saving.save_model(clean, archive)
        shutil.unpack_archive(archive, folder, format="zip")
        archive.unlink()
        _write_config(folder / CONFIG_FILE, clean.config, _drop_new_defaults(read_json(folder / CONFIG_FILE)))
        names = list(KERAS_FILES)
        if saved_model:
            with dtype_policy("float32"):
                _write_saved_model(deployment_form(clean), folder)
            names += SAVED_MODEL_FILES
        for name in names:
            _replace(folder / name, directory / name)
    _remove_stale(directory, clean, saved_model)
    return names


def add_saved_model(directory) -> None:
    """Write the SavedModel next to the Keras files of `directory`, from their weights.

    Raises:
        UserError: no model in `directory`, a damaged one, a process that trains there, or TensorFlow or tf_keras is missing.
        OSError: the folder cannot be written.
    """
    if not Path(directory).is_dir():
        raise UserError(f"{directory}: no such folder")
    with lock_run(directory, "exporting"):
        save_pretrained_keras(from_pretrained_keras(directory), directory, saved_model=True)


def can_write_saved_model() -> bool:
    """Return whether this process can write the SavedModel: TensorFlow backend, and tf_keras installed."""
    import keras

    return keras.backend.backend() == "tensorflow" and importlib.util.find_spec("tf_keras") is not None


@contextlib.contextmanager
def dtype_policy(name: str):
    """Build layers with the Keras dtype policy `name`, one of `eanet.train_config.PRECISIONS`, inside the `with` block."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def inference_copy(model, config=None):
    """Return the weights of `model` in a new float32 graph, without optimizer, compile settings or mixed precision."""
    with dtype_policy("float32"):
        clean = build_eanet(config_of(model, config))
    clean.set_weights(model.get_weights())
    return clean


# Checksum -------------------------------------------------------------------------------------------------------------


def model_checksum(model, config=None) -> str:
    """Return the CRC-32, in hexadecimal, of class names and float32 weights: which model a figure was measured on."""
    labels = list(config_of(model, config).id2label.values())
    return _with_weights(model, zlib.crc32(json.dumps(labels).encode()))


def checksum_matches(model, recorded: str | None, config=None) -> bool:
    """Return whether `recorded` is the checksum of `model`, in this form or the older one, which hashed all settings."""
    return recorded == model_checksum(model, config) or recorded in _checksums(model, config)


def stored_checksum(folder) -> str | None:
    """Return the `model_checksum` of the model in a folder, without importing Keras.

    None if its files cannot be read, or if `from_pretrained_keras` would refuse them before it reads the arrays.
    """
    import h5py

    names: dict[str, int] = {}
    config_path, weights_path = Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE
    try:
        modeling_eanet.check_weights(weights_path, EANetConfig.from_json_file(config_path))
        content = read_json(config_path)
        checksum = zlib.crc32(json.dumps(list(content["id2label"].values())).encode())
        with h5py.File(weights_path, "r") as file:
            for layer in content["config"]["layers"]:  # Keras numbers the layers of a class in this order
                name = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])).lower()
                names[name] = names.get(name, -1) + 1
                arrays = file.get(f"layers/{name}_{names[name]}/vars" if names[name] else f"layers/{name}/vars", {})
                for i in range(len(arrays)):
                    checksum = zlib.crc32(np.ascontiguousarray(arrays[str(i)][()], np.float32).tobytes(), checksum)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return f"{checksum:08x}"


def warn_if_foreign(model, folder) -> bool:
    """Compare a model with the checksum in its folder's eval_results.json; a line on standard error if it is another's.

    Args:
        model: what was loaded from `folder`: a Keras model, or an export, which has a `checksum`.
        folder: a local folder; without an eval_results.json, or one without a checksum, there is nothing to compare.

    Returns:
        Whether the results are those of other weights or class names.
    """
    path = Path(folder) / "eval_results.json"
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["model"]["checksum"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    exported = getattr(model, "checksum", None)
    if not isinstance(recorded, str) or recorded == exported or exported is None and checksum_matches(model, recorded):
        return False
    reason = "its weights or class names are not those of its eval_results.json; they come from another run, or were changed"
    print(f"{Path(sys.argv[0]).name}: warning: {printable(str(folder))}: {reason}", file=sys.stderr)
    return True


def load_source(folder, name: str):
    """Load the EANet that a training run begins with or learns from; a warning if its weights are not those of its results.

    Args:
        folder: its model folder.
        name: the option and what was given, for the error message.

    Raises:
        UserError: as `from_pretrained_keras`, or a weight is not a finite number.
    """
    model = from_pretrained_keras(folder)
    for variable in model.weights:
        if not np.isfinite(np.asarray(variable, np.float32)).all():
            raise UserError(f"{name}: its weights are damaged; {variable.path} has values that are not finite numbers")
    warn_if_foreign(model, folder)
    return model


def _checksums(model, config=None) -> tuple[str, str]:
    settings = config_of(model, config).to_dict()
    settings = {name: settings[name] for name in _OLD_CHECKSUM_FIELDS}
    old = _with_weights(model, zlib.crc32(json.dumps(settings, sort_keys=True).encode()))
    return model_checksum(model, config), old


def _with_weights(model, checksum: int) -> str:
    for array in model.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(array, np.float32).tobytes(), checksum)
    return f"{checksum:08x}"


# Files ----------------------------------------------------------------------------------------------------------------


def _write_config(path, config, keras_half) -> None:
    """Our settings, one per line, then Keras' half on one long line: people read the top, Keras the rest."""
    ours, theirs = json.dumps(config.to_dict(), indent=2), json.dumps(keras_half)
    Path(path).write_text(f"{ours[:-2]},\n  {theirs[1:-1]}\n}}\n", encoding="utf-8")


def _drop_new_defaults(node):
    """Drop keys that Keras 3.15 writes and older versions refuse, where they hold the default."""
    newer = {"input_axes": None, "output_axes": None, "quantization_config": None}
    newer |= {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}
    if isinstance(node, dict):
        return {k: _drop_new_defaults(v) for k, v in node.items() if not (k in newer and v == newer[k])}
    return [_drop_new_defaults(v) for v in node] if isinstance(node, list) else node


def _write_saved_model(model, directory) -> None:
    """Write the SavedModel with tf_keras: `from_pretrained_keras` needs the `keras_metadata.pb` that only it writes."""
    import tensorflow as tf
    import tf_keras

    class EANet(tf_keras.layers.Layer):
        """Calls the Keras 3 model. The trace of this call is saved, so loading needs no class of ours."""

        def __init__(self, variables, **kwargs):
            super().__init__(**kwargs)
            # tf.Variables, so that they are saved and stay trainable. As an attribute the model would save each twice.
            self._tracked = variables

        def call(self, inputs):
            return model(inputs, training=False)

    size = model.config.image_size
    image = tf_keras.Input((size, size, 3), dtype=tf.float32, name="image")
    wrapped = tf_keras.Model(image, EANet([v.value for v in model.variables], name="eanet")(image), name="eanet")
    try:
        wrapped.save(directory, save_format="tf", include_optimizer=False)
    except tf.errors.OpError as error:
        raise OSError(f"{directory}: the SavedModel cannot be written ({first_line(error)})") from None


def _remove_stale(directory: Path, model, saved_model: bool) -> None:
    """Remove the SavedModel if none is written now, and exports made from other weights."""
    checksums = [checksum.encode() for checksum in _checksums(model)]
    exports = [*directory.glob("onnx/*.onnx"), *directory.glob("litert/*.tflite"), directory / LEGACY_ONNX_FILE]
    stale = [path for path in exports if path.is_file() and not _contains(path, checksums)]
    stale += [] if saved_model else [directory / name for name in SAVED_MODEL_FILES]
    for path in stale:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _contains(path: Path, texts: list[bytes]) -> bool:
    """Return whether a file contains one of `texts`, without reading it into memory."""
    if not path.stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(text) >= 0 for text in texts)


def _replace(source: Path, target: Path) -> None:
    """`os.replace` that also replaces the files of a folder, and puts them back if that fails.

    The folder itself stays where it is: it would be missing if the process were killed between two renames.
    """
    if target.is_symlink():
        target.unlink()
    if not target.is_dir():
        os.replace(source, target)
        return
    names, old = sorted(path.name for path in source.iterdir()), source.with_name(source.name + ".old")
    before = [path.name for path in target.iterdir() if path.is_file()]
    old.mkdir()
    for name in before:
        shutil.copyfile(target / name, old / name)
    try:
        for name in names:
            os.replace(source / name, target / name)
    except OSError:
        with contextlib.suppress(OSError):
            for name in before:
                os.replace(old / name, target / name)
        raise
    for name in set(before) - set(names):
        (target / name).unlink()
