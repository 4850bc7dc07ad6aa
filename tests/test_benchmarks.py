"""The benchmarks: the example is the published one, counts and fits are right, and results are read by key."""

import json
import random
import re
import shlex
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_main
from PIL import Image

sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation
import attention_scaling
import common
import distillation
import endpoint
import evaluation
import exports
import fine_tuning
import hold_out
import keras_io_example
import large_sets
import peers
import predict_speed
import reading
import readme
import reproduction
import robustness
import scaling
import scaling_prediction
import train_speed

from eanet import saving
from eanet.evaluation import count_macs
from modeling_eanet import CIFAR100_LABELS, EANetConfig, UserError, build_eanet

RESULTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.json"))
PROGRAMS = [ablation, attention_scaling, evaluation, exports, fine_tuning, large_sets, predict_speed, reading, readme]
PROGRAMS += [distillation, endpoint, hold_out, reproduction, robustness, scaling, train_speed]


def results(name):
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def walk(value):
    """Yield every key of nested dictionaries and lists."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)
    yield from value if isinstance(value, dict) else ()


def shuffled(value, rng):
    """Return a copy of nested JSON values with the keys of every object in random order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: shuffled(value[key], rng) for key in keys}
    return [shuffled(item, rng) for item in value] if isinstance(value, list) else value


# Results and README.md ------------------------------------------------------------------------------------------------


def test_readme_is_generated_from_the_results():
    assert readme.render() == (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert set(RESULTS) <= set(readme.SECTIONS)


@pytest.fixture
def folder(tmp_path):
    """An empty benchmarks/ next to figures/."""
    shutil.copytree(ROOT / "figures", tmp_path / "figures")
    (tmp_path / "benchmarks").mkdir()
    return tmp_path / "benchmarks"


def test_key_order_does_not_change_the_readme(folder):
    for seed in range(3):
        rng = random.Random(seed)
        for name in RESULTS:
            (folder / f"{name}.json").write_text(json.dumps(shuffled(results(name), rng)))
        assert readme.render(folder) == readme.render()


def test_sections_have_their_figures(folder, tmp_path):
    for section, name in readme.FIGURES.items():
        (folder / f"{section}.json").write_text(json.dumps(results(section)))
        assert readme.render(folder).count(f'<img src="../figures/{name}.png"') == 1
    shutil.rmtree(tmp_path / "figures")
    assert "<img" not in readme.render(folder)


@pytest.mark.parametrize("name", RESULTS)
def test_keys_are_identifiers(name):
    keys = set(walk(results(name)))
    assert {"rows", "command", "hardware", "date", "versions"} <= keys
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in keys), keys


def test_every_caption_has_its_command_hardware_and_date():
    text = readme.render()
    for name in RESULTS:
        found = results(name)
        assert readme.measured(found) == f"`{found['command']}` on {found['hardware']}, {found['date']}."
        assert readme.measured(found) in text


def test_one_table_has_every_prediction_time():
    table = readme.render().split("## Prediction speed")[1].split("##")[0]
    columns = ("one image, ms, all cores", "one image, ms, one core", "cold start, s, all cores", "cold start, s, one core")
    assert all(table.count(column) == 1 for column in columns) and "cold start" not in readme.render().split(table)[1]
    rows = {row["form"]: row for row in results("exports")["rows"]}
    for form in ("ONNX", "Keras"):
        one_image, cold_start = (readme.cell(key, rows[form][key]) for key in ("one_image_ms", "cold_start_s"))
        assert f"| {one_image} | {cold_start} |" in table
    assert f"| {results('predict_speed')['cold_start_s']:.2f} |" in table


def test_readme_leaves_out_other_weights_and_missing_results(folder):
    for name in RESULTS:
        (folder / f"{name}.json").write_text(json.dumps(results(name)))
    checksum = results("exports")["checksum"]
    assert readme.render(folder, checksum) == readme.render()
    other = readme.render(folder, "00000000")
    marked = re.sub(r"<!-- weights \w+ -->.*?<!-- end -->\n*", "", readme.render(), flags=re.DOTALL)
    for heading in ("## Exports", "## Evaluation"):
        assert heading in readme.render() and heading not in other + marked
    (folder / "exports.json").unlink()
    assert "ms, one core" not in readme.render(folder) and "## Training speed" in readme.render(folder)


