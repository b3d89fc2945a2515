"""Play that a system continues by itself under the controller's actions, step by step beside the recording.

It sees some frames, then none. What it predicts is compared with copying the last frame that it saw, and with its twin,
which is shown the true frame after each step and so predicts one step only. Under the actions of other play it must
predict something else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips, ClipSpec, Dreamer
from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.evaluation.elements import ElementsEvaluator
from lapa.evaluation.evaluator import GAIN_DB, Column, Evaluator, Verdict
from lapa.evaluation.study import Study
from lapa.games.game import Game, State, joined_states
from lapa.metrics.events import REWARD_EVENT, event_counts, event_metrics
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.report import figures
from lapa.report.page import Page
from lapa.report.pictures import difference_image, png_bytes, sheet, to_rgb
from lapa.report.tables import Row, decibels, percent

OBSERVED = 16
"""Frames that are seen before the first step."""

STEPS = 50
"""Steps without a frame."""

WINDOWS = ((1, 16), (17, 32), (33, 50))
"""Steps over which figures are averaged, the first and the last."""

SHOWN = (1, 4, 8, 16, 32, 50)
"""Steps in the picture."""

STARTS = 64
"""Dreams that are judged, at even distances over the judged episodes."""

BATCH = 16
"""Dreams that run together."""

GREEN, RED, BORDER = (40, 160, 70), (200, 50, 50), 3


@dataclasses.dataclass(frozen=True)
class Dreams:
    """S dreams of T steps beside the recording.

    Attributes:
        rows: (S,) numbers of their clips.
        errors: by predictor, (S, T) mean squared errors: ``""`` the dream, ``copy_``, ``twin_``, ``other_``.
        real: (S, T) bool, whether the recording goes on so far.
        rewards: predicted and true, (S, T), or None where one of them is not known.
        ends: the same, in [0, 1].
        elements: what is found in the predicted frames, the last seen frame and the true frames, one step after the
            other; None without a game that can tell.
    """

    rows: np.ndarray
    errors: dict[str, np.ndarray]
    real: np.ndarray
    rewards: tuple[np.ndarray, np.ndarray] | None
    ends: tuple[np.ndarray, np.ndarray] | None
    elements: list[tuple[State, State, State]] | None


class DreamEvaluator(Evaluator):
    """Errors, elements, rewards and ends of play that is imagined under the true actions."""

    group = "dream"

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        spec = study.system.clip(study.checkpoint.config.model, study.checkpoint.config.loss)
        tracks = tuple(sorted({*spec.tracks, "actions"}))
        frames = ClipSpec(OBSERVED + STEPS, tracks, padded=True)
        self.clips = ClipDataset(study.store, study.episodes, study.format, frames)
        self.by_start: dict[str, dict[str, float]] = {}
        self._found: Dreams | None = None

    @classmethod
    def applies(cls, study: Study) -> bool:
        """It needs a system that continues a game under the controller's actions."""
        return study.player is not None

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs recorded actions."""
        if any("actions" not in episode.tracks for episode in study.episodes):
            return "imagined play: the recording has no actions"
        return None

    @property
    def _dreamer(self) -> Dreamer:
        assert self.study.player is not None
        return self.study.player

    @property
    def _game(self) -> Game | None:
        return None if ElementsEvaluator.skip(self.study) else self.study.game

    def metrics(self) -> dict[str, float]:
        """Figures by step and by window, over all dreams; by the start of their episodes, they are in the details."""
        self.study.notify(f"imagining {STEPS} steps after {OBSERVED} frames")
        rows = evenly_spaced(len(self.clips), STARTS)
        self._found = found = self._dream(rows)
        metrics = step_metrics(found)
        for first, last in WINDOWS:
            window = slice(first - 1, last)
            metrics |= {f"{name}/steps_{first}_{last}": value for name, value in window_metrics(found, window).items()}
            if found.elements and self._game:
                states = found.elements[window]
                compared = compare_elements(self._game, self._true_states(found, window), states)
                metrics |= {f"{name}/steps_{first}_{last}": value for name, value in compared.items()}
        for start, chosen in self._starts(found.rows):
            self.by_start[start] = window_metrics(select(found, chosen), slice(0, WINDOWS[0][1]))
        return metrics

    @torch.inference_mode()
    def _dream(self, rows: np.ndarray) -> Dreams:
        parts = [self._batch(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH)]
        game = self._game
        elements = None
        if game:
            steps = zip(*(part.elements or [] for part in parts), strict=True)
            elements = [tuple(joined_states(each) for each in zip(*step, strict=True)) for step in steps]
        return Dreams(
            rows=rows,
            errors={name: np.concatenate([part.errors[name] for part in parts]) for name in parts[0].errors},
            real=np.concatenate([part.real for part in parts]),
            rewards=joined_pairs([part.rewards for part in parts]),
            ends=joined_pairs([part.ends for part in parts]),
            elements=elements,  # type: ignore[arg-type]
        )

    def _batch(self, rows: np.ndarray) -> Dreams:
        """Dreams of some clips."""
        clips, dreamer = self.clips[rows], self._dreamer
        device = next(dreamer.parameters()).device
        actions = clips.tracks["actions"][:, OBSERVED - 1 :].to(device)
        others = actions.roll(1, 0)  # those of the next dream; of a single one, the actions backwards
        others = others if len(actions) > 1 else actions.flip(1)
        begun = dreamer.begin(until(clips, OBSERVED).to(device))
        states = {"": begun, "other_": begun, "twin_": begun}
        last = to_float(clips.frames[:, OBSERVED - 1])
        errors: dict[str, list[Tensor]] = {name: [] for name in ("", "copy_", "twin_", "other_")}
        rewards, ends, elements = [], [], []
        for step in range(STEPS):
            frame = clips.frames[:, OBSERVED + step]
            true = to_float(frame)
            predicted: dict[str, Tensor] = {"copy_": last}
            for name, taken in (("", actions), ("other_", others), ("twin_", actions)):
                states[name], imagined = dreamer.step(before := states[name], taken[:, step])
                predicted[name] = imagined.frame.float().cpu()
                if name == "":
                    rewards.append(imagined.reward)
                    ends.append(imagined.ended)
                if name == "twin_":
                    states[name] = dreamer.observe(before, taken[:, step], frame.to(device))
            for name, picture in predicted.items():
                errors[name].append(squared_errors(picture, true))
            if game := self._game:
                found = (self._find(game, picture) for picture in (predicted[""], last, true))
                elements.append(tuple(found))
        return Dreams(
            rows=rows,
            errors={name: torch.stack(each, 1).numpy() for name, each in errors.items()},
            real=clips.mask[:, OBSERVED:].numpy(),
            rewards=predicted_and_true(rewards, clips.tracks.get("rewards")),
            ends=predicted_and_true(ends, clips.ended()),
            elements=elements or None,  # type: ignore[arg-type]
        )

    def _find(self, game: Game, frames: Tensor) -> State:
        pixels = (255 * frames).round().numpy().astype(np.float32) / 255  # as a screen would show them
        return game.find(pixels, self.study.format.downsample)

    def _true_states(self, found: Dreams, window: slice) -> tuple[State, State, np.ndarray]:
        """What the RAM says of the last seen frame and of the frame at each step, step by step, and which are real."""
        game, clips = self.study.game, self.clips
        assert game is not None
        starts = clips.starts[found.rows]
        owners = [next(e for e in clips.episodes if e.start <= start < e.stop) for start in starts.tolist()]
        before, after, real = [], [], []
        for step in range(STEPS)[window]:
            for owner, start, goes_on in zip(owners, starts.tolist(), found.real[:, step].tolist(), strict=True):
                ram = owner.tracks.ram
                assert ram is not None
                first = int(owner.step_rows(np.array([start]))[0])
                before.append(ram[min(first + OBSERVED - 1, len(ram) - 1)])
                after.append(ram[min(first + OBSERVED + step, len(ram) - 1)])
                real.append(goes_on)
        return game.state(np.stack(before)), game.state(np.stack(after)), np.array(real)

    def _starts(self, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The starts that episodes name, and which dreams are of each."""
        names = [self.clips.where(int(row)).rsplit("/", 1)[0] for row in rows]
        by_name = {e.name: str(e.tracks.meta.get("start", "")) for e in self.clips.episodes}
        starts = np.array([by_name.get(name, "") for name in names])
        for start in sorted({*starts.tolist()} - {""}):
            yield start, np.flatnonzero(starts == start)

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """PSNR over the windows, what is on the screen in the first, rewards and ends."""
        rows: list[Row] = []
        for first, last in WINDOWS:
            at = f"steps_{first}_{last}"
            if f"dream/psnr_db/{at}" in metrics:
                copied, twin = (decibels(metrics[f"dream/{who}psnr_db/{at}"]) for who in ("copy_", "twin_"))
                against = f"copying the last frame {copied}, one step at a time {twin}"
                rows.append((f"imagined, steps {first} to {last}", decibels(metrics[f"dream/psnr_db/{at}"]), against))
        at = f"steps_{WINDOWS[0][0]}_{WINDOWS[0][1]}"
        for name, label, form in ELEMENTS:
            if (full := f"dream/{name}/{at}") in metrics:
                beside = f"dream/{name.replace('/', '/copy_', 1)}/{at}"
                against = f"copying the last frame {form(metrics[beside])}" if beside in metrics else ""
                rows.append((f"imagined, {label}", form(metrics[full]), against))
        for what in ("reward", "end"):
            if (full := f"dream/{what}_recall/{at}") in metrics:
                precision = metrics.get(f"dream/{what}_precision/{at}")
                against = "none predicted" if precision is None else f"precision {percent(precision)}"
                rows.append((f"imagined, recall of {what}s", percent(metrics[full]), against))
        return rows

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Whether imagined play is better than a still, and whether actions steer it."""
        first, last = WINDOWS[0]
        at = f"steps_{first}_{last}"
        if f"dream/psnr_db/{at}" not in metrics:
            return
        gain = metrics[f"dream/psnr_db/{at}"] - metrics[f"dream/copy_psnr_db/{at}"]
        over = f"the last frame that was seen ({gain:+.1f} dB over steps {first} to {last})"
        if gain <= 0:
            yield Verdict("bad", f"Imagined play is no better than {over}.")
        elif gain < GAIN_DB:
            yield Verdict("weak", f"Imagined play is hardly better than {over}.")
        else:
            yield Verdict("good", f"Imagined play is better than {over}.")
        cost = metrics[f"dream/psnr_db/{at}"] - metrics[f"dream/other_psnr_db/{at}"]
        steered = f"those of other play cost {cost:.1f} dB over steps {first} to {last}."
        if cost < GAIN_DB / 2:
            yield Verdict("weak", f"The actions hardly steer it: {steered}")
        else:
            yield Verdict("good", f"The actions steer it: {steered}")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """PSNR of the first window, its gain over copying, ball and paddle."""
        first, last = WINDOWS[0]
        at = f"steps_{first}_{last}"
        return (
            Column(f"imagined {first} to {last}, dB", f"dream/psnr_db/{at}", "{:.2f}".format),
            Column("copying the last frame, dB", f"dream/copy_psnr_db/{at}", "{:.2f}".format),
            *(Column(f"imagined: {label}", f"dream/{name}/{at}", form) for name, label, form in ELEMENTS),
        )

    def details(self) -> dict[str, Any]:
        """The first window by the start of the episodes."""
        return {"dream_by_start": self.by_start}

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """PSNR by step, and three dreams."""
        return {"dream.png": plot_dream(metrics), "dreams.png": png_bytes(self._sheet())}

    @torch.inference_mode()
    def _sheet(self, count: int = 3) -> np.ndarray:
        """Dreams at even distances: true frames, what is imagined, and the difference, step by step."""
        assert self._found is not None
        whole = self._found.rows[self._found.real.all(1)]
        rows = whole[evenly_spaced(len(whole), count + 2)[1:-1]] if len(whole) > count else self._found.rows[:count]
        clips, dreamer = self.clips[rows], self._dreamer
        device = next(dreamer.parameters()).device
        seen = until(clips, OBSERVED).to(device)
        state = dreamer.begin(seen)
        last = to_float(clips.frames[:, OBSERVED - 1])
        drawn = self.study.drawer.draw(seen).cpu() if self.study.drawer and self.study.rebuilds else last
        columns = [self._cells(last, drawn, GREEN)]
        for step in range(STEPS):
            state, imagined = dreamer.step(state, clips.tracks["actions"][:, OBSERVED - 1 + step].to(device))
            if step + 1 in SHOWN:
                columns.append(self._cells(to_float(clips.frames[:, OBSERVED + step]), imagined.frame.cpu(), RED))
        lines = [line for one in zip(*columns, strict=True) for line in zip(*one, strict=True)]
        names = [name for row in rows for name in (self.clips.where(int(row)), "imagined", "difference")]
        return sheet(lines, names, ["last seen", *(f"step {step}" for step in SHOWN)], scale_bar=True)

    @staticmethod
    def _cells(true: Tensor, drawn: Tensor, colour: tuple[int, int, int]) -> list[list[np.ndarray]]:
        """Of each dream a column of three cells; the drawn one has a border."""
        return [
            [to_rgb(one), bordered(to_rgb(other), colour), difference_image(other, one)]
            for one, other in zip(true.numpy(), drawn.float().numpy(), strict=True)
        ]

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """PSNR by step, what is on the screen by window, and the pictures."""
        page.heading("Imagined play", "dream")
        page.text(
            f"After {OBSERVED} frames the system continues the game by itself for {STEPS} steps under the true "
            "actions. Its twin is shown the true frame after each step. Copying repeats the last frame that was seen."
        )
        page.picture("dream.png", "PSNR by the number of imagined steps")
        labels = tuple(f"steps {first} to {last}" for first, last in WINDOWS)
        page.table(("", *labels), window_rows(metrics))
        page.text(
            "Dreams at even distances, not chosen by quality. A green border: the frame was seen; a red one: it is "
            "imagined. In the difference red is too bright, blue too dark."
        )
        page.sheet("dreams.png", "true frames, imagined frames, differences")
        if self.by_start:
            page.text(f"Steps {WINDOWS[0][0]} to {WINDOWS[0][1]}, by the start of the episode.")
            rows = [
                (start, decibels(found["psnr_db"]), decibels(found["copy_psnr_db"]))
                for start, found in self.by_start.items()
            ]
            page.table(("start", "imagined", "copying the last frame"), rows)


ELEMENTS = (
    ("ball/drawn", "ball drawn where it flies free", percent),
    ("ball/within_4px", "ball within 4 px", percent),
    ("ball/extra", "a second ball drawn", percent),
    ("paddle/within_4px", "paddle within 4 px", percent),
    ("bricks/accuracy", "bricks right", percent),
)
"""Figures of what is on the screen that stand in the summary, where the game has them."""


def until(clips: Clips, frames: int) -> Clips:
    """The first frames of each clip, with the tracks of the steps between them."""
    return Clips(
        clips.frames[:, :frames],
        {name: track[:, : frames - (track.shape[1] < clips.frames.shape[1])] for name, track in clips.tracks.items()},
    )


def predicted_and_true(predicted: list[Tensor | None], true: Tensor | None) -> tuple[np.ndarray, np.ndarray] | None:
    """(S, T) twice, what is predicted at each step and what is so; None if one of them is not known."""
    known = [each.float().cpu() for each in predicted if each is not None]
    if true is None or not known:
        return None
    return torch.stack(known, 1).numpy(), true[:, OBSERVED - 1 :].numpy()


def joined_pairs(parts: list[tuple[np.ndarray, np.ndarray] | None]) -> tuple[np.ndarray, np.ndarray] | None:
    """Pairs of arrays, one after the other."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    predicted, true = (np.concatenate(each) for each in zip(*known, strict=True))
    return predicted, true


