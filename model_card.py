"""The model card: what a run measured goes in, every word a person wrote stays.

A card has regions between markers, `<!-- results -->` … `<!-- /results -->`, which are written anew from a run;
`card_regions.REGIONS` has them all. In the front matter `model-index`, `datasets` and a `widget` follow the run; keys that
are missing are added; the rest, comments included, is left as it is. Calls in fenced code that load a model from the Hub
get the repository's name.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml

from card_regions import METRICS, OURS, REGIONS, metrics_of
from modeling_eanet import EANetConfig, classify, from_pretrained_keras

TEMPLATE = Path(__file__).resolve().parent / "card_template.md"
CARD = "README.md"
TAGS = ("keras", "tf-keras", "tensorflow", "image-classification", "external-attention", "eanet")


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
        text = REGIONS[name](results, config, Path(folder))
        body = body if text is None else _with_region(body, name, text)
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
    entries["model-index"] = model_index(data.get("model-index"), results, metrics_of(config), repo_id)
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
    call = re.compile(
        r"""((?:load_model|from_pretrained_keras|hf_hub_download)\(\s*["'](?:hf://)?)([\w.-]+/[\w.-]+)(?=["'])"""
    )
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
