"""A real game and a model that continues it under the same actions, side by side."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips, Dreamer
from lapa.data.files import atomic_file
from lapa.data.frames import prepare, to_float
from lapa.data.pictures import load_opencv
from lapa.engine.checkpoint import Checkpoint
from lapa.errors import DataError, UsageError
from lapa.inference.labelling import Labeller
from lapa.metrics.pixels import psnr_db
from lapa.report.pictures import movie, sheet, to_rgb
from lapa_envs.frames import check_frame_source, shown
from lapa_envs.policies import make_policy
from lapa_envs.starts import StartAt

OBSERVED = 16
"""Real frames that a model sees before it continues by itself."""

FORMATS = (".webp", ".mp4")

MILLISECONDS = 80
"""That a picture is shown."""


@dataclasses.dataclass(frozen=True)
class Imagination:
    """N steps of a real game, and the same steps as a model imagines them.

    Attributes:
        real: (N, C, H, W) in [0, 1], the frames as the model would see them.
        imagined: (N, C, H, W) in [0, 1].
        rewards: (N,) of the real game.
        imagined_rewards: (N,), or None where the model predicts none.
    """

    real: np.ndarray
    imagined: np.ndarray
    rewards: np.ndarray
    imagined_rewards: np.ndarray | None

    @property
    def psnr_db(self) -> float:
        """Over all frames, of their mean squared error."""
        return psnr_db(float(np.square(self.imagined - self.real).mean()))


def imagine(
    checkpoint: Checkpoint,
    env: gym.Env[Any, Any],
    *,
    steps: int,
    start: str = "serve",
    policy: str = "scripted",
    seed: int = 0,
    observed: int = OBSERVED,
) -> Imagination:
    """Plays a game, and lets a model continue it by itself after the first frames, under the same actions.

    A model that takes latent actions is given the codes of the real transitions.

    Args:
        checkpoint: a system that is a :class:`~lapa.contracts.Dreamer`.
        env: an ALE environment that shows RGB frames.
        steps: how many are imagined; fewer, if the game is over before.
        start: a named moment of the game, see :class:`~lapa_envs.StartAt`.
        policy: who plays, see :func:`lapa_envs.policies.make_policy`.
        seed: of the game and the player.
        observed: frames that the model sees first.

    Raises:
        DataError: the model cannot continue a game, or has other actions or frames; the start is unknown; the game is
            over before the first imagined step.
    """
    model = checkpoint.model
    if not isinstance(model, Dreamer):
        raise DataError(f"a {type(model).__name__} does not continue a game; name a checkpoint of a system that does")
    by_codes = model.actions.kind == "codes"  # a continuous latent has none, which it says here
    seen = model.format
    check_frame_source("obs", env.observation_space, env.render_mode, (seen.height, seen.width))
    env = StartAt(env, start)
    observation, info = env.reset(seed=seed)
    if not by_codes and env.action_space.n > model.actions.count:  # type: ignore[attr-defined]
        raise DataError(
            f"the model knows {model.actions.count} actions, and this environment has {env.action_space.n}; name the "  # type: ignore[attr-defined]
            "environment that it was recorded in"
        )
    player = make_policy(env, policy, np.random.default_rng(seed), 1.0)
    frames, actions, rewards = [prepare(torch.from_numpy(shown(env, observation, "obs")), seen)], [], []
    for _ in range(observed - 1 + steps):
        action = player(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        frames.append(prepare(torch.from_numpy(shown(env, observation, "obs")), seen))
        actions.append(int(action))
        rewards.append(float(reward))
        if terminated or truncated:
            break
    if len(actions) < observed:
        raise DataError(
            f"the game was over after {len(actions)} steps, before the first imagined one; take another seed"
        )
    taken = torch.tensor(actions)
    if by_codes:
        label = Labeller(model)
        taken = torch.cat([label(*pair) for pair in itertools.pairwise(frames)]).cpu()
    return _continued(model, torch.cat(frames), taken, np.array(rewards, dtype=np.float32), observed)


@torch.inference_mode()
def _continued(model: Dreamer, frames: Tensor, actions: Tensor, rewards: np.ndarray, observed: int) -> Imagination:
    """What the model makes of a game of (N+1, C, H, W) uint8 frames and (N, ...) actions after the first frames."""
    device = next(model.parameters()).device
    before: dict[str, Tensor] = {model.actions.kind: actions[None, : observed - 1]}
    state = model.begin(Clips(frames[None, :observed], before).to(device))
    imagined, predicted = [], []
    for action in actions[observed - 1 :].to(device):
        state, step = model.step(state, action[None])
        imagined.append(step.frame[0].float().cpu().numpy())
        predicted.append(step.reward)
    known = [float(reward) for reward in predicted if reward is not None]
    return Imagination(
        real=to_float(frames[observed:]).numpy(),
        imagined=np.stack(imagined),
        rewards=rewards[observed - 1 :],
        imagined_rewards=np.array(known, dtype=np.float32) if known else None,
    )


def check_name(out: Path) -> None:
    """Checks the name of a file to write.

    Raises:
        UsageError: it ends with nothing that can be written.
    """
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: must end with {' or '.join(FORMATS)}")


def write_movie(found: Imagination, out: Path) -> None:
    """Writes real and imagined frames side by side, a lossless WebP that moves, or an MP4 file.

    Raises:
        DataError: MP4 is asked for, and the package for it is not installed.
        UsageError: the file's name ends otherwise.
    """
    check_name(out)
    pictures = [
        sheet([[to_rgb(real), to_rgb(imagined)]], [f"step {number}"], ["real game", "imagined"])
        for number, (real, imagined) in enumerate(zip(found.real, found.imagined, strict=True), 1)
    ]
    content = _mp4(pictures, out) if out.suffix == ".mp4" else movie(pictures, MILLISECONDS)
    with atomic_file(out) as file:
        file.write(content)


def _mp4(pictures: list[np.ndarray], out: Path) -> bytes:
    """Pictures (H, W, 3) uint8 as an MP4 file, whose colours are not exact.

    Raises:
        DataError: OpenCV is not installed, or cannot write such files.
    """
    cv2 = load_opencv(out)
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])  # the format wants even sides
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "movie.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 1000 / MILLISECONDS, (width, height))
        for picture in pictures:
            writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
        writer.release()
        if not path.exists() or not path.stat().st_size:
            raise DataError(f"{out}: OpenCV cannot write MP4 here; name a file that ends with .webp")
        return path.read_bytes()
