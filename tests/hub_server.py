"""A Hub on loopback that speaks the HTTP contract of huggingface.co, for the real clients to talk to.

    with Hub() as hub:
        run(..., env={"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token})
        hub.repos["user/name"].head().files

It is strict: an unknown route, a payload with a missing or a strange key, a hash or a size that is not that of the content
is answered with an error, and the first two are kept in `hub.complaints`, which a test asserts to be empty. Commits are
atomic, branches are real, and `parentCommit` is checked. `hub.fault` makes the next matching requests fail.

With `xet=True` large files go through Xet: `hf_xet` has a client of a local store compiled in, to which `local://` leads.
"""

import base64
import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import math
import re
import struct
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

GIT_ATTRIBUTES = b"*.h5 filter=lfs diff=lfs merge=lfs -text\n*.pb filter=lfs diff=lfs merge=lfs -text\n"
LFS_NAMES = ("*.h5", "*.pb", "*tfevents*", "*.data-*", "*.index", "*.png", "*.onnx")  # the rest is regular unless binary
REGULAR_LIMIT = 10 * 2**20


@dataclasses.dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @property
    def blob_id(self) -> str:
        """What git calls the blob: of an LFS file that is its pointer."""
        content = self.content
        if self.lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(content)}\n"
            content = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclasses.dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, File]


