"""ONNX: write the file from a Keras model, find it, and run it without TensorFlow and Keras.

from eanet.export import OnnxModel, find_onnx
classify(OnnxModel(find_onnx(".")), ["samples/apple.png"])

Importing this module needs NumPy only. Running a file needs onnxruntime; writing one also needs onnx and tf2onnx.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

from eanet.cli import UserError, atomic_path, first_line, printable, require
from eanet.folding import deployment_form
from eanet.loaded_model import config_of
from eanet.saving import LEGACY_ONNX_FILE, ONNX_FILE, model_checksum
from modeling_eanet import EANetConfig, model_folder

INSTALL, INSTALL_KERAS = "`pip install onnx tf2onnx onnxruntime`", "`pip install tensorflow keras`"
MAX_DIFFERENCE = 1e-4  # between the probabilities of the export and of Keras; nothing is written above it


def export_onnx(model, path, config=None) -> None:
    """Write the deployment form of `model` as an ONNX file with a dynamic batch size.

    The file takes `image`, float32 (batch, image_size, image_size, 3), 0 to 255, and returns `probabilities`, float32
    (batch, num_classes). Its metadata holds the configuration with the labels as JSON (`eanet_config`) and
    `model_checksum` (`checksum`). It is compared with `model` on random images before it is renamed to `path`.

    Args:
        model: Keras model from `build_eanet` or `from_pretrained_keras`, on Keras' TensorFlow backend.
        path: the file to write, in an existing folder.
        config: EANetConfig, folder or Hub repo id of a model that has none attached (see `config_of`).

    Raises:
        UserError: a package is missing, Keras runs on another backend, `path` cannot be a file, or the export's
            probabilities differ from those of `model`.
        OSError: the file cannot be written; an earlier one is left as it was.
    """
    onnx = require("onnx", INSTALL)
    require("tf2onnx", INSTALL)  # Keras exports through it
    require("onnxruntime", INSTALL)
    keras = require("keras", INSTALL_KERAS)
    backend, path = keras.backend.backend(), Path(path)
    if backend != "tensorflow":
        raise UserError(f"Keras backend {backend}: the ONNX export needs TensorFlow; set KERAS_BACKEND=tensorflow")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{path}: cannot be written; give a file in an existing folder")
    config = config_of(model, config)
    shape = (5, config.image_size, config.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    deployed = deployment_form(model, config)
    deployed.predict_on_batch(images)  # Keras does not export a model that was never called
    with atomic_path(path) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tf2onnx, about NumPy
            deployed.export(temporary, format="onnx", verbose=False)
        exported = onnx.load(temporary)
        _rename_ends(exported.graph)
        metadata = {"eanet_config": json.dumps(config.to_dict()), "checksum": model_checksum(model, config)}
        onnx.helper.set_model_props(exported, metadata)
        onnx.checker.check_model(exported)
        onnx.save(exported, temporary)
        difference = np.abs(OnnxModel(temporary).predict_on_batch(images) - model.predict_on_batch(images)).max()
        if not difference < MAX_DIFFERENCE:
            raise UserError(f"{path}: not written; its probabilities differ from the model's by {difference:.2g}")


def _rename_ends(graph) -> None:
    """Name the output `probabilities` and the first axis `batch`; tf2onnx numbers them."""
    (old,) = (value.name for value in graph.output)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["probabilities" if name == old else name for name in names]
    graph.output[0].name = "probabilities"
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


class OnnxModel:
    """An ONNX file from `export_onnx`, run by onnxruntime on the CPU.

    It can be passed to `predict_probabilities` and `classify` in place of a Keras model.

    Args:
        path: the file.
        threads: number of onnxruntime's threads; 0 for one per core.

    Attributes:
        config: the model's EANetConfig.
        checksum: `model_checksum` of the model it was exported from.

    Raises:
        UserError: onnxruntime is missing, or `path` is missing, not an ONNX model, or not written by `export_onnx`.
    """

    def __init__(self, path, threads: int = 0):
        onnxruntime = require("onnxruntime", "`pip install onnxruntime`")
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; `python -m eanet.export` writes it")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            source = str(path) if str(path).isprintable() else Path(path).read_bytes()  # it takes only paths in UTF-8
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"{path}: not a readable ONNX model ({first_line(error)})") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.config = EANetConfig.from_dict(json.loads(metadata["eanet_config"]))
            self.checksum = metadata["checksum"]
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not written by eanet.export (metadata: {first_line(error)})") from None
        self._path, side = path, self.config.image_size
        shapes = {value.name: value.shape[1:] for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        if shapes != {"image": [side, side, 3], "probabilities": [self.config.num_classes]}:
            raise UserError(f"{path}: its graph does not fit its metadata ({printable(str(shapes))[:200]}); export it again")

    def predict_on_batch(self, images) -> np.ndarray:
        """Return the class probabilities of a batch.

        Args:
            images: (n, image_size, image_size, 3), 0 to 255.

        Returns:
            float32 (n, num_classes).

        Raises:
            UserError: the graph fails; it is damaged.
        """
        try:
            return self._session.run(["probabilities"], {"image": np.asarray(images, np.float32)})[0]
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"{self._path}: cannot be run ({first_line(error)})") from None


def find_onnx(name: str) -> Path:
    """Return the path of a model's ONNX file, downloading it for a Hub repository.

    Args:
        name: an ONNX file, a model folder, or a Hub repo id. In the last two the file is onnx/model.onnx, or model.onnx
            as older versions wrote it.

    Raises:
        UserError: the folder or repository has no such file, it cannot be downloaded, or huggingface_hub is missing.
    """
    path = Path(name)
    if path.is_file() or path.suffix == ".onnx":
        return path
    files = (ONNX_FILE, LEGACY_ONNX_FILE)
    folder = model_folder(name, files=files)
    for file in files:
        if (folder / file).is_file():
            return folder / file
    output = "" if path.is_dir() else " --output model.onnx"
    raise UserError(f"{name}: has no {ONNX_FILE}; `python -m eanet.export {name}{output}` writes it")
