"""Figures as text, and rows of them for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Row = tuple[str, ...]


def format_table(rows: Sequence[Row]) -> str:
    """Rows of three cells as aligned text, for the terminal."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {against}".rstrip() for name, value, against in rows)


def aligned(rows: Sequence[Row]) -> str:
    """Rows of equally many cells as text for the terminal: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join([f"{first:<{widths[0]}}", *cells]).rstrip())
    return "\n".join(lines)


def count_bytes(size: int) -> str:
    """Such as "34.7 MB"."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def percent(share: float) -> str:
    """Such as "83.2 %"."""
    return f"{100 * share:.1f} %"


def per_myriad(share: float) -> str:
    """Such as "99.91 %"."""
    return f"{100 * share:.2f} %"


def pixels(distance: float) -> str:
    """Such as "1.3 px"."""
    return f"{distance:.1f} px"


def decibels(value: float) -> str:
    """Such as "34.7 dB"."""
    return f"{value:.1f} dB"


def nan_free(values: np.ndarray) -> list[list[float | None]]:
    """A table for JSON, which has no NaN."""
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]
