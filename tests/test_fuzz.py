"""Hostile and damaged inputs: a short run of every family, and with `-m slow` a long one; see tests/fuzz."""

import pytest
from fuzz.families import FAMILIES
from fuzz.run import LONG, SHORT, make_materials, run_family


@pytest.fixture(scope="session")
def materials(tiny_model, tiny_folder, tmp_path_factory):
    """A tiny model in all its formats, and valid images."""
    return make_materials(tiny_model, tiny_folder, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("name", FAMILIES)
def test_hostile_input_is_refused_in_one_line(name, materials, tmp_path):
    done = run_family(name, range(SHORT[name]), tmp_path / "work", materials)
    assert done.violations == []
    assert done.tried >= SHORT[name] and (done.answered < done.tried or name == "cards")


@pytest.mark.parametrize(("name", "seed"), [("onnx_files", 455)])
def test_what_the_long_run_found_stays_fixed(name, seed, materials, tmp_path):
    """455: onnxruntime printed to standard output about metadata that is not UTF-8."""
    assert run_family(name, [seed], tmp_path / "work", materials).violations == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_long_run(name, materials, tmp_path):
    """The seeds after those of benchmarks/robustness.py."""
    assert run_family(name, range(10_000, 10_000 + LONG[name]), tmp_path / "work", materials).violations == []
