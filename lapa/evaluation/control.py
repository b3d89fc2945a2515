"""Whether the codes control what is drawn: other codes must give another picture, the more so over many steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips, Dreamer
from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.evaluation.evaluator import GAIN_DB, Column, Evaluator, Verdict
from lapa.evaluation.events import code_events, meanings
from lapa.evaluation.grid import CodeGrids, code_grids
from lapa.evaluation.study import Study
from lapa.inference.dreaming import before_last, rollout
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.report import figures
from lapa.report.page import Page
from lapa.report.pictures import difference_image, png_bytes, sheet, to_rgb
from lapa.report.tables import Row, decibels

STEPS = (1, 4, 8, 16)
"""Numbers of steps after which rollouts are judged."""

TRIED_PLACES = 8
"""Places of the grid at which a code is tried."""

MIN_STARTS = 48
"""Rollouts of a length, unless there are fewer."""

BATCH = 64
"""Rollouts that run together."""

KINDS = ("true", "shuffled", "random")
"""Codes that a rollout is given: those of its own transitions, those of others, and uniformly random ones."""

COUNTERFACTUAL_CODES = 8

COUNTERFACTUAL_FRAMES = 3


class ControlEvaluator(Evaluator):
    """Rollouts under true, shuffled and random codes, and some frames with one code replaced."""

    group = "control"

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs a system that gives codes of transitions and continues a game under them."""
        reason = study.without_transition_codes()
        if reason is None and study.dreamer is None:
            reason = f"{study.kind} does not continue a game under codes"
        return f"control: {reason}" if reason else None

    @property
    def _dreamer(self) -> Dreamer:
        assert self.study.dreamer is not None
        return self.study.dreamer

    def metrics(self) -> dict[str, float]:
        """Those of :func:`controllability`."""
        assert self.study.codes is not None
        self.study.notify("rolling the decoder out under true, shuffled and random codes")
        return controllability(self._dreamer, self.study.clips, self.study.codes)

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """What wrong codes cost after one step."""
        if "control/shuffled_delta_psnr_db/t1" not in metrics:
            return []
        shuffled, random = (decibels(metrics[f"control/{kind}_delta_psnr_db/t1"]) for kind in ("shuffled", "random"))
        against = f"with random codes {random}; 0 if the codes said nothing"
        return [("PSNR lost with the codes of other pairs", shuffled, against)]

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Whether the codes steer what is drawn."""
        if "control/shuffled_delta_psnr_db/t1" not in metrics:
            return
        drop = metrics["control/shuffled_delta_psnr_db/t1"]
        cost = f"what is drawn: those of other transitions cost {drop:.1f} dB."
        if drop < GAIN_DB:
            yield Verdict("bad", f"The codes hardly steer {cost}")
        else:
            yield Verdict("good", f"The codes steer {cost}")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """What shuffled codes cost after one step."""
        return (Column("lost by shuffled codes, dB", "control/shuffled_delta_psnr_db/t1", "{:.1f}".format),)

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """PSNR of the rollouts, and frames under other codes."""
        return {"control.png": plot_control(metrics), "counterfactuals.png": png_bytes(self._counterfactual_sheet())}

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """Both pictures."""
        page.heading("Do the codes steer?", "control")
        page.text(
            "From true frames the decoder continues by itself: each picture that it draws is its next current frame. "
            "It does so under the codes of the true transitions, under those of other transitions, and under random "
            "ones."
        )
        page.picture("control.png", "PSNR of rollouts by their length")
        page.text(
            "The same frames with one code replaced by each of the top codes, all other places unchanged. Of the "
            "places where a code stands often, the one is taken where it changes this picture most; that place is "
            "outlined. Next to each picture is the change: by its own codes from the current frame, by the others from "
            "its own codes. In a grid of many places, one of them may do little by itself."
        )
        page.sheet("counterfactuals.png", "frames under other codes, and what these change")

    def _counterfactuals(self, grids: CodeGrids) -> list[Counterfactual]:
        """Some frames, at even distances, under the top code of each event and then under the most frequent ones."""
        events, codes, clips = self.study.shared(code_events), self.study.codes, self.study.clips
        assert codes is not None
        tops = [events.chosen_on.top_codes(event, 1) for event in range(len(events.names))] if events else []
        tried = [code for top in tops for code in top]
        tried += [int(code) for code in np.argsort(-grids.use.totals, kind="stable")]
        tried = [code for code in dict.fromkeys(tried) if grids.use.totals[code]][:COUNTERFACTUAL_CODES]
        rows = evenly_spaced(len(clips), COUNTERFACTUAL_FRAMES + 2)[1:-1]
        return [counterfactual(self._dreamer, clips, int(row), codes, tried, grids.use.counts) for row in rows]

    def _counterfactual_sheet(self) -> np.ndarray:
        """Frames under their own codes and with one code replaced, each picture with what is changed next to it."""
        grids, events = self.study.shared(code_grids), self.study.shared(code_events)
        found = self._counterfactuals(grids)
        columns = []
        for each in found:
            pictures = [to_rgb(each.current), to_rgb(each.drawn)]
            changes = [difference_image(each.current, each.current), difference_image(each.drawn, each.current)]
            for picture, place in zip(each.alternatives, each.places, strict=True):
                pictures.append(grids.outline(to_rgb(picture), [place]))
                changes.append(difference_image(picture, each.drawn))
            columns += [pictures, changes]
        stands_for = meanings(events) if events else {}
        names = [f"{grids.names[code]} {stands_for.get(code, 'frequent')}" for code in found[0].codes]
        where = [name for each in found for name in (each.where, "change")]
        return sheet(list(zip(*columns, strict=True)), ["current", "its own codes", *names], where)


def controllability(
    model: Dreamer, clips: ClipDataset, codes: np.ndarray, *, num_decodes: int = 512, seed: int = 0
) -> dict[str, float]:
    """PSNR lost when the codes are not the true ones, Genie's delta-PSNR (Bruce et al. 2024, section 3).

    From each of some frames the model continues by itself under given codes. After t steps its picture is compared
    with the true frame.

    Args:
        model: in eval mode.
        clips: held-out clips.
        codes: (P, h, w * n), theirs.
        num_decodes: frames that are drawn for each length and kind of codes, which sets the number of starts, at even
            distances; more, if it takes more for :data:`MIN_STARTS` of them.
        seed: of the shuffled and random codes.

    Returns:
        ``psnr_db/t<t>``, ``copy_psnr_db/t<t>`` (of the frame started from), ``shuffled_delta_psnr_db/t<t>`` and
        ``random_delta_psnr_db/t<t>``, for those t that fit into the episodes.
    """
    metrics: dict[str, float] = {}
    rng = np.random.default_rng(seed)
    for steps in STEPS:
        starts = run_starts(clips.starts, steps)
        if not len(starts):
            continue
        starts = starts[evenly_spaced(len(starts), max(num_decodes // steps, MIN_STARTS))]
        windows = starts[:, None] + np.arange(steps)  # (S, t)
        given = {
            "true": codes[windows],
            "shuffled": codes[rng.integers(0, len(codes), windows.shape)],
            "random": rng.integers(0, model.actions.count, (*windows.shape, *codes.shape[1:])),
        }
        psnr = rollout_psnr(model, clips, windows, given)
        metrics |= {
            f"psnr_db/t{steps}": psnr["true"],
            f"copy_psnr_db/t{steps}": psnr["copy"],
            f"shuffled_delta_psnr_db/t{steps}": psnr["true"] - psnr["shuffled"],
            f"random_delta_psnr_db/t{steps}": psnr["true"] - psnr["random"],
        }
    return metrics


def rollout_psnr(
    model: Dreamer, clips: ClipDataset, windows: np.ndarray, given: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """PSNR of the last frames of rollouts along the clips of ``windows`` (S, t), by kind of codes, and of copying."""
    errors: dict[str, list[Tensor]] = {kind: [] for kind in ("copy", *KINDS)}
    for first in range(0, len(windows), BATCH):
        rows = windows[first : first + BATCH]
        begun, target = clips[rows[:, 0]], to_float(clips[rows[:, -1]].next)
        errors["copy"].append(squared_errors(to_float(begun.current), target))
        for kind in KINDS:
            codes = torch.from_numpy(given[kind][first : first + BATCH])
            picture = rollout(model, before_last(begun, model.context), codes)
            errors[kind].append(squared_errors(picture, target))
    return {kind: psnr_db(torch.cat(parts).mean()) for kind, parts in errors.items()}


def run_starts(starts: np.ndarray, steps: int) -> np.ndarray:
    """Rows of the pairs that are followed by ``steps - 1`` more without a gap; ``starts`` are their store indices."""
    last = np.arange(len(starts)) + steps - 1
    rows = np.flatnonzero(last < len(starts))
    whole: np.ndarray = rows[starts[last[rows]] - starts[rows] == steps - 1]
    return whole


@dataclasses.dataclass(frozen=True)
class Counterfactual:
    """What one frame would have become if one code of its grid were another.

    Attributes:
        current: (C, H, W) in [0, 1].
        drawn: (C, H, W), with the codes of its own transition.
        codes: the codes tried.
        places: (row, column) of the grid where each was put.
        alternatives: (N, C, H, W), what is drawn then.
        where: where the frame was recorded.
    """

    current: np.ndarray
    drawn: np.ndarray
    codes: list[int]
    places: list[tuple[int, int]]
    alternatives: np.ndarray
    where: str


@torch.inference_mode()
def counterfactual(
    model: Dreamer, clips: ClipDataset, row: int, codes: np.ndarray, tried: list[int], counts: np.ndarray
) -> Counterfactual:
    """Puts each of some codes at one place of the grid, all other places unchanged.

    Of the :data:`TRIED_PLACES` where the code stands most often, the one is taken where it changes the picture most: a
    code that moves the paddle does nothing where there is none.

    Args:
        model: in eval mode.
        clips: held-out clips.
        row: which clip.
        codes: (P, h, w * n), those of all clips.
        tried: the codes to try, each of which must stand somewhere, numbered as in ``counts``.
        counts: (h, w * n, n K), how often each code stands at each place.
    """
    clip = clips[[row]]
    begin = before_last(clip, model.context).frames

    def draw(grids: np.ndarray) -> np.ndarray:
        repeated = Clips(begin.expand(len(grids), *begin.shape[1:]))
        return rollout(model, repeated, torch.from_numpy(grids)[:, None]).numpy()

    own = draw(codes[[row]])[0]
    places, alternatives = [], []
    for code in tried:
        frequent = np.argsort(-counts[:, :, code], axis=None, kind="stable")[:TRIED_PLACES]
        candidates = [divmod(int(place), counts.shape[1]) for place in frequent if counts[:, :, code].flat[place]]
        grids = np.repeat(codes[[row]], len(candidates), 0)
        for grid, place in zip(grids, candidates, strict=True):
            grid[place] = code % model.actions.count
        pictures = draw(grids)
        most = int(np.square(pictures - own).sum((1, 2, 3)).argmax())
        places.append(candidates[most])
        alternatives.append(pictures[most])
    current = to_float(clip.current)[0].numpy()
    return Counterfactual(current, own, tried, places, np.stack(alternatives), clips.where(row))


def plot_control(metrics: Mapping[str, float]) -> bytes:
    """PSNR of rollouts by their length, under true, shuffled and random codes; metrics by their full names."""
    figure, axes = figures.new_axes()
    steps = [t for t in STEPS if f"control/psnr_db/t{t}" in metrics]

    def line(name: str) -> np.ndarray:
        return np.array([metrics[f"control/{name}_db/t{t}"] for t in steps])

    true = line("psnr")
    lines = (
        ("true codes", true, figures.BLUE),
        ("shuffled codes", true - line("shuffled_delta_psnr"), figures.RED),
        ("random codes", true - line("random_delta_psnr"), figures.YELLOW),
        ("copying the first frame", line("copy_psnr"), figures.GREY),
    )
    for label, values, colour in lines:
        axes.plot(steps, values, "o-", color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(t) for t in steps])
    axes.set_xlabel("steps drawn from the model's own pictures")
    axes.set_ylabel("PSNR, dB")
    axes.legend(fontsize=8)
    return figures.png(figure)
