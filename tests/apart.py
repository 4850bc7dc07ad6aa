"""Loading a saved model in a process that has none of our code, with other backends, Keras versions and Hub clients."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CLIENTS = Path(__file__).parent / ".clients"

LOAD_WITH_KERAS = """
import sys, numpy as np, keras
assert keras.__version__.startswith(sys.argv[4]), keras.__version__
assert not [name for name in sys.modules if "eanet" in name]
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
np.save(sys.argv[3], model.predict(np.load(sys.argv[2]), verbose=0))
"""

LOAD_WITH_HUB = """
import sys, numpy as np, huggingface_hub
assert huggingface_hub.__version__ == "0.36.2"
pictures = np.load(sys.argv[2])
first, second = (huggingface_hub.from_pretrained_keras(sys.argv[1]) for _ in range(2))
one = first.predict(pictures, verbose=0)
assert (one == first.predict(pictures, verbose=0)).all() and (one == second.predict(pictures, verbose=0)).all()
np.save(sys.argv[3], one)

import tensorflow as tf
count = sum(int(np.prod(v.shape)) for v in first.trainable_variables)
assert count == int(sys.argv[4]), count
with tf.GradientTape() as tape:
    loss = tf.reduce_mean(first(tf.constant(pictures, tf.float32), training=True)[:, 0])
assert all(g is not None for g in tape.gradient(loss, first.trainable_variables))
first.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
first.fit(pictures, np.zeros(len(pictures)), epochs=1, verbose=0)
assert np.abs(first.predict(pictures, verbose=0) - one).max() > 0
"""


def installed(requirement, *options):
    """A folder that holds `requirement` alone, to put on PYTHONPATH; installed once and kept."""
    folder = CLIENTS / requirement.replace("==", "-")
    if not folder.is_dir():
        part = folder.with_suffix(f".{os.getpid()}.tmp")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part), *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(part, ignore_errors=True)
            message = f"{requirement} could not be installed: {done.stderr.strip().splitlines()[-1:]}"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
        part.rename(folder)
    return folder


def trainable(model):
    """Number of trainable parameters: without the statistics of batch norms."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def run_apart(code, *args, pictures, path=None, backend="tensorflow", cwd):
    """Runs `code` in a process that has none of our code, and returns what it predicts of `pictures`."""
    out = cwd / "out.npy"
    np.save(cwd / "in.npy", pictures)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH"))}
    env |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HOME": str(cwd / "hf"), "PYTHONPATH": str(path or "")}
    folder, *rest = map(str, args)
    done = subprocess.run(
        [sys.executable, "-c", code, folder, str(cwd / "in.npy"), str(out), *rest],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)
