"""Training on several devices and processes. What trains on several is slow; the rest runs without JAX's distribution."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
from conftest import ROOT, TINY, only_line, random_images, run_main
from training_runs import RECIPE, colours, error_line, read_json

import train
from eanet.cli import UserError
from eanet.data import Batches, Split
from eanet.distributed import SLURM, VARIABLES, find_place
from eanet.peers import Peers, Place
from eanet.train_config import TrainConfig


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def places(count=2):
    """Return the places of processes on this machine."""
    address = f"127.0.0.1:{free_port()}"
    return [Place(address, count, i) for i in range(count)]


# Settings -------------------------------------------------------------------------------------------------------------

SETTINGS = ("host:1234", 2, 1)
SLURM_STEP = dict(zip(SLURM, ("10", "node[007-008]", "2", "1", "0"), strict=True))
KERAS, KUBEFLOW = (
    dict(zip((variables[i] for variables in VARIABLES.values()), map(str, SETTINGS), strict=True)) for i in range(2)
)


@pytest.mark.parametrize("options, environ, expected", [
    ((None, None, None), {}, None),
    (SETTINGS, {}, SETTINGS),
    ((None, None, None), KERAS, SETTINGS),
    ((None, None, None), KUBEFLOW, SETTINGS),
    ((None, None, 0), KUBEFLOW | {VARIABLES["coordinator"][0]: "a:1,b:2"}, ("a:1", 2, 0)),
    (("[::1]:99", 2, 0), KERAS, ("[::1]:99", 2, 0)),
    ((None, 1, 0), {}, None),
])  # fmt: skip
def test_place_comes_from_options_then_keras_then_kubeflow(options, environ, expected):
    config = TrainConfig(distribute=True, **dict(zip(VARIABLES, options, strict=True)))
    assert find_place(config, environ) == (expected and Place(*expected))


def test_place_comes_from_slurm_as_jax_reads_it(monkeypatch):
    pytest.importorskip("jax")
    for name, value in SLURM_STEP.items():
        monkeypatch.setenv(name, value)
    assert find_place(TrainConfig(distribute=True)) == Place(f"node007:{65535 - 2**12 + 1 + 10}", 2, 1)


@pytest.mark.parametrize("options, message", [
    ({"coordinator": "h:1", "processes": 2}, "process_id: missing, as coordinator and processes are given; also read from "
     "KERAS_DISTRIBUTION_PROCESS_ID and JAX_PROCESS_ID"),
    ({"processes": 2}, "coordinator: missing, as processes"),
    ({"coordinator": "h:1", "processes": 2, "process_id": 2}, "process_id 2: must be from 0 to 1, with 2 processes"),
    ({"coordinator": "h:1", "processes": 2, "process_id": -1}, "process_id -1: must be an integer, at least 0"),
    ({"coordinator": "h:1", "processes": 0, "process_id": 0}, "processes 0: must be an integer, at least 1"),
    ({"coordinator": "h", "processes": 2, "process_id": 0}, "coordinator h: must be HOST:PORT, of process 0"),
    ({"coordinator": "h:1,g:1,f:1", "processes": 2, "process_id": 0}, "coordinator h:1,g:1,f:1: 3 addresses for 2 proc"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        find_place(TrainConfig(distribute=True, **options), {})


def test_bad_integer_of_a_variable_names_it():
    with pytest.raises(UserError, match="^JAX_NUM_PROCESSES two: must be an integer, at least 1"):
        find_place(TrainConfig(distribute=True), KUBEFLOW | {"JAX_NUM_PROCESSES": "two"})


def test_settings_need_distribute():
    with pytest.raises(UserError, match="^processes 2: needs distribute"):
        TrainConfig(processes=2)


def test_tensorflow_is_refused_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    status = run_main(train, "--data", colours(), "--distribute", "--output", tmp_path / "run")
    assert "distribute: needs Keras on JAX (KERAS_BACKEND=jax); with tensorflow" in error_line(
        status, capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, "trivial"])
def test_rows_of_all_processes_are_the_batch_of_one(policy):
    split = Split(random_images(30), np.arange(30) % 5, "train")
    batches = Batches(split, 5, 12, 7, policy=policy)
    parts = [batches.rows(start, start + 4).epoch(1, 0.5) for start in (0, 4, 8)]
    for (x, y), *rows in zip(batches.epoch(1, 0.5), *parts, strict=True):
        np.testing.assert_array_equal(x, np.concatenate([row[0] for row in rows]))
        np.testing.assert_array_equal(y, np.concatenate([row[1] for row in rows]))


# Connections ----------------------------------------------------------------------------------------------------------


def in_threads(*functions):
    """Call the functions at the same time; return their results, or the UserErrors they raised."""
    results = [None] * len(functions)

    def call(i):
        try:
            results[i] = functions[i]()
        except UserError as error:
            results[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def connected(count=2):
    """Return the `Peers` of processes that are threads here."""
    return in_threads(*(lambda place=place: Peers(place, 10) for place in places(count)))


def test_process_0_shares_its_files(tmp_path):
    peers, folders = connected(3), [tmp_path / str(i) for i in range(3)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        (folder / "own").write_text(str(i))
    (folders[0] / "a").write_bytes(bytes(3_000_000))
    in_threads(*(lambda p=p, f=f: p.mirror(f, ("a", "b", "c")) for p, f in zip(peers, folders, strict=True)))
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["a", "own"]] * 3
    assert (folders[2] / "a").read_bytes() == bytes(3_000_000)
    assert in_threads(*(p.leave for p in peers)) == [True] * 3


def test_processes_that_differ_all_say_so():
    peers = connected(3)
    facts = [{"batch_size": size, "set": None} for size in (64, 64, 32)]
    assert in_threads(*(lambda p=p: p.agree({"batch_size": 64}) for p in peers)) == [None] * 3
    errors = in_threads(*(lambda p=p, f=f: p.agree(f) for p, f in zip(peers, facts, strict=True)))
    host = socket.gethostname()
    expected = f"process 2 ({host}) has batch_size 32, process 0 has 64; start all with the same options and data"
    assert [str(error) for error in errors] == [expected] * 3


def test_missing_processes_are_named():
    main, other = places()
    assert str(in_threads(lambda: Peers(main, 0.2))[0]) == (
        f"process 1 of 2 did not come to {main.coordinator} in 0.2 s; start it, with this address"
    )
    start = time.monotonic()
    assert str(in_threads(lambda: Peers(other, 0.2))[0]) == (
        f"coordinator {other.coordinator}: no answer in 0.2 s (Connection refused); start process 0 there"
    )
    assert time.monotonic() - start < 5


def test_two_processes_with_the_same_id_or_other_numbers_are_refused():
    main, other, third = places(3)
    same = in_threads(*(lambda p=p: Peers(p, 10) for p in (main, other, other)))
    assert all("process_id 1: process 1 (" in str(error) and "both have it" in str(error) for error in same)
    numbers = in_threads(lambda: Peers(main, 10), lambda: Peers(Place(main.coordinator, 4, 2), 10))
    assert all("was started for 4 processes, process 0 for 3" in str(error) for error in numbers)


def test_strangers_at_the_port_do_not_count():
    main, other = places()

    def stranger():
        for words in (b"GET / HTTP/1.1\r\n\r\n", b""):
            with ExitStack() as stack, pytest.MonkeyPatch.context():
                while True:
                    try:
                        connection = stack.enter_context(socket.create_connection(main.address, timeout=5))
                        break
                    except ConnectionRefusedError:
                        time.sleep(0.01)
                connection.sendall(words)
        return Peers(other, 10)

    peers = in_threads(lambda: Peers(main, 10), stranger)
    assert in_threads(*(p.leave for p in peers)) == [True, True]


PEER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from eanet.peers import Peers, Place
peers = Peers(Place(sys.argv[2], 3, int(sys.argv[3])), 20)
print("joined", flush=True)
if sys.argv[4:] == ["stop"]:
    time.sleep(0.2)
    peers.stop("data x: no such file", 2)
time.sleep(60)
"""


