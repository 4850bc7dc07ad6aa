"""handler.py, the Inference Endpoint."""

import base64
import tracemalloc

import numpy as np
import pytest
from conftest import colour_images, encoded, png_header
from PIL import Image

from eanet.predict import classify
from handler import EndpointHandler
from modeling_eanet import UserError


@pytest.fixture(scope="module")
def handler(tiny_folder):
    return EndpointHandler(str(tiny_folder))


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(image) for image in colour_images(3)[0]]


def as_bytes(image):
    return encoded(image, "PNG").read()


def as_text(image):
    return base64.b64encode(as_bytes(image)).decode()


def as_data_url(image):
    return f"data:image/png;base64,{as_text(image)}"


def same(answer, expected):
    assert [p["label"] for p in answer] == [p["label"] for p in expected]
    np.testing.assert_allclose([p["score"] for p in answer], [p["score"] for p in expected], atol=1e-6)


@pytest.mark.parametrize("form", [as_text, as_bytes, as_data_url, lambda image: image])
def test_image_in_every_form_gets_its_labels(form, handler, images):
    (expected,) = classify(handler.model, images[:1], top_k=5)
    answer = handler({"inputs": form(images[0])})
    same(answer, expected)
    assert len(answer) == 3 and all(type(p["score"]) is float and type(p["label"]) is str for p in answer)


def test_first_request_traces_nothing(images, tiny_folder):
    handler, traces = EndpointHandler(str(tiny_folder)), []
    call = handler.model.call
    handler.model.call = lambda *args, **kwargs: traces.append(1) or call(*args, **kwargs)
    handler({"inputs": images[0]})
    assert traces == []


def test_batch_gets_a_list_per_image_in_order(handler, images):
    answers = handler({"inputs": [as_text(image) for image in images], "parameters": {"top_k": 1, "batch_size": 2}})
    assert len(answers) == 3
    for answer, image in zip(answers, images, strict=True):
        same(answer, handler({"inputs": image, "parameters": {"top_k": 1}}))
    assert len(handler({"inputs": [as_text(images[0])]})) == 1  # a list of one stays a list


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (None, ["payload", "inputs"]),
        ({}, ["payload", "inputs"]),
        ({"inputs": None}, ["inputs", "NoneType"]),
        ({"inputs": 7}, ["inputs", "int"]),
        ({"inputs": []}, ["inputs", "0 images", "256"]),
        ({"inputs": ["AAAA"] * 257}, ["inputs", "257 images"]),
        ({"inputs": "no base64!"}, ["inputs", "base64"]),
        ({"inputs": "AAAA"}, ["inputs", "format"]),
        ({"inputs": b""}, ["inputs", "empty"]),
        ({"inputs": "x", "parameters": []}, ["parameters", "list"]),
        ({"inputs": "x", "parameters": {"topk": 1}}, ["parameters", "topk", "top_k"]),
        ({"inputs": "x", "parameters": {"top_k": 0}}, ["parameters", "top_k", "0"]),
        ({"inputs": "x", "parameters": {"top_k": True}}, ["parameters", "top_k", "True"]),
        ({"inputs": "x", "parameters": {"function_to_apply": "sigmoid"}}, ["function_to_apply", "sigmoid", "softmax"]),
        ({"inputs": [png_header(8000, 8000)] * 256}, ["inputs", "16,384 megapixels", "268"]),
        ({"inputs": [bytes(2**26)] * 3}, ["inputs", "201,326,592 bytes"]),
        ({"inputs": "x", "parameters": {"batch_size": "8"}}, ["parameters", "batch_size", "'8'"]),
    ],
)
def test_bad_payload_is_one_line_that_names_the_fault(payload, words, handler):
    with pytest.raises(UserError) as error:
        handler(payload)
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message


def test_null_parameters_are_the_defaults(handler, images):
    null = dict.fromkeys(("top_k", "batch_size", "function_to_apply"))
    assert handler({"inputs": images[0], "parameters": null}) == handler({"inputs": images[0]})
    softmax = {"inputs": images[0], "parameters": {"function_to_apply": "softmax"}}
    assert handler(softmax) == handler({"inputs": images[0], "parameters": None})


def test_large_request_is_refused_before_anything_is_decoded(handler, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match="megapixels in 5"):
        handler({"inputs": [png_header(8000, 8000)] * 5})


def test_bad_image_of_a_batch_is_named(handler, images):
    with pytest.raises(UserError, match=r"inputs\[1\]"):
        handler({"inputs": [as_text(images[0]), as_text(images[1])[:40]]})


def test_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        EndpointHandler(str(tmp_path))


def test_text_in_many_pieces_takes_little_memory(handler):
    text = "AA " * 2**20
    tracemalloc.start()
    with pytest.raises(UserError):
        handler({"inputs": text})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(text)
