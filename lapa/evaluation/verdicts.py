"""The judgement in words, computed from the figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

GAIN_DB = 1.0
"""A gain over copying, or a loss by wrong codes, below this is next to nothing."""

MARGIN = 0.02
"""An accuracy that is not higher by this than what needs no codes is no better."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One sentence; ``level`` says whether it speaks for the model."""

    level: Literal["good", "weak", "bad"]
    sentence: str


def verdicts(metrics: Mapping[str, float]) -> list[Verdict]:
    """What the figures of :func:`lapa.evaluation.evaluate.evaluate` come to; those that are missing are passed over."""
    found = [*_drawing(metrics), *_codebook(metrics), *_steering(metrics), *_actions(metrics), *_elements(metrics)]
    return list(found)


def _drawing(metrics: Mapping[str, float]) -> Iterator[Verdict]:
    gain, psnr = metrics["recon/gain_over_copy_db"], metrics["recon/psnr_db"]
    mean = metrics["recon/mean_psnr_db"]
    if gain <= 0:
        yield Verdict("bad", f"It draws the next frame no better than copying the current one ({gain:+.1f} dB).")
    elif gain < GAIN_DB:
        yield Verdict("weak", f"It draws the next frame hardly better than copying the current one ({gain:+.1f} dB).")
    else:
        yield Verdict(
            "good", f"It draws the next frame at {psnr:.1f} dB, {gain:.1f} dB better than copying the current one."
        )
    if psnr <= mean:
        yield Verdict("bad", f"A still picture, the mean of the training frames, scores as much ({mean:.1f} dB).")


def _codebook(metrics: Mapping[str, float]) -> Iterator[Verdict]:
    if "codebook/codes_used" not in metrics:
        return
    used, number, perplexity = (metrics[f"codebook/{name}"] for name in ("codes_used", "num_codes", "perplexity"))
    if used <= 1:
        yield Verdict("bad", "The codebook has collapsed: every place of every transition has the same code.")
    elif perplexity < 1.5 or used < 0.25 * number:
        yield Verdict(
            "weak", f"The codebook is poorly used: {used:.0f} of {number:.0f} codes, perplexity {perplexity:.1f}."
        )
    else:
        yield Verdict(
            "good", f"The codebook lives: {used:.0f} of {number:.0f} codes are used, perplexity {perplexity:.1f}."
        )


def _steering(metrics: Mapping[str, float]) -> Iterator[Verdict]:
    if "control/shuffled_delta_psnr_db/t1" not in metrics:
        return
    drop = metrics["control/shuffled_delta_psnr_db/t1"]
    if drop < GAIN_DB:
        yield Verdict("bad", f"The codes hardly steer what is drawn: those of other transitions cost {drop:.1f} dB.")
    else:
        yield Verdict("good", f"The codes steer what is drawn: those of other transitions cost {drop:.1f} dB.")


def _actions(metrics: Mapping[str, float]) -> Iterator[Verdict]:
    if "probe/accuracy" not in metrics:
        return
    accuracy, majority, observed = (metrics[f"probe/{name}accuracy"] for name in ("", "majority_", "observation_"))
    beside = f"the current frame alone tells {100 * observed:.0f} %, the commonest action is {100 * majority:.0f} %"
    if "probe/oracle_accuracy" in metrics:
        beside += f", and {100 * metrics['probe/oracle_accuracy']:.0f} % could be known"
    if accuracy <= max(majority, observed) + MARGIN:
        yield Verdict("bad", f"The codes do not tell the action: {100 * accuracy:.0f} % read from them; {beside}.")
        return
    known = metrics.get("probe/oracle_accuracy", 1.0)
    # Of what can be known beyond the best guess without codes.
    share = (accuracy - max(majority, observed)) / max(known - max(majority, observed), MARGIN)
    level: Literal["good", "weak"] = "good" if share >= 0.5 else "weak"
    word = "tell" if level == "good" else "tell something of"
    yield Verdict(level, f"The codes {word} the action: {100 * accuracy:.0f} % read from them; {beside}.")


def _elements(metrics: Mapping[str, float]) -> Iterator[Verdict]:
    if "elements/ball/within_4px" not in metrics:
        return
    ball, copied = metrics["elements/ball/within_4px"], metrics["elements/ball/copy_within_4px"]
    level: Literal["good", "weak", "bad"] = "good" if ball >= 0.8 else "weak" if ball >= 0.4 else "bad"
    word = {"good": "is drawn where it is", "weak": "is often drawn where it is", "bad": "is lost"}[level]
    shares = f"{100 * ball:.0f} % of its free flight (copying {100 * copied:.0f} %)"
    yield Verdict(level, f"The ball {word}: within 4 px in {shares}.")
