"""The stochastic state: categorical variables, whose sample is a one-hot vector each.

Shapes: B batch, N variables, K classes, h w grid; logits and samples are (B, N * K, h, w), variable by variable.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


class Categoricals:
    """What the N variables of K classes at each place have in common.

    Args:
        count: N.
        classes: K.
        sampling: how gradients pass a sample.
        temperature: of the Gumbel-softmax.
        unimix: share of a uniform distribution in each of them.
    """

    def __init__(
        self,
        count: int,
        classes: int,
        *,
        sampling: Literal["gumbel_softmax", "straight_through"] = "gumbel_softmax",
        temperature: float = 1.0,
        unimix: float = 0.0,
    ) -> None:
        self.count, self.classes = count, classes
        self.sampling, self.temperature, self.unimix = sampling, temperature, unimix

    @property
    def channels(self) -> int:
        """N * K."""
        return self.count * self.classes

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """(B, N * K, h, w) -> (B, N, K, h, w) float, natural logarithms."""
        found = logits.float().unflatten(1, (self.count, self.classes)).log_softmax(2)
        if self.unimix:
            found = torch.log((1 - self.unimix) * found.exp() + self.unimix / self.classes)
        return found

    def sample(self, logits: Tensor) -> Tensor:
        """A sample (B, N * K, h, w) of one-hot vectors, through which gradients reach the logits."""
        logarithms = self.log_probabilities(logits)
        # Gumbel noise: the largest sum is a fair sample. A draw of exactly 0 would be infinite.
        noise = -torch.empty_like(logarithms).exponential_().clamp_(min=1e-20).log()
        noisy = logarithms + noise
        soft = (noisy / self.temperature).softmax(2) if self.sampling == "gumbel_softmax" else logarithms.exp()
        hard = self._one_hot(noisy)
        return (hard + soft - soft.detach()).flatten(1, 2).to(logits.dtype)

    def mode(self, logits: Tensor) -> Tensor:
        """The likeliest class of each variable, (B, N * K, h, w), one-hot."""
        return self._one_hot(logits.unflatten(1, (self.count, self.classes))).flatten(1, 2).to(logits.dtype)

    @staticmethod
    def _one_hot(scores: Tensor) -> Tensor:
        best = scores.argmax(2, keepdim=True)
        return torch.zeros_like(scores).scatter_(2, best, 1.0)

    def divergence(self, of: Tensor, to: Tensor) -> Tensor:
        """(B,) nats, the Kullback-Leibler divergence of all variables together, from logits (B, N * K, h, w) twice."""
        ours, theirs = self.log_probabilities(of), self.log_probabilities(to)
        return (ours.exp() * (ours - theirs)).flatten(1).sum(1)

    def entropy(self, logits: Tensor) -> Tensor:
        """(B,) nats, of all variables together."""
        logarithms = self.log_probabilities(logits)
        return -(logarithms.exp() * logarithms).flatten(1).sum(1)

    def used(self, sample: Tensor) -> Tensor:
        """(N * K,) int64, how often each class is in a sample (B, N * K, h, w), over all places."""
        return sample.detach().float().sum((0, 2, 3)).round().long()


def balanced(
    variables: Categoricals, posterior: Tensor, prior: Tensor, free_nats: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The divergence twice, (B,) nats: once it moves the prior alone, and once the posterior alone.

    KL balancing of DreamerV2 (Hafner et al. 2021, section 2.2); each is at least ``free_nats``, as in DreamerV3.
    """
    dynamics = variables.divergence(posterior.detach(), prior)
    representation = variables.divergence(posterior, prior.detach())
    return dynamics.clamp(min=free_nats), representation.clamp(min=free_nats)