@pytest.mark.parametrize("damage", ["[]", "{}", "no json", '{"rows": [{}]}'])
def test_damaged_results_are_named(damage, tmp_path):
    (tmp_path / "ablation.json").write_text(damage)
    with pytest.raises(UserError, match=r"ablation\.json: "):
        readme.render(tmp_path)


def test_our_loader_reads_the_most():
    rows = results("reading")["rows"]
    right = {name: sum(row[name]["right"] for row in rows) for name in reading.LOADERS}
    assert right["ours"] == len(rows) > 2 * max(right["datasets"], right["keras"])


def test_sections_of_runs_on_ones_own_images(tmp_path):
    made = {"command": "c", "hardware": "h", "date": "d", "versions": {}}
    run = {"run": "digits", "num_images": 1437, "num_test_images": 360, "steps": 900, "batch_size": 32}
    (tmp_path / "fine_tuning.json").write_text(
        json.dumps({"rows": [{**run, "top1_accuracy": 0.9861, "seconds": 200}], **made})
    )
    rows = [{"cores": 2, "images_per_second": 4000.0, "times_one_core": 1.8}]
    facts = {"num_images": 200_000, "decoded_images": 40_000, "rounds": 5, "training_command": "t", "training_seconds": 900}
    (tmp_path / "large_sets.json").write_text(json.dumps({"rows": rows, "peak_memory_gb": 2.0, **facts, **made}))
    text = readme.render(tmp_path)
    assert "| digits | 1,437 | 900 | 32 | 98.61 | 360 | 3.3 min |" in text and "peak memory 2.00 GB" in text


def test_the_section_on_several_cores_shows_the_parts_there_are(tmp_path):
    row = {
        "program": "plain",
        "threads": 1,
        "processes": 2,
        "images_per_second": 210.4,
        "times_one_thread": 1.9,
        "times_plain": 1.0,
    }
    job = {"rounds": 5, "images_per_round": 2000, "same_answers": 1.0, "num_images": 20_000, "seconds": 100.0, "kills": 10}
    job |= {"peak_memory_mb": 150.2, "peak_memory_mb_part": 148.0, "rows_after_kills": 20_000, "date": "2026-01-02"}
    found = {"rows": [row], "prediction": job, "command": "c", "hardware": "h", "date": "d", "versions": {}}
    text = readme.several(found)
    assert "| plain | 1 | 2 | 210 | 1.90 | 1.00 |" in text and "Ray" not in text
    assert "peak memory is 150 MB, and 148 MB for a round" in text and "20,000 rows, one per image" in text
    assert "`--part prediction`, 2026-01-02." in text and "on paper" not in text


def test_generated_jpegs_differ_and_have_the_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_prediction, "KINDS", 2)
    paths = scaling_prediction.write_images(tmp_path, 4)
    assert len({Path(path).read_bytes() for path in paths}) == 4
    assert all(300 <= side <= 1500 for path in paths for side in Image.open(path).size)


def test_results_are_of_the_shipped_weights():
    from modeling_eanet import from_pretrained_keras

    checksum = saving.model_checksum(from_pretrained_keras(ROOT))
    assert {results(name)["checksum"] for name in ("evaluation", "exports")} == {checksum}


def test_a_report_says_how_it_was_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path), f"--other={tmp_path}", "--rounds", "2"])
    row = {"model": "a", "images_per_second": 1234.567, "fastest_step_ms": 2.0, "times_the_example": 1.0}
    common.report("train_speed", [row], note="x")
    written = json.loads((tmp_path / "train_speed.json").read_text())
    assert written["rows"] == [row] and written["note"] == "x" and written["hardware"] and written["versions"]["keras"]
    data = shlex.quote(tmp_path.name)
    assert written["command"] == f"python benchmarks/train_speed.py --data {data} --other={data} --rounds 2"
    text = (tmp_path / "README.md").read_text()
    assert "| a | 1,235 | 2.00 | 1.00 |" in text and written["command"] in text
    assert capsys.readouterr().out == "wrote benchmarks/train_speed.json and README.md\n"


# Command lines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_bad_arguments_are_one_line(program, capsys):
    assert run_main(program, "--help") == 0 and run_main(program, "--no-such-option") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{program.__name__}.py: error: ")
    if program in (ablation, evaluation, exports, train_speed):
        assert run_main(program, "--data", "nowhere") == 2
        err = capsys.readouterr().err
        assert err.startswith(f"{program.__name__}.py: error: ") and "nowhere" in err and err.count("\n") == 1


def test_data_that_is_not_cifar100_is_an_error(official):
    with pytest.raises(UserError, match="must be CIFAR-100 with a test split"):
        common.cifar100(official, EANetConfig())


