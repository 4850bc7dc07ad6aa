"""A Hub on loopback that speaks the HTTP contract of huggingface.co, for the real clients to talk to.

    with Hub() as hub:
        run(..., env={"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token})
        hub.repos["user/name"].head().files

It is strict: an unknown route, a payload with a missing or unknown key, a hash or a size that is not that of the content is
answered with an error, and the first two are kept in `hub.complaints`, which a test asserts to be empty. Commits are
atomic, branches are real, and `parentCommit` is checked. `hub.fault` makes the next matching requests fail.

With `xet=True` large files go through Xet: `hf_xet` has a client of a local store compiled in, for `local://` addresses.
"""

from hub_server.cards import card_errors, front_matter
from hub_server.hub import Hub
from hub_server.repos import LFS_NAMES, File, Repo

__all__ = ["LFS_NAMES", "File", "Hub", "Repo", "card_errors", "front_matter"]
