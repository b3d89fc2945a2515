"""Exported datasets hold what the latent-action dataset holds, frame by frame and step by step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest

from lapa.config import load_config
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lapa.errors import DataError
from lapa.inference.extraction import LatentActionDataset, extract
from lapa.systems.latent_action.model import LatentActionModel
from lapa_envs import export
from lapa_envs.export import segments, to_minari, to_npz


def quiet(message: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, tmp_path_factory: pytest.TempPathFactory
) -> LatentActionDataset:
    out = tmp_path_factory.mktemp("dataset") / "latent_actions.lapa"
    extract(breakout_checkpoint, breakout_store, out, notify=quiet)
    return LatentActionDataset(out)


def toy_dataset(root: Path, *overrides: str) -> LatentActionDataset:
    """The recording in ``root``, labelled by an untrained model."""
    config = load_config("debug", overrides=overrides)
    model = LatentActionModel(config.model, FrameFormat(40, 32))
    save_checkpoint(root.with_suffix(".pt"), model, config, split={}, step=0, metrics={})
    extract(load_checkpoint(root.with_suffix(".pt")), open_store(root), root.with_suffix(".lapa"), notify=quiet)
    return LatentActionDataset(root.with_suffix(".lapa"))


def load(out: Path, monkeypatch: pytest.MonkeyPatch, name: str = "latent-actions-v0") -> minari.MinariDataset:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    return minari.load_dataset(name)


def test_a_minari_dataset_reads_back_equal(
    dataset: LatentActionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_minari(dataset, tmp_path, notify=quiet)
    assert "MINARI_DATASETS_PATH" not in os.environ
    read = load(tmp_path, monkeypatch)
    assert read.total_steps == len(dataset)
    assert read.total_episodes == len(dataset.episodes) == 6
    for episode, name in zip(read.iterate_episodes(), dataset.episodes, strict=True):
        whole = dataset.episode(name)
        truth = dataset.store.episodes[episode.id].tracks
        np.testing.assert_array_equal(episode.observations, whole.frames)  # lossless
        np.testing.assert_array_equal(episode.actions, whole.codes)
        np.testing.assert_array_equal(episode.infos["action"], [-1, *truth.actions])
        np.testing.assert_array_equal(episode.infos["lives"], truth.lives)
        np.testing.assert_array_equal(episode.rewards, truth.rewards)
        np.testing.assert_array_equal(episode.terminations, truth.terminated)
        np.testing.assert_array_equal(episode.truncations, truth.truncated)
        assert read.action_space.contains(episode.actions[0])
        assert read.observation_space.contains(episode.observations[0])
    assert read.storage.metadata["lapa"]["checkpoint"] == dataset.header["checkpoint"]


@pytest.mark.parametrize("write", [to_minari, to_npz])
def test_the_folder_may_be_relative(
    write: Callable[..., object], dataset: LatentActionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(dataset, Path("out"), notify=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if write is to_minari:
        assert load(Path("out").absolute(), monkeypatch).total_steps == len(dataset)


def test_its_frames_are_compressed(dataset: LatentActionDataset, tmp_path: Path) -> None:
    folder = to_minari(dataset, tmp_path, notify=quiet)
    file = folder / "data" / "main_data.hdf5"
    assert file.stat().st_size < 0.1 * 100_800 * len(dataset)
    with h5py.File(file) as stored:
        assert stored["episode_0/observations"].dtype == np.uint8
        assert stored["episode_0/observations"].compression == "gzip"


def test_npz_files_read_back_equal(dataset: LatentActionDataset, tmp_path: Path) -> None:
    paths = to_npz(dataset, tmp_path / "out", notify=quiet)
    assert [path.stem for path in paths] == dataset.episodes
    said = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert said["files"] == [path.name for path in paths]
    assert (said["num_codes"], tuple(said["grid"])) == (dataset.header["num_codes"], dataset.codes.shape[1:])
    for path in paths:
        whole = dataset.episode(path.stem)
        with np.load(path, allow_pickle=False) as stored:
            np.testing.assert_array_equal(stored["observations"], whole.frames)
            np.testing.assert_array_equal(stored["latent_actions"], whole.codes)
            np.testing.assert_array_equal(stored["actions"], whole.actions)
            assert len(stored["rewards"]) == len(stored["lives"]) - 1 == len(whole.codes)


def test_no_transition_crosses_a_gap(record_toy: Callable[..., Path], tmp_path: Path) -> None:
    root = record_toy(tmp_path / "toy", episodes=2, steps=9)
    for number in (4, 5):
        (root / "0" / f"{number}.png").unlink()
    whole = {name: open_store(root).episodes[0].tracks for name in "0"}["0"]
    dataset = toy_dataset(root)
    pieces = list(segments(dataset))
    assert [piece.name for piece in pieces] == ["0", "0~1", "1"]
    assert [len(piece.codes) for piece in pieces] == [3, 3, 9]
    assert sum(len(piece.codes) for piece in pieces) == len(dataset)
    assert [piece.truncated.tolist() for piece in pieces[:2]] == [[False, False, True]] * 2
    np.testing.assert_array_equal(pieces[0].actions, whole.actions[:3])
    np.testing.assert_array_equal(pieces[1].actions, whole.actions[6:])
    np.testing.assert_array_equal(pieces[1].frames, dataset.episode("0").frames[4:])


@pytest.mark.parametrize("with_actions", [True, False])
def test_what_a_recording_does_not_tell_is_marked(
    record_toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_actions: bool
) -> None:
    dataset = toy_dataset(record_toy(tmp_path / "toy", with_actions=with_actions), "model.tokens=1")
    to_minari(dataset, tmp_path / "out", "toy-v3", notify=quiet)
    read = load(tmp_path / "out", monkeypatch, "toy-v3")
    assert read.action_space == gym.spaces.Discrete(16)
    episode = read[0]
    assert episode.actions.shape == (12,)
    assert (episode.infos["lives"] == -1).all()
    assert (episode.infos["action"][1:] >= 0).all() == with_actions
    assert not episode.rewards.any()
    assert episode.truncations.tolist() == [False] * 11 + [True]


@pytest.mark.parametrize("name", ["frames", "a/b-v0", "a/b/c-v0", "../up-v0", ""])
def test_names_that_minari_would_not_take_are_refused(name: str, dataset: LatentActionDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no Minari name without a namespace; take one such as latent-actions-v0"):
        to_minari(dataset, tmp_path / "out", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [to_minari, to_npz])
def test_what_is_there_is_kept(write: Callable[..., object], dataset: LatentActionDataset, tmp_path: Path) -> None:
    out = tmp_path / "latent-actions-v0" if write is to_npz else tmp_path
    (tmp_path / "latent-actions-v0").mkdir()
    (tmp_path / "latent-actions-v0" / "mine").touch()
    with pytest.raises(DataError, match="latent-actions-v0: holds something already; delete it, or name another"):
        write(dataset, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["latent-actions-v0", "mine"]


@pytest.mark.parametrize("write", [to_minari, to_npz])
def test_an_export_that_fails_midway_leaves_nothing(
    write: Callable[..., object], dataset: LatentActionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export.segment

    def fail_late(episode, *rest):
        if episode.name == "3":
            raise OSError(28, "No space left on device")
        return whole(episode, *rest)

    monkeypatch.setattr(export, "segment", fail_late)
    with pytest.raises(OSError, match="No space"):
        write(dataset, tmp_path / "out")
    assert [path for path in tmp_path.rglob("*") if path.name != "out"] == []


def test_without_minari_the_remedy_is_told(
    dataset: LatentActionDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(DataError, match=r"--to minari: needs the package minari; pip install 'lapa\[export\]'"):
        to_minari(dataset, tmp_path)
