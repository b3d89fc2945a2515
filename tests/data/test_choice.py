"""Which clips of an episode are used: every rule by itself, and what drawing at random promises."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from lapa.data.choice import ClipChoice, draw_apart
from lapa.data.episodes import Tracks
from lapa.data.store import StoredEpisode


def episode(*numbers: int, name: str = "0", start: int = 100) -> StoredEpisode:
    return StoredEpisode(name, start, np.array(numbers or range(20)), Tracks())


def starts(choice: ClipChoice, of: StoredEpisode, frames: int = 2) -> list[int]:
    """Places in the episode at which the chosen clips begin."""
    return [
        start + step * number - of.start for start, count, step in choice.runs(of, frames) for number in range(count)
    ]


def test_by_default_every_clip_is_used_and_a_run_stays_one_run():
    whole = episode()
    assert ClipChoice().runs(whole, 2) == [(100, 19, 1)]
    assert ClipChoice(skip_first=3, stride=4).runs(whole, 2) == [(103, 4, 4)]
    with_gap = episode(0, 1, 2, 5, 6, 7, 8)
    assert [run[:2] for run in ClipChoice().runs(with_gap, 3)] == with_gap.runs(3)


def test_the_first_frames_are_in_no_clip_across_gaps_too():
    with_gap = episode(0, 1, 2, 5, 6, 7, 8)
    assert starts(ClipChoice(skip_first=1), with_gap) == [1, 3, 4, 5]
    assert starts(ClipChoice(skip_first=4), with_gap) == [4, 5]
    assert starts(ClipChoice(skip_first=7), with_gap) == []


def test_a_stride_counts_the_clips_of_an_episode_across_gaps():
    with_gap = episode(0, 1, 2, 3, 6, 7, 8, 9, 10)
    every = starts(ClipChoice(), with_gap)
    for stride in (1, 2, 3, 5, 50):
        assert starts(ClipChoice(stride=stride), with_gap) == every[::stride]
    assert starts(ClipChoice(skip_first=1, stride=2), with_gap) == starts(ClipChoice(skip_first=1), with_gap)[::2]


def test_drawn_clips_depend_on_the_seed_and_the_name_of_the_episode_alone():
    choice = ClipChoice(max_frames=5, min_gap=2)
    drawn = starts(choice, episode())
    assert drawn == starts(choice, episode(start=7))
    assert len(drawn) == 5
    others = {tuple(starts(choice, episode(name=str(name)))) for name in range(1, 20)}
    others |= {tuple(starts(ClipChoice(max_frames=5, min_gap=2, seed=seed), episode())) for seed in range(1, 20)}
    assert len(others) > 30


@pytest.mark.parametrize("numbers", [range(40), [*range(5), *range(7, 10), *range(20, 41), 50, 51]], ids=["", "gaps"])
@pytest.mark.parametrize("gap", [1, 2, 5, 9])
@pytest.mark.parametrize("stride", [1, 2])
def test_drawn_clips_keep_their_distance_and_are_as_many_as_fit(numbers, gap, stride):
    of = episode(*numbers)
    allowed = starts(ClipChoice(skip_first=3, stride=stride), of)
    fit = 0
    after = -1
    for place in allowed:  # as many as can be: always the next one that keeps the distance
        if of.numbers[place] >= after:
            fit, after = fit + 1, of.numbers[place] + gap
    for wanted in (1, 3, fit, fit + 1, 1000):
        for seed in range(5):
            drawn = starts(ClipChoice(3, stride, wanted, gap, seed), of)
            assert len(drawn) == min(wanted, fit)
            assert set(drawn) <= set(allowed)
            assert len(drawn) < 2 or np.diff(of.numbers[drawn]).min() >= gap


@pytest.mark.parametrize(("count", "gap"), [(1, 5), (2, 1), (3, 2), (3, 4)])
def test_all_draws_that_keep_the_distance_are_equally_likely(count, gap):
    rng = np.random.default_rng(0)
    possible = [each for each in combinations(range(10), count) if count == 1 or np.diff(each).min() >= gap]
    found = Counter(tuple(draw_apart(np.arange(10), count, gap, rng).tolist()) for _ in range(200 * len(possible)))
    assert set(found) == set(possible)
    assert 130 < min(found.values()) <= max(found.values()) < 280
