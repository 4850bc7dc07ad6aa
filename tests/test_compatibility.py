"""What `save_pretrained_keras` writes loads without our code: other backends, Keras versions and Hub clients.

test_shipped does the same with the published files.
"""

import numpy as np
import pytest
from conftest import ROOT, colour_images, copy_files
from isolated import LOAD_WITH_HUB, LOAD_WITH_KERAS, TRAIN_WITH_HUB, installed, run_isolated, trainable

from eanet.folding import deployment_form
from eanet.saving import KERAS_FILES, SAVED_MODEL_FILES, save_pretrained_keras
from modeling_eanet import EANetConfig, build_eanet

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
def expected(tiny_model):
    return np.asarray(tiny_model(IMAGES))


@pytest.mark.parametrize(
    ("preset", "backend", "version"),
    [
        pytest.param("keras-io", "jax", "3.", marks=pytest.mark.slow),
        ("keras-io", "torch", "3."),
        ("keras-io", "tensorflow", "3.11.3"),
    ],
)
def test_keras_loads_the_three_files_alone(preset, backend, version, tmp_path):
    if backend != "tensorflow":
        pytest.importorskip(backend)
    model = build_eanet(EANetConfig.preset(preset))
    save_pretrained_keras(model, tmp_path / "model", saved_model=False)
    folder = copy_files(KERAS_FILES, tmp_path / "model", tmp_path / "copy")
    path = installed(f"keras=={version}", "--no-deps") if version != "3." else None
    output = run_isolated(LOAD_WITH_KERAS, folder, version, backend=backend, path=path, images=IMAGES, cwd=tmp_path)
    expected = np.asarray(model(IMAGES))
    np.testing.assert_allclose(output, expected, atol=1e-5)
    np.testing.assert_array_equal(output.argmax(axis=1), expected.argmax(axis=1))


def test_hub_client_loads_the_saved_model_alone(tiny_model, tiny_folder, expected, tmp_path):
    folder = copy_files(SAVED_MODEL_FILES, tiny_folder, tmp_path / "model")
    path = installed("huggingface_hub==0.36.2")
    output = run_isolated(
        LOAD_WITH_HUB + TRAIN_WITH_HUB,
        folder,
        trainable(deployment_form(tiny_model)),
        path=path,
        images=IMAGES,
        cwd=tmp_path,
    )
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("client", ["0.36.2", pytest.param("1.33.0", marks=pytest.mark.slow)])
def test_ours_loads_from_the_cache_of_hub_clients(client, tiny_folder, expected, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--user--name"
    (repo / "snapshots").mkdir(parents=True)
    copy_files(["config.json", "model.weights.h5"], tiny_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    path = installed(f"huggingface_hub=={client}")
    output = run_isolated(LOAD_WITH_OURS, tmp_path / "cache", client, ROOT, path=path, images=IMAGES, cwd=tmp_path)
    np.testing.assert_allclose(output, expected, atol=1e-6)
