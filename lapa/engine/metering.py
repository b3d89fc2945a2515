"""What is measured while training: the values of a step, and the speed of the steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lapa import distributed
from lapa.contracts import Quantizer
from lapa.data.feed import Feed
from lapa.device import peak_memory, utilization
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.systems.latent_action.model import ModelOutput


class StepResult:
    """Sums what the micro-batches of one step gave.

    Args:
        quantizer: tells the codes of a place apart.

    Attributes:
        encoding: (B, D, h, w), the latents of the last one.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        self._quantizer = quantizer
        self._code_counts = torch.zeros(0)
        self._sums: dict[str, Tensor] = {}
        self._parts = 0
        self.encoding = torch.empty(0)

    def add(self, loss: Tensor, terms: Mapping[str, Tensor], output: ModelOutput, next: Tensor) -> None:
        """Counts one micro-batch."""
        values = {
            "train/loss/total": loss,
            **{f"train/loss/{name}": term for name, term in terms.items()},
            **{f"train/quantizer/{name}": value for name, value in output.quantized.metrics.items()},
            "mse": squared_errors(output.prediction.detach(), next).mean(),
        }
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        if output.quantized.codes is not None:
            codes = self._quantizer.distinct(output.quantized.codes)
            counts = torch.bincount(codes.flatten(), minlength=self._quantizer.num_distinct).float()
            self._code_counts = counts if not self._parts else self._code_counts + counts
        self._parts += 1
        self.encoding = output.encoding.detach()

    def values(self, norm: Tensor, stop: int) -> dict[str, float]:
        """Means over micro-batches and ranks, and the code use of all together; moved to the host at once.

        ``stop``, this rank's signal or 0, is summed instead: it is not 0 on any rank if one of them got a signal.
        """
        share = 1 / (self._parts * distributed.world_size())
        signal = torch.tensor(float(stop), device=norm.device)
        vector = torch.stack(
            [*(value * share for value in self._sums.values()), norm / distributed.world_size(), signal]
        )
        numbers = distributed.summed(torch.cat([vector, self._code_counts.to(vector.device)])).cpu()
        names = [*self._sums, "train/optim/gradient_norm", "stop"]
        means = dict(zip(names, numbers[: len(names)].tolist(), strict=True))
        means["train/recon/psnr_db"] = psnr_db(means.pop("mse"))
        counts = numbers[len(names) :]
        if len(counts):
            used = counts / counts.sum()
            means["train/quantizer/perplexity"] = float(torch.special.entr(used).sum().exp())
            means["train/quantizer/codes_used"] = float((counts > 0).sum())
        return means


class Meter:
    """Measures the speed of training between two looks at it, and who waits for whom."""

    def __init__(self, feed: Feed, device: torch.device) -> None:
        self._feed, self._device = feed, device
        self._pairs = 0
        self._waited = feed.waited
        self._started = time.perf_counter()
        self._asked = 0.0

    def count(self, pairs: int) -> None:
        """Notes the pairs of one step."""
        self._pairs += pairs

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the body's time out."""
        paused = time.perf_counter()
        yield
        self._started += time.perf_counter() - paused

    def read(self) -> dict[str, float]:
        """``train/speed/*`` since the last call, and ``train/device/*`` now."""
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        metrics = {
            "train/speed/pairs_per_s": self._pairs / seconds,
            "train/speed/data_wait_share": (self._feed.waited - self._waited) / seconds,
            "train/device/peak_memory_bytes": float(peak_memory(self._device)),
        }
        if now - self._asked > 1.0 and (share := utilization(self._device)) is not None:
            metrics["train/device/utilization"] = share
            self._asked = now
        self._pairs, self._waited, self._started = 0, self._feed.waited, now
        return metrics
