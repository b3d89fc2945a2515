"""The recording wrapper: whatever plays and however it ends, what was played is on disk, whole and lossless."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from helpers import PATIENCE, ROOT
from lapa.data.episodes import list_episodes, read_episode
from lapa.errors import DataError
from lapa_envs import RecordEpisodes, make_env
from noise import NoiseEnv


def play(env: gym.Env[Any, Any], steps: int, seed: int = 0) -> list[list[np.ndarray]]:
    """The frames of each episode, actions being 0, 1, 2, 3, 4, 0, ..."""
    episodes = [[env.reset(seed=seed)[0].copy()]]
    for step in range(steps):
        frame, _, terminated, truncated, _ = env.step(step % env.action_space.n)
        episodes[-1].append(frame.copy())
        if (terminated or truncated) and step < steps - 1:
            episodes.append([env.reset()[0].copy()])
    return episodes


def pictures(root: Path, name: str) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in read_episode(root, name).paths])


def test_every_frame_is_written_as_it_was_shown(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    episodes = play(env, 25)
    env.close()
    assert env.unwrapped.closed
    assert env.folders == [tmp_path / name for name in "012"]
    for name, frames in zip("012", episodes, strict=True):
        np.testing.assert_array_equal(pictures(tmp_path, name), np.stack(frames))
    truth = read_episode(tmp_path, "1").tracks
    assert truth.actions.tolist() == [0, 1, 2, 3, 4] * 2
    assert truth.rewards.tolist() == [0.5 * step for step in range(1, 11)]
    assert truth.terminated.tolist() == [False] * 9 + [True]
    assert not truth.truncated.any()
    assert truth.ram is None


def test_close_ends_an_episode_in_its_midst_and_says_that_it_was_cut(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    play(env, 13)
    env.close()
    assert read_episode(tmp_path, "0").tracks.truncated.tolist() == [False] * 10
    assert read_episode(tmp_path, "1").tracks.truncated.tolist() == [False, False, True]


def test_reset_ends_an_episode_in_its_midst(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    play(env, 3)
    env.reset()
    env.reset()  # nothing was done in between
    play(env, 2)
    env.close()
    assert [len(read_episode(tmp_path, name).paths) for name in list_episodes(tmp_path)] == [4, 3]


def test_flush_waits_until_all_is_there_and_recording_goes_on(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    for count in (1, 2, 3):
        play(env, 10)
        env.flush()
        assert len(env.folders) == count
        assert len(list_episodes(tmp_path)) == count
    env.close()


def test_more_frames_than_can_wait_are_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseEnv, "step", lambda self, action: (self._draw(), 0.0, False, False, {}))
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    (frames,) = play(env, 700)
    env.close()
    np.testing.assert_array_equal(pictures(tmp_path, "0"), np.stack(frames))


def test_thousands_of_episodes_need_nobody_to_ask_for_their_names(tmp_path: Path) -> None:
    out = tmp_path / ("long" * 50) / ("name" * 50)  # of which a pipe would hold a hundred
    env = RecordEpisodes(NoiseEnv(), out)
    for _ in range(300):
        env.reset()
        env.step(0)
    env.close()
    assert len(env.folders) == len(list_episodes(out)) == 300


def test_an_end_that_ctrl_c_breaks_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    play(env, 5)
    for name in ("write_tracks", None):
        if name:
            monkeypatch.setattr(f"lapa_envs.recording.{name}", interrupted)
        else:
            assert env._writer._frames is not None
            monkeypatch.setattr(env._writer._frames, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.cut()
        monkeypatch.undo()
    env.close()
    assert len(read_episode(tmp_path, "0").tracks.actions) == 5
    assert list_episodes(tmp_path) == ["0"]


def interrupted(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_to_name_an_episode_twice_does_no_harm(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    play(env, 5)
    recording = env._writer._recording
    env.flush()
    env._writer._recording = recording  # as if Ctrl-C had struck after the name was asked for
    env.close()
    assert list_episodes(tmp_path) == ["0"]
    assert not list(tmp_path.glob(".*"))


def test_processes_started_meanwhile_do_not_keep_it_from_ending(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    play(env, 5)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(PATIENCE,))
    child.start()
    env.close()
    assert child.is_alive(), "it waited for the other process to end"
    child.kill()
    child.join()
    assert list_episodes(tmp_path) == ["0"]


def test_a_copy_by_pickle_records_its_own_episodes(tmp_path: Path) -> None:
    env = RecordEpisodes(make_env(), tmp_path)
    play(env, 3)
    again = pickle.loads(pickle.dumps(env))
    play(again, 4)
    again.close()
    env.close()
    assert sorted(len(read_episode(tmp_path, name).tracks.actions) for name in "01") == [3, 4]


def test_episodes_that_are_there_are_kept(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    for _ in range(2):
        env = RecordEpisodes(NoiseEnv(), tmp_path)
        play(env, 10)
        env.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8", "9"]
    assert list((tmp_path / "7").iterdir()) == []


def test_many_processes_may_share_a_folder(tmp_path: Path) -> None:
    envs = gym.vector.AsyncVectorEnv([lambda: RecordEpisodes(NoiseEnv(), tmp_path)] * 3)
    envs.reset(seed=0)
    for _ in range(21):  # two episodes, with the step that resets between them
        envs.step(np.zeros(3, dtype=np.int64))
    envs.close()
    assert list_episodes(tmp_path) == [str(number) for number in range(6)]
    for name in list_episodes(tmp_path):
        assert read_episode(tmp_path, name).tracks.num_frames == 11
    assert not list(tmp_path.glob(".*"))


def test_what_the_agent_does_not_see_can_be_recorded(tmp_path: Path) -> None:
    inner = make_env(frameskip=1, repeat_action_probability=0.0, render_mode="rgb_array")
    agent = gym.wrappers.AtariPreprocessing(inner, noop_max=0, frame_skip=4)
    env = RecordEpisodes(
        gym.wrappers.FrameStackObservation(agent, 4), tmp_path, frame_source="render", notes={"by": "me"}
    )
    play(env, 5)
    env.close()
    episode = read_episode(tmp_path, "0")
    plain = make_env(frameskip=4, repeat_action_probability=0.0)
    (frames,) = play(plain, 5)
    plain.close()
    np.testing.assert_array_equal(pictures(tmp_path, "0"), np.stack(frames))
    meta = episode.tracks.meta
    assert (meta["frameskip"], meta["env_id"], meta["seed"], meta["by"]) == (4, "ALE/Breakout-v5", 0, "me")
    assert meta["action_meanings"] == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert episode.tracks.ram.shape == (6, 128)
    assert episode.tracks.lives.tolist() == [5] * 6


def test_actions_that_are_no_numbers_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseEnv, "action_space", gym.spaces.Box(-1, 1, (2,)))
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    env.reset()
    env.step(env.action_space.sample())
    env.close()
    assert read_episode(tmp_path, "0").tracks.actions is None


def test_a_wrapper_below_that_resets_by_itself_starts_an_episode(tmp_path: Path) -> None:
    env = RecordEpisodes(gym.wrappers.Autoreset(NoiseEnv()), tmp_path)
    env.reset()
    for _ in range(15):
        env.step(0)
    env.close()
    assert [len(read_episode(tmp_path, name).paths) for name in "01"] == [11, 5]


def test_its_spec_makes_it_again(tmp_path: Path) -> None:
    env = RecordEpisodes(make_env(), tmp_path, notes={"by": "me"})
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    play(again, 2)
    again.close()
    assert read_episode(tmp_path, "0").tracks.meta["by"] == "me"
    env.close()


# Ends of other kinds

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from noise import NoiseEnv
from lapa_envs import RecordEpisodes
env = RecordEpisodes(NoiseEnv(), {out!r})
env.reset(seed=0)
for step in range({steps}):
    *_, terminated, _, _ = env.step(0)
    if terminated:
        env.reset()
    print(step, flush=True)
{end}
"""