@pytest.mark.parametrize("end, lost", [("kill", 0), ("kill", 2), ("stop", 1)])
def test_end_of_one_process_is_one_line_of_the_others(end, lost):
    address = places()[0].coordinator
    words = [sys.executable, "-c", PEER, str(ROOT), address]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = [subprocess.Popen([*words, str(i), *([end] if i == lost else [])], **pipes) for i in range(3)]
    assert [process.stdout.readline() for process in running] == ["joined\n"] * 3
    if end == "kill":
        running[lost].kill()
    for i, process in enumerate(running):
        if i != lost:
            line = only_line(process.communicate(timeout=10)[1])
            assert line.startswith("-c: error: process ") and process.returncode == (1 if end == "kill" else 2)
            assert f"process {lost} (" in line
            assert ("is gone" in line and "with the same commands" in line) if end == "kill" else "no such file" in line
    running[lost].kill()
    running[lost].communicate()


# Training -------------------------------------------------------------------------------------------------------------

# Trains with the preset "tiny"; writes the loss of each step to LOSSES, and is killed before step KILL_AT.
CHILD = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv[0] = "train.py"
import modeling_eanet
modeling_eanet.PRESETS["tiny"] = {TINY!r}
import keras
step, train_on_batch = 0, keras.Model.train_on_batch
def spy(*args, **kwargs):
    global step
    step += 1
    if step == int(os.environ.get("KILL_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    result = train_on_batch(*args, **kwargs)
    if "LOSSES" in os.environ:
        with open(os.environ["LOSSES"], "a") as file:
            print(repr(result["loss"]), file=file)
    return result
keras.Model.train_on_batch = spy
import train
from eanet.cli import run
sys.exit(run(train.main))
"""


def start(*options, place=None, env=None, devices=1):
    """Start train.py on JAX's CPU with `options`, as one of several processes if `place` is given."""
    words = [sys.executable, "-c", CHILD, *map(str, options)]
    if place:
        words += ["--distribute", "--coordinator", place.coordinator, "--processes", str(place.count)]
        words += ["--process-id", str(place.index)]
    given = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    cache = {
        "JAX_COMPILATION_CACHE_DIR": f"{os.environ['EANET_SHARED']}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    env = {**os.environ, **given, **cache, **(env or {})}
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(*running, timeout=600):
    """Wait for processes that were started; return [(exit status, standard output, standard error), ...]."""
    texts = [process.communicate(timeout=timeout) for process in running]
    return [(process.returncode, *text) for process, text in zip(running, texts, strict=True)]


def train_alone(*options, **kwargs):
    """Train in one process, which must succeed."""
    [(status, _, err)] = finish(start(*options, **kwargs))
    assert status == 0, err


def train_together(*options, count=2, **kwargs):
    """Train in several processes, which must succeed; return their standard output and error."""
    results = finish(*(start(*options, place=place, **kwargs) for place in places(count)))
    assert [status for status, _, _ in results] == [0] * count, "\n".join(err for _, _, err in results)
    return [texts for _, *texts in results]


def largest_difference(folder, other):
    """Compare the checkpoints of two runs: weights, their average, the optimizer. Relative to values above 1."""
    with np.load(folder / "checkpoint.npz") as one, np.load(other / "checkpoint.npz") as two:
        assert one.files == two.files
        pairs = [(one[name].astype(float), two[name]) for name in one.files if name != "meta"]
        return max(float((abs(a - b) / np.maximum(1, abs(a))).max()) for a, b in pairs)


def losses(path):
    """Return the losses that CHILD has written."""
    return np.array([float(line) for line in path.read_text().split()])


def assert_same_training(folder, other):
    """Compare the history and the results of two runs."""
    one, two = (read_json(path / "history.json") for path in (folder, other))
    for key in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
        np.testing.assert_allclose(one[key], two[key], atol=1e-4)
    one, two = (read_json(path / "eval_results.json") for path in (folder, other))
    assert one["accuracy"] == two["accuracy"] and abs(one["loss"] - two["loss"]) < 1e-4
    assert largest_difference(folder, other) < 1e-4


# Without biases that a norm cancels, and too slow for units to die: their gradients are rounding errors, which Adam scales
# up, to no effect on the outputs.
STEPS = 10  # per epoch
SAME = [*RECIPE, "--epochs", 2, "--batch-size", 24, "--learning-rate", 0.0005, "--set", "redundant_bias=false"]
SAME += ["--augment", "trivial", "--json"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of SAME in one process, without and with a teacher: {False: folder, True: folder}."""
    folder = tmp_path_factory.mktemp("alone")
    for name, taught in (("False", []), ("True", ["--teacher", folder / "False"])):
        env = {"LOSSES": str(folder / f"{name}.txt")}
        train_alone("--data", colours(), *SAME, *taught, "--output", folder / name, env=env)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("taught", [False, True])
def test_two_processes_train_like_one(taught, alone, tmp_path):
    options = ["--data", colours(), *SAME, *(["--teacher", alone / "False"] if taught else [])]
    address = places()
    env = [{"LOSSES": str(tmp_path / f"{i}.txt")} for i in range(2)]
    folders = [tmp_path / "run", tmp_path / "no"]
    running = [start(*options, "--output", f, place=p, env=e) for p, e, f in zip(address, env, folders, strict=True)]
    (status, out, err), (other, nothing, quiet) = finish(*running)
    assert status == other == 0, err + quiet
    assert_same_training(alone / str(taught), tmp_path / "run")
    expected = losses(alone / f"{taught}.txt")
    assert len(expected) == 2 * STEPS
    worst = max(abs(losses(tmp_path / f"{i}.txt") - expected).max() for i in range(2))
    print(f"losses {worst:.1e}, weights {largest_difference(alone / str(taught), tmp_path / 'run'):.1e}")
    assert worst < 1e-4
    assert json.loads(out)["training"]["processes"] == 2 and "epoch 2/2" in err
    assert nothing == "" and "process 1 of 2: trains with process 0" in only_line(quiet) and not folders[1].exists()


@pytest.mark.slow
def test_four_devices_train_like_one(alone, tmp_path):
    train_alone("--data", colours(), *SAME, "--distribute", "--output", tmp_path / "run", devices=4)
    assert read_json(tmp_path / "run" / "eval_results.json")["training"]["devices"] == 4
    assert_same_training(alone / "False", tmp_path / "run")
    print(f"weights {largest_difference(alone / 'False', tmp_path / 'run'):.1e}")


@pytest.mark.slow
def test_two_processes_of_two_devices_go_on_with_a_run_of_one(alone, tmp_path):
    options = ["--data", colours(), *SAME, "--output", tmp_path / "run"]
    train_alone(*options, "--stop-after", 1)
    (_, err), _ = train_together(*options, devices=2)
    assert "resuming after epoch 1 of 2" in err
    assert_same_training(alone / "False", tmp_path / "run")
    (out, err), (nothing, _) = train_together(*options)
    assert "already complete" in err and nothing == "" and json.loads(out)["training"]["devices"] == 4


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("step", [1, 2, STEPS, STEPS + 1, STEPS + 9, 2 * STEPS])
def test_killed_process_ends_the_other_and_the_same_commands_go_on(lost, step, alone, tmp_path):
    options = ["--data", colours(), *SAME, "--output", tmp_path / "run"]
    running = [start(*options, place=p, env={"KILL_AT": str(step)} if p.index == lost else {}) for p in places()]
    running[lost].wait(timeout=300)
    begun = time.monotonic()
    results = finish(*running, timeout=60)
    print(f"after {time.monotonic() - begun:.1f} s")
    status, _, err = results[1 - lost]
    assert results[lost][0] == -9 and status == 1
    line = only_line(err.splitlines()[-1] + "\n")
    assert line.startswith(f"train.py: error: process {lost} (") and "is gone" in line and "Traceback" not in err, err
    train_together(*options)
    assert_same_training(alone / "False", tmp_path / "run")
    print(f"weights {largest_difference(alone / 'False', tmp_path / 'run'):.1e}")


@pytest.mark.slow
def test_processes_that_do_not_fit_stop_before_the_first_step(official, tmp_path):
    def errors(*each, **kwargs):
        options = ["--data", colours(), *SAME, "--output", tmp_path / "run"]
        results = finish(*(start(*options, *more, place=p, **kwargs) for p, more in zip(places(), each, strict=True)))
        # a process that ends because of another leaves the lock, which no longer counts
        assert {path.name for path in (tmp_path / "run").glob("*")} <= {".lock"}
        return [error_line(status, err) for status, _, err in results]

    first, second = errors([], ["--batch-size", 8])
    assert "has batch_size 8, process 0 has 24; start all with the same options and data" in first and first == second
    first, second = errors([], ["--data", official])
    assert "has training data " in first and first == second
    first, second = errors(["--batch-size", 15], ["--batch-size", 15])
    assert "batch_size 15: must be a multiple of the number of devices, 2" in first and "batch_size 15" in second
    first, second = errors([], ["--data", tmp_path / "no data"])
    assert "process 1" in first and "stopped: " in first and "no data" in first and "no data" in second


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_absent_process_is_one_line_and_no_folder(index, tmp_path):
    options = ["--data", colours(), *SAME, "--start-timeout", 5, "--output", tmp_path / "run"]
    [(status, out, err)] = finish(start(*options, place=places()[index]))
    assert "in 5 s" in error_line(status, err) and out == "" and not (tmp_path / "run").exists()
    assert TrainConfig.start_timeout < 50


# Examples -------------------------------------------------------------------------------------------------------------


def commands(text):
    """Yield the arguments of the commands of train.py in a text."""
    for line in text.splitlines():
        words = shlex.split(line) if "train.py --" in line and "`" not in line else []
        if words:
            yield words[words.index("train.py") + 1 :]


def test_commands_of_the_examples_parse():
    found = list(commands((ROOT / "examples" / "README.md").read_text(encoding="utf-8")))
    one, first, second = [train.config_from_args(train.parse_args(words)) for words in found]
    assert find_place(one, {}) is None
    assert [find_place(config, {}) for config in (first, second)] == [Place("host0:1234", 2, i) for i in range(2)]


def test_slurm_script_is_bash_and_trains():
    path = ROOT / "examples" / "train_slurm.sh"
    text = path.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)
    [words] = [words for line in text.splitlines() if line.startswith("srun") for words in commands(line)]
    assert train.parse_args(words).distribute and "export KERAS_BACKEND=jax" in text
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in text.splitlines() if "#SBATCH" in line)
    # one process per GPU, and each sees all GPUs of its node: JAX takes the one of its number
    assert options["gres"] == f"gpu:{options['ntasks-per-node']}" and not any("gpus-per-task" in name for name in options)


def test_train_job_is_one_of_kubeflow():
    models = pytest.importorskip("kubeflow_trainer_api.models")
    import yaml

    manifest = yaml.safe_load((ROOT / "examples" / "trainjob.yaml").read_text(encoding="utf-8"))
    assert models.TrainerV1alpha1TrainJob.from_dict(manifest).to_dict() == manifest  # unknown fields would be dropped
    trainer = manifest["spec"]["trainer"]
    assert trainer["command"][-1] == "/eanet/train.py" and trainer["env"] == [{"name": "KERAS_BACKEND", "value": "jax"}]
    config = train.config_from_args(train.parse_args(trainer["args"]))
    environ = KUBEFLOW | {"JAX_COORDINATOR_ADDRESS": "eanet-node-0-0.eanet:6666"}
    assert find_place(config, environ) == Place("eanet-node-0-0.eanet:6666", 2, 1)
