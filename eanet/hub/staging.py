"""Collect what goes up in a staging folder, and check that it belongs to one run and holds no secret."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from eanet.cli import UserError, read_json, write_json, write_text
from eanet.hub import checks
from eanet.hub.card_facts import sample_label
from eanet.hub.lineage import LARGER, TREE
from eanet.hub.provenance import (
    DEMO_RECORD,
    FIGURES_RECORD,
    REPORT,
    UNRECORDED,
    add_to_record,
    drop_other_weights,
    export_matches,
    larger_model,
    other_report,
    recorded_space,
    unrecorded_figures,
)
from eanet.hub.records import read_record
from eanet.hub.samples import publish_samples
from eanet.hub.tokens import check_file, check_no_token
from eanet.run_dir import HISTORY_FILE, RESULTS_FILE, SETTINGS_FILE
from eanet.run_lock import check_idle
from eanet.saving import KERAS_FILES, LEGACY_ONNX_FILE, ONNX_FILE, SAVED_MODEL_FILES

CARD = "README.md"
# Everything that ever goes up, as patterns of paths. From the run's folder:
SAVED_MODEL = ("saved_model.pb", "keras_metadata.pb", "fingerprint.pb", "variables/variables.index",
               "variables/variables.data-?????-of-?????")  # fmt: skip
ARTEFACTS = ("config.json", "metadata.json", "model.weights.h5", *SAVED_MODEL)
MEASURED = (RESULTS_FILE, HISTORY_FILE)
MISTAKES = re.compile(r"^## Most confident mistakes\n.*", re.DOTALL | re.MULTILINE)  # of report.md
LOGS = ("logs/*/events.out.tfevents.*", "logs/events.out.tfevents.*")
FIGURES = ("figures/*.png", "figures/*.svg", FIGURES_RECORD)
EXPORTS = ("onnx/*.onnx", "litert/*.tflite")
SAMPLES = ("samples/*.png", "samples/*.jpg", "samples/*.md")
BENCHMARKS = ("benchmarks/*.md", "benchmarks/*.json", "benchmarks/*.png")
# What only this repository and its copies have; a run that was trained in one does not.
DEVELOPMENT = ("CONTRIBUTING.md", "CHANGELOG.md", ".ci/run", "tools/*.py", "benchmarks/*.py", "benchmarks/hold_out.npy",
               "examples/*.ipynb", "examples/*.md", "examples/*.yaml", "examples/*.sh",
               "tests/*.py", "tests/[a-z]*/*.py", "demo/*.html", "demo/*.js", "demo/*.mjs", "demo/*.css", "demo/*.md",
               "demo/*.json")  # fmt: skip
# From the folder of the code:
LIBRARY = ("modeling_eanet.py", "eanet/**/*.py", "eanet/hub/templates/*.md")
PROGRAMS = ("train.py", "inference.py", "push_to_hub.py", "handler.py", "export.py", "requirements*.txt", "pyproject.toml",
            "LICENSE")  # fmt: skip


@dataclasses.dataclass
class Staged:
    """A staging folder and what is known of it.

    Attributes:
        folder: the staging folder; all that goes up but the card.
        model: the Keras model in it.
        results: content of its `eval_results.json`.
        with_programs: False where eanet is installed without the repository, so that only the library is staged.
        cached: the run is the folder of the code, where the Hub's cache may have links.
        own_samples: its samples are images of a person's own data, to be published.
    """

    folder: Path
    model: object
    results: dict
    with_programs: bool
    cached: bool
    own_samples: bool = False


def stage_run(
    run: Path, folder: Path, tree: Path = TREE, saved_model: bool = True, samples: str | Literal[True] | None = None
) -> Staged:
    """Copy what goes up, except for the card, into the empty `folder` and check that it belongs together.

    Args:
        run: folder of a finished run, or the repository itself.
        folder: the staging folder.
        tree: folder of the code.
        saved_model: stage the SavedModel, which must be there; otherwise leave it out.
        samples: data set with images to publish, True for those that the run kept; None publishes none of the data.

    Returns:
        The `Staged` run. Figures, exports and measurements of other weights are not in it; standard error names those whose
            weights are not known.

    Raises:
        UserError: `run` has no complete run, files of different runs, a link, or a Hub token.
    """
    from modeling_eanet import from_pretrained_keras

    check_run(run)
    is_tree = run.resolve() == tree.resolve()
    artefacts = [name for name in ARTEFACTS if saved_model or name not in SAVED_MODEL]
    others = (*MEASURED, *REPORT, *LOGS, *FIGURES, *SAMPLES, *BENCHMARKS, *DEVELOPMENT)
    _copy(run, folder, (*artefacts, *others), cached=is_tree)
    _copy_onnx(run, folder, cached=is_tree)
    with_programs = (tree / "pyproject.toml").is_file()
    _copy(tree, folder, (*LIBRARY, *PROGRAMS) if with_programs else LIBRARY, cached=True)
    _check_complete(run, folder, saved_model)
    if with_programs and not is_tree:
        _copy_shared(tree, folder)
    if samples is not None:
        publish_samples(run, folder, samples)
    results = read_record(folder / RESULTS_FILE, f"{run / RESULTS_FILE}", "the run's own train.py command rewrites it")
    model = from_pretrained_keras(folder)
    checks.check_one_run(run, folder, results, model)
    _copy_exports(run, folder, model, cached=is_tree)
    _copy_demo_record(run, folder, model, cached=is_tree)
    _copy_larger(run, folder, cached=is_tree)
    for name in unrecorded_figures(folder):
        print(f"{name} is left out: {UNRECORDED}", file=sys.stderr)
    for name in other_report(folder, model):
        print(f"{name} is left out: {REPORT[0]} does not have the checksum of these weights", file=sys.stderr)
    drop_other_weights(folder, model)
    _remove_mistakes(folder)
    return Staged(folder, model, results, with_programs, is_tree, samples is not None)


def check_run(run: Path) -> None:
    """Raise UserError if there is no folder `run`, or a process trains in it."""
    if not run.is_dir():
        raise UserError(f"{run}: no such folder")
    check_idle(run)


def check_no_link(root: Path, name: str, cached: bool = False) -> None:
    """Refuse a link: it could bring along a file that is not listed.

    Args:
        root: the folder.
        name: path of the file in it.
        cached: accept the links of the Hub's cache, from snapshots/<commit>/ into blobs/.

    Raises:
        UserError: the file is a link, or in a folder that is one.
    """
    target, home = (root / name).resolve(), root.resolve()
    blobs = home.parent.parent / "blobs"
    if target != home / name and not (cached and home.parent.name == "snapshots" and blobs in target.parents):
        raise UserError(f"{root / name}: is a link, or in a folder that is one; replace it by the file, or remove it")


def _copy(root: Path, folder: Path, patterns, cached: bool = False) -> None:
    names = {path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    for name in sorted(names):
        _copy_file(root, name, folder / name, cached)


def _copy_file(root: Path, name: str, target: Path, cached: bool) -> None:
    check_no_link(root, name, cached)
    check_no_token(name, f"the name {root / name}")
    check_file(root / name, root / name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / name, target)


def _copy_onnx(run: Path, folder: Path, cached: bool) -> None:
    """Copy the run's ONNX file to its place; runs of earlier versions have it at their top."""
    for name in (ONNX_FILE, LEGACY_ONNX_FILE):
        if (run / name).is_file():
            _copy_file(run, name, folder / ONNX_FILE, cached)
            return


