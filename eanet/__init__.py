"""The library around `modeling_eanet`: images, prediction, saving, training, export and the Hugging Face Hub.

from eanet import classify, from_pretrained_keras
model = from_pretrained_keras(".")                  # a folder, or "user/name" on the Hub
classify(model, ["samples/apple.png"], top_k=3)     # [[{"label": "apple", "score": 0.9}, ...]]
"""

import importlib

_HOME = {
    "modeling_eanet": ("EANetConfig", "UserError", "build_eanet", "from_pretrained_keras"),
    "eanet.cli": ("write_json",),
    "eanet.folding": ("deployment_form", "fold"),
    "eanet.images": ("load_image",),
    "eanet.loaded_model": ("config_of", "load_config"),
    "eanet.predict": ("classify", "predict_probabilities", "top_predictions"),
    "eanet.saving": ("KERAS_FILES", "ONNX_FILE", "SAVED_MODEL_FILES", "can_write_saved_model", "dtype_policy",
                     "inference_copy", "model_checksum", "save_pretrained_keras"),
}  # fmt: skip
__all__ = [name for names in _HOME.values() for name in names]  # noqa: PLE0604


def __getattr__(name):
    """Import public names when they are first used, so that `import eanet` stays fast; TensorFlow is prepared then."""
    for module, names in _HOME.items():
        if name in names:
            importlib.import_module("eanet.cli").prepare_tensorflow()
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
