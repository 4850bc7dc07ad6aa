"""promote: the repository becomes that of a run; what depends on the weights is made again or deleted."""

import json
import re
import shutil

import pytest
from conftest import copy_repository
from training_runs import cifar_run

from eanet.cli import UserError
from eanet.export import OnnxModel
from eanet.hub.promote import promote
from eanet.saving import checksum_matches
from modeling_eanet import from_pretrained_keras


@pytest.fixture(scope="module")
def run():
    return cifar_run()


@pytest.fixture(scope="module")
def data(run):
    return run.with_name("cifar-100-python")


@pytest.fixture
def tree(run, tmp_path):
    """A copy of this repository, whose model has the architecture of the run."""
    tree = copy_repository(tmp_path / "tree", "tests")
    shutil.copy(run / "config.json", tree)
    return tree


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"
    }


def test_everything_is_about_the_promoted_run(run, tree):
    (tree / "model.onnx").write_bytes(b"an export of an earlier layout")
    (tree / "logs" / "train" / "events.out.tfevents.old").write_bytes(b"old")
    words = re.sub(r"^<!-- ([\w-]+) -->$.*?^<!-- /\1 -->$", "", (tree / "README.md").read_text(), flags=re.S | re.M)
    said = promote(run, tree=tree)
    model, results = from_pretrained_keras(tree), json.loads((tree / "eval_results.json").read_text())
    for name in ("config.json", "model.weights.h5", "saved_model.pb", "history.json", "eval_results.json"):
        assert (tree / name).read_bytes() == (run / name).read_bytes() and f"wrote    {name}" in said
    assert checksum_matches(model, results["model"]["checksum"])
    assert checksum_matches(model, OnnxModel(tree / "onnx" / "model.onnx").checksum)
    for name in ("model.onnx", "logs/train/events.out.tfevents.old", "benchmarks/evaluation.json", "benchmarks/exports.json",
                 "figures/confusion.png", "figures/calibration.png"):  # fmt: skip
        assert not (tree / name).exists() and f"deleted  {name}" in said
    record = json.loads((tree / "figures" / "figures.json").read_text())
    assert {f"figures/{name}" for name in record["figures"]} == {f"figures/{p.name}" for p in tree.glob("figures/*.png")}
    shown = any(entry["depends_on"] == "weights" for entry in record["figures"].values())
    assert checksum_matches(model, record["checksum"]) if shown else record["checksum"] is None
    assert "<!-- weights" not in (tree / "benchmarks" / "README.md").read_text()
    card = (tree / "README.md").read_text()
    assert f"**{100 * results['accuracy']:.2f}% top-1 accuracy**" in card and "73.66" not in card
    assert all(line in card for line in words.split("---\n", 2)[2].splitlines())
    notebooks = [json.loads(path.read_text()) for path in tree.glob("examples/*.ipynb")]
    assert all(not cell.get("outputs") for notebook in notebooks for cell in notebook["cells"])


def test_a_dry_run_changes_nothing(run, tree, data):
    before = content(tree)
    said = promote(run, tree=tree, data=str(data), dry_run=True)
    assert content(tree) == before
    for words in ("write    model.weights.h5", "write    onnx/model.onnx", "delete   benchmarks/evaluation.json",
                  "update   README.md", "update   benchmarks/README.md", "update   figures/figures.json",
                  "update   examples/eanet_cifar100.ipynb", "run      benchmarks/evaluation.py --data",
                  "run      tools/draw_figures.py"):  # fmt: skip
        assert words in said


def test_a_script_that_fails_leaves_nothing_of_the_old_weights(run, tree, data, capfd):
    config = json.loads((tree / "config.json").read_text())
    (tree / "config.json").write_text(json.dumps({**config, "activation": "silu"}))  # another architecture
    (tree / "figures" / "attention.svg").write_text("no entry in figures.json")
    for name in ("benchmarks/evaluation.py", "benchmarks/exports.py", "benchmarks/readme.py", "tools/draw_figures.py"):
        (tree / name).write_text("raise SystemExit('no such thing')")
    with pytest.raises(UserError, match=r"failed: benchmarks/evaluation.py, .*tools/draw_figures.py; ") as failure:
        promote(run, tree=tree, data=str(data))
    said, err = capfd.readouterr()
    assert (
        failure.value.exit_status == 1
        and said.count("failed   ") == 4
        and "benchmarks/evaluation.py failed: no such thing" in err
    )
    assert "deleted  figures/architecture.png" in said and "architecture.png" not in (tree / "README.md").read_text()
    assert err.count("attention.svg") == 1 and "figures/attention.svg is deleted: figures/figures.json has no entry" in err
    assert not (tree / "figures" / "curves.png").exists() and not (tree / "benchmarks" / "evaluation.json").exists()
    assert "curves.png" not in (tree / "README.md").read_text()


def test_bad_arguments_are_named_and_change_nothing(run, tree, tmp_path):
    before = content(tree)
    with pytest.raises(UserError, match="is the repository itself"):
        promote(tree, tree=tree)
    with pytest.raises(UserError, match="none.tar.gz: no such file"):
        promote(run, tree=tree, data="none.tar.gz")
    with pytest.raises(UserError, match="data : no such file"):
        promote(run, tree=tree, data="")
    with pytest.raises(UserError, match="no such folder"):
        promote(tmp_path / "none", tree=tree)
    with pytest.raises(UserError, match="not a copy of the repository"):
        promote(run, tree=tmp_path)
    card = (tree / "README.md").read_text(encoding="utf-8")
    (tree / "README.md").write_text(card.replace("<!-- /results -->\n", ""), encoding="utf-8")
    with pytest.raises(UserError, match="<!-- results -->"):
        promote(run, tree=tree)
    (tree / "README.md").write_text(card, encoding="utf-8")
    broken = shutil.copytree(run, tmp_path / "broken")
    (broken / "history.json").write_text("{}")
    with pytest.raises(UserError, match=r"history\.json is damaged"):
        promote(broken, tree=tree)
    assert content(tree) == before
    text = (tree / "config.json").read_text(encoding="utf-8")
    (tree / "config.json").write_text(text.replace('"apple"', '"quince"'), encoding="utf-8")
    with pytest.raises(UserError, match="has other classes than the model here"):
        promote(run, tree=tree)