def _copy_exports(run: Path, folder: Path, model, cached: bool) -> None:
    """Copy the other exports, except those of other weights."""
    for path in sorted(path for pattern in EXPORTS for path in run.glob(pattern)):
        name = path.relative_to(run).as_posix()
        if export_matches(path, model):
            _copy_file(run, name, folder / name, cached)
        else:
            print(f"{name} is left out: its metadata does not have the checksum of these weights", file=sys.stderr)


def _copy_larger(run: Path, folder: Path, cached: bool) -> None:
    """Copy the larger model next to this one, unless its results are of other weights."""
    if larger_model(run) is not None:
        for name in (*KERAS_FILES, RESULTS_FILE):
            _copy_file(run, f"{LARGER}/{name}", folder / LARGER / name, cached)
    elif (run / LARGER).is_dir():
        print(f"{LARGER} is left out: its {RESULTS_FILE} does not have the checksum of its weights", file=sys.stderr)


def _copy_demo_record(run: Path, folder: Path, model, cached: bool) -> None:
    """Copy the record of the demo's Space, unless it has other weights."""
    if recorded_space(run / DEMO_RECORD, model) is not None:
        _copy_file(run, DEMO_RECORD, folder / DEMO_RECORD, cached)
    elif (run / DEMO_RECORD).is_file():
        print(f"{DEMO_RECORD} is left out: it names no Space with these weights", file=sys.stderr)


