from __future__ import annotations

import errno
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lapa.data import packing
from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks
from lapa.data.files import atomic_file
from lapa.data.packing import open_store
from lapa.data.png import read_png
from lapa.data.store import FrameStore, store_writer
from lapa.errors import DataError


class Notes(list):
    """Collects what a function notifies of."""

    def __call__(self, message: str) -> None:
        self.append(message)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def toys(record_toy: Callable[..., Path], tmp_path: Path) -> Path:
    """Three toy episodes of five frames."""
    return record_toy(tmp_path / "toys", episodes=3, steps=4)


def files_under(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_every_frame_is_stored_once_and_bit_exact(toys):
    store = open_store(toys)
    assert [episode.name for episode in store.episodes] == ["0", "1", "2"]
    assert len(store) == 3 * 5
    assert (store.episodes[0].start, store.episodes[-1].stop) == (0, len(store))
    for episode in store.episodes:
        recorded = [read_png(toys / episode.name / f"{number}.png") for number in episode.numbers]
        assert np.array_equal(store.frames(range(episode.start, episode.stop)), recorded)


def test_the_truth_is_stored_beside_the_frames(toys):
    for episode in open_store(toys).episodes:
        with np.load(toys / episode.name / TRACKS_FILE) as recorded:
            assert np.array_equal(episode.tracks.actions, recorded["actions"])
        assert episode.tracks.meta == {"env_id": "Toy-v0"}


def test_no_pair_crosses_a_gap_or_the_end_of_an_episode(toys):
    (toys / "1" / "2.png").unlink()
    store = open_store(toys)
    starts = [episode.clip_starts().tolist() for episode in store.episodes]
    assert starts == [[0, 1, 2, 3], [5, 7], [9, 10, 11, 12]]  # stored 5..8 are frames 0, 1, 3, 4 of episode 1


def test_actions_keep_to_their_pairs_across_a_gap(toys):
    with np.load(toys / "1" / TRACKS_FILE) as recorded:
        actions = recorded["actions"]
    (toys / "1" / "2.png").unlink()
    episode = open_store(toys).episodes[1]
    assert episode.actions(episode.clip_starts()).tolist() == actions[[0, 3]].tolist()


def test_actions_are_minus_one_where_none_were_recorded(record_toy, tmp_path):
    episode = open_store(record_toy(tmp_path / "toys", episodes=1, steps=3, with_actions=False)).episodes[0]
    assert episode.actions(episode.clip_starts()).tolist() == [-1, -1, -1]


def test_a_store_is_reused_while_the_recording_stays_as_it_is(toys, notes):
    before = open_store(toys).path.stat()
    store = open_store(toys, notify=notes)
    assert (store.path.stat().st_ino, store.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert notes == [f"reusing {store.path} (3 episodes, 15 frames)"]


def rewrite_a_frame(root: Path) -> None:
    Image.fromarray(255 - read_png(root / "0" / "0.png")).save(root / "0" / "0.png")


def rewrite_a_truth(root: Path) -> None:
    write_tracks(root / "0" / TRACKS_FILE, Tracks(actions=np.full(4, 3), meta={"note": "another"}))


def delete_a_frame(root: Path) -> None:
    (root / "0" / "4.png").unlink()
    (root / "0" / TRACKS_FILE).unlink()


def add_an_episode(root: Path) -> None:
    (root / "3").mkdir()
    for number in (0, 1):
        (root / "3" / f"{number}.png").write_bytes((root / "0" / f"{number}.png").read_bytes())


@pytest.mark.parametrize("change", [rewrite_a_frame, rewrite_a_truth, delete_a_frame, add_an_episode])
def test_a_store_is_packed_again_when_the_recording_has_changed(toys, notes, change):
    old = open_store(toys)
    change(toys)
    new = open_store(toys, notify=notes)
    assert notes[-1].startswith(f"packed {len(new.episodes)} episodes into")
    described = [
        (store.frames(range(len(store))).tobytes(), [episode.tracks.recorded() for episode in store.episodes])
        for store in (old, new)
    ]
    assert str(described[0]) != str(described[1])


def test_the_store_goes_where_it_is_told_to(toys, tmp_path):
    path = tmp_path / "elsewhere" / "toys.lapa"
    assert open_store(toys, path).path == path
    assert not (toys / ".lapa").exists()


@pytest.mark.parametrize("length", [0, 4, 8, 16, -8, -1], ids="{} bytes".format)
def test_a_cut_store_is_detected_and_packed_again(toys, notes, length):
    path = open_store(toys).path
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=f"{path}: not a packed store, or a cut one"):
        FrameStore(path)
    assert len(open_store(toys, notify=notes)) == 15
    assert notes[0].endswith("packing again")


def test_a_store_with_a_damaged_index_is_detected_and_packed_again(toys, notes):
    path = open_store(toys).path
    whole = path.read_bytes()
    begin = int.from_bytes(whole[-16:-8], "little")
    for place in range(begin, len(whole) - 16, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert len(open_store(toys, notify=notes)) == 15
    assert any(note.endswith("packing again") for note in notes)


def test_a_damaged_frame_is_refused_with_the_name_of_the_store(toys):
    path = open_store(toys).path
    whole = path.read_bytes()
    path.write_bytes(whole[:8] + b"\0" * 8 + whole[16:])
    with pytest.raises(DataError, match=str(path)):
        FrameStore(path).frame(0)


def test_a_missing_store_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"none\.lapa: no such packed store"):
        FrameStore(tmp_path / "none.lapa")


class FullDisk(io.FileIO):
    """A file on a disk that is full after a thousand bytes."""

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


def test_a_full_disk_leaves_no_file(toys, monkeypatch):
    before = files_under(toys)
    monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(handle, "wb"))
    with pytest.raises(OSError, match="No space left"):
        open_store(toys)
    assert files_under(toys) == before


