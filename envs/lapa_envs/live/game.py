"""Plays an environment and labels each step as it happens."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError
from lapa.inference.reading import READER_FILE, CodeReader, Reading, load_reader
from lapa.progress import progress_bar
from lapa.shipped import model_with
from lapa_envs.frames import last_frame
from lapa_envs.labelling import LatentActionWrapper
from lapa_envs.policies import Policy, make_policy
from lapa_envs.recording import action_meanings

SKILL = 0.9
"""Of the player, so that it errs now and then."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """A step as it was seen and labelled.

    Attributes:
        step: counted from 0.
        frame: (H, W, 3) uint8, what came of it.
        drawn: (H', W', C) uint8, the same as the model draws it from the frame before and the codes.
        codes: (h, w) int64, or (1, 1) where the grid is a single token.
        action: what was done.
        action_name: what that is called.
        reading: what the codes mean; None where nothing is known of it.
    """

    step: int
    frame: np.ndarray
    drawn: np.ndarray
    codes: np.ndarray
    action: int
    action_name: str
    reading: Reading | None

    @property
    def status(self) -> str:
        """One-line summary."""
        read = f", read from the codes: {self.reading}" if self.reading else ""
        return f"step {self.step}: {self.action_name}{read}"

    def to_json(self) -> dict[str, Any]:
        """As plain values for JSON."""
        codes = self.codes.tolist() if self.codes.size > 1 else int(self.codes.item())
        record: dict[str, Any] = {"step": self.step, "action": self.action, "latent_action": codes}
        if self.reading:
            action, events = self.reading.action, self.reading.events
            record["read_action"] = action[0] if action else None
            record["read_events"] = [name for name, _ in events]
        return record


class Game:
    """A game that is played and labelled, step by step.

    Args:
        env: an environment; :meth:`close` closes it.
        checkpoint: file or name of a trained model; None takes the default one that comes with the package.
        policy: as :func:`lapa_envs.policies.make_policy` names it.
        seed: of the environment and the player.
        reader: what reads the codes; None reads nothing.
        drawing: whether the model draws too.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: str | Path | None,
        policy: str,
        seed: int,
        reader: CodeReader | None = None,
        drawing: bool = False,
    ) -> None:
        self.env = LatentActionWrapper(env, checkpoint, reconstruction=drawing)
        if not isinstance(env.action_space, gym.spaces.Discrete):
            raise DataError(f"the live view shows Discrete actions, not {env.action_space}")
        self.policy_name, self.seed = policy, seed
        self._new_policy(0)  # says at once whether it can be had
        self.reader = reader
        self.meanings = action_meanings(env) or []

    def moments(self, steps: int) -> Iterator[Moment]:
        """So many steps, resetting where episodes end."""
        observation, info = self.env.reset(seed=self.seed)
        policy, episode = self._new_policy(0), 0
        for step in range(steps):
            action = int(policy(observation, info))
            observation, _, terminated, truncated, info = self.env.step(action)
            codes = np.atleast_2d(info["latent_action"])
            yield Moment(
                step=step,
                frame=last_frame(observation),
                drawn=info.get("latent_action_reconstruction", last_frame(observation)[:0]),
                codes=codes,
                action=action,
                action_name=self.meanings[action] if action < len(self.meanings) else f"action {action}",
                reading=self.reader.read(codes) if self.reader else None,
            )
            if terminated or truncated:
                observation, info = self.env.reset()
                episode += 1
                policy = self._new_policy(episode)

    @property
    def digest(self) -> str:
        """Of the checkpoint."""
        return self.env.digest

    def _new_policy(self, episode: int) -> Policy:
        skill = SKILL if self.policy_name == "scripted" else 1.0
        return make_policy(self.env, self.policy_name, np.random.default_rng(self.seed + episode), skill)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()


def find_reader(digest: str, named: Path | None) -> CodeReader:
    """What reads the codes of a checkpoint.

    Args:
        digest: of the checkpoint.
        named: the file to take; None takes the one that a shipped model brings, or else looks in ``report/``.

    Raises:
        DataError: there is none, or it reads another checkpoint's codes.
    """
    if named is not None:
        return load_reader(named, digest)
    shipped = model_with(digest)
    return load_reader((shipped and shipped.reader) or Path("report") / READER_FILE, digest)


def label_live(
    env: gym.Env[Any, Any], checkpoint: str | Path | None, policy: str, steps: int, seed: int
) -> tuple[list[dict[str, Any]], float]:
    """Plays so many steps and says what was done, and how fast.

    Returns:
        One record per step (``step``, ``action``, ``latent_action``), and the steps per second.
    """
    game = Game(env, checkpoint, policy, seed)
    records = []
    started = time.monotonic()
    with progress_bar(total=steps, desc="label", unit="step") as bar:
        for moment in game.moments(steps):
            records.append(moment.to_json())
            bar.update()
    rate = steps / (time.monotonic() - started)
    game.close()
    return records, rate
