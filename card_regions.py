"""The parts of the model card that are written from what was measured: a function a region, from JSON to Markdown.

Each takes the content of `eval_results.json`, the EANetConfig and the folder of the model, where it finds samples and
`benchmarks/*.json`. `model_card.py` puts what they return between the markers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from modeling_eanet import classify, first_line, from_pretrained_keras

OURS = "eval_results.json"  # the source named by the results in model-index that are ours to replace
METRICS = (
    ("accuracy", "Accuracy", "accuracy"),
    ("top_5_accuracy", "Top-5 accuracy", "top5_accuracy"),
    ("loss", "Cross-entropy", "loss"),
)


def metrics_of(config) -> list:
    """Among five classes or fewer the right one is always among the first five."""
    return [metric for metric in METRICS if metric[0] != "top_5_accuracy" or config.num_classes > 5]


def _cell(text) -> str:
    """A text that stays in its cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _summary(results, config, folder) -> str:
    size, millions = config.image_size, results["model"]["parameters"] / 1e6
    return (
        f"A small image classifier: {millions:.2f} M parameters, {size}×{size} RGB pictures, {config.num_classes} classes, "
        f"**{100 * results['accuracy']:.2f} %** top-1 accuracy on {_count(results['num_images'], 'picture')} of "
        f"{results['dataset']['name']}."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _results(results, config, folder) -> str:
    dataset = results["dataset"]
    cells = {"accuracy": f"{100 * results['accuracy']:.2f} %", "loss": f"{results['loss']:.3f}"}
    cells["top_5_accuracy"] = f"{100 * results['top5_accuracy']:.2f} %"
    names = {"accuracy": "Top-1 accuracy"}
    metrics = metrics_of(config)
    rows = [
        ["Measured on", "Pictures", *(names.get(kind, name) for kind, name, _ in metrics)],
        ["---"] * (2 + len(metrics)),
        [_cell(dataset["name"]), f"{results['num_images']:,}", *(cells[kind] for kind, _, _ in metrics)],
    ]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n"
    if dataset["split"] == "hold-out":
        text += "These pictures were kept out of the training; they are **not** CIFAR-100's official test split. "
    elif dataset["split"] != "test":
        text += f"This is no test split: it is {dataset['note'] or 'the ' + dataset['split'] + ' split'}. "
    else:
        text += "These pictures are the test split of that data. "
    wrong = round(results["num_images"] * (1 - results["accuracy"]))
    return text + f"In its first answer the model is wrong about {wrong:,} of the {results['num_images']:,}."


def _samples(results, config, folder) -> str:
    pictures = sorted((folder / "samples").glob("*.png"))
    if not pictures:
        return "There are no samples in this repository."
    answers = classify(from_pretrained_keras(folder), pictures)
    rows = ["| Picture | First answer | Second | Third |", "| --- | --- | --- | --- |"]
    first = in_five = 0
    for picture, answer in zip(pictures, answers, strict=True):
        label = re.sub(r"_\d+$", "", picture.stem)
        first += answer[0]["label"] == label
        in_five += label in [a["label"] for a in answer]
        cells = [(f"**{a['label']}**" if a["label"] == label else a["label"]) + f" {100 * a['score']:.1f} %" for a in answer]
        rows.append(f"| `{picture.name}` | {' | '.join(cells[:3])} |")
    count = len(pictures)
    return "\n".join(rows) + f"\n\nRight in the first answer: {first} of {count}; in the first five: {in_five} of {count}."


def _architecture(results, config, folder) -> str:
    side, rows = config.image_size // config.patch_size, ["| Part | Output |", "| --- | --- |"]
    rows.append(f"| Raw pixels, normalised in the model | {config.image_size}×{config.image_size}×3 |")
    patch = f"{config.patch_size}×{config.patch_size}"
    stem = "3×3 convolutions" if config.tokenizer == "conv" else f"{patch} patches, projected"
    rows.append(f"| {stem} | {side * side} tokens of {config.embed_dims[0]} |")
    parts = zip(config.embed_dims, config.depths, config.num_heads, config.slots, strict=True)
    for stage, (dim, depth, heads, slots) in enumerate(parts):
        if stage:
            side //= 2
            rows.append(f"| 3×3 convolution, stride 2 | {side * side} tokens of {dim} |")
        block = f"external attention ({heads} heads, {slots} slots), {_block_text(config)}"
        rows.append(f"| {depth} block{'s' * (depth > 1)}: {block} | {side * side} tokens of {dim} |")
    rows.append(f"| Average over the tokens, softmax classifier | {config.num_classes} probabilities |")
    return "\n".join(rows)


def _block_text(config) -> str:
    return "depthwise convolution, MLP" if config.depthwise_kernel else "MLP"


def _training(results, config, folder) -> str:
    training, versions = results["training"], results["versions"]
    if training is None:
        return "How these weights were trained was not recorded."
    backend = versions["backend"]  # of the last evaluation: all that older records tell
    backend = training.get("backend", f"{backend} {versions.get(backend, '')}".strip())
    try:
        runs = runs_of(training)
        text = "```bash\n" + "\n".join(run["command"] for run in runs) + "\n```\n\nmade these weights"
        text += ", each run with those of the one before. The last: " if len(runs) > 1 else ": "
        text += _run({**training, "backend": backend})
        if training.get("recipe"):
            text += f" {_recipe(training['recipe'])}"
        if training.get("init_from"):
            text += f" It began with the weights of `{training['init_from']}`."
        for run in reversed(runs[:-1]):
            text += f" The run before: {_run(run)}{_other_recipe(run.get('recipe'), training.get('recipe'))}"
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise ValueError(f"{OURS}: its recipe is damaged; the run's own command, given again, writes it anew") from None
    return text


def runs_of(training: dict) -> list[dict]:
    """What is recorded of the runs that made the weights, in their order: each began with the weights of the one before."""
    earlier = training.get("begun_with")
    return [*(runs_of(earlier) if earlier else []), training]


def _run(training: dict) -> str:
    backend = f" with {training['backend']}" if "backend" in training else ""
    return (
        f"seed {training['seed']}, {_count(training['epochs'], 'epoch')} over {_count(training['num_images'], 'picture')}, "
        f"{_duration(training['wall_time_s'])} on {training['hardware']}{backend}; finished on {training['date']}."
    )


def _other_recipe(recipe: dict | None, last: dict | None) -> str:
    """In what an earlier run differed from the last, less what its command and `_run` say."""
    if not recipe or not last:
        return ""
    said = ("epochs", "seed", "init_from", "preset", "set")
    others = [f"{k.replace('_', ' ')} {v}" for k, v in recipe.items() if k not in said and v != last.get(k)]
    return f" Its recipe was the same{' but for ' + ', '.join(others) if others else ''}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return _count(round(seconds), "second")
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"


def _recipe(recipe: dict) -> str:
    """What the command leaves to the defaults of train.py, too: those may change."""
    cutmix = (
        f", CutMix on {100 * recipe['cutmix']:g} % of them but in the last tenth of the epochs" if recipe["cutmix"] else ""
    )
    average = f"the moving average of the weights (momentum {recipe['ema']:.4g})" if recipe["ema"] else "the last weights"
    return (
        f"The recipe: random crops and flips of the pictures{cutmix}; batches of {recipe['batch_size']}; AdamW with a peak "
        f"learning rate of {recipe['learning_rate']:g}, reached in {recipe['warmup_epochs']:g} epochs and brought to 0 by a "
        f"cosine, and a weight decay of {recipe['weight_decay']:g}; label smoothing of {recipe['label_smoothing']:g}; "
        f"{recipe['precision']}. What is shipped is {average}."
    )


def _measured(folder: Path, name: str, text, checksum: str | None = None) -> str | None:
    """`text` of what `benchmarks/<name>.json` holds. With `checksum`, only if that was measured on these weights; without,
    None where there is no file: what the card says of the code's speed then stays."""
    path = folder / "benchmarks" / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if checksum is not None and (found is None or found.get("checksum") != checksum):
            return f"Not measured for these weights; `benchmarks/{name}.py` does that."
        return None if found is None else text(found)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        mend = f"`benchmarks/{name}.py` writes it anew"
        raise ValueError(f"benchmarks/{path.name}: damaged ({first_line(error)}); {mend}") from None


def _evaluation(results, config, folder) -> str:
    return _measured(folder, "evaluation", _evaluation_text, results["model"].get("checksum", ""))


def _evaluation_text(found: dict) -> str:
    rows = [
        [name, count, f"{100 * accuracy:.1f} %", f"{100 * above:.1f} %"]
        for name, count, accuracy, above in (row.values() for row in found["rows"])
    ]
    table = _table(["Superclass", "Pictures", "Right class", "Right superclass"], rows)
    pairs = ", ".join(f"{' and '.join(c['classes'])} ({c['count']} of {c['of']})" for c in found["confusions"][:5])
    easy, hard = (
        ", ".join(f"`{c['class']}` ({100 * c['accuracy']:.0f} %)" for c in found[key]) for key in ("easiest", "hardest")
    )
    confidence, accuracy = 100 * found["mean_confidence"], 100 * found["accuracy"]
    modest = "less sure than it is right" if confidence < accuracy else "surer than it is right"
    return (
        f"{table}\n\nMeasured on {found['num_images']:,} pictures of {found['dataset']} ({found['split']}). In "
        f"{100 * found['superclass_accuracy']:.1f} % the first answer is of the right superclass. Easiest: {easy}. Hardest: "
        f"{hard}. Most often taken for each other: {pairs}.\n\nThe first answer's probability is {confidence:.1f} % on "
        f"average where it is right in {accuracy:.1f} %: the model is {modest}. The expected calibration error "
        f"({found['bins']} bins) is {100 * found['expected_calibration_error']:.1f} %."
    )


def _made_by(found: dict) -> str:
    return f"`{found['command']}` on {found['hardware']}, {found['date']}."


def _table(columns: list[str], rows: list[list]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows))


