"""The model card: what a run measured goes in, every word a person wrote stays.

A card has regions between markers, `<!-- results -->` … `<!-- /results -->`, which are written anew from a run; `REGIONS`
has them all. In the front matter `model-index` and `datasets` follow the run; keys that are missing are added; the rest,
comments included, is left as it is. The repository's name is kept right inside the fenced code.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml

from modeling_eanet import EANetConfig, classify, from_pretrained_keras

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
    head, body = split_card(TEMPLATE.read_text(encoding="utf-8") if base is None else base, where)
    head = _front_matter(head, results, repo_id, where)
    body = _with_repo_id(body, repo_id)
    if not has_region(body, "results"):
        body = f"{body.rstrip()}\n\n## Results\n\n<!-- results -->\n<!-- /results -->\n"
    words = body
    for name, region in REGIONS.items():
        if has_region(body, name):
            words = _with_region(words, name, "")
            body = _with_region(body, name, region(results, config, Path(folder)))
    claim = re.search(r"CIFAR.*", words, re.IGNORECASE)
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
    if not text.startswith("---\n"):
        return "", text
    head, fence, body = text[4:].partition("\n---\n")
    if not fence:
        raise ValueError(f"{where}: the front matter that begins in line 1 does not end with a line ---")
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 2}" if mark else ""
        raise ValueError(f"{where}{line}: broken YAML ({getattr(error, 'problem', None) or error}); mend it there") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError(f"{where}, line 2: the front matter must be a mapping of keys to values; mend it there")
    return head + "\n", body


def model_index(existing, results: dict, repo_id: str) -> list[dict]:
    """`model-index` with the run's result first; results of others stay, unless their values are no numbers."""
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
        for kind, name, key in METRICS
    ]
    entries = [entry for entry in existing if isinstance(entry, dict)] if isinstance(existing, list) else []
    name = next((str(entry["name"]) for entry in entries if entry.get("name")), repo_id.split("/")[1])
    (ours,) = eval_results_to_model_index(name, measured)
    others = [result for entry in entries for result in entry.get("results") or [] if _is_of_others(result)]
    return [{"name": name, "results": ours["results"] + others}]


def _is_of_others(result) -> bool:
    try:
        values = [metric["value"] for metric in result["metrics"]]
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)
        return bool(values) and numbers and (result.get("source") or {}).get("name") != OURS
    except (TypeError, KeyError, AttributeError):
        return False


def _front_matter(head: str, results: dict, repo_id: str, where: str) -> str:
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
    if not isinstance(tags, list):
        raise ValueError(f"{where}: tags must be a list; mend it there")
    if not set(TAGS) <= set(tags):
        entries["tags"] = tags + [tag for tag in TAGS if tag not in tags]
    dataset = [results["dataset"]["id"]] if results["dataset"]["id"] else None
    if data.get("datasets") != dataset:
        entries["datasets"] = dataset
    entries["model-index"] = model_index(data.get("model-index"), results, repo_id)
    for key, value in entries.items():
        head = _with_key(head, key, value)
    return head


def _with_key(head: str, key: str, value) -> str:
    """`head` with the top-level `key` set to `value`, or taken out for None; all other lines stay as they are."""
    text = "" if value is None else yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1000)
    # A key's block goes on over indented lines and the items of a list, which may stand at the margin.
    block = re.compile(rf"^{re.escape(key)}[ ]*:.*\n(?:(?:[ \t]+.*|-(?:[ \t].*)?|[ \t]*)\n)*", re.MULTILINE)
    if block.search(head):
        return block.sub(lambda _: text, head, count=1)
    return head + text


def _with_repo_id(body: str, repo_id: str) -> str:
    """Puts `repo_id` for the one that the snippets name, in fenced code alone."""
    named = re.search(r"hf://([\w.-]+/[\w.-]+)", body)
    if not named:
        return body
    old = re.compile(rf"(?<![\w./-]){re.escape(named[1])}(?![\w/-])")
    hub = re.compile(rf"hf://{re.escape(named[1])}(?![\w/-])")

    def replace(fence):
        return old.sub(repo_id, hub.sub(f"hf://{repo_id}", fence[0]))

    return re.sub(r"^```.*?^```", replace, body, flags=re.DOTALL | re.MULTILINE)


# ------------------------------------------------------------------------------------------------------- the regions


def has_region(body: str, name: str) -> bool:
    return re.search(rf"<!-- {name} -->\n.*?<!-- /{name} -->", body, re.DOTALL) is not None


def _with_region(body: str, name: str, text: str) -> str:
    new = f"<!-- {name} -->\n{text}\n<!-- /{name} -->"
    return re.sub(rf"<!-- {name} -->\n.*?<!-- /{name} -->", lambda _: new, body, count=1, flags=re.DOTALL)


def _summary(results, config, folder) -> str:
    size, millions = config.image_size, results["model"]["parameters"] / 1e6
    return (
        f"A small image classifier: {millions:.2f} M parameters, {size}×{size} RGB pictures, {config.num_classes} classes, "
        f"**{100 * results['accuracy']:.2f} %** top-1 accuracy on {results['dataset']['name']}."
    )


def _results(results, config, folder) -> str:
    dataset = results["dataset"]
    text = (
        "| Measured on | Pictures | Top-1 accuracy | Top-5 accuracy | Cross-entropy |\n| --- | --- | --- | --- | --- |\n"
        f"| {dataset['name']} | {results['num_images']:,} | {100 * results['accuracy']:.2f} % "
        f"| {100 * results['top5_accuracy']:.2f} % | {results['loss']:.3f} |\n\n"
    )
    if dataset["split"] == "hold-out":
        text += "These pictures were kept out of the training; they are **not** CIFAR-100's official test split. "
    elif dataset["split"] != "test":
        text += f"This is no test split: it is {dataset['note'] or 'the ' + dataset['split'] + ' split'}. "
    wrong = 100 - 100 * results["accuracy"]
    return text + f"The model is wrong about {wrong:.0f} % of them in its first answer."


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
    hours = training["wall_time_s"] / 3600
    took = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    text = (
        f"```bash\n{training['command']}\n```\n\nmade these weights: seed {training['seed']}, {training['epochs']} epochs "
        f"over {training['num_images']:,} pictures, {took} on {training['hardware']} with {backend}{version}; finished on "
        f"{training['date']}."
    )
    if training.get("init_from"):
        text += f" It began with the weights of `{training['init_from']}`."
    return text


def _classes(results, config, folder) -> str:
    return ", ".join(f"`{label}`" for label in config.id2label.values())


REGIONS = {
    "summary": _summary,
    "results": _results,
    "samples": _samples,
    "architecture": _architecture,
    "training": _training,
    "classes": _classes,
}
