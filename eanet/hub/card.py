"""The model card: regions are regenerated from facts; all other text is kept.

A card has regions between markers, `<!-- results -->` ... `<!-- /results -->`, whose text `templates/card.md` renders from
facts. In the front matter `model-index`, `datasets` and a `widget` follow the facts; missing keys are added; the rest,
comments included, stays as it is. Rendering is a pure function: it reads no file but the templates and loads no model.
"""

from __future__ import annotations

import functools
import html
import json
import re
import shlex
import urllib.parse
from pathlib import Path

import yaml

from eanet.cli import UserError, duration, printable
from eanet.evaluation import interval_text
from eanet.hub.front_matter import LICENSE_HINT, split_card, update_front_matter

TEMPLATES = Path(__file__).absolute().parent / "templates"
REGION = re.compile(r"^<!-- (?P<name>[\w-]+) -->[ \t]*\n(?P<text>.*?)^<!-- /(?P=name) -->[ \t]*$", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^[ ]{0,3}(```|~~~).*?^[ ]{0,3}\1", re.DOTALL | re.MULTILINE)
LOADERS = "load_model|from_pretrained_keras|hf_hub_download|snapshot_download"
CALL = re.compile(
    rf"""((?:(?:{LOADERS})\(\s*|\brepo(?:_id)?\s*=\s*)["'](?:hf://)?|hf download )([\w.-]+/[\w.-]+)(?=["'\s])"""
)
OLD_CLIENT = "from huggingface_hub import from_pretrained_keras"
CLAIM = re.compile(r"CIFAR[-_ ]?(?P<classes>\d*)(?=(?P<rest>.*))", re.IGNORECASE)


def render_card(facts: dict) -> str:
    """Return the text of a new card.

    Args:
        facts: from `card_facts.collect_facts`.
    """
    body = _render("card.md", facts)
    start = "" if facts["cifar100"] else LICENSE_HINT
    head = update_front_matter(start, facts, "new card", widget=bool(facts["samples"]))
    return f"---\n{head}---\n{body}"


def update_card(text: str, facts: dict, where: str = "README.md") -> str:
    """Return a card brought up to date: its regions, its front matter, and nothing else that a person wrote.

    Also removed are images of figures that these weights do not have; a repository's name in code that loads the model
    becomes that of the facts.

    Args:
        text: the card.
        facts: from `card_facts.collect_facts`.
        where: name of the card in messages.

    Raises:
        UserError: broken front matter, or markers without their counterparts; the message says where.
    """
    head, body = split_card(text, where)
    head = update_front_matter(head, facts, where)
    body = name_repository(body, facts["repo_id"])
    regions = card_regions(facts)
    found = [name for name in regions if _has_region(body, name, where)]
    shown = [name for name in facts["figures"] if any(f"figures/{name}" in regions[region] for region in found)]
    body = _without_figures(body, facts["removed_figures"] + shown)  # the regions bring back those that are shown
    if "results" not in found:
        body = f"{body.rstrip()}\n\n## Results\n\n<!-- results -->\n<!-- /results -->\n"
        found.append("results")
    for name in found:
        body = set_region(body, name, regions[name])
    return f"---\n{head}---\n{body}"


def card_regions(facts: dict) -> dict[str, str]:
    """Return the text of every region, by name; "" where there is nothing to say about these weights."""
    rendered = _render("card.md", facts) + _render("retired.md", facts)
    return {match["name"]: match["text"].removesuffix("\n") for match in REGION.finditer(rendered)}


def card_warnings(text: str, facts: dict, where: str = "README.md") -> list[str]:
    """Return one line for each thing a person should check in a card.

    These are words about CIFAR-100 where the data is another, and code for a SavedModel that is not there.
    """
    head, body = split_card(text, where)
    tags = " ".join(map(str, (yaml.safe_load(head) or {}).get("tags") or []))
    data = facts["results"]["dataset"]["name"]
    known = {match["classes"] for match in CLAIM.finditer(data)}
    claims = [match for match in CLAIM.finditer(f"{REGION.sub('', body)}\n{tags}") if match["classes"] not in known]
    found = []
    if claims and not facts["cifar100"]:
        words = claims[0][0] + claims[0]["rest"]
        found.append(
            f'{where} says "{printable(words[:40])}", and this model was trained on {printable(data)}; check that it is '
            "right (--new-card starts a new card)"
        )
    if OLD_CLIENT in body and not facts["saved_model"]:
        found.append(f'{where} has "{OLD_CLIENT}", which needs the SavedModel that is left out; remove it there')
    return found


def set_region(body: str, name: str, text: str) -> str:
    """Return `body` with `text` between the markers of the region `name`, each on a line of its own."""
    region = re.compile(rf"(^<!-- {name} -->)[ \t]*\n.*?(^<!-- /{name} -->)", re.DOTALL | re.MULTILINE)
    return region.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}" if text else f"{match[1]}\n{match[2]}", body, count=1)


def repository_of(body: str) -> str | None:
    """Return the "user/name" in the code of a card that loads the model from the Hub; None for none or several."""
    named = {match[2] for code in FENCE.finditer(body) for match in CALL.finditer(code[0])} - {"USER/NAME"}
    return named.pop() if len(named) == 1 else None


def name_repository(body: str, repo_id: str) -> str:
    """Put `repo_id` into the code of a card that loads the model from the Hub, unless it names several repositories."""
    old = repository_of(body)
    if old is None:
        return body
    body = FENCE.sub(lambda code: CALL.sub(lambda m: m[1] + (repo_id if m[2] == old else m[2]), code[0]), body)
    return re.sub(rf"(?<=`hf download ){re.escape(old)}(?=[ `])", repo_id, body)


def _has_region(body: str, name: str, where: str) -> bool:
    found = re.findall(rf"^<!-- (/?{name}) -->[ \t]*$", body, re.MULTILINE)
    if found not in ([], [name, f"/{name}"]):
        raise UserError(
            f"{where}: the lines <!-- {name} --> and <!-- /{name} --> must both be there, in this order, or neither; "
            "fix it there"
        )
    return bool(found)


def _without_figures(body: str, names: list[str]) -> str:
    """Remove the images that show one of `names` in figures/."""
    for name in names:
        target = rf"(?:\./)?figures/{re.escape(name)}"
        image = rf"(?:!\[[^\]]*\]\({target}\)|<img\b[^>]*\bsrc=[\"']{target}[\"'][^>]*>)"
        body = re.sub(rf"^[ \t]*{image}[ \t]*\n(?:[ \t]*\n)?", "", body, flags=re.MULTILINE)
        body = re.sub(image, "", body)
    return body


# Templates ------------------------------------------------------------------------------------------------------------


class Verbatim(str):
    """Text that is printed as it is: it has been escaped already, or is code."""

    __slots__ = ()


@functools.cache
def _templates():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        finalize=escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {
        "code": code,
        "count": count,
        "duration": duration,
        "fence": fence,
        "figure": figure,
        "interval": interval_text,
        "literal": lambda text: Verbatim(json.dumps(str(text), ensure_ascii=False)),  # also of Python
        "millions": lambda number: f"{number / 1e6:.{1 if number >= 1e7 else 2}f}M",
        "percent": lambda fraction, digits=2: f"{100 * fraction:.{digits}f}%",
        "shell": lambda text: Verbatim(shlex.quote(str(text))),
        "stem": lambda name: Path(name).stem.replace("_", " "),
        "url": lambda text: Verbatim(urllib.parse.quote(text)),
    }
    environment.filters |= filters
    return environment


def _render(template: str, facts: dict) -> str:
    import jinja2

    try:
        return _tidy(_templates().get_template(template).render(facts))
    except jinja2.UndefinedError as error:  # a key that is missing in a file is named by `records.Record`
        raise UserError(f"eval_results.json or a file in benchmarks/ is damaged ({error}); train or measure again") from None


def escape(value):
    """Return `value` as text that Markdown and HTML show as it is, on one line. Everything that a template prints is."""
    if value is None or isinstance(value, Verbatim):
        return value
    text = printable(re.sub(r"\s+", " ", str(value)))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|\[\]~$])", r"\\\1", text)
    text = re.sub(r"(?i)(https?:|ftp:|mailto:|xmpp:|www\.|@)", r"\1<!-- -->", text)  # the Hub makes links of addresses
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)  # within a word it is only an underscore


def code(text: str) -> Verbatim:
    """Return an inline code span, also inside a table."""
    text = printable(" ".join(str(text).split()))
    if re.search(r"[`|<>&\\]", text):
        return Verbatim(f"<code>{''.join(c if c.isalnum() or c in ' -' else f'&#{ord(c)};' for c in text)}</code>")
    return Verbatim(f"`{text}`")


def fence(lines, language: str) -> Verbatim:
    """Return a fenced block of code with one line for each text; it holds no marker of a region."""
    lines = [re.sub("^<!--", " <!--", printable(line)) for line in lines]
    ticks = max((len(run) for line in lines for run in re.findall("`{3,}", line)), default=2) + 1
    return Verbatim("\n".join(["`" * ticks + language, *lines, "`" * ticks]))


def figure(figures: dict, name: str) -> Verbatim:
    """Return the image of a figure and its caption; nothing if these weights do not have it."""
    if name not in figures:
        return Verbatim("")
    shown = figures[name]
    alt = html.escape(printable(str(shown["alt"])))
    image = f'<img src="figures/{urllib.parse.quote(name)}" width="{int(shown["width"])}" alt="{alt}">'
    return Verbatim(f"\n{image}\n\n*{escape(shown['caption'])}*\n" if shown["caption"] else f"\n{image}\n")


def count(number: float, noun: str) -> str:
    """Return a number with its noun, as "1 epoch" or "45,000 images"."""
    return f"{f'{number:g}' if isinstance(number, float) else f'{number:,}'} {noun}{'' if number == 1 else 's'}"


def _tidy(text: str) -> str:
    """Collapse the empty lines that a template's branches leave, except in code, and those next to a marker."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [re.sub(r"\n{3,}", "\n\n", part) for part in parts[::2]]
    text = "".join(parts)
    text = re.sub(r"^(<!-- [\w-]+ -->\n)\n+", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"\n\n+(<!-- /[\w-]+ -->)$", r"\n\1", text, flags=re.MULTILINE)
