"""A Gymnasium wrapper that writes what is played as ``<out>/<episode>/<n>.png``, with the tracks beside the frames."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks
from lapa.errors import DataError
from lapa_envs.frames import check_frame_source, last_frame
from lapa_envs.writer import FrameWriter


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Writes every episode as a folder of PNG frames with actions, rewards, ends, lives and console memory.

    An episode appears under its name, the next free number, when all of it is on disk. Frames are written in the
    background; when too many wait, the environment waits. Nothing that was played is lost by ``close``, an exception
    or Ctrl-C: an episode that ``reset`` or the end of the program breaks off is written with its last step truncated.
    A process that is killed leaves only whole episodes, and hidden folders of what was not.

    Put it above frame-skip, so that it records what the agent sees, and above anything that changes the pixels with
    ``frame_source="render"``. In a vector environment wrap each sub-environment; they may share the folder.

    Args:
        env: its frames are RGB.
        out: folder to write to; existing episodes are kept.
        frame_source: ``"obs"`` reads observations, the last one of a stack; ``"render"`` calls ``env.render()``.
        notes: JSON-able facts to keep in the episodes' ``meta``.

    Raises:
        DataError: the environment shows no RGB frames.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import RecordEpisodes
        >>> gym.register_envs(ale_py)
        >>> env = RecordEpisodes(gym.make("ALE/Breakout-v5"), "bulk_videos")
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        out: str = "bulk_videos",
        frame_source: str = "obs",
        notes: dict[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(self, out=str(out), frame_source=frame_source, notes=notes)
        if isinstance(env, gym.vector.VectorEnv):
            raise DataError(
                "RecordEpisodes takes a single environment; wrap each one: "
                "gym.make_vec(..., vectorization_mode='sync', wrappers=[RecordEpisodes])"
            )
        super().__init__(env)
        check_frame_source(frame_source, env.observation_space, env.render_mode, None)
        self.frame_source = frame_source
        self.notes = dict(notes or {})
        try:
            json.dumps(self.notes)
        except TypeError as error:
            raise DataError(f"notes cannot be kept: {error}; take plain values") from None
        self.number: int | None = None
        self.out = Path(out)
        self._start_writer()

    def _start_writer(self) -> None:
        self._writer = EpisodeWriter(self.out)
        # Also when the program ends without a close. It must not hold the environment.
        weakref.finalize(self, EpisodeWriter.close, self._writer)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is being written: a copy begins with its next reset."""
        return {name: value for name, value in self.__dict__.items() if name != "_writer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Starts anew, into the same folder."""
        self.__dict__.update(state)
        self._start_writer()

    @property
    def folders(self) -> list[Path]:
        """The episodes that are known to be written: :meth:`flush` and :meth:`close` ask."""
        return list(self._writer.folders)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Ends the episode that is being recorded, if there is one, and starts the next."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin(observation, info, seed)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment and records the step.

        Raises:
            OSError: a frame could not be written; its episode is lost.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._writer.is_open:
            self._writer.add(
                self._frame(observation),
                lives=self._lives(info),
                ram=self._ram(),
                action=int(action) if isinstance(self.action_space, gym.spaces.Discrete) else None,
                reward=float(reward),
                terminated=bool(terminated),
                truncated=bool(truncated),
            )
        else:  # a wrapper below has reset by itself
            self._begin(observation, info, None)
        if terminated or truncated:
            self._writer.finish()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Writes what is still to be written, then closes the environment."""
        try:
            self._writer.close()
        finally:
            super().close()

    def flush(self) -> None:
        """Ends the episode that is being recorded and waits until all is written.

        Raises:
            OSError: something could not be written.
        """
        self._writer.flush()

    def cut(self) -> None:
        """Ends the episode that is being recorded; its last step is marked as truncated."""
        self._writer.finish()

    def _begin(self, observation: Any, info: dict[str, Any], seed: int | None) -> None:
        self._writer.begin(self._frame(observation), self._lives(info), self._ram(), self._meta(seed), self.number)

    def _frame(self, observation: Any) -> np.ndarray:
        return last_frame(observation if self.frame_source == "obs" else self.env.render())

    def _lives(self, info: dict[str, Any]) -> int | None:
        if "lives" in info:
            return int(info["lives"])
        ale = getattr(self.unwrapped, "ale", None)
        return ale.lives() if ale else None

    def _ram(self) -> np.ndarray | None:
        ale = getattr(self.unwrapped, "ale", None)
        return ale.getRAM() if ale else None

    def _meta(self, seed: int | None) -> dict[str, Any]:
        spec = self.env.spec
        frameskip = spec.kwargs.get("frameskip") if spec else None
        if self.env.has_wrapper_attr("frame_skip") and isinstance(frameskip, int):
            frameskip *= self.env.get_wrapper_attr("frame_skip")  # of AtariPreprocessing
        return {
            "env_id": spec.id if spec else None,
            "frameskip": frameskip,
            "action_meanings": action_meanings(self.env),
            "seed": seed,
            **(self.env.get_wrapper_attr("episode_notes") if self.env.has_wrapper_attr("episode_notes") else {}),
            **self.notes,
        }


@dataclasses.dataclass
class Recording:
    """An episode that is being written: its hidden folder, and what is known of it so far."""

    part: Path
    number: int | None
    meta: dict[str, Any]
    lives: list[int | None]
    ram: list[np.ndarray | None]
    actions: list[int | None] = dataclasses.field(default_factory=list)
    rewards: list[float] = dataclasses.field(default_factory=list)
    terminated: list[bool] = dataclasses.field(default_factory=list)
    truncated: list[bool] = dataclasses.field(default_factory=list)

    def tracks(self) -> Tracks:
        """What is known of its whole steps, cut where it has not ended by itself."""
        steps = len(self.actions)
        terminated, truncated = (np.array(array[:steps], dtype=bool) for array in (self.terminated, self.truncated))
        truncated[-1] |= not terminated[-1]
        ram = [row for row in self.ram[: steps + 1] if row is not None]
        return Tracks(
            actions=None if None in self.actions else np.array(self.actions, dtype=np.int64),
            rewards=np.array(self.rewards[:steps], dtype=np.float32),
            terminated=terminated,
            truncated=truncated,
            lives=None if None in self.lives else np.array(self.lives[: steps + 1], dtype=np.int64),
            ram=np.stack(ram) if ram else None,
            meta=self.meta,
        )


class EpisodeWriter:
    """Writes episodes: frames in the background, the tracks beside them at the end.

    Args:
        out: folder to write to; made with the first episode.

    Attributes:
        folders: the episodes that are known to be written.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folders: list[Path] = []
        self._recording: Recording | None = None
        self._begun = 0
        self._frames: FrameWriter | None = None

    @property
    def is_open(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self._recording is not None

    def begin(
        self,
        frame: np.ndarray,
        lives: int | None,
        ram: np.ndarray | None,
        meta: dict[str, Any],
        number: int | None = None,
    ) -> None:
        """Starts an episode with its first frame (H, W, 3) uint8; ends the one before.

        ``number`` is its name; None takes the next free one.
        """
        self.finish()
        self._frames = self._frames or FrameWriter((frame.shape[0], frame.shape[1]))
        # Many processes may write to one folder.
        part = self.out / f".{os.getpid()}-{id(self)}-{self._begun}.part"
        self._begun += 1
        self._recording = Recording(part, number, meta, [lives], [ram])
        self._save(0, frame)

    def add(
        self,
        frame: np.ndarray,
        *,
        lives: int | None,
        ram: np.ndarray | None,
        action: int | None,
        reward: float,
        terminated: bool,
        truncated: bool,
    ) -> None:
        """Adds a step and the frame that it led to."""
        recording = self._recording
        assert recording is not None
        try:
            self._save(len(recording.actions) + 1, frame)
            recording.lives.append(lives)
            recording.ram.append(ram)
            recording.rewards.append(reward)
            recording.terminated.append(terminated)
            recording.truncated.append(truncated)
            recording.actions.append(action)  # last: a step that Ctrl-C breaks off does not count
        except KeyboardInterrupt:
            self.finish()
            raise

    def finish(self) -> None:
        """Ends the episode, if one is open; it is named when its frames are written."""
        recording = self._recording
        if recording is None:
            return
        with self._writing() as frames:
            if recording.actions:
                recording.part.mkdir(parents=True, exist_ok=True)
                # Of a write that Ctrl-C broke off, an archive may still be open, and would end itself in this one.
                (recording.part / TRACKS_FILE).unlink(missing_ok=True)
                write_tracks(recording.part / TRACKS_FILE, recording.tracks())
                frames.rename(recording.part, self.out, recording.number, len(recording.actions) + 1)
            else:
                frames.drop(recording.part)
        self._recording = None  # last: what Ctrl-C breaks off here is done again

    def flush(self) -> None:
        """Ends the open episode and waits until all is written.

        Raises:
            OSError: something could not be written.
        """
        self.finish()
        if self._frames:
            with self._writing() as frames:
                self.folders += frames.flush()

    def close(self) -> None:
        """As :meth:`flush`, and ends the process that writes; a later episode starts another."""
        try:
            self.flush()
        finally:
            frames, self._frames = self._frames, None
            if frames:
                frames.close()

    def _save(self, number: int, frame: np.ndarray) -> None:
        assert self._recording is not None
        with self._writing() as frames:
            frames.save(self._recording.part / f"{number}.png", frame)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[FrameWriter]:
        """The writer of frames; when something cannot be written, it ends, and the open episode with it."""
        assert self._frames is not None
        try:
            yield self._frames
        except OSError:
            self._frames.close()
            self._recording = self._frames = None
            raise


def action_meanings(env: gym.Env[Any, Any]) -> list[str] | None:
    """What an Atari environment's actions mean, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``; None for others."""
    meanings: Callable[[], list[str]] | None = getattr(env.unwrapped, "get_action_meanings", None)
    return meanings() if meanings else None
