"""The routes of the Hub's HTTP API that its clients use."""

import base64
import contextlib
import hashlib
import json
import re
import time
from pathlib import Path
from urllib.parse import parse_qs

import yaml

from hub_server.cards import card_errors, front_matter
from hub_server.repos import File, Repo, is_large
from hub_server.server import Handler, Refused
from hub_server.xet import xet_files


class Routes(Handler):
    """Answers every route with (status, body, headers)."""

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
        kind, sdk = body.get("type", "model"), body.get("sdk")
        if kind not in ("model", "space") or (sdk not in ("static", "gradio", "docker") if kind == "space" else sdk):
            raise Refused(400, f"no {kind} with the SDK {sdk} here")
        repo_id = f"{body.get('organization') or user}/{body['name']}"
        if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", repo_id):
            raise Refused(400, f"Invalid repo name: {repo_id}")
        if repo_id.split("/")[0] != user:
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{repo_id.split("/")[0]}"')
        place = repo_id if kind == "model" else f"spaces/{repo_id}"
        url = f"{self.hub.url}/{place}"
        with self.hub.lock:
            if place in self.hub.repos:
                raise Refused(409, f"You already created this {kind} repo", url=url)
            private = bool(body.get("private")) or body.get("visibility") == "private"
            self.hub.repos[place] = Repo(place, private)
            if kind == "space":  # the Hub begins it with a page of its own
                made = self.hub.repos[place]
                card = f"---\ntitle: {body['name']}\nsdk: {sdk}\n---\n"
                first = {"README.md": card, "index.html": "<p>Welcome to your static Space!</p>\n"}
                files = {name: File(text.encode(), False) for name, text in first.items()}
                made.commit("main", "initial commit", {**made.head().files, **files})
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
                kind = "" if repo.startswith("spaces/") else "models/"
                token = f"{self.hub.url}/api/{kind}{repo}/xet-read-token/{commit.sha}"
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
    ("GET", "/api/whoami-v2", Routes.whoami),
    ("GET", "/api/agent-harnesses", Routes.harnesses),
    ("POST", "/api/repos/create", Routes.create),
    ("POST", "/api/validate-yaml", Routes.validate_yaml),
    ("POST", f"/api/models/{_REPO}/preupload/{_REV}", Routes.preupload),
    ("POST", f"/api/models/{_REPO}/commit/{_REV}", Routes.commit),
    ("POST", f"/api/models/{_REPO}/branch/(?P<branch>.+)", Routes.branch),
    ("GET", f"/api/models/{_REPO}/xet-(?P<kind>read|write)-token/{_REV}", Routes.xet_token),
    ("GET", f"/api/models/{_REPO}/tree/{_REV}", Routes.tree),
    ("POST", f"/api/models/{_REPO}/paths-info/{_REV}", Routes.paths_info),
    ("GET", f"/api/models/{_REPO}/refs", Routes.refs),
    ("GET", f"/api/models/{_REPO}/commits/{_REV}", Routes.commits),
    ("GET", f"/api/models/{_REPO}/revision/{_REV}", Routes.info),
    ("GET", f"/api/models/{_REPO}", Routes.info),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", Routes.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Routes.lfs_put),
    ("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify", Routes.lfs_verify),
    ("GET HEAD", "/lfs/(?P<oid>[0-9a-f]{64})", Routes.lfs_get),
    ("GET HEAD", f"/{_REPO}/resolve/(?P<rev>[^/]+|refs/[^/]+/[^/]+)/(?P<path>.+)", Routes.resolve),
]
# The same for Spaces, which the server keeps under "spaces/user/name".
_SPACE = r"(?P<repo>spaces/[^/]+/[^/]+)"
SPACES = [
    (methods, pattern.replace(f"/api/models/{_REPO}", f"/api/{_SPACE}").replace(f"/{_REPO}", f"/{_SPACE}"), action)
    for methods, pattern, action in ROUTES
    if _REPO in pattern
]
Routes.routes = [*SPACES, *ROUTES]
