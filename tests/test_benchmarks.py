"""The benchmarks measure what they say: the example is the example, counts and fits are right, and all of them run."""

import json
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, write_official

sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation
import attention_scaling
import common
import evaluation
import keras_io_example
import train_speed

import modeling_eanet
from modeling_eanet import CIFAR100_LABELS, EANetConfig, build_eanet


def test_the_example_is_the_one_that_was_published():
    model = keras_io_example.build()
    assert model.count_params() == 361_380 + 7  # its normalisation's means, variances and count
    assert (keras_io_example.IMAGES, keras_io_example.EPOCHS, keras_io_example.BATCH) == (40_000, 50, 128)
    assert common.macs(build_eanet(EANetConfig.preset("keras-io"))) == pytest.approx(
        256 * (12 * 64 + 8 * (64 * 256 + 16 * 16 * 16 * 2 + 256 * 64 + 2 * 64 * 64)) + 6400
    )


def test_macs_of_the_flagship_counted_by_hand():
    stem = 32 * 32 * 27 * 32 + 16 * 16 * 9 * 32 * 64
    block = [d * slots * 2 + d * 2 * d * 2 + 2 * d * 9 for d, slots in ((64, 64), (112, 112))]
    expected = stem + 2 * 256 * block[0] + 64 * 9 * 64 * 112 + 3 * 64 * block[1] + 112 * 100
    assert common.macs(build_eanet(EANetConfig.preset("small"))) == expected


def test_contenders_take_turns():
    turns = []
    seconds = common.interleave({"a": lambda: turns.append("a"), "b": lambda: (turns.append("b"), time.sleep(0.02))}, 3)
    assert turns == ["a", "b"] * 3
    assert min(seconds["b"]) >= 0.02 and [len(s) for s in seconds.values()] == [3, 3]


def test_a_ratio_is_taken_round_by_round():
    assert common.ratio([2.0, 40.0, 6.0], [1.0, 10.0, 2.0]) == 3.0  # a slow round is slow for both


def test_slopes_are_fitted_from_1024_tokens_on():
    points = [(n, 7.0 if n < 1024 else 3e-6 * n**1.5) for n in attention_scaling.TOKENS]
    assert attention_scaling.slope(points) == pytest.approx(1.5)
    assert attention_scaling.slope(points[:5]) is None


@pytest.mark.parametrize("kind", attention_scaling.KINDS)
def test_a_point_of_the_scaling_curve_is_measured(kind):
    found = attention_scaling.point(kind, 256, "training step", 1)
    assert 0 < found["seconds"] < 60 and 0 < found["megabytes"] < 10_000


def test_self_attention_holds_its_scores_and_external_attention_does_not():
    ours, theirs = (attention_scaling.point(kind, 2048, "forward", 1)["megabytes"] for kind in attention_scaling.KINDS)
    scores = 4 * 8 * 2048**2 * 4 / 2**20
    assert theirs > scores > 4 * ours


def test_seeds_are_summed_up_by_mean_and_sample_standard_deviation():
    assert ablation.percent([0.5]) == "50.00 %"
    assert ablation.percent([0.5, 0.52, 0.54]) == "52.00 ± 2.00 %"


def test_without_ema_are_the_last_weights_of_the_run(tmp_path, monkeypatch):
    """A run whose average never leaves the first weights: what was learned is in the last ones alone."""
    import train

    monkeypatch.setattr(modeling_eanet, "can_write_saved_model", lambda: False)
    data = write_official(tmp_path / "cifar-100-python", train=640, test=100, labels=CIFAR100_LABELS)
    options = ["--preset", "tiny", "--epochs", "3", "--batch-size", "16", "--learning-rate", "0.01", "--ema", "0.99999"]
    args = train.parse_args(["--data", str(data), *options, "--cutmix", "0", "--output", str(tmp_path / "run")])
    shipped = train.train(args)["accuracy"]
    assert ablation.without_ema(tmp_path / "run", str(data), seed=0) > shipped + 0.3


@pytest.mark.slow  # XLA takes its time to compile the example
def test_every_contender_trains_on_the_same_pictures(monkeypatch):
    monkeypatch.setattr(train_speed, "STEPS", 1)
    runs = train_speed.contenders()
    assert list(runs) == ["Keras example", "keras-io preset", "small preset"]
    for run in runs.values():
        run()


def test_superclasses_have_five_classes_each_and_all_of_them():
    names = [names.split() for names in evaluation.SUPERCLASSES.values()]
    assert len(names) == 20 and {len(five) for five in names} == {5}
    assert sorted(sum(names, [])) == sorted(CIFAR100_LABELS)


def test_the_calibration_error_is_the_gap_weighed_by_the_pictures():
    error, bins = evaluation.calibration(np.array([0.9, 0.9, 0.1, 1.0]), np.array([True, False, False, True]))
    assert error == pytest.approx((2 * 0.4 + 0.1 + 0.0) / 4)
    assert [(b["count"], b["accuracy"]) for b in bins] == [(1, 0.0), (2, 0.5), (1, 1.0)]
    assert all(b["from"] <= b["confidence"] <= b["to"] for b in bins)


def test_confusions_count_both_ways():
    y, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 0, 0, 0, 2, 1])
    found = evaluation.confusions(predicted, y, ["a", "b", "c"], 2)
    assert found == [{"classes": ["a", "b"], "count": 3, "of": 4}, {"classes": ["b", "c"], "count": 1, "of": 4}]


def test_a_report_says_how_it_was_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path)])
    common.report("speed", ["model", "images/s"], [["a", 1234.567], ["b", 2]], slopes={"time": 1.0})
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written["rows"] == [{"model": "a", "images/s": 1234.567}, {"model": "b", "images/s": 2}]
    assert written["slopes"] == {"time": 1.0} and written["hardware"] and written["versions"]["keras"]
    assert written["command"] == f"python benchmarks/speed.py --data {tmp_path.name}"
    text = (tmp_path / "speed.md").read_text()
    assert "| a | 1,235 |" in text and written["command"] in text and text.strip() in capsys.readouterr().out
