"""Agents saved by Stable-Baselines3, shown the frames as they learnt to see them."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from PIL import Image

from lapa.errors import DataError
from lapa_envs.frames import last_frame
from lapa_envs.recording import action_meanings


class Sb3Policy:
    """Plays the policy network of a saved PPO, A2C or DQN agent; its choices are drawn as in training.

    The agent sees what its saved observation space says: the environment's own observation if it has that shape; else,
    for a stack of square grey pictures (k, S, S), the frames made grey and shrunk, the last k of them, as Atari
    preprocessing does. At the start and after each lost life it presses FIRE, if the game has it, as agents
    trained with that preprocessing never learn to.

    Only the network is read, as tensors; of what else is pickled in the file, nothing but names of network classes is
    looked at, so a file from a stranger cannot run code.

    Args:
        env: what it plays.
        path: the ``.zip`` file.

    Raises:
        DataError: Stable-Baselines3 is missing, the file cannot be used, or the agent wants other observations.
    """

    def __init__(self, env: gym.Env[Any, Any], path: Path) -> None:
        try:
            import stable_baselines3  # noqa: F401
        except ImportError:
            raise DataError(f"sb3:{path}: needs Stable-Baselines3; pip install 'lapa[sb3]'") from None
        if not isinstance(env.action_space, gym.spaces.Discrete):
            raise DataError(f"sb3:{path}: plays Discrete actions, not {env.action_space}")
        self._shape, self._policy = load_policy(path, env.action_space)
        self._pictures: deque[np.ndarray] | None = None
        if self._shape not in (env.observation_space.shape, _channels_first(env.observation_space.shape)):
            depth, side, width = self._shape if len(self._shape) == 3 else (0, 0, -1)
            if side != width:
                raise DataError(
                    f"sb3:{path}: the agent wants observations of {self._shape}, which cannot be made of "
                    f"{env.observation_space}; play it in its own environment under RecordEpisodes"
                )
            self._pictures, self._side = deque(maxlen=depth), side
        meanings = action_meanings(env) or []
        self._fire = meanings.index("FIRE") if "FIRE" in meanings else None
        self._lives: int | None = None

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        seen = self._seen(observation)
        lives = info.get("lives", self._lives)
        served, self._lives = lives == self._lives, lives
        if not served and self._fire is not None:
            return self._fire
        action, _ = self._policy.predict(seen, deterministic=False)
        return int(action)

    def _seen(self, observation: Any) -> np.ndarray:
        if self._pictures is None:
            seen = np.asarray(observation)
            return seen if seen.shape == self._shape else seen.transpose(2, 0, 1)
        frame = Image.fromarray(last_frame(observation)).convert("L")
        picture = np.asarray(frame.resize((self._side, self._side), Image.Resampling.BOX))
        if not self._pictures:
            self._pictures.extend([picture] * (self._pictures.maxlen or 1))
        self._pictures.append(picture)
        return np.stack(self._pictures)


def load_policy(path: Path, action_space: gym.Space[Any]) -> tuple[tuple[int, ...], Any]:
    """The shape of the observations that a saved agent wants, and its policy network.

    Raises:
        DataError: the file is missing, no such file, or its network cannot be made for these actions.
    """
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
            weights = torch.load(io.BytesIO(file.read("policy.pth")), map_location="cpu", weights_only=True)
        shape = tuple(map(int, data["observation_space"]["_shape"]))
        make = _unpickled(data["policy_class"])
        options = data["policy_kwargs"]
        options = _unpickled(options) if ":serialized:" in options else options
        policy = make(gym.spaces.Box(0, 255, shape, np.uint8), action_space, lambda _: 0.0, **options)
        policy.load_state_dict(weights)
    except FileNotFoundError:
        raise DataError(f"sb3:{path}: no such file") from None
    except Exception as error:  # a stranger's file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"sb3:{path}: cannot be used ({reason}); name a file that agent.save() wrote") from error
    policy.set_training_mode(False)
    return shape, policy


class _NamesOfNetworks(pickle.Unpickler):
    """Reads classes of networks and optimizers by name, and nothing else that a pickle could ask for."""

    def find_class(self, module: str, name: str) -> type:
        found = super().find_class(module, name) if module.partition(".")[0] in ("stable_baselines3", "torch") else None
        if isinstance(found, type) and issubclass(found, torch.nn.Module | torch.optim.Optimizer):
            return found
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no network")


def _unpickled(entry: dict[str, Any]) -> Any:
    return _NamesOfNetworks(io.BytesIO(base64.b64decode(entry[":serialized:"]))).load()


def _channels_first(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    return (shape[2], *shape[:2]) if shape and len(shape) == 3 else ()
