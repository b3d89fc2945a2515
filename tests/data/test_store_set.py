"""Several packed stores as one, tracks that are read when asked for, and an order that fits memory."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lapa import load_config, testing, train
from lapa.contracts import ClipSpec
from lapa.data.clips import ClipDataset, ClipSampler
from lapa.data.episodes import TRACKS
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import FrameStore, store_writer
from lapa.data.store_set import OPEN, StoreSet
from lapa.errors import DataError

FORMAT = FrameFormat(*testing.systems.SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve stores of three episodes of seven frames, more than may be open at a time."""
    root = tmp_path_factory.mktemp("stores")
    for number in range(12):
        testing.toy_store(root / f"part_{number:02d}.lapa", episodes=3, steps=6, seed=number)
    return root


@pytest.fixture(scope="module")
def whole(folder: Path) -> FrameStore:
    return open_store(folder)


def test_a_folder_of_stores_is_read_as_one(folder: Path, whole: FrameStore) -> None:
    parts = [FrameStore(path) for path in sorted(folder.glob("*.lapa"))]
    assert isinstance(whole, StoreSet)
    assert len(whole) == sum(map(len, parts)) == 12 * 3 * 7
    expected = np.concatenate([part.frames(range(len(part))) for part in parts])
    assert np.array_equal(whole.frames(range(len(whole))), expected)
    assert [episode.name for episode in whole.episodes][:4] == ["part_00/0", "part_00/1", "part_00/2", "part_01/0"]
    assert whole.parts == list(range(0, 12 * 21, 21))
    assert whole.block(22) == parts[1].block(1)


def test_few_files_are_open_at_a_time(whole: FrameStore) -> None:
    whole.frames(range(len(whole)))
    assert len(whole._opened) == OPEN < len(whole.paths)


def test_tracks_of_a_closed_file_are_read_again(folder: Path, whole: FrameStore) -> None:
    first = FrameStore(sorted(folder.glob("*.lapa"))[0])
    whole.frames(range(len(whole) - 150, len(whole)))  # closes the first file
    episode = whole.episodes[1]
    assert set(episode.tracks) == set(TRACKS)
    for name in TRACKS:
        assert np.array_equal(episode.tracks[name], first.episodes[1].tracks[name]), name
    assert episode.tracks.meta["env_id"] == "Toy-v0"


def test_several_roots_are_read_as_one(folder: Path) -> None:
    first, second, *_ = sorted(folder.glob("*.lapa"))
    assert len(open_store([str(second), first])) == 42
    assert len(open_store([folder])) == 12 * 21


def test_several_recordings_are_packed_and_called_by_their_folders(
    record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    roots = [
        record_toy(tmp_path / name, episodes=2, steps=4, seed=seed) for seed, name in enumerate(("monday", "friday"))
    ]
    store = open_store(roots)
    assert [episode.name for episode in store.episodes] == ["monday/0", "monday/1", "friday/0", "friday/1"]
    assert len(store) == 20


def test_a_folder_of_stores_may_have_other_folders_beside_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "one.lapa").write_bytes(sorted(folder.glob("*.lapa"))[0].read_bytes())
    assert [episode.name for episode in open_store(tmp_path).episodes] == ["one/0", "one/1", "one/2"]


def test_a_folder_whose_name_is_a_number_may_be_named(tmp_path: Path) -> None:
    assert load_config("debug", overrides=["data.root=2024"]).data.root == "2024"


