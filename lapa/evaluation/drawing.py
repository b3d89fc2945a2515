"""The pairs as a model labels and draws them, and how far off it is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips
from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.store import StoredEpisode
from lapa.inference.labelling import Labeller
from lapa.metrics.pixels import PairErrors, joined, pair_errors
from lapa.progress import progress_bar
from lapa.systems.latent_action.model import LatentActionModel


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Pairs of a split, as the model labels and draws them.

    Attributes:
        pairs: P of them.
        codes: (P, h, w) int64, or None when the latent is continuous.
        predictions: (P, C, H, W) uint8.
        errors: of each predictor by its prefix: ``""`` the model, ``copy_`` the current frame, ``mean_`` the mean
            frame of the training episodes.
        seconds: that labelling and drawing took.
    """

    pairs: ClipDataset
    codes: np.ndarray | None
    predictions: np.ndarray
    errors: dict[str, PairErrors]
    seconds: float


@torch.inference_mode()
def draw(
    model: LatentActionModel,
    pairs: ClipDataset,
    mean_frame: Tensor,
    batch_size: int,
    rows: np.ndarray | None = None,
) -> Drawn:
    """Labels and redraws the pairs, or some of them, and measures the errors."""
    rows = np.arange(len(pairs)) if rows is None else rows
    device = next(model.parameters()).device
    labeller = Labeller(model) if model.quantizer.num_codes is not None else None
    codes: list[Tensor] = []
    pictures: list[Tensor] = []
    errors: dict[str, list[PairErrors]] = {"": [], "copy_": [], "mean_": []}
    seconds = 0.0
    with progress_bar(total=len(rows), desc="evaluate", unit="pair") as bar:
        for batch, _ in batches(pairs, batch_size, rows):
            started = time.perf_counter()
            current = to_float(batch.current.to(device))
            if labeller:
                codes.append(labeller(batch.current, batch.next).cpu())
                prediction = model.decode(current, codes[-1].to(device))
            else:
                prediction = model(current, to_float(batch.next.to(device))).prediction
            prediction = prediction.float().clamp(0, 1).cpu()
            seconds += time.perf_counter() - started
            current, following = current.cpu(), to_float(batch.next)
            drawn = {"": prediction, "copy_": current, "mean_": mean_frame.expand_as(current)}
            for name, picture in drawn.items():
                errors[name].append(pair_errors(picture, current, following))
            pictures.append((255 * prediction).round().to(torch.uint8))
            bar.update(len(batch))
    return Drawn(
        pairs=pairs,
        codes=torch.cat(codes).numpy() if codes else None,
        predictions=torch.cat(pictures).numpy(),
        errors={name: joined(parts) for name, parts in errors.items()},
        seconds=seconds,
    )


def batches(pairs: ClipDataset, batch_size: int, rows: np.ndarray) -> Iterator[tuple[Clips, np.ndarray]]:
    """The pairs of the rows in order, and these rows, batch by batch."""
    for first in range(0, len(rows), batch_size):
        chosen = rows[first : first + batch_size]
        yield pairs[chosen], chosen


def reconstruction_metrics(errors: dict[str, PairErrors], rows: Any = slice(None)) -> dict[str, float]:
    """Figures of each predictor over some of the pairs, and the model's gains over copying."""
    metrics = {prefix + name: value for prefix, e in errors.items() for name, value in e.metrics(rows).items()}
    metrics["gain_over_copy_db"] = metrics["psnr_db"] - metrics["copy_psnr_db"]
    metrics["changed_gain_over_copy_db"] = metrics["changed_psnr_db"] - metrics["copy_changed_psnr_db"]
    return metrics


def figures_by_episode(drawn: Drawn, episodes: Sequence[StoredEpisode]) -> dict[str, dict[str, float]]:
    """Reconstruction figures of each episode that has a pair."""
    counts = [len(episode.clip_starts()) for episode in episodes]
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    return {
        episode.name: reconstruction_metrics(drawn.errors, mine)
        for episode, mine in zip(episodes, rows, strict=True)
        if len(mine)
    }


def spread(by_episode: dict[str, dict[str, float]]) -> dict[str, float]:
    """The lowest and the highest gain over copying of an episode."""
    gains = [figures["gain_over_copy_db"] for figures in by_episode.values()]
    return {"episode_gain_over_copy_db_min": min(gains), "episode_gain_over_copy_db_max": max(gains)}
