"""The model card: what a run measured goes in, every word a person wrote stays.

A card has regions between markers, `<!-- results -->` … `<!-- /results -->`, which are written anew from a run; `REGIONS`
has them all. In the front matter `model-index`, `datasets` and a `widget` follow the run; keys that are missing are added;
the rest, comments included, is left as it is. Calls in fenced code that load a model from the Hub get the repository's name.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import yaml

from modeling_eanet import EANetConfig, classify, first_line, from_pretrained_keras

TEMPLATE = Path(__file__).resolve().parent / "card_template.md"
CARD = "README.md"
OURS = "eval_results.json"  # the source named by the results in model-index that are ours to replace
TAGS = ("keras", "tf-keras", "tensorflow", "image-classification", "external-attention", "eanet")
METRICS = (
    ("accuracy", "Accuracy", "accuracy"),
    ("top_5_accuracy", "Top-5 accuracy", "top5_accuracy"),
    ("loss", "Cross-entropy", "loss"),
)


def build_card(base: str | None, folder, results: dict, repo_id: str, *, where: str = CARD) -> str:
    """The card of the model in `folder`.

    Args:
        base: the card to bring up to date; None for a new one, from `card_template.md`.
        folder: of the model, and of `samples/` if it has any.
        results: the content of its `eval_results.json`.
        repo_id: "user/name", for the snippets and the source of the results.
        where: how messages call `base`.

    Returns:
        The text of README.md.

    Raises:
        ValueError: broken front matter in `base` (the message says where), a card about CIFAR-100 for a model of other
            data, or a result that is no finite number.
    """
    for _, _, key in METRICS:
        if not isinstance(results[key], (int, float)) or not math.isfinite(results[key]):
            raise ValueError(f"{OURS}: {key} is {results[key]!r}, not a finite number; measure the model again")
    config = EANetConfig.from_json_file(Path(folder) / "config.json")
    if base is None:
        base, where = TEMPLATE.read_text(encoding="utf-8"), TEMPLATE.name
    head, body = split_card(base, where)
    tags = " ".join(map(str, (yaml.safe_load(head) or {}).get("tags") or []))
    head = _front_matter(head, results, config, Path(folder), repo_id, where)
    body = _with_repo_id(body, repo_id)
    regions = [name for name in REGIONS if _has_region(body, name, where)]
    if "results" not in regions:
        body = f"{body.rstrip()}\n\n## Results\n\n<!-- results -->\n<!-- /results -->\n"
        regions.append("results")
    words = body
    for name in regions:
        words = _with_region(words, name, "")
        body = _with_region(body, name, REGIONS[name](results, config, Path(folder)))
    claim = re.search(r"CIFAR.*", f"{words}\n{tags}", re.IGNORECASE)
    if claim and results["dataset"]["id"] != "uoft-cs/cifar100":
        raise ValueError(
            f'{where}: says "{claim[0][:40]}", and this model was trained on {results["dataset"]["name"]}; edit it, '
            "push to another --repo-id, or begin a new card with --new-card"
        )
    return f"---\n{head}---\n{body}"


def split_card(text: str, where: str = CARD) -> tuple[str, str]:
    """(front matter without its fences, the text after it); "" for a card that has none.

    Raises:
        ValueError: the front matter does not end or is not a YAML mapping; the message gives the line.
    """
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    match = re.match(r"\s*^---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", text, re.DOTALL | re.MULTILINE)
    if not match:
        if re.match(r"\s*^---[ \t]*$", text, re.MULTILINE):
            raise ValueError(f"{where}: the front matter at its top does not end with a line ---; add that line there")
        return "", text
    head, body = match[1], text[match.end() :]
    first = text[: match.start(1)].count("\n") + 1
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + first}" if mark else ""
        raise ValueError(f"{where}{line}: broken YAML ({getattr(error, 'problem', None) or error}); mend it there") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"{where}, line {first}: the front matter must be a mapping of keys to values; mend it there")
    return head, body


def model_index(existing, results: dict, metrics, repo_id: str) -> list[dict]:
    """`model-index` with the run's result first, in place of earlier ones of ours, of ones on a data set of the same
    name, and of empty ones; all others stay."""
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    dataset = results["dataset"]
    measured = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=dataset["id"] or "imagefolder",
            dataset_name=dataset["name"],
            dataset_split=dataset["split"],
            metric_type=kind,
            metric_name=name,
            metric_value=results[key],
            source_name=OURS,
            source_url=f"https://huggingface.co/{repo_id}/blob/main/{OURS}",
        )
        for kind, name, key in metrics
    ]
    entries = [entry for entry in existing if isinstance(entry, dict)] if isinstance(existing, list) else []
    entries = entries or [{"name": repo_id.split("/")[1]}]
    (ours,) = eval_results_to_model_index("ours", measured)
    index = []
    for entry in entries:
        others = entry.get("results") if isinstance(entry.get("results"), list) else []
        others = [result for result in others if not _is_replaced(result, dataset)]
        index.append({**entry, "results": (ours["results"] if not index else []) + others})
    return [entry for entry in index if entry["results"]]


def _is_replaced(result, dataset) -> bool:
    """Whether a result is of an earlier run of ours, of the same pictures, or empty, as `value: []` is."""
    try:
        theirs = result["dataset"]
        same = (theirs.get("type"), theirs.get("name")) == (dataset["id"] or "imagefolder", dataset["name"])
        empty = all(metric["value"] in ([], None, "") for metric in result["metrics"])
        return same or empty or (result.get("source") or {}).get("name") == OURS
    except (TypeError, KeyError, AttributeError):
        return True


def _metrics(config) -> list:
    """Among five classes or fewer the right one is always among the first five."""
    return [metric for metric in METRICS if metric[0] != "top_5_accuracy" or config.num_classes > 5]


def _front_matter(head: str, results: dict, config, folder: Path, repo_id: str, where: str) -> str:
    data = yaml.safe_load(head) or {}
    entries = {
        "language": "en",
        "license": "apache-2.0",
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "metrics": ["accuracy"],
    }
    entries = {key: value for key, value in entries.items() if key not in data}
    tags = data.get("tags") or []
    datasets = data.get("datasets") or []
    for name, value in (("tags", tags), ("datasets", datasets)):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{where}: {name} must be a list of texts; mend it there")
    if not set(TAGS) <= set(tags):
        entries["tags"] = tags + [tag for tag in TAGS if tag not in tags]
    ours = results["dataset"]["id"]
    wanted = [name for name in datasets if ours or name != "uoft-cs/cifar100"]
    wanted += [ours] if ours and ours not in wanted else []
    if wanted != datasets:
        entries["datasets"] = wanted or None
    entries["model-index"] = model_index(data.get("model-index"), results, _metrics(config), repo_id)
    if "widget" in data:  # samples with what the model says to them
        entries["widget"] = _widget(folder, repo_id) or None
    for key, value in entries.items():
        head = _with_key(head, key, value)
    return head


def _widget(folder: Path, repo_id: str) -> list[dict]:
    pictures = sorted((folder / "samples").glob("*.png"))[:6]
    answers = classify(from_pretrained_keras(folder), pictures, top_k=3) if pictures else []
    return [
        {
            "src": f"https://huggingface.co/{repo_id}/resolve/main/samples/{picture.name}",
            "example_title": picture.stem.replace("_", " "),
            "output": [{"label": a["label"], "score": round(a["score"], 4)} for a in answer],
        }
        for picture, answer in zip(pictures, answers, strict=True)
    ]


def _with_key(head: str, key: str, value) -> str:
    """`head` with the top-level `key` set to `value`, or taken out for None; all other lines stay as they are."""
    text = "" if value is None else yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1000)
    root = yaml.compose(head)
    for name, node in root.value if root else []:
        if name.value == key:
            begin, end = name.start_mark.index, max(name.end_mark.index, node.end_mark.index)
            # The end of a list is where the next key begins; the empty lines and comments between them are that key's.
            end = begin + len(re.sub(r"(?:\n[ \t]*(?:#.*)?)+\Z", "", head[begin:end]))
            _, _, after = head[end:].partition("\n")
            return head[:begin] + text + after
    return head + text


def _with_repo_id(body: str, repo_id: str) -> str:
    """Puts `repo_id` into the calls in fenced code that load a model from the Hub, unless they name several repositories."""
    fence = re.compile(r"^[ ]{0,3}(```|~~~).*?^[ ]{0,3}\1", re.DOTALL | re.MULTILINE)
    call = re.compile(r"""((?:load_model|from_pretrained_keras)\(\s*["'](?:hf://)?)([\w.-]+/[\w.-]+)(?=["'])""")
    named = {match[2] for code in fence.finditer(body) for match in call.finditer(code[0])}
    if len(named) != 1:
        return body
    return fence.sub(lambda code: call.sub(rf"\g<1>{repo_id}", code[0]), body)


# ------------------------------------------------------------------------------------------------------- the regions


def _has_region(body: str, name: str, where: str) -> bool:
    found = re.findall(rf"^<!-- (/?{name}) -->[ \t]*$", body, re.MULTILINE)
    if found not in ([], [name, f"/{name}"]):
        raise ValueError(
            f"{where}: the lines <!-- {name} --> and <!-- /{name} --> must be there once each, in this order, or not "
            "at all; mend it there"
        )
    return bool(found)


def _with_region(body: str, name: str, text: str) -> str:
    """What stands between the two markers, each on a line of its own, becomes `text`."""
    region = re.compile(rf"(^<!-- {name} -->)[ \t]*\n.*?(^<!-- /{name} -->)", re.DOTALL | re.MULTILINE)
    return region.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", body, count=1)


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
    metrics = _metrics(config)
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
    backend = versions["backend"]
    version = f" {versions[backend]}" if backend in versions else ""
    text = (
        f"```bash\n{training['command']}\n```\n\nmade these weights: seed {training['seed']}, "
        f"{_count(training['epochs'], 'epoch')} over {_count(training['num_images'], 'picture')}, "
        f"{_duration(training['wall_time_s'])} on {training['hardware']} with {backend}{version}; finished on "
        f"{training['date']}."
    )
    if training.get("recipe"):
        try:
            text += f" {_recipe(training['recipe'])}"
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{OURS}: its recipe is damaged; the run's own command, given again, writes it anew") from None
    if training.get("init_from"):
        text += f" It began with the weights of `{training['init_from']}`."
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return _count(round(seconds), "second")
    return f"{seconds / 3600:.1f} hours" if seconds >= 5400 else f"{seconds / 60:.0f} minutes"


def _recipe(recipe: dict) -> str:
    """What the command leaves to the defaults of train.py, too: those may change."""
    cutmix = (
        f", CutMix on {100 * recipe['cutmix']:g} % of them but in the last tenth of the epochs" if recipe["cutmix"] else ""
    )
    return (
        f"The recipe: random crops and flips of the pictures{cutmix}; batches of {recipe['batch_size']}; AdamW with a peak "
        f"learning rate of {recipe['learning_rate']:g}, reached in {recipe['warmup_epochs']:g} epochs and brought to 0 by a "
        f"cosine, and a weight decay of {recipe['weight_decay']:g}; label smoothing of {recipe['label_smoothing']:g}; "
        f"{recipe['precision']}. What is shipped is the moving average of the weights (momentum {recipe['ema']:.4g})."
    )


def _evaluation(results, config, folder) -> str:
    """From `benchmarks/evaluation.json`, if that was measured on these weights."""
    path = folder / "benchmarks" / "evaluation.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if found.get("checksum") != results["model"].get("checksum", ""):
            return "Not measured for these weights; `python benchmarks/evaluation.py --data PATH` does that."
        return _evaluation_text(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        mend = "`python benchmarks/evaluation.py` writes it anew"
        raise ValueError(f"benchmarks/{path.name}: damaged ({first_line(error)}); {mend}") from None


def _evaluation_text(found: dict) -> str:
    rows = ["| Superclass | Pictures | Right class | Right superclass |", "| --- | --- | --- | --- |"]
    for name, count, accuracy, above in (row.values() for row in found["rows"]):
        rows.append(f"| {name} | {count} | {100 * accuracy:.1f} % | {100 * above:.1f} % |")
    pairs = ", ".join(f"{' and '.join(c['classes'])} ({c['count']} of {c['of']})" for c in found["confusions"][:5])
    easy, hard = (
        ", ".join(f"`{c['class']}` ({100 * c['accuracy']:.0f} %)" for c in found[key]) for key in ("easiest", "hardest")
    )
    confidence, accuracy = 100 * found["mean_confidence"], 100 * found["accuracy"]
    modest = "less sure than it is right" if confidence < accuracy else "surer than it is right"
    return (
        "\n".join(rows) + f"\n\nMeasured on {found['num_images']:,} pictures of {found['dataset']} ({found['split']}). In "
        f"{100 * found['superclass_accuracy']:.1f} % the first answer is of the right superclass. Easiest: {easy}. Hardest: "
        f"{hard}. Most often taken for each other: {pairs}.\n\nThe first answer's probability is {confidence:.1f} % on "
        f"average where it is right in {accuracy:.1f} %: the model is {modest}. The expected calibration error "
        f"({found['bins']} bins) is {100 * found['expected_calibration_error']:.1f} %."
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
    "classes": _classes,
}
