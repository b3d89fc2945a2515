"""Whether the codes are actions: what is read from them of the true action, compared with what needs no codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch.nn import functional as F

from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.errors import DataError
from lapa.evaluation.evaluator import Column, Evaluator, Verdict
from lapa.evaluation.grid import coder_of, number_of_codes
from lapa.evaluation.probe import LABELS, ProbeData, ProbeResult, probe_actions
from lapa.evaluation.study import Study, batches
from lapa.games.game import Game, find_game
from lapa.report import figures
from lapa.report.page import Page
from lapa.report.tables import Row, percent

MARGIN = 0.02
"""An accuracy that is not higher by this than what needs no codes is no better."""

OBSERVATION_SIZE = 20
"""The longer side of the current frame as the observation-only probe sees it, in pixels."""


@dataclasses.dataclass(frozen=True)
class Probed:
    """Transitions whose true action is known.

    Attributes:
        fitted: of the training episodes that probes are fitted on.
        judged: of the judged ones.
        classes: (A,) the action classes of either.
        names: of all classes that there can be, by class.
    """

    fitted: ProbeData
    judged: ProbeData
    classes: np.ndarray
    names: list[str]


def without_actions(study: Study) -> str | None:
    """Why the true actions cannot be compared with codes, or None."""
    if reason := study.without_transition_codes():
        return reason
    if study.fitting is None:
        return "the recording has none of the training episodes, on which probes are fitted"
    if any(episode.tracks.actions is None for episode in (*study.fitting.episodes, *study.episodes)):
        return "the recording does not tell the true actions"
    return None


def probed(study: Study) -> Probed | None:
    """Codes and true actions, where both are known; ask for them by :meth:`Study.shared`.

    Raises:
        DataError: no transition has an action as long before it as the lag says.
    """
    if without_actions(study):
        return None
    assert study.fitting is not None
    assert study.fitting_codes is not None
    assert study.codes is not None
    game = find_game([*study.fitting.episodes, *study.episodes], study.store.frame_size)
    fitted = probe_data(study, study.fitting, study.fitting_codes, game)
    judged = probe_data(study, study.clips, study.codes, game)
    if not len(fitted) or not len(judged):
        raise DataError(f"lag {study.lag}: no pair has an action that many steps before it; use a smaller lag")
    classes = np.union1d(fitted.actions, judged.actions)
    meanings = game.action_classes if game else study.episodes[0].tracks.meta.get("action_meanings", [])
    names = [str(meanings[label]) if label < len(meanings) else str(label) for label in range(int(classes.max()) + 1)]
    return Probed(fitted, judged, classes, names)


class ActionsEvaluator(Evaluator):
    """Probes of the true action.

    Attributes:
        result: of the probes, once :meth:`metrics` was asked for.
    """

    group = "probe"

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self.result: ProbeResult | None = None
        self._names: list[str] = []

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs codes of transitions, and true actions of training and of judged episodes."""
        reason = without_actions(study)
        return f"actions: {reason}" if reason else None

    @property
    def _result(self) -> ProbeResult:
        assert self.result is not None
        return self.result

    def metrics(self) -> dict[str, float]:
        """Those of :func:`lapa.evaluation.probe.probe_actions`."""
        found = self.study.shared(probed)
        assert found is not None
        self.study.notify("fitting the probes of the action")
        self.result = probe_actions(found.fitted, found.judged, number_of_codes(coder_of(self.study)))
        self._names = [found.names[label] for label in self.result.classes]
        return self.result.metrics

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """The accuracy, and those to compare it with."""
        if "probe/accuracy" not in metrics:
            return []
        others = (
            ("linear probe", "linear_"),
            ("oracle", "oracle_"),
            ("current frame alone", "observation_"),
            ("majority", "majority_"),
        )
        against = [
            f"{label} {percent(metrics[f'probe/{who}accuracy'])}"
            for label, who in others
            if f"probe/{who}accuracy" in metrics
        ]
        return [("true action read from the codes", percent(metrics["probe/accuracy"]), ", ".join(against))]

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Whether the codes tell more than the current frame does."""
        if "probe/accuracy" not in metrics:
            return
        accuracy, majority, observed = (metrics[f"probe/{name}accuracy"] for name in ("", "majority_", "observation_"))
        others = f"the current frame alone tells {100 * observed:.0f} %, the commonest action is {100 * majority:.0f} %"
        if "probe/oracle_accuracy" in metrics:
            others += f", and {100 * metrics['probe/oracle_accuracy']:.0f} % could be known"
        told = f"the action: {100 * accuracy:.0f} % read from them; {others}."
        without = max(majority, observed)
        if accuracy <= without + MARGIN:
            yield Verdict("bad", f"The codes do not tell {told}")
            return
        known = metrics.get("probe/oracle_accuracy", 1.0)
        # Of what can be known beyond the best guess without codes.
        share = (accuracy - without) / max(known - without, MARGIN)
        if share >= 0.5:
            yield Verdict("good", f"The codes tell {told}")
        else:
            yield Verdict("weak", f"The codes tell something of {told}")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Accuracy, and its share of the oracle's."""
        return (
            Column("action", "probe/accuracy", percent),
            Column("of the oracle", "probe/share_of_oracle", "{:.3f}".format),
        )

    def details(self) -> dict[str, Any]:
        """True actions against those read."""
        return {"confusion": {"classes": self._names, "counts": self._result.confusion.tolist()}}

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """True actions against those read, and accuracy by number of labels."""
        return {
            "confusion.png": plot_confusion(self._result.confusion, self._names),
            "labels.png": plot_label_efficiency(metrics),
        }

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """Accuracies, mutual information, both diagrams."""
        page.heading("Are they actions?", "actions")
        page.text(
            "Probes are fitted on training episodes and tested on the judged ones. The oracle reads the RAM; it is not "
            "perfect, since sticky actions hide what was pressed. Balanced accuracy is the mean of the actions' "
            "recalls."
        )
        page.table(("the action read from", "accuracy", "balanced accuracy"), probe_rows(metrics))
        page.text(
            f"Normalised mutual information of the action and the code at the place that tells most about it: "
            f"{metrics['probe/nmi']:.3f}; adjusted for chance: {metrics['probe/ami']:.3f}."
        )
        page.picture("confusion.png", "true actions against those read from the codes")
        page.text("Number of labelled transitions that the linear probe needs (mean of five random choices):")
        page.picture("labels.png", "accuracy against the number of labelled transitions")


