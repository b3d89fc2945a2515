"""What games share to say how far off ball and paddles are drawn, and whether what is counted is right.

Every figure stands beside that of copying the current frame, whose metric has ``copy_`` in its name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lapa.games.game import Measure, State
from lapa.report.tables import percent, pixels

BALL_MEASURES = (
    Measure("ball drawn, where it flies free (recall)", "ball/{}drawn", percent),
    Measure(
        "ball within 2 px",
        "ball/{}within_2px",
        percent,
        summary="ball within 2 px, where it flies free",
        rebuilt="ball within 2 px",
    ),
    Measure(
        "ball within 4 px",
        "ball/{}within_4px",
        percent,
        summary="ball within 4 px, where it flies free",
        column="ball within 4 px",
    ),
    Measure("ball, median distance", "ball/{}median_px", pixels),
    Measure("ball, 95th percentile", "ball/{}p95_px", pixels),
    Measure(
        "ball drawn where there is none",
        "ball/{}false",
        percent,
        summary="ball drawn where there is none",
        rebuilt="ball drawn where there is none",
    ),
    Measure(
        "a second ball drawn", "ball/{}extra", percent, summary="a second ball drawn", rebuilt="a second ball drawn"
    ),
)


def place_measures(element: str, label: str, *, column: bool = False) -> tuple[Measure, ...]:
    """Those of :func:`place_metrics`.

    Args:
        element: its name.
        label: the same in words.
        column: whether a comparison of runs shows the share within 2 px.
    """
    one, two = f"{label} within 1 px", f"{label} within 2 px"
    return (
        Measure(one, f"{element}/{{}}within_1px", percent, summary=one, rebuilt=one),
        Measure(two, f"{element}/{{}}within_2px", percent, summary=two, column=two if column else ""),
        Measure(f"{label} within 4 px", f"{element}/{{}}within_4px", percent),
        Measure(f"{label}, median distance", f"{element}/{{}}median_px", pixels),
        Measure(f"{label}, 95th percentile", f"{element}/{{}}p95_px", pixels),
    )


def value_measures(
    element: str,
    label: str,
    changed: str,
    *,
    form: Callable[[float], str] = percent,
    summary: str = "",
    column: str = "",
) -> tuple[Measure, Measure]:
    """Those of :func:`value_metrics`.

    Args:
        element: its name.
        label: of all values; that of systems that draw the frame that they see, if there is a summary.
        changed: of those that changed; ``summary`` and ``column`` are of these too.
        form: of the figure of all values.
    """
    return (
        Measure(label, f"{element}/{{}}accuracy", form, rebuilt=label if summary else ""),
        Measure(changed, f"{element}/{{}}changed_accuracy", percent, summary, column),
    )


def ball_metrics(
    predicted: State, copied: State, truth: np.ndarray, free: np.ndarray, away: np.ndarray
) -> dict[str, float]:
    """How far off the ball is drawn.

    Args:
        predicted: found in N predicted frames: ``ball``, (N, 2) its centre, NaN where there is none, and
            ``ball_extra``, (N,) whether something else is drawn that would count as one.
        copied: the same, found in the true current frames.
        truth: (N, 2) its centre in the next frames.
        free: (N,) whether all of it is seen there, apart from all else.
        away: (N,) whether nothing of it is seen there.

    Returns:
        Over the free frames ``ball/*``, and ``ball/extra``, the share of them with a second ball; ``ball/false`` is the
        share of the frames without a ball in which one is drawn.
    """
    metrics = {"ball/free_frames": float(free.sum()), "ball/away_frames": float(away.sum())}
    for name, found in (("", predicted), ("copy_", copied)):
        if free.any():
            distance = finite_or_inf(np.linalg.norm(found["ball"][free] - truth[free], axis=1))
            metrics[f"ball/{name}drawn"] = float(np.isfinite(distance).mean())
            metrics[f"ball/{name}extra"] = float(found["ball_extra"][free].mean())
            metrics |= distance_metrics(f"ball/{name}", distance, (2, 4))
        if away.any():
            metrics[f"ball/{name}false"] = float(np.isfinite(found["ball"][away, 0]).mean())
    return metrics


def place_metrics(
    element: str, predicted: State, copied: State, truth: np.ndarray, seen: np.ndarray | None = None
) -> dict[str, float]:
    """How far off an element is drawn that moves in one direction.

    Args:
        element: its name in the states, where its places are (N,), NaN where there is none.
        predicted: found in N predicted frames.
        copied: found in the true current frames.
        truth: (N,) its places in the next frames.
        seen: (N,) whether it is to be seen there; None means everywhere.
    """
    rows = np.ones(len(truth), bool) if seen is None else seen
    metrics: dict[str, float] = {}
    if rows.any():
        for name, found in (("", predicted), ("copy_", copied)):
            distance = finite_or_inf(np.abs(found[element] - truth)[rows])
            metrics |= distance_metrics(f"{element}/{name}", distance, (1, 2, 4))
    return metrics


def value_metrics(element: str, predicted: State, copied: State, before: State, truth: State) -> dict[str, float]:
    """Whether what is counted is right: in all, and where it differs from the frame before.

    Args:
        element: its name in the states, where its values are (N, ...).
        predicted: found in N predicted frames.
        copied: found in the true current frames.
        before: the truth of these.
        truth: that of the next frames.
    """
    changed = before[element] != truth[element]
    metrics = {}
    for name, found in (("", predicted), ("copy_", copied)):
        right = found[element] == truth[element]
        metrics[f"{element}/{name}accuracy"] = float(right.mean())
        if changed.any():
            metrics[f"{element}/{name}changed_accuracy"] = float(right[changed].mean())
    return metrics


def distance_metrics(prefix: str, distance: np.ndarray, within: tuple[int, ...]) -> dict[str, float]:
    """Median, 95th percentile, and shares within limits, of distances that are infinite where nothing is."""
    metrics = {f"{prefix}within_{pixels}px": float((distance <= pixels).mean()) for pixels in within}
    for name, share in (("median_px", 0.5), ("p95_px", 0.95)):
        # JSON cannot hold what is infinite.
        value = float(np.quantile(distance, share, method="higher"))
        if np.isfinite(value):
            metrics[prefix + name] = value
    return metrics


def finite_or_inf(distance: np.ndarray) -> np.ndarray:
    """Infinite where nothing was found."""
    return np.where(np.isnan(distance), np.inf, distance)