def _training_speed(results, config, folder) -> str | None:
    return _measured(folder, "train_speed", _training_speed_text)


def _training_speed_text(found: dict) -> str:
    rows = [[r["model"], f"{r['images/s']:.0f}", f"{r['times the example']:.1f}×"] for r in found["rows"]]
    text = _table(["Training, whole steps of 128 pictures", "Pictures/s", "Beside the example"], rows)
    if "time_to_43_91" in found:
        reached = found["time_to_43_91"]
        text += (
            f"\n\nA run of {_count(reached['epochs'], 'epoch')} (`{reached['command']}`) reaches "
            f"{100 * reached['accuracy']:.2f} % on the {reached['split']} in {_duration(reached['seconds'])}, start and "
            f"export included. At the speed measured beside it the example needs {_duration(reached['example_seconds'])} "
            f"for the 50 epochs of 40,000 pictures that took it to 43.91 %: {reached['times_sooner']:.0f} times as long."
        )
    return f"{text}\n\n{_made_by(found)}"


def _prediction_speed(results, config, folder) -> str | None:
    return _measured(folder, "predict_speed", _prediction_speed_text)


def _prediction_speed_text(found: dict) -> str:
    rows = [
        [
            row["model"],
            f"{row['images/s, batch 128']:.0f} ({row['times the example']:.1f}×)",
            f"{row['one picture, ms']:.1f} ms ({row['times the example, one picture']:.1f}×)",
        ]
        for row in found["rows"]
    ]
    columns = ["Prediction, beside the example", "Pictures/s, batches of 128", "One picture"]
    imports, start = found["cold_start_seconds"].values()
    return (
        f"{_table(columns, rows)}\n\n`python inference.py` with one picture takes {start:.1f} seconds from start to end; a "
        f"process that imports TensorFlow and Keras and does nothing takes {imports:.1f}.\n\n{_made_by(found)}"
    )


