"""Sentences that games share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from lapa.games.game import Remark


def ball_remarks(metrics: Mapping[str, float]) -> Iterator[Remark]:
    """On the ball, where ``ball/within_4px`` is known. The same words for each game: an evaluation asks all of them."""
    if "ball/within_4px" not in metrics:
        return
    ball = metrics["ball/within_4px"]
    level: Literal["good", "weak", "bad"] = "good" if ball >= 0.8 else "weak" if ball >= 0.4 else "bad"
    word = {"good": "is drawn where it is", "weak": "is often drawn where it is", "bad": "is lost"}[level]
    shares = f"{100 * ball:.0f} % of its free flight"
    if "ball/copy_within_4px" in metrics:
        shares += f" (copying {100 * metrics['ball/copy_within_4px']:.0f} %)"
    yield Remark(level, f"The ball {word}: within 4 px in {shares}.")
