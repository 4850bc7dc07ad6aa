"""Run a family of hostile inputs on many seeds, and count."""

import dataclasses

import numpy as np

from fuzz.attempt import Violation
from fuzz.families import FAMILIES, Materials

# Seeds per family: a bounded run for every day, and a long one.
SHORT = {"images": 4, "configs": 12, "weights": 8, "onnx_files": 12, "archives": 25, "pickles": 25, "payloads": 25,
         "cards": 60, "records": 15}  # fmt: skip
LONG = {"images": 125, "configs": 600, "weights": 600, "onnx_files": 900, "archives": 1500, "pickles": 1500,
        "payloads": 700, "cards": 1200, "records": 1000}  # fmt: skip


@dataclasses.dataclass
class Tally:
    """What a family's inputs led to: how many were tried, refused and answered, the worst cost, and what must not happen."""

    family: str
    tried: int = 0
    answered: int = 0
    seconds: float = 0.0
    growth: int = 0
    violations: list = dataclasses.field(default_factory=list)


def make_materials(model, home) -> Materials:
    """Save a tiny model with its ONNX file in the folder `home`, and make valid inputs to be damaged."""
    from eanet.export import export_onnx
    from eanet.saving import save_pretrained_keras

    save_pretrained_keras(model, home / "tiny", saved_model=False)
    (home / "tiny" / "onnx").mkdir()
    export_onnx(model, home / "tiny" / "onnx" / "model.onnx")
    return Materials(home / "tiny", home)


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
