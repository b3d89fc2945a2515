"""``lapa extract``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lapa.commands.options import DEFAULT_DATASET, Subparsers, add_data_options, command, reading_of


def add_extract(subparsers: Subparsers) -> None:
    """``lapa extract``."""
    parser = command(
        subparsers,
        "extract",
        run_extract,
        "Label every recorded pair of frames with its codes; write the latent-action dataset.",
        example="lapa extract --checkpoint checkpoints/latent_action/best.pt --out latent_actions.lapa",
    )
    add_data_options(parser)
    parser.add_argument("--out", type=Path, default=Path(DEFAULT_DATASET), help="file to write (default: %(default)s)")


def run_extract(arguments: argparse.Namespace) -> None:
    """Labels every pair of the recordings."""
    from lapa import distributed
    from lapa.data.packing import open_store
    from lapa.engine.checkpoint import load_checkpoint
    from lapa.inference.extraction import extract

    with distributed.process_group(arguments.device) as device:
        checkpoint = load_checkpoint(arguments.checkpoint, device)
        with distributed.main_first():
            store = open_store(
                arguments.data, arguments.store, reading=reading_of(checkpoint.config), strict=arguments.strict
            )
        extract(checkpoint, store, arguments.out)