def test_a_full_disk_leaves_the_old_file_as_it_was(toys, monkeypatch):
    path = open_store(toys).path
    old = path.read_bytes()
    rewrite_a_frame(toys)
    before = files_under(toys)
    monkeypatch.setattr(os, "fdopen", lambda handle, mode: FullDisk(handle, "wb"))
    with pytest.raises(OSError, match="No space left"):
        open_store(toys)
    assert files_under(toys) == before
    assert path.read_bytes() == old


def test_an_interrupted_packing_leaves_no_file(toys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = files_under(toys)
    monkeypatch.setattr(packing, "read_frame", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_store(toys)
    assert files_under(toys) == before


def test_an_atomic_file_has_no_name_before_it_is_whole(tmp_path):
    path = tmp_path / "a" / "whole.bin"
    with atomic_file(path) as file:
        file.write(b"12")
        assert not path.exists()
        file.write(b"34")
    assert path.read_bytes() == b"1234"
    assert files_under(tmp_path) == {path}


def text_for_a_picture(folder: Path) -> str:
    (folder / "2.png").write_text("no picture")
    return "2.png: not a picture"


def empty_picture(folder: Path) -> str:
    (folder / "2.png").write_bytes(b"")
    return "2.png: not a picture"


def cut_picture(folder: Path) -> str:
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    return "2.png: cannot be read"


def another_size(folder: Path) -> str:
    Image.new("RGB", (8, 16)).save(folder / "2.png")
    return "2.png: is 16 x 8, the other frames are 40 x 32"


def one_frame(folder: Path) -> str:
    for number in (1, 2, 3, 4):
        (folder / f"{number}.png").unlink()
    return f"{folder}: has 1 frame(s)"


def damaged_truth(folder: Path) -> str:
    (folder / TRACKS_FILE).write_bytes(b"PK")
    return f"{TRACKS_FILE}: cannot be used"


@pytest.mark.parametrize(
    "spoil", [text_for_a_picture, empty_picture, cut_picture, another_size, one_frame, damaged_truth]
)
def test_a_bad_episode_is_left_out_counted_and_named(toys, notes, spoil):
    reason = spoil(toys / "1")
    store = open_store(toys, notify=notes)
    assert [(episode.name, episode.start) for episode in store.episodes] == [("0", 0), ("2", 5)]
    assert np.array_equal(store.frame(5), read_png(toys / "2" / "0.png"))  # nothing of the bad one remains
    assert len(store) == 10
    named, counted = notes
    assert named.startswith(f"left out: {toys / '1'}")
    assert reason in named
    assert counted.endswith("left out 1")


def test_what_was_left_out_is_said_again_when_the_store_is_reused(toys, notes):
    cut_picture(toys / "1")
    open_store(toys)
    open_store(toys, notify=notes)
    assert [note.split(":")[0].split()[0] for note in notes] == ["reusing", "left"]


@pytest.mark.parametrize("packed_before", [False, True])
def test_strict_stops_at_a_bad_episode(toys, packed_before):
    cut_picture(toys / "1")
    if packed_before:
        open_store(toys)
    with pytest.raises(DataError, match=r"2\.png: cannot be read"):
        open_store(toys, strict=True)


def test_a_recording_without_a_usable_episode_is_refused_and_leaves_no_file(toys):
    for folder in ("0", "1", "2"):
        cut_picture(toys / folder)
    before = files_under(toys)
    with pytest.raises(DataError, match=r"no usable episode among 3; the first problem: .*2\.png"):
        open_store(toys)
    assert files_under(toys) == before


def test_the_first_episode_does_not_decide_the_frame_size_alone(toys, notes):
    for path in (toys / "0").glob("*.png"):
        Image.new("RGB", (8, 16)).save(path)
    store = open_store(toys, notify=notes)
    assert store.frame_size == (40, 32)
    assert [episode.name for episode in store.episodes] == ["1", "2"]


def test_a_pickled_store_opens_its_file_again(toys):
    store = open_store(toys)
    pickled = pickle.dumps(store)
    assert len(pickled) < 500  # a path, no frames
    assert np.array_equal(pickle.loads(pickled).frames(range(len(store))), store.frames(range(len(store))))


def test_header_and_extra_arrays_come_back(tmp_path):
    with store_writer(tmp_path / "a.lapa", (2, 3)) as writer:
        writer.add("x", np.array([0, 1]), Tracks(), [np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)])
        writer.header, writer.extra = {"kind": "test"}, {"codes": np.arange(4, dtype=np.uint8)}
    store = FrameStore(tmp_path / "a.lapa")
    assert store.header["kind"] == "test"
    assert store.extra["codes"].tolist() == [0, 1, 2, 3]
    assert store.frame(1).tolist() == np.ones((2, 3, 3)).tolist()


def test_a_compressed_block_moves_to_another_store_as_it_is(toys, tmp_path):
    source = open_store(toys)
    with store_writer(tmp_path / "copy.lapa", source.frame_size) as writer:
        episode = source.episodes[1]
        blocks = (source.block(index) for index in range(episode.start, episode.stop))
        writer.add(episode.name, episode.numbers, episode.tracks, blocks)
    assert np.array_equal(FrameStore(tmp_path / "copy.lapa").frame(0), source.frame(episode.start))


def test_real_breakout_takes_less_than_500_bytes_per_frame(breakout_store):
    assert breakout_store.path.stat().st_size / len(breakout_store) < 500
