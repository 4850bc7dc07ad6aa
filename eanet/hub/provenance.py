"""Which figures and measurements belong to which weights.

Measurements carry the weights' checksum in their JSON; figures are listed in `figures/figures.json`.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from eanet.cli import UserError, read_json, write_json, write_text
from eanet.run_dir import RESULTS_FILE
from eanet.saving import checksum_matches

FIGURES_RECORD = "figures/figures.json"
UNRECORDED = f"{FIGURES_RECORD} has no entry saying which weights it shows"
# Figures that this repository draws; those of earlier versions have no record. True: it depends on the weights.
OUR_FIGURES = {"attention": True, "slots": True, "calibration": True, "confusion": True, "curves": True, "samples": True,
               "architecture": False, "scaling": False}  # fmt: skip
ONNX_CHECKSUM = re.compile(rb"checksum\x12\x08([0-9a-f]{8})")  # an entry of the metadata, as protobuf writes it
# Sections of benchmarks/*.md that depend on weights.
WEIGHTS_SECTION = re.compile(r"^<!-- weights (\w+) -->\n.*?^<!-- end -->\n\n?", re.DOTALL | re.MULTILINE)


def checksum_of(folder: Path) -> str | None:
    """Return the checksum of the weights that `eval_results.json` in `folder` is about, or None."""
    with contextlib.suppress(UserError, KeyError, TypeError):
        return _read(folder / RESULTS_FILE, RESULTS_FILE)["model"]["checksum"]
    return None


def onnx_matches(path: Path, model) -> bool:
    """Return True if an ONNX file, quantized or not, was exported from `model`, by the checksum in its metadata."""
    found = ONNX_CHECKSUM.search(path.read_bytes())
    return found is not None and checksum_matches(model, found[1].decode())


def figures_record(path: Path) -> dict[str, dict]:
    """Return what a `figures/figures.json` says of each figure, by file name; empty where there is no such file.

    Each has `checksum`, of the weights it shows or None where it shows none, and may have `caption`, `alt` and `width`.

    Raises:
        UserError: the record is damaged.
    """
    if not path.is_file():
        return {}
    record = _read(path, FIGURES_RECORD)
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
    record = figures_record(folder / FIGURES_RECORD)
    shown = {path.name: record[path.name]["checksum"] for path in sorted(folder.glob("figures/*")) if path.name in record}
    other = [name for name, checksum in shown.items() if checksum is not None and not checksum_matches(model, checksum)]
    return [*(f"figures/{name}" for name in other), *unrecorded_figures(folder), *_other_measurements(folder, model)]


def unrecorded_figures(folder: Path) -> list[str]:
    """Return the names of the figures in `folder` that depend on weights and are not in `figures/figures.json`."""
    record = figures_record(folder / FIGURES_RECORD)
    drawn = [path for path in sorted(folder.glob("figures/*")) if path.suffix in (".png", ".svg")]
    return [f"figures/{path.name}" for path in drawn if OUR_FIGURES.get(path.stem) and path.name not in record]


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
        checksum = _read(path, f"benchmarks/{path.name}").get("checksum")
        if checksum is not None and not checksum_matches(model, checksum):
            gone += [
                f"benchmarks/{other.name}" for other in folder.glob(f"benchmarks/{path.stem}.*") if other.suffix != ".py"
            ]
    return gone


def _read(path: Path, name: str) -> dict:
    """Return the JSON object in the file `path`, which messages call `name`."""
    with contextlib.suppress(UserError):
        value = read_json(path)
        if isinstance(value, dict):
            return value
    raise UserError(f"{name}: damaged, not a JSON object; delete it, or run what wrote it again")
