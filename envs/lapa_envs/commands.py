"""The subcommands of ``lapa`` that need environments: record, label, demo."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lapa.cli import DEFAULT_CHECKPOINT, Subparsers, command

if TYPE_CHECKING:
    import gymnasium as gym


def record(subparsers: Subparsers) -> None:
    """``lapa record``."""
    parser = command(subparsers, "record", run_record, "Play episodes and record them as PNG frames.")
    parser.add_argument("--out", type=Path, default=Path("bulk_videos"), help="folder to write (default: %(default)s)")
    parser.add_argument("--env", default="ALE/Breakout-v5", help="environment id (default: %(default)s)")
    parser.add_argument("--policy", choices=("scripted", "random"), default="scripted", help="(default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--max-steps", type=int, default=600, help="an episode is cut then (default: %(default)s)")
    parser.add_argument("--frameskip", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--skill",
        type=float,
        nargs=2,
        default=(0.6, 1.0),
        metavar=("LOW", "HIGH"),
        help="of the scripted player, 0 to 1",
    )


def run_record(arguments: argparse.Namespace) -> None:
    """Plays and records."""
    from lapa_envs.recording import record as record_episodes

    env = open_env(arguments.env, frameskip=arguments.frameskip)
    folders = record_episodes(
        env,
        arguments.out,
        policy=arguments.policy,
        episodes=arguments.episodes,
        max_steps=arguments.max_steps,
        seed=arguments.seed,
        skill=tuple(arguments.skill),
    )
    print(f"recorded {len(folders)} episodes into {arguments.out}")


def open_env(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """The environment, or a one-line error.

    Raises:
        DataError: the id is unknown, or the environment refuses an option.
    """
    from gymnasium.error import Error

    from lapa.errors import DataError
    from lapa_envs.atari import make_env

    try:
        return make_env(env_id, **options)
    except (Error, TypeError) as error:
        raise DataError(f"--env {env_id}: cannot be made: {error}") from None


def label(subparsers: Subparsers) -> None:
    """``lapa label``."""
    parser = command(subparsers, "label", run_label, "Play live and print the latent action of each step.")
    parser.add_argument("--checkpoint", type=Path, help="(default: the model that comes with lapa)")
    parser.add_argument("--env", default="ALE/Breakout-v5", help="environment id (default: %(default)s)")
    parser.add_argument("--policy", choices=("scripted", "random"), default="scripted", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--frameskip", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write one JSON line per step here instead of printing it")


def run_label(arguments: argparse.Namespace) -> None:
    """Plays and labels."""
    from lapa.data.files import write_text
    from lapa_envs.live import label_live

    env = open_env(arguments.env, frameskip=arguments.frameskip)
    steps, rate = label_live(env, arguments.checkpoint, arguments.policy, arguments.steps, arguments.seed)
    lines = "\n".join(json.dumps(step) for step in steps)
    if arguments.out:
        write_text(arguments.out, lines + "\n")
    else:
        print(lines)
    print(
        f"labelled {len(steps)} steps live at {rate:.0f} steps/s" + (f" into {arguments.out}" if arguments.out else "")
    )


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
