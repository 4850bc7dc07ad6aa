"""The drawings in samples/ are what tools/draw_samples.py draws."""

import sys

import numpy as np
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "tools"))

import draw_samples


def test_a_drawing_is_the_committed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(draw_samples, "SAMPLES", tmp_path)
    assert draw_samples.main(["sea"]) == 0
    drawn, committed = (np.asarray(Image.open(folder / "sea.png"), int) for folder in (tmp_path, ROOT / "samples"))
    assert drawn.shape == (256, 256, 3) and np.abs(drawn - committed).max() <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["sea.png"]


def test_an_unknown_name_is_an_error(capsys):
    assert draw_samples.main(["sea", "nothing"]) == 2
    assert "nothing: must be one of apple, " in capsys.readouterr().err


def test_every_drawing_is_a_sample():
    names = {path.stem for path in (ROOT / "samples").glob("*.png")}
    assert {draw.__name__ for draw in draw_samples.DRAWINGS} == names - {"cup", "rocket", "woman"}  # photographs
