"""Edit a card's YAML front matter key by key, so that all other lines and comments stay."""

from __future__ import annotations

import re

import yaml

from eanet.cli import UserError, printable
from eanet.run_dir import RESULTS_FILE

TAGS = ("keras", "tf-keras", "tensorflow", "image-classification", "external-attention", "eanet")
OURS = RESULTS_FILE  # the source named by those results in model-index that are ours to replace
CIFAR100 = "uoft-cs/cifar100"
METRICS = (
    ("accuracy", "Accuracy", "accuracy"),
    ("top_5_accuracy", "Top-5 accuracy", "top5_accuracy"),
    ("loss", "Cross-entropy", "loss"),
)
WIDGET_SAMPLES, WIDGET_LABELS = 6, 3
THUMBNAIL = re.compile(r"(https://[^/]+/)[^/]+/[^/]+(/resolve/[^/]+/figures/([^/?#]+))")
SAVED_MODEL_TAG = "tf-keras"  # the Hub shows code that loads the SavedModel
LICENSE_HINT = "# license: the licence of your model, which depends on your data; for example cc-by-4.0\n"
DEFAULTS = {"language": "en", "license": "apache-2.0", "library_name": "keras", "pipeline_tag": "image-classification"}


def split_card(text: str, where: str = "README.md") -> tuple[str, str]:
    """Split a card where the Hub splits it.

    Args:
        text: the card.
        where: its name in messages.

    Returns:
        The front matter without its fences, "" for a card that has none; and the text after it.

    Raises:
        UserError: the front matter does not end, or is not a YAML mapping; the message gives the line.
    """
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    text = re.sub(r"\A(\s*---)[ \t]+\n", r"\1\n", text)
    if empty := re.match(r"\s*---\n---[ \t]*(?:\n|\Z)", text):
        return "", text[empty.end() :]
    match = REGEX_YAML_BLOCK.match(text)
    if not match:
        if re.match(r"\s*---[ \t]*(?:\n|\Z)", text):
            raise UserError(f"{where}: the front matter at its top does not end with a line ---; add that line there")
        return "", text
    head, body = match[2] + "\n", text[match.end() :]
    first = text[: match.start(2)].count("\n") + 1
    try:
        data = yaml.safe_load(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + first}" if mark else ""
        raise UserError(f"{where}{line}: broken YAML ({getattr(error, 'problem', None) or error}); fix it there") from None
    if data is not None and not isinstance(data, dict):
        raise UserError(f"{where}, line {first}: the front matter must be a mapping of keys to values; fix it there")
    return head, body


def update_front_matter(head: str, facts: dict, where: str, widget: bool = False) -> str:
    """Return the front matter with what follows from the facts; its other lines stay as they are.

    Args:
        head: the front matter, without fences.
        facts: from `card_facts.collect_facts`.
        where: name of the card in messages.
        widget: add a widget with the sample images; otherwise only one that is there is rewritten.

    Raises:
        UserError: a key has a value of another type than the Hub's.
    """
    data = yaml.safe_load(head) or {}
    entries: dict = {key: value for key, value in {**DEFAULTS, "metrics": ["accuracy"]}.items() if key not in data}
    if not facts["cifar100"]:  # nobody but its owner can license a model of other data
        entries.pop("license", None)
    tags, datasets = data.get("tags") or [], data.get("datasets") or []
    for name, value in (("tags", tags), ("datasets", datasets)):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{where}: {name} must be a list of strings; fix it there")
    left_out = () if facts["saved_model"] else (SAVED_MODEL_TAG,)
    wanted = [tag for tag in (*tags, *(tag for tag in TAGS if tag not in tags)) if tag not in left_out]
    if wanted != tags:
        entries["tags"] = wanted
    entries |= _base_model(data.get("base_model"), facts)
    ours = facts["results"]["dataset"]["id"]
    kept = facts["cifar100"] or facts["cifar100_parent"]
    wanted = [name for name in datasets if kept or name != CIFAR100]
    wanted += [ours] if ours and ours not in wanted else []
    if wanted != datasets:
        entries["datasets"] = wanted or None
    if thumbnail := THUMBNAIL.fullmatch(str(data.get("thumbnail"))):
        url = f"{thumbnail[1]}{facts['repo_id']}{thumbnail[2]}"
        if thumbnail[3] in facts["removed_figures"]:
            entries["thumbnail"] = None
        elif thumbnail[3] in facts["figures"] and url != thumbnail[0]:
            entries["thumbnail"] = url
    if "widget" in data or widget or facts.get("own_samples"):
        entries["widget"] = widget_of(facts["samples"]) or None
    entries["model-index"] = model_index(data.get("model-index"), facts)
    for key, value in entries.items():
        head = set_key(head, key, value)
    return head


