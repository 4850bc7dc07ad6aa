"""The words of this project are the field's: a few that readers stumbled over do not come back."""

import re
import subprocess

import pytest
from conftest import ROOT

WORDS = re.compile(r"\b(pictures?|mend(s|ed|ing)?|anew|beside)\b", re.IGNORECASE)
SPACED_PERCENT = re.compile(r"\d %(?![a-z(}\"'])")  # "82.7 %", but not the end of a template's tag
TEXT = (".py", ".md", ".toml", ".json", ".txt", ".ipynb", ".jinja", ".js", ".html", ".css", ".yml", ".yaml")
THEIRS = {"tests/test_style.py", "LICENSE"}


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.split("\0") if name.endswith(TEXT) and (ROOT / name).is_file()]
    return [name for name in names if name not in THEIRS]


def test_words_are_the_fields():
    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in tracked()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if WORDS.search(re.sub(r"[A-Za-z0-9+/=]{200,}", "", line))  # images in a notebook
    ]
    assert found == []


def test_percentages_are_written_without_a_space():
    found = [
        f"{name}:{number}: {match[0]}"
        for name in tracked()
        if name.endswith(".md")
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        for match in SPACED_PERCENT.finditer(line)
    ]
    assert found == []
