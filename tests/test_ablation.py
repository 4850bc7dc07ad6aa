"""The ablation: rows from complete runs and from the last report, and variants of the blocks."""

import json
import shutil
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT, run_main, write_official

from modeling_eanet import CIFAR100_LABELS, EANetConfig, build_eanet

sys.path.insert(0, str(ROOT / "benchmarks"))
import ablation
import ablation_variants
import common
import readme

REPORT = json.loads((ROOT / "benchmarks" / "ablation.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty benchmarks/ in an empty tree."""
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setattr(common, "HERE", tmp_path / "benchmarks")
    common.HERE.mkdir()
    return common.HERE


def test_a_row_of_the_ablation_is_compared_by_seed():
    rows = [ablation_row("all", 30, {0: 0.7, 1: 0.72}), ablation_row("none", 30, {1: 0.7, 0: 0.69}),
            ablation_row("one seed", 30, {1: 0.74}), ablation_row("all", 150, {0: 0.8}),
            ablation_row("none", 150, {0: 0.75})]  # fmt: skip
    rows[1]["seeds"][0]["hardware"] = rows[2]["seeds"][0]["hardware"] = "a GPU; a CPU"
    text = readme.ablation({**REPORT, "rows": rows})
    assert [line for line in text.splitlines() if line.startswith(("| all", "| none", "| one seed"))] == [
        "| all | 70.00 / 72.00 | – | 10 | 2.0M |",
        "| none | 69.00 / 70.00 | -1.50 | 10 | 2.0M |",
        "| one seed | – / 74.00 | +2.00 | 10 | 2.0M |",
        "| all | 80.00 | – | 10 | 2.0M |",
        "| none | 75.00 | -5.00 | 10 | 2.0M |",
    ]
    others = '"none" with seed 1 and "one seed" with seed 1 on a GPU, then a CPU, 2026-11-26'
    assert f"\nTrained on a GPU, 2026-11-26; {others}; hold-out" in text and "`--seed N --validation-split 0`" in text
    assert "- none, 30 epochs: `python train.py`\n" in text


def ablation_row(setting, epochs, seeds):
    facts = {"command": "python train.py", "hardware": "a GPU", "trained": "2026-11-26"}
    found = [{"seed": seed, "top1_accuracy": accuracy, **facts} for seed, accuracy in seeds.items()]
    return {"setting": setting, "epochs": epochs, "seeds": found, "parameters": 10, "macs": 2e6}


def write_ablation_run(root, name, seed, accuracy):
    """Write the results of a complete run of two epochs; return its folder and them."""
    run = root / ablation.run_folder(name, seed, 2)
    run.mkdir(parents=True)
    recipe = {key.replace("-", "_"): value for key, value in ablation.recipe(name, seed, 2).items()}
    record = {"seed": seed, "epochs": 2, "hardware": "a GPU", "date": "2026-11-26", "command": "python train.py"}
    sizes = {row["setting"]: row["parameters"] for row in REPORT["rows"]}
    found = {"accuracy": accuracy, "training": {**record, "recipe": recipe}}
    found["model"] = {"parameters": sizes[ablation.SETTINGS[name].title]}
    (run / "eval_results.json").write_text(json.dumps(found))
    return run, found


def test_complete_runs_of_the_ablation_are_reported(folder, tmp_path, monkeypatch, capsys):
    data = write_official(tmp_path / "cifar-100-python", train=200, test=100, labels=CIFAR100_LABELS)
    options = ("--data", data, "--epochs", "2", "--report")
    assert run_main(ablation, *options) == 2 and "pyramid-2-0: no complete run" in capsys.readouterr().err
    parameters = {row["setting"]: row["parameters"] for row in REPORT["rows"]}
    for name, seed, accuracy in (("pyramid", 0, 0.5), ("pyramid", 1, 0.6), ("branches", 1, 0.7)):
        run, found = write_ablation_run(tmp_path, name, seed, accuracy)
    record, trained = found["training"], found["training"]["recipe"]
    assert run_main(ablation, *options) == 0
    assert "no complete run: slim-2-0, slim-widths-2-0, no-teacher-2-0, no-policy-2-0," in capsys.readouterr().err
    first, second = json.loads((folder / "ablation.json").read_text())["rows"]
    facts = {"hardware": "a GPU", "trained": "2026-11-26"}
    seeds = [(0, 0.5), (1, 0.6)]
    assert first["seeds"] == [{"seed": s, "top1_accuracy": a, "command": "python train.py", **facts} for s, a in seeds]
    assert first["top1_accuracy"] == pytest.approx(0.55) and second["macs"] > first["macs"]
    assert [each["top1_accuracy"] for each in second["seeds"]] == [0.7]
    assert second["seeds"][0]["command"].startswith("python benchmarks/ablation_variants.py branches ")
    for option, value in (("augment", None), ("set", {"depthwise_kernel": 0})):
        record["recipe"] = {**trained, option: value}
        (run / "eval_results.json").write_text(json.dumps(found))
        assert run_main(ablation, *options) == 2
        wrong = f"branches-2-1: was trained with {option} {value}, not {trained[option]}; delete it"
        assert wrong in capsys.readouterr().err
    # What is reported stays, also without its folder, unless the model has changed.
    record["recipe"] = trained
    (run / "eval_results.json").write_text(json.dumps(found | {"accuracy": 0.8}))
    shutil.rmtree(tmp_path / ablation.run_folder("pyramid", 1, 2))
    report = json.loads((folder / "ablation.json").read_text())
    report["rows"] += [{**first, "setting": ablation.SETTINGS[name].title} for name in ("no-teacher", "no-depthwise")]
    (folder / "ablation.json").write_text(json.dumps(report))
    assert run_main(ablation, *options) == 0
    rows = {row["setting"]: row for row in json.loads((folder / "ablation.json").read_text())["rows"]}
    assert list(rows) == ["preset pyramid", "no teacher", second["setting"]]
    assert rows["no teacher"]["seeds"] == rows["preset pyramid"]["seeds"] == first["seeds"]
    assert rows[second["setting"]]["seeds"] == [second["seeds"][0] | {"top1_accuracy": 0.8}]
    found["model"] = {"parameters": parameters["with squeeze-and-excitation"]}
    (run / "eval_results.json").write_text(json.dumps(found))
    assert run_main(ablation, *options) == 2
    assert 'branches-2-1: is no run of "with foldable depthwise branches"; delete it' in capsys.readouterr().err


def test_missing_runs_of_the_ablation_are_trained_at_the_same_time(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    data = write_official(tmp_path / "cifar-100-python", train=200, test=100, labels=CIFAR100_LABELS)
    trained, both = [], threading.Barrier(2, timeout=10)

    def train(*words, quiet):
        both.wait()
        name, _, seed = Path(words[words.index("--output") + 1]).name.rsplit("-", 2)
        assert words == tuple(ablation.command(name, int(seed), 2, data, ablation.run_folder(name, seed, 2)))
        trained.append((name, int(seed)))
        write_ablation_run(tmp_path, name, int(seed), 0.5)

    monkeypatch.setattr(common, "run_python", train)
    options = ("--data", data, "--epochs", 2, "--rows", "pyramid", "no-teacher")
    monkeypatch.setattr(ablation, "FULL_EPOCHS", 2)
    assert run_main(ablation, *options, "--commands") == 0 and capsys.readouterr().out.count("python train.py ") == 4
    assert run_main(ablation, *options, "--jobs", 2) == 0
    assert sorted(trained) == [("no-teacher", 0), ("no-teacher", 1), ("pyramid", 0), ("pyramid", 1)]
    assert "runs/ablation/no-teacher-2-1: complete, 4 of 4\n" in capsys.readouterr().err
    assert [len(row["seeds"]) for row in json.loads((folder / "ablation.json").read_text())["rows"]] == [2, 2]
    shutil.rmtree(tmp_path / "runs")  # they are in the report
    assert run_main(ablation, *options) == 0 and len(trained) == 4


@pytest.mark.parametrize("variant", ablation_variants.VARIANTS)
def test_a_variant_changes_the_blocks_and_only_within_its_context(variant):
    config = EANetConfig.preset("pyramid")
    names = {layer.name for layer in build_eanet(config).layers}
    with ablation_variants.changed_blocks(variant):
        assert {layer.name for layer in build_eanet(config).layers} != names
    assert {layer.name for layer in build_eanet(config).layers} == names


def test_the_card_states_what_the_flagship_has_without_a_teacher():
    full = [row for row in REPORT["rows"] if row["epochs"] == ablation.FULL_EPOCHS]
    (row,) = [row for row in full if row["setting"] == ablation.SETTINGS["no-teacher"].title]
    stated = f"without a teacher: {100 * row['top1_accuracy']:.2f}% (hold-out)"
    assert stated in (ROOT / "README.md").read_text(encoding="utf-8")
