"""What the tests share: a tiny architecture, tiny data of our own making, and ways to run the programs."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the public Hub for anything

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import modeling_eanet  # noqa: E402

# Two stages, both kinds of block part, in few parameters; also known to the programs that tests start (`run_program`).
TINY = dict(embed_dims=(16, 24), depths=(1, 1), num_heads=(2, 2), slots=(4, 4), head_dims=(8, 12), drop_path=0.2)
modeling_eanet.PRESETS["tiny"] = TINY


def tiny_config(**changes):
    labels = changes.pop("id2label", ("red", "green", "blue"))
    return modeling_eanet.EANetConfig.preset("tiny", id2label=labels, **changes)


def colour_pictures(count, seed=0):
    """Noisy pictures that are mostly red, green or blue, (count, 32, 32, 3) uint8, and which of the three, (count,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.integers(0, 100, (count, 32, 32, 3))
    x[np.arange(count), :, :, y] += 150
    return x.astype(np.uint8), y


def write_official(folder, train=192, test=48, labels=("red", "green", "blue")):
    """A data set in the official python layout of CIFAR-100."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        x, y = colour_pictures(count, seed)
        record = {b"data": x.transpose(0, 3, 1, 2).reshape(count, 3072), b"fine_labels": y.tolist()}
        (folder / name).write_bytes(pickle.dumps(record, protocol=2))
    meta = {b"fine_label_names": [label.encode() for label in labels]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def run_program(name, *args, env=None, timeout=300, stdin=None, **kwargs):
    """Runs `python NAME.py ARGS` with the tiny preset known to it; returns the CompletedProcess with its text output."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import modeling_eanet; "
        f"modeling_eanet.PRESETS['tiny'] = {TINY!r}; import {name}; sys.exit({name}.main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, **(env or {})},
        timeout=timeout,
        capture_output=True,
        text=not isinstance(stdin, bytes),
        input=stdin,
        **kwargs,
    )


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    return write_official(tmp_path_factory.mktemp("data") / "cifar-100-python")


@pytest.fixture(scope="session")
def tiny_model():
    return modeling_eanet.build_eanet(tiny_config())


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tmp_path_factory):
    """A folder with all that `save_pretrained_keras` writes."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    modeling_eanet.save_pretrained_keras(tiny_model, folder, saved_model=True)
    return folder
