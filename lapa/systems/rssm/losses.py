"""The loss of the recurrent world model, as named and weighted terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from lapa.contracts import Terms
from lapa.nn.losses import worst_pixels
from lapa.nn.two_hot import two_hot
from lapa.systems.rssm.config import LossConfig
from lapa.systems.rssm.latent import balanced

if TYPE_CHECKING:
    from lapa.systems.rssm.model import Inputs, Rssm, RssmOutput

REWARD_LIMIT = 4.0
"""Symmetric logarithm of the largest reward that ``two_hot`` can tell: 53."""


def loss_terms(system: Rssm, output: RssmOutput, seen: Inputs, config: LossConfig) -> Terms:
    """The terms: means over all frames, of which those that a sequence was padded with count as 0.

    Reward and end belong to a step, so the first frame of a sequence has none.

    Args:
        system: whose output it is.
        output: of the forward pass.
        seen: what it was given.
        config: the weights.
    """
    real = seen.mask.flatten().float()  # (M,)

    def mean(values: Tensor, of: Tensor = real) -> Tensor:
        return (values * of).mean()

    errors = system.frame_decoder.pixel_errors(output.outputs, seen.frames.flatten(0, 1))  # (M, H, W)
    pixels = errors.flatten(1).sum(1) if config.pixels == "sum" else errors.flatten(1).mean(1)
    dynamics, representation = balanced(system.variables, output.posterior, output.prior, config.free_nats)
    steps = seen.steps.float()
    ends = F.binary_cross_entropy_with_logits(output.ended.float(), seen.ended.flatten(), reduction="none")
    terms: Terms = {
        "reconstruction": (config.reconstruction, mean(pixels)),
        "dynamics": (config.dynamics, mean(dynamics)),
        "representation": (config.representation, mean(representation)),
        "reward": (config.reward, mean(reward_errors(system, output.reward, seen.rewards.flatten()), steps)),
        "ends": (config.ends, mean(ends, steps)),
    }
    if config.worst:
        terms["worst"] = (config.worst, mean(worst_pixels(errors, config.worst_share)))
    return terms


def reward_errors(system: Rssm, predicted: Tensor, rewards: Tensor) -> Tensor:
    """(M,) the squared error of the mean; of a distribution over bins, the cross-entropy."""
    if system.config.reward_head == "two_hot":
        wanted = two_hot(rewards, predicted.shape[1], REWARD_LIMIT)
        return -(wanted * predicted.float().log_softmax(1)).sum(1)
    return torch.square(predicted[:, 0].float() - rewards)
