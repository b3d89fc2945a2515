"""Rewards and ends as events: how many are predicted, and how many predictions are right.

Most steps have neither, so that accuracy says nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lapa.systems.rssm.model import Inputs

REWARD_EVENT = 0.5
"""A reward is predicted where its size is at least this; games pay whole points."""


def event_counts(rewards: Tensor, ended: Tensor, seen: Inputs) -> dict[str, Tensor]:
    """For rewards and ends: (3,) int64, events predicted and true, predicted alone, true alone.

    Args:
        rewards: (M,) as predicted.
        ended: (M,) logits.
        seen: what the model was given.
    """
    steps = seen.mask.clone()
    steps[:, 0] = False
    steps = steps.flatten()
    found = {
        "reward_events": (rewards.abs() >= REWARD_EVENT, seen.rewards.flatten() != 0),
        "end_events": (ended > 0, seen.ended.flatten() > 0),
    }
    return {name: _counts(predicted[steps], true[steps]) for name, (predicted, true) in found.items()}


def _counts(predicted: Tensor, true: Tensor) -> Tensor:
    return torch.stack([(predicted & true).sum(), (predicted & ~true).sum(), (~predicted & true).sum()])


def event_metrics(counts: dict[str, Tensor]) -> dict[str, float]:
    """Recall of the true events and precision of the predicted ones; left out where there is none."""
    found = {}
    for name in ("reward", "end"):
        if f"{name}_events" in counts:
            both, predicted, true = counts[f"{name}_events"].tolist()
            if both + true:
                found[f"{name}/recall"] = both / (both + true)
            if both + predicted:
                found[f"{name}/precision"] = both / (both + predicted)
    return found
