"""``lapa sweep``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lapa.commands.options import Subparsers, add_data_options, add_preset_options, add_split, command, with_aliases


def add_sweep(subparsers: Subparsers) -> None:
    """``lapa sweep``."""
    parser = command(
        subparsers,
        "sweep",
        run_sweep,
        "Train all combinations of some settings and compare them. A sweep that was stopped resumes.",
        example="lapa sweep model.quantizer.name=ema,fsq training.seed=0,1 --preset laptop",
    )
    add_preset_options(parser)
    add_data_options(parser, checkpoint=False)
    add_split(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("comparison"),
        help="folder to write; the runs are in OUT/runs (default: %(default)s)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE,VALUE",
        help="a setting and the values to try; one with a single value applies to all runs",
    )


def run_sweep(arguments: argparse.Namespace) -> None:
    """Trains, judges, writes the page, prints the table."""
    from lapa.errors import UsageError

    if not arguments.overrides:
        raise UsageError("nothing to sweep; give settings as KEY=VALUE,VALUE, such as model.quantizer.name=ema,fsq")
    train_and_compare(arguments, [], arguments.overrides)


def train_and_compare(arguments: argparse.Namespace, runs: Sequence[str | Path], axes: Sequence[str]) -> None:
    """Trains the grid of a sweep, compares its runs and others, writes the page, prints the table.

    Args:
        arguments: of the commands ``sweep`` and ``compare``.
        runs: run folders, checkpoint files or names of models that exist already.
        axes: ``dotted.key=value,value``; none to train nothing.

    Raises:
        LapaError: an axis is malformed, nothing can be trained, or a run cannot be judged.
    """
    from lapa.data.packing import open_store
    from lapa.engine.sweep import cells, train_cells
    from lapa.evaluation.compare import compare, comparison_header, comparison_rows

    grid = cells(axes)  # a malformed axis is reported before the recordings are read
    store = open_store(arguments.data, arguments.store, strict=arguments.strict)
    trained: list[Path] = []
    failed: dict[str, str] = {}
    if axes:
        trained, failed = train_cells(
            grid,
            store,
            arguments.out / "runs",
            preset=arguments.preset,
            file=arguments.config,
            overrides=with_aliases([], {"data": str(arguments.data), "device": arguments.device}),
        )
    groups = compare([*runs, *trained], store, arguments.out, arguments.split, device=arguments.device, failed=failed)
    labels, rows = comparison_header(), comparison_rows(groups)
    width = max(map(len, labels))
    for row in rows:
        print("\n".join(f"{label:<{width}}  {cell}" for label, cell in zip(labels, row, strict=True)), end="\n\n")
    for name, reason in failed.items():
        print(f"missing: {name}: {reason}")
    print(f"comparison: {arguments.out / 'comparison.html'}")
