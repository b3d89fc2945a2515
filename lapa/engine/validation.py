"""Looking at held-out episodes while training: losses, PSNR, SSIM, code use, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lapa import distributed
from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.device import autocast
from lapa.metrics.codes import entropy_bits
from lapa.metrics.pixels import mean_ssim, psnr_db, squared_errors
from lapa.report.pictures import Example
from lapa.systems.latent_action.model import LatentActionModel, ModelOutput

SSIM_PAIRS = 64
"""SSIM is the mean over so many pairs: it takes longer than the model does."""


@dataclasses.dataclass(frozen=True)
class Validator:
    """Judges a model that is being trained, in its training precision, beside copying the current frame.

    Every rank takes its share of the pairs, and all get the same figures.

    Attributes:
        model: which; it is put into eval mode and back.
        dataset: pairs of held-out episodes.
        max_pairs: at most so many of them, at even distances, are looked at.
        batch_size: pairs in a forward pass.
        precision: as in the training's configuration.
    """

    model: LatentActionModel
    dataset: ClipDataset
    max_pairs: int
    batch_size: int
    precision: str

    @torch.no_grad()
    def metrics(self, losses: Callable[[ModelOutput, Tensor, Tensor], Mapping[str, Tensor]]) -> dict[str, float]:
        """``val/loss/*``, ``val/recon/*`` and ``val/codebook/*``; ``losses`` gives the terms of a batch."""
        pairs = 0
        sums: dict[str, Tensor] = {}
        counts = self._no_codes()
        for current, following, output in self._batches(self._share(self.max_pairs)):
            values = {f"loss/{name}": term * len(current) for name, term in losses(output, current, following).items()}
            values["mse"] = squared_errors(output.prediction, following).sum()
            values["copy_mse"] = squared_errors(current, following).sum()
            sums = {name: sums.get(name, 0.0) + value.double() for name, value in values.items()}
            counts += self._count(output)
            pairs += len(current)
        total = distributed.summed(torch.stack([*sums.values(), torch.full_like(sums["mse"], pairs)]))
        mean = dict(zip(sums, (total[:-1] / total[-1]).tolist(), strict=True))
        ssim, copy_ssim = self._ssim()
        used = distributed.summed(counts)
        codes = {} if not len(used) else {"val/codebook/codes_used": float((used > 0).sum())}
        return {
            **{f"val/{name}": value for name, value in mean.items() if name.startswith("loss/")},
            "val/recon/mse": mean["mse"],
            "val/recon/psnr_db": psnr_db(mean["mse"]),
            "val/recon/copy_psnr_db": psnr_db(mean["copy_mse"]),
            "val/recon/ssim": ssim,
            "val/recon/copy_ssim": copy_ssim,
            **codes,
        }

    def code_use(self) -> np.ndarray:
        """(K,) int64, how often each code is used on the held-out pairs; empty where there are no codes."""
        counts = self._no_codes()
        for _, _, output in self._batches(self._share(self.max_pairs)):
            counts += self._count(output)
        return distributed.summed(counts).cpu().numpy()

    def examples(self, count: int = 8) -> list[Example]:
        """Pairs at even distances over the held-out episodes, as they are drawn; no choice by quality."""
        chosen = evenly_spaced(len(self.dataset), count + 2)[1:-1]
        drawn = []
        for current, following, output in self._batches(chosen):
            rows = (current.cpu().numpy(), following.cpu().numpy(), output.prediction.float().cpu().numpy())
            drawn += list(zip(*rows, strict=True))
        places = [self.dataset.where(int(index)) for index in chosen]
        return [Example(*frames, where) for frames, where in zip(drawn, places, strict=True)]

    def _ssim(self) -> tuple[float, float]:
        """Of the predictions and of the current frames."""
        total = np.zeros(3)
        for current, following, output in self._batches(self._share(SSIM_PAIRS)):
            before, after = current.cpu().numpy(), following.cpu().numpy()
            drawn = output.prediction.float().clamp(0, 1).cpu().numpy()
            total += len(before) * np.array([mean_ssim(drawn, after), mean_ssim(before, after), 1.0])
        device = next(self.model.parameters()).device
        ssim, copy_ssim, pairs = distributed.summed(torch.tensor(total, dtype=torch.float32, device=device)).tolist()
        return ssim / pairs, copy_ssim / pairs

    def _share(self, sample: int) -> np.ndarray:
        """This rank's part of a sample of the pairs; never empty."""
        chosen = evenly_spaced(len(self.dataset), max(sample, distributed.world_size()))
        part: np.ndarray = np.array_split(chosen, distributed.world_size())[distributed.rank()]
        return part

    @torch.inference_mode()
    def _batches(self, indices: np.ndarray) -> Iterator[tuple[Tensor, Tensor, ModelOutput]]:
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()
        for first in range(0, len(indices), self.batch_size):
            pair = self.dataset[indices[first : first + self.batch_size]].to(device)
            current, following = to_float(pair.current), to_float(pair.next)
            with autocast(device, self.precision):
                output = self.model(current, following)
            yield current, following, output
        self.model.train(was_training)

    def _no_codes(self) -> Tensor:
        number = self.model.quantizer.num_distinct
        return torch.zeros(number, dtype=torch.int64, device=next(self.model.parameters()).device)

    def _count(self, output: ModelOutput) -> Tensor:
        if output.quantized.codes is None:
            return self._no_codes()
        quantizer = self.model.quantizer
        return torch.bincount(quantizer.distinct(output.quantized.codes).flatten(), minlength=quantizer.num_distinct)


def usage_metrics(counts: np.ndarray) -> dict[str, float]:
    """Number of codes used and perplexity of code counts (n K,)."""
    return {
        "val/codebook/codes_used": float((counts > 0).sum()),
        "val/codebook/perplexity": 2 ** entropy_bits(counts),
    }
