"""``lapa compare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lapa.commands.options import Subparsers, add_data_options, command


def add_compare(subparsers: Subparsers) -> None:
    """``lapa compare``."""
    parser = command(subparsers, "compare", run_compare, "Judge several runs on the same pairs, side by side.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    parser.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="first train all combinations into OUT/runs; called again, it goes on",
    )
    parser.add_argument("--preset", help="what the sweep's runs differ from (default: breakout)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="likewise, a YAML file")
    add_data_options(parser, checkpoint=False)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder to write (default: %(default)s)")


def run_compare(arguments: argparse.Namespace) -> None:
    """Judges, writes the page, prints the table."""
    from lapa.data.store import open_store
    from lapa.engine.sweep import cells, train_cells
    from lapa.errors import ConfigError
    from lapa.evaluation.compare import compare, comparison_header, comparison_rows

    if not arguments.runs and not arguments.sweep:
        raise ConfigError("nothing to compare: name run folders, or --sweep KEY=VALUE,VALUE")
    if (arguments.preset or arguments.config) and not arguments.sweep:
        raise ConfigError("--preset and --config say what a --sweep trains; runs that are there have their own")
    grid = cells(arguments.sweep) if arguments.sweep else []
    store = open_store(arguments.data, arguments.store, strict=arguments.strict)
    runs: list[Path] = list(arguments.runs)
    failed: dict[str, str] = {}
    if grid:
        trained, failed = train_cells(
            grid,
            store,
            arguments.out / "runs",
            preset=arguments.preset,
            file=arguments.config,
            overrides=[f"data.root={arguments.data}", f"training.device={arguments.device}"],
        )
        runs += trained
    groups = compare(runs, store, arguments.out, arguments.split, device=arguments.device, failed=failed)
    labels, rows = comparison_header(), comparison_rows(groups)
    width = max(map(len, labels))
    for row in rows:
        print("\n".join(f"{label:<{width}}  {cell}" for label, cell in zip(labels, row, strict=True)), end="\n\n")
    for name, reason in failed.items():
        print(f"missing: {name}: {reason}")
    print(f"comparison: {arguments.out / 'comparison.html'}")
