"""``lapa compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lapa.commands.options import (
    Subparsers,
    add_data_options,
    add_preset_options,
    add_split_or_all,
    checkpoint_argument,
    command,
)
from lapa.commands.sweep import train_and_compare


def add_compare(subparsers: Subparsers) -> None:
    """``lapa compare``."""
    parser = command(
        subparsers,
        "compare",
        run_compare,
        "Evaluate several runs on the same recordings, side by side.",
        example="lapa compare checkpoints/film checkpoints/cross_attention --out comparison",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=checkpoint_argument,
        metavar="RUN",
        help="run folder, checkpoint file, or model that `lapa models` lists",
    )
    parser.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="train all combinations first, as `lapa sweep` does",
    )
    add_preset_options(parser)
    add_data_options(parser, checkpoint=False)
    add_split_or_all(parser)
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder to write (default: %(default)s)")


def run_compare(arguments: argparse.Namespace) -> None:
    """Judges, writes the page, prints the table."""
    from lapa.errors import UsageError

    if not arguments.runs and not arguments.sweep:
        raise UsageError("nothing to compare; name run folders, or train some with `lapa sweep`")
    if (arguments.preset or arguments.config) and not arguments.sweep:
        raise UsageError("--preset and --config are for --sweep; existing runs have their own configuration")
    train_and_compare(arguments, arguments.runs, arguments.sweep)
