"""Writes the model in another format: ONNX, for predictions without TensorFlow and Keras.

    python export.py --format onnx                      the model beside this file, to model.onnx
    python export.py runs/small --format onnx           a run's, to runs/small/model.onnx
    python inference.py cat.jpg --runtime onnx          predicts with it, without TensorFlow and Keras

`pip install -r requirements-onnx.txt` installs what it takes. `OnnxModel` reads such a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import numpy as np

from modeling_eanet import ONNX_FILE, EANetConfig, deployment_form, first_line, from_pretrained_keras, model_checksum

HERE = Path(__file__).resolve().parent
LARGEST_DIFFERENCE = 1e-4  # between probabilities of Keras and of the export; beyond, nothing is written


def export_onnx(model, path) -> None:
    """Writes `model` in its deployment form, with a batch of any size, float32 pixels from 0 to 255 in, probabilities out.

    The metadata of the file has the configuration, class names included, as JSON under `eanet_config`, and the checksum of
    the model that it was made from under `checksum`. The file is tried before it takes its name.

    Args:
        model: of `build_eanet`, on Keras' TensorFlow backend.
        path: of the file.

    Raises:
        ImportError: onnx, tf2onnx or onnxruntime is missing, or Keras runs on another backend.
        ValueError: the export predicts something else than the model.
        OSError: the file cannot be written; one that was there is untouched.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"the export runs on Keras' TensorFlow backend, not on {keras.backend.backend()}; set KERAS_BACKEND"
        )
    try:
        import onnx
        import tf2onnx  # noqa: F401, what Keras exports through
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed; `pip install -r requirements-onnx.txt`") from None
    path = Path(path)
    size = model.config.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (5, size, size, 3)).astype(np.float32)
    folded = deployment_form(model)
    folded.predict_on_batch(pictures)  # Keras exports no model that was never called
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tf2onnx, about NumPy
            folded.export(temporary, format="onnx", verbose=False)
        graph = onnx.load(temporary)
        _name_ends(graph.graph)
        onnx.helper.set_model_props(
            graph, {"eanet_config": json.dumps(model.config.to_dict()), "checksum": model_checksum(model)}
        )
        onnx.checker.check_model(graph)
        onnx.save(graph, temporary)
        difference = np.abs(OnnxModel(temporary).predict_on_batch(pictures) - model.predict_on_batch(pictures)).max()
        if not difference < LARGEST_DIFFERENCE:
            raise ValueError(f"{path}: not written; the export differs from the model by {difference:.2g}")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _name_ends(graph) -> None:
    """`image` (batch, size, size, 3) in, `probabilities` (batch, classes) out; tf2onnx counts instead of naming."""
    (old,) = (value.name for value in graph.output)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = ["probabilities" if name == old else name for name in names]
    graph.output[0].name = "probabilities"
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


class OnnxModel:
    """A file of `export_onnx`, run by onnxruntime; it takes the place of a Keras model in `predict_probabilities` and
    `classify`. No TensorFlow and no Keras is imported.

    Args:
        path: of the file.
        threads: of onnxruntime; 0 for one per core.

    Attributes:
        config: the EANetConfig.
        checksum: `model_checksum` of the model that it was made from.

    Raises:
        ImportError: onnxruntime is missing.
        FileNotFoundError: no such file.
        ValueError: no ONNX model, or none of `export_onnx`.
    """

    def __init__(self, path, threads: int = 0):
        try:
            import onnxruntime
        except ImportError:
            raise ImportError("onnxruntime is not installed; `pip install -r requirements-onnx.txt`") from None
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; `python export.py --format onnx` writes it")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many, without a common base
            raise ValueError(f"{path}: cannot be read as an ONNX model ({first_line(error)})") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.config = EANetConfig.from_dict(json.loads(metadata["eanet_config"]))
            self.checksum = metadata["checksum"]
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: is no export of this program ({first_line(error)} in its metadata)") from None

    def predict_on_batch(self, pictures) -> np.ndarray:
        """(n, image_size, image_size, 3), 0 to 255, to float32 probabilities (n, num_classes)."""
        return self._session.run(["probabilities"], {"image": np.asarray(pictures, np.float32)})[0]


def find_onnx(model: str) -> Path:
    """The ONNX file behind a path of one, a folder, or a repository of the Hub.

    Raises:
        FileNotFoundError: there is none.
        OSError: the Hub has no such repository, or none with that file, or does not answer.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / ONNX_FILE).is_file():
            raise FileNotFoundError(f"{path / ONNX_FILE}: no such file; `python export.py {path} --format onnx` writes it")
        return path / ONNX_FILE
    if path.is_file() or path.suffix == ".onnx" or model.count("/") != 1:
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, ONNX_FILE))
    except (OSError, ValueError) as error:
        raise OSError(f"{model}: no such folder, and no {ONNX_FILE} to be had from the Hub ({first_line(error)})") from None


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "model", nargs="?", default=str(HERE), metavar="DIR_OR_REPO", help="default: the one beside this file"
    )
    parser.add_argument("--format", required=True, choices=("onnx",))
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {ONNX_FILE} in the model's folder")
    args = parser.parse_args(argv)
    folder = Path(args.model)
    if args.output is None and not folder.is_dir():
        parser.error(f"{args.model}: is no folder here, so name with --output the file to write")
    output = args.output or folder / ONNX_FILE
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        if output.is_dir() or not output.parent.is_dir():
            raise ValueError(f"--output {output}: must be a file in a folder that is there")
        export_onnx(from_pretrained_keras(args.model), output)
    except (ValueError, OSError, ImportError) as error:
        print(f"export.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nexport.py: stopped; nothing was written", file=sys.stderr)
        return 130
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
