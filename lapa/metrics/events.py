"""Rare events, such as rewards and ends: how many are predicted, and how many predictions are right.

Most steps have none, so accuracy says nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

REWARD_EVENT = 0.5
"""A reward is predicted where its size is at least this; games pay whole points."""


def event_counts(predicted: Tensor, true: Tensor) -> Tensor:
    """(3,) int64, events that are predicted and true, predicted alone, true alone; from bools of one shape."""
    return torch.stack([(predicted & true).sum(), (predicted & ~true).sum(), (~predicted & true).sum()])


def event_metrics(name: str, counts: Tensor) -> dict[str, float]:
    """``<name>recall`` of the true events and ``<name>precision`` of the predicted ones; left out where there is none.

    Args:
        name: what stands before both.
        counts: of :func:`event_counts`.
    """
    both, predicted, true = counts.tolist()
    found = {}
    if both + true:
        found[f"{name}recall"] = both / (both + true)
    if both + predicted:
        found[f"{name}precision"] = both / (both + predicted)
    return found
