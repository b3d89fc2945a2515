"""What the subcommands share: their parser and the options that name data, checkpoint and device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lapa.config import Config

Subparsers = Any  # argparse's own type for it is private
DEFAULT_CHECKPOINT = "checkpoints/latent_action/best.pt"
DEFAULT_DATASET = "latent_actions.lapa"


def command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """A subcommand's parser, with the options that all of them have."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="local module that registers plugins"
    )
    parser.set_defaults(run=run)
    return parser


def open_configured_store(config: Config, strict: bool = False) -> Any:
    """The packed store that a configuration names."""
    from lapa.data.store import open_store

    store = Path(config.data.store) if config.data.store else None
    return open_store(config.data.root, store, strict=strict)


def add_data_options(parser: argparse.ArgumentParser, *, checkpoint: bool = True) -> None:
    """Options of the commands that read recordings, and perhaps a checkpoint."""
    if checkpoint:
        parser.add_argument("--checkpoint", type=Path, default=Path(DEFAULT_CHECKPOINT), help="(default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("bulk_videos"), help="recorded episodes (default: %(default)s)"
    )
    parser.add_argument("--store", type=Path, help="packed store (default: inside the data folder)")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad episode instead of leaving it out")
