from __future__ import annotations

import pytest
import torch

from lapa.contracts import Quantized
from lapa.nn.losses import scheduled, stepped, weighted_squared_error, weighted_sum
from lapa.systems.latent_action.config import LossConfig
from lapa.systems.latent_action.losses import loss_terms


@pytest.fixture
def frames() -> tuple[torch.Tensor, torch.Tensor]:
    """Two black frames of 16 pixels; in the second, two pixels have become white."""
    current = torch.zeros(1, 1, 4, 4)
    following = current.clone()
    following[0, 0, 1, :2] = 1.0
    return current, following


def terms_of(prediction, current, following, config, progress):
    """The terms for a model whose quantizer lost 0.7."""
    quantized = Quantized(torch.zeros(1, 2, 1, 1), None, torch.tensor(0.7), {})
    return loss_terms(prediction, quantized, current, following, config, progress)


def test_without_motion_the_error_is_the_mean_squared_error(frames):
    current, following = frames
    prediction = torch.rand_like(following)
    expected = torch.nn.functional.mse_loss(prediction, following)
    assert torch.isclose(weighted_squared_error(prediction, following, following != current, 0.0), expected)


def test_motion_weighs_changed_pixels_alone(frames):
    current, following = frames
    wrong_where_it_moved, wrong_where_it_stood = current.clone(), following.clone()
    wrong_where_it_stood[0, 0, 3, :2] = 1.0
    changed = following != current
    assert weighted_squared_error(wrong_where_it_moved, following, changed, 9.0) == pytest.approx(10 * 2 / 16)
    assert weighted_squared_error(wrong_where_it_stood, following, changed, 9.0) == pytest.approx(2 / 16)


def test_the_error_of_a_half_precision_prediction_is_computed_in_single(frames):
    current, following = frames
    assert weighted_squared_error(current.bfloat16(), following, following != current, 0.0).dtype == torch.float32


def test_the_error_has_a_gradient_everywhere(frames):
    current, following = frames
    prediction = torch.full_like(following, 0.5, requires_grad=True)
    weighted_squared_error(prediction, following, following != current, 9.0).backward()
    assert (prediction.grad != 0).all()


@pytest.mark.parametrize(("threshold", "weight"), [(0.02, 1), (0.005, 10)])
def test_a_change_below_the_threshold_is_no_motion(frames, threshold, weight):
    current, _ = frames
    following, prediction = current + 0.01, current + 1.01
    config = LossConfig(motion=9, motion_end=9, motion_threshold=threshold)
    _, value = terms_of(prediction, current, following, config, 0.0)["reconstruction"]
    assert value == pytest.approx(weight)


@pytest.mark.parametrize(
    ("start", "end", "progress", "expected"),
    [
        (200, 2, 0.0, 200),
        (200, 2, 0.5, 20),
        (200, 2, 1.0, 2),
        (10, 10, 0.3, 10),
        (10, 0, 0.5, 5),  # a geometric fall never reaches zero
        (0, 0, 0.5, 0),
    ],
)
def test_a_weight_moves_geometrically_where_it_can(start, end, progress, expected):
    assert scheduled(start, end, progress) == pytest.approx(expected)


def test_the_terms_of_a_batch_follow_the_progress_and_carry_their_weights(frames):
    current, following = frames
    config = LossConfig(motion=99, motion_end=9, quantizer=10.0, reconstruction=0.5)
    early, late = (terms_of(current, current, following, config, progress) for progress in (0.0, 1.0))
    assert {name: weight for name, (weight, _) in early.items()} == {"reconstruction": 0.5, "quantizer": 10.0}
    assert early["quantizer"][1] == pytest.approx(0.7)
    assert early["reconstruction"][1] == pytest.approx(10 * late["reconstruction"][1])


def test_the_sum_is_weighted():
    terms = {"reconstruction": (0.5, torch.tensor(2.0)), "quantizer": (10.0, torch.tensor(3.0))}
    assert weighted_sum(terms) == pytest.approx(0.5 * 2 + 10 * 3)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(weight):
    with pytest.raises(ValueError, match="weight of loss term 'b' must be finite"):
        weighted_sum({"a": (1.0, torch.tensor(1.0)), "b": (weight, torch.tensor(1.0))})


def test_a_loss_without_terms_is_refused():
    with pytest.raises(ValueError, match="at least one term"):
        weighted_sum({})


def test_a_term_that_is_no_scalar_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'b' must be a scalar, not of shape \(2,\)"):
        weighted_sum({"a": (1.0, torch.tensor(1.0)), "b": (1.0, torch.ones(2))})


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(0, 0.1), (4.99, 0.1), (5.0, 0.15), (9.9, 0.15), (10, 0.2), (24.9, 0.3), (25, 0.32), (1000, 0.32)],
)
def test_a_weight_in_steps_rises_by_a_twentieth_every_five_epochs_up_to_its_cap(epochs, expected):
    assert stepped(0.1, 0.05, 5, 0.32, epochs) == pytest.approx(expected)


def test_a_weight_in_steps_takes_fractions_of_an_epoch_whatever_rounding_says():
    assert [stepped(0, 1, 0.1, 99, tenths / 10) for tenths in range(30)] == list(range(30))
