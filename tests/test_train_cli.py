"""The command line of train.py: its output, its usage errors, and where it runs."""

import importlib
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, ROOT, run_main, run_program, write_official
from PIL import Image
from training_runs import (
    ARTEFACTS,
    EPOCHS,
    RECIPE,
    assert_logs_match_history,
    colours,
    error_line,
    events_in,
    files_in,
    finished,
    main,
    read_json,
    train_config,
    weights_in,
)

import train
from eanet import evaluation, saving
from eanet.run_dir import check_outside_data, recipe_of
from eanet.saving import model_checksum
from eanet.train_config import TrainConfig
from modeling_eanet import from_pretrained_keras

# What a run writes ----------------------------------------------------------------------------------------------------


def test_run_writes_all_of_its_files_and_no_others():
    assert files_in(finished()[0]).keys() == ARTEFACTS
    assert [p.name for p in finished()[0].parent.iterdir()] == ["run"]


def test_run_learns():
    history, results = (read_json(finished()[0] / name) for name in ("history.json", "eval_results.json"))
    assert results["accuracy"] > 0.8 and history["val_accuracy"][-1] > 0.8
    assert history["loss"][-1] < history["loss"][0]


def test_history_has_every_measure_of_every_epoch():
    history = read_json(finished()[0] / "history.json")
    assert history.keys() == {*("loss", "accuracy", "learning_rate", "images_per_s", "val_loss", "val_accuracy", "time")}
    assert {len(values) for values in history.values()} == {EPOCHS}
    assert history["time"] == sorted(history["time"])


def test_tensorboard_reads_the_history():
    assert_logs_match_history(finished()[0])
    assert events_in(finished()[0] / "logs" / "validation").keys() == {"epoch_loss", "epoch_accuracy"}


def test_json_prints_the_result_and_progress_goes_to_standard_error():
    folder, out, err = finished()
    assert json.loads(out) == read_json(folder / "eval_results.json")
    classes, sizes, left_out, first, *lines = err.splitlines()
    assert classes == "cifar-100-python: 3 classes (red, green, blue)" and left_out == "left out: nothing"
    assert sizes == "images: 320 train, no validation split, 64 test"
    assert "256 training images (64 held out for validation), epochs: 5, steps per epoch: 16" in first
    assert [line.split()[:2] for line in lines] == [["epoch", f"{i}/{EPOCHS}"] for i in range(1, EPOCHS + 1)]


def test_eval_results_have_the_documented_schema():
    import keras
    import tensorflow as tf

    results, model = read_json(finished()[0] / "eval_results.json"), from_pretrained_keras(finished()[0])
    settings = read_json(finished()[0] / "settings.json")
    date, hardware, seconds = (results["training"].pop(key) for key in ("date", "hardware", "wall_time_s"))
    assert len(date.split("-")) == 3 and hardware.endswith("CPU cores") and 0 < seconds < 600
    measures = {key: results.pop(key) for key in ("accuracy", "top5_accuracy", "loss")}
    assert all(type(value) is float for value in measures.values())
    command = "python train.py --data cifar-100-python --preset tiny --epochs 5 --seed 3"  # the batch size is automatic
    command += " --validation-split 0.2 --learning-rate 0.01 --warmup-epochs 1.0 --ema 0.9"
    assert results == {
        "num_images": 64,
        "dataset": {"id": "", "name": "cifar-100-python", "split": "test", "note": ""},
        "model": {"preset": "tiny", "parameters": model.count_params(), "checksum": model_checksum(model)},
        "training": {
            "seed": 3,
            "epochs": EPOCHS,
            "num_images": 256,
            "init_from": None,
            "parent_run": None,
            "data_crc32": settings["data_crc32"],
            "data_listing_crc32": settings["data_listing_crc32"],
            "stratified": False,
            "backend": f"tensorflow {tf.__version__}",
            "final_loss": read_json(finished()[0] / "history.json")["loss"][-1],
            "command": command,
            "recipe": settings["recipe"] | {"init_from": None, "ema": 0.9},
        },
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            "keras": keras.__version__,
            "backend": "tensorflow",
            "tensorflow": tf.__version__,
        },
    }
    assert recipe_of(train_config(*shlex.split(command)[2:]).resolved(settings["num_images"])) == settings["recipe"]