def script(out: Path, steps: int, end: str = "") -> list[str]:
    text = SCRIPT.format(folder=str(ROOT / "tests"), out=str(out), steps=steps, end=end)
    return [sys.executable, "-c", text]


@pytest.mark.parametrize("end", ["", "raise RuntimeError('planted')", "sys.exit(3)"])
def test_a_program_that_ends_without_close_loses_nothing(end: str, tmp_path: Path) -> None:
    done = subprocess.run(script(tmp_path, 17, end), capture_output=True, text=True, timeout=PATIENCE)
    assert ("planted" in done.stderr) == ("planted" in end)
    assert [len(read_episode(tmp_path, name).tracks.actions) for name in list_episodes(tmp_path)] == [10, 7]
    assert read_episode(tmp_path, "1").tracks.truncated[-1]


def playing(out: Path, steps: int) -> subprocess.Popen[bytes]:
    """A process that plays on and on, when it has taken so many steps."""
    process = subprocess.Popen(
        script(out, 10**9), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    for _ in range(steps):
        process.stdout.readline()
    return process


# In the first episode, at its end, and while many are written.
at_some_step = pytest.mark.parametrize("steps", [1, 10, 300])


@at_some_step
def test_ctrl_c_loses_nothing(steps: int, tmp_path: Path) -> None:
    process = playing(tmp_path, steps)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all that it runs
    _, errors = process.communicate(timeout=PATIENCE)
    assert b"KeyboardInterrupt" in errors
    episodes = [read_episode(tmp_path, name) for name in list_episodes(tmp_path)]
    assert sum(len(episode.tracks.actions) for episode in episodes) >= steps
    assert all(len(episode.tracks.actions) == 10 for episode in episodes[:-1])
    assert episodes[-1].tracks.truncated[-1] or episodes[-1].tracks.terminated[-1]
    assert not list(tmp_path.glob(".*"))


@at_some_step
def test_a_killed_process_leaves_only_whole_episodes(steps: int, tmp_path: Path) -> None:
    process = playing(tmp_path, steps)
    process.kill()
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while list(tmp_path.glob(".*")) and time.monotonic() < deadline:
        time.sleep(0.05)  # the process that writes ends after it
    assert not list(tmp_path.glob(".*"))
    for name in [path.name for path in tmp_path.iterdir()]:
        truth = read_episode(tmp_path, name).tracks
        assert truth.num_frames == 11
        assert truth.terminated[-1]


def step_until_told(env: gym.Env[Any, Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        env.step(0)
        time.sleep(0.01)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    env = RecordEpisodes(NoiseEnv(), tmp_path / "file" / "bulk_videos")
    env.reset()
    with pytest.raises(NotADirectoryError, match="file"):
        step_until_told(env)
    env.close()


def test_a_writer_that_is_killed_is_told(tmp_path: Path) -> None:
    env = RecordEpisodes(NoiseEnv(), tmp_path)
    play(env, 3)
    assert env._writer._frames is not None
    env._writer._frames._process.kill()
    with pytest.raises(BrokenPipeError, match="the process that writes frames was killed"):
        step_until_told(env)
    play(env, 10)  # goes on with another
    env.close()
    assert len(read_episode(tmp_path, "0").paths) == 11


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (
            lambda: gym.make("CartPole-v1"),
            {},
            r"a recording wants observations of \(rows, columns, 3\) uint8.*CartPole|Box",
        ),
        (lambda: gym.vector.SyncVectorEnv([NoiseEnv]), {}, "takes a single environment; wrap each one"),
        (NoiseEnv, {"frame_source": "render"}, "needs render_mode='rgb_array', not None; pass it to gym.make"),
        (NoiseEnv, {"notes": {"folder": Path("x")}}, "notes cannot be kept: .*PosixPath.*; take plain values"),
        (NoiseEnv, {"frame_source": "ram"}, "frame_source 'ram' is unknown; take one of obs, render"),
    ],
    ids=["no frames", "vector", "render mode", "notes", "frame source"],
)
def test_what_does_not_fit_is_refused_at_once(make: Any, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    env = make()
    with pytest.raises(DataError, match=said) as caught:
        RecordEpisodes(env, tmp_path, **options)
    assert "\n" not in str(caught.value)
    env.close()