def test_a_packed_recording_with_a_damaged_index_is_packed_again(
    record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    root = record_toy(tmp_path / "toy")
    path = open_store(root).path
    content = bytearray(path.read_bytes())
    at = content.index(b"1/actions.npy") + 30
    content[at : at + 30] = bytes(30)
    path.write_bytes(content)
    said: list[str] = []
    assert len(open_store(root, notify=said.append).episodes[1].tracks["actions"]) == 12
    assert "packing again" in said[0]


def test_a_worker_process_gets_the_files_again(whole: FrameStore) -> None:
    again = pickle.loads(pickle.dumps(whole))
    assert np.array_equal(again.frame(100), whole.frame(100))
    assert [episode.name for episode in again.episodes] == [episode.name for episode in whole.episodes]


def test_the_fingerprint_is_of_all_files(folder: Path, whole: FrameStore) -> None:
    paths = sorted(folder.glob("*.lapa"))
    assert StoreSet(paths).header["fingerprint"] == whole.header["fingerprint"]
    assert StoreSet(paths[:-1]).header["fingerprint"] != whole.header["fingerprint"]


def test_stores_that_do_not_fit_together_are_refused_by_name(folder: Path, tmp_path: Path) -> None:
    ours, *_ = sorted(folder.glob("*.lapa"))
    frames = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    with store_writer(tmp_path / "small.lapa", (8, 8)) as writer:
        writer.add("0", np.arange(3), FrameStore(ours).episodes[0].tracks, frames)
        writer.header = {"skipped": []}
    with pytest.raises(DataError, match=r"small\.lapa: has frames of 8 x 8, .*part_00\.lapa of 40 x 32; keep"):
        open_store([ours, tmp_path / "small.lapa"])
    (tmp_path / "twin").mkdir()
    twin = tmp_path / "twin" / ours.name
    twin.write_bytes(ours.read_bytes())
    with pytest.raises(DataError, match=r"two stores are called 'part_00'; rename one"):
        open_store([ours, twin])
    with pytest.raises(DataError, match=r"data\.store: names the packed store of one folder"):
        open_store([ours, folder], tmp_path / "packed.lapa")


def test_a_damaged_track_is_refused_by_name_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.lapa"
    content = bytearray(sorted(folder.glob("*.lapa"))[0].read_bytes())
    at = content.index(b"1/ram.npy") + 60
    content[at : at + 20] = bytes(20)
    path.write_bytes(content)
    store = FrameStore(path)
    assert len(store.episodes[1].tracks["actions"]) == 6
    with pytest.raises(DataError, match=r"damaged\.lapa: its array '1/ram' is damaged .*delete the file"):
        store.episodes[1].tracks["ram"]


# Clips and their tracks


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("kept", [False, True])
def test_clips_have_so_many_frames_and_their_tracks(whole: FrameStore, frames: int, kept: bool) -> None:
    clips = ClipDataset(whole, whole.episodes, FORMAT, ClipSpec(frames, ("actions", "lives", "ram", "codes", "tokens")))
    if kept:
        clips.keep_on(torch.device("cpu"))
    assert len(clips) == 36 * (7 - frames + 1)
    numbers = [0, 5, len(clips) - 1]
    batch = clips[numbers]
    assert batch.frames.shape == (3, frames, 1, 40, 32)
    assert batch.tracks["actions"].shape == (3, frames - 1)
    assert batch.tracks["codes"].shape == (3, frames - 1, 1, 1)
    assert batch.tracks["lives"].shape == (3, frames)
    assert batch.tracks["ram"].shape == (3, frames, 2)
    assert batch.tracks["tokens"].shape == (3, frames, 1, 1)
    assert {name: track.dtype for name, track in batch.tracks.items()} == {
        "actions": torch.int64,
        "codes": torch.int64,
        "lives": torch.int64,
        "ram": torch.uint8,
        "tokens": torch.int64,
    }
    assert torch.equal(batch.tracks["codes"].flatten(1), batch.tracks["actions"]), "the toy's code is its action"
    bright = (batch.frames[:, :, 0] > 100).flatten(2)  # the square's corner is the first bright pixel
    corner = bright.int().argmax(2)
    assert torch.equal(torch.stack([corner // 32, corner % 32], -1), batch.tracks["ram"].long())


def test_a_clip_crosses_neither_a_gap_nor_the_end_of_an_episode(folder: Path, tmp_path: Path) -> None:
    source = FrameStore(sorted(folder.glob("*.lapa"))[0])
    with store_writer(tmp_path / "gap.lapa", source.frame_size) as writer:
        for name, numbers in (("0", [0, 1, 2, 5, 6, 7, 8]), ("1", [3, 4])):
            tracks = source.episodes[0].tracks
            known = {} if name == "1" else {"actions": np.arange(8)}
            blocks = (source.block(i) for i in range(len(numbers)))
            writer.add(name, np.array(numbers), type(tracks)(**known, meta={}), blocks)
        writer.header = {"skipped": []}
    store = FrameStore(tmp_path / "gap.lapa")
    assert store.episodes[0].clip_starts(3).tolist() == [0, 3, 4]
    assert store.episodes[0].clip_starts(2).tolist() == [0, 1, 3, 4, 5]
    assert store.episodes[1].clip_starts(3).tolist() == []
    assert store.episodes[0].numbers.tolist() == [0, 1, 2, 5, 6, 7, 8]
    clips = ClipDataset(store, store.episodes[:1], FORMAT, ClipSpec(3, ("actions",)))
    assert clips[[0, 1, 2]].tracks["actions"].tolist() == [[0, 1], [5, 6], [6, 7]]
    assert clips.where(1) == "0/5.png"


def test_a_clip_that_is_not_there_is_refused(whole: FrameStore) -> None:
    clips = ClipDataset(whole, whole.episodes, FORMAT)
    assert torch.equal(clips[[-1]].frames, clips[[len(clips) - 1]].frames)
    with pytest.raises(IndexError, match=f"there are {len(clips)}"):
        clips[[len(clips)]]


# The order


def drawn(sampler: ClipSampler, batches: int) -> list[list[int]]:
    return list(itertools.islice(sampler, batches))


GROUPS = [30, 7, 25, 40, 11, 18, 22, 5, 31, 12]  # 201 clips


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    """As if more than so many files were many."""
    monkeypatch.setattr("lapa.data.clips.WINDOW", 4)
    return 4


def test_each_batch_has_clips_of_all_files() -> None:
    # Of games one after the other, a model would know the last ones alone.
    files = np.array(
        [[clip // 100 for clip in batch] for batch in drawn(ClipSampler(500, 50, 0, groups=[100] * 5), 10)]
    )
    assert all(len(set(batch)) == 5 for batch in files)


def test_an_epoch_over_many_files_has_each_clip_once_and_few_files_at_a_time(window: int) -> None:
    batches = drawn(ClipSampler(201, 10, seed=0, groups=GROUPS), 20)
    clips = [clip for batch in batches for clip in batch]
    assert len(set(clips)) == 200, "all but the short rest"
    file = np.repeat(np.arange(len(GROUPS)), GROUPS)
    for number in range(len(batches) - 1):
        near = {int(file[clip]) for each in batches[number : number + 2] for clip in each}
        assert len(near) <= 2 * window, "two batches touch two windows at most"
    again = [clip for batch in drawn(ClipSampler(201, 10, seed=0, first=20, groups=GROUPS), 20) for clip in batch]
    assert sorted(again) != again
    assert again != clips, "the next epoch has another order"


@pytest.mark.parametrize("first", [0, 1, 7, 19, 20, 23, 45])
@pytest.mark.usefixtures("window")
def test_a_resumed_order_is_the_rest_of_the_order(first: int) -> None:
    assert (
        drawn(ClipSampler(201, 10, seed=3, first=first, groups=GROUPS), 30)
        == drawn(ClipSampler(201, 10, seed=3, groups=GROUPS), first + 30)[first:]
    )


@pytest.mark.usefixtures("window")
def test_ranks_share_the_batches_of_many_files() -> None:
    alone = drawn(ClipSampler(201, 8, seed=1, parts=2, groups=GROUPS), 30)
    ranks = [drawn(ClipSampler(201, 8, seed=1, parts=2, rank=r, world_size=2, groups=GROUPS), 30) for r in (0, 1)]
    for batch, left, right in zip(alone, *ranks, strict=True):
        assert [*left[:2], *right[:2], *left[2:], *right[2:]] == batch


def test_one_file_keeps_the_order_it_always_had() -> None:
    assert drawn(ClipSampler(36, 8, seed=3, groups=[36]), 9) == drawn(ClipSampler(36, 8, seed=3), 9)


def test_groups_are_the_files_of_the_chosen_episodes(whole: FrameStore) -> None:
    chosen = [episode for episode in whole.episodes if episode.name not in ("part_00/1", "part_02/0")]
    chosen = [episode for episode in chosen if not episode.name.startswith("part_05")]
    clips = ClipDataset(whole, chosen, FORMAT)
    assert clips.groups == [12, 18, 12, 18, 18, *[18] * 6]
    assert sum(clips.groups) == len(clips)


def test_a_run_trains_on_a_folder_of_stores_and_resumes_exactly(folder: Path, tmp_path: Path) -> None:
    def weights(out: str, steps: int, existing: str = "refuse") -> dict[str, torch.Tensor]:
        overrides = ["data.downsample=1", f"data.root={folder}", "data.placement=disk", "training.num_workers=0"]
        overrides += [f"training.out={tmp_path / out}", "training.steps=8", "training.checkpoint_every=4"]
        config = load_config("debug", overrides=[*overrides, "training.precision=fp32", "training.device=cpu"])
        train(config, open_store(config.data.root), lambda _: None, existing=existing)
        return torch.load(tmp_path / out / f"step_{steps}.pt", weights_only=True)["model"]

    whole = weights("run", 8)
    (tmp_path / "run" / "step_8.pt").unlink()
    resumed = weights("run", 8, "resume")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
