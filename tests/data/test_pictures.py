"""Folders of pictures and videos are recordings too; what looked like a recording before is read as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import toy_episode
from lapa.data.frames import Fitting, fit_frames
from lapa.data.packing import fingerprint, open_store
from lapa.data.pictures import find_media, load_opencv, natural_order, read_picture
from lapa.errors import DataError

CODECS = {".avi": "FFV1", ".mkv": "FFV1", ".mp4": "mp4v", ".webm": "VP80", ".mov": "mp4v"}
LOSSLESS = (".avi", ".mkv")
TO_16 = Fitting((16, 16))


class Notes(list):
    """Collects what a function notifies of."""

    def __call__(self, message: str) -> None:
        self.append(message)


def quiet(_: str) -> None:
    pass


def picture(seed: int = 0, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def put(path: Path, frame: np.ndarray | None = None, **options: object) -> np.ndarray:
    """Saves a picture; returns its pixels as they are read back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture() if frame is None else frame).save(path, **options)
    return read_picture(path)


def film(path: Path, frames: np.ndarray) -> Path:
    cv2 = load_opencv(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter_fourcc(*CODECS[path.suffix.lower()])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path


@pytest.fixture
def frames() -> np.ndarray:
    """(9, 40, 32, 3) uint8, one toy episode."""
    return toy_episode(np.random.default_rng(0), 8)[0]


def fitted(frame: np.ndarray, fitting: Fitting = TO_16) -> np.ndarray:
    return fit_frames(torch.from_numpy(frame)[None], fitting).numpy()[0]


def test_names_are_in_natural_order():
    names = ["img10.png", "img2.png", "IMG3.png", "a.png", "img02.png", "7.png"]
    expected = ["7.png", "a.png", "img02.png", "img2.png", "IMG3.png", "img10.png"]
    assert sorted(names, key=natural_order) == expected


def test_each_folder_with_pictures_is_an_episode_in_natural_order(tmp_path):
    root = tmp_path / "photos"
    shown = {
        "photos": [put(root / "b.png", picture(1)), put(root / "c.JPG", picture(2), quality=95)],
        "day 2": [put(root / "day 2" / f"img{n}.jpeg", picture(n)) for n in (1, 2, 10)],
        "day 10/cats": [put(root / "day 10" / "cats" / "only.PNG", picture(3))],
    }
    for hidden in (root / ".git" / "x.png", root / "day 2" / ".y.png", root / ".lapa" / "z.png"):
        put(hidden)
    (root / "notes.txt").write_text("no picture")
    store = open_store(root, notify=quiet)
    assert store.path == root / ".lapa" / "frames.lapa"
    assert [episode.name for episode in store.episodes] == ["day 2", "day 10/cats", "photos"]
    for episode in store.episodes:
        assert episode.numbers.tolist() == list(range(episode.count))
        assert list(episode.tracks) == []
        assert np.array_equal(store.frames(range(episode.start, episode.stop)), shown[episode.name])


def test_the_root_and_a_folder_of_its_name_are_two_episodes(tmp_path):
    for path in ("cats/a.png", "cats/cats/a.png"):
        put(tmp_path / path)
    assert list(find_media(tmp_path / "cats")[0]) == [".", "cats"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_by_their_exif_orientation(tmp_path, orientation):
    turn = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved = picture()
    put(tmp_path / "a" / "x.png", saved, exif=exif)
    store = open_store(tmp_path, notify=quiet)
    assert np.array_equal(store.frame(0), turn(saved))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_pictures_of_any_size_are_brought_to_the_size_that_is_set(tmp_path, fit):
    shown = [put(tmp_path / "a" / f"{n}.jpg", picture(n, (20 + 7 * n, 30 - n))) for n in range(4)]
    fitting = Fitting((16, 24), fit)
    store = open_store(tmp_path, reading=fitting, notify=quiet)
    assert store.path.name == f"frames-16x24-{fit}.lapa"
    assert np.array_equal(store.frames(range(4)), [fitted(frame, fitting) for frame in shown])


def test_without_a_size_unusual_pictures_are_gaps_and_the_remedy_is_named(tmp_path):
    for n in range(6):
        put(tmp_path / "a" / f"img{n}.png", picture(n, (20, 31) if n == 2 else (20, 30)))
    (tmp_path / "a" / "img4.png").write_bytes((tmp_path / "a" / "img3.png").read_bytes()[:200])
    put(tmp_path / "b" / "x.png", picture(0, (8, 8)))
    notes = Notes()
    store = open_store(tmp_path, notify=notes)
    assert [(episode.name, episode.numbers.tolist()) for episode in store.episodes] == [("a", [0, 1, 3, 5])]
    assert notes[0].startswith(f"left out: 2 of 6 pictures in {tmp_path / 'a'}; the first: {tmp_path / 'a/img2.png'}")
    assert "is 20 x 31, most others are 20 x 30" in notes[0]
    assert "data.resize=[rows,columns]" in notes[1]
    assert len(notes) == 3
    with pytest.raises(DataError, match=r"img2\.png: is 20 x 31"):
        open_store(tmp_path, strict=True, notify=quiet)


def no_picture(path: Path) -> str:
    path.write_text("no picture")
    return "is neither PNG nor JPEG"


def another_format(path: Path) -> str:
    Image.fromarray(picture()).save(path, format="BMP")
    return "is neither PNG nor JPEG"


def cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "cannot be read"


@pytest.mark.parametrize("spoil", [no_picture, another_format, cut])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_damaged_picture_is_a_gap_or_with_strict_an_error_of_one_line(tmp_path, spoil, ending):
    for name in ("a", "b", "c"):
        put(tmp_path / "x" / f"{name}.{ending}")
    reason = spoil(tmp_path / "x" / f"b.{ending}")
    assert open_store(tmp_path, reading=TO_16, notify=quiet).episodes[0].numbers.tolist() == [0, 2]
    with pytest.raises(DataError, match=rf"b\.{ending}: {reason}") as caught:
        open_store(tmp_path, reading=TO_16, strict=True, notify=quiet)
    assert "\n" not in str(caught.value)


def test_links_out_of_the_folder_are_not_read(tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    put(outside / "secret.png")
    shown = put(root / "a" / "x.png", picture(5))
    (root / "a" / "y.png").symlink_to(outside / "secret.png")
    (root / "b").symlink_to(outside)
    (root / "c.png").symlink_to(root / "a" / "x.png")
    (root / "d").symlink_to(root / "a")
    (root / "e.png").symlink_to(root / "e.png")  # leads nowhere
    notes = Notes()
    store = open_store(root, notify=notes)
    assert [(episode.name, episode.count) for episode in store.episodes] == [("a", 1), ("root", 1)]
    assert np.array_equal(store.frames([0, 1]), [shown, shown])
    assert [note.split(": ")[1] for note in notes[:2]] == [str(root / "b"), str(root / "a" / "y.png")]
    assert all(f"leads out of {root}" in note for note in notes[:2])


def test_a_store_is_reused_until_a_picture_or_the_size_changes_and_each_size_has_its_own(tmp_path):
    for n in range(3):
        put(tmp_path / "a" / f"x{n}.png", picture(n))
    first = {size: open_store(tmp_path, reading=size, notify=quiet).path for size in (TO_16, Fitting(), TO_16)}
    assert len(set(first.values())) == 2
    before = {path: path.stat().st_mtime_ns for path in first.values()}
    for size, path in first.items():
        notes = Notes()
        assert open_store(tmp_path, reading=size, notify=notes).path == path
        assert notes[0].startswith("reusing")
    assert {path: path.stat().st_mtime_ns for path in first.values()} == before
    put(tmp_path / "a" / "x1.png", picture(9))
    notes = Notes()
    store = open_store(tmp_path, reading=TO_16, notify=notes)
    assert notes[-1].startswith("packed 1 episodes")
    assert np.array_equal(store.frame(1), fitted(picture(9)))


def test_who_knows_no_size_gets_what_is_packed_already(tmp_path):
    for n in range(3):
        put(tmp_path / "a" / f"x{n}.png", picture(n, (20 + n, 30)))
    packed = open_store(tmp_path, reading=TO_16, notify=quiet).path
    assert open_store(tmp_path, notify=quiet).path == packed
    put(tmp_path / "a" / "x0.png", picture(7, (21, 30)))  # then it is of other pictures
    assert open_store(tmp_path, notify=quiet).frame_size == (21, 30)
    elsewhere = tmp_path / "elsewhere.lapa"
    for reading in (TO_16, None):
        assert open_store(tmp_path, elsewhere, reading=reading, notify=quiet).frame_size == (16, 16)


def test_a_recording_stays_as_it_is_beside_other_pictures(record_toy, tmp_path):
    root = record_toy(tmp_path / "toys", episodes=3, steps=4)
    names = ["0", "1", "2"]
    expected = fingerprint(root, names)
    put(root / "cover.jpg")
    put(root / "0" / "thumbnail.jpg")
    store = open_store(root, reading=TO_16, notify=quiet)
    assert store.path == root / ".lapa" / "frames.lapa"
    assert set(store.header) == {"frame_size", "episodes", "fingerprint", "skipped"}
    assert (store.frame_size, store.header["fingerprint"]) == ((40, 32), expected)
    assert [episode.name for episode in store.episodes] == names


@pytest.mark.parametrize("ending", CODECS)
def test_a_video_is_an_episode_of_its_frames(tmp_path, frames, ending):
    path = film(tmp_path / f"match{ending}", frames)
    store = open_store(path, notify=quiet)
    assert store.path == tmp_path / ".lapa" / f"match{ending}.lapa"
    assert [(e.name, e.numbers.tolist()) for e in store.episodes] == [(path.name, list(range(9)))]
    error = np.abs(store.frames(range(9)).astype(int) - frames)
    assert error.max() == 0 if ending in LOSSLESS else error.mean() < 6
    assert open_store(path, reading=TO_16, notify=quiet).path.name == f"match{ending}-16x16-crop.lapa"


def test_a_gif_is_a_video(tmp_path):
    frames = np.stack([np.full((16, 24, 3), 20 * n, dtype=np.uint8) for n in range(9)])
    first, *rest = map(Image.fromarray, frames)
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=40)
    store = open_store(tmp_path, notify=quiet)
    assert np.abs(store.frames(range(len(store))).astype(int) - frames).max() <= 2


def test_videos_and_pictures_of_a_folder_are_episodes_side_by_side(tmp_path, frames):
    for name in ("b/run10.AVI", "b/run2.mkv"):
        film((tmp_path / name).with_suffix(Path(name).suffix.lower()), frames).rename(tmp_path / name)
    put(tmp_path / "b" / "cover.png")
    store = open_store(tmp_path, reading=TO_16, notify=quiet)
    assert [(e.name, e.count) for e in store.episodes] == [("b", 1), ("b/run2.mkv", 9), ("b/run10.AVI", 9)]
    assert np.array_equal(store.frames(range(10, 19)), [fitted(frame) for frame in frames])
    files = [tmp_path / "b" / name for name in ("run10.AVI", "run2.mkv")]
    together = open_store(files, reading=TO_16, notify=quiet)
    assert [e.name for e in together.episodes] == ["run10.AVI/run10.AVI", "run2.mkv/run2.mkv"]


def empty(path: Path) -> str:
    path.write_bytes(b"")
    return "is no video"


def a_list_of_other_files(path: Path) -> str:
    path.write_text(f"#EXTM3U\n#EXTINF:1,\n{path.parent / 'good.mp4'}\n")
    return "is no video"


def junk_after_the_first_bytes(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:40] + b"junk" * 100)
    return "cannot be decoded"


@pytest.mark.parametrize("spoil", [empty, a_list_of_other_files, junk_after_the_first_bytes])
def test_a_damaged_video_is_left_out_in_one_line(tmp_path, frames, spoil, capfd):
    film(tmp_path / "good.mp4", frames)
    reason = spoil(film(tmp_path / "bad.mp4", frames))
    notes = Notes()
    assert [episode.name for episode in open_store(tmp_path, notify=notes).episodes] == ["good.mp4"]
    assert notes[0].startswith(f"left out: {tmp_path / 'bad.mp4'}: {reason}")
    assert "\n" not in notes[0]
    with pytest.raises(DataError, match=reason):
        open_store(tmp_path / "bad.mp4", strict=True, notify=notes)
    assert "moov" not in capfd.readouterr().err, "nothing of FFmpeg's own"


def test_a_video_that_breaks_off_is_left_out(tmp_path):
    film(tmp_path / "good.avi", noise := np.stack([picture(n, (64, 64)) for n in range(20)]))
    whole = bytearray((tmp_path / "good.avi").read_bytes())
    begin = len(whole) // 3
    index = whole.rindex(b"idx1")
    whole[begin:index] = bytes(index - begin)
    (tmp_path / "cut.avi").write_bytes(whole)
    notes = Notes()
    store = open_store(tmp_path, notify=notes)
    assert [(episode.name, episode.count) for episode in store.episodes] == [("good.avi", len(noise))]
    assert "cut.avi: " in notes[0]


def test_without_opencv_videos_are_refused_with_the_remedy(tmp_path, frames, monkeypatch):
    film(tmp_path / "a.mp4", frames)
    put(tmp_path / "pictures" / "x.png")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"a\.mp4: videos need OpenCV; install it by: pip install 'lapa\[video\]'"):
        open_store(tmp_path, notify=quiet)


def test_a_folder_without_anything_says_so(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no usable episode among 1"):
        open_store(tmp_path, notify=quiet)


def test_packing_leaves_the_pictures_alone(tmp_path):
    put(tmp_path / "a" / "x.jpg")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    store = open_store(tmp_path, notify=quiet)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before | {store.path: store.path.read_bytes()}
