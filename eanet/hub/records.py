"""Read a JSON file whose missing keys are reported with the file's name, in Python and in templates."""

from __future__ import annotations

import json
from pathlib import Path

from eanet.cli import UserError


class Record(dict):
    """A JSON object of a file; reading a key that is missing raises a `UserError`."""

    def __init__(self, values: dict, name: str, hint: str):
        super().__init__(values)
        self._name, self._hint = name, hint  # private: a template reads `.name` as an attribute before it tries the key

    def __missing__(self, key):
        raise UserError(f"{self._name}: damaged, or written by an older version: {key} is missing; {self._hint}")


def read_record(path: Path, name: str, hint: str) -> Record:
    """Read a JSON object.

    Args:
        path: the file.
        name: how messages name it.
        hint: what to do when it is damaged, for example "`python train.py` rewrites it".

    Returns:
        The object as a `Record`, and so are the objects in it.

    Raises:
        UserError: the file is missing, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_hook=lambda values: Record(values, name, hint))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, Record):
        raise UserError(f"{name}: damaged, not a JSON object; {hint}")
    return value
