"""The code on a card prepares an image as eanet.load_image does, whatever the shape of the image."""

import json
import re
import sys
import types

import numpy as np
import pytest
from conftest import noise, tiny_config
from PIL import Image
from test_card import RESULTS

from eanet.hub.card import render_card
from eanet.hub.card_facts import collect_facts
from eanet.images import load_image
from modeling_eanet import build_eanet

WHOLE = {"programs": True, "saved_model": True, "onnx_bytes": 1}  # facts of a repository with all there can be


class Asked(Exception):  # noqa: N818
    """Raised in place of a prediction; has the pixels."""


def ask(pixels, **_):
    raise Asked(np.asarray(pixels)[0])


def pixels_of(code: str, config, monkeypatch) -> np.ndarray:
    """Run a snippet up to its prediction, with a model that tells what it is asked."""
    import huggingface_hub
    import keras

    labels = {"eanet_config": json.dumps({"image_size": config.image_size, "id2label": {}})}
    session = types.SimpleNamespace(
        run=lambda names, feed: ask(feed["image"]), get_modelmeta=lambda: types.SimpleNamespace(custom_metadata_map=labels)
    )
    runtime = types.SimpleNamespace(InferenceSession=lambda path: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    monkeypatch.setattr(keras.saving, "load_model", lambda name: types.SimpleNamespace(predict=ask))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: name)
    with pytest.raises(Asked) as asked:
        exec(code, {})
    return asked.value.args[0]


@pytest.mark.parametrize("size", [(50, 20), (21, 64), (33, 32), (32, 32), (7, 5), (100, 97)], ids=str)
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_snippets_prepare_an_image_as_we_do(resize, size, tmp_path, monkeypatch):
    config = tiny_config(resize=resize)
    facts = collect_facts(tmp_path, RESULTS, build_eanet(config), "me/new") | WHOLE
    snippets = re.findall(r"```python\n(.*?)```", render_card(facts), re.DOTALL)
    with_keras, with_onnx = (next(code for code in snippets if word in code) for word in ("hf://", "onnxruntime"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"id2label": {}}')
    Image.fromarray(noise(*size)).save("image.jpg")
    for code in (with_keras, with_onnx):
        np.testing.assert_array_equal(pixels_of(code, config, monkeypatch), load_image("image.jpg", config))


@pytest.mark.parametrize("stem", ["猫_1", "pâté_1", "a__b_2", "_x_1", "it's *new*_1"])
def test_names_are_no_markdown_in_code(stem, tmp_path, monkeypatch):
    config, name = tiny_config(resize="crop"), f"samples/{stem}.png"
    (tmp_path / "samples").mkdir()
    Image.fromarray(noise()).save(tmp_path / name)
    model = build_eanet(config)
    facts = collect_facts(tmp_path, RESULTS, model, "me/eanet__v_") | WHOLE
    text = render_card(facts)
    blocks = "".join(re.findall(r"```.*?```", text, re.DOTALL))
    assert blocks.count("me/eanet__v_") == 6 and blocks.count(f'"{name}"') == 3 and "\\_" not in blocks
    assert "hf download me/eanet__v_ --local-dir" in blocks and '"hf://me/eanet__v_"' in blocks
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text('{"id2label": {}}')
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[::3]:
        np.testing.assert_array_equal(pixels_of(code, config, monkeypatch), noise())
