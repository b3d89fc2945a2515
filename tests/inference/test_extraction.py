"""The latent-action dataset: every frame once, every pair with its code, and where it all came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lapa.config import config_from_dict, load_config
from lapa.data.episodes import TRACKS_FILE
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, file_digest, load_checkpoint, save_checkpoint
from lapa.errors import CheckpointError, DataError
from lapa.inference import extraction
from lapa.inference.extraction import LatentActionDataset, extract
from lapa.inference.labelling import label
from lapa.systems.latent_action.model import LatentActionModel


@pytest.fixture(scope="module")
def path(breakout_checkpoint: Checkpoint, breakout_store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset extracted from real Breakout."""
    path = tmp_path_factory.mktemp("extracted") / "latent_actions.lapa"
    extract(breakout_checkpoint, breakout_store, path)
    return path


@pytest.fixture(scope="module")
def dataset(path: Path) -> LatentActionDataset:
    return LatentActionDataset(path)


@pytest.fixture
def toy_checkpoint(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A function that returns an untrained checkpoint for the toy's frames."""

    def make(*overrides: str) -> Checkpoint:
        config = load_config("debug", overrides=["data.downsample=1", *overrides])
        model = LatentActionModel(config.model, FrameFormat(40, 32))
        save_checkpoint(tmp_path / "toy.pt", model, config, split={}, step=0, metrics={})
        return load_checkpoint(tmp_path / "toy.pt", "cpu")

    return make


def test_every_pair_is_there_with_the_frames_of_the_store(
    dataset: LatentActionDataset, breakout_store: FrameStore
) -> None:
    starts = np.concatenate([episode.clip_starts() for episode in breakout_store.episodes])
    assert len(dataset) == len(starts)
    for index in (len(dataset) - 1, 0, 50, 49, 123):  # 49 ends the first episode
        transition = dataset[index]
        np.testing.assert_array_equal(transition.current, breakout_store.frame(starts[index]))
        np.testing.assert_array_equal(transition.next, breakout_store.frame(starts[index] + 1))


def test_codes_are_those_of_label(
    dataset: LatentActionDataset, breakout_checkpoint: Checkpoint, breakout_store: FrameStore
) -> None:
    for name in dataset.episodes[:2]:
        episode = dataset.episode(name)
        codes = label(breakout_checkpoint.model, episode.frames[episode.starts], episode.frames[episode.starts + 1])
        np.testing.assert_array_equal(episode.codes, codes.numpy())
    assert len(np.unique(dataset.codes)) > 1


def test_whole_episodes_come_back_by_name(dataset: LatentActionDataset, breakout_store: FrameStore) -> None:
    assert dataset.episodes == [episode.name for episode in breakout_store.episodes]
    for stored in breakout_store.episodes:
        episode = dataset.episode(stored.name)
        np.testing.assert_array_equal(episode.frames, breakout_store.frames(range(stored.start, stored.stop)))
        np.testing.assert_array_equal(episode.starts, np.arange(len(stored.numbers) - 1))
        np.testing.assert_array_equal(episode.actions, stored.tracks.actions)
        assert len(episode.codes) == len(episode.starts)
    with pytest.raises(KeyError, match="no episode 'seven'; there are 0, 1"):
        dataset.episode("seven")


@pytest.mark.parametrize(("num_codes", "narrowest"), [(16, np.uint8), (256, np.uint8), (300, np.uint16)])
def test_codes_take_the_narrowest_type(
    tmp_path: Path,
    record_toy: Callable[..., Path],
    toy_checkpoint: Callable[..., Checkpoint],
    num_codes: int,
    narrowest: type,
) -> None:
    store = open_store(record_toy(tmp_path / "toy", episodes=1))
    extract(toy_checkpoint(f"model.quantizer.num_codes={num_codes}"), store, tmp_path / "out.lapa")
    assert LatentActionDataset(tmp_path / "out.lapa").codes.dtype == narrowest


def test_actions_are_minus_one_where_only_pictures_were_recorded(
    tmp_path: Path, record_toy: Callable[..., Path], toy_checkpoint: Callable[..., Checkpoint]
) -> None:
    root = record_toy(tmp_path / "toy", episodes=2, steps=6)
    (root / "1" / TRACKS_FILE).unlink()
    store = open_store(root)
    extract(toy_checkpoint(), store, tmp_path / "out.lapa")
    dataset = LatentActionDataset(tmp_path / "out.lapa")
    np.testing.assert_array_equal(dataset.episode("0").actions, store.episodes[0].tracks.actions)
    np.testing.assert_array_equal(dataset.episode("1").actions, [-1] * 6)
    assert dataset[6].action == -1


def test_no_transition_crosses_a_gap(
    tmp_path: Path, record_toy: Callable[..., Path], toy_checkpoint: Callable[..., Checkpoint]
) -> None:
    root = record_toy(tmp_path / "toy", episodes=2, steps=6)
    (root / "0" / "3.png").unlink()
    for number in (1, 3, 5):
        (root / "1" / f"{number}.png").unlink()  # an episode without any pair
    extract(toy_checkpoint(), open_store(root), tmp_path / "out.lapa")
    dataset = LatentActionDataset(tmp_path / "out.lapa")
    np.testing.assert_array_equal(dataset.episode("0").starts, [0, 1, 3, 4])
    assert len(dataset.episode("1").starts) == 0


def test_the_header_says_where_the_codes_come_from(
    dataset: LatentActionDataset, breakout_checkpoint: Checkpoint
) -> None:
    header = dataset.header
    assert header["checkpoint"] == breakout_checkpoint.digest == file_digest(breakout_checkpoint.path)
    assert config_from_dict(header["config"]) == breakout_checkpoint.config
    assert header["split"] == breakout_checkpoint.split
    assert header["num_codes"] == 16
    assert tuple(header["grid"]) == breakout_checkpoint.model.grid == dataset.codes.shape[1:]


def test_each_frame_is_stored_once(path: Path, dataset: LatentActionDataset, breakout_store: FrameStore) -> None:
    assert len(dataset.store) == len(breakout_store)
    frames = sum(len(breakout_store.block(i)) for i in range(len(breakout_store)))
    assert path.stat().st_size < breakout_store.path.stat().st_size + 0.25 * frames + dataset.codes.nbytes


def test_a_data_loader_collates_transitions(dataset: LatentActionDataset) -> None:
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch.current.shape == batch.next.shape == (4, 210, 160, 3)
    assert batch.code.shape == (4, *dataset.codes.shape[1:])
    assert batch.action.tolist() == dataset.actions[:4].tolist()
    assert batch.current.dtype == torch.uint8


def test_a_failure_leaves_nothing_and_spares_what_was_there(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(extraction, "label_clips", fail)
    with pytest.raises(RuntimeError, match="planted"):
        extract(breakout_checkpoint, breakout_store, tmp_path / "new.lapa")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.lapa").write_text("of old")
    with pytest.raises(RuntimeError, match="planted"):
        extract(breakout_checkpoint, breakout_store, tmp_path / "old.lapa")
    assert (tmp_path / "old.lapa").read_text() == "of old"


def test_a_checkpoint_of_another_frame_size_is_refused(
    breakout_checkpoint: Checkpoint, record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    store = open_store(record_toy(tmp_path / "toy", episodes=1))
    with pytest.raises(CheckpointError, match="trained on frames of 210 x 160, these are 40 x 32"):
        extract(breakout_checkpoint, store, tmp_path / "out.lapa")
    assert not (tmp_path / "out.lapa").exists()


def test_a_plain_store_is_no_dataset(breakout_store: FrameStore) -> None:
    with pytest.raises(DataError, match="without latent actions; make one with `lapa extract`"):
        LatentActionDataset(breakout_store.path)


def test_a_missing_dataset_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such packed store"):
        LatentActionDataset(tmp_path / "none.lapa")


@pytest.mark.parametrize(("name", "option"), [("residual", "depth=3"), ("gumbel", "categoricals=3")])
def test_several_codes_a_place_stand_side_by_side(
    name: str, option: str, toy_checkpoint: Callable[..., Checkpoint], toy_store: FrameStore, tmp_path: Path
) -> None:
    checkpoint = toy_checkpoint(f"model.quantizer.name={name}", f"model.quantizer.{option}")
    extract(checkpoint, toy_store, tmp_path / "codes.lapa")
    dataset = LatentActionDataset(tmp_path / "codes.lapa")
    assert checkpoint.model.grid == (10, 8)
    assert dataset.codes.shape == (len(dataset), 10, 24)
    assert dataset.codes.max() < 16
    transition = dataset[7]
    np.testing.assert_array_equal(label(checkpoint.model, transition.current, transition.next), dataset.codes[7])
