"""Numbers as weights of two bins, and back."""

from __future__ import annotations

import torch

from lapa.nn.two_hot import symexp, symlog, two_hot, two_hot_mean

REWARDS = torch.tensor([-7.0, -1.0, 0.0, 0.3, 1.0, 4.0, 50.0])


def test_the_symmetric_logarithm_has_an_inverse() -> None:
    assert torch.allclose(symexp(symlog(REWARDS)), REWARDS, atol=1e-5)
    assert torch.equal(symlog(-REWARDS), -symlog(REWARDS))


def test_a_number_has_at_most_two_bins_whose_mean_it_is() -> None:
    weights = two_hot(REWARDS, 41, limit=4.0)
    assert torch.allclose(weights.sum(-1), torch.ones(len(REWARDS)))
    assert ((weights > 0).sum(-1) <= 2).all()
    assert torch.allclose(two_hot_mean(weights.clamp(min=1e-9).log(), limit=4.0), REWARDS, rtol=1e-3, atol=1e-4)


def test_zero_has_a_bin_of_its_own_and_what_is_beyond_the_last_has_the_last() -> None:
    assert two_hot(torch.tensor(0.0), 41, limit=4.0).argmax() == 20
    assert two_hot(torch.tensor(0.0), 41, limit=4.0).max() == 1
    assert two_hot(torch.tensor(1e6), 41, limit=4.0)[-1] == 1
    assert two_hot(torch.tensor(-1e6), 41, limit=4.0)[0] == 1
