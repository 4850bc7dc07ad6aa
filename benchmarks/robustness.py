"""Try more than 10,000 hostile and damaged inputs, of every kind in tests/fuzz, and write robustness.json and robustness.md.

    python benchmarks/robustness.py                    about six minutes
    python benchmarks/robustness.py --families images cards --scale 0.1
    python benchmarks/robustness.py --hub              only the faults of the Hub, about half an hour; the rest stays

Checked for every input: exit status 0, 1 or 2, one line on standard error, no traceback, at most 5 s and 1.5 GB, no file
outside of the folder, no process started, and scores that are probabilities.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common

sys.path.insert(0, str(common.ROOT / "tests"))

from eanet.cli import positive_int, read_json, run, write_json, write_text

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
    return rows


def total(rows: list[dict]) -> dict:
    """Return the row about all families."""
    sums = {key: sum(row[key] for row in rows) for key in ("tried", "refused", "answered", "violations")}
    worst = {key: max(row[key] for row in rows) for key in ("seconds", "memory_gb")}
    return {"family": "all", **sums, **worst}


def measure_hub() -> Iterator[dict]:
    """Push and pull with three clients, over LFS and over Xet, while each route of the Hub fails in each way.

    Yields:
        What was found so far, after each client.
    """
    from hub_fixtures import make_run
    from hub_sweep import CLIENTS, open_session, sweep, table

    with tempfile.TemporaryDirectory(prefix="eanet-robustness-") as home, ThreadPoolExecutor(2) as pool:
        make_run(Path(home))

        def meet(version, xet):
            name = f"{version}, {'Xet' if xet else 'LFS'}"
            work = Path(home, name)
            work.mkdir()
            cells = []
            with open_session(version, xet, work / "home") as session:
                for cell in sweep(session, Path(home, "run"), work):
                    if cell.problem:
                        print(name, cell, file=sys.stderr, flush=True)
                    cells.append(cell)
            print(f"{name}: {len(cells)}", file=sys.stderr, flush=True)
            return name, cells

        clients, cells = [], []
        for done in as_completed(
            [pool.submit(meet, version, xet) for version in reversed(CLIENTS) for xet in (True, False)]
        ):
            name, found = done.result()
            clients, cells = [*clients, name], [*cells, *found]
            violations = sum(bool(cell.problem) for cell in cells)
            yield {"clients": sorted(clients), "tried": len(cells), "violations": violations, "rows": table(cells)}


def render(found: dict) -> str:
    """Return robustness.md."""
    from readme import measured, table

    return f"""# Robustness

Inputs are valid files, damaged at random or forged, from seeds. An input is answered, or refused in one line; anything else
would be a traceback, another exit status, more than 5 s of processor time or 1.5 GB, a file written outside of the folder, a
process started, or scores that are not probabilities.

{table(COLUMNS, found["rows"])}

Seeds from {found["seed"]} on. {measured(found)}
{render_hub(found["hub"]) if found.get("hub") else ""}"""


def render_hub(hub: dict) -> str:
    """Return the part of robustness.md about the Hub."""
    from hub_sweep import FAULTS, key
    from readme import table

    columns = {"command": "command", "route": "route that fails", "tried": "tried", "at_once": "succeeded at once"}
    columns |= {key(fault): f"{fault}, as it must be" for fault in FAULTS}
    clients = "; ".join(hub["clients"])
    return f"""
## Faults of the Hub

{hub["tried"]:,} commands against a Hub on this machine that keeps to the contract of huggingface.co, with huggingface_hub
{clients}: a request fails, or all requests of its route do (429, 502 and slow: one). The command succeeds, or ends
in one line with nothing published or written, and the same command succeeds as soon as the Hub does. "As it must be" counts
these; {hub["violations"]} were not. An update is a push over an earlier one.

{table(columns, hub["rows"])}
"""


def main(argv=None) -> None:
    """Parse the arguments, measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--families",
        nargs="+",
        metavar="NAME",
        help="some of those in tests/fuzz; the results of the others stay (default: all)",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="times as many inputs (default: 1)")
    parser.add_argument("--seed", type=positive_int, default=1, metavar="N", help="the first seed (default: 1)")
    parser.add_argument("--hub", action="store_true", help="measure only the faults of the Hub, and keep the other results")
    args = parser.parse_args(argv)
    path = common.HERE / "robustness.json"
    before = read_json(path) if path.is_file() else {}
    if args.hub:
        for hub in measure_hub():
            write_json(path, {**(read_json(path) if path.is_file() else {}), "hub": hub})
            write_text(path.with_suffix(".md"), render(read_json(path)))
    else:
        rows = measure(args.families, args.scale, args.seed)
        if args.families:  # the other rows stay
            found = {row["family"]: row for row in rows}
            kept = [row for row in before.get("rows", []) if row["family"] != "all"]
            rows = [found.pop(row["family"], row) for row in kept] + list(found.values())
        rows = [*rows, total(rows)]
        common.report("robustness", rows, seed=args.seed, hub=before.get("hub"))
        write_text(path.with_suffix(".md"), render(read_json(path)))


if __name__ == "__main__":
    sys.exit(run(main))
