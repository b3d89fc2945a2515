"""``lapa extract``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lapa.commands.options import DEFAULT_DATASET, DEFAULT_TOKENS, Subparsers, add_data_options, command, reading_of

DEFAULT_OUT = {"codes": Path(DEFAULT_DATASET), "tokens": Path(DEFAULT_TOKENS)}
"""The file to write if none is named, by what the model gives."""


def add_extract(subparsers: Subparsers) -> None:
    """``lapa extract``."""
    parser = command(
        subparsers,
        "extract",
        run_extract,
        "Label every recorded pair of frames with its codes, or every frame with its tokens; write the dataset.",
        example="lapa extract --checkpoint checkpoints/latent_action/best.pt --out latent_actions.lapa",
    )
    add_data_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT["codes"],
        help=f"file to write (default: %(default)s, or {DEFAULT_TOKENS} if the model is a tokenizer)",
    )


def run_extract(arguments: argparse.Namespace) -> None:
    """Labels all of the recordings."""
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
        out = arguments.out
        if out is DEFAULT_OUT["codes"]:  # not named: a path on the command line is another object
            out = DEFAULT_OUT.get(getattr(checkpoint.model, "track", "codes"), out)
        extract(checkpoint, store, out)
