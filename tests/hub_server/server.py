"""How a request to the test Hub is read, authorised and answered."""

import json
import re
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from hub_server.repos import Commit, Repo


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **body):
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


class Handler(BaseHTTPRequestHandler):
    hub: object  # the Hub
    routes: list  # (methods, pattern of the path, function)
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *args):
        pass

    def _handle(self):
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, self.path))
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        fault = self.hub.take_fault(self.command, path)
        self.cut = fault is not None and fault.kind == "cut"
        try:
            if fault and fault.kind == "drop":
                return self._hang_up()
            if fault and fault.kind in ("slow", "silent"):
                time.sleep(fault.seconds)
            if fault and fault.kind == "silent":
                return self._hang_up()
            self.payload = self._read()
            if fault and fault.kind == "status":
                return self._send(fault.status, {"error": f"fault {fault.status}"}, fault.headers)
            try:
                for method, pattern, action in self.routes:
                    match = re.fullmatch(pattern, path)
                    if match and self.command in method.split():
                        status, body, headers = action(self, **match.groupdict())
                        break
                else:
                    self.hub.complaints.append(f"unknown route: {self.command} {self.path}")
                    raise Refused(404, "no such route")
            except Refused as refused:
                headers = {"X-Error-Message": str(refused)} | ({"X-Error-Code": refused.code} if refused.code else {})
                status, body = refused.status, refused.body
            if fault and fault.kind == "late":
                return self._hang_up()
            self._send(status, body, headers)
        except (BrokenPipeError, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _hang_up(self):
        self.close_connection = True
        self.connection.close()

    def _read(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length", 0))
        if self.cut and length and self.command in ("PUT", "POST"):
            self.rfile.read(length // 2)
            self._hang_up()
            raise ConnectionError("cut")
        return self.rfile.read(length)

    def _send(self, status, body=b"", headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            return self._hang_up()
        self.wfile.write(content)

    # ---- what the routes share

    def _json(self, required: set[str], optional: set[str] = frozenset()) -> dict:
        try:
            value = json.loads(self.payload)
        except ValueError:
            value = None
        self._keys(value, required, optional)
        return value

    def _keys(self, value, required, optional=frozenset()):
        if not isinstance(value, dict) or not required <= set(value) <= required | optional:
            got = sorted(value) if isinstance(value, dict) else value
            self.hub.complaints.append(f"bad payload: {self.command} {self.path}: {got}")
            raise Refused(400, f"payload must have {sorted(required)}")

    def _user(self, write=False) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", self.hub.token, self.hub.read_token):
            raise Refused(401, "Invalid credentials in Authorization header")
        if write and token == "":
            raise Refused(401, "Invalid username or password.")
        if write and token == self.hub.read_token:
            raise Refused(403, "Forbidden: this token cannot write; it needs the role 'write'.")
        return self.hub.user if token else None

    def _repo(self, repo: str, write=False) -> Repo:
        user, found, owner = self._user(write), self.hub.repos.get(repo), repo.removeprefix("spaces/").split("/")[0]
        if found is None or (found.private and user != owner):
            # To someone who is not logged in, a private repository and none are the same.
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise Refused(403, f"Forbidden: you have no right to write to {repo}.")
        return found

    def _commit_of(self, repo: Repo, revision: str) -> Commit:
        commit = repo.head(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit
