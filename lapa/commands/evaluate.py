"""``lapa evaluate``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lapa.commands.options import Subparsers, add_data_options, add_split_or_all, command, reading_of


def add_evaluate(subparsers: Subparsers) -> None:
    """``lapa evaluate``."""
    parser = command(
        subparsers,
        "evaluate",
        run_evaluate,
        "Evaluate a model on held-out episodes; write the report.",
        example="lapa evaluate --checkpoint checkpoints/latent_action/best.pt --out report",
    )
    add_data_options(parser)
    add_split_or_all(parser)
    parser.add_argument(
        "--lag",
        type=int,
        default=0,
        metavar="N",
        help="probe the codes for the action taken N steps before (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write (default: %(default)s)")


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Evaluates, writes the report, prints the table."""
    from lapa.data.packing import open_store
    from lapa.engine.checkpoint import load_checkpoint
    from lapa.evaluation.evaluate import evaluate, joined_reasons, summary_rows
    from lapa.evaluation.report import write_report
    from lapa.report.tables import format_table
    from lapa.tracking.jsonl import read_history

    checkpoint = load_checkpoint(arguments.checkpoint, arguments.device)
    store = open_store(arguments.data, arguments.store, reading=reading_of(checkpoint.config), strict=arguments.strict)
    evaluation = evaluate(checkpoint, store, arguments.split, lag=arguments.lag)
    history = read_history(checkpoint.path.parent / "metrics.jsonl")
    path = write_report(arguments.out, checkpoint, evaluation, history)
    print(format_table(summary_rows(evaluation.metrics)))
    for verdict in evaluation.verdicts:
        print(f"{verdict.level}: {verdict.sentence}")
    for sentence in joined_reasons(evaluation.left_out):
        print(f"skipped: {sentence}")
    print(f"report: {path}")
