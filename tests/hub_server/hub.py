"""The test Hub as a test sees it: its address, repositories, requests and faults."""

import contextlib
import hashlib
import re
import tempfile
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from hub_server.repos import Fault, Repo
from hub_server.routes import Routes
from hub_server.xet import xet_download, xet_files


class Hub:
    """The server, on a thread of its own while the context lasts.

    Attributes:
        url: of the server; goes into HF_ENDPOINT.
        user, token: the one account there is, with write access to its own namespace.
        repos: by id.
        requests: ("GET", "/path?query") of all that was asked, in order.
        uploads: bytes of the large files received, by SHA-256.
        complaints: what a client asked that the Hub does not know.
    """

    user, token, read_token = "user", "hf_" + "writeTOKEN" * 4, "hf_" + "readonlyTK" * 4

    def __init__(self, xet: bool = False):
        self.xet = xet
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.agents: set[str] = set()
        self.complaints: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()

    def reset(self) -> None:
        """Forgets everything but its address."""
        with self.lock:
            for memory in (self.repos, self.uploads, self.requests, self.agents, self.complaints, self.faults):
                memory.clear()

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        self.cas = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Routes,), {"hub": self}))
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.storage = f"http://localhost:{server.server_port}"  # another host to a client, as the CDN is
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        return self

    def __exit__(self, *error):
        self._stack.close()

    def fault(self, path: str, *, method="", status=0, kind="status", times=10**9, headers=None, seconds=0.0) -> None:
        """The next `times` requests whose path matches fail.

        Args:
            path: regular expression, searched in the path.
            method: "" for every method.
            status: the answer, for the kind "status".
            kind: "status"; "drop", no answer at all; "cut", the connection breaks in the middle of the body that comes or
                goes; "slow", the answer waits `seconds`; "silent", none comes for `seconds`; "late", the request is carried
                out and then dropped.
            times: how often.
            headers: of the answer.
            seconds: for "slow" and "silent".
        """
        self.faults.append(Fault(method, re.compile(path), status, kind, times, headers or {}, seconds))

    def count(self, path: str, method: str = "") -> int:
        """How often a path that matches was asked for."""
        return sum(m.startswith(method) and re.search(path, p) is not None for m, p in self.requests)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and method.startswith(fault.method) and fault.path.search(path):
                    fault.times -= 1
                    return fault
        return None

    def large_file(self, sha256: str) -> bytes | None:
        """The content that was uploaded under this hash, through LFS or through Xet."""
        if sha256 not in self.uploads and self.xet:
            for xet_hash, size, found in xet_files(self.cas):
                if found == sha256:
                    content = xet_download(self.cas, xet_hash, size)
                    if hashlib.sha256(content).hexdigest() == sha256:
                        self.uploads[sha256] = content
        return self.uploads.get(sha256)
