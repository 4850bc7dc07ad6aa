"""Every route of the Hub that a push or a pull asks, with every fault: nothing is half-published, and later it works."""

import contextlib
import dataclasses
import re
import shutil

from hub_server import Hub
from hub_session import BETWEEN, NEWEST, OLDEST, REPO, Session, change_accuracy

TIMEOUT = 1  # seconds without a byte, in these sessions
CLIENTS = (OLDEST, BETWEEN, NEWEST)
# Route -> method and path. "update" is a push over an earlier one.
ROUTES = {
    "push": {
        "repository": ("GET", r"^/api/models/[^/]+/[^/]+(/revision/[^/]+)?$"),
        "create": ("POST", "^/api/repos/create$"),
        "list of files": ("GET", "/tree/"),
        "check of the card": ("POST", "^/api/validate-yaml$"),
        "preupload": ("POST", "/preupload/"),
        "LFS batch": ("POST", "/info/lfs/objects/batch$"),
        "LFS upload": ("PUT", "^/lfs/"),
        "LFS verify": ("POST", "^/lfs/.*/verify$"),
        "Xet write token": ("GET", "/xet-write-token/"),
        "commit": ("POST", "/commit/"),
    },
    "update": {"download of a file": ("GET", "/resolve/"), "size of a file": ("HEAD", "/resolve/")},
    "pull": {
        "repository": ("GET", r"^/api/models/[^/]+/[^/]+(/revision/[^/]+)?$"),
        "list of files": ("GET", "/tree/"),
        "download of a file": ("GET", "/resolve/"),
        "size of a file": ("HEAD", "/resolve/"),
        "LFS download": ("GET", "^/lfs/"),
        "Xet read token": ("GET", "/xet-read-token/"),
    },
}
# A run is staged and checked once per process.
STAGE_ONCE = """
import dataclasses, pathlib, shutil, tempfile
from eanet.hub import staging
stage_run, place, kept = staging.stage_run, sys.argv[1], {}
def stage_once(run, folder, **options):
    if run not in kept:
        kept[run] = stage_run(run, pathlib.Path(tempfile.mkdtemp(dir=place)), **options)
    shutil.copytree(kept[run].folder, folder, dirs_exist_ok=True)
    return dataclasses.replace(kept[run], folder=folder)
staging.stage_run = stage_once
"""
FAULTS = {
    "429": dict(status=429, headers={"Retry-After": "1"}),
    "500": dict(status=500),
    "502": dict(status=502),
    "403": dict(status=403),
    "dropped": dict(kind="drop"),
    "slow": dict(kind="slow", seconds=TIMEOUT + 1),
}

STAYING = ("500", "403", "dropped")  # also tried with every request of the route; the others behave like 500


@dataclasses.dataclass
class Cell:
    """What a command did when the Hub failed.

    Attributes:
        command: "push", "update" or "pull".
        route: key of `ROUTES[command]`.
        fault: key of `FAULTS`.
        stays: whether every request failed, or one.
        status: exit status of the command.
        problem: what must not happen, or "".
    """

    command: str
    route: str
    fault: str
    stays: bool
    status: int
    problem: str = ""


@contextlib.contextmanager
def open_session(version, xet, home):
    """Yield a Session of a client version, with a Hub of its own."""
    with Hub(xet=xet) as hub:
        session = Session(hub, home, version, HF_HUB_DOWNLOAD_TIMEOUT=str(TIMEOUT))
        try:
            yield session
        finally:
            session.close()


def sweep(session, run, folder, commands=tuple(ROUTES)):
    """Yield a `Cell` per command, route and fault that the client meets.

    Args:
        session: of `open_session`.
        run: a finished run.
        folder: an empty folder to work in.
        commands: keys of `ROUTES`.
    """
    (folder / "staged").mkdir()
    session.python(STAGE_ONCE, folder / "staged")
    changed = shutil.copytree(run, folder / "changed")
    change_accuracy(changed, 0.3125)
    sweeper = _Sweeper(session, run, changed, folder / "pulled")
    for command in commands:
        for route, (method, path) in ROUTES[command].items():
            for fault, settings in FAULTS.items():
                for stays in (False, True) if fault in STAYING else (False,):
                    cell = sweeper.meet(command, dict(path=path, method=method, times=10**9 if stays else 1, **settings))
                    if cell is None:
                        break
                    yield Cell(command, route, fault, stays, *cell)


class _Sweeper:
    def __init__(self, session, run, changed, to):
        self.session, self.hub, self.to = session, session.hub, to
        self.runs = {"push": run, "update": changed}
        self.complete = {}
        for command, folder in self.runs.items():
            assert session.push(folder).code == 0
            self.complete[command] = self._files()

    def meet(self, command, fault):
        """Run a command that meets a fault, then once more without it; None where the client does not ask that route."""
        self._prepare(command)
        times = fault["times"]
        self.hub.fault(**fault)
        done = self._run(command)
        if self.hub.faults[0].times == times:
            return None
        self.hub.faults.clear()
        problem = self._problem(command, done)
        if not problem and done.code:
            again = self._run(command)
            problem = self._problem(command, again) or (f"the second time: {again.err[-200:]}" if again.code else "")
        return done.code, problem

    def _prepare(self, command):
        self.hub.reset()
        shutil.rmtree(self.session.home / "hub", ignore_errors=True)
        shutil.rmtree(self.session.home / "xet", ignore_errors=True)
        shutil.rmtree(self.to, ignore_errors=True)
        if command != "push":
            assert self.session.push(self.runs["push"]).code == 0

    def _run(self, command):
        return self.session.pull(self.to) if command == "pull" else self.session.push(self.runs[command])

    def _files(self):
        return {name: file.content for name, file in self.hub.repos[REPO].head().files.items()}

    def _problem(self, command, done) -> str:
        """Return what is wrong with the state of the Hub or of the folder, or with what was said."""
        lines = [line for line in done.err.splitlines() if line.startswith("push_to_hub.py: error:")]
        if "Traceback" in done.err or done.code not in (0, 1) or len(lines) != done.code:
            return f"exit status {done.code}: {done.err[-300:]}"
        if self.hub.complaints:
            return f"the Hub does not know: {self.hub.complaints[0]}"
        if command == "pull":
            names = {p.relative_to(self.to).as_posix() for p in self.to.rglob("*") if p.is_file()} - {".pulled.json"}
            return "" if names == (set() if done.code else set(self.complete["push"])) else f"pulled {sorted(names)[:3]}"
        before = {} if command == "push" else self.complete["push"]
        files = self._files() if REPO in self.hub.repos else {}
        files = {} if set(files) <= {".gitattributes"} else files
        expected = before if done.code else self.complete[command]
        differ = sorted(name for name in {*files, *expected} if files.get(name) != expected.get(name))
        return f"on the Hub, other than it must be: {differ[:4]}" if differ else ""


def table(cells) -> list[dict]:
    """Return a row per command and route: per fault "as it must be" of all, and how many commands succeeded at once."""
    rows: dict[tuple[str, str], dict] = {}
    for cell in cells:
        row = rows.setdefault((cell.command, cell.route), {"command": cell.command, "route": cell.route, "tried": 0})
        row["tried"] += 1
        good, tried = map(int, re.findall(r"\d+", row.get(key(cell.fault), "0 of 0")))
        row[key(cell.fault)] = f"{good + (not cell.problem)} of {tried + 1}"
        row["at_once"] = row.get("at_once", 0) + (cell.status == 0)
    return list(rows.values())


def key(fault: str) -> str:
    """Return the key of a fault in a row."""
    return f"status_{fault}" if fault.isdigit() else fault
