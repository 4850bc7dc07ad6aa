"""Run a family of hostile inputs on many seeds, and count."""

import dataclasses

import numpy as np

from fuzz.attempt import Violation
from fuzz.families import FAMILIES, Materials

# Seeds per family: a bounded run for every day, and a long one.
SHORT = {"images": 4, "configs": 8, "weights": 8, "onnx_files": 12, "onnx_graphs": 12, "saved_models": 12, "archives": 25,
         "pickles": 25, "matlab": 25, "payloads": 20, "cards": 40, "records": 15}  # fmt: skip
LONG = {"images": 150, "configs": 250, "weights": 250, "onnx_files": 600, "onnx_graphs": 300, "saved_models": 400,
        "archives": 1000, "pickles": 1000, "matlab": 700, "payloads": 300, "cards": 600, "records": 700}  # fmt: skip


@dataclasses.dataclass
class Tally:
    """What a family's inputs led to: how many were tried, refused and answered, the worst cost, and what must not happen."""

    family: str
    tried: int = 0
    answered: int = 0
    seconds: float = 0.0
    growth: int = 0
    violations: list = dataclasses.field(default_factory=list)


def make_materials(model, saved_model, home) -> Materials:
    """Save a tiny model with its ONNX file in the folder `home`; return that, its SavedModel and other valid inputs."""
    from eanet.export import export_onnx
    from eanet.saving import save_pretrained_keras

    save_pretrained_keras(model, home / "tiny", saved_model=False)
    (home / "tiny" / "onnx").mkdir()
    export_onnx(model, home / "tiny" / "onnx" / "model.onnx")
    return Materials(home / "tiny", saved_model, home)


def run_family(name, seeds, folder, materials) -> Tally:
    """Run a family on its seeds. What must not happen is noted with its seed, and the next seed is tried."""
    tally = Tally(name)
    for seed in seeds:
        try:
            tried, answered, outcomes = FAMILIES[name](np.random.default_rng([seed, len(name)]), folder, materials)
        except Violation as violation:
            tally.tried += 1
            tally.violations.append(f"seed {seed}: {violation}")
            continue
        tally.tried, tally.answered = tally.tried + tried, tally.answered + answered
        tally.seconds = max([tally.seconds, *(done.seconds for done in outcomes)])
        tally.growth = max([tally.growth, *(done.growth for done in outcomes)])
    return tally