def probe_data(study: Study, clips: ClipDataset, codes: np.ndarray, game: Game | None) -> ProbeData:
    """Codes, the actions taken ``lag`` steps before, and what can be known without codes."""
    actions, states, before, keep = [], [], [], []
    for episode in clips.episodes:
        assert episode.tracks.actions is not None
        rows = episode.step_rows(study.pair_starts(episode))
        known = (rows >= study.lag) & (rows - study.lag < len(episode.tracks.actions))
        taken = episode.tracks.actions[np.where(known, rows - study.lag, 0)].astype(np.int64)
        if game:
            taken = game.class_of_action(taken, episode.tracks.meta)
            if (ram := episode.tracks.ram) is not None:
                first, second = game.state(ram[rows]), game.state(ram[rows + 1])
                states.append(game.motion(first, second))
                before.append(game.observation(first))
        actions.append(taken)
        keep.append(known)
    kept = np.concatenate(keep)
    has_state = len(states) == len(clips.episodes)
    observation = np.concatenate(before) if has_state else small_frames(clips)
    return ProbeData(
        codes[kept],
        np.concatenate(actions)[kept],
        observation[kept],
        np.concatenate(states)[kept] if has_state else None,
    )


def small_frames(clips: ClipDataset) -> np.ndarray:
    """(P, O) float, each current frame made small."""
    height, width = clips.format.size
    scale = max(height, width) / OBSERVATION_SIZE
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    parts = [
        F.adaptive_avg_pool2d(to_float(batch.current), size).flatten(1).numpy() for batch, _ in batches(clips, 256)
    ]
    return np.concatenate(parts)


def probe_rows(metrics: Mapping[str, float]) -> list[Row]:
    """Reader of the action, accuracy, balanced accuracy."""
    readers = (
        ("oracle: the RAM at both frames", "oracle_"),
        ("codes, randomized trees", ""),
        ("codes, linear", "linear_"),
        ("current frame alone, no codes", "observation_"),
        ("always the commonest action", "majority_"),
    )
    return [
        (label, percent(metrics[f"probe/{who}accuracy"]), percent(metrics[f"probe/{who}balanced_accuracy"]))
        for label, who in readers
        if f"probe/{who}accuracy" in metrics
    ]


def plot_confusion(confusion: np.ndarray, names: Sequence[str]) -> bytes:
    """Shares of each true action (row) that the probe reads as each action (column), of counts (A, A)."""
    side = 3.2 + 0.25 * max(0, len(names) - 4)
    figure, axes = figures.new_axes(width=side + 1.5, height=side)
    total = confusion.sum(1, keepdims=True)
    share = confusion / np.maximum(total, 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(share):
        colour = "w" if value > 0.6 else "k"
        axes.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [f"{name} ({count})" for name, count in zip(names, total[:, 0], strict=True)])
    axes.set_xlabel("read from the codes")
    axes.set_ylabel("true action")
    figure.colorbar(image, ax=axes)
    return figures.png(figure)


def plot_label_efficiency(metrics: Mapping[str, float]) -> bytes:
    """Accuracy of the linear probe against labelled transitions; metrics by their full names."""
    figure, axes = figures.new_axes()
    known = [
        (count, metrics[f"probe/labels_{count}_accuracy"])
        for count in LABELS
        if f"probe/labels_{count}_accuracy" in metrics
    ]
    if known:
        axes.plot(*zip(*known, strict=True), "o-", color=figures.BLUE, label="linear probe, k labels")
    levels = (
        ("linear_accuracy", "linear probe, all labels", figures.BLUE),
        ("oracle_accuracy", "oracle", figures.GREEN),
        ("observation_accuracy", "current frame alone, all labels", figures.RED),
        ("majority_accuracy", "commonest action", figures.GREY),
    )
    for name, label, colour in levels:
        if f"probe/{name}" in metrics:
            axes.axhline(metrics[f"probe/{name}"], color=colour, linestyle="--", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("labelled transitions k")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=8)
    return figures.png(figure)
