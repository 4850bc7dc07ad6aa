"""Hub errors: retry transient ones, explain the rest in one line."""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import sys
import time

from eanet.cli import UserError, first_line
from eanet.hub.tokens import without_token

ATTEMPTS, LONGEST_WAIT = 4, 300  # seconds
TIMEOUT = float(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or 60)  # seconds without a byte from the Hub
TRANSIENT = (408, 425, 429)  # and 500 and above
# The clients raise errors of requests, httpx or hf_xet; their class names tell more than their bases.
CONNECTION_ERRORS = {"ConnectionError", "Timeout", "TimeoutException", "TransportError", "ChunkedEncodingError",
                     "ProtocolError", "IncompleteRead", "LocalEntryNotFoundError"}  # fmt: skip


class HubError(UserError):
    """A request to the Hub failed. Exit status 1."""

    exit_status = 1


def with_retries(call, repo_id: str):
    """Return `call()`, repeated with growing pauses while the Hub fails in a way that may pass.

    Args:
        call: function without arguments that can be run again from its start.
        repo_id: "user/name", for messages.

    Returns:
        What `call` returns.

    Raises:
        HubError: the Hub refuses, or still fails at the last attempt.
        UserError: HF_HUB_OFFLINE is set, and the cache does not have what was asked for.
    """
    from huggingface_hub.constants import HF_HUB_OFFLINE

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except UserError:
            raise
        except Exception as error:
            status = status_of(error)
            if status is None and not connection_failed(error):
                raise  # nothing to do with the Hub
            if HF_HUB_OFFLINE:
                raise UserError(f"{repo_id}: HF_HUB_OFFLINE is set, and the files are not in the cache; unset it") from None
            _wait_or_raise(error, status, attempt, repo_id)


def status_of(error) -> int | None:
    """Return the HTTP status behind an error of a Hub client, or None."""
    statuses = (getattr(getattr(e, "response", None), "status_code", None) for e in _chain(error))
    return next((status for status in statuses if status is not None), None)


def connection_failed(error) -> bool:
    """Return True if the Hub could not be reached, or the connection broke."""
    return bool(CONNECTION_ERRORS & {cls.__name__ for cause in _chain(error) for cls in type(cause).__mro__})


def explain(error, status: int | None, repo_id: str) -> str:
    """Return one line on what the Hub answered and what to do about it, without the token."""
    from huggingface_hub import get_token

    messages = (getattr(e, "server_message", None) for e in _chain(error))
    said = next(filter(None, messages), None) or first_line(error)
    reasons = {
        401: "the token was not accepted (401); log in again with `hf auth login`, or set another HF_TOKEN",
        403: f"the token lacks permission (403); a push needs write access to {repo_id.split('/')[0]}, a pull read access",
        404: "no such repository or revision, or it is private (404); check the name and the revision",
        409: "the Hub reports a conflict (409); run the same command again",
        429: "the Hub reports too many requests (429)",
        None: f"the connection to the Hub failed ({said})",
    }
    if get_token() is None:  # the Hub's answer to people without a login, so as not to tell what is private
        reasons[401] = "no such repository, or it is private (401); check the name, or log in with `hf auth login`"
    if any(type(each).__name__ == "GatedRepoError" for each in _chain(error)):
        reasons[status] = f"access is granted to single accounts ({status}); ask for it on the repository's page, and log in"
    if status is not None and status >= 500:
        return f"{repo_id}: the Hub returned a server error ({status}); try again later"
    return without_token(f"{repo_id}: {reasons.get(status, f'the Hub refused ({status}: {said})')}")


def notify(text: str) -> None:
    """Print a line to standard error, below any progress bar and without the token."""
    close_progress_bars()
    print(without_token(text), file=sys.stderr)


def close_progress_bars() -> None:
    """Close the progress bars that a failed client left open; they would print over the error."""
    from tqdm import tqdm

    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def set_timeout() -> None:
    """Turn a minute of silence from the Hub into a failed connection; by themselves the clients wait for ever."""
    import huggingface_hub as hub
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:  # clients before 1.0 would forget it with their first session
        return
    if not hasattr(hub, "configure_http_backend"):  # 1.0 and later
        first = hub.get_session()
        if any(getattr(hook, "__name__", "") == "limit" for hook in first.event_hooks["request"]):
            return

        def limit(request):  # most of the client's calls ask for no limit, whatever that of its session is
            given = request.extensions.get("timeout", {})
            limits = {name: given.get(name) or TIMEOUT for name in ("connect", "read", "write", "pool")}
            request.extensions = {**request.extensions, "timeout": limits}

        hooks = {**first.event_hooks, "request": [*first.event_hooks["request"], limit]}
        # Also for the sessions that follow a failed connection.
        hub.set_client_factory(lambda: type(first)(event_hooks=hooks, follow_redirects=first.follow_redirects))
        return
    import requests
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def send(self, request, **kwargs):
            return super().send(request, **{**kwargs, "timeout": kwargs.get("timeout") or TIMEOUT})

    def session():
        made = requests.Session()
        for scheme in ("https://", "http://"):
            made.mount(scheme, Adapter())
        return made

    hub.configure_http_backend(session)


def _wait_or_raise(error, status, attempt: int, repo_id: str) -> None:
    asked = _retry_after(error)
    wait = 2.0 ** (attempt - 1) if asked is None else asked
    transient = status is None or status in TRANSIENT or status >= 500
    if status is None and (xet := next(filter(None, map(_xet_status, _chain(error))), None)):
        status, transient = xet, False  # hf_xet has retried for minutes already
    if not transient or attempt == ATTEMPTS or wait > LONGEST_WAIT:
        close_progress_bars()
        later = f"; it asks to wait {wait:.0f} s, so try again then" if transient and wait > LONGEST_WAIT else ""
        raise HubError(explain(error, status, repo_id) + later) from error
    notify(f"{explain(error, status, repo_id)}; trying again in {wait:.0f} s")
    time.sleep(wait)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _xet_status(error) -> int | None:
    """hf_xet has no response to look at: "HTTP status client error (403 Forbidden)" is in its message."""
    match = re.search(r"HTTP status \w+ error \((\d{3})\b", str(error))
    return int(match[1]) if match else None


def _retry_after(error) -> float | None:
    """Return the Retry-After delay in seconds; the header may also give a date."""
    for cause in _chain(error):
        value = getattr(getattr(cause, "response", None), "headers", {}).get("Retry-After")
        if value and value.strip().isdigit():
            return float(value)
        if value:
            with contextlib.suppress(ValueError, TypeError):
                return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None
