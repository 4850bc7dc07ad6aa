"""Collect what a card states from a folder: results, sample answers, measurements. The model runs here, not in card.py."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

from eanet.cli import UserError
from eanet.evaluation import count_macs, interval_text
from eanet.hub.front_matter import CIFAR100
from eanet.hub.lineage import LARGER, name_sources, own_teachers, split_lineage
from eanet.hub.provenance import (
    DEMO_RECORD,
    FIGURES_RECORD,
    OUR_FIGURES,
    REPORT,
    figures_record,
    larger_model,
    recorded_space,
)
from eanet.hub.records import read_record
from eanet.loaded_model import load_config
from eanet.run_dir import RESULTS_FILE, training_runs
from eanet.saving import ONNX_FILE, SAVED_MODEL_FILES, checksum_matches
from modeling_eanet import build_eanet


def collect_facts(
    folder, results: dict, model, repo_id: str, dataset_name: str | None = None, own_samples: bool = False
) -> dict:
    """Collect the facts of a card.

    Args:
        folder: staging folder, or another folder with a model and all that its card shows.
        results: content of its `eval_results.json`.
        model: Keras model of the folder, with its `config`.
        repo_id: "user/name".
        dataset_name: name of the data; None for the recorded one.
        own_samples: whether the samples are images of the data, which the card gets a widget for.

    Returns:
        A dict of JSON values for `card.render_card` and `card.update_card`.

    Raises:
        UserError: a result is not a finite number, or a file is damaged. `render_card` finds what else is missing.
    """
    folder, config, results = Path(folder), model.config, copy.deepcopy(results)
    _check_finite(results)
    larger = _larger_row(folder, results, config)
    try:
        base, runs = split_lineage(training_runs(results["training"]), repo_id)
        epochs, parents = sum(run["epochs"] for run in runs), [run["command"] for run in runs[:-1]]
        sibling = larger and larger["training"]
        teachers = [run for run in own_teachers(runs, sibling, repo_id) if run not in runs]
        name_sources([*teachers, *runs], repo_id, sibling)
    except (TypeError, AttributeError):
        raise UserError(f"{RESULTS_FILE}: its training record is damaged; the run's own command rewrites it") from None
    if dataset_name:
        results["dataset"]["name"] = with_note(dataset_name, results["dataset"]["note"])
    return {
        "repo_id": repo_id,
        "results": results,
        "interval": interval_text(results["accuracy"], results["num_images"]),
        "cifar100": results["dataset"]["id"] == CIFAR100,
        "cifar100_parent": any(map(_on_cifar100, parents)),
        "labels": list(config.id2label.values()),
        "image_size": config.image_size,
        "interpolation": config.interpolation,
        "resize": config.resize,
        "macs": count_macs(model),
        "larger": larger,
        "architecture": _architecture(config),
        **dict(epochs=epochs, runs=runs, teachers=teachers),
        "base_model": base,
        "from_scratch": bool(runs) and not runs[0].get("init_from"),
        "samples": sample_answers(folder, model),
        "own_samples": own_samples,
        **_figures(folder),
        **_exports(folder),
        "demo": (folder / "demo" / "index.html").is_file(),
        "space": _own_space(folder, model, repo_id),
        "programs": (folder / "requirements.txt").is_file(),
        "saved_model": (folder / SAVED_MODEL_FILES[0]).is_file(),
        "evaluation": _measured(folder, "evaluation", model) or _report(folder, model),
        "exports": _measured(folder, "exports", model),
        "benchmarks_readme": (folder / "benchmarks" / "README.md").is_file(),
    }


def _larger_row(folder: Path, results: dict, config) -> dict | None:
    """Return what the table of results shows of the larger model next to this one, or None without one to compare with."""
    larger, dataset = larger_model(folder), results["dataset"]
    if not larger or any(larger["dataset"][key] != dataset[key] for key in ("id", "split", "note")):
        return None
    other = load_config(folder / LARGER)
    if larger["model"]["parameters"] <= results["model"]["parameters"] or other.id2label != config.id2label:
        return None
    epochs = sum(run["epochs"] for run in training_runs(larger["training"]))
    return {**larger, "name": LARGER, "macs": count_macs(build_eanet(other)), "epochs": epochs}


def _check_finite(results: dict) -> None:
    for key in ("accuracy", "top5_accuracy", "loss"):
        if not isinstance(results[key], (int, float)) or not math.isfinite(results[key]):
            raise UserError(f"{RESULTS_FILE}: {key} is {results[key]!r}, not a finite number; measure the model again")


def with_note(name: str, note: str) -> str:
    """Return the name of a data set as eval_results.json has it."""
    return f"{name} ({note})" if note else name


def _exports(folder: Path) -> dict:
    """Return the size in bytes of onnx/model.onnx, 0 without it, and those of the other exports by name."""
    paths = sorted([*folder.glob("onnx/*.onnx"), *folder.glob("litert/*.tflite")])
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    return {"onnx_bytes": sizes.pop(ONNX_FILE, 0), "exports_here": sizes}


def _own_space(folder: Path, model, repo_id: str) -> str | None:
    """Return the recorded Space, unless it is somebody else's: the record may have come with a stranger's weights."""
    space = recorded_space(folder / DEMO_RECORD, model)
    return space if space and space.split("/")[0] == repo_id.split("/")[0] else None


def _figures(folder: Path) -> dict:
    """Return alt text, caption and width of each figure in the folder, by file name; and which of ours are missing."""
    record = figures_record(folder / FIGURES_RECORD)
    paths = sorted(path for path in folder.glob("figures/*") if path.suffix in (".png", ".svg"))
    plain = {"alt": "", "caption": "", "width": 520}
    figures = {p.name: {k: record.get(p.name, {}).get(k, default) for k, default in plain.items()} for p in paths}
    return {"figures": figures, "removed_figures": sorted({f"{stem}.png" for stem in OUR_FIGURES} - set(figures))}


def sample_answers(folder: Path, model) -> list[dict]:
    """Return what `model` answers for each image in `samples/`.

    Returns:
        Per image: `file`; `label`, the class in its name, or None where the model has no such class; `answers`, the top five
        with label and score; `top1` and `top5`, whether the label is among them.
    """
    from eanet.predict import classify

    paths = sorted(path for path in folder.glob("samples/*") if path.suffix in (".png", ".jpg"))
    found, labels = [], list(model.config.id2label.values())
    stems = [file_label(label) for label in labels]
    known_labels = {stem: label for stem, label in zip(stems, labels, strict=True) if stems.count(stem) == 1}
    for path, answers in zip(paths, classify(model, paths, top_k=5) if paths else [], strict=True):
        named = [answer["label"] for answer in answers]
        label = known_labels.get(sample_label(path.stem)) or known_labels.get(path.stem)
        known = label is not None
        sample = {"file": path.name, "label": label, "answers": answers}
        found.append({**sample, "top1": known and named[0] == label, "top5": known and label in named})
    return found


def sample_label(stem: str) -> str:
    """Return the label that a sample's file name states: "cat_2" is the second of "cat"."""
    name, _, number = stem.rpartition("_")
    return name if number.isdecimal() and name else stem