def test_a_run_keeps_a_few_images_of_its_test_split():
    record = pickle.loads((colours() / "test").read_bytes())
    images = record[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    for path in sorted((finished()[0] / "test_samples").iterdir()):
        (i,) = np.flatnonzero((images == np.asarray(Image.open(path))).all(axis=(1, 2, 3)))
        assert path.name.startswith(f"{LABELS[record[b'fine_labels'][i]]}_")


def test_no_file_has_a_path_of_this_machine():
    places = {str(finished()[0].parent), str(colours().parent), str(ROOT), sys.prefix, str(Path.home()), os.getcwd()} - {"/"}
    for name, content in files_in(finished()[0]).items():
        assert [place for place in places if place.encode() in content] == [], name


def test_artefacts_have_weights_but_no_optimizer_and_no_augmentation():
    import tensorflow as tf

    folder = finished()[0]
    weights, config = weights_in(folder), read_json(folder / "config.json")
    assert sum(array.size for array in weights.values()) == read_json(folder / "eval_results.json")["model"]["parameters"]
    assert not any("optimizer" in name for name in weights)
    saved = tf.train.list_variables(str(folder / "variables" / "variables"))
    assert not any("optimizer" in name or "moment" in name for name, _ in saved)
    shapes = {tuple(shape) for name, shape in saved if "CHECKPOINTABLE_OBJECT_GRAPH" not in name}
    assert shapes - {(2,)} == {array.shape for array in weights.values()}  # (2,) is the state of a dropout
    assert not config.get("compile_config")
    classes = {layer["class_name"] for layer in config["config"]["layers"]}
    assert not any("Random" in name or "Augment" in name or "Pipeline" in name for name in classes)
    for name in ("config.json", "keras_metadata.pb", "saved_model.pb"):
        content = (folder / name).read_bytes()
        assert not any(word in content for word in (b"AdamW", b"RandomFlip", b"RandomCrop", b"RandomTranslation")), name


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--preset", "enormous"], ["--set", "slot=[1,2]"], ["--set", "slots=[1]"]])
def test_bad_architecture_is_one_line(options):
    name, value = options[0][2:], options[1].partition("=")[0]
    line = error_line(*main(*options)[::2])
    assert value in line and (name in line or value == "slots")


def test_evaluating_needs_a_model():
    status, _, err = main("--evaluate-only", "--data", "somewhere")
    assert status == 2 and err.splitlines()[-1] == "train.py: error: --evaluate-only needs --model DIR_OR_REPO"
    status, _, err = main("--evaluate-only", "--model", ".", "--split", "other")
    assert status == 2 and "--split" in err.splitlines()[-1] and "other" in err.splitlines()[-1]


@pytest.mark.parametrize(("options", "expected"), [
    (["--evaluate-only", "--model", "x", "--output", "y"], "--output has no effect with --evaluate-only; leave it out"),
    (["--evaluate-only", "--model", "x", "--set", "slots=[1,1]"], "--set has no effect with --evaluate-only; leave it out"),
    (["--evaluate-only", "--model", "x", "--export", "y"], "--export has no effect with --evaluate-only; leave it out"),
    (["--export", "x", "--inspect"], "--inspect has no effect with --export; leave it out"),
    (["--export", "x", "--batch-size", "4"], "--batch-size has no effect with --export; leave it out"),
    (["--model", "x"], "--model needs --evaluate-only"),
    (["--split", "test"], "--split needs --evaluate-only"),
])  # fmt: skip
def test_options_without_effect_are_refused(options, expected):
    status, out, err = main(*options)
    assert (status, out, err.splitlines()[-1]) == (2, "", f"train.py: error: {expected}")


def test_inspecting_takes_the_options_of_the_run(tmp_path):
    status, out, _ = main("--data", colours(), "--epochs", 3, "--output", tmp_path / "run", "--inspect")
    assert status == 0 and json.loads(out)["classes"] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "options", "output"),
    [
        (".", [], "runs/tiny"),
        ("../images", ["--output", "run"], "run"),
        (".", ["--output", "../link/runs/a"], "../link/runs/a"),
        ("../link", ["--output", "cat/run"], "cat/run"),
        (".", ["--output", "elsewhere/run"], "elsewhere/run"),  # a link out of the data, which is followed
    ],
)
def test_a_run_inside_its_data_is_refused(tmp_path, monkeypatch, data, options, output):
    for name in ("images/cat", "images/dog", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("images")
    (tmp_path / "images" / "elsewhere").symlink_to("../other")
    monkeypatch.chdir(tmp_path / "images")
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["--data", data, "--preset", "tiny", *options],
        ["--data", data, "--preset", "tiny", "--resume", *options],
    ):
        line = error_line(*main(*command)[::2])
        assert line.endswith(f"output {output}: is inside data {data}, and would be read with it; name a folder outside it")
    assert sorted(tmp_path.rglob("*")) == before
    Path(output).mkdir(parents=True)
    Path(output, "settings.json").touch()
    assert error_line(*main(*command)[::2]).endswith("; move this run out of it, and name its new folder")


