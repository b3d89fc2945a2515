"""The speed of the steps, and who waits for whom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from lapa.data.feed import Feed
from lapa.device import peak_memory, utilization


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
