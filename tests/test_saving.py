"""eanet.saving: what is saved and loaded, what is removed, the checksum."""

import dataclasses
import json
import os
import sys
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest
import tf_keras
from conftest import colour_images, copy_files, only_line, random_weights, tiny_config

from eanet.batch import load_model
from eanet.saving import (
    KERAS_FILES,
    LEGACY_ONNX_FILE,
    ONNX_FILE,
    SAVED_MODEL_FILES,
    add_saved_model,
    checksum_matches,
    model_checksum,
    save_pretrained_keras,
    stored_checksum,
    warn_if_foreign,
)
from handler import EndpointHandler
from modeling_eanet import EANetConfig, UserError, build_eanet, from_pretrained_keras

IMAGES = colour_images(16)[0]


@pytest.fixture(scope="module")
def expected(tiny_model):
    return np.asarray(tiny_model(IMAGES))


def test_from_pretrained_restores_model_and_config(tiny_model, tiny_folder, expected):
    model = from_pretrained_keras(tiny_folder)
    assert model.config == tiny_model.config and model.config.id2label[0] == "red"
    np.testing.assert_array_equal(np.asarray(model(IMAGES)), expected)


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


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "nowhere", "~/nowhere"])
def test_neither_folder_nor_repo_id(name):
    with pytest.raises(UserError, match=rf"^{name}: not a local folder, and not a Hub repo id \(user/name\)$"):
        from_pretrained_keras(name)


def test_failed_download_names_the_repository(tmp_path):
    with pytest.raises(UserError, match=r"^runs/nope: not a local folder, and could not be downloaded from the Hub \(.+\)$"):
        from_pretrained_keras("runs/nope", cache_dir=tmp_path, local_files_only=True)


def test_download_without_the_hub_client_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="user/name: not a local folder; .*`pip install huggingface_hub`"):
        from_pretrained_keras("user/name")


def test_both_halves_of_the_config_are_one_model(tiny_folder):
    """Ours is read from the top, Keras' own from the rest."""
    written = json.loads((tiny_folder / "config.json").read_text())
    ours = build_eanet(EANetConfig.from_dict(written))
    theirs = keras.saving.deserialize_keras_object(written)
    assert json.loads(json.dumps(theirs.get_config())) == json.loads(json.dumps(ours.get_config()))
    assert [w.shape for w in theirs.weights] == [w.shape for w in ours.weights]


def test_model_without_redundant_biases_round_trips(tmp_path):
    model = random_weights(build_eanet(tiny_config(redundant_bias=False, shared_memory=True)))
    save_pretrained_keras(model, tmp_path / "model", saved_model=True)
    saved, by_keras = from_pretrained_keras(tmp_path / "model"), keras.saving.load_model(tmp_path / "model")
    assert saved.config == model.config
    assert model_checksum(saved) == model_checksum(model) == model_checksum(by_keras, config=tmp_path / "model")
    assert stored_checksum(tmp_path / "model") == model_checksum(model) and stored_checksum(tmp_path) is None
    for loaded in (saved, by_keras):
        np.testing.assert_array_equal(np.asarray(loaded(IMAGES)), np.asarray(model(IMAGES)))
    saved_model = tf_keras.models.load_model(tmp_path / "model")
    probabilities = saved_model.predict(IMAGES.astype(np.float32), verbose=0)
    np.testing.assert_allclose(probabilities, np.asarray(model(IMAGES)), atol=1e-5)


def allocate_nothing(file, name):
    file.create_dataset(name, (1000, 1000), "f4", chunks=(10, 10))


def compress(file, name):
    file.create_dataset(name, (1000, 1000), "f4", compression="gzip")[...] = 0


def link_outside(file, name):
    file[name] = h5py.ExternalLink("other.h5", "/x")


@pytest.mark.parametrize("forge", [allocate_nothing, compress, link_outside])
def test_a_forged_weights_file_has_no_stored_checksum(tiny_folder, tmp_path, forge):
    folder = copy_files(KERAS_FILES, tiny_folder, tmp_path / "model")
    with h5py.File(folder / "other.h5", "w") as other:
        other["x"] = np.zeros(3, np.float32)
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        del file["layers/dense/vars/0"]
        forge(file, "layers/dense/vars/0")
    assert stored_checksum(tiny_folder) is not None and stored_checksum(folder) is None


