"""What is measured on the recordings before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import toy_episode, write_episode
from lapa import load_config, train
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.setup import frame_format, make_datasets, measure
from lapa.engine.validation import Validator
from lapa.errors import ConfigError, DataError

SEEN = FrameFormat(40, 32)


def test_without_names_the_actions_are_counted_over_all_episodes(tmp_path: Path) -> None:
    frames, _ = toy_episode(np.random.default_rng(0), 6)
    for name, highest in (("0", 2), ("1", 6), ("2", 1)):
        write_episode(tmp_path / name, frames, np.array([0, 1, 0, 0, 1, highest]))
    store = open_store(tmp_path)
    assert measure(store, store.episodes, SEEN).num_actions == 7


@pytest.mark.parametrize(("names", "expected"), [(None, 5), (["NOOP", "FIRE", "LEFT"], 5), (list("abcdefghi"), 9)])
def test_names_of_actions_may_be_missing_or_null(
    record_toy: Callable[..., Path], tmp_path: Path, names: Any, expected: int
) -> None:
    store = open_store(record_toy(tmp_path, with_actions=True))
    highest = max(int(episode.tracks["actions"].max()) for episode in store.episodes) + 1
    for episode in store.episodes[: len(store.episodes) if names and len(names) > 5 else 2]:
        episode.tracks.meta["action_meanings"] = names
    assert highest == 5
    assert measure(store, store.episodes, SEEN).num_actions == expected


def test_a_first_validation_that_is_nan_does_not_stay_the_best(
    toy_store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, calls = Validator.metrics, iter(range(100))

    def spoilt(self: Validator, progress: float) -> dict[str, float]:
        found = metrics(self, progress)
        return {**found, "val/recon/mse": math.nan} if next(calls) == 0 else found

    monkeypatch.setattr(Validator, "metrics", spoilt)
    overrides = ["data.downsample=1", f"training.out={tmp_path}", "training.validate_every=5"]
    summary = train(load_config("debug", overrides=overrides), toy_store, lambda _: None)
    assert math.isfinite(summary.metrics["val/recon/mse"])


def test_the_configuration_says_how_frames_are_fitted(toy_store: FrameStore) -> None:
    config = load_config("debug", overrides=["data.resize=[24,20]", "data.fit=pad", "data.downsample=2"])
    assert frame_format(config, toy_store) == FrameFormat(40, 32, "grey", 2, (24, 20), "pad")
    with pytest.raises(ConfigError, match=r"^data\.resize: \[24, 7\] leaves frames of 24 x 7"):
        frame_format(load_config("debug", overrides=["data.resize=[24,7]", "data.downsample=1"]), toy_store)


def test_the_configuration_says_which_clips_are_trained_on(toy_store: FrameStore) -> None:
    split = {"train": ["0", "1", "2"], "val": ["3"], "test": ["4"]}

    def lengths(*overrides: str) -> list[int]:
        config = load_config("debug", overrides=["data.downsample=1", *overrides])
        return [len(part) for part in make_datasets(config, toy_store, split)]

    assert lengths() == [36, 12]  # 13 frames an episode
    assert lengths("data.skip_first=3") == [27, 9]
    assert lengths("data.skip_first=3", "data.stride=2") == [15, 5]
    assert lengths("data.max_frames=2") == [6, 2]
    assert lengths("data.max_frames=100", "data.min_gap=6") == [6, 2]
    with pytest.raises(DataError, match=r"^data\.skip_first: "):
        lengths("data.skip_first=12")


def test_frames_are_not_mirrored_where_actions_are_learnt_from(toy_store: FrameStore) -> None:
    config = load_config(preset="rssm_debug", overrides=["data.mirror=0.5", "data.downsample=1"])
    with pytest.raises(ConfigError, match=r"data\.mirror: 'rssm' learns from actions.* set it to 0$"):
        make_datasets(config, toy_store, {"train": ["0"], "val": ["1"]})
