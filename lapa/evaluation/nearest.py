"""What a code looks like: the patches of judged frames whose encodings lie nearest to its vector."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from lapa.contracts import Coder
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.evaluation.grid import CodeGrids, code_grids, coder_of
from lapa.evaluation.study import Study
from lapa.report.pictures import OUTLINE, sheet, to_rgb

SAMPLE = 512
"""At most this number of judged frames, at even distances, are looked through."""

SHOWN_CODES = 12
"""Codes in each of the two sheets: the most used ones, and the rarest."""

SHOWN_PATCHES = 6
CELL_WIDTH = 64
"""Patches narrower than this are enlarged by a whole number."""

EQUAL_DIGITS = 3
"""Distances that are the same after so many decimals are equal: the rest is rounding."""

BLANK = 235
"""The grey of a patch that is missing, since no further frame has the code."""


@dataclasses.dataclass(frozen=True)
class Patch:
    """A place of a grid that has a code.

    Attributes:
        clip: number of the judged clip.
        row: of the place, in the latent grid.
        column: likewise.
        distance: of its encoding from the vector that it was quantized to.
    """

    clip: int
    row: int
    column: int
    distance: float


def nearest_sheet(study: Study) -> np.ndarray | None:
    """Two sheets in one, of the most used codes and of the rarest: (H, W, 3) uint8; None if every place sees all.

    Each column is a code, with the number of times that it was used; a line goes around the place that has it.
    """
    coder, grids = coder_of(study), study.shared(code_grids)
    if coder.sees_all:
        return None
    rows = evenly_spaced(len(study.clips), SAMPLE)
    totals = grids.use.totals
    there = np.unique(grids.codes[rows])  # rare codes may stand in no frame of the sample
    by_use = there[np.argsort(-totals[there], kind="stable")]
    common = by_use[:SHOWN_CODES]
    rare = by_use[SHOWN_CODES:][-SHOWN_CODES:]
    found = nearest_patches(study, np.concatenate([common, rare]), rows)
    parts = [_sheet(study, grids, codes, found) for codes in (common, rare) if len(codes)]
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in parts])


def nearest_patches(study: Study, codes: np.ndarray, rows: np.ndarray) -> dict[int, list[Patch]]:
    """For each code, at most :data:`SHOWN_PATCHES` places that have it, from different frames, the nearest first.

    Those of an episode that is not among them yet come before a second one of the same episode. Many places of a game
    look exactly alike: of equal distances, which come first is random, the same each time.

    Args:
        study: what is judged.
        codes: (N,) as :class:`~lapa.evaluation.grid.CodeGrids` numbers them.
        rows: (R,) the judged clips that are looked through.
    """
    coder, grids = coder_of(study), study.shared(code_grids)
    distances = encoding_distances(study, coder, rows)
    ends = np.cumsum([len(study.pair_starts(episode)) for episode in study.episodes])
    rng = np.random.default_rng(0)
    found = {}
    for code in codes.tolist():
        where, row, column = np.nonzero(grids.codes[rows] == code)
        column = column // grids.use.per_place
        distance = distances[where, row, column]
        order = np.lexsort((rng.random(len(distance)), distance.round(EQUAL_DIGITS)))
        # The nearest place of each frame, then the first frames of each episode.
        order = order[np.sort(np.unique(where[order], return_index=True)[1])]
        episodes = np.searchsorted(ends, rows[where[order]], side="right")
        turns = np.array([np.count_nonzero(episodes[:place] == each) for place, each in enumerate(episodes)])
        order = order[np.argsort(turns, kind="stable")][:SHOWN_PATCHES]
        found[code] = [
            Patch(int(rows[where[i]]), int(row[i]), int(column[i]), float(distance[i])) for i in order.tolist()
        ]
    return found


@torch.inference_mode()
def encoding_distances(study: Study, coder: Coder, rows: np.ndarray) -> np.ndarray:
    """(R, h, w), how far each place's encoding is from the vector of its code, or codes, in judged clips (R,)."""
    assert study.codes is not None
    device = next(coder.parameters()).device
    parts = []
    for first in range(0, len(rows), study.batch_size):
        some = rows[first : first + study.batch_size]
        frames = [to_float(frame).to(device) for frame in study.seen(study.clips[some]).frames.unbind(1)]
        codes = torch.from_numpy(study.codes[some]).to(device)
        difference = coder.encode(*frames).float() - coder.quantizer.codes_to_latent(codes).float()
        parts.append(difference.square().sum(1).sqrt().cpu().numpy())
    return np.concatenate(parts)


def _sheet(study: Study, grids: CodeGrids, codes: np.ndarray, found: dict[int, list[Patch]]) -> np.ndarray:
    blank = np.full_like(_patch(study, Patch(0, 0, 0, 0.0)), BLANK)
    columns = [[_patch(study, patch) for patch in found[code]] for code in codes.tolist()]
    most = max(map(len, columns))
    lines = [[column[line] if line < len(column) else blank for column in columns] for line in range(most)]
    names = [f"{grids.names[code]}: {grids.use.totals[code]:,}" for code in codes.tolist()]
    return sheet(lines, ["nearest", *[""] * (most - 1)], names, cell_width=CELL_WIDTH)


def _patch(study: Study, patch: Patch) -> np.ndarray:
    """(H', W', 3) uint8, the cell of a place, a line about it, and a cell's size around it, moved inside the frame."""
    picture = to_rgb(to_float(study.clips[[patch.clip]].next)[0].numpy())
    size, grid = np.array(picture.shape[:2]), np.array(coder_of(study).grid)
    cell = size / grid
    centre = (np.array([patch.row, patch.column]) + 0.5) * cell
    extent = np.minimum(np.ceil(3 * cell), size).astype(int)
    top, left = np.clip(np.round(centre - extent / 2), 0, size - extent).astype(int)
    upper, lower = np.floor(centre - cell / 2).astype(int) - 1, np.ceil(centre + cell / 2).astype(int)
    picture = picture.copy()
    for edge, axis in ((upper, 0), (upper, 1), (lower, 0), (lower, 1)):
        line = [slice(max(first, 0), stop + 1) for first, stop in zip(upper, lower, strict=True)]
        if 0 <= edge[axis] < size[axis]:
            line[axis] = slice(edge[axis], edge[axis] + 1)
            picture[tuple(line)] = OUTLINE
    return picture[top : top + extent[0], left : left + extent[1]]
