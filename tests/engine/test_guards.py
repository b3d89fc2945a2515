"""Guards speak up when they must, and only then."""

from __future__ import annotations

import pytest

from lapa.config import TrainingConfig
from lapa.engine.guards import Alarms, CollapseGuard, NonFiniteGuard, ZeroLossGuard
from lapa.errors import TrainingError


def test_bad_steps_in_a_row_end_the_run_and_scattered_ones_do_not() -> None:
    guard = NonFiniteGuard(TrainingConfig(max_non_finite=3))
    for step in range(10):
        guard.bad(step, "no checkpoint")
        guard.bad(step, "no checkpoint")
        guard.good()
    assert (guard.total, guard.in_a_row) == (20, 0)
    guard.bad(30, "the last good checkpoint is step_20.pt")
    guard.bad(31, "the last good checkpoint is step_20.pt")
    with pytest.raises(TrainingError, match=r"not finite for 3 steps, up to step 32; the last good .* is step_20.pt"):
        guard.bad(32, "the last good checkpoint is step_20.pt")


def watch_terms(guard: ZeroLossGuard, first: int, *values: float, weight: float = 1.0) -> None:
    """Steps with a term ``perceptual`` of those values, beside one that is never 0."""
    for step, value in enumerate(values, start=first):
        guard.watch(step, {"error": 0.1, "perceptual": value}, {"error": 1.0, "perceptual": weight})


def test_a_term_that_stays_exactly_zero_ends_the_run_in_one_line() -> None:
    guard = ZeroLossGuard(TrainingConfig(max_zero=3))
    watch_terms(guard, 1, 0.0, 0.0, 1e-30, 0.0, 0.0, float("nan"), 0.0, 0.0)
    with pytest.raises(TrainingError) as raised:
        watch_terms(guard, 9, 0.0)
    message = str(raised.value)
    assert message.startswith("the loss term 'perceptual' was exactly 0 for 3 steps, up to step 9: ")
    assert "set the term's weight to 0" in message
    assert "training.max_zero=0" in message
    assert "\n" not in message


def test_a_term_without_a_weight_and_one_that_was_left_out_may_be_zero() -> None:
    guard = ZeroLossGuard(TrainingConfig(max_zero=3))
    watch_terms(guard, 1, *[0.0] * 10, weight=0.0)
    watch_terms(guard, 11, 0.0, 0.0)
    guard.watch(13, {"error": 0.1}, {"error": 1.0})
    watch_terms(guard, 14, 0.0, 0.0)
    watch_terms(ZeroLossGuard(TrainingConfig(max_zero=0)), 1, *[0.0] * 200)  # switched off


def watch(guard: CollapseGuard, perplexities: list[float]) -> list[tuple[int, str]]:
    """Steps at which the guard warned, with the warnings."""
    said = [(step, guard.watch(step, value)) for step, value in enumerate(perplexities, start=1)]
    return [(step, warning) for step, warning in said if warning]


def test_a_collapsed_codebook_is_told_once_a_window_with_the_remedies() -> None:
    guard = CollapseGuard(TrainingConfig(collapse_share=0.05, collapse_steps=10), num_codes=256)
    warnings = watch(guard, [60.0] * 20 + [3.0] * 40)
    # The mean of the window falls below 12.8 with its ninth low value.
    assert [step for step, _ in warnings] == [29, 39, 49, 59]
    assert guard.warned_at == 29
    assert "WARNING: codebook collapse: perplexity 8.7 of 256 codes over the last 10 steps" in warnings[0][1]
    for remedy in ("quantizer.name=ema", "quantizer.commitment", "training.reseed_every", "quantizer.entropy"):
        assert remedy in warnings[0][1]


def test_a_healthy_codebook_is_left_alone() -> None:
    options = TrainingConfig(collapse_share=0.05, collapse_steps=10)
    assert watch(CollapseGuard(options, num_codes=256), [13.0] * 100) == []
    assert watch(CollapseGuard(options, num_codes=8), [1.6] * 100) == []


def test_a_start_shorter_than_the_window_is_not_judged() -> None:
    assert watch(CollapseGuard(TrainingConfig(collapse_steps=10), num_codes=256), [1.0] * 9) == []


@pytest.mark.parametrize("num_codes", [2, 8])
def test_a_small_codebook_has_collapsed_when_one_code_is_left(num_codes: int) -> None:
    assert watch(CollapseGuard(TrainingConfig(collapse_steps=5), num_codes), [1.0] * 5)


def test_without_codes_or_without_a_threshold_nothing_is_watched() -> None:
    assert watch(CollapseGuard(TrainingConfig(collapse_steps=5), None), [1.0] * 20) == []
    assert watch(CollapseGuard(TrainingConfig(collapse_steps=5, collapse_share=0), 256), [1.0] * 20) == []


def test_a_resumed_guard_goes_on_counting() -> None:
    options = TrainingConfig(collapse_steps=10, max_non_finite=3)
    whole, stopped, resumed = (CollapseGuard(options, 256) for _ in range(3))
    watch(stopped, [1.0] * 6)
    resumed.load_state_dict(stopped.state_dict())
    assert watch(resumed, [1.0] * 4) == [(4, watch(whole, [1.0] * 10)[0][1].replace("step 10", "step 4"))]
    first, second = NonFiniteGuard(options), NonFiniteGuard(options)
    first.bad(1, "")
    first.bad(2, "")
    second.load_state_dict(first.state_dict())
    with pytest.raises(TrainingError):
        second.bad(3, "")
    assert second.total == 3
    before, after = ZeroLossGuard(options), ZeroLossGuard(options)
    watch_terms(before, 1, *[0.0] * 99)
    after.load_state_dict(before.state_dict())
    with pytest.raises(TrainingError, match="for 100 steps, up to step 100"):
        watch_terms(after, 100, 0.0)


def test_an_alarm_is_said_once_whatever_its_figures_and_again_after_it_was_gone() -> None:
    alarms = Alarms()
    dark, flat = "the pictures are dark (mean {})", "every frame has the same codes"
    assert alarms.new([dark.format(0.5)]) == ["the pictures are dark (mean 0.5)"]
    assert alarms.new([dark.format(0.25), flat]) == [flat]
    assert alarms.new([flat]) == []
    assert alarms.new([dark.format(0)]) == ["the pictures are dark (mean 0)"]
