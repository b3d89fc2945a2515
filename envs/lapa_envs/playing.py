"""Plays episodes and records them, in one process or in several."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError
from lapa.progress import progress_bar
from lapa_envs.frames import check_frame_source
from lapa_envs.policies import make_policy
from lapa_envs.recording import RecordEpisodes
from lapa_envs.starts import GiveBackLives, StartAt, game_of
from lapa_envs.writer import next_number

SCRIPTED_SKILL = (0.0, 1.0)
AGENT_SKILL = (1.0, 1.0)
EPISODES = 60
MAX_STEPS = 400

MakeEnv = Callable[[], gym.Env[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Play:
    """How episodes are played.

    Attributes:
        policy: as :func:`lapa_envs.policies.make_policy` names it.
        max_steps: an episode is cut after so many steps.
        seed: episode i plays with seed ``seed + i``.
        skill: lowest and highest skill of the player, spread evenly over the episodes.
        starts: where episodes begin, in turn: names of the game's starts.
    """

    policy: str = "scripted"
    max_steps: int = MAX_STEPS
    seed: int = 0
    skill: tuple[float, float] = SCRIPTED_SKILL
    starts: tuple[str, ...] = ("serve",)

    def start_of(self, episode: int) -> str:
        """The start of an episode."""
        return self.starts[episode % len(self.starts)]

    def skill_of(self, episode: int) -> float:
        """The skill of the player in an episode."""
        # Steps of the golden ratio mix weak and strong players over the sequence, so that any split sees both.
        return self.skill[0] + (self.skill[1] - self.skill[0]) * (episode * 0.618034 % 1.0)

    def play(self, env: RecordEpisodes, episode: int) -> int:
        """Plays one episode and returns its number of steps."""
        skill, seed = self.skill_of(episode), self.seed + episode
        policy = make_policy(env, self.policy, np.random.default_rng(seed), skill)
        env.notes = {"policy": self.policy, "skill": skill}
        observation, info = env.reset(seed=seed, options={"start": self.start_of(episode)})
        steps, is_over = 0, False
        while steps < self.max_steps and not is_over:
            observation, _, terminated, truncated, info = env.step(policy(observation, info))
            is_over = terminated or truncated
            steps += 1
        env.cut()
        return steps


def record(
    env: gym.Env[Any, Any] | MakeEnv,
    out: Path,
    *,
    policy: str = "scripted",
    episodes: int | None = EPISODES,
    steps: int | None = None,
    max_steps: int = MAX_STEPS,
    seed: int = 0,
    skill: tuple[float, float] | None = None,
    starts: Sequence[str] | None = None,
    give_back_lives: bool = False,
    workers: int = 1,
) -> list[Path]:
    """Plays episodes and writes each as a new folder under ``out``.

    An episode appears under its name only when it is whole. Existing episodes are kept; new ones are
    numbered after them. What Ctrl-C or an error breaks off is kept as a cut episode.

    Args:
        env: an environment whose observations are RGB frames; with several workers, a function that makes one, which
            can be pickled.
        out: folder to write to.
        policy: as :func:`lapa_envs.policies.make_policy` names it.
        episodes: how many to play; None plays until there are enough steps.
        steps: stop after the episode with which there are so many; what other workers have begun is finished.
        max_steps: an episode is cut after so many steps.
        seed: episode i of this call plays with seed ``seed + i``, whatever the number of workers.
        skill: lowest and highest skill of the player, spread evenly over the episodes; by default 0 to 1 for the
            scripted player, and 1 for others.
        starts: where episodes begin, in turn: names of :attr:`lapa.games.game.Game.starts`. By default the scripted
            player's episodes cover the game, and others begin with a new game.
        give_back_lives: give all lives back when one is left.
        workers: processes that play side by side.

    Returns:
        The folders written.

    Raises:
        DataError: the environment's observations are no RGB frames, or the policy, a start or the lives do not fit
            the game.
    """
    if episodes is None and steps is None:
        raise DataError("say how many episodes to record, or how many steps")
    skill = skill or (SCRIPTED_SKILL if policy == "scripted" else AGENT_SKILL)
    with contextlib.ExitStack() as stack:
        tried = env if isinstance(env, gym.Env) else stack.enter_context(contextlib.closing(env()))
        check_frame_source("obs", tried.observation_space, tried.render_mode, None)
        starts = tuple(starts or default_starts(tried, policy))
        prepared = prepare(tried, give_back_lives)
        for start in starts:  # what is wrong is said here, not in a worker
            prepared.check(start)
        make_policy(tried, policy, np.random.default_rng(seed), skill[0])
    play = Play(policy, max_steps, seed, skill, starts)
    numbers = range(episodes) if episodes is not None else itertools.count()
    first, folders, total = next_number(out), list[Path](), 0

    def wanted() -> Iterator[int]:
        return itertools.takewhile(lambda _: steps is None or total < steps, numbers)

    if workers == 1:
        played = _play_here(env, out, play, give_back_lives, wanted(), first, folders)
    else:
        if isinstance(env, gym.Env):
            raise DataError("several workers need a function that makes an environment, not an environment")
        played = _play_in_workers(env, out, play, give_back_lives, wanted(), first, folders, workers)
    with progress_bar(total=episodes, desc="record", unit="episode") as bar:
        for count in played:
            total += count
            bar.update()
            bar.set_postfix(steps=total)
    return sorted(folders, key=lambda folder: int(folder.name))


def default_starts(env: gym.Env[Any, Any], policy: str) -> tuple[str, ...]:
    """Where a player's episodes begin unless told otherwise."""
    game = game_of(env)
    return (game.mix if game and policy == "scripted" else ()) or ("serve",)