def test_a_failed_program_is_an_error():
    with pytest.raises(UserError, match=r"python -c .*: exit status 3 \(oh\)"):
        common.run_python("-c", "import sys; print('no\\noh', file=sys.stderr); sys.exit(3)", quiet=True)


# Contenders, timing and counts ----------------------------------------------------------------------------------------


def test_the_example_is_the_published_one():
    model = keras_io_example.build()
    assert model.count_params() == 361_380 + 7  # its normalisation's means, variances and count
    assert (keras_io_example.IMAGES, keras_io_example.EPOCHS, keras_io_example.BATCH) == (40_000, 50, 128)
    assert count_macs(build_eanet(EANetConfig.preset("keras-io"))) == pytest.approx(
        256 * (12 * 64 + 8 * (64 * 256 + 16 * 16 * 16 * 2 + 256 * 64 + 2 * 64 * 64)) + 6400
    )


def test_macs_of_the_flagship_counted_by_hand():
    stem = 32 * 32 * 27 * 32 + 16 * 16 * 9 * 32 * 64
    block = [d * slots * 2 + d * 2 * d * 2 + 2 * d * 9 for d, slots in ((64, 64), (112, 112))]
    expected = stem + 2 * 256 * block[0] + 64 * 9 * 64 * 112 + 3 * 64 * block[1] + 112 * 100
    assert count_macs(build_eanet(EANetConfig.preset("small"))) == expected


def test_contenders_take_turns():
    turns = []
    seconds = common.interleave({"a": lambda: turns.append("a"), "b": lambda: (turns.append("b"), time.sleep(0.02))}, 3)
    assert turns == ["a", "b"] * 3
    assert min(seconds["b"]) >= 0.02 and [len(s) for s in seconds.values()] == [3, 3]


def test_a_ratio_is_taken_per_round():
    assert common.ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3.0  # a slow round is slow for both


@pytest.mark.slow  # XLA takes long to compile the example
def test_every_contender_trains(monkeypatch, tmp_path):
    monkeypatch.setattr(train_speed, "STEPS", 1)
    runs = train_speed.contenders(tmp_path)
    assert list(runs)[:3] == ["Keras example", "keras-io preset", "small preset"] and "slim preset" in runs
    for run in runs.values():
        run()
    assert [path.name for path in tmp_path.glob("teacher/*")] == ["0.npy"]


def test_the_shipped_forms_are_timed_alike():
    pytest.importorskip("ai_edge_litert")
    found = exports.forms()
    assert list(found)[:3] == ["Keras", "Keras, folded", "ONNX"]
    images = np.zeros((1, 32, 32, 3), np.uint8)
    seconds = predict_speed.time_predictions({"ONNX": found["ONNX"]}, images, 2)
    assert len(seconds["ONNX"]) == 2 and min(seconds["ONNX"]) > 0


def test_the_peers_have_their_published_sizes():
    sizes = dict(zip((peer.name for peer in peers.PEERS), (0.28e6, 0.86e6, 0.70e6, 0.19e6, 3.8e6), strict=True))
    for peer in peers.PEERS:
        net, content = peer.build()
        assert net.parameters == pytest.approx(sizes[peer.name], rel=0.06), peer.name
        found = peers.OnnxBytes(content).predict_on_batch(np.zeros((2, 32, 32, 3)))
        assert found.shape == (2, 100) and np.allclose(found.sum(1), 1, atol=1e-5)


def test_the_section_on_exports_shows_what_was_measured():
    defaults = [{"form": "dynamic", "top1_accuracy": 0.049, "same_answers": 0.05}]
    found = {**results("exports"), "defaults": defaults, "peers": [
        {"model": "ResNet-20", "parameters": 270_000, "top1_accuracy": 0.6883, "source": "x", "one_image_ms": 0.78,
         "images_per_second": 1339.0}]}  # fmt: skip
    found["rows"] = [{**row, "images_per_second": 640.0} for row in found["rows"]]
    found["earlier"] = {"parameters": 386_004, "times_one_image": 1.3, "times_batch": 1.4, "same_answers": 1.0}
    text = readme.exports(found)
    row = "| ResNet-20 | 270,000 | 68.83 | 0.780 | 1,339 | x |"
    for part in ("| dynamic | 4.90 | 5.00 |", row, "(batch of 128: 1.40)", "| 640 |"):
        assert part in text


# Scaling --------------------------------------------------------------------------------------------------------------


