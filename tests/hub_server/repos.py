"""Repositories, commits and files of the test Hub, and the faults that a test asks for."""

import dataclasses
import fnmatch
import hashlib
import json
import re

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


def is_large(path: str, sample: bytes, size: int) -> bool:
    """Return whether a file goes through LFS."""
    if size == 0:
        return False
    named = any(fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) for pattern in LFS_NAMES)
    return named or size > REGULAR_LIMIT or b"\0" in sample