def select(found: Dreams, rows: np.ndarray) -> Dreams:
    """Some of the dreams, without their elements."""
    errors = {name: each[rows] for name, each in found.errors.items()}
    return Dreams(found.rows[rows], errors, found.real[rows], None, None, None)


def step_metrics(found: Dreams) -> dict[str, float]:
    """PSNR by predictor at each of :data:`SHOWN`."""
    metrics = {}
    for step in SHOWN:
        real = found.real[:, step - 1]
        if real.any():
            for who, errors in found.errors.items():
                metrics[f"{who}psnr_db/t{step}"] = psnr_db(errors[real, step - 1].mean())
    return metrics


def window_metrics(found: Dreams, window: slice) -> dict[str, float]:
    """PSNR by predictor over some steps; recall and precision of rewards and ends there."""
    real = found.real[:, window]
    if not real.any():
        return {}
    metrics = {f"{who}psnr_db": psnr_db(errors[:, window][real].mean()) for who, errors in found.errors.items()}
    for name, pair, threshold in (("reward", found.rewards, REWARD_EVENT), ("end", found.ends, 0.5)):
        if pair is None:
            continue
        predicted, true = (each[:, window][real] for each in pair)
        said, is_so = torch.from_numpy(np.abs(predicted) >= threshold), torch.from_numpy(true != 0)
        metrics |= event_metrics(f"{name}_", event_counts(said, is_so))
    return metrics


