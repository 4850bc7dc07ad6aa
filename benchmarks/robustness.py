"""Try more than 10,000 hostile and damaged inputs, of every kind in tests/fuzz, and write robustness.json and robustness.md.

    python benchmarks/robustness.py                    about an hour
    python benchmarks/robustness.py --families images cards --scale 0.1

Checked for every input: exit status 0, 1 or 2, one line on standard error, no traceback, at most 5 s and 1.5 GB, no file
outside of the folder, no process started, and scores that are probabilities.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common

sys.path.insert(0, str(common.ROOT / "tests"))

from eanet.cli import positive_int, read_json, run, write_text

COLUMNS = {"family": "inputs", "tried": "tried", "refused": "refused in one line", "answered": "answered",
           "seconds": "slowest, s", "memory_gb": "most memory on top of the program's, GB",
           "violations": "anything else"}  # fmt: skip


def measure(families, scale: float, seed: int) -> list[dict]:
    """Run the families and return a row for each; what must not happen is printed to standard error as it is found."""
    import keras
    from conftest import tiny_config
    from fuzz.families import FAMILIES
    from fuzz.run import LONG, make_materials, run_family

    import modeling_eanet
    from eanet.saving import save_pretrained_keras

    rows = []
    keras.utils.set_random_seed(20)
    with tempfile.TemporaryDirectory(prefix="eanet-robustness-") as home:
        model = modeling_eanet.build_eanet(tiny_config())
        save_pretrained_keras(model, Path(home, "saved"), saved_model=True)
        materials = make_materials(model, Path(home, "saved"), Path(home))
        for name in families or FAMILIES:
            seeds = range(seed, seed + max(1, round(scale * LONG[name])))
            done = run_family(name, seeds, Path(home, "work"), materials)
            for violation in done.violations:
                print(f"{name}, {violation}", file=sys.stderr, flush=True)
            rows.append(
                {
                    "family": (FAMILIES[name].__doc__ or name).splitlines()[0].rstrip("."),
                    "tried": done.tried,
                    "refused": done.tried - done.answered - len(done.violations),
                    "answered": done.answered,
                    "seconds": done.seconds,
                    "memory_gb": done.growth / 1e9,
                    "violations": len(done.violations),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    total = {key: sum(row[key] for row in rows) for key in ("tried", "refused", "answered", "violations")}
    worst = {key: max(row[key] for row in rows) for key in ("seconds", "memory_gb")}
    return [*rows, {"family": "all", **total, **worst}]


def render(found: dict) -> str:
    """Return robustness.md."""
    from readme import measured, table

    return f"""# Robustness

Inputs are valid files, damaged at random or forged, from seeds. An input is answered, or refused in one line; anything else
would be a traceback, another exit status, more than 5 s of processor time or 1.5 GB, a file written outside of the folder, a
process started, or scores that are not probabilities.

{table(COLUMNS, found["rows"])}

Seeds from {found["seed"]} on. {measured(found)}
"""


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", metavar="NAME", help="some of those in tests/fuzz (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="times as many inputs (default: 1)")
    parser.add_argument("--seed", type=positive_int, default=1, metavar="N", help="the first seed (default: 1)")
    args = parser.parse_args(argv)
    rows = measure(args.families, args.scale, args.seed)
    common.report("robustness", rows, seed=args.seed)
    write_text(common.HERE / "robustness.md", render(read_json(common.HERE / "robustness.json")))


if __name__ == "__main__":
    sys.exit(run(main))