@pytest.mark.parametrize("data", [None, "images/set.csv", "user/name"])
def test_a_run_is_not_inside_data_that_is_no_folder(tmp_path, monkeypatch, data):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "set.csv").touch()
    monkeypatch.chdir(tmp_path)
    for output in ("images/run", "images/set.csv/run", "user/name/run", "image"):
        check_outside_data(TrainConfig(data=data, output=output))
    check_outside_data(TrainConfig(data="images", output="images-2/run"))


def test_data_is_inspected_where_its_runs_would_be(tmp_path, monkeypatch):
    monkeypatch.chdir(write_official(tmp_path / "data"))
    status, out, _ = main("--data", ".", "--inspect")
    assert status == 0 and json.loads(out)["classes"] and not Path("runs").exists()


def test_missing_data(tmp_path):
    status, out, err = main("--data", tmp_path / "nowhere", *RECIPE, "--output", tmp_path / "run")
    assert f"data {tmp_path / 'nowhere'}: no such file or folder" in error_line(status, err)
    assert out == "" and not (tmp_path / "run").exists()


def test_bug_is_a_traceback(monkeypatch):
    """Only what a person can cause is one line."""
    for bug in (TypeError, KeyError, ValueError):

        def evaluate_model(*args, bug=bug, **kwargs):
            raise bug("a programming error")

        monkeypatch.setattr(evaluation, "evaluate_model", evaluate_model)
        with pytest.raises(bug):
            run_main(train, "--evaluate-only", "--model", "x")


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_exporting_a_folder_without_a_model(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    status, out, err = main("--export", tmp_path / folder)
    assert str(tmp_path / folder) in error_line(status, err)
    assert out == "" and list((tmp_path / "empty").iterdir()) == []


def test_exporting_does_not_ask_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    status, _, err = main("--export", "runs/small")
    assert "runs/small: no such folder" in error_line(status, err)


def test_exporting_names_a_backend_that_is_not_installed(tiny_folder, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "theano")
    status, _, err = main("--export", tiny_folder)
    assert "Keras backend theano: set KERAS_BACKEND to tensorflow, jax or torch" in error_line(status, err)


@pytest.mark.parametrize(("module", "function", "options", "message"), [
    ("eanet.trainer", "train", [], "stopped; the same command resumes after the last completed epoch"),
    ("eanet.evaluation", "evaluate_model", ["--evaluate-only", "--model", "."], "stopped"),
    ("eanet.saving", "add_saved_model", ["--export", "."], "stopped"),
    ("eanet.data", "inspect", ["--inspect", "--data", ROOT / "samples"], "stopped"),
])  # fmt: skip
def test_ctrl_c_says_how_to_go_on(module, function, options, message, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(module), function, interrupt)
    monkeypatch.setattr("eanet.data.load_dataset", lambda *args, **kwargs: None)
    assert main(*options) == (130, "", f"\ntrain.py: {message}\n")


def test_exporting_needs_the_tensorflow_backend(tiny_folder, monkeypatch):
    before = files_in(tiny_folder)
    monkeypatch.setattr(saving, "can_write_saved_model", lambda: False)
    status, _, err = main("--export", tiny_folder)
    assert "KERAS_BACKEND=tensorflow" in error_line(status, err)
    assert files_in(tiny_folder) == before


def test_errors_come_before_tensorflow_is_imported(tiny_folder, tmp_path):
    other = write_official(tmp_path / "other", labels=("red", "green", "violet"))
    (tmp_path / "thesis.tex").write_text("mine")
    output = ["--output", tmp_path / "run"]
    started = ["--data", colours(), *RECIPE, "--output", tmp_path / "started"]
    (tmp_path / "started").mkdir()
    settings = {"recipe": recipe_of(train_config(*started)), "data_crc32": 0}
    config = read_json(tiny_folder / "config.json")
    (tmp_path / "started" / "settings.json").write_text(json.dumps(settings | {"config": config}))
    commands = [
        ["--epochs", "0", *output],
        ["--preset", "enormous", *output],
        ["--evaluate-only"],
        ["--data", tmp_path / "nowhere", *output],
        ["--data", colours(), "--validation-split", "0.999", *output],
        ["--data", colours(), *RECIPE, "--output", tmp_path],
        ["--data", colours(), *RECIPE, "--output", tmp_path / "thesis.tex" / "run"],
        [*started, "--seed", "99"],
        started,
        ["--data", colours(), *RECIPE, "--resume", *output],
        ["--data", colours(), "--init-from", tmp_path, *output],
        ["--evaluate-only", "--model", tmp_path / "nowhere", "--data", colours()],
        ["--evaluate-only", "--model", tiny_folder, "--data", other],
        ["--export", tmp_path / "nowhere"],
    ]
    commands = [[str(word) for word in command] for command in commands]
    (tmp_path / "several.py").write_text(
        "import json, sys, train\nfrom eanet.cli import run\n\n"
        "def main(argv=None):\n"
        "    for command in json.loads(sys.argv[1]):\n"
        "        try:\n            status = run(train.main, command)\n"
        "        except SystemExit as stop:\n            status = stop.code\n"
        "        print(status, 'tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    result = run_program("several", json.dumps(commands), env={"PYTHONPATH": str(tmp_path)})
    assert result.stdout.splitlines() == ["2 False False"] * len(commands), result.stderr
    assert "Traceback" not in result.stderr


# Where it runs --------------------------------------------------------------------------------------------------------


def test_runs_where_every_file_is_a_link(tiny_folder, tmp_path):
    """As in the Hub's cache after `snapshot_download`, and from another working directory."""
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    blobs.mkdir()
    files = [ROOT / "train.py", ROOT / "modeling_eanet.py", *(ROOT / "eanet").rglob("*.py")]
    for i, file in enumerate(files):
        (blobs / str(i)).write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(ROOT)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    (tmp_path / "elsewhere").mkdir()
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, snapshot / "train.py", "--evaluate-only", "--model", tiny_folder, "--data", colours()]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and json.loads(done.stdout)["num_images"] == 64, done.stderr
    assert done.stderr.startswith("top-1 ") and len(done.stderr.splitlines()) == 2