def prepare(env: gym.Env[Any, Any], give_back_lives: bool) -> StartAt:
    """The environment with starts, and with lives that are given back.

    Raises:
        DataError: the game's lives are not known.
    """
    return StartAt(GiveBackLives(env) if give_back_lives else env)


def _play_here(
    env: gym.Env[Any, Any] | MakeEnv,
    out: Path,
    play: Play,
    give_back_lives: bool,
    numbers: Iterator[int],
    first: int,
    folders: list[Path],
) -> Iterator[int]:
    """Steps of each episode, as it is played; adds to ``folders`` in the end."""
    made = None if isinstance(env, gym.Env) else env()
    recorder = RecordEpisodes(prepare(made or env, give_back_lives), str(out))  # type: ignore[arg-type] # one is one
    try:
        for episode in numbers:
            recorder.number = first + episode
            yield play.play(recorder, episode)
    finally:
        recorder.flush()
        folders += recorder.folders
        if made:
            recorder.close()


def _play_in_workers(
    make: MakeEnv,
    out: Path,
    play: Play,
    give_back_lives: bool,
    numbers: Iterator[int],
    first: int,
    folders: list[Path],
    workers: int,
) -> Iterator[int]:
    """Steps of each episode, in the order in which they end; adds to ``folders``."""
    # Not a fork: this process may have threads, which do not come along.
    context = multiprocessing.get_context("spawn")
    waiting: set[Future[int]] = set()
    with ProcessPoolExecutor(workers, context, _start_worker, (make, out, give_back_lives)) as pool:
        try:
            for episode in itertools.chain(numbers, itertools.repeat(None)):
                if episode is not None:
                    waiting.add(pool.submit(_play_in_worker, play, episode, first + episode))
                    folders.append(out / str(first + episode))
                if not waiting:
                    break
                if episode is None or len(waiting) == workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)  # a worker ends when it has written all
    if lost := [str(folder) for folder in folders if not folder.exists()]:
        raise DataError(f"could not be written: {', '.join(lost)}; check permissions and the free space of {out}")


_worker: RecordEpisodes | None = None  # of this process


def _start_worker(make: MakeEnv, out: Path, give_back_lives: bool) -> None:
    global _worker
    _worker = RecordEpisodes(prepare(make(), give_back_lives), str(out))


def _play_in_worker(play: Play, episode: int, number: int) -> int:
    assert _worker is not None
    _worker.number = number
    return play.play(_worker, episode)
