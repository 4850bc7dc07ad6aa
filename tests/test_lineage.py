"""Which runs are a model's own: the published model it was fine-tuned from, and its teachers."""

import copy
import json

import pytest

from eanet.hub.lineage import name_sources, own_teachers, split_lineage
from eanet.run_dir import training_runs

RECIPE = dict(cutmix=0.5, batch_size=64, learning_rate=0.005, warmup_epochs=2.0, weight_decay=0.1, label_smoothing=0.05)
RECIPE |= dict(precision="float32", ema=0.9975)
TRAINING = dict(command="python train.py", seed=7, epochs=1, num_images=1, wall_time_s=4.2, hardware="a laptop")
TRAINING |= dict(date="2026-01-31", init_from="runs/base", final_loss=1.0, recipe=RECIPE)
FIRST = {**TRAINING, "command": "python train.py --epochs 3", "init_from": None, "epochs": 3, "seed": 8}
TUNED = {**TRAINING, "command": "python train.py --data 'my shapes' --init-from .", "init_from": ".", "parent_run": FIRST}


def publish(folder):
    """Write what tells that a folder is a copy of a published model, which FIRST trained, and return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text('```python\nload_model("hf://me/base")\n```\n')
    (folder / "eval_results.json").write_text(json.dumps({"training": FIRST}))
    (folder / "models" / "base").mkdir(parents=True)
    (folder / "models" / "base" / "eval_results.json").write_text(json.dumps({"training": {**FIRST, "seed": 5}}))
    return folder


@pytest.mark.parametrize(
    ("last", "base", "own"),
    [
        ({}, "me/base", 1),
        ({"init_from": "you/other", "parent_run": None}, "you/other", 1),
        ({"init_from": "you/other"}, "me/base", 1),  # the copy tells whose weights they are
        ({"init_from": "runs/first", "parent_run": {**FIRST, "seed": 9}}, None, 2),
        ({"init_from": "models/base", "parent_run": {**FIRST, "seed": 5}}, "me/base", 1),  # the larger model of the copy
        ({"init_from": "models/base", "parent_run": None}, None, 1),  # no name on the Hub
        ({"init_from": "runs/tuned", "parent_run": TUNED}, "me/base", 2),
        ({"init_from": None, "parent_run": None}, None, 1),
    ],
)
def test_the_base_model_is_found_by_name_or_by_its_training(last, base, own, tmp_path):
    published, runs = publish(tmp_path), training_runs({**TUNED, **last})
    found, kept = split_lineage(runs, "me/new", published)
    assert (found, len(kept)) == (base, own) and kept == runs[-own:]
    assert base != "me/base" or split_lineage(runs, "me/base", published) == (None, runs)  # it is not its own base


def test_own_teachers_are_those_of_runs_and_of_the_larger_model_here():
    teacher = {"command": "python train.py --output runs/base", "recipe": {}}
    run = {"command": "python train.py --teacher runs/base", "recipe": {"teacher": "runs/base"}, "teacher_run": teacher}
    assert own_teachers([run]) == [teacher]
    assert own_teachers([run | {"recipe": {"teacher": "user/name"}}]) == own_teachers([{"recipe": None}]) == []
    inside = run | {"recipe": {"teacher": "models/base"}}  # another model of the same repository
    assert (
        own_teachers([inside], teacher) == own_teachers([inside, inside], teacher) == [teacher]
        and own_teachers([inside], {}) == own_teachers([inside]) == []
    )


def test_copies_of_a_record_are_named_alike_so_that_they_stay_equal(tmp_path):
    published = publish(tmp_path)
    teacher = {**TRAINING, "init_from": None, "recipe": {"teacher": "."}, "teacher_run": FIRST}
    teacher["command"] = "python train.py --teacher . --output runs/t"
    parent = {**TRAINING, "init_from": None, "recipe": {"teacher": "runs/t"}, "teacher_run": teacher}
    last = {**parent, "init_from": "runs/p", "parent_run": parent}
    runs = training_runs(copy.deepcopy(last))
    runs[-1]["teacher_run"] = copy.deepcopy(teacher)  # as in JSON, where nothing is shared
    teachers = own_teachers(runs, None, "me/new", published)
    name_sources([*teachers, *runs], "me/new", None, published)
    assert [run["command"] for run in teachers] == ["python train.py --teacher me/base --output runs/t"]
    assert teachers == [run["teacher_run"] for run in runs[:1]] == [runs[-1]["teacher_run"]]
    assert runs[0] == runs[1]["parent_run"] and teachers[0]["recipe"]["teacher"] == "me/base"


def test_a_teacher_that_was_pulled_into_runs_is_not_an_own_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish(tmp_path / "tree")
    (tmp_path / "runs").mkdir()
    publish(tmp_path / "runs" / "pulled")
    run = {**TRAINING, "init_from": None, "recipe": {"teacher": "runs/pulled"}, "teacher_run": FIRST}
    assert own_teachers([run], None, "me/new", tmp_path / "tree") == []
    assert own_teachers([run], None, "me/base", tmp_path / "tree") == [FIRST]
