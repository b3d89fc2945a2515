"""What a recording holds, counted: episodes, frames, tracks, who played, and what was done."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.store import FrameStore, StoredEpisode
from lapa.data.store_set import STORE_FOLDER, StoreSet, packed_from

UNKNOWN = "unknown"
"""Stands for what the recording does not tell."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a recording holds. Counts by name are numbers of episodes.

    Attributes:
        episodes: their number.
        frames: likewise.
        pairs: of consecutive frames.
        gaps: places where frames are missing inside of an episode.
        frame_size: (H, W) in pixels.
        packed_bytes: of the packed stores.
        recorded_bytes: of the PNG files and tracks; None where there are only packed stores.
        tracks: episodes that have each track.
        environments: by their ids.
        players: by ``policy``.
        skill: lowest and highest skill of the player; None where it is not known.
        natural: ``yes`` for games as anybody would play them, ``no`` for those with a chosen start or lives given
            back, ``unknown`` for recordings that do not tell.
        starts: by the moment of the game at which an episode begins.
        actions: number of times each was taken, by its meaning.
        skipped: why an episode was left out of the packed store.
    """

    episodes: int
    frames: int
    pairs: int
    gaps: int
    frame_size: tuple[int, int]
    packed_bytes: int
    recorded_bytes: int | None
    tracks: dict[str, int]
    environments: dict[str, int]
    players: dict[str, int]
    skill: tuple[float, float] | None
    natural: dict[str, int]
    starts: dict[str, int]
    actions: dict[str, int]
    skipped: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def shares_of_actions(self) -> dict[str, float]:
        """Of all steps whose action is known, the commonest first."""
        total = sum(self.actions.values())
        return {name: count / total for name, count in self.actions.items()}


def contents(store: FrameStore) -> Contents:
    """Counts what a store holds; frames stay unread.

    Raises:
        DataError: a track is damaged.
    """
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    pairs = gaps = 0
    skills = []
    for episode in store.episodes:
        meta = episode.tracks.meta
        pairs += sum(count for _, count in episode.runs(2))
        gaps += len(episode.runs(1)) - 1
        counts["tracks"].update(list(episode.tracks))
        for name, key in (("environments", "env_id"), ("players", "policy"), ("starts", "start")):
            counts[name][str(meta.get(key, UNKNOWN))] += 1
        counts["natural"][{True: "yes", False: "no"}.get(meta.get("natural", UNKNOWN), UNKNOWN)] += 1
        counts["actions"].update(_actions(episode, meta))
        if isinstance(meta.get("skill"), int | float):
            skills.append(float(meta["skill"]))
    files = store.paths if isinstance(store, StoreSet) else [store.path]
    return Contents(
        episodes=len(store.episodes),
        frames=len(store),
        pairs=pairs,
        gaps=gaps,
        frame_size=store.frame_size,
        packed_bytes=sum(path.stat().st_size for path in files),
        recorded_bytes=_recorded_bytes(files),
        skill=(min(skills), max(skills)) if skills else None,
        skipped=list(store.header.get("skipped", [])),
        **{
            name: dict(counts[name].most_common())
            for name in ("tracks", "environments", "players", "natural", "starts", "actions")
        },
    )


def _actions(episode: StoredEpisode, meta: dict[str, Any]) -> dict[str, int]:
    """How often each action was taken, by its meaning, or by its number where no meaning is known."""
    if episode.tracks.actions is None:
        return {}
    meanings = meta.get("action_meanings") or []
    values, times = np.unique(episode.tracks.actions, return_counts=True)
    return {
        str(meanings[value]) if 0 <= value < len(meanings) else f"action {value}": count
        for value, count in zip(values.tolist(), times.tolist(), strict=True)
    }


def _recorded_bytes(files: list[Path]) -> int | None:
    """Of the recordings that the stores were packed from, where they are still there."""
    roots = [root for path in files if (root := packed_from(path)) is not None]
    if len(roots) < len(files):
        return None
    return sum(
        path.stat().st_size
        for root in roots
        for path in ([root] if root.is_file() else root.rglob("*"))
        if path.is_file() and STORE_FOLDER not in path.relative_to(root).parts
    )
