from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lapa.data.episodes import TRACKS_FILE, Tracks, list_episodes, read_episode, read_tracks, write_tracks
from lapa.errors import DataError


def episode_of(root: Path, *files: str, truth: Tracks | None = None, name: str = "0") -> Path:
    """An episode folder that holds the named files, all empty: listing an episode opens no picture."""
    folder = root / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    if truth is not None:
        write_tracks(folder / TRACKS_FILE, truth)
    return folder


def full_truth(steps: int) -> Tracks:
    return Tracks(
        actions=np.arange(steps),
        rewards=np.linspace(0, 1, steps, dtype=np.float32),
        terminated=np.arange(steps) == steps - 1,
        truncated=np.zeros(steps, dtype=bool),
        lives=np.full(steps + 1, 5),
        ram=np.arange((steps + 1) * 128).reshape(-1, 128).astype(np.uint8),
        meta={"env_id": "Toy-v0", "seed": 3},
    )


def test_frames_and_episodes_are_ordered_by_number(tmp_path):
    for name in ("10", "2", "1"):
        episode_of(tmp_path, "10.png", "2.png", "1.png", name=name)
    assert list_episodes(tmp_path) == ["1", "2", "10"]
    episode = read_episode(tmp_path, "2")
    assert episode.numbers.tolist() == [1, 2, 10]
    assert [path.name for path in episode.paths] == ["1.png", "2.png", "10.png"]


def test_numbered_episodes_come_before_named_ones(tmp_path):
    for name in ("b", "7", "a"):
        episode_of(tmp_path, name=name)
    assert list_episodes(tmp_path) == ["7", "a", "b"]


def test_leading_zeros_are_numbers(tmp_path):
    episode_of(tmp_path, "0009.png", "0010.png", "0100.png")
    assert read_episode(tmp_path, "0").numbers.tolist() == [9, 10, 100]


def test_two_files_of_one_number_are_refused_and_both_named(tmp_path):
    episode_of(tmp_path, "1.png", "01.png", "2.png")
    with pytest.raises(DataError) as error:
        read_episode(tmp_path, "0")
    assert "1.png" in str(error.value).replace("01.png", "")
    assert "01.png" in str(error.value)


def test_other_files_are_no_frames(tmp_path):
    episode_of(tmp_path, "0.png", "1.png", "cover.png", "-1.png", "2.png.part", "notes.txt", "3.jpg", ".4.png")
    assert read_episode(tmp_path, "0").numbers.tolist() == [0, 1]


def test_a_gap_keeps_its_place_in_the_numbers_and_in_the_truth(tmp_path):
    episode_of(tmp_path, "5.png", "6.png", "9.png", truth=full_truth(steps=4))  # 7 and 8 are lost
    episode = read_episode(tmp_path, "0")
    assert episode.numbers.tolist() == [5, 6, 9]
    assert episode.tracks.num_frames == 5


@pytest.mark.parametrize("files", [(), ("0.png",), ("a.png", "b.png")])
def test_an_episode_of_less_than_two_frames_is_refused(tmp_path, files):
    folder = episode_of(tmp_path, *files)
    with pytest.raises(DataError, match=rf"{folder}: has {len(files) % 2} frame\(s\).*a pair needs two"):
        read_episode(tmp_path, "0")


def test_a_folder_of_png_alone_is_an_episode_without_truth(tmp_path):
    episode_of(tmp_path, "0.png", "1.png")
    truth = read_episode(tmp_path, "0").tracks
    assert truth == Tracks()
    assert truth.recorded() == {}
    assert truth.num_frames is None


def test_dot_folders_and_files_are_no_episodes(tmp_path):
    episode_of(tmp_path, "0.png", name=".lapa")
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DataError, match="holds no episode folders; record some with `lapa record"):
        list_episodes(tmp_path)
    episode_of(tmp_path, name="0")
    assert list_episodes(tmp_path) == ["0"]


def test_a_missing_folder_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; record episodes with `lapa record"):
        list_episodes(tmp_path / "nowhere")


def test_truth_survives_the_file(tmp_path):
    truth = full_truth(steps=6)
    write_tracks(tmp_path / TRACKS_FILE, truth)
    read = read_tracks(tmp_path / TRACKS_FILE)
    assert read.meta == truth.meta
    assert read.num_frames == 7
    assert read.recorded().keys() == truth.recorded().keys()
    for name, array in truth.recorded().items():
        assert read.recorded()[name].dtype == array.dtype
        assert np.array_equal(read.recorded()[name], array)


@pytest.mark.parametrize(
    ("per_step", "per_frame"),
    [
        ({"actions": 4, "rewards": 5}, {}),
        ({"actions": 4}, {"lives": 4}),  # off by one: as many frames as actions
        ({"actions": 4}, {"ram": 6}),
        ({"terminated": 4, "truncated": 3}, {"lives": 5}),
    ],
)
def test_arrays_that_disagree_on_the_number_of_steps_are_refused(per_step, per_frame):
    arrays = {name: np.zeros(length) for name, length in {**per_step, **per_frame}.items()}
    with pytest.raises(ValueError, match="disagree on the number of frames") as error:
        Tracks(**arrays)
    assert all(name in str(error.value) for name in arrays)


@pytest.mark.parametrize("steps", [3, 5])
def test_truth_for_another_number_of_frames_is_refused(tmp_path, steps):
    episode_of(tmp_path, *(f"{number}.png" for number in range(5)), truth=Tracks(actions=np.zeros(steps)))
    with pytest.raises(DataError, match=rf"episode\.npz: speaks of {steps + 1} frames, but 0\.png to 4\.png are 5"):
        read_episode(tmp_path, "0")


def savez(path: Path, **arrays: object) -> None:
    np.savez_compressed(path, **arrays)


def save_npy(path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, np.zeros(4))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("no archive"),
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: savez(path, actions=np.array([{}, {}], dtype=object)),
        lambda path: savez(path, actions=np.zeros(4), lives=np.zeros(4)),
        lambda path: savez(path, actions=np.array(3)),
        lambda path: savez(path, meta=np.array("{not json")),
        lambda path: savez(path, meta=np.array("[1, 2]")),
        lambda path: (path.unlink(), path.mkdir()),
        save_npy,
    ],
    ids=[
        "empty",
        "text",
        "cut at its end",
        "cut at its start",
        "pickled objects",
        "misaligned",
        "a scalar for actions",
        "meta is no JSON",
        "meta is no mapping",
        "a folder",
        "a single array",
    ],
)
def test_a_damaged_truth_file_is_refused_by_name(tmp_path, spoil):
    path = tmp_path / TRACKS_FILE
    write_tracks(path, full_truth(steps=4))
    spoil(path)
    with pytest.raises(DataError, match=r"episode\.npz: cannot be used.*delete it or record the episode again"):
        read_tracks(path)


def test_a_truth_file_with_any_byte_changed_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / TRACKS_FILE
    write_tracks(path, Tracks(actions=np.arange(4)))
    whole = path.read_bytes()
    complaints = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_tracks(path)
        except DataError as error:
            complaints.append(str(error))
    assert len(complaints) > len(whole) / 4
    assert all(text.startswith(f"{path}: ") for text in complaints)
