"""A recording's coverage of its game is counted by RAM or by pictures, and what is missing is named with a remedy."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lapa.data.episodes import TRACKS_FILE, Tracks, read_tracks, write_tracks
from lapa.data.packing import open_store
from lapa.data.splits import deal
from lapa.data.store import FrameStore
from lapa.games import coverage as module
from lapa.games.breakout.game import Breakout
from lapa.games.coverage import WHOLE, Covered, coverage, coverage_picture, coverage_rows, missing
from lapa.games.game import Aspect
from square import Square, corners

QUIET: Callable[[str], None] = lambda _: None  # noqa: E731


@pytest.fixture
def toys(tmp_path: Path, record_toy: Callable[..., Path]) -> FrameStore:
    """Five episodes, the first with a gap."""
    root = record_toy(tmp_path / "toy", steps=20)
    (root / "0" / "7.png").unlink()
    return open_store(root, notify=QUIET)


def split_of(store: FrameStore) -> dict[str, list[str]]:
    return deal(store.episodes, (0.8, 0.1, 0.1), 0)


def test_frames_are_counted_in_all_and_by_split(toys: FrameStore) -> None:
    half, side = coverage(Square(), toys, split_of(toys))
    rows = corners(toys.frames(range(len(toys)))[..., 0] > 100)[:, 0]
    assert half.frames[WHOLE].tolist() == [(rows <= 15).sum(), (rows > 15).sum()]
    assert list(half.frames) == [WHOLE, "train", "val", "test"]
    assert sum(half.frames[part] for part in ("train", "val", "test")).tolist() == half.frames[WHOLE].tolist()
    (test,) = (episode for episode in toys.episodes if episode.name in split_of(toys)["test"])
    assert half.frames["test"].sum() == test.count
    assert side.frames[WHOLE].tolist() == [len(toys), 0]
    assert half.unknown == side.unknown == 0
    assert half.shares(WHOLE).sum() == pytest.approx(1)


def test_pictures_tell_what_the_ram_tells_a_few_at_a_time(
    toys: FrameStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[int] = []
    monkeypatch.setattr(module, "FRAMES_AT_ONCE", 8)
    monkeypatch.setattr(Square, "read", lambda self, frames: read.append(len(frames)) or self._read(frames))
    monkeypatch.setattr(Square, "_read", lambda self, frames: {"corner": corners(frames[..., 0] > 100)}, raising=False)
    by_pictures = coverage(Square(), toys, {})
    assert max(read) == 8
    assert sum(read) == len(toys)
    root = Path(toys.path).parents[1]
    for episode in toys.episodes:
        place = corners(toys.frames(range(episode.start, episode.stop))[..., 0] > 100)
        ram = np.full((int(episode.numbers[-1]) + 1, 2), 255, np.uint8)  # also of the frame that is lost
        ram[episode.numbers] = place
        file = root / episode.name / TRACKS_FILE
        write_tracks(file, Tracks(actions=read_tracks(file).actions, ram=ram, meta={"env_id": "Toy-v0"}))
    by_ram = coverage(Square(), open_store(root, tmp_path / "with_ram.lapa", notify=QUIET), {})
    assert sum(read) == len(toys), "no picture is read where there is RAM"
    for one, other in zip(by_pictures, by_ram, strict=True):
        assert one.as_dict() == other.as_dict()


def covered(*counts: int, title: str = "bricks standing", starts: tuple[str, ...] = ()) -> Covered:
    """Frames in each part of the first two splits and in all."""
    aspect = Aspect(title, ("many", "few", "no"), lambda state: state["x"], starts)
    frames = np.array(counts).reshape(2, 3)
    return Covered(aspect, {WHOLE: frames.sum(0), "train": frames[0], "test": frames[1]}, 0)


def test_what_no_frame_shows_is_named_with_a_remedy() -> None:
    found = [covered(90, 0, 10, 10, 0, 0, starts=("serve", "last", "cleared"))]
    assert missing(found) == [
        "no frame with few bricks standing; record with --start last",
        "no frame with no bricks standing in test",
    ]
    assert missing(found, ["last"])[0].endswith("; record more or longer episodes with --start last")
    assert missing([covered(90, 0, 10, 10, 0, 5)]) == ["no frame with few bricks standing"]
    assert missing([covered(50, 40, 10, 10, 8, 5)]) == []


def test_what_few_frames_show_is_named_of_the_stages_alone() -> None:
    rare = covered(900, 90, 5, 100, 9, 5, starts=("serve", "", "cleared"))
    assert missing([rare]) == ["enough frames with no bricks standing: only 0.9 % of all; record with --start cleared"]
    assert missing([covered(50, 40, 10, 10, 8, 5), rare]) == []


def test_an_aspect_that_cannot_be_told_is_not_missing() -> None:
    unknown = covered(0, 0, 0, 0, 0, 0, title="ball")
    assert not unknown.is_known
    assert missing([unknown]) == []
    assert coverage_rows([unknown]) == [("ball: cannot be told", "", "", "", "")]


def test_a_table_has_a_heading_for_each_aspect_and_the_share_of_each_split() -> None:
    assert coverage_rows([covered(60, 30, 10, 5, 5, 0)]) == [
        ("bricks standing", "frames", "share", "train", "test"),
        ("  many", "65", "59.1 %", "60.0 %", "50.0 %"),
        ("  few", "35", "31.8 %", "30.0 %", "50.0 %"),
        ("  no", "10", "9.1 %", "10.0 %", "0.0 %"),
    ]


def test_the_picture_is_a_png_with_its_title_inside() -> None:
    content = coverage_picture([covered(60, 30, 10, 5, 5, 0), covered(0, 0, 0, 0, 0, 0)], "mine")
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert image.info["Title"] == "mine"
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 10


def test_breakout_is_covered_alike_by_ram_and_by_pictures(breakout_store: FrameStore) -> None:
    """But for the ball's speed, which a single picture does not tell."""
    game = Breakout()
    by_ram = coverage(game, breakout_store, {})
    pictures = [game.read(breakout_store.frames(range(e.start, e.stop))) for e in breakout_store.episodes]
    for covered_part in by_ram:
        aspect = covered_part.aspect
        places = np.concatenate([aspect.find(state) for state in pictures])
        if aspect.title == "ball":
            assert (places == -1).all()
            continue
        counts = np.bincount(places[places >= 0], minlength=len(aspect.parts))
        assert np.abs(counts - covered_part.frames[WHOLE]).max() <= 0.02 * len(breakout_store), aspect.title
    stages = by_ram[0]
    assert stages.frames[WHOLE].sum() == len(breakout_store)
    assert (stages.frames[WHOLE] > 0).sum() >= 3, "episodes begin at different starts"
