"""Training on several devices, of one process or of many: data parallelism by `keras.distribution`, on JAX.

Every process draws the same global batches and augments its own rows of them; JAX computes the step as on one device, so
losses, weights, dropout and batch norm are those of one process, to rounding. Process 0 has the run folder; the others each
work in a temporary folder, with copies of what they need of the run.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import io
import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from eanet.cli import UserError, first_line, keras_backend, printable, require, temporary_folder
from eanet.peers import Peers, Place
from eanet.train_config import TrainConfig

# Where the place of a process is found, after the option of that name: Keras' variables, then those of Kubeflow Trainer.
VARIABLES = {
    "coordinator": ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "JAX_COORDINATOR_ADDRESS"),
    "processes": ("KERAS_DISTRIBUTION_NUM_PROCESSES", "JAX_NUM_PROCESSES"),
    "process_id": ("KERAS_DISTRIBUTION_PROCESS_ID", "JAX_PROCESS_ID"),
}
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # set in a step of a job


class Processes:
    """Those that train a model: here this process alone, with one device, which is the normal case.

    Attributes:
        is_main: whether this process writes the run folder.
        distributed: whether there are other devices.
        twin: for evaluation, a model on this process alone, with the layers of the one that is trained; None where that is.
        record: what eval_results.json says about them.
    """

    is_main, distributed = True, False
    twin: Any = None
    record: dict[str, int] = {}

    def distribute(self, make):
        """Return the model that `make()` returns, with its variables on all devices."""
        return make()

    def scope(self):
        """Return the context in which variables are made and steps are run."""
        return contextlib.nullcontext()

    def part(self, batches):
        """Return those rows of `eanet.data.Batches` that this process trains on."""
        return batches

    def share(self, value):
        """Return the `value` of process 0, which is JSON."""
        return value

    def mirror(self, folder: Path, names) -> None:
        """Copy files of process 0 into the folders of the others, where it has them."""

    def agree(self, facts: dict) -> None:
        """Raise UserError unless all processes give the same facts."""


ALONE = Processes()


class DataParallel(Processes):
    """The devices of this process, or of `peers` too.

    Args:
        place: of this process.
        peers: the other processes, or None.
    """

    distributed = True

    def __init__(self, place: Place | None = None, peers: Peers | None = None):
        import jax
        import keras

        self.peers, self.is_main = peers, not (place and place.index)
        self.index, self.count = jax.process_index(), jax.process_count()
        self.devices = jax.device_count()
        self.record = {"processes": self.count, "devices": self.devices}
        self._distribution = keras.distribution.DataParallel(auto_shard_dataset=False)

    def distribute(self, make):  # noqa: D102
        self.twin = make()
        with self.scope():
            model = make()
        model.reset_metrics = functools.partial(self._reset_metrics, model)
        return model

    def _reset_metrics(self, model) -> None:
        """Do what Keras does, but not let JAX compare the zeros of all processes, in a collective operation per variable."""
        import jax

        for variable in model.metrics_variables:
            zeros = np.zeros(variable.shape, variable.dtype)
            variable.assign(jax.make_array_from_callback(zeros.shape, variable.value.sharding, zeros.__getitem__))

    def scope(self):  # noqa: D102
        return self._distribution.scope()

    def part(self, batches):  # noqa: D102
        size = batches.batch_size
        if size % self.devices:
            raise UserError(f"batch_size {size}: must be a multiple of the number of devices, {self.devices}")
        rows = size // self.count
        return batches.rows(self.index * rows, (self.index + 1) * rows) if self.count > 1 else batches

    def share(self, value):  # noqa: D102
        return json.loads(self.peers.share(json.dumps(value).encode())) if self.peers else value

    def mirror(self, folder, names):  # noqa: D102
        if self.peers:
            self.peers.mirror(folder, names)

    def agree(self, facts):  # noqa: D102
        if self.peers:
            self.peers.agree(facts)


def find_place(config: TrainConfig, environ=os.environ) -> Place | None:
    """Return the place of this process, from the options, the environment, or SLURM as JAX understands it.

    Returns:
        None if there is one process only.

    Raises:
        UserError: one of the three settings is missing or wrong.
    """
    found: dict[str, Any] = {}
    for name, variables in VARIABLES.items():
        labels = {name: getattr(config, name), **{variable: environ.get(variable) for variable in variables}}
        for label, value in labels.items():
            if name not in found and value not in (None, ""):
                found[name] = _host_and_port(label, value) if name == "coordinator" else _integer(label, value)
    if len(found) < len(VARIABLES) and all(environ.get(name) for name in SLURM):
        found = _slurm() | found
    if not found or found.get("processes") == 1 and found.get("process_id", 0) == 0:
        return None
    for name, variables in VARIABLES.items():
        if name not in found:
            raise UserError(f"{name}: missing, as {' and '.join(found)} are given; also read from {' and '.join(variables)}")
    addresses, count, index = found["coordinator"].split(","), found["processes"], found["process_id"]
    if len(addresses) not in (1, count):
        raise UserError(f"coordinator {found['coordinator']}: {len(addresses)} addresses for {count} processes")
    if index >= count:
        raise UserError(f"process_id {index}: must be from 0 to {count - 1}, with {count} processes")
    return Place(addresses[0], count, index)


def _integer(label: str, value) -> int:
    text, least = str(value).strip(), 0 if label.lower().endswith("process_id") else 1
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{label} {printable(text)}: must be an integer, at least {least}")
    return int(text)


def _host_and_port(name: str, value: str) -> str:
    addresses = [address.strip() for address in value.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"{name} {printable(value)}: must be HOST:PORT, of process 0")
    return ",".join(addresses)


def _slurm() -> dict[str, Any]:
    """Return the settings that JAX finds in SLURM's variables."""
    from jax._src.clusters import ClusterEnv

    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, "slurm", None)
    return dict(zip(VARIABLES, found, strict=False))


