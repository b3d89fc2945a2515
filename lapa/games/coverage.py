"""Which parts of a game a recording shows, and what is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lapa.data.store import FrameStore, StoredEpisode
from lapa.games.game import Aspect, Game, State
from lapa.progress import progress_bar
from lapa.report import figures
from lapa.report.tables import Row, percent

FRAMES_AT_ONCE = 64
"""Recorded pictures that are read at a time."""

SELDOM = 0.02
"""A stage of the game in fewer of the frames than this is named: figures for it are unsure."""

WHOLE = "all"
"""The column of all episodes, next to those of the splits."""


@dataclasses.dataclass(frozen=True)
class Covered:
    """How often the parts of one aspect of a game are seen.

    Attributes:
        aspect: with K parts.
        frames: number of frames in each part, (K,) int64 each: of ``all`` episodes, and of each split.
        unknown: frames whose part cannot be told.
    """

    aspect: Aspect
    frames: dict[str, np.ndarray]
    unknown: int

    @property
    def is_known(self) -> bool:
        """Whether the part can be told of any frame."""
        return bool(self.frames[WHOLE].sum())

    def shares(self, column: str) -> np.ndarray:
        """(K,) of the frames whose part is known; 0 where none is."""
        frames = self.frames[column]
        shares: np.ndarray = frames / max(1, frames.sum())
        return shares

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        counts = {column: frames.tolist() for column, frames in self.frames.items()}
        return {"title": self.aspect.title, "parts": list(self.aspect.parts), "frames": counts, "unknown": self.unknown}


def coverage(game: Game, store: FrameStore, split: Mapping[str, Sequence[str]]) -> list[Covered]:
    """What the frames of a recording show, for each aspect of its game.

    States come from the RAM where it was recorded; else the pictures are read, a few at a time.

    Args:
        game: the one that knows the episodes.
        store: the recording.
        split: names of the episodes of each split; empty if they cannot be dealt.

    Raises:
        DataError: a track or a frame is damaged.
    """
    part_of = {name: part for part, names in split.items() for name in names}
    frames = [{column: np.zeros(len(a.parts), np.int64) for column in (WHOLE, *split)} for a in game.aspects]
    unknown = [0] * len(frames)
    with progress_bar(iterable=store.episodes, desc="inspect", unit="episode") as bar:
        for episode in bar:
            columns = [WHOLE, *([part_of[episode.name]] if episode.name in part_of else [])]
            for state in states(game, store, episode):
                for number, aspect in enumerate(game.aspects):
                    places = aspect.find(state)
                    unknown[number] += int((places < 0).sum())
                    counts = np.bincount(places[places >= 0], minlength=len(aspect.parts))
                    for column in columns:
                        frames[number][column] += counts
    return [Covered(*each) for each in zip(game.aspects, frames, unknown, strict=True)]


def states(game: Game, store: FrameStore, episode: StoredEpisode) -> Iterator[State]:
    """What is on the screen in each frame of an episode, in one piece by the RAM, or piece by piece by the pictures."""
    if (ram := episode.tracks.ram) is not None:
        yield game.state(ram[episode.numbers - episode.numbers[0]])
        return
    for first in range(episode.start, episode.stop, FRAMES_AT_ONCE):
        yield game.read(store.frames(range(first, min(first + FRAMES_AT_ONCE, episode.stop))))


def coverage_rows(found: Iterable[Covered]) -> list[Row]:
    """Part, number and share of all frames, and share of each split's frames; a heading for each aspect."""
    rows: list[Row] = []
    for covered in found:
        columns = list(covered.frames)
        if not covered.is_known:
            rows.append((f"{covered.aspect.title}: cannot be told", *[""] * (len(columns) + 1)))
            continue
        rows.append((covered.aspect.title, "frames", "share", *columns[1:]))
        shares = [covered.shares(column) for column in columns]
        for number, part in enumerate(covered.aspect.parts):
            cells = (percent(share[number]) for share in shares)
            rows.append((f"  {part}", f"{covered.frames[WHOLE][number]:,}", *cells))
        if covered.unknown:
            rows.append(("  unknown", f"{covered.unknown:,}", *[""] * len(columns)))
    return rows


def missing(found: Iterable[Covered], starts: Iterable[str] = ()) -> list[str]:
    """What no frame shows, in words, with a remedy where there is one; then what few frames show, or a split lacks.

    Few is said of the first aspect alone, for whose parts an evaluation has figures.

    Args:
        found: by :func:`coverage`.
        starts: those that the recording has already.
    """
    sentences, seldom, in_splits = [], [], []
    for place, covered in enumerate(found):
        if not covered.is_known:
            continue
        aspect, shares = covered.aspect, covered.shares(WHOLE)
        for number in range(len(aspect.parts)):
            phrase, remedy = aspect.phrase(number), _remedy(aspect, number, set(starts))
            if not covered.frames[WHOLE][number]:
                sentences.append(f"no frame with {phrase}{remedy}")
                continue
            if place == 0 and shares[number] < SELDOM:
                seldom.append(f"enough frames with {phrase}: only {percent(shares[number])} of all{remedy}")
            lacking = [name for name, frames in covered.frames.items() if name != WHOLE and not frames[number]]
            if lacking:
                in_splits.append(f"no frame with {phrase} in {' and '.join(lacking)}")
    return sentences + seldom + in_splits


def _remedy(aspect: Aspect, number: int, starts: set[str]) -> str:
    start = aspect.starts[number] if aspect.starts else ""
    if not start:
        return ""
    return f"; record {'more or longer episodes ' if start in starts else ''}with --start {start}"


def coverage_picture(found: Iterable[Covered], title: str = "") -> bytes:
    """The shares of all known aspects as bars, split by split: a PNG file; ``title`` is kept in it."""
    known = [covered for covered in found if covered.is_known]
    columns = [name for name in known[0].frames if name != WHOLE] or [WHOLE] if known else []
    panels = {
        covered.aspect.title: figures.Bars(
            covered.aspect.parts,
            {column: 100 * covered.shares(column) for column in columns},
        )
        for covered in known
    }
    return figures.plot_bars(panels, "share of the frames, %", title)
