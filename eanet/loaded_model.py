"""The configuration of a model, also of one that has none attached, such as one from `keras.saving.load_model`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

import modeling_eanet
from modeling_eanet import CONFIG_FILE, EANetConfig, UserError, from_pretrained_keras, model_folder


def load_config(name) -> EANetConfig:
    """Return the configuration of a model folder or Hub repository, without importing Keras. Raises UserError."""
    return EANetConfig.from_json_file(model_folder(name, files=[CONFIG_FILE]) / CONFIG_FILE)


def config_of(model, config=None) -> EANetConfig:
    """Return the configuration of a model.

    Args:
        model: from `build_eanet`, `from_pretrained_keras`, `keras.saving.load_model` or an `OnnxModel`.
        config: its EANetConfig, folder or Hub repo id; None for `model.config`. A model without one gets that of the model
            next to `modeling_eanet.py` if its weights are the same.

    Raises:
        UserError: no configuration is given or attached, and the weights are others.
    """
    if config is not None:
        return config if isinstance(config, EANetConfig) else load_config(config)
    if isinstance(getattr(model, "config", None), EANetConfig):
        return model.config
    with contextlib.suppress(UserError):  # there may be no model
        local, weights = from_pretrained_keras(Path(modeling_eanet.__file__).parent), model.get_weights()
        if len(weights) == len(local.weights) and all(map(np.array_equal, local.get_weights(), weights)):
            return local.config
    raise UserError(
        "the model has no configuration (class names, settings): keras.saving.load_model reads none; pass config= (its "
        "folder or Hub repo id), or load it with from_pretrained_keras"
    )