def _scaling(results, config, folder) -> str | None:
    return _measured(folder, "attention_scaling", _scaling_text)


def _scaling_text(found: dict) -> str:
    slopes = found["slopes"]
    rows = [
        [f"{kind} attention, {mode}", *(_power(slopes[f"{kind}, {mode}, {key}"]) for key in ("seconds", "megabytes"))]
        for kind in ("external", "self")
        for mode in ("forward", "training step")
    ]
    text = _table(["From 1,024 tokens on", "Time", "Peak memory"], rows)
    tokens = [row["tokens"] for row in found["rows"]]
    counts = f"{min(tokens):,} to {max(tokens):,} tokens"
    for mode, count in found["external_is_faster_from"].items():
        faster = f"the faster one from {count:,} tokens on" if count else "the slower one at some of the largest"
        text += f"{' ' if text[-1] == '.' else chr(10) * 2}Measured at {counts} ({mode}), external attention is {faster}"
        lost = [r for r in found["rows"] if (r["attention"], r["mode"], r["ms"]) == ("self", mode, "out of memory")]
        text += f"; self attention runs out of memory at {min(r['tokens'] for r in lost):,}." if lost else "."
    return f"{text} {_made_by(found)}"


def _power(slope: float | None) -> str:
    return "–" if slope is None else f"N^{slope:.2f}"  # none where too few points fit into memory


