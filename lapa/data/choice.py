"""Which clips of an episode are used: all of them, or fewer by rules that a configuration sets."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from lapa.data.store import StoredEpisode


@dataclasses.dataclass(frozen=True)
class ClipChoice:
    """Rules that say which clips of an episode are used, in the order in which they apply.

    Attributes:
        skip_first: frames at the beginning of an episode that no clip may contain.
        stride: every n-th of the clips that are left.
        max_frames: largest number of clips of an episode, drawn at random; None takes all.
        min_gap: least distance in frames between the beginnings of two clips that are drawn.
        seed: of the drawing; each episode is drawn by the seed and its own name.
    """

    skip_first: int = 0
    stride: int = 1
    max_frames: int | None = None
    min_gap: int = 5
    seed: int = 0

    def runs(self, episode: StoredEpisode, frames: int, *, padded: bool = False) -> list[tuple[int, int, int]]:
        """The chosen clips as runs: store index of the first clip's first frame, number of clips, frames between them.

        Args:
            episode: whose clips.
            frames: T, of one clip.
            padded: as for :meth:`lapa.data.store.StoredEpisode.runs`.
        """
        runs, seen = [], 0
        for start, count in episode.runs(frames, padded=padded):
            skipped = min(max(episode.start + self.skip_first - start, 0), count)
            start, count = start + skipped, count - skipped
            offset = -seen % self.stride  # counted over gaps
            if count > offset:
                runs.append((start + offset, -(-(count - offset) // self.stride), self.stride))
            seen += count
        if self.max_frames is None or sum(count for _, count, _ in runs) == 0:
            return runs
        starts = np.concatenate([start + step * np.arange(count) for start, count, step in runs])
        rng = np.random.default_rng((self.seed, zlib.crc32(episode.name.encode())))
        drawn = draw_apart(episode.numbers[starts - episode.start], self.max_frames, self.min_gap, rng)
        return [(start, 1, 1) for start in starts[drawn].tolist()]


EVERY_CLIP = ClipChoice()


def draw_apart(positions: np.ndarray, count: int, gap: int, rng: np.random.Generator) -> np.ndarray:
    """Draws positions at random that keep a distance; as many as asked for, or as many as fit.

    Where positions have no holes, all draws that keep the distance are equally likely.

    Args:
        positions: (N,) ascending whole numbers.
        count: how many are wanted.
        gap: least difference of two that are drawn.
        rng: of the draws.

    Returns:
        Indices of the drawn positions, ascending.
    """
    latest: list[int] = []  # of each draw, where it must stand at the latest for the others to fit behind it
    place = len(positions) - 1
    while place >= 0 and len(latest) < count:
        latest.append(place)
        place = int(np.searchsorted(positions, positions[place] - gap, side="right")) - 1
    drawn: list[int] = []
    first = 0
    for left in range(len(latest), 0, -1):
        free = latest[left - 1] - first  # places by which this draw and the later ones can still move
        # The lowest of ``left`` numbers drawn together exceeds j with the product of these up to j.
        exceeds = np.cumprod(1 - left / (free + left - np.arange(free + 1)))
        chosen = first + int(np.searchsorted(-exceeds, -rng.random()))
        drawn.append(min(chosen, latest[left - 1]))
        first = int(np.searchsorted(positions, positions[drawn[-1]] + gap))
    return np.array(drawn, dtype=np.int64)
