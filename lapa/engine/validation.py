"""Looking at held-out episodes while training: losses, readings, code use, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapa import distributed
from lapa.contracts import Progress, Readings, System
from lapa.data.clips import ClipDataset
from lapa.data.splits import evenly_spaced
from lapa.device import autocast
from lapa.nn.losses import weighted_sum

SAMPLED = 64
"""Readings that take longer than a forward pass are taken on this many clips."""


@dataclasses.dataclass(frozen=True)
class Validator:
    """Judges a system that is being trained, in its training precision.

    Every rank takes its share of the clips, and all get the same figures.

    Attributes:
        system: which; it is put into eval mode and back.
        dataset: clips of held-out episodes.
        loss: the configuration of the loss.
        max_clips: at most this many of them, at even distances, are looked at.
        batch_size: clips in a forward pass.
        precision: as in the training's configuration.
    """

    system: System
    dataset: ClipDataset
    loss: Any
    max_clips: int
    batch_size: int
    precision: str

    @torch.no_grad()
    def metrics(self, progress: float) -> dict[str, float]:
        """``val/*``: the loss as it is weighed at this share of the training, and the system's readings."""
        totals, progress = Totals(), Progress.of(progress)
        for inputs, output in self._batches(self._share(self.max_clips)):
            terms = self.system.terms(output, inputs, self.loss, progress)
            losses = {f"loss/{name}": term for name, (_, term) in terms.items()}
            losses["loss/total"] = weighted_sum(terms)
            readings = self.system.readings(output, inputs)
            totals.add(Readings({**losses, **readings.means}, readings.counts), len(inputs[0]))
        means, counts = totals.combined()
        if type(self.system).sampled_readings is not System.sampled_readings:
            sampled = Totals()
            for inputs, output in self._batches(self._share(SAMPLED)):
                sampled.add(self.system.sampled_readings(output, inputs), len(inputs[0]))
            means |= sampled.combined()[0]
        losses_found = {f"val/{name}": means.pop(name) for name in list(means) if name.startswith("loss/")}
        return losses_found | self.system.metrics("val", means, counts)

    @torch.no_grad()
    def counts(self) -> dict[str, Tensor]:
        """The counts of the readings alone, on the CPU."""
        totals = Totals()
        for inputs, output in self._batches(self._share(self.max_clips)):
            totals.add(Readings({}, self.system.readings(output, inputs).counts), len(inputs[0]))
        return totals.combined()[1]

    @torch.no_grad()
    def pictures(self, count: int = 8) -> tuple[dict[str, np.ndarray], list[str]]:
        """Clips at even distances over the held-out episodes, not chosen by quality, as the system shows them.

        Returns:
            Rows of pictures (N, C, H, W) by name, and where each clip was recorded.
        """
        chosen = evenly_spaced(len(self.dataset), count + 2)
        chosen = chosen[1:-1] if len(chosen) > 2 else chosen
        parts = [self.system.pictures(output, inputs) for inputs, output in self._batches(chosen)]
        rows = {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}
        return rows, [self.dataset.where(int(index)) for index in chosen]

    def _share(self, sample: int) -> np.ndarray:
        """This rank's part of a sample of the clips; never empty."""
        chosen = evenly_spaced(len(self.dataset), max(sample, distributed.world_size()))
        part: np.ndarray = np.array_split(chosen, distributed.world_size())[distributed.rank()]
        return part

    def _batches(self, indices: np.ndarray) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
        device = next(self.system.parameters()).device
        was_training = self.system.training
        self.system.eval()
        for first in range(0, len(indices), self.batch_size):
            clips = self.dataset[indices[first : first + self.batch_size]].to(device)
            inputs = self.system.inputs(clips)
            with autocast(device, self.precision):
                output = self.system(*inputs)
            yield inputs, output
        self.system.train(was_training)


class Totals:
    """Sums readings over batches and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._clips = 0

    def add(self, readings: Readings, clips: int) -> None:
        """Counts one batch."""
        for name, mean in readings.means.items():
            self._sums[name] = self._sums.get(name, 0.0) + mean.detach().double() * clips
        for name, counts in readings.counts.items():
            self._counts[name] = self._counts.get(name, 0) + counts
        self._clips += clips

    def combined(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Means over all clips, and counts, on the CPU."""
        counts = {name: distributed.summed(count).cpu() for name, count in self._counts.items()}
        if not self._sums:
            return {}, counts
        sums = torch.stack([*self._sums.values()])
        total = distributed.summed(torch.cat([sums, sums.new_tensor([float(self._clips)])]))
        return dict(zip(self._sums, (total[:-1] / total[-1]).tolist(), strict=True)), counts
