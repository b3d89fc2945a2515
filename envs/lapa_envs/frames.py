"""Where a wrapper finds the frames: in the observations, or by rendering."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError

FRAME_SOURCES = ("obs", "render")


def check_frame_source(
    frame_source: str, space: gym.Space[Any], render_mode: str | None, size: tuple[int, int] | None
) -> None:
    """Checks that an environment shows RGB frames.

    Args:
        frame_source: ``"obs"`` or ``"render"``.
        space: of one environment's observations; a stack of frames will do, of which the last counts.
        render_mode: of the environment.
        size: rows and columns that the frames must have; None for any.

    Raises:
        DataError: it does not.
    """
    if frame_source not in FRAME_SOURCES:
        raise DataError(f"frame_source '{frame_source}' is unknown; take one of {', '.join(FRAME_SOURCES)}")
    if frame_source == "render":
        if render_mode != "rgb_array":
            raise DataError(
                f"frame_source='render' needs render_mode='rgb_array', not {render_mode!r}; pass it to gym.make"
            )
        return
    shape = space.shape or ()
    frame = shape[-3:] if len(shape) in (3, 4) else ()
    fits = frame == (*size, 3) if size else frame[2:] == (3,)
    if not fits or space.dtype != np.uint8:
        wanted = f"({size[0]}, {size[1]}, 3)" if size else "(rows, columns, 3)"
        given = " ".join(str(space).split())
        raise DataError(
            f"{'the model' if size else 'a recording'} wants observations of {wanted} uint8, this environment gives "
            f"{given}; put the wrapper below whatever "
            "changes the frames, or pass frame_source='render' and make the environment with render_mode='rgb_array'"
            + (", or name another checkpoint" if size else "")
        )


def shown(env: gym.Env[Any, Any], observation: Any, frame_source: str) -> np.ndarray:
    """(1, H, W, 3), what an environment shows now: its last observation, or what it renders."""
    return last_frame(observation if frame_source == "obs" else env.render())[None]


def shown_by_all(env: gym.vector.VectorEnv[Any, Any, Any], observations: Any, frame_source: str) -> np.ndarray:
    """(N, H, W, 3), the same of the N environments of a vector."""
    return last_frames(observations if frame_source == "obs" else np.stack(env.render() or ()))


def last_frame(observation: Any) -> np.ndarray:
    """(H, W, 3) of an observation that is a frame, or a stack of them (S, H, W, 3)."""
    frame = np.asarray(observation)
    return frame[-1] if frame.ndim == 4 else frame


def last_frames(observations: Any) -> np.ndarray:
    """(N, H, W, 3) of observations that are frames, or stacks of them (N, S, H, W, 3)."""
    frames = np.asarray(observations)
    return frames[:, -1] if frames.ndim == 5 else frames