def compare_elements(
    game: Game, true: tuple[State, State, np.ndarray], found: list[tuple[State, State, State]]
) -> dict[str, float]:
    """The game's own figures over some steps, of the frames that are real.

    Args:
        game: the game.
        true: what the RAM says of the last seen frame and of each step's, step by step, and which are real.
        found: in the predicted frames, in the last seen ones, in the true ones; step by step.
    """
    before, after, real = true
    predicted, copied, perfect = (joined_states(each) for each in zip(*found, strict=True))
    states = (predicted, copied, game.shown(before, copied), game.shown(after, perfect))
    compared = game.compare(*({name: values[real] for name, values in state.items()} for state in states))
    return {name: value for name, value in compared.items() if "changed_" not in name}


def window_rows(metrics: Mapping[str, float]) -> list[Row]:
    """Measure, then one column for each window."""
    lines = [
        ("imagined, dB", "psnr_db", decibels),
        ("one step at a time, dB", "twin_psnr_db", decibels),
        ("copying the last frame, dB", "copy_psnr_db", decibels),
        ("imagined under the actions of other play, dB", "other_psnr_db", decibels),
        *((label, name, form) for name, label, form in ELEMENTS),
        ("recall of rewards", "reward_recall", percent),
        ("precision of rewards", "reward_precision", percent),
        ("recall of ends", "end_recall", percent),
        ("precision of ends", "end_precision", percent),
    ]
    rows = []
    for label, name, form in lines:
        names = [f"dream/{name}/steps_{first}_{last}" for first, last in WINDOWS]
        if any(each in metrics for each in names):
            rows.append((label, *(form(metrics[each]) if each in metrics else "-" for each in names)))
    return rows


def plot_dream(metrics: Mapping[str, float]) -> bytes:
    """PSNR by the number of imagined steps; metrics by their full names."""
    figure, axes = figures.new_axes()
    steps = [step for step in SHOWN if f"dream/psnr_db/t{step}" in metrics]
    lines = (
        ("one step at a time", "twin_", figures.YELLOW),
        ("imagined", "", figures.BLUE),
        ("imagined, actions of other play", "other_", figures.RED),
        ("copying the last frame", "copy_", figures.GREY),
    )
    for label, who, colour in lines:
        axes.plot(steps, [metrics[f"dream/{who}psnr_db/t{t}"] for t in steps], "o-", color=colour, label=label)
    axes.set_xlabel("steps after the last frame that was seen")
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize=8)
    return figures.png(figure)


def bordered(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W, 3) uint8 with a border of a colour within it."""
    framed = image.copy()
    for edge in (np.s_[:BORDER], np.s_[-BORDER:], np.s_[:, :BORDER], np.s_[:, -BORDER:]):
        framed[edge] = colour
    return framed
