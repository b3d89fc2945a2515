from __future__ import annotations

from itertools import chain, islice

import numpy as np
import pytest
import torch

from lapa.contracts import Clips, ClipSpec
from lapa.data.choice import ClipChoice
from lapa.data.clips import ClipDataset, ClipSampler
from lapa.data.episodes import Tracks
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.packing import open_store
from lapa.data.splits import split_episodes
from lapa.data.store import FrameStore, store_writer
from lapa.errors import DataError

CPU = torch.device("cpu")
FORMAT = FrameFormat(40, 32, "grey", 2)
SHARES = (0.8, 0.1, 0.1)


@pytest.fixture
def store(record_toy, tmp_path) -> FrameStore:
    """Four toy episodes of six frames; frame 3 of episode ``1`` is lost."""
    root = record_toy(tmp_path / "toys", episodes=4, steps=5)
    (root / "1" / "3.png").unlink()
    return open_store(root)


@pytest.mark.parametrize("count", [3, 4, 10, 37])
def test_the_split_deals_every_episode_to_exactly_one_part(count):
    names = [str(number) for number in range(count)]
    parts = split_episodes(names, SHARES, seed=0)
    assert list(parts) == ["train", "val", "test"]
    assert all(parts.values())
    assert sorted(chain(*parts.values())) == sorted(names)


def test_the_split_keeps_to_the_shares():
    parts = split_episodes([str(number) for number in range(100)], (0.7, 0.2, 0.1), seed=1)
    assert [len(part) for part in parts.values()] == [70, 20, 10]


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    names = [str(number) for number in range(20)]
    assert split_episodes(names, SHARES, seed=3) == split_episodes(names[::-1], SHARES, seed=3)
    assert split_episodes(names, SHARES, seed=3) != split_episodes(names, SHARES, seed=4)


def test_too_few_episodes_to_split_are_refused():
    with pytest.raises(DataError, match=r"only 2 usable episode\(s\).*record more"):
        split_episodes(["0", "1"], SHARES, seed=0)
    with pytest.raises(DataError, match="no training episode out of 3"):
        split_episodes(["0", "1", "2"], (0.1, 0.6, 0.3), seed=0)


def test_a_pair_is_a_frame_and_the_very_next_one(store):
    pairs = ClipDataset(store, store.episodes, FORMAT)
    assert pairs.starts.tolist() == [0, 1, 2, 3, 4, 6, 7, 9, 11, 12, 13, 14, 15, 17, 18, 19, 20, 21]
    batch = pairs[range(len(pairs))]
    assert batch.current.shape == batch.next.shape == (len(pairs), FORMAT.channels, *FORMAT.size)
    assert batch.current.dtype == torch.uint8
    for frames, offset in ((batch.current, 0), (batch.next, 1)):
        assert torch.equal(frames, prepare(torch.from_numpy(store.frames(pairs.starts + offset)), FORMAT))


def test_a_batch_keeps_the_order_it_was_asked_for(store):
    pairs = ClipDataset(store, store.episodes, FORMAT)
    batch = pairs[[5, 0, 5, 1]]
    for row, index in enumerate([5, 0, 5, 1]):
        assert torch.equal(batch.current[row], pairs[index].current[0])
        assert torch.equal(batch.next[row], pairs[index].next[0])


def test_a_dataset_holds_only_its_own_episodes(store):
    pairs = ClipDataset(store, [store.episodes[3], store.episodes[1]], FORMAT)
    assert pairs.starts.tolist() == [17, 18, 19, 20, 21, 6, 7, 9]


def test_batches_of_frames_that_are_kept_and_of_frames_that_are_read_are_equal(store):
    chosen = [store.episodes[2], store.episodes[0], store.episodes[1]]
    read, kept = ClipDataset(store, chosen, FORMAT), ClipDataset(store, chosen, FORMAT)
    kept.keep_on(CPU, chunk=5)
    assert (read.kept_on, kept.kept_on) == (None, CPU)
    for index in ([0], [7, 2, 2], range(len(read)), 4, np.array([3, 1])):
        assert torch.equal(read[index].current, kept[index].current)
        assert torch.equal(read[index].next, kept[index].next)


def test_the_size_of_the_prepared_frames_is_known_before_they_are_prepared(store):
    pairs = ClipDataset(store, store.episodes[:2], FORMAT)
    size = pairs.frame_bytes
    pairs.keep_on(CPU)
    assert pairs._kept.nbytes == size


