"""Answer the requests of a Hugging Face Inference Endpoint.

https://huggingface.co/docs/inference-endpoints/guides/custom_handler

    {"inputs": "<base64 of an image file>", "parameters": {"top_k": 3}}   -> [{"label": "cat", "score": 0.9}, ...]
    {"inputs": ["<base64>", "<base64>"]}                                  -> a list of such lists, one per image
"""

from __future__ import annotations

import base64
import io
import os
import string
import sys

import numpy as np

# In the Hub's cache this file is a link into blobs/; its own folder has the code.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from eanet.cli import prepare_tensorflow  # noqa: E402
from eanet.images import decoding_work, load_image  # noqa: E402
from eanet.predict import check_count, classify  # noqa: E402
from eanet.saving import warn_if_foreign  # noqa: E402
from modeling_eanet import UserError, from_pretrained_keras  # noqa: E402

MAX_IMAGES = 256
MAX_BYTES = 2**27  # of all inputs, as they were sent
WHITESPACE = string.whitespace.encode()
MAX_WORK = 2**28  # pixels of all images, as JPEG or PNG of 8 bits; other formats count more
PARAMETERS = {"top_k": 5, "batch_size": 128, "function_to_apply": "softmax"}


class EndpointHandler:
    """Answers requests with the model of the repository that this file is in.

    Args:
        path: folder with `config.json` and `model.weights.h5`; "" for the folder of this file.

    Raises:
        UserError: there is no model, or it is damaged.
    """

    def __init__(self, path: str = ""):
        """Load the model and trace its graph for one image, so that the first request need not wait for it."""
        prepare_tensorflow()
        self.model = from_pretrained_keras(path or HERE)
        warn_if_foreign(self.model, path or HERE)
        classify(self.model, np.zeros((1, *self.model.input.shape[1:]), np.uint8))

    def __call__(self, data: dict) -> list[dict] | list[list[dict]]:
        """Classify one image or a batch.

        Args:
            data: "inputs": one image or a list of 1 to 256, each a `PIL.Image`, the bytes of an image file, or those
                bytes in base64 (also as a data URL). "parameters" (optional): `top_k`, labels per image, at least 1
                (default 5; all labels if the model has fewer), `batch_size`, at least 1 (default 128), and
                `function_to_apply`, only "softmax"; null is the default.

        Returns:
            For one image, its labels and scores in [0, 1], highest first; for a list, a list of those.

        Raises:
            UserError: the payload is invalid; one line that names the fault, which the endpoint sends to the client.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise UserError('the payload must be an object with "inputs": an image in base64, or a list of them')
        parameters = _check_parameters(data.get("parameters"))
        inputs = data["inputs"]
        batch = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        if not 1 <= len(batch) <= MAX_IMAGES:
            raise UserError(f"inputs: {len(batch)} images; must be 1 to {MAX_IMAGES} per request")
        names = [f"inputs[{i}]" if batch is inputs else "inputs" for i in range(len(batch))]
        size = sum(len(item) for item in batch if isinstance(item, (str, bytes, bytearray)))
        if size > MAX_BYTES:
            raise UserError(f"inputs: {size:,} bytes; at most {MAX_BYTES:,} per request")
        files = [_file(item, name) for item, name in zip(batch, names, strict=True)]
        work = sum(_checked(decoding_work, file, name) for file, name in zip(files, names, strict=True))
        if work > MAX_WORK:
            raise UserError(
                f"inputs: {work / 1e6:,.0f} megapixels in {len(batch)} image(s); at most {MAX_WORK / 1e6:.0f} per request "
                "(formats that are slow to decode count more); scale the images down, or send fewer"
            )
        config = self.model.config
        images = [_checked(load_image, file, name, config) for file, name in zip(files, names, strict=True)]
        answers = classify(self.model, images, **parameters)
        return answers if batch is inputs else answers[0]


def _check_parameters(given) -> dict:
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise UserError(f"parameters: must be an object with {', '.join(PARAMETERS)}, not {type(given).__name__}")
    if unknown := [name for name in given if name not in PARAMETERS]:
        raise UserError(f"parameters: {unknown[0]!r:.50} is unknown; must be one of {', '.join(PARAMETERS)}")
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name != "function_to_apply":
            check_count(f"parameters: {name}", value)
        elif value != "softmax":
            raise UserError(f'parameters: function_to_apply={value!r:.50}: the scores are probabilities; must be "softmax"')
    return {name: given.get(name, default) for name, default in PARAMETERS.items() if name != "function_to_apply"}


def _file(item, name: str):
    """Return an input as a PIL image or an open file."""
    if isinstance(item, str):
        text = item.split(",", 1)[1] if item.startswith("data:") and "," in item else item
        try:
            item = base64.b64decode(text.encode("ascii").translate(None, WHITESPACE), validate=True)
        except ValueError:
            raise UserError(f"{name}: text that is not base64; send the bytes of an image file in base64") from None
    if isinstance(item, (bytes, bytearray)):
        return io.BytesIO(item)
    if hasattr(item, "mode"):
        return item
    raise UserError(f"{name}: {type(item).__name__}; must be an image in base64, or the bytes of an image file")


def _checked(function, file, name: str, *args):
    """Call `function` on an input; its errors name the input."""
    try:
        return function(file, *args)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {error}; send a complete JPEG, PNG or WebP file") from None
