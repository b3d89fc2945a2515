"""Episodes that begin in the middle of the game, at a named moment that play has come to; lives that are given back."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from lapa.errors import DataError
from lapa.games.game import Game, known_games
from lapa_envs.scripted import has_scripted_player, scripted_player

MAX_STEPS = 30_000
"""Play that has not come to a start by then gives up."""


def game_of(env: gym.Env[Any, Any]) -> Game | None:
    """The game that knows an environment, or None."""
    if env.spec is None or not hasattr(env.unwrapped, "ale"):
        return None
    frame_size = env.unwrapped.ale.getScreenDims()
    return next((game for game in known_games() if game.matches({"env_id": env.spec.id}, tuple(frame_size))), None)


class StartAt(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Lets episodes begin at a named start of the game, such as ``"tunnel"`` in Breakout.

    The scripted player plays there, unseen, on lives that are given back; then the episode begins, with two lives or
    more. ``reset(options={"start": NAME})`` names another start for one episode. In a vector environment, wrap each
    environment.

    Args:
        env: an ALE environment without frame stacks or other wrappers that remember steps.
        start: a name of :attr:`lapa.games.game.Game.starts`; ``"serve"`` is the game's own beginning.

    Attributes:
        steps_before: unseen steps of this episode.
        episode_notes: what :class:`~lapa_envs.RecordEpisodes` notes of it.

    Raises:
        DataError: the game has no such start.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import StartAt
        >>> gym.register_envs(ale_py)
        >>> env = StartAt(gym.make("ALE/Breakout-v5"), "rally")
        >>> _, info = env.reset(seed=0)
        >>> env.episode_notes["start"], env.steps_before > 0
        ('rally', True)
    """

    def __init__(self, env: gym.Env[Any, Any], start: str = "serve") -> None:
        RecordConstructorArgs.__init__(self, start=start)
        refuse_vector(env, "StartAt")
        super().__init__(env)
        self.game = game_of(env)
        self.start = self.current = self.check(start)
        self.steps_before = 0
        self._rng: np.random.Generator | None = None

    @property
    def episode_notes(self) -> dict[str, Any]:
        """The start, the unseen steps, and whether this is the game as anybody would play it."""
        return {"start": self.current, "steps_before": self.steps_before, "natural": self.current == "serve"} | {
            name: value for name, value in notes_of(self.env).items() if name != "natural" or not value
        }

    def check(self, start: str) -> str:
        """The name, if it is one.

        Raises:
            DataError: it is not.
        """
        names = tuple(self.game.starts) if self.game and has_scripted_player(self.env) else ()
        if start in names or start == "serve":
            return start
        game = self.env.spec.id if self.env.spec else str(self.env)
        known = f"take one of {', '.join(names)}" if names else "only serve is known"
        raise DataError(f"start '{start}': {game} has none of this name; {known}")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets, and plays to the start.

        Raises:
            DataError: there is no such start, or play does not come to it.
        """
        options = dict(options or {})
        start = self.current = self.check(options.pop("start", self.start))
        observation, info = self.env.reset(seed=seed, options=options or None)
        self.steps_before = 0
        if start == "serve" or self.game is None:
            return observation, info
        if seed is not None or self._rng is None:  # as everywhere in Gymnasium: one seed, then many resets
            self._rng = np.random.default_rng(seed)
        rng = self._rng
        player, moment = scripted_player(self.env, rng, 1.0), self.game.starts[start]
        while (
            not self.steps_before or self.steps_before % moment.look_every or not moment.is_reached(self._state()).all()
        ):
            give_lives(self.env, self.game)
            observation, info = self._step(player(observation, info), start)
        # With any number of lives; one more step shows it.
        if self.game.lives:
            give_lives(self.env, self.game, int(rng.integers(2, self.game.lives[1] + 1)))
        return self._step(player(observation, info), start)

    def _state(self) -> dict[str, np.ndarray]:
        assert self.game is not None
        return self.game.state(self.env.unwrapped.ale.getRAM()[None])  # type: ignore[attr-defined]

    def _step(self, action: Any, start: str) -> tuple[Any, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        self.steps_before += 1
        if terminated or truncated or self.steps_before > MAX_STEPS:
            raise DataError(f"start '{start}': play did not come to it in {self.steps_before} steps; take another seed")
        return observation, info


class GiveBackLives(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Gives all lives back when one is left, so that play goes on until the environment's own limit of time.

    The RAM has them at once; the screen and ``info["lives"]`` show them after the next step. Apply it below
    :class:`StartAt`. In a vector environment, wrap each environment.

    Args:
        env: an ALE environment.

    Raises:
        DataError: the game's lives are not known.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import GiveBackLives
        >>> gym.register_envs(ale_py)
        >>> env = GiveBackLives(gym.make("ALE/Breakout-v5"))
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        refuse_vector(env, "GiveBackLives")
        super().__init__(env)
        game = game_of(env)
        if game is None or game.lives is None:
            raise DataError(
                f"{env.spec.id if env.spec else env}: its lives are not known, so they cannot be given back"
            )
        self.game = game

    @property
    def episode_notes(self) -> dict[str, Any]:
        """That lives are given back."""
        return {**notes_of(self.env), "lives_given_back": True, "natural": False}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; the next frame shows the lives."""
        result = self.env.step(action)
        if result[4].get("lives") == 1:
            give_lives(self.env, self.game)
        return result


def refuse_vector(env: Any, wrapper: str) -> None:
    """Checks that a wrapper gets a single environment.

    Raises:
        DataError: it is a vector.
    """
    if isinstance(env, gym.vector.VectorEnv):
        raise DataError(
            f"{wrapper} takes a single environment; wrap each one: "
            f"gym.make_vec(..., vectorization_mode='sync', wrappers=[{wrapper}])"
        )


def notes_of(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """What the wrappers of an environment say of its episode."""
    return dict(env.get_wrapper_attr("episode_notes")) if env.has_wrapper_attr("episode_notes") else {}


def give_lives(env: gym.Env[Any, Any], game: Game, count: int | None = None) -> None:
    """Sets the lives in RAM; by default to those of a new game."""
    if game.lives is not None:
        address, full = game.lives
        env.unwrapped.ale.setRAM(address, full if count is None else count)  # type: ignore[attr-defined]
