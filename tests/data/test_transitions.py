"""Transitions of other projects, in and out: what a row means, episodes over several files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lapa.cli import main
from lapa.config import load_config
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.data.transitions import write_transitions
from lapa.engine.training import train
from lapa.errors import DataError
from lapa.testing import toy_store

STARTS = (0, 5, 12)
"""Rows at which episodes begin: of 5, 7 and 8 rows."""
ROWS = 20


def rows() -> dict[str, np.ndarray]:
    """Twenty transitions of frames of one brightness each, with two fields of the game's memory."""
    return {
        "obs": np.broadcast_to(np.arange(ROWS, dtype=np.uint8)[:, None, None, None], (ROWS, 16, 24, 3)).copy(),
        "actions": np.arange(ROWS) % 8,
        "rewards": np.arange(ROWS, dtype=np.float32) / 2,
        "episode_starts": np.isin(np.arange(ROWS), STARTS),
        "level": np.arange(ROWS) // 4,
        "x_position": np.arange(ROWS) * 300,
    }


def write(folder: Path, cuts: tuple[int, ...] = (ROWS,), **changed: np.ndarray) -> Path:
    """The rows as files that end at the given rows."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, first = rows() | changed, 0
    for number, stop in enumerate(cuts):
        np.savez(folder / f"transitions_{number}.npz", **{name: array[first:stop] for name, array in arrays.items()})
        first = stop
    return folder


@pytest.mark.parametrize("cuts", [(20,), (5, 12, 20), (3, 9, 10, 20)], ids=str)
def test_episodes_go_on_from_file_to_file_and_never_over_a_start(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    store = open_store(write(tmp_path, cuts), notify=lambda _: None)
    assert [episode.count for episode in store.episodes] == [5, 7, 8]
    assert [int(frame[0, 0, 0]) for frame in store.frames(range(len(store)))] == list(range(ROWS))
    for episode, first in zip(store.episodes, STARTS, strict=True):
        tracks, steps = episode.tracks, episode.count - 1
        taken = np.arange(first, first + steps)
        assert tracks.actions is not None
        assert tracks.rewards is not None
        assert tracks.actions.tolist() == (taken % 8).tolist()
        assert tracks.rewards.tolist() == (taken / 2).tolist()
        assert tracks.meta["fields"] == ["level", "x_position"]
        assert tracks["fields"][:, 1].tolist() == [300.0 * row for row in range(first, first + episode.count)]


def test_an_episode_ends_where_the_next_one_begins_and_the_last_one_is_cut(tmp_path: Path) -> None:
    store = open_store(write(tmp_path), notify=lambda _: None)
    ends = [(episode.tracks.terminated, episode.tracks.truncated) for episode in store.episodes]
    for over, cut in ends:
        assert over is not None
        assert cut is not None
        assert not over[:-1].any()
        assert not cut[:-1].any()
    assert [bool(over[-1]) for over, _ in ends] == [True, True, False]
    assert [bool(cut[-1]) for _, cut in ends] == [False, False, True]


def test_other_shapes_of_frames_and_actions_come_to_the_same(tmp_path: Path) -> None:
    plain = rows()
    usual = open_store(write(tmp_path / "usual"), notify=lambda _: None)
    changes = {
        "first": {"obs": np.moveaxis(plain["obs"], -1, 1)},
        "grey": {"obs": plain["obs"][..., 0]},
        "hot": {"actions": np.eye(8)[plain["actions"]]},
        "column": {"actions": plain["actions"][:, None].astype(np.float64)},
    }
    for name, changed in changes.items():
        other = open_store(write(tmp_path / name, **changed), notify=lambda _: None)
        assert np.array_equal(other.frames(range(ROWS)), usual.frames(range(ROWS))), name
        for one, same in zip(other.episodes, usual.episodes, strict=True):
            assert np.array_equal(one.tracks["actions"], same.tracks["actions"]), name


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"obs": np.zeros((ROWS, 16, 24, 3))}, r"obs must be frames \(N, H, W, 3\) of uint8, not \(1, 16, 24, 3\) of"),
        ({"actions": np.full(ROWS, 0.5)}, "actions must be whole numbers from 0, or one-hot vectors"),
        ({"actions": np.ones((ROWS, 4))}, r"actions of shape \(5, 4\) must be one-hot"),
        ({"rewards": np.zeros(ROWS - 1)}, "arrays must have one row for each transition"),
    ],
)
def test_what_is_no_transition_is_refused_by_its_file(
    tmp_path: Path, changed: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(DataError, match=rf"transitions_0\.npz: {said}"):
        open_store(write(tmp_path, **changed), strict=True, notify=lambda _: None)


def test_a_missing_array_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "transitions_0.npz", obs=rows()["obs"], actions=rows()["actions"])
    with pytest.raises(DataError, match=r"transitions_0\.npz: has no array 'rewards'; transitions need obs, actions"):
        open_store(tmp_path, notify=lambda _: None)
    (tmp_path / "transitions_0.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"transitions_0\.npz: cannot be read \(it is no npz file\); replace or del"):
        open_store(tmp_path, notify=lambda _: None)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.lapa", episodes=5, steps=16)
    files = write_transitions(store, tmp_path / "npz", rows=30)
    assert [len(np.load(file)["obs"]) for file in files] == [30, 30, 25]
    again = open_store(tmp_path / "npz", notify=lambda _: None)
    assert np.array_equal(again.frames(range(len(store))), store.frames(range(len(store))))
    for one, other in zip(store.episodes, again.episodes, strict=True):
        for name in ("actions", "rewards"):
            assert np.array_equal(one.tracks[name], other.tracks[name])


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "toy.lapa", episodes=2, steps=4)
    write_transitions(store, tmp_path / "npz")
    with pytest.raises(DataError, match=r"npz: has transitions_\*\.npz already; delete them or name another folder"):
        write_transitions(store, tmp_path / "npz")


def test_the_commands_import_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write(tmp_path / "given"), tmp_path / "new" / "imported.lapa"
    assert main(["import", "--from", "npz", str(folder), "--out", str(out)]) == 0
    assert f"imported 3 episodes, 20 frames: {out}" in capsys.readouterr().out
    assert not (folder / ".lapa").exists()
    assert main(["import", "--from", "npz", str(folder), "--out", str(out)]) != 0
    assert "is there already" in capsys.readouterr().err
    assert main(["import", "--from", "npz", str(tmp_path / "new")]) != 0
    assert "holds no transitions_*.npz; name the folder that has them" in capsys.readouterr().err
    exported = tmp_path / "exported"
    assert main(["export", "--to", "npz", "--data", str(out), "--out", str(exported)]) == 0
    assert np.array_equal(np.load(exported / "transitions_0.npz")["obs"], rows()["obs"])
    assert main(["export", "--to", "onnx", "--data", str(out)]) != 0
    assert "only --to npz writes a recording" in capsys.readouterr().err


def test_a_recurrent_world_model_trains_on_them(tmp_path: Path) -> None:
    store: FrameStore = open_store(write(tmp_path / "given"), notify=lambda _: None)
    pace = ["training.steps=2", "training.batch_size=2", "data.downsample=1", f"training.out={tmp_path / 'run'}"]
    config = load_config("rssm_debug", overrides=[*pace, "model.ends=game", "model.sequence=6"])
    assert train(config, store, lambda _: None).steps == 2
