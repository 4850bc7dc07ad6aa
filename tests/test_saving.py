"""What is saved loads anywhere: other Keras versions, other backends, other huggingface_hub, and no code of ours."""

import json
import shutil

import keras
import numpy as np
import pytest
from apart import LOAD_WITH_HUB, LOAD_WITH_KERAS, installed, run_apart, trainable
from conftest import ROOT, colour_pictures, tiny_config

import modeling_eanet
from modeling_eanet import (
    KERAS_FILES,
    SAVED_MODEL_FILES,
    EANetConfig,
    build_eanet,
    deployment_form,
    from_pretrained_keras,
    save_pretrained_keras,
)

PICTURES = colour_pictures(16)[0]

LOAD_WITH_OURS = """
import sys, numpy as np, huggingface_hub
assert huggingface_hub.__version__ == sys.argv[4]
sys.path.insert(0, sys.argv[5])
from modeling_eanet import from_pretrained_keras, predict_probabilities
model = from_pretrained_keras("user/name", cache_dir=sys.argv[1], local_files_only=True)
np.save(sys.argv[3], predict_probabilities(model, np.load(sys.argv[2]), 16))
"""


def copy_only(names, source, target):
    target.mkdir()
    for name in names:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, target / name)
    return target


@pytest.fixture(scope="module")
def expected(tiny_model):
    return np.asarray(tiny_model(PICTURES))


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_loads_the_three_files_alone(backend, tiny_folder, expected, tmp_path):
    if backend != "tensorflow":
        pytest.importorskip(backend)
    folder = copy_only(KERAS_FILES, tiny_folder, tmp_path / "model")
    output = run_apart(LOAD_WITH_KERAS, folder, "3.", backend=backend, pictures=PICTURES, cwd=tmp_path)
    np.testing.assert_allclose(output, expected, atol=1e-4)
    np.testing.assert_array_equal(output.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("preset", ["tiny", "keras-io", "small"])
def test_the_oldest_keras_we_name_loads_them_too(preset, tmp_path):
    model = build_eanet(EANetConfig.preset(preset))
    save_pretrained_keras(model, tmp_path / "model", saved_model=False)
    path = installed("keras==3.11.3", "--no-deps")
    output = run_apart(LOAD_WITH_KERAS, tmp_path / "model", "3.11.3", path=path, pictures=PICTURES, cwd=tmp_path)
    np.testing.assert_allclose(output, np.asarray(model(PICTURES)), atol=1e-5)


def test_hub_client_loads_the_saved_model_alone(tiny_model, tiny_folder, expected, tmp_path):
    folder = copy_only(SAVED_MODEL_FILES, tiny_folder, tmp_path / "model")
    path = installed("huggingface_hub==0.36.2")
    output = run_apart(
        LOAD_WITH_HUB, folder, trainable(deployment_form(tiny_model)), path=path, pictures=PICTURES, cwd=tmp_path
    )
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("client", ["0.36.2", "1.33.0"])
def test_ours_loads_from_the_cache_of_older_hub_clients(client, tiny_folder, expected, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "cache" / "models--user--name"
    (repo / "snapshots").mkdir(parents=True)
    copy_only(["config.json", "model.weights.h5"], tiny_folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    path = installed(f"huggingface_hub=={client}")
    output = run_apart(LOAD_WITH_OURS, tmp_path / "cache", client, ROOT, path=path, pictures=PICTURES, cwd=tmp_path)
    np.testing.assert_allclose(output, expected, atol=1e-6)


def test_from_pretrained_gives_the_model_back_with_its_config(tiny_model, tiny_folder, expected):
    model = from_pretrained_keras(tiny_folder)
    assert model.config == tiny_model.config and model.config.id2label[0] == "red"
    np.testing.assert_array_equal(np.asarray(model(PICTURES)), expected)


def test_from_pretrained_downloads_two_files_of_the_revision(tiny_folder, monkeypatch):
    import huggingface_hub

    calls = []

    def snapshot_download(repo_id, **kwargs):
        calls.append((repo_id, kwargs))
        return str(tiny_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    from_pretrained_keras("user/name", revision="v1", token="t", cache_dir="c", local_files_only=True)
    (repo_id, kwargs) = calls[0]
    assert repo_id == "user/name" and sorted(kwargs.pop("allow_patterns")) == ["config.json", "model.weights.h5"]
    assert kwargs == {"revision": "v1", "token": "t", "cache_dir": "c", "local_files_only": True}


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "nowhere"])
def test_what_is_neither_folder_nor_repository_is_said(name):
    with pytest.raises(FileNotFoundError, match=name):
        from_pretrained_keras(name)


def test_a_repository_that_the_hub_does_not_give_is_named(tmp_path):
    with pytest.raises(OSError, match=r"runs/nope: no such folder, and not to be had from the Hub \(.+\)$"):
        from_pretrained_keras("runs/nope", cache_dir=tmp_path, local_files_only=True)


def test_both_halves_of_the_config_are_one_model(tiny_folder):
    """Ours is read from the top, Keras' own from the rest; neither may say what the other does not."""
    written = json.loads((tiny_folder / "config.json").read_text())
    ours = build_eanet(EANetConfig.from_dict(written))
    theirs = keras.saving.deserialize_keras_object(written)
    assert json.loads(json.dumps(theirs.get_config())) == json.loads(json.dumps(ours.get_config()))
    assert [w.shape for w in theirs.weights] == [w.shape for w in ours.weights]


def test_config_has_no_key_that_older_keras_refuses(tiny_folder):
    text = (tiny_folder / "config.json").read_text()
    for key in ("input_axes", "output_axes", "quantization_config"):
        assert key not in text
    assert text.startswith('{\n  "model_type": "eanet",\n')


def test_training_leaves_no_trace_in_what_is_saved(tmp_path):
    """No optimizer, no compile settings, no mixed precision: inference weights in float32."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_eanet(tiny_config())
        model.compile("adam", "categorical_crossentropy")
        model.train_on_batch(PICTURES, np.eye(3, dtype=np.float32)[np.zeros(16, int)])
        save_pretrained_keras(model, tmp_path / "model", saved_model=True)
    finally:
        keras.config.set_dtype_policy("float32")
    text = (tmp_path / "model" / "config.json").read_text()
    assert "bfloat16" not in text and "optimizer" not in text and "adam" not in text.lower()
    loaded = keras.saving.load_model(tmp_path / "model")
    assert not loaded.compiled and loaded.count_params() == model.count_params()
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    import tf_keras

    saved_model = tf_keras.models.load_model(tmp_path / "model")
    expected = np.asarray(loaded(PICTURES))
    np.testing.assert_allclose(saved_model.predict(PICTURES.astype(np.float32), verbose=0), expected, atol=1e-6)


def test_a_failed_save_leaves_what_was_there(tiny_model, tmp_path, monkeypatch):
    save_pretrained_keras(tiny_model, tmp_path / "model", saved_model=False)
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modeling_eanet, "_write_saved_model", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained_keras(build_eanet(tiny_config()), tmp_path / "model", saved_model=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_save_without_saved_model_removes_the_one_of_older_weights(tiny_folder, tmp_path):
    folder = copy_only([*KERAS_FILES, *SAVED_MODEL_FILES], tiny_folder, tmp_path / "model")
    save_pretrained_keras(build_eanet(tiny_config()), folder, saved_model=False)
    assert sorted(p.name for p in folder.iterdir()) == sorted(KERAS_FILES)


def test_saving_twice_replaces_the_first(tiny_folder, tmp_path):
    folder = copy_only([*KERAS_FILES, *SAVED_MODEL_FILES], tiny_folder, tmp_path / "model")
    other = build_eanet(tiny_config())
    save_pretrained_keras(other, folder, saved_model=True)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*KERAS_FILES, *SAVED_MODEL_FILES])
    np.testing.assert_array_equal(np.asarray(from_pretrained_keras(folder)(PICTURES)), np.asarray(other(PICTURES)))


@pytest.mark.parametrize("file", ["config.json", "model.weights.h5"])
def test_a_missing_file_is_named(file, tiny_folder, tmp_path):
    folder = copy_only(KERAS_FILES, tiny_folder, tmp_path / "model")
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        from_pretrained_keras(folder)


def test_weights_cut_short_are_named(tiny_folder, tmp_path):
    folder = copy_only(KERAS_FILES, tiny_folder, tmp_path / "model")
    weights = folder / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.weights\.h5: .*damaged or cut short"):
        from_pretrained_keras(folder)


@pytest.mark.parametrize(
    "change", [dict(embed_dims=(24, 24)), dict(depths=(1, 2)), dict(shared_memory=True), dict(depthwise_kernel=0)], ids=str
)
def test_weights_of_another_architecture_are_named(change, tiny_folder, tmp_path):
    folder = copy_only(KERAS_FILES, tiny_folder, tmp_path / "model")
    tiny_config(**change).to_json_file(folder / "config.json")
    with pytest.raises(ValueError, match=r"model\.weights\.h5: not the weights") as error:
        from_pretrained_keras(folder)
    assert "\n" not in str(error.value)
