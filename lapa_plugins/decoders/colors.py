"""The colours of a recording, for decoders that choose among few."""

from __future__ import annotations

from torch import Tensor

from lapa.data.clips import ClipDataset
from lapa.data.splits import evenly_spaced

SAMPLE = 512
"""The colours are counted on this many frames."""


def common_colors(dataset: ClipDataset, count: int) -> Tensor:
    """(K, C) in [0, 1], the commonest colours of the clips' last frames, at most ``count``, the commonest first."""
    frames = dataset[evenly_spaced(len(dataset), SAMPLE)].next  # (N, C, H, W) uint8
    found, times = frames.movedim(1, -1).flatten(0, 2).unique(dim=0, return_counts=True)
    return found[times.argsort(descending=True, stable=True)[:count]] / 255
