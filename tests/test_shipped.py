"""The artefacts in the root belong together, and the card says what they measure."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
import yaml
from apart import LOAD_WITH_HUB, LOAD_WITH_KERAS, installed, run_apart, trainable
from conftest import ROOT
from PIL import Image

import inference
from card_regions import runs_of
from export import OnnxModel
from modeling_eanet import (
    CIFAR100_LABELS,
    KERAS_FILES,
    ONNX_FILE,
    SAVED_MODEL_FILES,
    EANetConfig,
    build_eanet,
    classify,
    deployment_form,
    from_pretrained_keras,
    load_image,
    model_checksum,
)

CARD = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT_MATTER = yaml.safe_load(CARD.split("---\n")[1])
RESULTS = json.loads((ROOT / "eval_results.json").read_text())
SAMPLES = sorted((ROOT / "samples").glob("*.png"))


def between(marker):
    return re.search(f"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", CARD, re.DOTALL).group(1)


def label_of(path):
    return re.sub(r"_\d+$", "", path.stem)


@pytest.fixture(scope="module")
def model():
    return from_pretrained_keras(ROOT)


@pytest.fixture(scope="module")
def pictures(model):
    """The samples at full frame and in crops of different places and sizes: 1,000 pictures, none of them from CIFAR-100."""
    rng = np.random.default_rng(0)
    out = [load_image(path, model.config) for path in SAMPLES]
    while len(out) < 1000:
        picture = Image.open(SAMPLES[len(out) % len(SAMPLES)]).convert("RGB")
        side = int(rng.integers(64, min(picture.size)))
        left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        out.append(load_image(picture.crop((left, top, left + side, top + side)), model.config))
    return np.stack(out)


@pytest.fixture(scope="module")
def expected(model, pictures):
    return np.asarray(model(pictures))


def copied(names, tmp_path):
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "model" / name)
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("backend", "version"), [("tensorflow", "3."), ("jax", "3."), ("torch", "3."), ("tensorflow", "3.11.3")]
)
def test_shipped_keras_files_load_anywhere_alone(backend, version, expected, pictures, tmp_path):
    if backend != "tensorflow":
        pytest.importorskip(backend)
    (tmp_path / "model").mkdir()
    folder = copied(KERAS_FILES, tmp_path)
    path = installed(f"keras=={version}", "--no-deps") if version != "3." else None
    output = run_apart(LOAD_WITH_KERAS, folder, version, pictures=pictures, backend=backend, path=path, cwd=tmp_path)
    np.testing.assert_allclose(output, expected, atol=1e-4)
    np.testing.assert_array_equal(output.argmax(axis=1), expected.argmax(axis=1))


def test_shipped_saved_model_loads_alone_with_the_hub_client(model, expected, pictures, tmp_path):
    (tmp_path / "model").mkdir()
    folder = copied(SAVED_MODEL_FILES, tmp_path)
    path = installed("huggingface_hub==0.36.2")
    output = run_apart(LOAD_WITH_HUB, folder, trainable(deployment_form(model)), pictures=pictures, path=path, cwd=tmp_path)
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_shipped_model_is_the_preset_its_results_name(model):
    assert model.config == EANetConfig.preset(RESULTS["model"]["preset"])
    assert model.count_params() == RESULTS["model"]["parameters"] <= 400_000


def test_shipped_config_is_what_this_code_writes(model):
    """Both halves: ours read from the top, and the graph that the rest describes."""
    written = json.loads((ROOT / "config.json").read_text())
    assert {k: written[k] for k in model.config.to_dict()} == model.config.to_dict()
    theirs, ours = keras.saving.deserialize_keras_object(written), build_eanet(model.config)
    assert json.loads(json.dumps(theirs.get_config())) == json.loads(json.dumps(ours.get_config()))


def test_results_have_the_documented_keys():
    assert set(RESULTS) == {*"accuracy top5_accuracy loss num_images dataset model training versions".split()}
    assert set(RESULTS["dataset"]) == {"id", "name", "split", "note"}
    assert {"seed", "epochs", "wall_time_s", "hardware", "command"} <= set(RESULTS["training"])
    assert 0 < RESULTS["accuracy"] <= RESULTS["top5_accuracy"] < 1 and np.isfinite(RESULTS["loss"])


def test_a_hold_out_figure_is_called_one():
    assert RESULTS["num_images"] == 5000
    assert RESULTS["dataset"]["split"] == "hold-out" and "hold-out" in RESULTS["dataset"]["name"]
    assert RESULTS["dataset"]["name"] in between("results")


def test_history_and_logs_are_of_the_run_the_results_name():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = json.loads((ROOT / "history.json").read_text())
    assert len(history["loss"]) == RESULTS["training"]["epochs"]
    for run, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(ROOT / "logs" / run)).Reload()
        logged = [event.value for event in events.Scalars("epoch_accuracy")]
        np.testing.assert_allclose(logged, history[f"{prefix}accuracy"], atol=1e-6)


def test_model_index_states_the_results_key_by_key():
    (entry,) = FRONT_MATTER["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "Image-Classification-using-EANet"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"]["type"] == RESULTS["dataset"]["id"] == "uoft-cs/cifar100"
    assert result["dataset"]["name"] == RESULTS["dataset"]["name"]
    assert result["dataset"]["split"] == RESULTS["dataset"]["split"]
    stated = {metric["type"]: metric["value"] for metric in result["metrics"]}
    expected = {"accuracy": "accuracy", "top_5_accuracy": "top5_accuracy", "loss": "loss"}
    assert stated == {ours: RESULTS[key] for ours, key in expected.items()}


def test_the_table_on_the_card_rounds_the_results():
    row = (
        f"| {RESULTS['dataset']['name']} | {RESULTS['num_images']:,} | {100 * RESULTS['accuracy']:.2f} % "
        f"| {100 * RESULTS['top5_accuracy']:.2f} % | {RESULTS['loss']:.3f} |"
    )
    assert row in between("results")


def test_the_card_names_the_command_that_made_the_weights():
    runs = runs_of(RESULTS["training"])
    assert "```bash\n" + "\n".join(run["command"] for run in runs) + "\n```" in CARD
    assert all(run["hardware"] in CARD for run in runs)


def test_samples_are_named_after_classes():
    assert len(SAMPLES) >= 10
    assert {label_of(path) for path in SAMPLES} <= set(CIFAR100_LABELS)


def test_the_card_shows_what_the_model_says_of_the_samples(model):
    table = between("samples")
    answers = classify(model, SAMPLES)
    for path, answer in zip(SAMPLES, answers, strict=True):
        cells = []
        for p in answer[:3]:
            label = f"**{p['label']}**" if p["label"] == label_of(path) else p["label"]
            cells.append((label, 100 * p["score"]))
        row = next(line for line in table.splitlines() if line.startswith(f"| `{path.name}` |"))
        for (label, percent), cell in zip(cells, row.strip("| ").split(" | ")[1:], strict=True):
            stated_label, stated = cell.removesuffix(" %").rsplit(" ", 1)
            assert stated_label == label and abs(float(stated) - percent) < 0.11, row
    answers = [[a["label"] for a in answer] for answer in answers]
    top1 = sum(label_of(path) == answer[0] for path, answer in zip(SAMPLES, answers, strict=True))
    top5 = sum(label_of(path) in answer for path, answer in zip(SAMPLES, answers, strict=True))
    assert f"Right in the first answer: {top1} of {len(SAMPLES)}; in the first five: {top5} of {len(SAMPLES)}." in table
    assert top5 > len(SAMPLES) / 2


def test_the_widget_shows_what_the_model_says_of_six_samples(model):
    widget = FRONT_MATTER["widget"]
    names = [entry["src"].rsplit("/", 1)[1] for entry in widget]
    assert names == [path.name for path in SAMPLES[:6]]
    for entry, answer in zip(widget, classify(model, SAMPLES[:6], top_k=3), strict=True):
        assert [o["label"] for o in entry["output"]] == [a["label"] for a in answer]
        assert [o["score"] for o in entry["output"]] == pytest.approx([a["score"] for a in answer], abs=1e-3)


def test_every_picture_on_the_card_is_there_with_a_text_for_those_who_do_not_see_it():
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", CARD)
    assert {"architecture", "curves", "confusion", "calibration", "attention", "slots", "scaling"} <= {
        Image.open(ROOT / name).format and name.removeprefix("figures/").removesuffix(".png") for _, name in pictures
    }
    assert all(len(text) > 20 for text, _ in pictures)
    assert FRONT_MATTER["thumbnail"].endswith(tuple(name for _, name in pictures))


def test_the_evaluation_is_of_these_weights(model):
    measured = json.loads((ROOT / "benchmarks" / "evaluation.json").read_text())
    assert measured["checksum"] == RESULTS["model"]["checksum"] == model_checksum(model)
    assert measured["accuracy"] == pytest.approx(RESULTS["accuracy"]) and measured["num_images"] == RESULTS["num_images"]
    assert f"calibration error (15 bins) is {100 * measured['expected_calibration_error']:.1f} %" in between("evaluation")


def test_shipped_onnx_predicts_what_keras_predicts(model, expected, pictures):
    exported = OnnxModel(ROOT / ONNX_FILE)
    assert exported.checksum == model_checksum(model) and exported.config == model.config
    np.testing.assert_allclose(exported.predict_on_batch(pictures), expected, atol=1e-4)


def test_readme_commands_predict_the_samples_and_are_those_of_ci(capsys):
    (predict,) = re.findall(r"^python3\.11 -m venv .*inference\.py samples$", CARD, re.MULTILINE)
    (test,) = re.findall(r"^python3\.11 -m venv .*-m pytest$", CARD, re.MULTILINE)
    assert "-r requirements.txt" in predict
    ci = (ROOT / ".ci" / "run").read_text()
    install, run = test.replace(" && .venv/bin/python -m pytest", ""), ".venv/bin/python -m pytest"
    assert install.replace("pip install ", "pip install -q ") in ci and run in ci
    assert inference.main([str(ROOT / "samples"), "--format", "json", "--top-k", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(SAMPLES)


def test_no_text_or_artefact_holds_an_absolute_path_or_a_token():
    names = [*KERAS_FILES, "eval_results.json", "history.json", "README.md", "saved_model.pb", "keras_metadata.pb"]
    files = [ROOT / name for name in names] + [p for p in (ROOT / "logs").rglob("*") if p.is_file()]
    for file in files:
        content = file.read_bytes()
        assert not re.search(rb"/(home|root|Users|work|tmp)/", content), file.name
        assert not re.search(rb"hf_[A-Za-z0-9]{30,}", content), file.name
