"""The machine a result was measured on: hardware, backend and versions; the memory allocator and XLA's kernels."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
from pathlib import Path


def backend() -> tuple[str, str]:
    """Return the name of Keras' backend and its version."""
    import keras

    name = keras.backend.backend()
    return name, importlib.import_module(name).__version__


def versions() -> dict[str, str]:
    """Return the versions of Python, Keras and its backend, as eval_results.json records them."""
    import keras

    name, version = backend()
    return {"python": platform.python_version(), "keras": keras.__version__, "backend": name, name: version}


def hardware() -> str:
    """Return the accelerator as its driver calls it, or else the processor and its number of cores."""
    name, _ = backend()
    if name == "jax":
        import jax

        if jax.devices()[0].platform != "cpu":
            return jax.devices()[0].device_kind
    elif name == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return f"{processor}, {os.cpu_count()} CPU cores"


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Stop glibc from returning freed tensors to the kernel, which would clear their pages again at every step.

    Saves a fifth to a third of a training step on two CPU cores. The numbers are those of malloc.h.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            libc.mallopt(option, value)


def repeat_gpu_results() -> None:
    """Have XLA run the same GPU kernels each time, and none whose sums depend on timing: a run gives the same weights again.

    Has no effect after the first operation of JAX. XLA_FLAGS=--xla_gpu_deterministic_ops=false keeps XLA's own choice.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "--xla_gpu_deterministic_ops" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".lstrip()
