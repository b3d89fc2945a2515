"""Several trackers as one, and which a configuration asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lapa import distributed
from lapa.config import Config, TrackingConfig, config_to_dict
from lapa.tracking.jsonl import JsonlTracker
from lapa.tracking.tensorboard import TensorBoardTracker
from lapa.tracking.tracker import Tracker, first_line, imported
from lapa.tracking.wandb import WandbTracker


class Trackers:
    """Tells several trackers; close it by leaving it as a context.

    One that fails is told of once and left out from then on: a run does not end because of who watches it. But
    the first, the run's own record, must not fail.

    Args:
        record: the run's own record; None in processes that write nothing.
        others: trackers that may fail.
        notify: told of each that does.
    """

    def __init__(self, record: Tracker | None, others: list[Tracker], notify: Callable[[str], None]) -> None:
        self._record = record
        self._others = others
        self._notify = notify

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tells all of numbers by name."""
        self._tell(lambda tracker: tracker.log(step, metrics))

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        """Tells all how often each of K things was seen, (K,) int64."""
        self._tell(lambda tracker: tracker.histogram(step, name, counts))

    def image(self, step: int, name: str, path: Path) -> None:
        """Tells all of a PNG file that has just been written."""
        self._tell(lambda tracker: tracker.image(step, name, path))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        try:
            if self._record is not None:
                call(self._record)
        finally:  # the others are closed even then
            for tracker in list(self._others):
                try:
                    call(tracker)
                except Exception as error:  # a stranger's code can raise anything
                    self._others.remove(tracker)
                    self._notify(
                        f"WARNING: {type(tracker).__name__} failed ({first_line(error)}); the run goes on without it"
                    )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell(lambda tracker: tracker.close())


def open_trackers(
    config: Config, out: Path, *, facts: Mapping[str, Any], resume_from: int | None, notify: Callable[[str], None]
) -> Trackers:
    """The trackers that a configuration asks for; of several processes, only the first one tracks.

    Args:
        config: the run's configuration.
        out: the run's folder.
        facts: what was trained, on what; plain values.
        resume_from: step from which the run goes on; None for a new one.
        notify: told of a tracker that cannot start.

    Raises:
        ConfigError: a tracker's package is not installed.
    """
    if not distributed.is_main():
        return Trackers(None, [], notify)
    options = config.tracking
    check_packages(options)
    shown = {**facts, "config": config_to_dict(config)}
    resumed = resume_from is not None
    makers: dict[str, Callable[[], Tracker]] = {}
    if wants_wandb(options):
        makers["Weights & Biases"] = lambda: WandbTracker(options, out, shown, notify, resumed=resumed)
    if options.tensorboard:
        makers["TensorBoard"] = lambda: TensorBoardTracker(out, shown, resume_from=resume_from)
    record = JsonlTracker(out / "metrics.jsonl", resume_from=resume_from)
    others: list[Tracker] = []
    for name, make in makers.items():
        try:
            others.append(make())
        except Exception as error:  # a stranger's code can raise anything
            notify(f"WARNING: {name} cannot start ({first_line(error)}); the run goes on without it")
    return Trackers(record, others, notify)


def check_packages(options: TrackingConfig) -> None:
    """Checks that the trackers' packages are installed, and writes nothing.

    Raises:
        ConfigError: one is not.
    """
    if wants_wandb(options):
        imported("wandb", "wandb", "tracking.wandb")
    if options.tensorboard:
        imported("tensorboard", "tensorboard", "tracking.tensorboard")


def wants_wandb(options: TrackingConfig) -> bool:
    """Whether Weights & Biases is asked for, and the environment does not disable it."""
    return options.wandb != "off" and os.environ.get("WANDB_MODE") != "disabled"
