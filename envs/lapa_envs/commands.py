"""The subcommands of ``lapa`` that need environments: record, label, export, demo."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lapa.commands.options import DEFAULT_CHECKPOINT, DEFAULT_DATASET, Subparsers, command

if TYPE_CHECKING:
    import gymnasium as gym


def record(subparsers: Subparsers) -> None:
    """``lapa record``."""
    parser = command(subparsers, "record", run_record, "Play episodes and record them as PNG frames.")
    parser.add_argument("--out", type=Path, default=Path("bulk_videos"), help="folder to write (default: %(default)s)")
    parser.add_argument("--env", default="ALE/Breakout-v5", help="environment id (default: %(default)s)")
    add_policy(parser)
    parser.add_argument("--episodes", type=int, help="how many (default: 32, or as many as --steps takes)")
    parser.add_argument("--steps", type=int, help="stop after the episode with which there are so many")
    parser.add_argument("--max-steps", type=int, default=600, help="an episode is cut then (default: %(default)s)")
    parser.add_argument("--frameskip", type=int, help="of an Atari game (default: the environment's own, for v5 4)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--skill",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="share of the steps that are played on purpose, spread over the episodes; the others are random "
        "(default: 0.6 1 for the scripted player, 1 1 for agents)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that play (default: %(default)s)")


def add_policy(parser: argparse.ArgumentParser) -> None:
    """The option that names who plays."""
    parser.add_argument(
        "--policy",
        default="scripted",
        metavar="POLICY",
        help="scripted (Breakout), random, module:callable called with observation and info, or sb3:PATH, an agent "
        "saved by Stable-Baselines3 (default: %(default)s)",
    )


def run_record(arguments: argparse.Namespace) -> None:
    """Plays and records."""
    from lapa_envs.playing import record as record_episodes

    check_positive(arguments, "episodes", "steps", "max_steps", "frameskip", "workers")
    check_skill(arguments.skill)
    check_seed(arguments.seed)
    make = functools.partial(open_env, arguments.env, frameskip=arguments.frameskip)
    folders = record_episodes(
        make,
        arguments.out,
        policy=arguments.policy,
        episodes=32 if arguments.episodes is None and arguments.steps is None else arguments.episodes,
        steps=arguments.steps,
        max_steps=arguments.max_steps,
        seed=arguments.seed,
        skill=tuple(arguments.skill) if arguments.skill else None,
        workers=arguments.workers,
    )
    print(f"recorded {len(folders)} episodes into {arguments.out}")


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Checks numbers that must be positive, where they are given.

    Raises:
        DataError: one is not.
    """
    from lapa.errors import DataError

    for name in names:
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise DataError(f"--{name.replace('_', '-')} {value}: must be more than 0")


def check_seed(seed: int) -> None:
    """Checks a seed.

    Raises:
        DataError: it is negative.
    """
    from lapa.errors import DataError

    if seed < 0:
        raise DataError(f"--seed {seed}: must not be negative")


def check_skill(skill: list[float] | None) -> None:
    """Checks the range of skills, where it is given.

    Raises:
        DataError: it is none.
    """
    from lapa.errors import DataError

    if skill and not 0 <= skill[0] <= skill[1] <= 1:
        raise DataError(f"--skill {skill[0]} {skill[1]}: must be two shares in [0, 1], the lower first")


def open_env(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """The environment, or a one-line error.

    Raises:
        DataError: the id is unknown, or the environment refuses an option.
    """
    from gymnasium.error import Error

    from lapa.errors import DataError

    options = {name: value for name, value in options.items() if value is not None}
    from lapa_envs.atari import make_env

    try:
        return make_env(env_id, **options)
    except (Error, TypeError, ImportError) as error:
        raise DataError(f"--env {env_id}: cannot be made: {error}") from None


def label(subparsers: Subparsers) -> None:
    """``lapa label``."""
    parser = command(
        subparsers, "label", run_label, "Play live; show each step, what the model draws, its codes and their meaning."
    )
    parser.add_argument("--checkpoint", type=Path, help="(default: the model that comes with lapa)")
    parser.add_argument("--reader", type=Path, help="what evaluate wrote to read codes (default: the checkpoint's)")
    parser.add_argument("--env", default="ALE/Breakout-v5", help="environment id (default: %(default)s)")
    add_policy(parser)
    parser.add_argument("--steps", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--frameskip", type=int, help="of an Atari game (default: the environment's own, for v5 4)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--movie", type=Path, help="moving WebP file to write (default: live.webp, unless --web)")
    parser.add_argument("--out", type=Path, help="write one JSON line per step here")
    parser.add_argument("--web", action="store_true", help="show it on a local page, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8765, help="of the page; 0 takes any (default: %(default)s)")
    parser.add_argument("--fps", type=float, default=15.0, help="steps a second with --web (default: %(default)s)")


def run_label(arguments: argparse.Namespace) -> None:
    """Plays, labels and shows."""
    from lapa_envs.live.watch import watch

    check_positive(arguments, "steps", "frameskip", "fps")
    check_seed(arguments.seed)
    env = open_env(arguments.env, frameskip=arguments.frameskip)
    watch(
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


def export(subparsers: Subparsers) -> None:
    """``lapa export``."""
    parser = command(subparsers, "export", run_export, "Write the latent-action dataset in a format that others read.")
    parser.add_argument(
        "--dataset", type=Path, default=Path(DEFAULT_DATASET), help="what extract wrote (default: %(default)s)"
    )
    parser.add_argument(
        "--to",
        choices=("minari", "npz"),
        required=True,
        help="minari: HDF5, lossless, the latent action as the action; npz: a file for each episode",
    )
    parser.add_argument("--out", type=Path, default=Path("datasets"), help="folder to write (default: %(default)s)")
    parser.add_argument("--id", default="latent-actions-v0", help="name of the Minari dataset (default: %(default)s)")


def run_export(arguments: argparse.Namespace) -> None:
    """Exports."""
    from lapa.inference.extraction import LatentActionDataset
    from lapa_envs.export import to_minari, to_npz

    dataset = LatentActionDataset(arguments.dataset)
    if arguments.to == "minari":
        to_minari(dataset, arguments.out, arguments.id)
    else:
        to_npz(dataset, arguments.out)


def demo(subparsers: Subparsers) -> None:
    """``lapa demo``."""
    parser = command(subparsers, "demo", run_demo, "The whole way once: record, pack, train, extract, evaluate, label.")
    parser.add_argument("--data", type=Path, default=Path("bulk_videos"), help="(default: %(default)s)")
    parser.add_argument("--preset", default="laptop", help="(default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=32, help="to record (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=600, help="of an episode (default: %(default)s)")
    parser.add_argument(
        "--run", dest="run_folder", type=Path, default=Path(DEFAULT_CHECKPOINT).parent, help="(default: %(default)s)"
    )
    parser.add_argument("--report", type=Path, default=Path("report"), help="(default: %(default)s)")


def run_demo(arguments: argparse.Namespace) -> None:
    """Runs the demonstration."""
    from lapa_envs.demo import run

    run(
        arguments.data,
        arguments.preset,
        arguments.episodes,
        arguments.max_steps,
        arguments.run_folder,
        arguments.report,
    )
