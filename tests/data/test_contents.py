"""What a recording holds is counted alike in a folder, a packed store and a folder of stores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lapa.data.contents import contents
from lapa.data.episodes import TRACKS_FILE, Tracks, read_tracks, write_tracks
from lapa.data.packing import open_store

QUIET: Callable[[str], None] = lambda _: None  # noqa: E731


def note(episode: Path, **meta: Any) -> None:
    """Adds facts to an episode's meta."""
    tracks = read_tracks(episode / TRACKS_FILE)
    write_tracks(episode / TRACKS_FILE, Tracks(**tracks.recorded(), meta=tracks.meta | meta))


@pytest.fixture
def recording(tmp_path: Path, record_toy: Callable[..., Path]) -> Path:
    """Four episodes of six frames: one natural, one not, one that does not tell, and one of pictures alone."""
    root = record_toy(tmp_path / "toy", episodes=4, steps=5)
    meanings = ["NOOP", "DOWN", "UP"]
    note(root / "0", policy="random", skill=0.25, natural=True, start="serve", action_meanings=meanings)
    note(root / "1", policy="random", skill=1.0, natural=False, start="middle", action_meanings=meanings)
    (root / "1" / "3.png").unlink()
    (root / "3" / TRACKS_FILE).unlink()
    return root


def test_all_is_counted(recording: Path) -> None:
    store = open_store(recording, notify=QUIET)
    held = contents(store)
    assert (held.episodes, held.frames, held.pairs, held.gaps) == (4, 23, 18, 1)
    assert held.frame_size == (40, 32)
    assert held.packed_bytes == (recording / ".lapa" / "frames.lapa").stat().st_size
    assert held.recorded_bytes == sum(path.stat().st_size for path in recording.glob("[0-9]/*"))
    assert held.tracks == {"actions": 3}
    assert held.environments == {"Toy-v0": 3, "unknown": 1}
    assert held.players == {"random": 2, "unknown": 2}
    assert held.skill == (0.25, 1.0)
    assert held.natural == {"unknown": 2, "yes": 1, "no": 1}
    assert held.starts == {"unknown": 2, "serve": 1, "middle": 1}
    assert held.skipped == []
    assert json.loads(json.dumps(held.as_dict()))["natural"]["yes"] == 1


def test_actions_are_counted_by_their_meanings_where_there_are_any(recording: Path) -> None:
    held = contents(open_store(recording, notify=QUIET))
    assert sum(held.actions.values()) == 15, "three episodes of five steps"
    assert set(held.actions) <= {"NOOP", "DOWN", "UP", *(f"action {number}" for number in range(5))}
    assert {name[:6] for name in held.actions} > {"action"}
    shares = held.shares_of_actions()
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_stores_hold_what_the_recording_held(recording: Path, tmp_path: Path) -> None:
    whole = contents(open_store(recording, notify=QUIET))
    stores = tmp_path / "stores"
    stores.mkdir()
    shutil.copy(recording / ".lapa" / "frames.lapa", stores / "a.lapa")
    alone = contents(open_store(stores / "a.lapa"))
    assert alone.recorded_bytes is None
    assert {**alone.as_dict(), "recorded_bytes": 0} == {**whole.as_dict(), "recorded_bytes": 0}
    shutil.copy(stores / "a.lapa", stores / "b.lapa")
    both = contents(open_store(stores))
    assert (both.episodes, both.frames, both.packed_bytes) == (8, 46, 2 * whole.packed_bytes)
    assert both.natural == {name: 2 * count for name, count in whole.natural.items()}


def test_what_was_left_out_is_told(recording: Path) -> None:
    picture = recording / "2" / "4.png"
    picture.write_bytes(picture.read_bytes()[:50])
    held = contents(open_store(recording, notify=QUIET))
    assert held.episodes == 3
    assert len(held.skipped) == 1
    assert "2/4.png" in held.skipped[0]