def file_label(label: str) -> str:
    """Return the name of a class as it stands in the file name of a sample."""
    return re.sub(r"[^\w.-]+", "_", label).strip("._-") or "class"


def _architecture(config) -> dict:
    side, stages = config.image_size // config.patch_size, []
    parts = zip(config.embed_dims, config.depths, config.num_heads, config.slots, strict=True)
    for i, (dim, depth, heads, slots) in enumerate(parts):
        side = side // 2 if i else side
        stages.append({"dim": dim, "depth": depth, "heads": heads, "slots": slots, "tokens": side * side})
    found = {"tokenizer": config.tokenizer, "patch_size": config.patch_size, "depthwise": bool(config.depthwise_kernel)}
    return {**found, "stages": stages}


def _on_cifar100(command: str) -> bool:
    """Return True if a training command reads CIFAR-100, by the name of its data; without data it downloads CIFAR-100."""
    data = re.search(r"--data[ =](\S+)", command)
    return data is None or "cifar100" in re.sub(r"[\W_]", "", data[1].lower())


def _measured(folder: Path, name: str, model) -> dict | None:
    """Return the content of benchmarks/<name>.json, or None if there is none of these weights."""
    path = folder / "benchmarks" / f"{name}.json"
    if not path.is_file():
        return None
    found = read_record(path, f"benchmarks/{name}.json", f"`python benchmarks/{name}.py` rewrites it")
    return found if checksum_matches(model, found["checksum"]) else None


def _report(folder: Path, model) -> dict | None:
    """Return the content of a run's report.json with the number of images of each class, or None as in `_measured`."""
    if not (folder / REPORT[0]).is_file():
        return None
    found = read_record(folder / REPORT[0], REPORT[0], "the run's own train.py command rewrites it")
    if not checksum_matches(model, found["checksum"]):
        return None
    images = {row["class"]: row["images"] for row in found["classes"]}
    for row in (*found["easiest"], *found["hardest"]):
        row["images"] = images.get(row["class"])
    return found