def local_devices(environ=os.environ) -> list[int] | None:
    """Return the numbers of the devices of this process where SLURM runs several on a machine: one each. None for all."""
    if environ.get("JAX_LOCAL_DEVICE_IDS") or not all(environ.get(name) for name in SLURM):
        return None
    shared = int(environ["SLURM_NTASKS"]) > int(environ.get("SLURM_STEP_NUM_NODES") or 1)
    return [int(environ["SLURM_LOCALID"])] if shared else None


@contextlib.contextmanager
def joined(config: TrainConfig, facts: dict):
    """Join the processes of a run, within the context. Must come before JAX is used; a process can join one run.

    Args:
        config: the options; without `distribute`, this process trains alone.
        facts: what must be the same in all processes, which is JSON.

    Yields:
        The options that hold here, with a temporary folder as output in all processes but 0; and `Processes`.

    Raises:
        UserError: another backend than JAX, settings that do not fit, processes that are missing or differ.
    """
    if not config.distribute:
        yield config, ALONE
        return
    name = keras_backend()
    if name != "jax":
        raise UserError(
            f"distribute: needs Keras on JAX (KERAS_BACKEND=jax); with {name}, Keras 3 trains on one device only"
        )
    require("jax", "`pip install jax`")
    place = find_place(config)
    if place is None:
        yield config, DataParallel()
        return
    with native_output_silenced(), _peers(place, config.start_timeout) as peers, contextlib.ExitStack() as stack:
        processes = DataParallel(place, peers)
        processes.agree(_machine() | facts)
        if not processes.is_main:
            folder = stack.enter_context(temporary_folder(prefix=".tmp-train-"))
            print(
                f"process {place.index} of {place.count}: trains with {peers.all[0].name}, which writes and reports",
                file=sys.stderr,
            )
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            config = dataclasses.replace(config, output=folder, resume=False)
        yield config, processes


@contextlib.contextmanager
def _peers(place: Place, timeout: float):
    """Connect this process to the others, and JAX to JAX; on an error tell them, and do not wait for them."""
    import jax

    peers = Peers(place, timeout)
    status = None
    atexit.register(lambda: status is not None and _leave_at_once(status))  # before JAX's own handler, which waits for all
    try:
        with contextlib.suppress(AttributeError):  # it would keep SIGTERM from ending the process
            jax.config.update("jax_enable_preemption_service", False)
        try:  # cluster detection would also limit a process to one device
            jax.distributed.initialize(
                *(place.coordinator, place.count, place.index, local_devices()),
                cluster_detection_method="deactivate",
                initialization_timeout=60,
            )
        except RuntimeError as error:
            raise UserError(f"coordinator {place.coordinator}: JAX cannot connect ({first_line(error)})") from None
        yield peers
        if peers.leave():
            jax.distributed.shutdown()
        else:
            status = 0
    except BaseException as error:
        expected = isinstance(error, (UserError, OSError))
        if not expected and isinstance(error, Exception):
            peers.wait_for_loss()
        status = getattr(error, "exit_status", 2) if expected else 130 if isinstance(error, KeyboardInterrupt) else 1
        text = " ".join(str(error).split()) if expected else type(error).__name__
        if not peers.closing:
            peers.stop(text, status)
        raise


@contextlib.contextmanager
def native_output_silenced():
    """Point file descriptors 1 and 2 at the null device, unless they are closed, and `sys.stderr` at what 2 was.

    Gloo says on standard output that it is connected, and JAX writes paragraphs when process 0 is gone. Does nothing if
    TF_CPP_MIN_LOG_LEVEL is 0 or 1.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") in ("0", "1"):
        yield
        return
    streams = {number: stream for number, stream in ((1, sys.stdout), (2, sys.stderr)) if stream and not stream.closed}
    for stream in streams.values():
        stream.flush()
    nulls = [
        os.open(os.devnull, os.O_WRONLY) for _ in range(3)
    ]  # take closed descriptors, which sockets would get otherwise
    saved = {number: os.dup(number) for number in streams}
    with contextlib.ExitStack() as stack:
        if 2 in saved:
            errors = stack.enter_context(os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace"))
            stack.enter_context(contextlib.redirect_stderr(errors))
        try:
            for number in saved:
                os.dup2(nulls[0], number)
            yield
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            for null in nulls:
                os.close(null)


def _leave_at_once(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _machine() -> dict:
    """Return what must be the same on all machines."""
    import jax
    import keras

    versions = {
        "EANet source": _source_checksum(),
        "Keras": keras.__version__,
        "JAX": jax.__version__,
        "NumPy": np.__version__,
    }
    return versions | {"local devices": jax.local_device_count(), "device": jax.local_devices()[0].device_kind}


def _source_checksum() -> str:
    """Return the CRC-32 of the source of this package, in hexadecimal: a checkout has no other version."""
    package, checksum = Path(__file__).parent, 0
    for path in (*sorted(package.rglob("*.py")), package.parent / "modeling_eanet.py"):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return f"{checksum:08x}"
