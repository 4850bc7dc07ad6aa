"""The notebook runs from top to bottom without network, and is committed with the outputs of one run."""

import re

import nbformat
import pytest
from conftest import ROOT, TINY, copy_repository

NAME = "examples/eanet_cifar100.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def figures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def quick(notebook):
    """Let the notebook train a tiny model for one epoch, on a tenth of the images."""
    cells = code_cells(notebook)
    cells[0].source = f"import sys\nsys.modules['jax'] = None  # TensorFlow would import it\n{cells[0].source}"
    cells[0].source += f"\nimport modeling_eanet\nmodeling_eanet.PRESETS['small'] = {TINY!r}"
    for before, after in (('{"train": 60, "test": 10}', '{"train": 6, "test": 1}'), ("epochs=4,", "epochs=1,")):
        (cell,) = [cell for cell in cells if before in cell.source]
        cell.source = cell.source.replace(before, after)


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(ROOT / NAME, 4)


def test_outputs_are_those_of_one_run(committed):
    nbformat.validate(committed)
    cells = code_cells(committed)
    assert "top-1 100.0%" in "".join(map(text, cells))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(map(figures, cells)) == 4  # the data, the curves, the attention, the slots
    source = (ROOT / NAME).read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|work|tmp)/|hf_[A-Za-z0-9]{30,}", source)
    assert "WARNING" not in source and len(source) < 250_000


@pytest.mark.slow
def test_the_notebook_runs_without_network(committed, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    tree = copy_repository(tmp_path / "tree")
    ran = nbformat.read(tree / NAME, 4)
    quick(ran)
    folder = {"metadata": {"path": str(tree / "examples")}}  # where Jupyter starts it
    NotebookClient(ran, timeout=600, kernel_name="python3", resources=folder).execute()
    output = "".join(map(text, code_cells(ran)))
    assert float(re.search(r"the model's own attention: (\S+)", output)[1]) < 1e-4
    assert "top-1 " in output and "on 20 images" in output
    assert "dry run: one commit to https://huggingface.co/user/eanet" in output and "onnx/model.onnx" in output
    for theirs, ours in zip(code_cells(committed), code_cells(ran), strict=True):
        assert figures(theirs) == figures(ours)
        if "classify(" in theirs.source:  # the shipped model, so the same labels
            assert re.sub(r"\d+%", "", text(theirs)) == re.sub(r"\d+%", "", text(ours))
