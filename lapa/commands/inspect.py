"""``lapa inspect``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lapa.commands.options import Subparsers, add_strict, command

if TYPE_CHECKING:
    from lapa.data.contents import Contents
    from lapa.report.tables import Row

PICTURE = "lapa inspect"
"""Title inside of the pictures that this command writes, by which it knows its own."""


def add_inspect(subparsers: Subparsers) -> None:
    """``lapa inspect``."""
    parser = command(
        subparsers,
        "inspect",
        run_inspect,
        "Tell what a recording holds, how much of the game it covers, and what is missing.",
        example="lapa inspect bulk_videos --out coverage.png",
    )
    parser.add_argument(
        "data",
        nargs="*",
        type=Path,
        metavar="DATA",
        help="recorded episodes, a packed store, or a folder of stores; several are read as one (default: bulk_videos)",
    )
    parser.add_argument("--data", dest="more", type=Path, metavar="DATA", help="the same, as in other commands")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="picture of the coverage to write (default: none)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_strict(parser)


def run_inspect(arguments: argparse.Namespace) -> None:
    """Counts, prints, and writes the picture if one is wanted."""
    from lapa.config import DataConfig
    from lapa.data.contents import contents
    from lapa.data.files import atomic_file
    from lapa.data.packing import open_store
    from lapa.data.splits import SPLITS, deal
    from lapa.errors import DataError
    from lapa.games.coverage import coverage, coverage_picture, coverage_rows, missing
    from lapa.games.game import find_game, unknown_game
    from lapa.report.tables import aligned, format_table

    check_picture(arguments.out)
    roots = [*arguments.data, *([arguments.more] if arguments.more else [])] or [Path("bulk_videos")]
    store = open_store(roots, strict=arguments.strict, notify=lambda line: print(line, file=sys.stderr))
    held = contents(store)
    game = find_game(store.episodes, store.frame_size)
    if arguments.out and game is None:
        raise DataError(f"--out {arguments.out}: there is no coverage to show, for {unknown_game()}; leave --out away")
    defaults = DataConfig()
    can_be_dealt = len(store.episodes) >= len(SPLITS)
    split = deal(store.episodes, defaults.split, defaults.split_seed) if can_be_dealt else {}
    found = coverage(game, store, split) if game else []
    lacking = [*missing_tracks(held), *missing(found, held.starts)]
    if not can_be_dealt:
        lacking.append(
            f"episodes: train, val and test need one each, and there is {held.episodes}; record more, or put "
            "pictures into at least three folders"
        )
    if arguments.out:
        with atomic_file(arguments.out) as file:
            file.write(coverage_picture(found, PICTURE))
    shares = " / ".join(map(str, defaults.split))
    dealt_by = f"data.split {shares}, data.split_seed {defaults.split_seed}"
    if arguments.json:
        described = {
            "data": [str(root) for root in roots],
            "contents": held.as_dict(),
            "game": game.title if game else None,
            "split": {"by": dealt_by, **split},
            "coverage": [covered.as_dict() for covered in found],
            "missing": lacking,
        }
        print(json.dumps(described, indent=2, allow_nan=False))
        return
    print(format_table(content_rows(held)))
    print()
    if game is None:
        print(f"coverage: unknown, for {unknown_game()}")
    elif found:
        source = "RAM" if held.tracks.get("ram") == held.episodes else "the pictures where there is no RAM"
        print(f"coverage of {game.title}, by {source}" + (f"; splits as dealt by {dealt_by}" if split else ""))
        print(aligned(coverage_rows(found)))
    print("\n".join(f"missing: {sentence}" for sentence in lacking) or "missing: nothing")
    if arguments.out:
        print(f"picture: {arguments.out}")


def check_picture(path: Path | None) -> None:
    """Checks where the picture is to go.

    Raises:
        UsageError: it is no PNG file, or a file is there that this command did not write.
    """
    from lapa.errors import UsageError

    if path is None:
        return
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: must end with .png")
    if path.exists() and not is_own_picture(path):
        raise UsageError(f"--out {path}: is there already and was not written by `lapa inspect`; name another file")


def is_own_picture(path: Path) -> bool:
    """Whether an earlier call wrote it."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return bool(image.info.get("Title") == PICTURE)
    except OSError:
        return False


def missing_tracks(held: Contents) -> list[str]:
    """What cannot be judged because no episode, or not each, has the track for it."""
    needed = {"actions": "the codes cannot be compared with true actions", "ram": "no element on the screen is judged"}
    return [
        f"{name} in {held.episodes - held.tracks.get(name, 0)} of {held.episodes} episodes: {without}; record with "
        "`lapa record` or RecordEpisodes"
        for name, without in needed.items()
        if held.tracks.get(name, 0) < held.episodes
    ]


def content_rows(held: Contents) -> list[Row]:
    """What the recording holds, as lines of a table."""
    from lapa.report.tables import count_bytes, percent

    height, width = held.frame_size
    recorded = "" if held.recorded_bytes is None else f"recorded {count_bytes(held.recorded_bytes)}"
    shares = ", ".join(f"{name} {percent(share)}" for name, share in held.shares_of_actions().items())
    rows = [
        ("episodes", f"{held.episodes:,}", f"{len(held.skipped)} left out" if held.skipped else ""),
        ("frames", f"{held.frames:,}", f"{height} x {width} pixels"),
        ("pairs", f"{held.pairs:,}", f"{held.gaps} gap(s)"),
        ("bytes", count_bytes(held.packed_bytes), f"packed{', ' if recorded else ''}{recorded}"),
        ("tracks", "", in_words(held.tracks, held.episodes) or "none"),
        ("environment", "", in_words(held.environments, held.episodes)),
        ("player", "", in_words(held.players, held.episodes)),
        ("skill", "", "unknown" if held.skill is None else f"{held.skill[0]:.2f} to {held.skill[1]:.2f}"),
        ("natural play", "", in_words(held.natural, held.episodes)),
        ("starts", "", in_words(held.starts, held.episodes)),
        ("actions", "", shares or "unknown"),
    ]
    return [(name, value, against) for name, value, against in rows]


def in_words(counts: Mapping[str, int], total: int) -> str:
    """Names with their numbers of episodes; without, where all have it."""
    return ", ".join(name if count == total else f"{name} ({count:,})" for name, count in counts.items())
