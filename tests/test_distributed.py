"""Training on several devices and processes. What trains on several is slow; the rest runs without JAX's distribution."""

import json
import os
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, TINY, only_line, random_images, run_main
from processes import connected, in_threads, places
from training_runs import RECIPE, colours, error_line, read_json

import train
from eanet.cli import UserError
from eanet.data import Batches, Dataset, Split
from eanet.distributed import SLURM, VARIABLES, Processes, find_place, local_devices
from eanet.peers import Place
from eanet.run_dir import Run, compared_options, split_run
from eanet.train_config import TrainConfig

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
    ((None, None, 0), KUBEFLOW | {VARIABLES["coordinator"][0]: " a:1, b:2"}, ("a:1", 2, 0)),
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


@pytest.mark.parametrize("environ, expected", [
    ({}, None),
    (SLURM_STEP | {"SLURM_STEP_NUM_NODES": "2"}, None),
    (SLURM_STEP | {"SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "8", "SLURM_LOCALID": "3"}, [3]),
    (SLURM_STEP | {"SLURM_STEP_NUM_NODES": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
])  # fmt: skip
def test_one_process_per_machine_has_all_of_its_devices(environ, expected):
    assert local_devices(environ) == expected


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


@pytest.mark.parametrize("seconds", [0, 1e10])
def test_start_timeout_is_at_most_a_day(seconds):
    with pytest.raises(UserError, match=f"^start_timeout {seconds}: must be a number of seconds, above 0, at most 86400"):
        TrainConfig(start_timeout=seconds)


def test_paths_of_other_models_may_differ():
    one, other = (TrainConfig(init_from=f"/{host}/model", teacher=f"/{host}/teacher") for host in "ab")
    assert compared_options(one) == compared_options(other) != compared_options(TrainConfig(seed=1))


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


# Data -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, "trivial"])
def test_rows_of_all_processes_are_the_batch_of_one(policy):
    split = Split(random_images(30), np.arange(30) % 5, "train")
    batches = Batches(split, 5, 12, 7, policy=policy)
    parts = [batches.rows(start, start + 4).epoch(1, 0.5) for start in (0, 4, 8)]
    for (x, y), *rows in zip(batches.epoch(1, 0.5), *parts, strict=True):
        np.testing.assert_array_equal(x, np.concatenate([row[0] for row in rows]))
        np.testing.assert_array_equal(y, np.concatenate([row[1] for row in rows]))


class Threads(Processes):
    """Processes that are threads here."""

    distributed = True

    def __init__(self, peers):
        self.agree = peers.agree


def test_processes_compare_the_splits_they_train_on():
    def data(validation=None):
        train = Split(random_images(30), np.arange(30) % 5, "train")
        return Dataset("", "data", list("abcde"), train, None, validation)

    def splits(*datasets):
        runs = [
            Run(TrainConfig(validation_split=0.2), {}, dataset, None, False, processes=Threads(peers))
            for dataset, peers in zip(datasets, connected(), strict=True)
        ]
        return in_threads(*(lambda run=run: split_run(run) for run in runs))

    assert [len(split) for pair in splits(data(), data()) for split in pair] == [24, 6] * 2
    errors = splits(data(), data(Split(random_images(6), np.arange(6) % 5, "validation")))
    assert all("has training images 30, process 0 has 24; start all with the same" in str(error) for error in errors)


# Output ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_stay_closed(closed, tmp_path):
    program = f"""
import os, pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from eanet.distributed import native_output_silenced
with native_output_silenced():
    os.write(1, b"native")
    os.write(2, b"native")
    print("error", file=sys.stderr or open(os.devnull, "w"))
pathlib.Path({str(tmp_path / "done")!r}).touch()
"""
    command = f"{shlex.join([sys.executable, '-c', program])} {closed}"
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "" if "2" in closed else "error\n") and (tmp_path / "done").exists()


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
    assert "has batch_size 8, process 0 has 24; start all with the same" in first and first == second
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
    [line] = [line for line in text.replace("\\\n", "").splitlines() if line.startswith("srun")]
    [words] = commands(line)
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in line
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
    assert find_place(config, environ) == Place("eanet-node-0-0.eanet:6666", 2, 1) and config.start_timeout == 600
