"""Figures as text."""

from __future__ import annotations

import pytest

from lapa.report.tables import aligned, count_bytes


def test_columns_stand_under_each_other() -> None:
    rows = [("part", "frames", "share"), ("  none", "1,234", "5.0 %"), ("other", "", "")]
    assert aligned(rows) == "part    frames  share\n  none   1,234  5.0 %\nother"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (34_712_000, "34.7 MB"), (5 * 10**15, "5000.0 TB")]
)
def test_bytes_are_counted_in_thousands(size: int, text: str) -> None:
    assert count_bytes(size) == text