class Repo:
    def __init__(self, repo_id: str, private: bool):
        self.id, self.private = repo_id, private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", "initial commit", {".gitattributes": File(GIT_ATTRIBUTES, False)})

    def commit(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        parent = self.branches.get(branch)
        listing = sorted((path, file.blob_id) for path, file in files.items())
        sha = hashlib.sha1(json.dumps([self.id, parent, title, listing]).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, dict(files))
        self.branches[branch] = sha
        return self.commits[sha]

    def head(self, revision: str = "main") -> Commit | None:
        return self.commits.get(self.branches.get(revision, revision))

    def history(self, branch: str = "main") -> list[Commit]:
        """Newest first."""
        commits, sha = [], self.branches[branch]
        while sha:
            commits.append(self.commits[sha])
            sha = commits[-1].parent
        return commits


@dataclasses.dataclass
class Fault:
    method: str
    path: re.Pattern
    status: int
    kind: str
    times: int
    headers: dict
    seconds: float


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
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
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
                goes; "slow", the answer waits `seconds`; "late", the request is carried out and then dropped.
            times: how often.
            headers: of the answer.
            seconds: for "slow".
        """
        self.faults.append(Fault(method, re.compile(path), status, kind, times, headers or {}, seconds))

    def count(self, path: str, method: str = "") -> int:
        """How often a path that matches was asked for."""
        return sum(m.startswith(method) and re.search(path, p) is not None for m, p in self.requests)

    def _take_fault(self, method: str, path: str) -> Fault | None:
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


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "", **body):
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, *args):
        pass

    def _handle(self):
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, self.path))
        self.hub.agents.add(self.headers.get("User-Agent", ""))
        fault = self.hub._take_fault(self.command, path)
        self.cut = fault is not None and fault.kind == "cut"
        try:
            if fault and fault.kind == "drop":
                return self._hang_up()
            if fault and fault.kind == "slow":
                time.sleep(fault.seconds)
            self.payload = self._read()
            if fault and fault.kind == "status":
                return self._send(fault.status, {"error": f"fault {fault.status}"}, fault.headers)
            try:
                for method, pattern, action in ROUTES:
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
        user, found = self._user(write), self.hub.repos.get(repo)
        if found is None or (found.private and user != repo.split("/")[0]):
            # To someone who is not logged in, a private repository and none are the same.
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != repo.split("/")[0]:
            raise Refused(403, f"Forbidden: you have no right to write to {repo}.")
        return found

    def _commit_of(self, repo: Repo, revision: str) -> Commit:
        commit = repo.head(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # ---- the routes

    def whoami(self):
        if self._user() is None:
            raise Refused(401, "Invalid username or password.")
        return 200, {"type": "user", "name": self.hub.user, "fullname": "A user", "orgs": [], "auth": {}}, {}

    def harnesses(self):
        """Asked once a day by clients from 2.0 on, to tell the Hub of programs that run them."""
        return 200, {"standardEnvVars": [], "harnesses": {}}, {}

    def create(self):
        body = self._json({"name"}, {"organization", "visibility", "private", "type", "sdk"})
        user = self._user(write=True)
        if body.get("type", "model") != "model":
            raise Refused(400, "only models live here")
        repo_id = f"{body.get('organization') or user}/{body['name']}"
        if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repo_id):
            raise Refused(400, f"Invalid repo name: {repo_id}")
        if repo_id.split("/")[0] != user:
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{repo_id.split("/")[0]}"')
        url = f"{self.hub.url}/{repo_id}"
        with self.hub.lock:
            if repo_id in self.hub.repos:
                raise Refused(409, "You already created this model repo", url=url)
            private = bool(body.get("private")) or body.get("visibility") == "private"
            self.hub.repos[repo_id] = Repo(repo_id, private)
        return 200, {"url": url, "id": repo_id, "name": repo_id}, {}

    def branch(self, repo, branch):
        found, body = self._repo(repo, write=True), self._json(set(), {"startingPoint", "emptyBranch", "overwrite"})
        with self.hub.lock:
            if branch in found.branches:
                raise Refused(409, f"Reference already exists: refs/heads/{branch}")
            found.branches[branch] = self._commit_of(found, body.get("startingPoint") or "main").sha
        return 200, {}, {}

    def validate_yaml(self):
        body = self._json({"content", "repoType"})
        errors = card_errors(body["content"])
        reply = {"errors": [{"message": e} for e in errors], "warnings": []}
        return (400 if errors else 200), reply, {}

    def preupload(self, repo, rev):
        found, body = self._repo(repo, write=True), self._json({"files"}, {"gitAttributes", "gitIgnore"})
        commit, answers = self._commit_of(found, rev), []
        for file in body["files"]:
            self._keys(file, {"path", "sample", "size"}, {"oid"})
            path, sample = file["path"], base64.b64decode(file["sample"], validate=True)
            if path.startswith("/") or ".." in path.split("/") or ".git" in path.split("/"):
                raise Refused(400, f"Invalid path: {path}")
            if len(sample) != min(512, file["size"]):
                raise Refused(400, f"{path}: the sample must be the first 512 bytes")
            lfs = is_large(path, sample, file["size"])
            answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            here = commit.files.get(path)
            if here is not None:
                answer["oid"] = here.sha256 if here.lfs else here.blob_id
            answers.append(answer)
        return 200, {"files": answers}, {}

    def lfs_batch(self, repo):
        self._repo(repo, write=True)
        optional = {"transfers", "hash_algo", "ref"}
        body = self._json({"operation", "objects"}, optional)
        if body["operation"] != "upload":
            raise Refused(400, "only uploads")
        reply = {"transfer": "basic"}
        if self.hub.xet and "xet" in body.get("transfers", []):
            reply["transfer"] = "xet"
        objects = []
        for item in body["objects"]:
            self._keys(item, {"oid", "size"})
            entry = dict(item)
            if self.hub.large_file(item["oid"]) is None and reply["transfer"] == "basic":
                base = f"{self.hub.storage}/lfs/{item['oid']}"
                entry["actions"] = {
                    "upload": {"href": f"{base}?size={item['size']}"},
                    "verify": {"href": f"{base}/verify"},
                }
            objects.append(entry)
        return 200, {**reply, "objects": objects}, {}

    def lfs_put(self, oid):
        if "Authorization" in self.headers:  # the address is signed; the token must not go to a storage server
            self.hub.complaints.append("the token was sent to the storage server")
        if len(self.payload) != int(self.query["size"]) or hashlib.sha256(self.payload).hexdigest() != oid:
            raise Refused(400, "the content has another hash or size than announced")
        self.hub.uploads[oid] = self.payload
        return 200, b"", {}

    def lfs_verify(self, oid):
        body = self._json({"oid", "size"})
        content = self.hub.uploads.get(oid)
        if content is None or body["oid"] != oid or len(content) != body["size"]:
            raise Refused(404, "no such object")
        return 200, {}, {}

    def lfs_get(self, oid):
        content = self.hub.uploads.get(oid)
        if content is None:
            raise Refused(404, "no such object")
        return self._bytes(content, {"ETag": f'"{oid}"'})

    def xet_token(self, repo, kind, rev):
        found = self._repo(repo, write=kind == "write")
        self._commit_of(found, rev)
        if not self.hub.xet:
            self.hub.complaints.append("Xet was asked of a Hub without it")
            raise Refused(404, "no Xet here")
        cas, expires = f"local://{self.hub.cas}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
        return 200, {"casUrl": cas, "accessToken": "xet", "exp": expires}, headers

    def commit(self, repo, rev):
        found = self._repo(repo, write=True)
        try:
            lines = [json.loads(line) for line in self.payload.splitlines() if line.strip()]
        except ValueError:
            raise Refused(400, "the commit is not NDJSON") from None
        for line in lines:
            self._keys(line, {"key", "value"})
        if not lines or [line["key"] == "header" for line in lines] != [True] + [False] * (len(lines) - 1):
            raise Refused(400, "a commit begins with one header")
        header = lines[0]["value"]
        self._keys(header, {"summary"}, {"description", "parentCommit"})
        with self.hub.lock:
            head = self._commit_of(found, rev)
            if rev not in found.branches:
                raise Refused(400, f"{rev} is no branch")
            if header.get("parentCommit") not in (None, head.sha):
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            if "README.md" in files and (errors := card_errors(files["README.md"].content.decode())):
                raise Refused(400, f"Invalid metadata in README.md: {errors[0]}")
            made = found.commit(rev, header["summary"], files)
        url = f"{self.hub.url}/{repo}/commit/{made.sha}"
        return 200, {"success": True, "commitUrl": url, "commitOid": made.sha}, {}

    def _apply(self, files, key, value):
        if key == "file":
            self._keys(value, {"content", "path", "encoding"})
            content = base64.b64decode(value["content"], validate=True)
            if is_large(value["path"], content[:512], len(content)) and content:
                raise Refused(400, f"{value['path']} must be uploaded as LFS")
            files[value["path"]] = File(content, False)
        elif key == "lfsFile":
            self._keys(value, {"path", "algo", "oid", "size"})
            content = self.hub.large_file(value["oid"])
            if value["algo"] != "sha256" or content is None or len(content) != value["size"]:
                raise Refused(400, f"{value['path']}: its content was not uploaded")
            files[value["path"]] = File(content, True)
        elif key == "deletedFile":
            self._keys(value, {"path"})
            if value["path"] not in files:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            del files[value["path"]]
        elif key == "deletedFolder":
            self._keys(value, {"path"})
            folder = value["path"].rstrip("/") + "/"
            for path in [path for path in files if path.startswith(folder)]:
                del files[path]
        else:
            self.hub.complaints.append(f"unknown operation {key}")
            raise Refused(400, f"unknown operation {key}")

    def info(self, repo, rev="main"):
        found = self._repo(repo)
        commit = self._commit_of(found, rev)
        card = None
        if "README.md" in commit.files:
            with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):  # put there by other means than these clients
                card = front_matter(commit.files["README.md"].content.decode())
        reply = {
            "_id": "0" * 24,
            "id": repo,
            "modelId": repo,
            "sha": commit.sha,
            "private": found.private,
            "tags": (card or {}).get("tags", []),
            "downloads": 0,
            "likes": 0,
            "library_name": (card or {}).get("library_name"),
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
        if card:
            reply["cardData"] = card
            reply["model-index"] = card.get("model-index")
        return 200, reply, {}

    def _entry(self, path, file):
        entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.blob_id}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
        return entry

    def tree(self, repo, rev):
        commit = self._commit_of(self._repo(repo), rev)
        if self.query.get("recursive", "false").lower() != "true":
            raise Refused(400, "only recursive listings here")
        folders = {str(p) for path in commit.files for p in Path(path).parents if str(p) != "."}
        entries = [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        return 200, entries + [self._entry(path, file) for path, file in sorted(commit.files.items())], {}

    def paths_info(self, repo, rev):
        commit = self._commit_of(self._repo(repo), rev)
        as_json = self.payload.startswith(b"{")  # older clients send a form
        paths = json.loads(self.payload)["paths"] if as_json else parse_qs(self.payload.decode())["paths"]
        return 200, [self._entry(path, commit.files[path]) for path in paths if path in commit.files], {}

    def refs(self, repo):
        found = self._repo(repo)
        named = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in found.branches.items()]
        return 200, {"branches": named, "converts": [], "tags": []}, {}

    def commits(self, repo, rev):
        found = self._repo(repo)
        self._commit_of(found, rev)
        listing = [
            {"id": c.sha, "title": c.title, "message": "", "authors": [{"user": "user"}], "date": "2020-01-01T00:00:00.000Z"}
            for c in found.history(rev)
        ]
        return 200, listing, {}

    def resolve(self, repo, rev, path):
        commit = self._commit_of(self._repo(repo), rev)
        if path not in commit.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        file, headers = commit.files[path], {"X-Repo-Commit": commit.sha}
        if not file.lfs:
            return self._bytes(file.content, {**headers, "ETag": f'"{file.blob_id}"'})
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        if self.hub.xet:
            xet_hash = next((h for h, _, sha in xet_files(self.hub.cas) if sha == file.sha256), None)
            if xet_hash:
                token = f"{self.hub.url}/api/models/{repo}/xet-read-token/{commit.sha}"
                headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
        return 302, b"", {**headers, "Location": f"{self.hub.storage}/lfs/{file.sha256}"}

    def _bytes(self, content, headers):
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and int(wanted[1]) < len(content):
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return 206, content[start:], headers
        return 200, content, headers


_REPO, _REV = r"(?P<repo>[^/]+/[^/]+)", r"(?P<rev>.+)"
ROUTES = [
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("GET", "/api/agent-harnesses", _Handler.harnesses),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("POST", f"/api/models/{_REPO}/preupload/{_REV}", _Handler.preupload),
    ("POST", f"/api/models/{_REPO}/commit/{_REV}", _Handler.commit),
    ("POST", f"/api/models/{_REPO}/branch/(?P<branch>.+)", _Handler.branch),
    ("GET", f"/api/models/{_REPO}/xet-(?P<kind>read|write)-token/{_REV}", _Handler.xet_token),
    ("GET", f"/api/models/{_REPO}/tree/{_REV}", _Handler.tree),
    ("POST", f"/api/models/{_REPO}/paths-info/{_REV}", _Handler.paths_info),
    ("GET", f"/api/models/{_REPO}/refs", _Handler.refs),
    ("GET", f"/api/models/{_REPO}/commits/{_REV}", _Handler.commits),
    ("GET", f"/api/models/{_REPO}/revision/{_REV}", _Handler.info),
    ("GET", f"/api/models/{_REPO}", _Handler.info),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", _Handler.lfs_verify),
    ("GET HEAD", "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_get),
    ("GET HEAD", f"/{_REPO}/resolve/(?P<rev>[^/]+|refs/[^/]+/[^/]+)/(?P<path>.+)", _Handler.resolve),
]


def is_large(path: str, sample: bytes, size: int) -> bool:
    if size == 0:
        return False
    named = any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LFS_NAMES)
    return named or size > REGULAR_LIMIT or b"\0" in sample


# ---------------------------------------------------------------------------------------------------------- the card


def front_matter(card: str) -> dict | None:
    match = re.match(r"---\r?\n(.*?)\r?\n---(?:\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def card_errors(card: str) -> list[str]:
    """What the Hub refuses in a card's front matter."""
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"bad YAML: {error}"]
    if data is None:
        return []
    errors = []

    def need(ok, what):
        if not ok:
            errors.append(what)

    need(isinstance(data, dict), "the front matter must be a mapping")
    if errors:
        return errors
    for name in ("license", "library_name", "pipeline_tag", "thumbnail"):
        need(isinstance(data.get(name, ""), str), f'"{name}" must be a string')
    for name in ("tags", "datasets", "metrics"):
        value = data.get(name, [])
        need(isinstance(value, list) and all(isinstance(v, str) for v in value), f'"{name}" must be a list of strings')
    for entry in data.get("model-index") or []:
        need(isinstance(entry, dict) and isinstance(entry.get("name"), str), '"model-index[0].name" is required')
        for result in entry.get("results") or []:
            need(isinstance(result.get("task", {}).get("type"), str), "a result needs task.type")
            dataset = result.get("dataset", {})
            need(isinstance(dataset.get("type"), str) and dataset["type"], "a result needs dataset.type")
            need(isinstance(dataset.get("name"), str) and dataset["name"], "a result needs dataset.name")
            metrics = result.get("metrics")
            need(isinstance(metrics, list) and metrics, "a result needs metrics")
            for metric in metrics or []:
                need(isinstance(metric.get("type"), str), "a metric needs a type")
                value = metric.get("value")
                number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
                need(number, "a metric needs a finite value")
                need("verified" not in metric, '"verified" is for the Hub to set')
    for item in data.get("widget") or []:
        need(isinstance(item, dict) and isinstance(item.get("src"), str), "a widget needs src")
    return errors