def test_neighbouring_pairs_are_read_and_moved_once(store):
    pairs = ClipDataset(store, store.episodes, FORMAT)
    raw = pairs.read([0, 1, 2])
    assert len(raw.frames) == 4
    prepared = raw.prepared(CPU, FORMAT)
    assert torch.equal(prepared.current[1:], prepared.next[:-1])


def test_a_batch_is_cut_into_micro_batches_in_order(store):
    batch = ClipDataset(store, store.episodes, FORMAT)[range(6)]
    parts = batch.chunk(3)
    assert [len(part) for part in parts] == [2, 2, 2]
    assert torch.equal(torch.cat([part.next for part in parts]), batch.next)


def test_where_says_in_which_file_a_pair_begins(store):
    pairs = ClipDataset(store, store.episodes, FORMAT)
    assert [pairs.where(index) for index in (0, 6, 7, 8)] == ["0/0.png", "1/1.png", "1/4.png", "2/0.png"]


@pytest.mark.parametrize("kept", [False, True])
def test_the_mean_frame_is_the_mean_of_what_the_model_sees(store, kept):
    pairs = ClipDataset(store, store.episodes, FORMAT)
    if kept:
        pairs.keep_on(CPU)
    expected = to_float(pairs[range(len(pairs))].current).mean(0)
    assert torch.allclose(pairs.mean_frame(), expected, atol=1e-6)


def test_the_mean_frame_can_be_sampled(store):
    pairs = ClipDataset(store, store.episodes, FORMAT)
    ends = to_float(pairs[[0, len(pairs) - 1]].current).mean(0)
    assert torch.allclose(pairs.mean_frame(sample=2), ends, atol=1e-6)


def test_episodes_without_a_pair_are_refused(record_toy, tmp_path):
    root = record_toy(tmp_path / "toys", episodes=1, steps=3, with_actions=False)
    for number in (1, 2):
        (root / "0" / f"{number}.png").unlink()
    store = open_store(root)
    for episodes in (store.episodes, []):
        with pytest.raises(DataError, match="no 2 consecutive frames"):
            ClipDataset(store, episodes, FORMAT)


