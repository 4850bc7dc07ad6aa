"""Which figures and measurements belong to which weights.

Measurements carry the weights' checksum in their JSON; figures are listed in `figures/figures.json`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from eanet.cli import UserError, first_line, read_json, write_json, write_text
from eanet.saving import checksum_matches

FIGURES_RECORD = "figures/figures.json"
# Figures that this repository draws; those of earlier versions have no record. True: it depends on the weights.
OUR_FIGURES = {"attention": True, "slots": True, "calibration": True, "confusion": True, "curves": True, "samples": True,
               "architecture": False, "scaling": False}  # fmt: skip
# Sections of benchmarks/*.md that depend on weights.
WEIGHTS_SECTION = re.compile(r"^<!-- weights (\w+) -->\n.*?^<!-- end -->\n\n?", re.DOTALL | re.MULTILINE)


def checksum_of(folder: Path) -> str | None:
    """Return the checksum of the weights that `eval_results.json` in `folder` is about, or None."""
    try:
        return json.loads((folder / "eval_results.json").read_text(encoding="utf-8"))["model"]["checksum"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def figures_record(folder: Path) -> dict[str, dict]:
    """Return what `figures/figures.json` in `folder` says of each figure, by file name; empty where there is none.

    Each has `checksum`, of the weights it shows or None where it shows none, and may have `caption`, `alt` and `width`.

    Raises:
        UserError: the record is damaged.
    """
    path = folder / FIGURES_RECORD
    return parse_figures_record(path.read_bytes()) if path.is_file() else {}


def parse_figures_record(content: bytes) -> dict[str, dict]:
    """Return the content of a `figures/figures.json` as `figures_record` does. Raises UserError if it is damaged."""
    record = _parse(content, FIGURES_RECORD)
    try:
        return {
            name: {"checksum": str(record["checksum"]) if entry["depends_on"] == "weights" else None}
            | {key: entry[key] for key in ("caption", "alt", "width") if key in entry}
            for name, entry in record["figures"].items()
        }
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{FIGURES_RECORD}: damaged; `python tools/draw_figures.py` rewrites it") from None


def is_our_figure(name: str, record: dict) -> bool:
    """Return True for the path of a figure that this repository draws, rather than a person's own."""
    path = Path(name)
    return path.parent.as_posix() == "figures" and (path.name in record or path.stem in OUR_FIGURES)


def other_weights(folder: Path, model) -> list[str]:
    """Return the names of the figures and measurements in `folder` that are of other weights than `model`'s.

    Raises:
        UserError: a record is damaged.
    """
    return [*_other_figures(folder, model), *_other_measurements(folder, model)]


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
        text = path.read_text(encoding="utf-8")
        kept = WEIGHTS_SECTION.sub(lambda m: m[0] if checksum_matches(model, m[1]) else "", text)
        if kept != text:
            write_text(path, kept.rstrip() + "\n")


def _other_figures(folder: Path, model) -> list[str]:
    record, gone = figures_record(folder), []
    for path in sorted(folder.glob("figures/*")):
        if path.name in record:
            checksum = record[path.name]["checksum"]
            if checksum is not None and not checksum_matches(model, checksum):
                gone.append(f"figures/{path.name}")
        elif path.suffix in (".png", ".svg") and OUR_FIGURES.get(path.stem):
            print(f"figures/{path.name} is left out: {FIGURES_RECORD} does not say of which weights it is", file=sys.stderr)
            gone.append(f"figures/{path.name}")
    return gone


def _filter_record(folder: Path) -> None:
    """Remove from figures.json the figures that are not there."""
    record = read_json(folder / FIGURES_RECORD)
    kept = {name: entry for name, entry in record["figures"].items() if (folder / "figures" / name).is_file()}
    if len(kept) < len(record["figures"]):
        dependent = any(entry["depends_on"] == "weights" for entry in kept.values())
        checksum = record["checksum"] if dependent else None
        write_json(folder / FIGURES_RECORD, {**record, "checksum": checksum, "figures": kept})


def _other_measurements(folder: Path, model) -> list[str]:
    gone = []
    for path in sorted(folder.glob("benchmarks/*.json")):
        checksum = _parse(path.read_bytes(), f"benchmarks/{path.name}").get("checksum")
        if checksum is not None and not checksum_matches(model, checksum):
            gone += [
                f"benchmarks/{other.name}" for other in folder.glob(f"benchmarks/{path.stem}.*") if other.suffix != ".py"
            ]
    return gone


def _parse(content: bytes, name: str) -> dict:
    try:
        value = json.loads(content)
        if isinstance(value, dict):
            return value
        reason = "not an object"
    except ValueError as error:
        reason = first_line(error)
    raise UserError(f"{name}: damaged ({reason}); delete it, or run what wrote it again")
