"""Each group of episodes is in each split, and without groups the split is what it always was."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from lapa.data.episodes import Tracks
from lapa.data.splits import deal, split_episodes
from lapa.data.store import StoredEpisode
from lapa.errors import DataError

SHARES = (0.8, 0.1, 0.1)
NAMES = [str(number) for number in range(30)]
STARTS = ["serve", "tunnel", "serve", "cleared", "rally"] * 6


def groups_in(split: list[str]) -> list[str]:
    return [STARTS[NAMES.index(name)] for name in split]


def old_split(names: list[str], seed: int) -> dict[str, list[str]]:
    """As it was before there were groups."""
    order = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    held_out = max(1, round(len(names) * 0.1))
    train = len(names) - 2 * held_out
    parts = {"train": order[:train], "val": order[train : train + held_out], "test": order[train + held_out :]}
    return {part: sorted(chosen) for part, chosen in parts.items()}


@pytest.mark.parametrize("count", [3, 10, 30])
def test_one_group_is_dealt_as_it_was_before_there_were_groups(count: int) -> None:
    assert split_episodes(NAMES[:count], SHARES, 7) == old_split(NAMES[:count], 7)
    assert split_episodes(NAMES[:count], SHARES, 7, ["serve"] * count) == old_split(NAMES[:count], 7)


@pytest.mark.parametrize("seed", range(5))
def test_each_split_has_episodes_of_each_group(seed: int) -> None:
    split = split_episodes(NAMES, SHARES, seed, STARTS)
    assert sorted(chain(*split.values())) == sorted(NAMES)
    for part, names in split.items():
        assert set(groups_in(names)) == set(STARTS), part
    assert {part: len(names) for part, names in split.items()} == {"train": 22, "val": 4, "test": 4}
    assert groups_in(split["test"]).count("serve") == 1, "a tenth of twelve"


def test_the_groups_are_dealt_by_names_groups_and_seed_alone() -> None:
    split = split_episodes(NAMES, SHARES, 3, STARTS)
    assert split_episodes(NAMES[::-1], SHARES, 3, STARTS[::-1]) == split
    assert split_episodes(NAMES, SHARES, 4, STARTS) != split
    assert split_episodes(NAMES, SHARES, 3, STARTS[1:] + STARTS[:1]) != split


def test_groups_of_fewer_than_three_are_dealt_together() -> None:
    starts = ["serve", "serve", "tunnel", "tunnel", "cleared"]
    assert split_episodes(NAMES[:5], SHARES, 1, starts) == old_split(NAMES[:5], 1)
    starts = ["serve"] * 8 + ["tunnel", "cleared"]
    assert split_episodes(NAMES[:10], SHARES, 1, starts) == old_split(NAMES[:10], 1), "two join the large group"
    pooled = split_episodes(NAMES[:10], SHARES, 1, ["serve"] * 7 + ["tunnel", "cleared", "rally"])
    assert all(set(names) & {"7", "8", "9"} for names in pooled.values()), "three are a group"


def test_what_leaves_nothing_for_training_is_refused() -> None:
    with pytest.raises(DataError, match="no training episode out of 6"):
        split_episodes(NAMES[:6], (0.1, 0.6, 0.3), 0, ["a"] * 3 + ["b"] * 3)
    with pytest.raises(DataError, match=r"only 2 usable episode\(s\)"):
        split_episodes(NAMES[:2], SHARES, 0, ["a", "b"])


def episode(name: str, **meta: str) -> StoredEpisode:
    return StoredEpisode(name, 0, np.arange(2), Tracks(meta=meta))


def test_recorded_episodes_are_grouped_by_their_start() -> None:
    started = [episode(name, start=start) for name, start in zip(NAMES, STARTS, strict=True)]
    assert deal(started, SHARES, 2) == split_episodes(NAMES, SHARES, 2, STARTS)
    assert deal([episode(name) for name in NAMES], SHARES, 2) == old_split(NAMES, 2)
