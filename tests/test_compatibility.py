"""Published and newly saved files load without our code: other backends, and other versions of Keras and the Hub client."""

import numpy as np
import pytest
from conftest import ROOT, colour_images, copy_files, sample_crops
from isolated import LOAD_WITH_HUB, LOAD_WITH_KERAS, installed, run_isolated, trainable

from eanet.folding import deployment_form
from eanet.saving import KERAS_FILES, SAVED_MODEL_FILES, save_pretrained_keras
from modeling_eanet import EANetConfig, build_eanet, from_pretrained_keras

IMAGES = colour_images(16)[0]

LOAD_WITH_OURS = """
import sys, numpy as np, huggingface_hub
assert huggingface_hub.__version__ == sys.argv[4]
sys.path.insert(0, sys.argv[5])
from eanet import from_pretrained_keras, predict_probabilities
model = from_pretrained_keras("user/name", cache_dir=sys.argv[1], local_files_only=True)
np.save(sys.argv[3], predict_probabilities(model, np.load(sys.argv[2]), 16))
"""


@pytest.fixture(scope="module")
def shipped():
    return from_pretrained_keras(ROOT)


@pytest.fixture(scope="module")
def crops(shipped):
    return sample_crops(200, shipped.config)


@pytest.mark.parametrize(
    ("backend", "version", "presets"),
    [
        ("jax", "3.", []),
        pytest.param("jax", "3.", ["keras-io"], marks=pytest.mark.slow),
        ("torch", "3.", ["keras-io"]),
        ("tensorflow", "3.11.3", ["keras-io"]),
        pytest.param("tensorflow", "3.", [], marks=pytest.mark.slow),  # test_readme: test_snippets_run_as_pasted
    ],
)
def test_keras_loads_the_three_files_alone(backend, version, presets, shipped, crops, tmp_path):
    """The published files, and those of new models."""
    if backend != "tensorflow":
        pytest.importorskip(backend)
    models, folders = [shipped], [copy_files(KERAS_FILES, ROOT, tmp_path / "shipped")]
    for preset in presets:
        models.append(build_eanet(EANetConfig.preset(preset)))
        save_pretrained_keras(models[-1], tmp_path / preset, saved_model=False)
        folders.append(copy_files(KERAS_FILES, tmp_path / preset, tmp_path / f"copy of {preset}"))
    path = installed(f"keras=={version}", "--no-deps") if version != "3." else None
    outputs = run_isolated(LOAD_WITH_KERAS, folders, version, backend=backend, path=path, images=crops, cwd=tmp_path)
    for model, output, atol in zip(models, outputs, [1e-4, 1e-5], strict=False):
        expected = np.asarray(model(crops))
        np.testing.assert_allclose(output, expected, atol=atol)
        np.testing.assert_array_equal(output.argmax(axis=1), expected.argmax(axis=1))


def test_hub_client_loads_the_saved_model_alone(shipped, crops, tiny_model, tiny_folder, tmp_path):
    """The published one, and a new one."""
    folders = [copy_files(SAVED_MODEL_FILES, folder, tmp_path / folder.name) for folder in (ROOT, tiny_folder)]
    counts = [trainable(deployment_form(model)) for model in (shipped, tiny_model)]
    path = installed("huggingface_hub==0.36.2")
    output = run_isolated(LOAD_WITH_HUB, folders, *counts, path=path, images=crops, cwd=tmp_path)
    np.testing.assert_allclose(output[:, :100], np.asarray(shipped(crops)), atol=1e-4)
    np.testing.assert_allclose(output[:, 100:], np.asarray(tiny_model(crops)), atol=1e-5)


@pytest.mark.parametrize("client", ["0.36.2", pytest.param("1.33.0", marks=pytest.mark.slow)])
def test_ours_loads_from_the_cache_of_hub_clients(client, tiny_model, tiny_folder, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--user--name"
    (repo / "snapshots").mkdir(parents=True)
    copy_files(["config.json", "model.weights.h5"], tiny_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    path = installed(f"huggingface_hub=={client}")
    output = run_isolated(LOAD_WITH_OURS, tmp_path / "cache", client, ROOT, path=path, images=IMAGES, cwd=tmp_path)
    np.testing.assert_allclose(output, np.asarray(tiny_model(IMAGES)), atol=1e-6)
