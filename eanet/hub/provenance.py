"""Which figures and measurements belong to which weights.

Measurements carry the weights' checksum in their JSON; figures are listed in `figures/figures.json`.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
from pathlib import Path

from eanet.cli import UserError, write_json, write_text
from eanet.hub.lineage import LARGER
from eanet.hub.records import Record, read_record
from eanet.run_dir import RESULTS_FILE, lineage, training_runs
from eanet.saving import checksum_matches, stored_checksum

REPORT = ("report.json", "report.md")
FIGURES_RECORD = "figures/figures.json"
DEMO_RECORD = "eanet_demo.json"  # the Space that shows the weights in a browser
UNRECORDED = f"{FIGURES_RECORD} has no entry saying which weights it shows"
# Figures that this repository draws; those of earlier versions have no record. True: it depends on the weights.
OUR_FIGURES = {"attention": True, "slots": True, "calibration": True, "confusion": True, "curves": True, "samples": True,
               "architecture": False}  # fmt: skip
EXPORT_CHECKSUM = re.compile(rb'checksum(?:\x12\x08|": ")([0-9a-f]{8})')  # in ONNX's protobuf, and in LiteRT's JSON
# Sections of benchmarks/*.md that depend on weights.
WEIGHTS_SECTION = re.compile(r"^<!-- weights (\w+) -->\n.*?^<!-- end -->\n\n?", re.DOTALL | re.MULTILINE)


def checksum_of(folder: Path) -> str | None:
    """Return the checksum of the weights that `eval_results.json` in `folder` is about, or None."""
    with contextlib.suppress(UserError, TypeError):
        return read_record(folder / RESULTS_FILE, RESULTS_FILE, "")["model"]["checksum"]
    return None


def export_matches(path: Path, model) -> bool:
    """Return True if an ONNX or LiteRT file was exported from `model`, by the checksum in its metadata."""
    if not path.stat().st_size:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = EXPORT_CHECKSUM.search(content)
        return found is not None and checksum_matches(model, found[1].decode())


def larger_model(folder: Path) -> Record | None:
    """Return the results of the model in `LARGER`, or None if it is not there, damaged, or they are of other weights."""
    with contextlib.suppress(UserError, TypeError, AttributeError, ValueError):  # a person's files, or a stranger's
        results = read_record(folder / LARGER / RESULTS_FILE, f"{LARGER}/{RESULTS_FILE}", "")
        numbers = [results["accuracy"], results["num_images"], results["model"]["parameters"]]
        numbers += [run["epochs"] for run in training_runs(results["training"])]
        texts = [results["dataset"][key] for key in ("id", "split", "note")]
        lineage(results["training"])  # can be walked
        if all(map(math.isfinite, numbers)) and all(isinstance(text, str | None) for text in texts):
            return results if stored_checksum(folder / LARGER) == results["model"]["checksum"] else None
    return None


def recorded_space(path: Path, model) -> str | None:
    """Return the "user/name" of the Space in an `eanet_demo.json`; None if it does not show the weights of `model`."""
    with contextlib.suppress(UserError, TypeError):  # a person's file, or a stranger's
        record = read_record(path, DEMO_RECORD, "")
        if checksum_matches(model, record["checksum"]) and is_hub_id(record["space"]):
            return record["space"]
    return None


def is_hub_id(name) -> bool:
    """Return whether `name` can be that of a repository on the Hub, "user/name"."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return isinstance(name, str) and name.count("/") == 1


def figures_record(path: Path) -> dict[str, dict]:
    """Return what a `figures/figures.json` says of each figure, by file name; empty where there is no such file.

    Each has `checksum`, of the weights it shows or None where it shows none, and may have `caption`, `alt` and `width`.

    Raises:
        UserError: the record is damaged.
    """
    if not path.is_file():
        return {}
    record = _figures_json(path)
    return {
        name: {"checksum": str(record["checksum"]) if entry["depends_on"] == "weights" else None}
        | {key: entry[key] for key in ("caption", "alt", "width") if key in entry}
        for name, entry in record["figures"].items()
    }