def _base_model(named, facts: dict) -> dict:
    """Return the entry of `base_model` to set, if any: a person's list stays where it has the base model."""
    base = facts["base_model"]
    if base and base not in (named if isinstance(named, list) else [named]):
        return {"base_model": base}
    return {"base_model": None} if named and facts["from_scratch"] else {}


def set_key(head: str, key: str, value) -> str:
    """Return front matter with a top-level key set to `value`, or without it for None; other lines stay as they are."""
    text = "" if value is None else yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=1000)
    root = yaml.compose(head)
    for name, node in root.value if root else []:
        if name.value == key:
            start, end = name.start_mark.index, max(name.end_mark.index, node.end_mark.index)
            # The end of a list is where the next key starts; the empty lines and comments between them are that key's.
            end = start + len(re.sub(r"(?:\n[ \t]*(?:#.*)?)+\Z", "", head[start:end]))
            _, _, after = head[end:].partition("\n")
            return head[:start] + text + after
    return head + text


def widget_of(samples: list[dict]) -> list[dict]:
    """Return the value of `widget`: images of the repository with the answers to them."""
    return [
        {
            "src": f"samples/{sample['file']}",
            "example_title": printable(sample["file"].rpartition(".")[0].replace("_", " ")),
            "output": [
                {"label": printable(answer["label"]), "score": round(answer["score"], 4)}
                for answer in sample["answers"][:WIDGET_LABELS]
            ],
        }
        for sample in samples[:WIDGET_SAMPLES]
    ]


def model_index(existing, facts: dict) -> list[dict]:
    """Return `model-index` with the run's result first.

    It replaces earlier results of ours, those on a data set of the same name, and empty ones; all others stay.

    Args:
        existing: the value in the card, of any type.
        facts: from `card_facts.collect_facts`.
    """
    from huggingface_hub import EvalResult
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results, repo_id = facts["results"], facts["repo_id"]
    dataset, top5 = results["dataset"], len(facts["labels"]) > 5  # of five classes or fewer, the right one is in any top 5
    measured = [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=dataset["id"] or "imagefolder",
            dataset_name=printable(dataset["name"]),
            dataset_split=dataset["split"],
            metric_type=kind,
            metric_name=name,
            metric_value=results[key],
            source_name=OURS,
            source_url=f"https://huggingface.co/{repo_id}/blob/main/{OURS}",
        )
        for kind, name, key in METRICS
        if top5 or kind != "top_5_accuracy"
    ]
    entries = [entry for entry in existing if isinstance(entry, dict)] if isinstance(existing, list) else []
    entries = entries or [{"name": repo_id.split("/")[1]}]
    (ours,) = eval_results_to_model_index("ours", measured)
    index: list[dict] = []
    for entry in entries:
        others = entry["results"] if isinstance(entry.get("results"), list) else []
        others = [result for result in others if not _is_replaced(result, dataset)]
        index.append({**entry, "results": (ours["results"] if not index else []) + others})
    return [entry for entry in index if entry["results"]]


def _is_replaced(result, dataset: dict) -> bool:
    """Return True for a result of an earlier run of ours, of the same images, or without a value."""
    try:
        theirs = result["dataset"]
        same = (theirs.get("type"), theirs.get("name")) == (dataset["id"] or "imagefolder", dataset["name"])
        empty = all(metric["value"] in ([], None, "") for metric in result["metrics"])
        return same or empty or (result.get("source") or {}).get("name") == OURS
    except (TypeError, KeyError, AttributeError):
        return True
