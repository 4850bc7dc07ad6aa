"""The Hub's rules for the front matter of a card."""

import math
import re

import yaml


def front_matter(card: str) -> dict | None:
    match = re.match(r"---\r?\n(.*?)\r?\n---(?:\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def card_errors(card: str) -> list[str]:
    """What the Hub refuses in a card's front matter."""
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"]
    if data is None:
        return []
    errors = []

    def need(ok, what):
        if not ok:
            errors.append(what)

    need(isinstance(data, dict), "the front matter must be a mapping")
    if errors:
        return errors
    for name in ("license", "library_name", "pipeline_tag", "thumbnail"):
        need(isinstance(data.get(name, ""), str), f'"{name}" must be a string')
    for name in ("tags", "datasets", "metrics"):
        value = data.get(name, [])
        need(isinstance(value, list) and all(isinstance(v, str) for v in value), f'"{name}" must be a list of strings')
    for entry in data.get("model-index") or []:
        need(isinstance(entry, dict) and isinstance(entry.get("name"), str), '"model-index[0].name" is required')
        for result in entry.get("results") or []:
            need(isinstance(result.get("task", {}).get("type"), str), "a result needs task.type")
            dataset = result.get("dataset", {})
            need(isinstance(dataset.get("type"), str) and dataset["type"], "a result needs dataset.type")
            need(isinstance(dataset.get("name"), str) and dataset["name"], "a result needs dataset.name")
            metrics = result.get("metrics")
            need(isinstance(metrics, list) and metrics, "a result needs metrics")
            for metric in metrics or []:
                need(isinstance(metric.get("type"), str), "a metric needs a type")
                value = metric.get("value")
                number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
                need(number, "a metric needs a finite value")
                need("verified" not in metric, '"verified" is for the Hub to set')
    for item in data.get("widget") or []:
        need(isinstance(item, dict) and isinstance(item.get("src"), str), "a widget needs src")
    return errors
