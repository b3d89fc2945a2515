"""What changes over a training, and when something is due."""

from __future__ import annotations

import dataclasses
import math
import time

from lapa.config import TrainingConfig


class Clock:
    """Measures progress by steps, or by time where the time limit comes first, so that schedules always finish.

    Args:
        options: the limits.
        before: seconds that the run took before it was resumed.
    """

    def __init__(self, options: TrainingConfig, before: float = 0.0) -> None:
        self.steps = options.steps
        self.limit = math.inf if options.max_minutes is None else 60 * options.max_minutes
        self.started = time.monotonic() - before

    @property
    def counts_time(self) -> bool:
        """Whether there is a time limit."""
        return self.limit < math.inf

    def elapsed(self) -> float:
        """Seconds since the start, those before a resume included."""
        return time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """Share of the training that is done, in [0, 1]."""
        return min(1.0, max(step / self.steps, self.elapsed() / self.limit))

    def is_over(self, step: int) -> bool:
        """Whether the last step is done."""
        return step >= self.steps or self.elapsed() >= self.limit


def with_steps(options: TrainingConfig, steps_per_epoch: int) -> TrainingConfig:
    """The same options, in which ``steps`` are as many as ``epochs`` needs, if it is set; rounded up."""
    if options.epochs is None:
        return options
    steps = math.ceil(round(options.epochs * steps_per_epoch, 6))  # 0.1 of 30 is 3, not 3.0000000000000004
    return dataclasses.replace(options, steps=max(1, steps))


def learning_rate(options: TrainingConfig, progress: float) -> float:
    """Rises linearly over the warm-up, then follows a cosine from the first to the final rate."""
    if progress < options.warmup:
        return options.learning_rate * max(progress, 1e-3) / options.warmup
    share = (progress - options.warmup) / (1 - options.warmup)
    span = options.learning_rate - options.final_learning_rate
    return options.final_learning_rate + span * (1 + math.cos(math.pi * share)) / 2


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is due."""
    return step % every == 0