# --------------------------------------------------------------------------------------------------------------- Xet


def xet_files(cas: Path) -> list[tuple[str, int, str]]:
    """(Xet hash, size, SHA-256) of every file in a local store, read from its shards.

    A shard is a header of 48 bytes, then per file a record of 48 bytes (hash, flags, number of segments), as many segments
    and, as the flags say, as many verifications and one record with the SHA-256; a record of ones ends the list. A hash is
    four 64-bit numbers, low byte first.
    """

    def text(raw):
        return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))

    found = []
    for shard in sorted(cas.rglob("shards/*.mdb")):
        raw, at = shard.read_bytes(), 48
        while at + 48 <= len(raw) and raw[at : at + 32] != b"\xff" * 32:
            name, flags, count = text(raw[at : at + 32]), *struct.unpack("<II", raw[at + 32 : at + 40])
            segments = [raw[at + 48 * (i + 1) : at + 48 * (i + 2)] for i in range(count)]
            size = sum(struct.unpack("<I", segment[36:40])[0] for segment in segments)
            at += 48 * (1 + count * (2 if flags & 0x80000000 else 1))
            if flags & 0x40000000:
                found.append((name, size, text(raw[at : at + 32])))
                at += 48
    return found


def xet_download(cas: Path, xet_hash: str, size: int) -> bytes:
    import hf_xet

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        info = hf_xet.PyXetDownloadInfo(str(target), xet_hash, size)
        hf_xet.download_files([info], f"local://{cas}", None, None, None)
        return target.read_bytes()
