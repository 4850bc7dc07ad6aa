"""tools/draw_figures.py and what it wrote to figures/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "figures"
RECORD = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))
FIGURES = sorted(FOLDER.glob("*.png"))


def draw(*names, **env):
    """Run the program from another folder."""
    command = [sys.executable, str(ROOT / "tools" / "draw_figures.py"), *names]
    return subprocess.run(command, capture_output=True, text=True, cwd=os.sep, env={**os.environ, **env}, timeout=120)


def test_figures_holds_images_only():
    assert {path.suffix for path in FOLDER.iterdir()} == {".png", ".json"}


def test_record_covers_exactly_the_figures():
    assert sorted(RECORD["figures"]) == [path.name for path in FIGURES]
    assert {entry["depends_on"] for entry in RECORD["figures"].values()} == {"weights", "code"}
    assert RECORD["figures"]["architecture.png"]["depends_on"] == "code"
    for name in ("samples.png", "slots.png", "attention.png", "curves.png", "calibration.png", "confusion.png"):
        assert RECORD["figures"][name]["depends_on"] == "weights"


def test_captions_are_short_plain_sentences():
    for entry in RECORD["figures"].values():
        assert entry["caption"].endswith(".") and len(entry["caption"]) < 250 and len(entry["alt"]) > 20


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_figure_is_small_sharp_and_transparent(path):
    with Image.open(path) as image:
        assert path.stat().st_size <= 150_000
        assert image.width == 2 * RECORD["figures"][path.name]["width"]
        assert image.convert("RGBA").getchannel("A").getextrema() == (0, 255)


def test_record_names_the_shipped_weights():
    from eanet import from_pretrained_keras
    from eanet.saving import checksum_matches

    assert checksum_matches(from_pretrained_keras(ROOT), RECORD["checksum"])


def test_unknown_figure_is_one_line():
    done = draw("curves", "paintings")
    assert done.returncode == 2
    assert "paintings: must be one of samples, slots, " in done.stderr.splitlines()[-1]


def test_without_matplotlib_is_one_line(tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ModuleNotFoundError('no', name='matplotlib')")
    done = draw(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == ["draw_figures.py: error: matplotlib is not installed; `pip install matplotlib`"]


@pytest.fixture
def program(monkeypatch, tmp_path):
    """The module, with an empty folder for what it writes."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    import draw_figures

    monkeypatch.setattr(draw_figures, "FOLDER", tmp_path)
    return draw_figures


def test_draws_and_records_one_figure(program, tmp_path):
    assert program.draw(["architecture"]) == [tmp_path / "architecture.png"]
    record = json.loads((tmp_path / "figures.json").read_text())
    assert record == {"checksum": None, "figures": {"architecture.png": RECORD["figures"]["architecture.png"]}}
    with Image.open(tmp_path / "architecture.png") as drawn, Image.open(FOLDER / "architecture.png") as shipped:
        assert drawn.size == shipped.size


def test_never_mixes_figures_of_two_models(program, tmp_path):
    (tmp_path / "figures.json").write_text(json.dumps({**RECORD, "checksum": "00000000"}))
    (tmp_path / "slots.png").write_bytes(b"of other weights")
    with pytest.raises(program.UserError, match=r"^slots.png: drawn from other weights \(checksum 00000000\); draw all"):
        program.draw(["curves"])
    assert [path.name for path in tmp_path.glob("*.png")] == ["slots.png"]


def test_results_of_other_weights_are_refused(program, tiny_model, tmp_path):
    from figures_common import Shipped

    shipped = Shipped(tmp_path)
    shipped.model = tiny_model
    (tmp_path / "eval_results.json").write_text('{"model": {"checksum": "00000000"}}')
    with pytest.raises(program.UserError, match=r"^eval_results.json describes other weights \(checksum 00000000\)"):
        shipped.results("eval_results.json")
