"""Recall and precision of rare events."""

from __future__ import annotations

import torch

from lapa.metrics.events import event_counts, event_metrics


def test_events_are_counted_by_recall_and_precision() -> None:
    predicted = torch.tensor([True, True, True, False, False, False])
    true = torch.tensor([True, False, True, True, False, False])
    counts = event_counts(predicted, true)
    assert counts.tolist() == [2, 1, 1]
    assert event_metrics("end/", counts) == {"end/recall": 2 / 3, "end/precision": 2 / 3}


def test_where_there_is_none_nothing_is_said_of_it() -> None:
    nothing, one = torch.zeros(4, dtype=torch.bool), torch.tensor([True, False, False, False])
    assert event_metrics("", event_counts(nothing, nothing)) == {}
    assert event_metrics("", event_counts(one, nothing)) == {"precision": 0.0}
    assert event_metrics("", event_counts(nothing, one)) == {"recall": 0.0}
