"""The figures of an evaluation as rows for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lapa.evaluation.codes import CodeEvents

Row = tuple[str, ...]

TOP_CODES = 3
"""Codes that are named for each event."""

CHANCE = 0.01
"""A code stands for an event if on the judged episodes they would go together so often by chance less often than this.
"""


def summary_rows(metrics: Mapping[str, float]) -> list[Row]:
    """The table of a run: what was measured, the model's figure, and what to hold it against.

    Rows whose figures are missing are left out.
    """

    def db(name: str) -> str:
        return f"{metrics[name]:.1f} dB"

    def share(name: str) -> str:
        return percent(metrics[name])

    rows: list[Row] = [
        ("PSNR", db("recon/psnr_db"), f"copying {db('recon/copy_psnr_db')}, mean frame {db('recon/mean_psnr_db')}"),
        (
            "PSNR gain over copying",
            f"{metrics['recon/gain_over_copy_db']:+.1f} dB",
            f"episodes from {metrics['recon/episode_gain_over_copy_db_min']:+.1f} "
            f"to {metrics['recon/episode_gain_over_copy_db_max']:+.1f} dB",
        ),
        ("PSNR on changed pixels", db("recon/changed_psnr_db"), f"copying {db('recon/copy_changed_psnr_db')}"),
        ("SSIM", f"{metrics['recon/ssim']:.4f}", f"copying {metrics['recon/copy_ssim']:.4f}"),
    ]
    if "control/shuffled_delta_psnr_db/t1" in metrics:
        rows.append(
            (
                "PSNR lost with the codes of other pairs",
                db("control/shuffled_delta_psnr_db/t1"),
                f"with random codes {db('control/random_delta_psnr_db/t1')}; 0 if the codes said nothing",
            )
        )
    if "codebook/codes_used" in metrics:
        used, number, perplexity = (metrics[f"codebook/{name}"] for name in ("codes_used", "num_codes", "perplexity"))
        nominal = metrics["codebook/bits_nominal"]
        rows += [
            ("codes used", f"{used:.0f} of {number:.0f}", f"perplexity {perplexity:.1f}"),
            ("bits per transition", f"{metrics['codebook/bits_empirical']:.0f}", f"at most, of {nominal:.0f} nominal"),
        ]
    if "probe/accuracy" in metrics:
        beside = [f"linear probe {share('probe/linear_accuracy')}"]
        if "probe/oracle_accuracy" in metrics:
            beside.append(f"oracle {share('probe/oracle_accuracy')}")
        beside.append(f"current frame alone {share('probe/observation_accuracy')}")
        beside.append(f"majority {share('probe/majority_accuracy')}")
        rows.append(("true action read from the codes", share("probe/accuracy"), ", ".join(beside)))
    for label, name in (
        ("ball within 4 px, where it flies free", "elements/ball/{}within_4px"),
        ("paddle within 2 px", "elements/paddle/{}within_2px"),
        ("bricks right, of those just broken", "elements/bricks/{}changed_accuracy"),
        ("score right, where it has just changed", "elements/score/{}changed_accuracy"),
    ):
        if name.format("") in metrics:
            rows.append((label, share(name.format("")), f"copying {share(name.format('copy_'))}"))
    rows.append(("speed", f"{metrics['speed/pairs_per_second']:.0f} pairs/s", "labelled and redrawn"))
    return rows


def format_table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, for the terminal."""
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}}  {against}".rstrip() for name, value, against in rows)


def reconstruction_rows(figures: Mapping[str, float]) -> list[Row]:
    """Measure, model, copying, mean frame: over all pixels, then over changed ones."""
    rows = []
    for prefix, where in (("", ""), ("changed_", ", changed pixels")):
        for name, label, form in (
            ("psnr_db", "PSNR, dB", "{:.2f}"),
            ("ssim", "SSIM", "{:.4f}"),
            ("l1", "L1, mean absolute error", "{:.5f}"),
            ("l2", "L2, root of the mean squared error", "{:.5f}"),
        ):
            values = [form.format(figures[who + prefix + name]) for who in ("", "copy_", "mean_")]
            rows.append((label + where, *values))
    return rows


