"""``lapa sweep``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lapa.commands.options import (
    Subparsers,
    add_data_options,
    add_preset_options,
    add_split,
    command,
    reading_of,
    with_aliases,
)

if TYPE_CHECKING:
    from lapa.data.frames import Fitting
    from lapa.engine.sweep import Cell


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
    from lapa.data.packing import is_media_source, open_store
    from lapa.engine.sweep import cells, train_cells
    from lapa.evaluation.compare import compare, comparison_header, comparison_rows

    grid = cells(axes)  # a malformed axis is reported before the recordings are read
    reading = common_reading(arguments, runs, grid if axes else []) if is_media_source(arguments.data) else None
    store = open_store(arguments.data, arguments.store, reading=reading, strict=arguments.strict)
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
    labels, rows = comparison_header(groups), comparison_rows(groups)
    width = max(map(len, labels))
    for row in rows:
        print("\n".join(f"{label:<{width}}  {cell}" for label, cell in zip(labels, row, strict=True)), end="\n\n")
    for name, reason in failed.items():
        print(f"missing: {name}: {reason}")
    print(f"comparison: {arguments.out / 'comparison.html'}")


def common_reading(arguments: argparse.Namespace, runs: Sequence[str | Path], grid: Sequence[Cell]) -> Fitting:
    """The size that all runs bring pictures and videos to; see :func:`train_and_compare`.

    Raises:
        CheckpointError: the checkpoint of a run cannot be read.
        UsageError: they differ in it.
    """
    from lapa.config import config_from_dict, load_config
    from lapa.data.frames import Fitting
    from lapa.engine.checkpoint import read_state
    from lapa.errors import ConfigError, UsageError
    from lapa.shipped import checkpoint_path

    found = set()
    for place in map(checkpoint_path, runs):
        state = read_state(place / "best.pt" if place.is_dir() else place)
        found.add(reading_of(config_from_dict(state["config"])))
    for cell in grid:
        try:
            found.add(reading_of(load_config(arguments.preset, arguments.config, cell.overrides)))
        except ConfigError:  # reported when the cell is to be trained
            continue
    if len(found) > 1:
        raise UsageError(
            f"{arguments.data}: the runs differ in data.resize or data.fit, so they see other pictures; "
            "compare runs that have both in common"
        )
    return found.pop() if found else Fitting()
