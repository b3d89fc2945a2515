from __future__ import annotations

import pytest
import torch

from lapa.config import LossConfig
from lapa.contracts import Quantized
from lapa.losses import loss_terms, loss_weights, motion_weight, reconstruction_loss, weighted_sum
from lapa.model import ModelOutput


@pytest.fixture
def frames() -> tuple[torch.Tensor, torch.Tensor]:
    """Two black frames of 16 pixels; in the second, two pixels have become white."""
    current = torch.zeros(1, 1, 4, 4)
    following = current.clone()
    following[0, 0, 1, :2] = 1.0
    return current, following


def test_reconstruction_without_motion_is_the_mean_squared_error(frames):
    current, following = frames
    prediction = torch.rand_like(following)
    expected = torch.nn.functional.mse_loss(prediction, following)
    assert torch.isclose(reconstruction_loss(prediction, current, following, 0.0, 0.02), expected)


def test_motion_weighs_changed_pixels_alone(frames):
    current, following = frames
    wrong_where_it_moved, wrong_where_it_stood = current.clone(), following.clone()
    wrong_where_it_stood[0, 0, 3, :2] = 1.0
    assert reconstruction_loss(wrong_where_it_moved, current, following, 9.0, 0.02) == pytest.approx(10 * 2 / 16)
    assert reconstruction_loss(wrong_where_it_stood, current, following, 9.0, 0.02) == pytest.approx(2 / 16)


def test_a_change_below_the_threshold_is_no_motion(frames):
    current, _ = frames
    prediction, following = current + 1.0, current + 0.01
    still = reconstruction_loss(prediction, current, following, 0.0, 0.02)
    assert reconstruction_loss(prediction, current, following, 9.0, 0.02) == still
    assert reconstruction_loss(prediction, current, following, 9.0, 0.005) == pytest.approx(10 * still)


def test_reconstruction_of_a_half_precision_prediction_is_computed_in_single(frames):
    current, following = frames
    assert reconstruction_loss(current.bfloat16(), current, following, 0.0, 0.02).dtype == torch.float32


def test_reconstruction_has_a_gradient_everywhere(frames):
    current, following = frames
    prediction = torch.full_like(following, 0.5, requires_grad=True)
    reconstruction_loss(prediction, current, following, 9.0, 0.02).backward()
    assert (prediction.grad != 0).all()


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
def test_motion_weight_falls_geometrically(start, end, progress, expected):
    assert motion_weight(LossConfig(motion=start, motion_end=end), progress) == pytest.approx(expected)


def test_the_terms_of_a_batch_carry_the_weights_names_and_the_progress(frames):
    current, following = frames
    quantized = Quantized(torch.zeros(1, 2, 1, 1), None, torch.tensor(0.7), {})
    output = ModelOutput(prediction=current, encoding=quantized.latent, quantized=quantized)
    config = LossConfig(motion=99, motion_end=9)
    early, late = (loss_terms(output, current, following, config, progress) for progress in (0.0, 1.0))
    assert early.keys() == loss_weights(config).keys()
    assert early["quantizer"] == pytest.approx(0.7)
    assert early["reconstruction"] == pytest.approx(10 * late["reconstruction"])


def test_the_sum_is_weighted_by_name():
    terms = {"reconstruction": torch.tensor(2.0), "quantizer": torch.tensor(3.0)}
    weights = loss_weights(LossConfig(quantizer=10.0, reconstruction=0.5))
    assert weighted_sum(terms, weights) == pytest.approx(0.5 * 2 + 10 * 3)


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "B": 1.0}, {}])
def test_a_term_without_a_weight_or_a_weight_without_a_term_is_refused(weights):
    with pytest.raises(ValueError, match="must have equal names"):
        weighted_sum({"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, weights)


def test_a_term_that_is_no_scalar_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'b' must be a scalar, not of shape \(2,\)"):
        weighted_sum({"a": torch.tensor(1.0), "b": torch.ones(2)}, {"a": 1.0, "b": 1.0})
