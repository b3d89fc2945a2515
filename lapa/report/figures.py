"""The report's diagrams, each as the bytes of a PNG file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa.evaluation.control import STEPS
from lapa.evaluation.probe import LABELS, ProbeResult
from lapa.metrics.codes import CodeUse

BLUE, RED, GREY, GREEN = "#4477aa", "#cc6677", "#999999", "#228833"


def plot_code_use(use: CodeUse) -> bytes:
    """Bars of code use, sorted, and how many codes each place of the grid uses, as if evenly."""
    figure, (bars, places) = _axes(2, width_ratios=(2, 1))
    counts = np.sort(use.totals)[::-1]
    bars.bar(np.arange(len(counts)), counts, width=1.0, color=BLUE)
    bars.set_yscale("symlog", linthresh=1)
    bars.set_xlabel("code, most frequent first")
    bars.set_ylabel("times used")
    perplexities = use.perplexities()
    image = places.imshow(perplexities, cmap="Blues", vmin=1)
    for (row, column), value in np.ndenumerate(perplexities):
        dark = value > 0.6 * perplexities.max()
        places.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="w" if dark else "k")
    places.set_title("perplexity by place", fontsize=10)
    places.set_xticks([])
    places.set_yticks([])
    figure.colorbar(image, ax=places)
    return _png(figure)


def plot_code_map(places: np.ndarray, counts: np.ndarray, usual: np.ndarray | None, names: Sequence[str]) -> bytes:
    """t-SNE of the code vectors (K, 2), coloured by use, and by the event that each code usually goes with."""
    figure, (by_use, by_event) = _axes(2, height=4.2)
    shown = by_use.scatter(*places.T, c=np.log10(1 + counts), cmap="viridis", s=18)
    figure.colorbar(shown, ax=by_use, label="log10(1 + times used)")
    by_use.set_title("by use", fontsize=10)
    by_event.set_title("by most likely event", fontsize=10)
    if usual is not None:
        palette = _colours(len(names))
        for event in (-1, *range(len(names))):
            chosen = usual == event
            if chosen.any():
                label, colour = ("none", "#dddddd") if event < 0 else (names[event], palette[event])
                by_event.scatter(*places[chosen].T, color=colour, s=18, label=f"{label} ({chosen.sum()})")
        by_event.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    for axes in (by_use, by_event):
        axes.set_xticks([])
        axes.set_yticks([])
    return _png(figure)


def plot_episodes(by_episode: Mapping[str, Mapping[str, float]]) -> bytes:
    """PSNR of each judged episode, of the model and of copying."""
    figure, axes = _axes()
    names = sorted(by_episode, key=lambda name: by_episode[name]["psnr_db"])
    places = np.arange(len(names))
    for key, label, colour in (("psnr_db", "model", BLUE), ("copy_psnr_db", "copying", GREY)):
        axes.plot(places, [by_episode[name][key] for name in names], "o", color=colour, label=label)
    axes.set_xticks(places if len(names) <= 30 else [])
    if len(names) <= 30:
        axes.set_xticklabels(names)
    axes.set_xlabel("episode")
    axes.set_ylabel("PSNR, dB")
    axes.margins(x=0.1)
    axes.legend()
    return _png(figure)


def plot_confusion(probe: ProbeResult, names: Sequence[str]) -> bytes:
    """Shares of each true action that the probe reads as each action."""
    side = 3.2 + 0.25 * max(0, len(names) - 4)
    figure, axes = _axes(width=side + 1.5, height=side)
    total = probe.confusion.sum(1, keepdims=True)
    share = probe.confusion / np.maximum(total, 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        colour = "w" if value > 0.6 else "k"
        axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [f"{name} ({count})" for name, count in zip(names, total[:, 0], strict=True)])
    axes.set_xlabel("read from the codes")
    axes.set_ylabel("true action")
    figure.colorbar(image, ax=axes)
    return _png(figure)


def plot_label_efficiency(metrics: Mapping[str, float]) -> bytes:
    """Accuracy of the linear probe against labelled transitions."""
    figure, axes = _axes()
    known = [
        (count, metrics[f"probe/labels_{count}_accuracy"])
        for count in LABELS
        if f"probe/labels_{count}_accuracy" in metrics
    ]
    axes.plot(*zip(*known, strict=True), "o-", color=BLUE, label="linear probe, k labels")
    levels = (
        ("linear_accuracy", "linear probe, all labels", BLUE),
        ("oracle_accuracy", "oracle", GREEN),
        ("observation_accuracy", "current frame alone, all labels", RED),
        ("majority_accuracy", "commonest action", GREY),
    )
    for name, label, colour in levels:
        if f"probe/{name}" in metrics:
            axes.axhline(metrics[f"probe/{name}"], color=colour, linestyle="--", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("labelled transitions k")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=8)
    return _png(figure)


def plot_control(metrics: Mapping[str, float]) -> bytes:
    """PSNR of rollouts by their length, under true, shuffled and random codes."""
    figure, axes = _axes()
    steps = [t for t in STEPS if f"control/psnr_db/t{t}" in metrics]
    true = np.array([metrics[f"control/psnr_db/t{t}"] for t in steps])
    lines = [("true codes", true, BLUE)]
    for kind, colour in (("shuffled", RED), ("random", "#ccbb44")):
        drop = np.array([metrics[f"control/{kind}_delta_psnr_db/t{t}"] for t in steps])
        lines.append((f"{kind} codes", true - drop, colour))
    lines.append(("copying the first frame", np.array([metrics[f"control/copy_psnr_db/t{t}"] for t in steps]), GREY))
    for label, values, colour in lines:
        axes.plot(steps, values, "o-", color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(t) for t in steps])
    axes.set_xlabel("steps drawn from the model's own pictures")
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize=8)
    return _png(figure)


def plot_training(history: Sequence[Mapping[str, Any]]) -> bytes:
    """PSNR over training steps."""
    figure, axes = _axes()
    for name, label, style in (
        ("train/recon/psnr_db", "training batches", "-"),
        ("val/recon/psnr_db", "validation episodes", "o-"),
        ("val/recon/copy_psnr_db", "copying, validation", "--"),
    ):
        points = [(line["step"], line[name]) for line in history if line.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel("PSNR, dB")
    axes.legend()
    return _png(figure)


def plot_runs(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """PSNR on the validation episodes over training steps, less that of copying, of several runs."""
    figure, axes = _axes(height=4)
    for name, history in histories.items():
        both = [line for line in history if line.get("val/recon/psnr_db") is not None]
        gains = [line["val/recon/psnr_db"] - line["val/recon/copy_psnr_db"] for line in both]
        axes.plot([line["step"] for line in both], gains, "o-", label=name, markersize=3)
    axes.axhline(0, color=GREY, linestyle="--", linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("PSNR gain over copying, dB")
    axes.legend(fontsize=8)
    return _png(figure)


def plot_groups(labels: Sequence[str], measures: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """Each measure of each group: one panel a measure, one row a group, one dot a run."""
    shown = {name: groups for name, groups in measures.items() if any(len(values) for values in groups)}
    columns = min(4, len(shown))
    lines = -(-len(shown) // columns)
    places = np.arange(len(labels))
    figure, panels = _axes(columns, 12, lines * (0.9 + 0.28 * len(labels)), rows=lines, sharey=True, squeeze=False)
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
    return _png(figure)


def _colours(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["tab10"](index % 10) for index in range(count)]


def _axes(columns: int = 1, width: float = 9, height: float = 3.2, rows: int = 1, **grid: Any) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, **grid)
    for each in np.atleast_1d(axes).flat:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
