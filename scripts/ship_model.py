"""Puts a trained and evaluated model into the package, to be loaded by its name.

    lapa record --episodes 32 --max-steps 600 --seed 0
    lapa train --preset laptop
    lapa evaluate
    python scripts/ship_model.py breakout --preset laptop --title "Breakout, grey, half size" \\
        --before "lapa record --episodes 32 --max-steps 600 --seed 0"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lapa.cli import one_line
from lapa.errors import LapaError
from lapa.evaluation.shipping import ship

MODELS = Path(__file__).parents[1] / "checkpoints" / "pretrained"


def main() -> int:
    """Ships; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the model is loaded by")
    parser.add_argument(
        "--run",
        type=Path,
        default=Path("checkpoints/latent_action"),
        help="run folder, or checkpoint (default: %(default)s)",
    )
    parser.add_argument(
        "--report", type=Path, default=Path("report"), help="what `lapa evaluate` wrote (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="folder of models (default: checkpoints/pretrained)")
    parser.add_argument("--title", required=True, help="what it was trained on, in one line")
    parser.add_argument("--preset", required=True, help="what it was trained with")
    parser.add_argument(
        "--before", action="append", default=[], metavar="COMMAND", help="what made the recording; may be repeated"
    )
    parser.add_argument("--machine", help="where it was trained (default: what the run's run.json says)")
    options = vars(parser.parse_args())
    try:
        print(f"shipped: {ship(**options)}")
    except (LapaError, OSError) as error:
        print(f"ship_model: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
