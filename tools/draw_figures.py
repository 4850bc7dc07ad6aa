"""Draw the figures of the model card from the shipped model, its logs and the benchmarks' results.

    python3 tools/draw_figures.py                     # all of them
    python3 tools/draw_figures.py attention slots     # some

Writes figures/NAME.png and figures/figures.json, which has every figure's caption and says whether it shows the weights
(and which, by their checksum) or only the code. Needs matplotlib; `demo`, a screenshot of the page in the browser, needs
Chromium, playwright, Node.js and `npm ci --prefix demo`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [
    os.path.dirname(HERE),
    HERE,
]  # in the Hub's cache this file is a link into blobs/; its own folder has the code

from eanet.cli import UserError, read_json, require, run  # noqa: E402

ROOT = Path(HERE).parent
FOLDER = ROOT / "figures"
FIGURES = {  # name: (module with a function of that name, what it shows)
    "samples": ("figures_images", "weights"),
    "slots": ("figures_images", "weights"),
    "architecture": ("figures_architecture", "code"),
    "curves": ("figures_charts", "weights"),
    "confusion": ("figures_charts", "weights"),
    "calibration": ("figures_charts", "weights"),
    "attention": ("figures_images", "weights"),
    "scaling": ("figures_charts", "code"),
    "distillation": ("figures_charts", "code"),
    "demo": ("figures_demo", "weights"),
}


def main(argv=None) -> None:
    """Parse the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)} (default: all)")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in FIGURES:
            parser.error(f"{name}: must be one of {', '.join(FIGURES)}")
    require("matplotlib", "`pip install matplotlib`")
    for path in draw(args.names or list(FIGURES)):
        print(f"wrote {path}")


def draw(names) -> list[Path]:
    """Draw figures and record them in figures.json.

    Args:
        names: keys of `FIGURES`.

    Returns:
        The paths of the images, written once all of them are drawn.

    Raises:
        UserError: an input is missing or is about other weights, or a figure that is not in `names` shows other weights.
    """
    from figures_common import Shipped

    from eanet.figures import save

    shipped = Shipped(ROOT)
    index = FOLDER / "figures.json"
    record = read_json(index) if index.exists() else {"checksum": None, "figures": {}}
    entries = {name: entry for name, entry in record["figures"].items() if (FOLDER / name).exists()}
    checksum = record["checksum"]
    if any(FIGURES[name][1] == "weights" for name in names):
        from eanet.saving import checksum_matches, model_checksum

        if not checksum_matches(shipped.model, checksum):
            _check_all_drawn(entries, names, checksum)
        checksum = model_checksum(shipped.model)
    drawings = {name: getattr(require(FIGURES[name][0], "it is in tools/"), name)(shipped) for name in names}
    save(FOLDER, drawings, {name: shows for name, (_, shows) in FIGURES.items()}, checksum, entries)
    return [FOLDER / f"{name}.png" for name in names]


def _check_all_drawn(entries, names, checksum):
    """Raise UserError if a figure that is not drawn now would be left with other weights."""
    left = [name for name, entry in entries.items() if entry["depends_on"] == "weights" and name[:-4] not in names]
    if left:
        raise UserError(f"{', '.join(left)}: drawn from other weights (checksum {checksum}); draw all figures")


if __name__ == "__main__":
    sys.exit(run(main))