def test_slopes_are_fitted_from_1024_tokens_on():
    points = [(n, 7.0 if n < 1024 else 3e-6 * n**1.5) for n in attention_scaling.TOKENS]
    assert attention_scaling.slope(points) == pytest.approx(1.5)
    assert attention_scaling.slope(points[:5]) is None


def test_the_scaling_summary_keeps_points_out_of_memory():
    external = {n: {"seconds": n / 1e6, "megabytes": n / 100} for n in (1024, 2048, 4096)}
    other = {1024: {"seconds": 1e-4, "megabytes": 99.0}, 2048: {"seconds": 1.0, "megabytes": 400.0}, 4096: None}
    found = {(kind, mode): external if kind == "external" else other
             for kind in attention_scaling.KINDS for mode in attention_scaling.MODES}  # fmt: skip
    summary = attention_scaling.summarise(found)
    assert summary["external_is_faster_from"] == {"forward": 2048, "training_step": 2048}
    assert summary["slopes"][0] == {
        "attention": "external",
        "mode": "forward",
        "time": pytest.approx(1),
        "memory": pytest.approx(1),
    }
    lost = [row for row in summary["rows"] if row["milliseconds"] is None]
    assert [(row["attention"], row["tokens"], row["megabytes"]) for row in lost] == [("self", 4096, None)] * 2


def test_a_training_step_is_measured():
    found = attention_scaling.point("external", 256, "training_step", 1)
    assert 0 < found["seconds"] < 60 and 0 < found["megabytes"] < 10_000


@pytest.mark.slow
def test_self_attention_holds_its_scores_and_external_attention_does_not():
    ours, theirs = (attention_scaling.point(kind, 2048, "forward", 1)["megabytes"] for kind in attention_scaling.KINDS)
    scores = 4 * 8 * 2048**2 * 4 / 2**20
    assert theirs > scores > 4 * ours


# Distillation and evaluation ------------------------------------------------------------------------------------------


def test_a_student_is_compared_with_its_own_teacher(tmp_path, monkeypatch, capsys):
    def training(epochs, **more):
        record = {fact: f"{fact} of {epochs}" for fact in distillation.FACTS}
        return {"seed": 0, "num_images": 10, "epochs": epochs, **record, **more}

    records = {"first": training(2)}
    records["teacher"] = training(3, parent_run=records["first"])
    records["student"] = training(1, teacher_run=records["teacher"])
    for name, record in records.items():
        (tmp_path / name).mkdir()
        model = {"parameters": 7, "preset": "small"}
        facts = {"accuracy": 0.5, "dataset": {"split": "test"}, "model": model, "training": record}
        (tmp_path / name / "eval_results.json").write_text(json.dumps(facts))
        (tmp_path / name / "history.json").write_text(json.dumps({"val_accuracy": [0.1] * record["epochs"]}))
    monkeypatch.setattr(common, "HERE", tmp_path)
    first, teacher, student = (tmp_path / name for name in records)
    assert run_main(distillation, student, teacher) == 2 and "trained for [2, 3] epochs" in capsys.readouterr().err
    assert run_main(distillation, student, first) == 2 and "not distilled from" in capsys.readouterr().err
    assert run_main(distillation, student, first, teacher) == 0
    rows = json.loads((tmp_path / "distillation.json").read_text())["rows"]
    assert [(row["model"], row["epochs"]) for row in rows] == [("teacher", 5), ("student", 1)]


def test_superclasses_partition_the_classes():
    names = [names.split() for names in evaluation.SUPERCLASSES.values()]
    assert len(names) == 20 and {len(five) for five in names} == {5}
    assert sorted(sum(names, [])) == sorted(CIFAR100_LABELS)


def test_superclass_accuracy_counts_any_class_of_the_superclass():
    y = np.arange(100)
    predicted = y.copy()
    beaver, dolphin, shark = (CIFAR100_LABELS.index(name) for name in ("beaver", "dolphin", "shark"))
    predicted[[beaver, dolphin]] = dolphin, shark
    rows, facts = evaluation.superclass_results(predicted, y, CIFAR100_LABELS)
    mammals = {"superclass": "aquatic mammals", "num_images": 5, "top1_accuracy": 0.6, "superclass_accuracy": 0.8}
    assert rows[-1] == mammals and rows[0]["top1_accuracy"] == 1 and facts["superclass_accuracy"] == 0.99
    assert facts["superclass_confusion"]["counts"][0][1] == 1  # aquatic mammals taken for fish