def test_config_without_the_field_has_the_biases(tiny_folder, tiny_model, tmp_path):
    folder = copy_files(KERAS_FILES, tiny_folder, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    assert settings.pop("redundant_bias") is True
    (folder / "config.json").write_text(json.dumps(settings))
    assert from_pretrained_keras(folder).config == tiny_model.config


def test_config_has_no_key_that_old_keras_refuses(tiny_folder):
    text = (tiny_folder / "config.json").read_text()
    for key in ("input_axes", "output_axes", "quantization_config"):
        assert key not in text
    assert text.startswith('{\n  "model_type": "eanet",\n')


def test_training_state_is_not_saved(mixed_bfloat16, tmp_path):
    """No optimizer, no compile settings, no mixed precision: inference weights in float32."""
    model = build_eanet(tiny_config())
    model.compile("adam", "categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(IMAGES, np.eye(3, dtype=np.float32)[np.zeros(16, int)])
    save_pretrained_keras(model, tmp_path / "model", saved_model=True)
    text = (tmp_path / "model" / "config.json").read_text()
    assert "bfloat16" not in text and "optimizer" not in text and "adam" not in text.lower()
    loaded = keras.saving.load_model(tmp_path / "model")
    assert not loaded.compiled and loaded.count_params() == model.count_params()
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    saved_model = tf_keras.models.load_model(tmp_path / "model")
    expected = np.asarray(loaded(IMAGES))
    np.testing.assert_allclose(saved_model.predict(IMAGES.astype(np.float32), verbose=0), expected, atol=1e-6)


def test_model_loaded_by_keras_is_saved_the_same(tiny_folder, tmp_path):
    model = keras.saving.load_model(tiny_folder)
    with pytest.raises(UserError, match="no configuration"):
        save_pretrained_keras(model, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    save_pretrained_keras(model, tmp_path / "model", saved_model=False, config=tiny_folder)
    saved = from_pretrained_keras(tmp_path / "model")
    assert saved.config == from_pretrained_keras(tiny_folder).config
    for ours, theirs in zip(saved.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def contents(folder):
    """Return the bytes of every file in `folder`, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("stage", "saved_model"), [("write", True), ("move", True), ("move", False)])
def test_failed_save_leaves_the_old_files(stage, saved_model, tiny_folder, tmp_path, monkeypatch):
    folder = copy_files([*KERAS_FILES, *SAVED_MODEL_FILES], tiny_folder, tmp_path / "model")
    (folder / LEGACY_ONNX_FILE).write_bytes(b"of older weights")
    before = contents(folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((tf_keras.Model, "save") if stage == "write" else (os, "replace")), full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained_keras(build_eanet(tiny_config()), folder, saved_model=saved_model)
    assert contents(folder) == before and list(tmp_path.iterdir()) == [folder]


def test_folder_that_cannot_be_replaced_is_put_back(tiny_folder, tmp_path, monkeypatch):
    folder = copy_files([*KERAS_FILES, *SAVED_MODEL_FILES], tiny_folder, tmp_path / "model")
    before, replace = contents(folder / "variables"), os.replace

    def refuse(source, target):
        assert set(contents(folder / "variables")) == set(before)  # none is missing, should the process be killed
        if target == folder / "variables" / "variables.index" and source.parent.name == "variables":
            assert contents(folder / "variables") != before
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        save_pretrained_keras(build_eanet(tiny_config()), folder, saved_model=True)
    assert contents(folder / "variables") == before


def test_without_tf_keras_the_saved_model_is_left_out(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(UserError, match="SavedModel needs TensorFlow, tf_keras"):
        save_pretrained_keras(tiny_model, tmp_path / "model", saved_model=True)
    assert save_pretrained_keras(tiny_model, tmp_path / "model") == list(KERAS_FILES)


def test_saved_model_of_older_weights_is_removed(tiny_folder, tmp_path):
    folder = copy_files([*KERAS_FILES, *SAVED_MODEL_FILES], tiny_folder, tmp_path / "model")
    save_pretrained_keras(build_eanet(tiny_config()), folder, saved_model=False)
    assert sorted(p.name for p in folder.iterdir()) == sorted(KERAS_FILES)


@pytest.mark.parametrize("file", [ONNX_FILE, "onnx/model_int8.onnx", LEGACY_ONNX_FILE])
def test_export_of_other_weights_is_removed(file, tiny_model, tmp_path):
    for checksum, kept in (("00000000", False), (model_checksum(tiny_model), True)):
        path = tmp_path / checksum / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"onnx " + checksum.encode() + b" onnx")
        save_pretrained_keras(tiny_model, tmp_path / checksum, saved_model=False)
        assert path.exists() == kept


def test_saved_model_is_added_from_the_keras_files(tiny_folder, tmp_path):
    folder = copy_files(KERAS_FILES, tiny_folder, tmp_path / "model")
    before = model_checksum(from_pretrained_keras(folder))
    add_saved_model(folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*KERAS_FILES, *SAVED_MODEL_FILES])
    assert model_checksum(from_pretrained_keras(folder)) == before
    with pytest.raises(UserError, match="no such folder"):
        add_saved_model(tmp_path / "missing")


def test_saving_twice_replaces_the_first(tiny_folder, tmp_path):
    folder = copy_files([*KERAS_FILES, *SAVED_MODEL_FILES], tiny_folder, tmp_path / "model")
    other = build_eanet(tiny_config())
    save_pretrained_keras(other, folder, saved_model=True)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*KERAS_FILES, *SAVED_MODEL_FILES])
    np.testing.assert_array_equal(np.asarray(from_pretrained_keras(folder)(IMAGES)), np.asarray(other(IMAGES)))


# Missing, damaged and wrong files are in test_inference_process: test_broken_model_is_one_line_that_names_the_file.


@pytest.mark.parametrize("change", [dict(depths=(1, 2)), dict(depthwise_kernel=0)], ids=str)
def test_weights_of_another_architecture_are_named(change, tiny_folder, tmp_path):
    folder = copy_files(KERAS_FILES, tiny_folder, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(tiny_config(**change).to_dict()))
    with pytest.raises(UserError, match=r"model\.weights\.h5: not the weights") as error:
        from_pretrained_keras(folder)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------- checksum


def with_config(model, **changes):
    """Return a copy of `model` with other settings of the same architecture."""
    copy = build_eanet(dataclasses.replace(model.config, **changes))
    copy.set_weights(model.get_weights())
    return copy


def test_checksum_covers_weights_and_labels_only(tiny_model):
    checksum = model_checksum(tiny_model)
    assert checksum == model_checksum(with_config(tiny_model, drop_path=0.0, interpolation="box"))
    assert checksum != model_checksum(with_config(tiny_model, id2label=("red", "blue", "green")))
    assert checksum != model_checksum(build_eanet(tiny_config()))  # other initial weights
    assert checksum_matches(tiny_model, checksum)
    assert not any(checksum_matches(tiny_model, other) for other in (None, "", "00000000"))


def test_checksum_of_a_model_loaded_by_keras(tiny_folder, tiny_model):
    model = keras.saving.load_model(tiny_folder)
    assert model_checksum(model, config=tiny_folder) == model_checksum(tiny_model)
    assert checksum_matches(model, model_checksum(tiny_model), config=tiny_folder)


def test_checksum_recorded_by_older_versions_is_accepted():
    """Earlier runs recorded one that covered all settings too."""
    model = build_eanet(tiny_config())
    model.set_weights([np.full(w.shape, i / 8, np.float32) for i, w in enumerate(model.get_weights())])
    assert checksum_matches(model, "d6e41d00") and model_checksum(model) != "d6e41d00"


@pytest.fixture
def measured(tiny_model, tiny_folder, tmp_path):
    """A model folder with the eval_results.json of its weights and labels."""
    folder = copy_files(("config.json", "model.weights.h5"), tiny_folder, tmp_path / "measured")
    (folder / "eval_results.json").write_text(json.dumps({"model": {"checksum": model_checksum(tiny_model)}}))
    return folder


def flip_a_bit(folder):
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        arrays = []
        file.visititems(lambda name, item: arrays.append(item) if isinstance(item, h5py.Dataset) else None)
        values = arrays[0][...]
        values.view(np.uint32).flat[0] ^= 1
        arrays[0][...] = values


def permute_labels(folder):
    text = (folder / "config.json").read_text().replace("green", "GREEN").replace("red", "green").replace("GREEN", "red")
    (folder / "config.json").write_text(text)


def take_other_weights(folder):
    random_weights(build_eanet(tiny_config())).save_weights(folder / "model.weights.h5")


@pytest.mark.parametrize("change", [flip_a_bit, permute_labels, take_other_weights])
@pytest.mark.parametrize("load", [load_model, EndpointHandler])
def test_results_of_other_weights_or_labels_are_one_line(load, change, measured, capsys):
    load(str(measured))
    assert capsys.readouterr().err == ""
    change(measured)
    load(str(measured))
    line = only_line(capsys.readouterr().err)
    assert f"warning: {measured}: its weights or class names are not those of its eval_results.json" in line


def test_results_of_another_export_are_one_line(measured, monkeypatch, capsys):
    checksum = json.loads((measured / "eval_results.json").read_text())["model"]["checksum"]
    for recorded, lines in ((checksum, 0), ("00000000", 1)):
        exported = SimpleNamespace(checksum=recorded)
        monkeypatch.setattr("eanet.export.onnx.OnnxModel", lambda *_, exported=exported: exported)
        (measured / "onnx").mkdir(exist_ok=True)
        (measured / "onnx" / "model.onnx").touch()
        load_model(str(measured), "onnx")
        assert capsys.readouterr().err.count("not those of its eval_results.json") == lines


@pytest.mark.parametrize("content", ["", "[", "[]", "{}", '{"model": 3}', '{"model": {"checksum": 7}}', "[" * 100_000])
def test_results_without_a_checksum_are_not_compared(content, measured, tiny_model, capsys):
    (measured / "eval_results.json").write_text(content)
    assert not warn_if_foreign(tiny_model, measured) and capsys.readouterr().err == ""


@pytest.mark.parametrize("activation", ["relu", "gelu_tanh"])
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_file_of_keras_own_loads_again(name, activation, tmp_path):
    model = random_weights(build_eanet(tiny_config(activation=activation)))
    model.save(tmp_path / name)
    for load in (keras.saving.load_model, keras.models.load_model):
        np.testing.assert_allclose(load(tmp_path / name).predict_on_batch(IMAGES), model.predict_on_batch(IMAGES), atol=1e-6)
