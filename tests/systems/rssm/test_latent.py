"""The categorical state: samples, divergences and entropies against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from lapa.systems.rssm.latent import Categoricals, balanced

N, K = 3, 5
SHAPE = (2, N * K, 4, 6)


def logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def as_distribution(values: torch.Tensor) -> Categorical:
    return Categorical(logits=values.unflatten(1, (N, K)).movedim(2, -1))


@pytest.mark.parametrize("sampling", ["gumbel_softmax", "straight_through"])
def test_a_sample_is_one_hot_and_lets_gradients_through(sampling) -> None:
    torch.manual_seed(0)
    given = logits(0).requires_grad_()
    sample = Categoricals(N, K, sampling=sampling).sample(given)
    parts = sample.detach().unflatten(1, (N, K))
    assert torch.allclose(parts.sum(2), torch.ones(2, N, 4, 6))
    assert torch.allclose(parts.amax(2), torch.ones(2, N, 4, 6))
    (sample * torch.randn(SHAPE)).sum().backward()
    assert given.grad is not None
    assert (given.grad != 0).float().mean() > 0.99


def test_samples_are_as_frequent_as_they_are_likely() -> None:
    torch.manual_seed(0)
    likely = torch.tensor([0.5, 0.2, 0.2, 0.05, 0.05])
    given = likely.log().repeat(N)[None, :, None, None].expand(4000, -1, 1, 1)
    found = Categoricals(N, K).sample(given).mean(0).reshape(N, K)
    assert torch.allclose(found, likely.expand(N, K), atol=0.03)


def test_the_mode_is_the_likeliest_class() -> None:
    given = logits(1)
    mode = Categoricals(N, K).mode(given).unflatten(1, (N, K))
    assert torch.equal(mode.argmax(2), given.unflatten(1, (N, K)).argmax(2))
    assert torch.equal(mode.sum(2), torch.ones(2, N, 4, 6))


def test_divergence_and_entropy_are_those_of_all_variables_together() -> None:
    ours, theirs = logits(2), logits(3)
    variables = Categoricals(N, K)
    expected = kl_divergence(as_distribution(ours), as_distribution(theirs)).flatten(1).sum(1)
    assert torch.allclose(variables.divergence(ours, theirs), expected, rtol=1e-4)
    assert torch.allclose(variables.entropy(ours), as_distribution(ours).entropy().flatten(1).sum(1), rtol=1e-4)


def test_unimix_leaves_no_class_impossible_and_bounds_the_divergence() -> None:
    sure = torch.full((1, K, 1, 1), -100.0)
    sure[0, 0] = 100
    other = sure.roll(1, 1)
    mixed = Categoricals(1, K, unimix=0.01)
    assert torch.allclose(mixed.log_probabilities(sure).exp().sum(2), torch.ones(1, 1, 1, 1))
    assert mixed.log_probabilities(sure).exp().min() == pytest.approx(0.01 / K)
    assert 0 < float(mixed.divergence(sure, other)) < math.log(K / 0.01)
    assert float(Categoricals(1, K).divergence(sure, other)) > 100


def test_the_two_halves_move_one_side_each_and_free_nats_are_no_loss() -> None:
    posterior, prior = logits(4).requires_grad_(), logits(5).requires_grad_()
    dynamics, representation = balanced(Categoricals(N, K), posterior, prior)
    assert torch.equal(dynamics, representation)
    assert torch.autograd.grad(dynamics.sum(), (posterior, prior), allow_unused=True)[0] is None
    assert torch.autograd.grad(representation.sum(), (posterior, prior), allow_unused=True)[1] is None
    dynamics, _ = balanced(Categoricals(N, K), posterior, prior, free_nats=1e6)
    assert dynamics.tolist() == [1e6, 1e6]
    assert not torch.autograd.grad(dynamics.sum(), prior)[0].any()


def test_use_is_counted_over_places_and_clips() -> None:
    sample = Categoricals(N, K).mode(logits(6))
    used = Categoricals(N, K).used(sample)
    assert int(used.sum()) == 2 * N * 4 * 6
    assert torch.equal(used, sample.sum((0, 2, 3)).long())
