"""ONNX: write the file from a Keras model, find it, and run it without TensorFlow and Keras.

from eanet.export import OnnxModel, find_onnx
classify(OnnxModel(find_onnx(".")), ["samples/apple.png"])

Importing this module needs NumPy only. Running a file needs onnxruntime; writing one also needs onnx.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from pathlib import Path

import numpy as np

from eanet.cli import UserError, atomic_path, printable, require
from eanet.export.agreement import MAX_DIFFERENCE, check_agreement, check_images, full_precision
from eanet.export.metadata import check_output, export_metadata, find_export, read_metadata
from eanet.export.onnx_graph import INPUT, PROBABILITIES, onnx_graph
from eanet.export.onnx_limits import MAX_SECONDS, OUT_OF_MEMORY, bound_memory, check_graph, explain, time_limit
from eanet.folding import deployment_form
from eanet.loaded_model import config_of
from eanet.saving import LEGACY_ONNX_FILE, ONNX_FILE

FP16_FILE = "onnx/model_fp16.onnx"
CRC32 = "crc32"  # key in the metadata
INSTALL, INSTALL_KERAS = "`pip install onnx onnxruntime`", "`pip install tensorflow keras`"


def export_onnx(model, path, config=None, weights: str = "float32") -> None:
    """Write the deployment form of `model` as an ONNX file with a dynamic batch size (see `eanet.export.onnx_graph`).

    The file takes `image`, float32 (batch, image_size, image_size, 3), 0 to 255, and returns `probabilities`, float32
    (batch, num_classes); by name also `features` and `attention_0`, …. Its metadata holds the configuration with the labels
    as JSON (`eanet_config`), `model_checksum` (`checksum`) and a CRC-32 of these and the graph (`crc32`). The file
    is compared with `model` before it is renamed to `path`.

    Args:
        model: Keras model from `build_eanet` or `from_pretrained_keras`.
        path: the file to write, in an existing folder.
        config: EANetConfig, folder or Hub repo id of a model that has none attached (see `config_of`).
        weights: how they are stored, "float32" or "float16". They are used in float32, so that no runtime can overflow.

    Raises:
        UserError: a package is missing, `path` cannot be a file, the model has a layer without an ONNX form, or the export's
            probabilities differ from those of `model`.
        OSError: the file cannot be written; an earlier one is left as it was.
    """
    onnx = require("onnx", INSTALL)
    require("onnxruntime", INSTALL)
    require("keras", INSTALL_KERAS)
    path, config = check_output(path), config_of(model, config)
    exported = onnx_graph(deployment_form(model, config), export_metadata(model, config))
    if weights == "float16":
        _store_float16(exported.graph)
    onnx.checker.check_model(exported, full_check=True)
    images = check_images(config)
    with atomic_path(path) as temporary, full_precision():
        save_onnx(exported, temporary)
        found, expected = (np.asarray(each.predict_on_batch(images)) for each in (OnnxModel(temporary), model))
        check_agreement(path, found, expected, MAX_DIFFERENCE[weights])


def save_onnx(model, path) -> None:
    """Write an `onnx.ModelProto`, with a CRC-32 of its graph and metadata, so that damage is found."""
    import onnx

    metadata = {entry.key: entry.value for entry in model.metadata_props}
    model.metadata_props.add(key=CRC32, value=_crc32(zlib.crc32(model.graph.SerializeToString()), metadata))
    onnx.save(model, path)


def _crc32(graph: int, metadata: dict[str, str]) -> str:
    text = "".join(f"{key}={metadata.get(key)}\n" for key in ("checksum", "eanet_config"))
    return f"{zlib.crc32(text.encode(), graph):08x}"


def _store_float16(graph) -> None:
    """Store kernels as float16; runtimes convert them to float32 when they load the file."""
    from onnx import helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size >= 64:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}/float16"))
            casts.append(helper.make_node("Cast", [f"{name}/float16"], [name], name=f"{name}/cast", to=1))  # float32
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


class OnnxModel:
    """An ONNX file from `export_onnx`, run by onnxruntime on the CPU.

    It can be passed to `predict_probabilities` and `classify` in place of a Keras model.

    Args:
        path: the file.
        threads: number of onnxruntime's threads; 0 for one per core.

    Attributes:
        session: the `onnxruntime.InferenceSession`, for the other outputs (`features`, `attention_0`, …).
        config: the model's EANetConfig.
        checksum: `model_checksum` of the model it was exported from.
        thread_safe: several threads may predict at the same time.

    Raises:
        UserError: onnxruntime is missing, or `path` is missing, not an ONNX model, or not written by `export_onnx`.
            A file from a stranger is refused if it does more than an export, or takes too long (`eanet.export.onnx_limits`).
    """

    thread_safe = True

    def __init__(self, path, threads: int = 0):
        onnxruntime = require("onnxruntime", "`pip install onnxruntime`")
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; `python -m eanet.export` writes it")
        avoid, crc32 = check_graph(path, INPUT)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4  # 4: errors are raised, not printed
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.use_env_allocators", str(int(bound_memory())))
        try:
            source = str(path) if str(path).isprintable() else Path(path).read_bytes()  # it takes only paths in UTF-8
            provider = {
                "providers": ["CPUExecutionProvider"],
                "enable_fallback": 0,
                "disabled_optimizers": avoid,
            }  # falling back prints
            with time_limit(MAX_SECONDS, lambda: options.set_load_cancellation_flag(True)):
                self.session = onnxruntime.InferenceSession(source, options, **provider)
            metadata = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"{path}: not a readable ONNX model ({explain(error)})") from None
        self.config, self.checksum = read_metadata(path, metadata)
        if CRC32 in metadata and metadata[CRC32] != _crc32(crc32, metadata):  # earlier versions wrote none
            what = f"export it again, or remove {CRC32} from its metadata"
            raise UserError(f"{path}: damaged, or changed after its export; {what}")
        self._path, self._tried, side = path, False, self.config.image_size
        self._one_by_one = threading.Lock()
        shapes = {value.name: value.shape[1:] for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        expected = {INPUT: [side, side, 3], PROBABILITIES: [self.config.num_classes]}
        if {name: shapes.get(name) for name in expected} != expected or len(self.session.get_inputs()) != 1:
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
        images = np.asarray(images, np.float32)
        try:
            if self._tried:
                return self.session.run([PROBABILITIES], {INPUT: images})[0]
            return self._try(images)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            if OUT_OF_MEMORY in str(error) and len(images) > 1:
                half = len(images) // 2
                return np.concatenate([self.predict_on_batch(part) for part in (images[:half], images[half:])])
            if OUT_OF_MEMORY in str(error) and (found := self._try_again(images)) is not None:
                return found
            raise UserError(f"{self._path}: cannot be run ({explain(error)})") from None

    def _try_again(self, images) -> np.ndarray | None:
        """Run an image again, one thread after the other, when others may have given back their memory; None without."""
        with self._one_by_one:
            for pause in (0.05, 0.5, 2):
                time.sleep(pause)
                with contextlib.suppress(Exception):  # onnxruntime's exceptions have no common base class
                    return self.session.run([PROBABILITIES], {INPUT: images})[0]
        return None

    def _try(self, images) -> np.ndarray:
        """Run the first batch, which has to end in time."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        with time_limit(MAX_SECONDS * max(1, len(images)), lambda: setattr(options, "terminate", True)):
            found = self.session.run([PROBABILITIES], {INPUT: images}, options)[0]
        self._tried = True
        return found


def find_onnx(name: str) -> Path:
    """Return the path of a model's ONNX file, downloading it for a Hub repository.

    Args:
        name: an ONNX file, a model folder, or a Hub repo id. In the last two the file is onnx/model.onnx, or model.onnx
            as older versions wrote it.

    Raises:
        UserError: the folder or repository has no such file, it cannot be downloaded, or huggingface_hub is missing.
    """
    return find_export(name, (ONNX_FILE, LEGACY_ONNX_FILE))
