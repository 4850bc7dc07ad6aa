"""Collect what a card states from a folder: results, sample answers, measurements. The model runs here, not in card.py."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from eanet.cli import UserError
from eanet.evaluation import count_macs
from eanet.hub.front_matter import CIFAR100
from eanet.hub.provenance import FIGURES_RECORD, OUR_FIGURES, figures_record
from eanet.run_dir import RESULTS_FILE, training_runs
from eanet.saving import ONNX_FILE, checksum_matches

SETTINGS = ("learning_rate", "warmup_epochs", "weight_decay", "batch_size", "label_smoothing", "cutmix", "precision", "ema")
EVALUATION = ("dataset", "split", "num_images", "accuracy", "superclass_accuracy", "mean_confidence", "bins",
              "expected_calibration_error", "rows", "easiest", "hardest", "confusions")  # fmt: skip
EXPORTS = ("rows", "split", "num_images", "hardware", "date", "command")
ROWS = {
    "evaluation": ("superclass", "num_images", "top1_accuracy", "superclass_accuracy"),
    "exports": ("form", "size_mb", "top1_accuracy", "same_answers", "one_image_ms", "cold_start_s"),
}


def collect_facts(folder, results: dict, model, repo_id: str) -> dict:
    """Collect the facts of a card.

    Args:
        folder: staging folder, or another folder with a model and all that its card shows.
        results: content of its `eval_results.json`, with the keys that `staging.read_results` checks.
        model: Keras model of the folder, with its `config`.
        repo_id: "user/name".

    Returns:
        A dict of JSON values for `card.render_card` and `card.update_card`.

    Raises:
        UserError: a result is not a finite number, or a file is damaged.
    """
    folder, config = Path(folder), model.config
    for key in ("accuracy", "top5_accuracy", "loss"):
        if not isinstance(results[key], (int, float)) or not math.isfinite(results[key]):
            raise UserError(f"{RESULTS_FILE}: {key} is {results[key]!r}, not a finite number; measure the model again")
    runs = _runs(results["training"])
    figures = _figures(folder)
    onnx = folder / ONNX_FILE
    return {
        "repo_id": repo_id,
        "results": results,
        "cifar100": results["dataset"]["id"] == CIFAR100,
        "cifar100_parent": any(_on_cifar100(run["command"]) for run in runs[:-1]),
        "labels": list(config.id2label.values()),
        "image_size": config.image_size,
        "interpolation": config.interpolation,
        "macs": count_macs(model),
        "architecture": _architecture(config),
        "epochs": sum(run["epochs"] for run in runs),
        "runs": runs,
        "samples": sample_answers(folder, model),
        "figures": figures,
        "removed_figures": sorted({f"{stem}.png" for stem in OUR_FIGURES} - set(figures)),
        "onnx_bytes": onnx.stat().st_size if onnx.is_file() else 0,
        "evaluation": _measured(folder, "evaluation", EVALUATION, model),
        "exports": _measured(folder, "exports", EXPORTS, model),
        "benchmarks_readme": (folder / "benchmarks" / "README.md").is_file(),
    }


def _figures(folder: Path) -> dict[str, dict]:
    """Return alt text, caption and width of each figure in the folder, by file name."""
    record = figures_record(folder / FIGURES_RECORD)
    paths = sorted(path for path in folder.glob("figures/*") if path.suffix in (".png", ".svg"))
    plain = {"alt": "", "caption": "", "width": 520}
    return {p.name: {k: record.get(p.name, {}).get(k, default) for k, default in plain.items()} for p in paths}


def sample_answers(folder: Path, model) -> list[dict]:
    """Return what `model` answers for each image in `samples/`.

    Returns:
        Per image: `file`; `label`, the class in its name, or None where the model has no such class; `answers`, the top five
        with label and score; `top1` and `top5`, whether the label is among them.
    """
    from eanet.predict import classify

    paths = sorted(path for path in folder.glob("samples/*") if path.suffix in (".png", ".jpg"))
    found = []
    for path, answers in zip(paths, classify(model, paths, top_k=5) if paths else [], strict=True):
        named, label = [answer["label"] for answer in answers], sample_label(path.stem)
        known = label in model.config.id2label.values()
        sample = {"file": path.name, "label": label if known else None, "answers": answers}
        found.append({**sample, "top1": known and named[0] == label, "top5": known and label in named})
    return found


def sample_label(stem: str) -> str:
    """Return the label that a sample's file name states: "cat_2" is the second of "cat"."""
    name, _, number = stem.rpartition("_")
    return name if number.isdecimal() and name else stem


def _architecture(config) -> dict:
    side, stages = config.image_size // config.patch_size, []
    parts = zip(config.embed_dims, config.depths, config.num_heads, config.slots, strict=True)
    for i, (dim, depth, heads, slots) in enumerate(parts):
        side = side // 2 if i else side
        stages.append({"dim": dim, "depth": depth, "heads": heads, "slots": slots, "tokens": side * side})
    found = {"tokenizer": config.tokenizer, "patch_size": config.patch_size, "depthwise": bool(config.depthwise_kernel)}
    return {**found, "stages": stages}


def _runs(training: dict | None) -> list[dict]:
    """Return the runs that made the weights, oldest first, with the keys that the card shows."""
    if training is None:
        return []
    keys = ("command", "epochs", "num_images", "seed", "wall_time_s", "hardware", "date", "init_from")
    try:
        runs = []
        for record in training_runs(training):
            run = {key: record[key] for key in keys} | {"backend": record.get("backend")}
            recipe = record.get("recipe")
            runs.append({**run, "recipe": {key: recipe[key] for key in SETTINGS} if recipe else None})
        return runs
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise UserError(f"{RESULTS_FILE}: its training record is damaged; the run's own command rewrites it") from None


def _on_cifar100(command: str) -> bool:
    """Return True if a training command reads CIFAR-100, by the name of its data; without data it downloads CIFAR-100."""
    data = re.search(r"--data[ =](\S+)", command)
    return data is None or "cifar100" in re.sub(r"[\W_]", "", data[1].lower())


def _measured(folder: Path, name: str, keys: tuple, model) -> dict | None:
    """Return the content of benchmarks/<name>.json, or None if there is none of these weights."""
    path = folder / "benchmarks" / f"{name}.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not checksum_matches(model, found["checksum"]):
            return None
        missing = [key for key in keys if key not in found]
        missing += [key for row in found.get("rows") or [{}] for key in ROWS[name] if key not in row]
    except (ValueError, LookupError, TypeError, AttributeError):
        missing = ["a checksum"]
    if missing:
        raise UserError(f"benchmarks/{name}.json: damaged ({missing[0]} is missing); `benchmarks/{name}.py` rewrites it")
    return {key: found[key] for key in keys}
