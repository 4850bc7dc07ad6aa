"""Load a saved model in a process without our code, with other backends, Keras versions and Hub clients."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import LEAN, run_program

CLIENTS = Path(__file__).parent / ".clients"

LOAD_WITH_KERAS = """
import sys, numpy as np, keras
assert keras.__version__.startswith(sys.argv[4]), keras.__version__
assert not [name for name in sys.modules if name.split(".")[0] in ("eanet", "modeling_eanet")]
folders, images = sys.argv[1].split(os.pathsep), np.load(sys.argv[2])
models = [keras.saving.load_model(folder, safe_mode=True) for folder in folders]
np.save(sys.argv[3], np.stack([model.predict(images, verbose=0) for model in models]))
"""

LOAD_WITH_HUB = """
import sys, numpy as np, huggingface_hub
assert huggingface_hub.__version__ == "0.36.2"
images = np.load(sys.argv[2])
found = []
for folder, expected_count in zip(sys.argv[1].split(os.pathsep), sys.argv[4:], strict=True):
    first = huggingface_hub.from_pretrained_keras(folder)
    one = first.predict(images, verbose=0)
    assert (one == first.predict(images, verbose=0)).all()
    found.append(one)

    import tensorflow as tf
    count = sum(int(np.prod(v.shape)) for v in first.trainable_variables)
    assert count == int(expected_count), count
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(first(tf.constant(images[:8], tf.float32), training=True)[:, 0])
    assert all(g is not None for g in tape.gradient(loss, first.trainable_variables))
np.save(sys.argv[3], np.concatenate(found, axis=1))

second = huggingface_hub.from_pretrained_keras(folder)
assert (one == second.predict(images, verbose=0)).all()
first.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
first.fit(images, np.zeros(len(images)), epochs=1, verbose=0)
assert np.abs(first.predict(images, verbose=0) - one).max() > 0
"""


def installed(requirement, *options):
    """Return a folder with only `requirement` installed, for PYTHONPATH; it is kept between runs."""
    folder = CLIENTS / requirement.replace("==", "-")
    if not folder.is_dir():
        part = folder.with_suffix(f".{os.getpid()}.tmp")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part), *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(part, ignore_errors=True)
            message = f"{requirement} could not be installed: {done.stderr.strip().splitlines()[-1:]}"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
        try:
            part.rename(folder)
        except OSError:  # another test process was faster
            shutil.rmtree(part, ignore_errors=True)
    return folder


def run_patched(folder, code, *args, timeout=600, **env):
    """Run train.py in a process of its own, with `env`, after `code`, which may define another `main`."""
    (folder / "patched.py").write_text(f"import train\nmain = train.main\n{code}\n")
    return run_program("patched", *args, env={"PYTHONPATH": str(folder), **env}, timeout=timeout)


def trainable(model):
    """Return the number of trainable parameters, so without the statistics of batch norms."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def run_isolated(code, *args, images, path=None, backend="tensorflow", cwd):
    """Run `code` in a process without our code, and return its predictions for `images`.

    The first of `args` is the folder of a model, or a list of such folders.
    """
    out = cwd / "out.npy"
    np.save(cwd / "in.npy", images)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH"))}
    env |= {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "HF_HOME": str(cwd / "hf"), "PYTHONPATH": str(path or "")}
    folders, *rest = args
    folders = os.pathsep.join(map(str, folders if isinstance(folders, list) else [folders]))
    done = subprocess.run(
        [sys.executable, "-c", f"{LEAN}\n{code}", folders, str(cwd / "in.npy"), str(out), *map(str, rest)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)
