"""``lapa import``."""

from __future__ import annotations

import argparse
from pathlib import Path

from lapa.commands.options import Subparsers, add_strict, command


def add_import(subparsers: Subparsers) -> None:
    """``lapa import``."""
    parser = command(
        subparsers,
        "import",
        run_import,
        "Read episodes that another project recorded into a packed store, which all commands take as --data.",
        example="lapa import --from npz ../replay --out replay.lapa",
    )
    parser.add_argument(
        "--from",
        dest="kind",
        choices=("npz",),
        required=True,
        help="npz: files transitions_*.npz with obs, actions, rewards and episode_starts; other arrays of one number "
        "for each row are kept as the track `fields`",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of these files")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("imported.lapa"),
        metavar="FILE.lapa",
        help="store to write (default: %(default)s)",
    )
    add_strict(parser)


def run_import(arguments: argparse.Namespace) -> None:
    """Packs."""
    from lapa.data.packing import open_store
    from lapa.data.transitions import PATTERN, holds_transitions
    from lapa.errors import DataError, UsageError

    if arguments.out.suffix != ".lapa":
        raise UsageError(f"--out {arguments.out}: must end with .lapa")
    if not holds_transitions(arguments.folder):
        raise DataError(f"{arguments.folder}: holds no {PATTERN}; name the folder that has them")
    if arguments.out.exists():
        raise UsageError(f"--out {arguments.out}: is there already; delete it or name another file")
    store = open_store(arguments.folder, arguments.out, strict=arguments.strict)
    print(f"imported {len(store.episodes)} episodes, {len(store)} frames: {arguments.out}")
