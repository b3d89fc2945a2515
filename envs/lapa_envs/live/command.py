"""``lapa watch``, and ``lapa label``, its old name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lapa.commands.options import Subparsers, checkpoint_argument, command
from lapa_envs.commands import add_game_options, check_positive, check_seed, open_env


def watch(subparsers: Subparsers) -> None:
    """``lapa watch``."""
    add_options(
        command(
            subparsers,
            "watch",
            run_watch,
            "Play a game live; show each frame, the model's prediction of it, its codes and what they mean.",
            example="lapa watch --steps 200 --out labels.jsonl",
        )
    )


def label(subparsers: Subparsers) -> None:
    """``lapa label``."""
    add_options(
        command(subparsers, "label", run_label, "The old name of `lapa watch`.", example="lapa label --web --port 8765")
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the live view."""
    parser.add_argument(
        "--checkpoint",
        type=checkpoint_argument,
        metavar="FILE|NAME",
        help="model to use: a file, or one that `lapa models` lists (default: breakout)",
    )
    parser.add_argument(
        "--reader",
        type=Path,
        help="file with the meaning of the codes, which `lapa evaluate` wrote (default: the checkpoint's)",
    )
    add_game_options(parser)
    parser.add_argument("--steps", type=int, default=200, help="number of steps to play (default: %(default)s)")
    parser.add_argument("--movie", type=Path, help="animated WebP file to write (default: live.webp; none with --web)")
    parser.add_argument("--out", type=Path, help="file to write, one JSON line per step")
    parser.add_argument("--web", action="store_true", help="show the game on a local page, until Ctrl-C")
    parser.add_argument(
        "--port", type=int, default=8765, help="port of the page; 0 takes any free one (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, default=15.0, help="steps per second with --web (default: %(default)s)")


def run_label(arguments: argparse.Namespace) -> None:
    """Does the same, and says what its name is now."""
    print("lapa: `lapa label` is called `lapa watch` now; the old name keeps working", file=sys.stderr)
    run_watch(arguments)


def run_watch(arguments: argparse.Namespace) -> None:
    """Plays, labels and shows."""
    from lapa_envs.live.watch import watch as play_and_show

    check_positive(arguments, "steps", "frameskip", "fps")
    check_seed(arguments.seed)
    env = open_env(arguments.env, frameskip=arguments.frameskip)
    play_and_show(
        env,
        arguments.checkpoint,
        reader=arguments.reader,
        policy=arguments.policy,
        steps=arguments.steps,
        seed=arguments.seed,
        movie=arguments.movie or (None if arguments.web else Path("live.webp")),
        out=arguments.out,
        port=arguments.port if arguments.web else None,
        fps=arguments.fps,
    )
