"""Diagrams, each as the bytes of a PNG file; what they show is the caller's business."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

BLUE, RED, GREY, GREEN, YELLOW = "#4477aa", "#cc6677", "#999999", "#228833", "#ccbb44"
SERIES = (BLUE, YELLOW, GREEN, GREY)
"""Colours of series that stand side by side."""


class Curve(NamedTuple):
    """A metric of a training run over its steps.

    Attributes:
        metric: its full name in the run's history.
        label: in the legend.
        style: of the line, as Matplotlib knows it.
    """

    metric: str
    label: str
    style: str = "-"


class Bars(NamedTuple):
    """Values of several series, such as the splits, for the same things.

    Attributes:
        labels: names of the N things.
        series: (N,) values by the name of the series.
    """

    labels: Sequence[str]
    series: Mapping[str, np.ndarray]


def points_of(history: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """Step and value of a metric, where a run has it."""
    return [(line["step"], line[metric]) for line in history if line.get(metric) is not None]


def plot_training(history: Sequence[Mapping[str, Any]], curves: Sequence[Curve], label: str) -> bytes:
    """Metrics of one run over training steps; ``label`` is what they measure."""
    figure, axes = new_axes()
    for curve in curves:
        if points := points_of(history, curve.metric):
            axes.plot(*zip(*points, strict=True), curve.style, label=curve.label, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if axes.lines:
        axes.legend()
    return png(figure)


def plot_runs(runs: Mapping[str, Sequence[tuple[int, float]]], label: str, *, zero: bool = False) -> bytes:
    """One measure of several runs over training steps.

    Args:
        runs: step and value, by the run's name.
        label: what is measured.
        zero: whether to mark the value 0.
    """
    figure, axes = new_axes(height=4)
    for name, points in runs.items():
        steps, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(steps, values, "o-", label=name, markersize=3)
    if zero:
        axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.legend(fontsize=8)
    return png(figure)


def plot_groups(labels: Sequence[str], measures: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """Each measure of each group: one panel a measure, one row a group, one dot a run."""
    shown = {name: groups for name, groups in measures.items() if any(len(values) for values in groups)}
    columns = max(1, min(4, len(shown)))
    lines = max(1, -(-len(shown) // columns))
    places = np.arange(len(labels))
    figure, panels = new_axes(columns, 12, lines * (0.9 + 0.28 * len(labels)), rows=lines, sharey=True, squeeze=False)
    for axes, (name, groups) in zip(panels.flat, shown.items(), strict=False):
        for place, values in zip(places, groups, strict=True):
            axes.plot(values, np.full(len(values), place), "o", color=BLUE, markersize=4)
        axes.set_title(name, fontsize=9)
        axes.grid(axis="y", linewidth=0.5)
        axes.tick_params(labelsize=8)
        axes.set_yticks(places, labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
    for axes in panels.flat[len(shown) :]:
        axes.axis("off")
    return png(figure)


def plot_bars(panels: Mapping[str, Bars], label: str, title: str = "") -> bytes:
    """Bars of each series side by side: one panel a group of things.

    Args:
        panels: by what they show.
        label: what is measured.
        title: kept in the file, not shown.
    """
    columns = max(1, min(2, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure, grid = new_axes(columns, 5.5 * columns, 2.6 * lines + 0.4, rows=lines, squeeze=False)
    for axes, (name, bars) in zip(grid.flat, panels.items(), strict=False):
        places, width = np.arange(len(bars.labels)), 0.8 / max(1, len(bars.series))
        for number, ((series, values), colour) in enumerate(zip(bars.series.items(), SERIES, strict=False)):
            axes.bar(places + (number + 0.5) * width - 0.4, values, width, label=series, color=colour)
        for place in places[~np.any(list(bars.series.values()), axis=0)]:
            axes.text(place, 0, "none", color=RED, ha="center", va="bottom", fontsize=8)
        axes.set_xticks(places, bars.labels)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    if panels:
        grid[0, 0].legend(fontsize=8)
        figure.supylabel(label, fontsize=9)
    return png(figure, title)


def palette(count: int) -> list[Any]:
    """Colours that can be told apart, repeated after ten."""
    from matplotlib import colormaps

    return [colormaps["tab10"](index % 10) for index in range(count)]


def new_axes(columns: int = 1, width: float = 9, height: float = 3.2, rows: int = 1, **grid: Any) -> tuple[Any, Any]:
    """A Matplotlib figure and its axes: one, or an array of them.

    Args:
        columns: of panels.
        width: of the figure, in inches.
        height: likewise.
        rows: of panels.
        **grid: further arguments of Matplotlib's ``subplots``.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, **grid)
    for each in np.atleast_1d(axes).flat:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Any, title: str = "") -> bytes:
    """A Matplotlib figure as the bytes of a PNG file; a title is kept in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Title": title} if title else None)
    return buffer.getvalue()
