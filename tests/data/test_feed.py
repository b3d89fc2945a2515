"""Batches are the same wherever the frames are, and come in the sampler's order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from lapa.data import feed
from lapa.data.clips import ClipDataset, Clips, ClipSampler
from lapa.data.feed import Feed, host_memory, place
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import FrameStore

CPU = torch.device("cpu")
FORMAT = FrameFormat(40, 32, "grey", 2)


@pytest.fixture
def store(record_toy: Callable[..., Path], tmp_path: Path) -> FrameStore:
    return open_store(record_toy(tmp_path / "toy"))


def batches(store: FrameStore, placement: str, num_workers: int = 0, count: int = 12, first: int = 0) -> list[Clips]:
    dataset = ClipDataset(store, store.episodes, FORMAT)
    assert place([dataset], placement, CPU) == placement
    sampler = ClipSampler(len(dataset), 8, seed=1, first=first)
    return list(islice(Feed(dataset, sampler, CPU, num_workers), count))


@pytest.mark.parametrize(("placement", "num_workers"), [("memory", 0), ("device", 0), ("disk", 0), ("disk", 2)])
def test_batches_are_those_of_the_sampler(store: FrameStore, placement: str, num_workers: int) -> None:
    dataset = ClipDataset(store, store.episodes, FORMAT)
    expected = [dataset[index] for index in islice(ClipSampler(len(dataset), 8, seed=1), 12)]
    for got, wanted in zip(batches(store, placement, num_workers), expected, strict=True):
        assert torch.equal(got.current, wanted.current)
        assert torch.equal(got.next, wanted.next)


def test_workers_that_read_ahead_do_not_change_what_comes_after_a_resume(store: FrameStore) -> None:
    whole = batches(store, "disk", num_workers=2)
    resumed = batches(store, "disk", num_workers=2, first=5, count=7)
    assert all(torch.equal(a.next, b.next) for a, b in zip(whole[5:], resumed, strict=True))


def test_a_feed_draws_no_random_numbers(store: FrameStore) -> None:
    before = torch.get_rng_state()
    batches(store, "disk", num_workers=1, count=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_feed_measures_how_long_it_was_waited_for(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ClipDataset(store, store.episodes, FORMAT)
    instance = Feed(dataset, ClipSampler(len(dataset), 8, seed=1), CPU, 0)
    assert instance.waited == 0
    clock = iter([10.0, 10.5, 20.0, 20.25])
    monkeypatch.setattr(feed.time, "perf_counter", lambda: next(clock))
    next(instance)
    next(instance)
    assert instance.waited == pytest.approx(0.75)


def test_frames_that_do_not_fit_stay_on_disk(store: FrameStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (ClipDataset(store, store.episodes[rows], FORMAT) for rows in (slice(2), slice(2, 5)))
    needed = first.frame_bytes + second.frame_bytes
    monkeypatch.setattr(feed, "host_memory", lambda: int(needed / feed.SHARE_OF_MEMORY) - 1)
    assert place([first, second], "auto", CPU) == "disk"
    assert (first.kept_on, second.kept_on) == (None, None)
    monkeypatch.setattr(feed, "host_memory", lambda: int(needed / feed.SHARE_OF_MEMORY) + 10)
    assert place([first, second], "auto", CPU) == "memory"
    assert (first.kept_on, second.kept_on) == (CPU, CPU)


def test_the_hosts_free_memory_is_a_plausible_number() -> None:
    assert 2**28 < host_memory() < 2**46
