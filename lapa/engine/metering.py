"""What is shown of a training while it runs: the bar, the speed of the steps, who waits for whom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from lapa.config import TrainingConfig
from lapa.data.feed import Feed
from lapa.device import peak_memory, utilization
from lapa.engine.schedule import Clock
from lapa.progress import progress_bar


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


def training_bar(options: TrainingConfig, clock: Clock, step: int) -> tqdm[Any]:
    """Counts steps, or the share of the time where there is a limit."""
    if not clock.counts_time:
        return progress_bar(total=options.steps, initial=step, desc="train", unit="step")
    return progress_bar(
        total=100, desc="train", unit="%", bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    )


def update_bar(
    bar: tqdm[Any], clock: Clock, step: int, logged: dict[str, float], shown: tuple[tuple[str, str, str], ...]
) -> None:
    """Shows the loss, what the system wants shown, and the speed."""
    done = 100 * clock.progress(step) if clock.counts_time else step
    bar.update(done - bar.n)
    found = [f"{label} {form.format(logged[name])}" for label, name, form in shown if name in logged]
    parts = [f"step {step}", f"loss {logged['train/loss/total']:.4f}", *found]
    bar.set_postfix_str(f"{', '.join(parts)}, {logged['train/speed/pairs_per_s']:.0f} pairs/s", refresh=False)
