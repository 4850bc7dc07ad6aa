"""Find Hugging Face tokens in what goes up: contents in any encoding, names and messages. No message shows a token."""

from __future__ import annotations

import re
from pathlib import Path

from eanet.cli import TOKEN, UserError, masked

_BLOCK, _OVERLAP = 2**20, 2**12  # bytes; the overlap is longer than a token, escaped or in UTF-32
# \u005f, \x5f, %5F, =5F, &#x5f; and &#95; stand for characters in JSON, URLs, mail and HTML; +AF8- for _ in UTF-7.
_ESCAPED = re.compile(rb"(?:\\u00|\\x|%|=|&#[xX]0*)([2-7][0-9A-Fa-f]);?|&#0*([0-9]{2,3});")


def check_no_token(text: str, place: str) -> None:
    """Raise UserError if a text that goes up, such as a name or a message, holds a Hub token; it names the `place`."""
    if _found(text.encode("utf-8", "surrogateescape")):
        raise _contains_a_token(place)


def check_file(path: Path, name) -> None:
    """Raise UserError, naming `name`, if the content of the file `path` holds a Hub token. Reads it block by block."""
    with open(path, "rb") as file:
        rest = b""
        while block := file.read(_BLOCK):
            if _found(rest + block):
                raise _contains_a_token(f"{name}:")
            rest = block[-_OVERLAP:]


def _contains_a_token(place: str) -> UserError:
    return UserError(f"{without_token(place)} contains a Hub token; remove it, and revoke the token if it was ever shared")


def without_token(text: str) -> str:
    """Return `text` with every Hub token masked, also the one of this login."""
    from huggingface_hub import get_token

    return masked(text).replace(get_token() or "\0", "hf_***")


def _found(content: bytes) -> bool:
    """Return whether bytes hold a token of a known form, or that of this login, in any encoding with ASCII in it."""
    from huggingface_hub import get_token

    plain = content.replace(b"\0", b"")  # UTF-16 and UTF-32
    token = (get_token() or "").encode()
    return any(TOKEN.search(form) or (token and token in form) for form in (plain, _unescaped(plain)))


def _unescaped(content: bytes) -> bytes:
    content = content.replace(b"+AF8-", b"_")
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 16) if match[1] else min(int(match[2]), 255)]), content)
