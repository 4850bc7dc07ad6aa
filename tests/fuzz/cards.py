"""Fuzz the model card: what people wrote must stay, and text from data must stay text."""

import copy
import html.parser
import re
import sys

from fuzz.attempt import Violation, attempt
from fuzz.mutate import mutate_bytes

TEXTS = [
    "<b>bold</b>", "<img src=x onerror=alert(1)>", "[a](http://evil.example)", "![a](http://evil.example/x.png)", "# title",
    "a\n# title", "```\n<script>alert(1)</script>\n```", "~~~", "<!-- results -->", "<!-- /results -->", "-->", "| a | b |",
    "a|b", "<details>", "</details>", "http://evil.example", "https://evil.example/a", "www.evil.com", "<http://evil.example>",
    "mail@evil.com", "---", "- list", "1. list", "> quote", "\\", "`code`", "``", "$x$", "&lt;b&gt;", "&#60;b&#62;",
    "a\r\n\r\nb",    "\u2028# x", "{{ 7 * 7 }}", "{% raw %}", "key: value", "*a*", "_a_", "~~a~~", "[^1]",
    "[a]: http://evil.example", "\x1b[31m",
    "|---|", "    indented", "\ttab", "a  \nb", "</table>", "=====", "!", "[ ]", ":smile:", "@user", "#1", "x" * 5000,
]  # fmt: skip


# What GitHub's Markdown turns into a link by itself, https://github.github.com/gfm/#autolinks-extension-
AUTOLINK = re.compile(r"(?:https?://|ftp://|www\.)[\w.-]+|[\w.+-]+@[\w-]+\.[\w.-]+|(?:mailto|xmpp):\S+", re.IGNORECASE)


class _Structure(html.parser.HTMLParser):
    """Counts the tags and collects the addresses of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.literal = {}, [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.literal += tag in ("a", "code")
        self.addresses += [value for key, value in attributes if key in ("src", "href") or key.startswith("on")]

    def handle_endtag(self, tag):
        self.literal -= tag in ("a", "code")

    def handle_data(self, data):
        if not self.literal:
            self.addresses += AUTOLINK.findall(data)


def render(markdown):
    """Return the structure of a card's body as GitHub's Markdown shows it."""
    from markdown_it import MarkdownIt

    body = markdown.split("\n---\n", 1)[1]
    return _Structure(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body))


def facts_of(materials):
    """Return the facts of the model's card, with a training record."""
    if not hasattr(materials, "facts"):
        from test_card import RESULTS, TRAINING

        from eanet.hub.card_facts import collect_facts
        from modeling_eanet import from_pretrained_keras

        results = {**RESULTS, "training": TRAINING}
        materials.facts = collect_facts(materials.home, results, from_pretrained_keras(materials.model), "me/new")
    return copy.deepcopy(materials.facts)


def new_card(rng, folder, materials):
    """Put hostile text where data, labels and machines put theirs; the card's structure must be that of harmless text."""
    from eanet.hub.card import render_card, update_card

    made = []
    text = TEXTS[rng.integers(len(TEXTS))] if rng.random() < 0.8 else f"a {TEXTS[rng.integers(len(TEXTS))]} b"
    place = int(rng.integers(7))

    def call():
        for value in ("harmless", text):
            facts = facts_of(materials)
            _put(facts, place, value)
            card = render_card(facts)
            made.append(card)
            if value is text and update_card(card, facts) != card:
                raise Violation(f"{text!r} at {place}: a second push changes the card")
        return 0

    done = attempt(call, folder)
    plain, hostile = map(render, made)
    if plain.tags != hostile.tags or sorted(plain.addresses) != sorted(hostile.addresses):
        changed = {t: (plain.tags.get(t, 0), n) for t, n in hostile.tags.items() if plain.tags.get(t, 0) != n}
        raise Violation(f"{text!r} at {place} changes the card's structure: {changed} {hostile.addresses[:3]}")
    return 1, 1, [done]


def _put(facts, place, text):
    results, run = facts["results"], facts["runs"][0]
    match place:
        case 0:
            results["dataset"]["name"] = text
        case 1:
            results["dataset"]["split"] = text
        case 2:
            results["dataset"]["note"] = text
        case 3:
            facts["labels"][0] = text
        case 4:
            run["hardware"] = text
        case 5:
            run["command"] = f"python train.py --data {text}"
        case 6:
            run["init_from"] = text


def updated_card(rng, folder, materials):
    """Damage a card; it is either refused in one line or updated, and the update is stable."""
    from eanet.cli import UserError
    from eanet.hub.card import render_card, update_card

    facts = facts_of(materials)
    card = mutate_bytes(rng, render_card(facts).encode()).decode("utf-8", "replace")
    if rng.random() < 0.3:
        lines = card.splitlines(keepends=True)
        lines.insert(int(rng.integers(len(lines))), TEXTS[rng.integers(len(TEXTS))] + "\n")
        card = "".join(lines)
    facts["results"]["accuracy"] = 0.625

    def call():
        try:
            first = update_card(card, facts)
        except UserError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 2
        if update_card(first, facts) != first:
            raise Violation(f"a second push changes the card {card[:200]!r}")
        return 0

    done = attempt(call, folder)
    return 1, int(done.status == 0), [done]