def shows_weights(name: str, record: dict) -> bool:
    """Return True for the path of a figure that shows weights or an architecture, rather than a person's own."""
    path = Path(name)
    shown = path.stem in OUR_FIGURES or record.get(path.name, {}).get("checksum") is not None
    return path.parent.as_posix() == "figures" and shown


def other_weights(folder: Path, model) -> list[str]:
    """Return the names of the figures and measurements in `folder` that are of other weights than `model`'s.

    Raises:
        UserError: a record is damaged.
    """
    record = figures_record(folder / FIGURES_RECORD)
    shown = {path.name: record[path.name]["checksum"] for path in sorted(folder.glob("figures/*")) if path.name in record}
    other = [name for name, checksum in shown.items() if checksum is not None and not checksum_matches(model, checksum)]
    figures = [*(f"figures/{name}" for name in other), *unrecorded_figures(folder)]
    return [*figures, *_other_measurements(folder, model), *other_report(folder, model)]


def unrecorded_figures(folder: Path) -> list[str]:
    """Return the names of the figures in `folder` that depend on weights and are not in `figures/figures.json`."""
    record = figures_record(folder / FIGURES_RECORD)
    drawn = [path for path in sorted(folder.glob("figures/*")) if path.suffix in (".png", ".svg")]
    return [f"figures/{path.name}" for path in drawn if OUR_FIGURES.get(path.stem) and path.name not in record]


def other_report(folder: Path, model) -> list[str]:
    """Return the names of the report's files in `folder` if report.json is missing, damaged or of other weights."""
    with contextlib.suppress(UserError):
        if checksum_matches(model, read_record(folder / REPORT[0], REPORT[0], "")["checksum"]):
            return []
    return [name for name in REPORT if (folder / name).is_file()]


def drop_other_weights(folder: Path, model) -> None:
    """Delete from `folder` what `other_weights` names, and the sections about other weights in benchmarks/*.md.

    Raises:
        UserError: a record is damaged.
    """
    for name in other_weights(folder, model):
        (folder / name).unlink()
    if (folder / FIGURES_RECORD).is_file():
        _filter_record(folder)
    for path in folder.glob("benchmarks/*.md"):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a person's
            continue
        kept = WEIGHTS_SECTION.sub(lambda m: m[0] if checksum_matches(model, m[1]) else "", text)
        if kept != text:
            write_text(path, kept.rstrip() + "\n")


def add_to_record(folder: Path, name: str, source: Path) -> None:
    """Copy what `source` says of the figure `name` into the figures.json of `folder`, which may not be there yet."""
    path = folder / FIGURES_RECORD
    entries = _figures_json(source)["figures"]
    if name in entries:
        record = _figures_json(path) if path.is_file() else {"checksum": None, "figures": {}}
        write_json(path, {**record, "figures": {**record["figures"], name: entries[name]}})


def _filter_record(folder: Path) -> None:
    """Remove from figures.json the figures that are not there."""
    record = _figures_json(folder / FIGURES_RECORD)
    kept = {name: entry for name, entry in record["figures"].items() if (folder / "figures" / name).is_file()}
    if len(kept) < len(record["figures"]):
        dependent = any(entry["depends_on"] == "weights" for entry in kept.values())
        checksum = record["checksum"] if dependent else None
        write_json(folder / FIGURES_RECORD, {**record, "checksum": checksum, "figures": kept})


def _other_measurements(folder: Path, model) -> list[str]:
    gone = []
    for path in sorted(folder.glob("benchmarks/*.json")):
        name = f"benchmarks/{path.name}"
        checksum = None
        with contextlib.suppress(UserError):  # not ours; the card's facts name a damaged one of ours
            checksum = read_record(path, name, "").get("checksum")
        if checksum is not None and not checksum_matches(model, checksum):
            gone += [
                f"benchmarks/{other.name}" for other in folder.glob(f"benchmarks/{path.stem}.*") if other.suffix != ".py"
            ]
    return gone


def _figures_json(path: Path) -> Record:
    record = read_record(path, FIGURES_RECORD, hint := "`python tools/draw_figures.py` rewrites it")
    entries = record["figures"]
    if not isinstance(entries, Record) or not all(isinstance(entry, Record) for entry in entries.values()):
        raise UserError(f"{FIGURES_RECORD}: damaged; {hint}")
    return record
