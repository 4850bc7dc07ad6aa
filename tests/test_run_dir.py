"""A run's folder: which runs may resume, the checkpoint, the recorded command."""

import dataclasses
import shutil

import pytest
from conftest import write_official
from PIL import Image
from training_runs import RECIPE, colours, error_line, files_in, main, quick_runs, read_json, train_config, two_epochs

from eanet.cli import write_json
from eanet.run_dir import prepare_run, read_settings, reproducing_command, training_runs
from modeling_eanet import UserError


def config(folder, *options, data=None):
    return train_config("--data", data or colours(), *RECIPE, "--output", folder, *options)


@pytest.fixture
def started(tmp_path):
    """The folder of a run that has a checkpoint, as far as its name goes."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "settings.json", prepare_run(config(folder)).settings)
    (folder / "checkpoint.npz").touch()
    return folder


def error_of(*args, **kwargs):
    with pytest.raises(UserError) as caught:
        prepare_run(config(*args, **kwargs))
    return str(caught.value)


# What resumes ---------------------------------------------------------------------------------------------------------


def test_same_options_resume(started):
    for options in ([], ["--resume"]):
        run = prepare_run(config(started, *options))
        assert run.resuming and run.settings == read_json(started / "settings.json") and run.initial_weights is None


@pytest.mark.parametrize(("option", "value", "recorded"), [("seed", 99, 3), ("epochs", 6, 5), ("learning-rate", 0.5, 0.01)])
def test_other_options_are_another_run(started, option, value, recorded):
    field = option.replace("-", "_")
    assert f"holds another run, with {field} {recorded} instead of {value}; " in error_of(started, f"--{option}", value)


def test_automatic_options_resume(tmp_path):
    """They are recorded; leaving them out or giving the same is one run."""
    folder = tmp_path / "run"
    folder.mkdir()
    run = prepare_run(train_config("--data", colours(), "--preset", "tiny", "--output", folder))
    assert run.settings["num_images"] == 320
    recorded = {
        name: run.settings["recipe"][name] for name in ("learning_rate", "batch_size", "epochs", "warmup_epochs", "ema")
    }
    assert recorded == dict(learning_rate=5e-3, batch_size=16, epochs=50, warmup_epochs=2.0, ema=1 - 20 / 1000)
    assert reproducing_command(run.config, 320).split()[4:] == ["--preset", "tiny"]
    write_json(folder / "settings.json", run.settings)
    for options in ([], ["--epochs", 50], ["--batch-size", 16, "--ema", recorded["ema"]]):
        assert prepare_run(train_config("--data", colours(), "--preset", "tiny", "--output", folder, *options)).resuming
    with pytest.raises(UserError, match="with batch_size 16 instead of 32;"):
        prepare_run(train_config("--data", colours(), "--preset", "tiny", "--output", folder, "--batch-size", 32))


def test_run_that_did_not_record_the_number_of_images_has_the_older_defaults(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    settings = prepare_run(train_config("--data", colours(), "--preset", "tiny", "--output", folder)).settings
    del settings["num_images"]
    settings["recipe"] |= dict(batch_size=128, epochs=75, ema=None)
    write_json(folder / "settings.json", settings)
    run = prepare_run(train_config("--data", colours(), "--preset", "tiny", "--output", folder))
    assert run.resuming and (run.config.epochs, run.config.batch_size, run.config.ema) == (75, 128, None)


def test_other_data_is_another_run(started, tmp_path):
    other = write_official(tmp_path / "cifar-100-python", train=321, test=64)
    assert f"output {started}: holds a run on other data than {other}" in error_of(started, data=other)


def test_missing_data_is_reported_before_another_run(started, tmp_path):
    message = error_of(started, "--seed", 99, data=tmp_path / "nowhere")
    assert message.startswith(f"data {tmp_path / 'nowhere'}: no such file or folder")


def test_run_of_an_older_version_resumes(started):
    """Fields that its settings lack have their defaults; what they call "begun_with" is the parent run."""
    settings = read_json(started / "settings.json")
    for key in ("initial_weights_crc32", "parent_run"):
        settings.pop(key)
    settings["begun_with"] = {"seed": 3, "data_crc32": settings["data_crc32"], "recipe": {"validation_split": 0.2}}
    for key in ("cutmix", "precision", "set"):
        settings["recipe"].pop(key)
    for key in ("interpolation", "norm_epsilon", "drop_path"):
        settings["config"].pop(key)
    write_json(started / "settings.json", settings)
    assert prepare_run(config(started)).resuming
    assert "with cutmix 0.5 instead of 0.25" in error_of(started, "--cutmix", 0.25)
    settings["begun_with"]["seed"] = 4
    write_json(started / "settings.json", settings)
    assert "overlaps the images" in error_of(started)


def test_resume_needs_a_run(tmp_path):
    assert error_of(tmp_path / "run", "--resume").startswith(f"output {tmp_path / 'run'}: holds no run to resume")
    assert not (tmp_path / "run").exists()


def test_resume_needs_a_checkpoint(started):
    (started / "checkpoint.npz").unlink()
    assert "holds no checkpoint yet" in error_of(started, "--resume")
    assert prepare_run(config(started)).resuming


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert error_of(tmp_path).startswith(f"output {tmp_path}: is not empty")
    for folder in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "run"):
        assert error_of(folder) == f"output {folder}: {tmp_path / 'thesis.tex'} is a file, not a folder"
    assert files_in(tmp_path) == {"thesis.tex": b"mine"}


def test_folder_with_what_a_killed_run_left_is_empty(tmp_path):
    (tmp_path / ".settings.json.4711.tmp").touch()
    assert not prepare_run(config(tmp_path)).resuming
    with quick_runs():
        options = ["--epochs", 1, "--batch-size", 128, "--warmup-epochs", 0]
        status, _, err = main("--data", colours(), *RECIPE, *options, "--output", tmp_path)
    assert status == 0, err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"recipe": 1, "data_crc32": 2}', '{"recipe": {}}'])
def test_damaged_settings(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    message = error_of(tmp_path)
    assert message.startswith(f"{tmp_path / 'settings.json'}: ")
    with pytest.raises(UserError):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: content.replace(b".npy", b".nqy")],
    ids=["truncated", "empty", "renamed"],
)
def test_damaged_checkpoint_is_reported_and_kept(tmp_path, damage):
    folder = two_epochs(tmp_path)
    path = folder / "checkpoint.npz"
    path.write_bytes(damage(path.read_bytes()))
    before = files_in(folder)
    status, _, err = main("--data", colours(), *RECIPE, "--output", folder)
    line = error_line(status, err)
    assert str(path) in line and "cannot be resumed from" in line
    assert files_in(folder) == before


# The recorded command -------------------------------------------------------------------------------------------------


def test_recorded_command_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [*RECIPE, "--set", "slots=[2,3]", "--cutmix", 0, "--precision", "mixed_bfloat16", "--output", "runs/mine"]
    given = train_config("--data", colours(), *options)
    words = reproducing_command(given).split()
    assert words[:4] == ["python", "train.py", "--data", "cifar-100-python"]
    again = train_config(*(word.strip("'") for word in words[2:]))
    assert again == dataclasses.replace(given, data="cifar-100-python")


@pytest.mark.parametrize("option", ["--warmup-epochs", "--stop-after", "--teacher-epochs"])
def test_recorded_command_has_numbers_that_only_many_epochs_allow(option):
    given = train_config("--epochs", 400, "--teacher", "user/base", option, 300)
    again = train_config(*reproducing_command(given).split()[2:])
    assert again == given and getattr(again, option[2:].replace("-", "_")) == 300


def test_recorded_command_has_paths_below_the_working_directory_only(tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    monkeypatch.chdir(here)

    def command(*args):
        return reproducing_command(train_config(*args))

    assert command("--output", "runs/small") == command("--output", here / "runs" / "small") == "python train.py"
    assert command("--output", "runs/mine") == "python train.py --output runs/mine"
    assert command("--output", elsewhere) == command("--output", "../elsewhere") == "python train.py"
    assert command("--data", ".") == "python train.py --data here"
    assert command("--data", "../elsewhere/x.tar.gz") == "python train.py --data x.tar.gz"
    assert command("--init-from", "runs/small") == "python train.py --init-from runs/small"
    assert command("--init-from", "user/name", "--output", "runs/tuned") == "python train.py --init-from user/name"
    assert command("--init-from", ".") == "python train.py --init-from ."
    for path in (elsewhere, "../elsewhere", "runs/../../elsewhere"):
        assert command("--init-from", path) == "python train.py --init-from elsewhere"


def test_lineage_is_oldest_first_whatever_its_key():
    oldest = {"seed": 0, "begun_with": None}
    runs = training_runs({"seed": 2, "parent_run": {"seed": 1, "begun_with": oldest}})
    assert [run["seed"] for run in runs] == [0, 1, 2]
    assert training_runs({}) == []


# The validation draw ---------------------------------------------------------------------------------------------------


@pytest.fixture
def class_folders(tmp_path):
    for label, colour in (("red", (200, 40, 40)), ("green", (40, 180, 60))):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (32, 32), tuple(c + i for c in colour)).save(tmp_path / "images" / "train" / label / f"{i}.png")
    return tmp_path / "images"


def test_class_folders_are_stratified_unless_the_run_is_older(class_folders, tmp_path):
    folder = tmp_path / "run"
    run = prepare_run(config(folder, data=class_folders))
    assert run.dataset.stratify and run.settings["stratified"]
    folder.mkdir()
    write_json(folder / "settings.json", {name: value for name, value in run.settings.items() if name != "stratified"})
    assert not prepare_run(config(folder, data=class_folders)).dataset.stratify


@pytest.mark.parametrize("stratified", [True, False, None])
def test_fine_tuning_on_the_same_data_holds_out_the_same_images(class_folders, tmp_path, tiny_folder, stratified):
    parent = shutil.copytree(tiny_folder, tmp_path / "parent")
    settings = prepare_run(config(tmp_path / "run", data=class_folders)).settings
    training = {"seed": 3, "data_crc32": settings["data_crc32"], "recipe": {"validation_split": 0.2}}
    training |= {} if stratified is None else {"stratified": stratified}
    write_json(parent / "eval_results.json", {"training": training})
    options = (
        "--data",
        class_folders,
        "--init-from",
        parent,
        "--seed",
        3,
        "--validation-split",
        0.2,
        "--output",
        tmp_path / "new",
    )
    assert prepare_run(train_config(*options)).dataset.stratify == bool(stratified)


@pytest.mark.parametrize("changes", [("--image-size", 48), ("--resize", "crop")])
@pytest.mark.parametrize("split", [("--seed", 4), ("--validation-split", 0.1)])
def test_validation_images_must_be_new_to_the_initial_weights_at_any_size(
    class_folders, tmp_path, tiny_folder, changes, split
):
    """Resized to other pixels, the images of the parent run are still the same."""
    wide = Image.linear_gradient("L").rotate(90).resize((64, 32))
    wide.save(class_folders / "train" / "red" / "wide.png")
    parent, options = shutil.copytree(tiny_folder, tmp_path / "parent"), ["--data", class_folders, "--output"]
    settings = prepare_run(train_config(*options, tmp_path / "a", "--preset", "tiny", "--seed", 3)).settings
    training = {name: settings[name] for name in ("data_crc32", "data_listing_crc32", "stratified", "recipe")}
    write_json(parent / "eval_results.json", {"training": {"seed": 3, **training}})
    options += [tmp_path / "new", "--init-from", parent, "--seed", 3, *changes]
    assert prepare_run(train_config(*options)).settings["data_crc32"] != settings["data_crc32"]
    with pytest.raises(UserError, match="overlaps the images that the initial weights .* use seed 3 and validation_split"):
        prepare_run(train_config(*options, *split))
