"""Hugging Face Inference Endpoints: https://huggingface.co/docs/inference-endpoints/guides/custom_handler

{"inputs": "<base64 of a picture>", "parameters": {"top_k": 3}}      -> [{"label": "cat", "score": 0.9}, ...]
{"inputs": ["<base64>", "<base64>"]}                                 -> a list of such lists, one per picture
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np

from modeling_eanet import classify, from_pretrained_keras, load_image

LARGEST_BATCH = 256
PARAMETERS = {"top_k": 5, "batch_size": 128}


class EndpointHandler:
    """Answers requests with the model of the repository it lies in.

    Args:
        path: folder with `config.json` and `model.weights.h5`; "" for the folder of this file.

    Raises:
        FileNotFoundError, ValueError: there is no model, or it is damaged.
    """

    def __init__(self, path: str = ""):
        self.model = from_pretrained_keras(path or Path(__file__).resolve().parent)
        blank = np.zeros((1, *self.model.input.shape[1:]), np.uint8)
        classify(self.model, blank)  # traces the graph for one picture, for which the first request need not wait

    def __call__(self, data: dict) -> list[dict] | list[list[dict]]:
        """Classifies one picture or a batch.

        Args:
            data: "inputs", a picture or a list of 1 to 256 pictures, each a `PIL.Image`, the bytes of a picture file, or
                those in base64 (a data URL too). "parameters", optional: `top_k`, labels a picture, from 1 (5 if not given;
                more than there are classes means all), and `batch_size`, pictures a step, from 1 (128 if not given).

        Returns:
            For one picture, labels and probabilities (0 to 1), most probable first; for a list, a list of those.

        Raises:
            ValueError: the payload does not fit; one line that names what is wrong. The endpoint sends it to the client.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('the payload must be an object with "inputs": a picture in base64, or a list of them')
        parameters = self._parameters(data.get("parameters"))
        inputs = data["inputs"]
        batch = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if not 1 <= len(batch) <= LARGEST_BATCH:
            raise ValueError(f"inputs: {len(batch)} pictures; must be 1 to {LARGEST_BATCH} a request")
        names = [f"inputs[{i}]" if batch is inputs else "inputs" for i in range(len(batch))]
        pictures = [_picture(item, name, self.model.config) for item, name in zip(batch, names, strict=True)]
        answers = classify(self.model, pictures, **parameters)
        return answers if batch is inputs else answers[0]

    def _parameters(self, given) -> dict:
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise ValueError(f"parameters: must be an object with {', '.join(PARAMETERS)}, not {type(given).__name__}")
        for name, value in given.items():
            if name not in PARAMETERS:
                raise ValueError(f"parameters: {name!r} is unknown; there are {', '.join(PARAMETERS)}")
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"parameters: {name} must be a whole number, at least 1, not {value!r}")
        return {**PARAMETERS, **given}


def _picture(item, name: str, config):
    """uint8 (image_size, image_size, 3)."""
    if isinstance(item, str):
        text = item.split(",", 1)[1] if item.startswith("data:") and "," in item else item
        try:
            item = base64.b64decode("".join(text.split()), validate=True)
        except ValueError:
            raise ValueError(f"{name}: is a text but not base64; send the bytes of a picture file in base64") from None
    try:
        return load_image(io.BytesIO(item) if isinstance(item, (bytes, bytearray)) else item, config)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {error}; send a whole JPEG, PNG or WebP file") from None
