"""The subcommands of ``lapa`` that need environments: record, export, imagine, demo; also for the live view."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lapa.commands.options import (
    DEFAULT_CHECKPOINT,
    DEFAULT_DATASET,
    Subparsers,
    add_checkpoint,
    checkpoint_argument,
    command,
)
from lapa.errors import UsageError

if TYPE_CHECKING:
    import gymnasium as gym


def record(subparsers: Subparsers) -> None:
    """``lapa record``."""
    parser = command(
        subparsers,
        "record",
        run_record,
        "Play episodes and record them as PNG frames.",
        example="lapa record --env ALE/Pong-v5 --episodes 8 --out pong",
    )
    parser.add_argument("--out", type=Path, default=Path("bulk_videos"), help="folder to write (default: %(default)s)")
    add_game_options(parser)
    parser.add_argument("--episodes", type=int, help="number of episodes (default: 60, or as many as --steps needs)")
    parser.add_argument(
        "--steps", type=int, help="stop at the end of the episode that reaches this many steps in total"
    )
    parser.add_argument(
        "--max-steps", type=int, default=400, help="cut an episode after this many steps (default: %(default)s)"
    )
    parser.add_argument(
        "--skill",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="probability of a deliberate (not random) action; varies from LOW to HIGH over the episodes "
        "(default: 0 1 for the scripted player, 1 1 for agents)",
    )
    parser.add_argument(
        "--start",
        nargs="+",
        metavar="NAME",
        help="where episodes begin, in turn: serve (a new game) and, for Breakout, rally, quarter_cleared, "
        "half_cleared, tunnel, last_bricks, wall_cleared, second_wall, last_wall, cleared (default: for the scripted "
        "player a mixture that covers the game, for others serve)",
    )
    parser.add_argument("--give-back-lives", action="store_true", help="give all lives back when one is left")
    parser.add_argument("--workers", type=int, default=1, help="processes that play (default: %(default)s)")


def add_game_options(parser: argparse.ArgumentParser) -> None:
    """The options that say what is played, and who plays."""
    from lapa_envs.scripted import known_to_scripts

    parser.add_argument("--env", default="ALE/Breakout-v5", help="environment id (default: %(default)s)")
    parser.add_argument(
        "--policy",
        default="scripted",
        metavar="POLICY",
        help=f"who plays: scripted ({known_to_scripts()}), random, module:callable (called with observation and "
        "info), or sb3:PATH (an agent saved by Stable-Baselines3) (default: %(default)s)",
    )
    parser.add_argument(
        "--frameskip", type=int, help="frames per step of an Atari game (default: the environment's own; 4 for v5)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the environment and the player (default: %(default)s)"
    )


def run_record(arguments: argparse.Namespace) -> None:
    """Plays and records."""
    from lapa_envs.playing import EPISODES
    from lapa_envs.playing import record as record_episodes

    check_positive(arguments, "episodes", "steps", "max_steps", "frameskip", "workers")
    check_skill(arguments.skill)
    check_seed(arguments.seed)
    make = functools.partial(open_env, arguments.env, frameskip=arguments.frameskip)
    folders = record_episodes(
        make,
        arguments.out,
        policy=arguments.policy,
        episodes=EPISODES if arguments.episodes is None and arguments.steps is None else arguments.episodes,
        steps=arguments.steps,
        max_steps=arguments.max_steps,
        seed=arguments.seed,
        skill=tuple(arguments.skill) if arguments.skill else None,
        starts=arguments.start,
        give_back_lives=arguments.give_back_lives,
        workers=arguments.workers,
    )
    print(f"recorded {len(folders)} episodes into {arguments.out}")


def check_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Checks numbers that must be positive, if they are given.

    Raises:
        UsageError: one is not positive.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be more than 0")


def check_seed(seed: int) -> None:
    """Checks a seed.

    Raises:
        UsageError: it is negative.
    """
    if seed < 0:
        raise UsageError(f"--seed {seed}: must not be negative")


def check_skill(skill: list[float] | None) -> None:
    """Checks the range of skills, if it is given.

    Raises:
        UsageError: it is not a range of probabilities.
    """
    if skill and not 0 <= skill[0] <= skill[1] <= 1:
        raise UsageError(f"--skill {skill[0]} {skill[1]}: must be two probabilities, the lower one first")


def open_env(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """The environment, or a one-line error.

    Raises:
        UsageError: the id is unknown, or the environment refuses an option.
    """
    from gymnasium.error import Error

    from lapa_envs.atari import make_env

    options = {name: value for name, value in options.items() if value is not None}
    try:
        return make_env(env_id, **options)
    except (Error, TypeError, ImportError) as error:
        raise UsageError(f"--env {env_id}: cannot be made: {error}") from None


def export(subparsers: Subparsers) -> None:
    """``lapa export``."""
    parser = command(
        subparsers,
        "export",
        run_export,
        "Write the latent-action dataset, or a model, in a format that other tools read.",
        example="lapa export --to minari --out datasets",
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        default=Path(DEFAULT_DATASET),
        help="file that `lapa extract` wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="for --to npz, a recording in place of a dataset: files of obs, actions, rewards and episode_starts, as "
        "`lapa import` reads them",
    )
    parser.add_argument(
        "--to",
        choices=("minari", "npz", "onnx"),
        required=True,
        help="minari: lossless HDF5 with the latent action as the action; npz: one file per episode, or with --data "
        "transitions_*.npz of the recording; onnx: the model "
        "itself, encoder.onnx (frames to codes) and decoder.onnx (frame and codes to the next frame, or "
        "tokens to the frame)",
    )
    parser.add_argument(
        "--checkpoint",
        type=checkpoint_argument,
        default=DEFAULT_CHECKPOINT,
        help="the model for --to onnx: a checkpoint's file, or the name of a model that comes with lapa (default: "
        "%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("datasets"), help="folder to write (default: %(default)s)")
    parser.add_argument("--id", default="latent-actions-v0", help="name of the Minari dataset (default: %(default)s)")


def run_export(arguments: argparse.Namespace) -> None:
    """Exports."""
    if arguments.data is not None:
        export_transitions(arguments)
        return
    if arguments.to == "onnx":
        from lapa.engine.checkpoint import load_checkpoint
        from lapa.inference.onnx import to_onnx

        to_onnx(load_checkpoint(arguments.checkpoint, "cpu"), arguments.out)
        return
    from lapa.inference.extraction import LatentActionDataset
    from lapa_envs.export import to_minari, to_npz

    dataset = LatentActionDataset(arguments.dataset)
    if arguments.to == "minari":
        to_minari(dataset, arguments.out, arguments.id)
    else:
        to_npz(dataset, arguments.out)


def export_transitions(arguments: argparse.Namespace) -> None:
    """Writes a recording as transitions.

    Raises:
        UsageError: another format is asked for.
    """
    from lapa.data.packing import open_store
    from lapa.data.transitions import write_transitions

    if arguments.to != "npz":
        raise UsageError(
            f"--data {arguments.data}: only --to npz writes a recording; leave it out for --to {arguments.to}"
        )
    written = write_transitions(open_store(arguments.data), arguments.out)
    print(f"exported {len(written)} files of transitions into {arguments.out}")


def imagine(subparsers: Subparsers) -> None:
    """``lapa imagine``."""
    parser = command(
        subparsers,
        "imagine",
        run_imagine,
        "Play a game, let a model continue it by itself under the same actions, and show both side by side.",
        example="lapa imagine --checkpoint checkpoints/rssm/best.pt --start tunnel --steps 200",
    )
    add_checkpoint(parser)
    parser.add_argument("--env", default="ALE/Breakout-v5", help="environment id (default: %(default)s)")
    parser.add_argument(
        "--start",
        default="serve",
        metavar="NAME",
        help="where the episode begins, as for `lapa record` (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=200, help="number of imagined steps (default: %(default)s)")
    parser.add_argument(
        "--observed", type=int, default=16, help="real frames that the model sees first (default: %(default)s)"
    )
    parser.add_argument("--policy", default="scripted", metavar="POLICY", help="who plays, as for `lapa record`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the game and the player (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("imagined.webp"),
        help="file to write: .webp without a loss, or .mp4 (default: %(default)s)",
    )


def run_imagine(arguments: argparse.Namespace) -> None:
    """Imagines."""
    from lapa.engine.checkpoint import load_checkpoint
    from lapa_envs.imagining import check_name, write_movie
    from lapa_envs.imagining import imagine as continue_game

    check_positive(arguments, "steps", "observed")
    check_seed(arguments.seed)
    check_name(arguments.out)
    env = open_env(arguments.env)
    try:
        found = continue_game(
            load_checkpoint(arguments.checkpoint, "cpu"),
            env,
            steps=arguments.steps,
            start=arguments.start,
            policy=arguments.policy,
            seed=arguments.seed,
            observed=arguments.observed,
        )
    finally:
        env.close()
    write_movie(found, arguments.out)
    print(f"{len(found.real)} steps imagined, {found.psnr_db:.1f} dB: {arguments.out}")


def demo(subparsers: Subparsers) -> None:
    """``lapa demo``."""
    parser = command(
        subparsers,
        "demo",
        run_demo,
        "Run the whole pipeline once: record, pack, train, extract, evaluate, label live play.",
        example="lapa demo --preset laptop",
    )
    parser.add_argument(
        "--data", type=Path, default=Path("bulk_videos"), help="recorded episodes (default: %(default)s)"
    )
    parser.add_argument("--preset", default="laptop", help="configuration to train (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=60, help="number of episodes to record (default: %(default)s)")
    parser.add_argument(
        "--max-steps", type=int, default=400, help="cut an episode after this many steps (default: %(default)s)"
    )
    parser.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        default=Path(DEFAULT_CHECKPOINT).parent,
        help="folder of the training run (default: %(default)s)",
    )
    parser.add_argument(
        "--report", type=Path, default=Path("report"), help="folder of the report (default: %(default)s)"
    )


def run_demo(arguments: argparse.Namespace) -> None:
    """Runs the demonstration."""
    from lapa_envs.demo import run

    check_positive(arguments, "episodes", "max_steps")
    run(
        arguments.data,
        arguments.preset,
        arguments.episodes,
        arguments.max_steps,
        arguments.run_folder,
        arguments.report,
    )