CHOICES = [
    ClipChoice(),
    ClipChoice(skip_first=2),
    ClipChoice(stride=2),
    ClipChoice(stride=3),
    ClipChoice(1, 2, max_frames=1),
    ClipChoice(max_frames=2, min_gap=1),
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_chosen_clips_are_the_same_read_and_kept_and_each_frame_is_kept_once(store, choice, frames):
    chosen = [store.episodes[2], store.episodes[0], store.episodes[1]]
    spec = ClipSpec(frames)
    read, kept = (ClipDataset(store, chosen, FORMAT, spec, choice) for _ in range(2))
    assert read.starts.tolist() == [
        start + step * number
        for episode in chosen
        for start, count, step in choice.runs(episode, frames)
        for number in range(count)
    ]
    kept.keep_on(CPU, chunk=5)
    assert kept.frame_bytes == kept._kept.nbytes
    assert sum(read.groups) == len(read)
    if choice.max_frames is None:
        assert len(kept._kept) == len(np.unique(read.starts[:, None] + np.arange(frames)))
    index = np.random.default_rng(0).permutation(len(read))
    assert torch.equal(read[index].frames, kept[index].frames)
    raw = torch.from_numpy(store.frames((read.starts[index][:, None] + np.arange(frames)).ravel()))
    assert torch.equal(read[index].frames.flatten(0, 1), prepare(raw, FORMAT))


def test_tracks_belong_to_the_chosen_clips(record_toy, tmp_path):
    store = open_store(record_toy(tmp_path / "toys", episodes=2, steps=9))
    clips = ClipDataset(store, store.episodes, FORMAT, ClipSpec(2, ("actions",)), ClipChoice(skip_first=1, stride=3))
    expected = [episode.tracks["actions"][step] for episode in store.episodes for step in (1, 4, 7)]
    assert clips[range(len(clips))].tracks["actions"].ravel().tolist() == expected


def test_a_choice_that_leaves_nothing_names_the_setting(store):
    with pytest.raises(DataError, match=r"^data\.skip_first: .* first 6 frames; lower it$"):
        ClipDataset(store, store.episodes, FORMAT, choice=ClipChoice(skip_first=6))


def draw(sampler: ClipSampler, count: int) -> list[list[int]]:
    return list(islice(iter(sampler), count))


def test_an_epoch_is_a_permutation_and_the_next_epoch_another():
    sampler = ClipSampler(num_clips=12, batch_size=3, seed=5)
    batches = draw(sampler, 8)
    first, second = list(chain(*batches[:4])), list(chain(*batches[4:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_short_rest_of_an_epoch_is_dropped():
    batches = draw(ClipSampler(num_clips=11, batch_size=3, seed=5), 6)
    for epoch in (batches[:3], batches[3:]):
        drawn = list(chain(*epoch))
        assert len(set(drawn)) == len(drawn) == 9


def test_batches_depend_on_the_seed_alone():
    np.random.seed(0)
    first = draw(ClipSampler(12, 3, seed=5), 8)
    np.random.seed(1)
    assert draw(ClipSampler(12, 3, seed=5), 8) == first
    assert draw(ClipSampler(12, 3, seed=6), 8) != first


@pytest.mark.parametrize("drawn", [0, 1, 3, 4, 9])
def test_a_sampler_told_how_many_batches_were_drawn_goes_on_with_the_very_next_one(drawn):
    whole = draw(ClipSampler(num_clips=14, batch_size=3, seed=5), drawn + 6)
    assert draw(ClipSampler(14, 3, seed=5, first=drawn), 6) == whole[drawn:]


@pytest.mark.parametrize("parts", [1, 2])
def test_ranks_share_each_micro_batch_in_order(parts):
    whole = draw(ClipSampler(25, 8, seed=5), 5)
    ranks = [draw(ClipSampler(25, 8, seed=5, parts=parts, rank=rank, world_size=2), 5) for rank in (0, 1)]
    for batch, first, second in zip(whole, *ranks, strict=True):
        size = 4 // parts
        cut = [first[:size], second[:size], first[size:], second[size:]]
        assert list(chain(*cut)) == batch


def test_fewer_pairs_than_a_batch_are_refused():
    with pytest.raises(DataError, match=r"7 training clips do not fill one batch of 8.*lower training\.batch_size"):
        ClipSampler(num_clips=7, batch_size=8, seed=0)


def padded_store(path) -> FrameStore:
    """Episodes of 3 and of 7 frames of one pixel's brightness each, one number missing in the second."""
    with store_writer(path, (8, 8)) as writer:
        for name, numbers in (("short", [0, 1, 2]), ("long", [0, 1, 2, 3, 4, 6, 7])):
            frames = [np.full((8, 8, 3), 10 * len(name) + number, dtype=np.uint8) for number in numbers]
            steps = numbers[-1]
            tracks = Tracks(actions=np.arange(steps), lives=np.arange(steps + 1))
            writer.add(name, np.array(numbers), tracks, frames)
    return FrameStore(path)


@pytest.mark.parametrize("kept", [False, True])
def test_short_episodes_are_padded_with_their_last_frame_and_a_mask_says_so(tmp_path, kept):
    store = padded_store(tmp_path / "short.lapa")
    spec = ClipSpec(4, ("actions", "lives"), padded=True)
    clips = ClipDataset(store, store.episodes, FrameFormat(8, 8, "grey"), spec)
    if kept:
        clips.keep_on(CPU)
    batch = clips[range(len(clips))]
    assert batch.frames[:, :, 0, 0, 0].tolist() == [
        [50, 51, 52, 52],
        [40, 41, 42, 43],
        [41, 42, 43, 44],
        [46, 47, 47, 47],
    ]
    assert batch.mask.tolist() == [[True] * 3 + [False], [True] * 4, [True] * 4, [True] * 2 + [False] * 2]
    assert batch.tracks["actions"].tolist() == [[0, 1, 1], [0, 1, 2], [1, 2, 3], [6, 6, 6]]
    assert batch.tracks["lives"].tolist() == [[0, 1, 2, 2], [0, 1, 2, 3], [1, 2, 3, 4], [6, 7, 7, 7]]
    parts = batch.chunk(2)
    assert torch.equal(torch.cat([part.mask for part in parts]), batch.mask)


def test_clips_that_are_not_padded_leave_short_episodes_out_and_are_all_real(tmp_path):
    store = padded_store(tmp_path / "short.lapa")
    clips = ClipDataset(store, store.episodes, FrameFormat(8, 8, "grey"), ClipSpec(4))
    assert clips[range(len(clips))].frames[:, 0, 0, 0, 0].tolist() == [40, 41]
    assert clips[range(len(clips))].mask.all()


@pytest.mark.parametrize(("share", "flipped"), [(0.0, []), (0.5, [1, 3]), (0.25, [3]), (1.0, [0, 1, 2, 3])])
def test_a_share_of_the_clips_is_mirrored_and_the_others_are_not(share, flipped):
    frames = torch.randint(256, (4, 2, 3, 5, 6), dtype=torch.uint8)
    expected = frames.clone()
    expected[flipped] = frames[flipped].flip(-1)
    assert torch.equal(Clips(frames).mirrored(share).frames, expected)