def split_rows(splits: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Measure, then one column for each split."""
    return [
        (label, *(form.format(figures[name]) for figures in splits.values()))
        for label, name, form in (
            ("PSNR, dB", "psnr_db", "{:.2f}"),
            ("copying, dB", "copy_psnr_db", "{:.2f}"),
            ("gain over copying, dB", "gain_over_copy_db", "{:+.2f}"),
            ("PSNR on changed pixels, dB", "changed_psnr_db", "{:.2f}"),
            ("SSIM", "ssim", "{:.4f}"),
        )
    ]


def element_rows(metrics: Mapping[str, float]) -> list[Row]:
    """Measure, model, copying."""
    named = (
        ("ball drawn, where it flies free (recall)", "ball/{}drawn", percent),
        ("ball within 2 px", "ball/{}within_2px", percent),
        ("ball within 4 px", "ball/{}within_4px", percent),
        ("ball, median distance", "ball/{}median_px", pixels),
        ("ball, 95th percentile", "ball/{}p95_px", pixels),
        ("ball drawn where there is none", "ball/{}false", percent),
        ("paddle within 1 px", "paddle/{}within_1px", percent),
        ("paddle within 2 px", "paddle/{}within_2px", percent),
        ("paddle, median distance", "paddle/{}median_px", pixels),
        ("paddle, 95th percentile", "paddle/{}p95_px", pixels),
        ("bricks right", "bricks/{}accuracy", per_myriad),
        ("bricks right, of those that changed", "bricks/{}changed_accuracy", percent),
        ("score right", "score/{}accuracy", percent),
        ("score right, where it changed", "score/{}changed_accuracy", percent),
        ("lives right", "lives/{}accuracy", percent),
        ("lives right, where they changed", "lives/{}changed_accuracy", percent),
    )
    rows = []
    for label, name, form in named:
        keys = [f"elements/{name.format(who)}" for who in ("", "copy_")]
        if any(key in metrics for key in keys):
            rows.append((label, *(form(metrics[key]) if key in metrics else "-" for key in keys)))
    return rows


@dataclasses.dataclass(frozen=True)
class EventCodes:
    """The codes that tell an event.

    Attributes:
        event: its number.
        name: its name.
        count: judged transitions in which it happens.
        codes: those that tell most about it where codes are chosen, best first.
        holds: of them, those that go with it on the judged transitions too.
    """

    event: int
    name: str
    count: int
    codes: list[int]
    holds: list[int]


def event_codes(events: CodeEvents) -> list[EventCodes]:
    """For each event that happens, its top codes. The judged episodes have no say in the choice."""
    found, p = [], events.judged.p_values()
    for event, name in enumerate(events.names):
        if count := int(events.judged.event_counts[event]):
            codes = events.chosen_on.top_codes(event, TOP_CODES)
            holds = [code for code in codes if p[code, event] < CHANCE]
            found.append(EventCodes(event, name, count, codes, holds))
    return found


def event_rows(events: CodeEvents) -> list[Row]:
    """Event, times, code, transitions with the code, with both, lift, p, NMI: one row for each top code."""
    judged = events.judged
    lift, p, nmi = judged.lift(), judged.p_values(), judged.nmi()
    rows: list[Row] = []
    for found in event_codes(events):
        first = (found.name, f"{found.count}")
        if not found.codes:
            rows.append((*first, "none", "", "", "", "", ""))
        for code in found.codes:
            at = code, found.event
            counts = (events.code_names[code], f"{judged.code_counts[code]}", f"{judged.counts[at]:.0f}")
            times = f"{lift[at]:.1f}" if judged.code_counts[code] else "-"
            rows.append((*first, *counts, times, chance(p[at]), f"{nmi[at]:.3f}"))
            first = ("", "")
    return rows


def event_sentences(events: CodeEvents) -> list[str]:
    """What the codes stand for, such as "codes 17 and 203: paddle moves left (lift 6.1)"."""
    sentences = []
    lift = events.judged.lift()
    for found in event_codes(events):
        if not found.holds:
            fails = f"do{'es' * (len(found.codes) == 1)} not hold"
            chosen = numbered([events.code_names[code] for code in found.codes]) if found.codes else ""
            sentences.append(f"no code: {found.name}" + (f" ({chosen} {fails})" if found.codes else ""))
            continue
        lifts = lift[found.holds, found.event]
        low, high = f"{lifts.min():.1f}", f"{lifts.max():.1f}"
        between = low if low == high else f"{low} to {high}"
        holding = numbered([events.code_names[code] for code in found.holds])
        sentences.append(f"{holding}: {found.name} (lift {between})")
    return sentences


def numbered(names: Sequence[str]) -> str:
    """Such as "codes 1, 2 and 3"."""
    *others, last = names
    return f"codes {', '.join(others)} and {last}" if others else f"code {last}"


def probe_rows(metrics: Mapping[str, float]) -> list[Row]:
    """Reader of the action, accuracy, balanced accuracy."""
    named = (
        ("oracle: the console's memory of both frames", "oracle_"),
        ("codes, randomized trees", ""),
        ("codes, linear", "linear_"),
        ("current frame alone, no codes", "observation_"),
        ("always the commonest action", "majority_"),
    )
    return [
        (label, percent(metrics[f"probe/{who}accuracy"]), percent(metrics[f"probe/{who}balanced_accuracy"]))
        for label, who in named
        if f"probe/{who}accuracy" in metrics
    ]


def reading_rows(metrics: Mapping[str, float], events: Sequence[str]) -> list[Row]:
    """Event, its share, and how well it is read from the codes."""
    rows: list[Row] = []
    for name in events:
        group = f"reading/{name.replace(' ', '_')}"
        if f"{group}/share" in metrics:
            share, precision, recall = (percent(metrics[f"{group}/{f}"]) for f in ("share", "precision", "recall"))
            rows.append((name, share, f"{metrics[f'{group}/average_precision']:.3f}", precision, recall))
    return rows


def chance(p: float) -> str:
    """Such as "0.132"."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def percent(share: float) -> str:
    """Such as "83.2 %"."""
    return f"{100 * share:.1f} %"


def per_myriad(share: float) -> str:
    """Such as "99.91 %"."""
    return f"{100 * share:.2f} %"


def pixels(distance: float) -> str:
    """Such as "1.3 px"."""
    return f"{distance:.1f} px"


def nan_free(values: np.ndarray) -> list[list[float | None]]:
    """A table for JSON, which has no NaN."""
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in values]