def _exports(results, config, folder) -> str:
    return _measured(folder, "exports", _exports_text, results["model"].get("checksum", ""))


def _exports_text(found: dict) -> str:
    rows = [
        [
            row["form"],
            f"{row['MB']:.1f} MB" if row["MB"] else "",
            f"{row['top-1, %']:.2f} %",
            f"{row['same first answer, %']:.2f} %, to {row['largest difference']:.0e}" if row["largest difference"] else "",
            f"{row['one picture, ms']:.2f} ms",
            f"{row['cold start, s']:.2f} s" if row["cold start, s"] else "",
        ]
        for row in found["rows"]
    ]
    columns = ["Form", "Size", "Top-1", "Same answers", "One picture", "Cold start"]
    return (
        f"{_table(columns, rows)}\n\nOn one core; accuracy, and how often the first answer is that of Keras, to which "
        f"largest difference between probabilities, on {found['pictures']} pictures; cold start of "
        f"`python inference.py` with one picture. Importing TensorFlow alone takes "
        f"{found['import_tensorflow_seconds']:.1f} s here. {_made_by(found)}"
    )


def _ablation(results, config, folder) -> str | None:
    return _measured(folder, "ablation", _ablation_text)


def _ablation_text(found: dict) -> str:
    columns = {"setting": "Setting", "top-1": "Top-1", "without EMA": "Without EMA"}
    columns |= {"parameters": "Parameters", "MACs a picture": "MACs a picture"}
    rows = [[_cell(row[key]) for key in columns] for row in found["rows"]]
    first, other = found["rows"][0], found["rows"][-1]
    return (
        f"{_table(list(columns.values()), rows)}\n\nRuns of {_count(first['epochs'], 'epoch')}, the last without CutMix. "
        f"The first row is the mean ± standard deviation of runs with seeds {first['seeds']}; each other row is one run "
        f"with seed {other['seeds']}, and differs from the first in what it names alone (an activation goes with the "
        f"depthwise convolution). Without EMA are the last weights of the same runs in place of their moving average. "
        f"Measured on {found['measured_on']}. `benchmarks/ablation.md` has every command. {_made_by(found)}"
    )


def _classes(results, config, folder) -> str:
    return ", ".join(f"`{_cell(label).replace('`', '')}`" for label in config.id2label.values())


REGIONS = {
    "summary": _summary,
    "results": _results,
    "samples": _samples,
    "architecture": _architecture,
    "training": _training,
    "evaluation": _evaluation,
    "training-speed": _training_speed,
    "prediction-speed": _prediction_speed,
    "scaling": _scaling,
    "exports": _exports,
    "ablation": _ablation,
    "classes": _classes,
}
