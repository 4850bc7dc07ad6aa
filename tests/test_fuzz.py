"""Hostile and damaged inputs: a short run of every family, and with `-m slow` a long one; see tests/fuzz."""

import numpy as np
import pytest
from fuzz.attempt import Violation
from fuzz.families import FAMILIES, Materials

SHORT = {"images": 4, "configs": 12, "weights": 8, "onnx_files": 12, "archives": 25, "pickles": 25, "payloads": 25,
         "cards": 60, "records": 15}  # fmt: skip


@pytest.fixture(scope="session")
def materials(tiny_model, tmp_path_factory):
    """A tiny model with its ONNX file, and valid images."""
    from eanet.export import export_onnx
    from eanet.saving import save_pretrained_keras

    home = tmp_path_factory.mktemp("fuzz")
    save_pretrained_keras(tiny_model, home / "tiny", saved_model=False)
    (home / "tiny" / "onnx").mkdir()
    export_onnx(tiny_model, home / "tiny" / "onnx" / "model.onnx")
    return Materials(home / "tiny", home)


def run_family(name, seeds, folder, materials):
    """Run a family on its seeds; return (tried, answered, slowest seconds, largest growth in bytes)."""
    tried, answered, seconds, growth = 0, 0, 0.0, 0
    for seed in seeds:
        try:
            some, good, outcomes = FAMILIES[name](np.random.default_rng([seed, len(name)]), folder, materials)
        except Violation as violation:
            raise AssertionError(f"{name}, seed {seed}: {violation}") from violation
        tried, answered = tried + some, answered + good
        seconds = max([seconds, *(done.seconds for done in outcomes)])
        growth = max([growth, *(done.growth for done in outcomes)])
    return tried, answered, seconds, growth


@pytest.mark.parametrize("name", FAMILIES)
def test_hostile_input_is_refused_in_one_line(name, materials, tmp_path):
    tried, answered, _, _ = run_family(name, range(SHORT[name]), tmp_path / "work", materials)
    assert tried >= SHORT[name] and (answered < tried or name == "cards")
