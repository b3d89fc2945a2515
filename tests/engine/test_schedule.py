"""Schedules follow steps, or time where the limit comes first."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lapa.config import TrainingConfig
from lapa.engine import schedule
from lapa.engine.schedule import Clock, is_due, learning_rate, with_steps


def rate(progress: float, **options: Any) -> float:
    return learning_rate(TrainingConfig(learning_rate=1.0, final_learning_rate=0.2, **options), progress)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 1.0), (0.25, 0.6 + 0.4 * math.cos(math.pi / 4)), (0.5, 0.6), (1.0, 0.2)]
)
def test_the_learning_rate_follows_a_cosine(progress: float, expected: float) -> None:
    assert rate(progress) == pytest.approx(expected)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.01), (0.05, 0.5), (0.1, 1.0), (0.55, 0.6), (1.0, 0.2)])
def test_the_learning_rate_rises_over_the_warm_up_first(progress: float, expected: float) -> None:
    assert rate(progress, warmup=0.1) == pytest.approx(expected)


def test_the_reference_goes_from_3e_4_to_1e_4() -> None:
    assert learning_rate(TrainingConfig(), 0.0) == pytest.approx(3e-4)
    assert learning_rate(TrainingConfig(), 1.0) == pytest.approx(1e-4)


def test_the_clock_counts_steps_where_there_is_no_limit() -> None:
    clock = Clock(TrainingConfig(steps=200))
    assert not clock.counts_time
    assert [clock.progress(step) for step in (0, 50, 200, 300)] == [0.0, 0.25, 1.0, 1.0]
    assert [clock.is_over(step) for step in (0, 199, 200)] == [False, False, True]


def test_the_clock_counts_time_where_the_limit_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(TrainingConfig(steps=200, max_minutes=2))
    assert clock.counts_time
    monkeypatch.setattr(schedule.time, "monotonic", lambda: clock.started + 90)
    assert clock.progress(50) == 0.75
    assert clock.progress(180) == 0.9
    assert not clock.is_over(50)
    monkeypatch.setattr(schedule.time, "monotonic", lambda: clock.started + 121)
    assert clock.progress(50) == 1.0
    assert clock.is_over(50)


def test_the_clock_of_a_resumed_run_counts_the_time_before() -> None:
    clock = Clock(TrainingConfig(max_minutes=2), before=90)
    assert 90 <= clock.elapsed() < 95
    assert clock.progress(0) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    ("epochs", "steps"), [(None, 500), (1, 30), (2.5, 75), (0.1, 3), (0.101, 4), (0.001, 1), (20, 600)]
)
def test_epochs_say_how_many_steps_in_whole_ones(epochs: float | None, steps: int) -> None:
    options = TrainingConfig(steps=500, epochs=epochs)
    found = with_steps(options, steps_per_epoch=30)
    assert found.steps == steps
    assert options.steps == 500
    assert Clock(found).is_over(steps)
    assert not Clock(found).is_over(steps - 1)


@pytest.mark.parametrize(("step", "due"), [(1, False), (9, False), (10, True), (20, True)])
def test_what_is_done_every_ten_steps_is_due_at_each_tenth(step: int, due: bool) -> None:
    assert is_due(step, 10) is due
