"""The notebook runs from top to bottom without network, and is committed as it ran."""

import re
import shutil

import nbformat
import pytest
from conftest import ROOT

NAME = "eanet_cifar100.ipynb"


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(ROOT / NAME, 4)


def test_it_is_committed_with_the_outputs_of_one_run(committed):
    nbformat.validate(committed)
    assert [cell.execution_count for cell in cells(committed)] == list(range(1, len(cells(committed)) + 1))
    assert sum(map(pictures, cells(committed))) == 4  # the data, the curves, the attention, the slots
    whole = (ROOT / NAME).read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|work|tmp)/|hf_[A-Za-z0-9]{30,}", whole)


def test_it_runs_from_top_to_bottom_without_network(committed, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(".git", ".venv", "runs", ".clients"))
    ran = nbformat.read(tree / NAME, 4)
    NotebookClient(ran, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tree)}}).execute()
    said = {cell.id: text(cell) for cell in cells(ran)}
    difference = re.search(r"the model's own attention: (\S+)", "".join(said.values()))
    assert float(difference[1]) < 1e-4
    assert "top-1 100.0 % of 200 pictures" in "".join(said.values())
    assert "dry run: one commit to https://huggingface.co/user/eanet" in "".join(said.values())
    for theirs, ours in zip(cells(committed), cells(ran), strict=True):
        assert pictures(theirs) == pictures(ours)
        if "classify(" in theirs.source and "import" not in theirs.source:  # the shipped model, not the run's
            assert re.sub(r"\d+ %", "", text(theirs)) == re.sub(r"\d+ %", "", text(ours))