def _copy_shared(tree: Path, folder: Path) -> None:
    """Add what a run's folder lacks: sample images of its classes, and the figure of its architecture."""
    from eanet.loaded_model import load_config

    labels = set(load_config(folder).id2label.values())
    samples = [path for pattern in SAMPLES[:2] for path in tree.glob(pattern)]
    if not any((folder / "samples").glob("*")) and samples and {sample_label(path.stem) for path in samples} <= labels:
        _copy(tree, folder, SAMPLES, cached=True)
    same = same_architecture(tree, folder)
    for path in () if same else folder.glob("figures/architecture.*"):
        original = tree / path.relative_to(folder)
        if original.is_file() and original.read_bytes() == path.read_bytes():  # a copy of this repository's
            path.unlink()
    if same and not any(folder.glob("figures/architecture.*")):
        _copy(tree, folder, ["figures/architecture.*"], cached=True)
        if (tree / FIGURES_RECORD).is_file():
            check_no_link(tree, FIGURES_RECORD, cached=True)
            add_to_record(folder, "architecture.png", tree / FIGURES_RECORD)


def same_architecture(folder: Path, other: Path) -> bool:
    """Return True if both folders hold a model, of the same architecture; the classes may differ."""
    from eanet.loaded_model import load_config

    if not all((place / "config.json").is_file() for place in (folder, other)):
        return False
    a, b = (dataclasses.replace(load_config(place), id2label={0: "a", 1: "b"}) for place in (folder, other))
    return a == b


def clear_outputs(path: Path) -> None:
    """Remove a notebook's outputs: they show what other weights predict."""
    notebook = read_json(path)
    for cell in notebook.get("cells", []):
        if cell.get("cell_type") == "code":
            cell |= {"outputs": [], "execution_count": None}
    write_json(path, notebook)


def _remove_mistakes(folder: Path) -> None:
    """Remove the list of wrongly classified images from the report: their file names may be private."""
    report, text = (folder / name for name in REPORT)
    if report.is_file():
        write_json(report, {key: value for key, value in read_json(report).items() if key != "mistakes"})
    if text.is_file():
        write_text(text, MISTAKES.sub("", text.read_text(encoding="utf-8", errors="replace")).rstrip() + "\n")


def _check_complete(run: Path, folder: Path, saved_model: bool) -> None:
    if not any((folder / name).exists() for name in KERAS_FILES):
        begun = (run / SETTINGS_FILE).is_file()
        hint = "its run is not finished, the same command goes on" if begun else "give the output of a train.py run"
        raise UserError(f"{run}: holds no model; {hint}")
    adds = f"`python train.py --export {run}` adds it where TensorFlow is installed, or push with --no-saved-model"
    for name in (*KERAS_FILES, *(SAVED_MODEL_FILES if saved_model else ()), RESULTS_FILE):
        if not (folder / name).exists():
            hint = adds if name in SAVED_MODEL_FILES else "train it to its end"
            raise UserError(f"{run}: {name} is missing; {hint}")
