"""Run push_to_hub.py and other code with a real client against the test Hub."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

from conftest import LEAN, ROOT, TINY
from hub_server import File
from isolated import installed

NEWEST, OLDEST, BETWEEN = "2.4.0", "0.36.2", "1.33.0"
REPO = "user/colours-eanet"
TIMEOUT = 4  # seconds without a byte from the Hub
SECRET = "hf_" + "pLANTEDsecret" * 3

SETUP = f"""
{LEAN}
sys.path.insert(0, {str(ROOT)!r})
sys.argv[0] = "push_to_hub.py"
import modeling_eanet
modeling_eanet.PRESETS["tiny"] = {TINY!r}
"""
# Runs the code of each line of JSON it is sent: TensorFlow is imported once, and a run that was found to belong
# together is not loaded again while it has the same bytes. Waits, ours and the client's, are recorded and cut short.
WORKER = """
import contextlib, io, json, time, traceback
from eanet.hub import checks
waits, sleep = [], time.sleep
def nap(seconds):
    waits.append(seconds)
    sleep(min(seconds, 0.02))
time.sleep = nap
check, checked = checks.check_one_run, set()
def check_once(run, folder, results, model):
    content = tuple((str(p.relative_to(folder)), p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file())
    if content not in checked:
        check(run, folder, results, model)
        checked.add(content)
checks.check_one_run = check_once
reply = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    job, out, err, code = json.loads(line), io.StringIO(), io.StringIO(), 0
    os.environ.update(job["env"])
    sys.argv[1:] = job["argv"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            exec(job["code"], {"sys": sys, "modeling_eanet": modeling_eanet})
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
            code = 99
    print(json.dumps([code, out.getvalue(), err.getvalue(), waits]), file=reply, flush=True)
    waits.clear()
"""
PROGRAM = "import push_to_hub\nfrom eanet.cli import run\nsys.exit(run(push_to_hub.main, sys.argv[1:]))"


def client_path(version):
    """Return a folder for PYTHONPATH, or "" where that client is the installed one."""
    import huggingface_hub

    return "" if huggingface_hub.__version__ == version else str(installed(f"huggingface_hub=={version}"))


class Session:
    """Our programs and snippets, run with one client version, one Hub and one HF_HOME."""

    def __init__(self, hub, home, version, **env):
        self.hub, self.home, self.worker = hub, home, None
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        self.env |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_TOKEN": hub.token,
            "HF_HUB_DOWNLOAD_TIMEOUT": str(TIMEOUT),
            "PYTHONPATH": client_path(version),
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "20ms",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        self.env |= env if hub.xet else {"HF_HUB_DISABLE_XET": "1", **env}

    def python(self, code, *args, **env):
        """Run code with the arguments `args`, in the process that all code of the session runs in."""
        if self.worker is None:
            command = [sys.executable, "-c", SETUP + WORKER]
            self.worker = subprocess.Popen(command, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        job = {"code": code, "argv": [str(arg) for arg in args], "env": {"HF_TOKEN": self.hub.token} | env}
        print(json.dumps(job), file=self.worker.stdin, flush=True)
        return self._result(*json.loads(self.worker.stdout.readline()))

    def run(self, *args, **env):
        """Run `push_to_hub.py ARGS`."""
        return self.python(PROGRAM, *args, **env)

    def push(self, run, *args, **env):
        return self.run("push", run, "--repo-id", REPO, *args, **env)

    def pull(self, to, *args, **env):
        return self.run("pull", "--repo-id", REPO, "--to", to, *args, **env)

    def _result(self, code, out, err, waits):
        for secret in (SECRET, self.hub.token, self.hub.read_token):
            assert secret not in out + err
        return SimpleNamespace(code=code, out=out, err=err, waits=waits)

    def close(self):
        if self.worker:
            self.worker.stdin.close()
            self.worker.wait(30)


def error_line(done, code):
    """Return the one line that a failed command ends with; there is no traceback."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err
    (line,) = [line for line in done.err.splitlines() if line.startswith("push_to_hub.py: error:")]
    assert done.err.rstrip().endswith(line)
    return line


def change_accuracy(run, accuracy):
    results = json.loads((run / "eval_results.json").read_text())
    (run / "eval_results.json").write_text(json.dumps({**results, "accuracy": accuracy}, indent=2) + "\n")


def card_on(hub, revision="main", repo=REPO):
    return hub.repos[repo].head(revision).files["README.md"].content.decode()


def commit_by_hand(hub, changes, repo=REPO):
    """Commit files as another program would: name to bytes or File; None deletes."""
    files = dict(hub.repos[repo].head().files)
    for name, content in changes.items():
        if content is None:
            del files[name]
        else:
            files[name] = content if isinstance(content, File) else File(content, False)
    return hub.repos[repo].commit("main", "by hand", files)
