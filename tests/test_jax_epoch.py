"""The epoch that runs as one program on an accelerator, here on JAX's CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import jax, keras, numpy as np
from eanet.data import Batches, Split
from eanet.folding import deployment_form
from eanet.fused_layers import with_fused_layers
from eanet.jax_epoch import EpochRunner, runs_whole_epochs
from eanet.train_config import TrainConfig
from eanet.trainer import compile_model, recalibrate_batch_norm, train_epoch
from modeling_eanet import EANetConfig, build_eanet

rng = np.random.default_rng(0)
split = Split(rng.integers(0, 256, (96, 16, 16, 3)).astype(np.uint8), rng.integers(0, 4, 96), "train")
sizes = dict(image_size=16, patch_size=4, embed_dims=(8,), depths=(1,), num_heads=(2,), slots=(3,), head_dims=(3,))
# A bias that a norm cancels has a gradient of rounding errors alone, which Adam would blow up.
config = EANetConfig(**sizes, id2label=list("abcd"), mlp_dropout=0.1, redundant_bias=False, inner_norm=True)
worst = {}
for taught in (False, True):
    teaching = dict(teacher=".", teacher_epochs=1, output=sys.argv[1]) if taught else {}
    options = TrainConfig(epochs=20, batch_size=32, augment="trivial", **teaching).resolved(None)
    results = []
    for whole in (False, True):
        keras.utils.set_random_seed(1)
        teacher = with_fused_layers(deployment_form(build_eanet(config))) if taught else None
        model = with_fused_layers(build_eanet(config))
        weights = None if taught else np.array([1, 2, 1, 1], np.float32)
        batches = Batches(split, 4, 32, 0, True, weights, "trivial")
        compile_model(model, options, len(batches))
        assert not runs_whole_epochs(model, batches)  # on a CPU
        runner = EpochRunner(model, batches, teacher) if whole else None
        rows = [train_epoch(model, batches, epoch, options, teacher, runner) for epoch in (16, 17, 18)]  # CutMix stops
        recalibrate_batch_norm(model, batches, 19, 3, runner)
        state = [np.asarray(v) for v in (*model.variables, *model.optimizer.variables) if "seed" not in v.path]
        results.append([np.array([[row["loss"], row["accuracy"]] for row in rows]), *state])
    worst[str(taught)] = max(float(abs(a - b).max()) for a, b in zip(*results, strict=True))
print(json.dumps(worst))
"""


@pytest.mark.slow
def test_whole_epochs_equal_single_steps(tmp_path):
    pytest.importorskip("jax")
    root = str(Path(__file__).resolve().parents[1])
    env = dict(os.environ, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", PYTHONPATH=root)
    done = subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    worst = json.loads(done.stdout.splitlines()[-1])
    assert max(worst.values()) < 2e-3, worst
