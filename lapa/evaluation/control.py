"""Whether the codes steer what is drawn: other codes must give another picture, the more so the longer it goes on."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.systems.latent_action.model import LatentActionModel

STEPS = (1, 4, 8, 16)
"""Numbers of steps after which rollouts are judged."""

TRIED_PLACES = 8
"""Places of the grid at which a code is tried."""

MIN_STARTS = 48
"""Rollouts of a length, unless there are fewer."""

BATCH = 64
"""Rollouts that go on together."""

KINDS = ("true", "shuffled", "random")
"""Codes that a rollout is given: those of its own transitions, those of others, and uniformly random ones."""


def controllability(
    model: LatentActionModel, pairs: ClipDataset, codes: np.ndarray, *, num_decodes: int = 512, seed: int = 0
) -> dict[str, float]:
    """PSNR lost when the codes are not the true ones, Genie's delta-PSNR (Bruce et al. 2024, section 3).

    From each of some frames the decoder goes on by itself: its picture is the next current frame, the codes are given.
    After t steps the picture is held against the true frame.

    Args:
        model: in eval mode.
        pairs: held-out pairs.
        codes: (P, h, w), theirs.
        num_decodes: frames that are drawn for each length and kind of codes, by which the starts are counted, at even
            distances; if need be more, for :data:`MIN_STARTS` of them.
        seed: of the shuffled and random codes.

    Returns:
        ``psnr_db/t<t>``, ``copy_psnr_db/t<t>`` (of the frame started from), ``shuffled_delta_psnr_db/t<t>`` and
        ``random_delta_psnr_db/t<t>``, for those t that fit into the episodes.
    """
    metrics: dict[str, float] = {}
    rng = np.random.default_rng(seed)
    for steps in STEPS:
        starts = run_starts(pairs.starts, steps)
        if not len(starts):
            continue
        starts = starts[evenly_spaced(len(starts), max(num_decodes // steps, MIN_STARTS))]
        windows = starts[:, None] + np.arange(steps)  # (S, t)
        given = {
            "true": codes[windows],
            "shuffled": codes[rng.integers(0, len(codes), windows.shape)],
            "random": rng.integers(0, model.quantizer.num_codes or 1, (*windows.shape, *codes.shape[1:])),
        }
        current, target = to_float(pairs[starts].current), to_float(pairs[windows[:, -1]].next)
        drawn = {kind: rollout(model, current, torch.from_numpy(given[kind])) for kind in KINDS}
        psnr = {kind: psnr_db(squared_errors(picture, target).mean()) for kind, picture in drawn.items()}
        metrics |= {
            f"psnr_db/t{steps}": psnr["true"],
            f"copy_psnr_db/t{steps}": psnr_db(squared_errors(current, target).mean()),
            f"shuffled_delta_psnr_db/t{steps}": psnr["true"] - psnr["shuffled"],
            f"random_delta_psnr_db/t{steps}": psnr["true"] - psnr["random"],
        }
    return metrics


def run_starts(starts: np.ndarray, steps: int) -> np.ndarray:
    """Rows of the pairs that are followed by ``steps - 1`` more without a gap; ``starts`` are their store indices."""
    last = np.arange(len(starts)) + steps - 1
    rows = np.flatnonzero(last < len(starts))
    whole: np.ndarray = rows[starts[last[rows]] - starts[rows] == steps - 1]
    return whole


@torch.inference_mode()
def rollout(model: LatentActionModel, current: Tensor, codes: Tensor) -> Tensor:
    """The picture after t steps: (S, C, H, W) in [0, 1] and (S, t, h, w) codes -> (S, C, H, W) in [0, 1]."""
    device = next(model.parameters()).device
    ends = []
    for frame, given in zip(current.split(BATCH), codes.split(BATCH), strict=True):
        frame, given = frame.to(device), given.to(device)
        for step in range(given.shape[1]):
            frame = model.decode(frame, given[:, step]).clamp(0, 1)
        ends.append(frame.cpu())
    return torch.cat(ends)


@dataclasses.dataclass(frozen=True)
class Counterfactual:
    """What one frame would have become had one code of its grid been another.

    Attributes:
        current: (C, H, W) in [0, 1].
        drawn: (C, H, W), with the codes of its own transition.
        codes: the codes tried.
        places: (row, column) of the grid where each was put.
        alternatives: (N, C, H, W), what is drawn then.
        where: where the frame was recorded.
    """

    current: np.ndarray
    drawn: np.ndarray
    codes: list[int]
    places: list[tuple[int, int]]
    alternatives: np.ndarray
    where: str


@torch.inference_mode()
def counterfactual(
    model: LatentActionModel, pairs: ClipDataset, row: int, codes: np.ndarray, tried: list[int], counts: np.ndarray
) -> Counterfactual:
    """Puts each of some codes at one place of the grid, the other places kept.

    Of the :data:`TRIED_PLACES` where the code stands most often it is put where it changes the picture most: a code
    that moves the paddle does nothing where there is none.

    Args:
        model: in eval mode.
        pairs: held-out pairs.
        row: which pair.
        codes: (P, h, w * n), those of all pairs.
        tried: the codes to try, each of which must stand somewhere, numbered as in ``counts``.
        counts: (h, w * n, n K), how often each code stands at each place.
    """
    device = next(model.parameters()).device
    current = to_float(pairs[[row]].current).to(device)

    def draw(grids: np.ndarray) -> np.ndarray:
        pictures = model.decode(current.expand(len(grids), -1, -1, -1), torch.from_numpy(grids).to(device))
        return pictures.clamp(0, 1).cpu().numpy()

    own = draw(codes[[row]])[0]
    places, alternatives = [], []
    for code in tried:
        frequent = np.argsort(-counts[:, :, code], axis=None, kind="stable")[:TRIED_PLACES]
        candidates = [divmod(int(place), counts.shape[1]) for place in frequent if counts[:, :, code].flat[place]]
        grids = np.repeat(codes[[row]], len(candidates), 0)
        for grid, place in zip(grids, candidates, strict=True):
            grid[place] = code % (model.quantizer.num_codes or 1)
        pictures = draw(grids)
        most = int(np.square(pictures - own).sum((1, 2, 3)).argmax())
        places.append(candidates[most])
        alternatives.append(pictures[most])
    return Counterfactual(current[0].cpu().numpy(), own, tried, places, np.stack(alternatives), pairs.where(row))
