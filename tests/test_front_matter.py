"""The front matter of a card: found, parsed, and changed key by key."""

import pytest
import yaml

from eanet.cli import UserError
from eanet.hub import front_matter


@pytest.mark.parametrize(
    "head",
    [
        "tags:\n- a\n- b\n",
        "tags: [a, b]\n",
        "tags: [\n  a,\n  b,\n]\n",
        "tags:\n- a\n# why b\n- b\n",
        '"tags":\n  - a\n  - b  # why b\n',
        "tags: [a, b]  # both\n",
        "tags:\n",
        "",
    ],
)
@pytest.mark.parametrize("before", ["", "license: mit  # mine\n\n# about tags\n"])
@pytest.mark.parametrize("after", ["", "\n# about x\nx: |\n  # text\n  more\n", "z: [1,\n 2]\n"])
def test_a_key_is_set_and_all_other_lines_stay(head, before, after):
    text = front_matter.set_key(before + head + after, "tags", ["new"])
    data = yaml.safe_load(text)
    assert data == {**(yaml.safe_load(before + after) or {}), "tags": ["new"]}
    assert text.startswith(before) and after in text and text.count("tags") == 1 + before.count("tags")
    gone = front_matter.set_key(before + head + after, "tags", None)
    assert yaml.safe_load(gone) == yaml.safe_load(before + after)


@pytest.mark.parametrize(
    ("text", "head", "body"),
    [
        ("no front matter\n---\n", "", "no front matter\n---\n"),
        ("---\na: 1\n---\nbody", "a: 1\n", "body"),
        ("---\na: 1\n---", "a: 1\n", ""),
        ("\n\n---\r\na: 1\r\n---  \r\nbody\r\n", "a: 1\n", "body\n"),
        ("\ufeff---\n---\nbody", "", "body"),
        ("---  \na: 1\n---\nbody", "a: 1\n", "body"),
    ],
)
def test_front_matter_is_found_where_the_hub_finds_it(text, head, body):
    assert front_matter.split_card(text) == (head, body)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("---\na: 1\n", "does not end"),
        ("---\na: 1\nb: [\n---\n", "README.md, line 4"),
        ("\n\n---\na: 1\nb: c: d\n---\n", "README.md, line 5"),
        ("---\n- a\n---\n", "mapping"),
    ],
)
def test_broken_front_matter_is_named_with_its_line(text, words):
    with pytest.raises(UserError, match=words):
        front_matter.split_card(text)
