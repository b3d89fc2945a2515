"""Guards that say early when a training goes wrong."""

from __future__ import annotations

import collections
import re
from typing import Any

from lapa.config import TrainingConfig
from lapa.errors import TrainingError

FIGURES = re.compile(r"[\d.]+")


class NonFiniteGuard:
    """Counts steps whose loss or gradient is infinite or NaN, and ends the run after too many in a row.

    Attributes:
        total: so many steps were skipped.
        in_a_row: of these, the latest without a good one between.
    """

    def __init__(self, options: TrainingConfig) -> None:
        self.limit = options.max_non_finite
        self.total = 0
        self.in_a_row = 0

    def good(self) -> None:
        """Notes a step that was taken."""
        self.in_a_row = 0

    def bad(self, step: int, last_good: str) -> None:
        """Notes a step that was skipped.

        Args:
            step: its number.
            last_good: what to go back to, for the message.

        Raises:
            TrainingError: it was one too many in a row.
        """
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row >= self.limit:
            raise TrainingError(
                f"the loss or its gradient was not finite for {self.in_a_row} steps, up to step {step}; {last_good}; "
                "lower training.learning_rate or set training.precision=fp32"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]


class ZeroLossGuard:
    """Ends the run when a term of the loss is exactly 0 for too many steps: then it is hardly ever computed.

    Terms whose weight is 0 are not watched.

    Attributes:
        in_a_row: by name of a term, its latest steps with the value 0 without another between.
    """

    def __init__(self, options: TrainingConfig) -> None:
        self.limit = options.max_zero
        self.in_a_row: dict[str, int] = {}

    def watch(self, step: int, values: dict[str, float], weights: dict[str, float]) -> None:
        """Notes the terms of one step.

        Args:
            step: its number.
            values: of each term, unweighted, over the whole batch.
            weights: of each term.

        Raises:
            TrainingError: a term was 0 for one step too many.
        """
        zero = [name for name, weight in weights.items() if weight and values[name] == 0]
        self.in_a_row = {name: self.in_a_row.get(name, 0) + 1 for name in zero}
        for name, steps in self.in_a_row.items():
            if self.limit and steps >= self.limit:
                raise TrainingError(
                    f"the loss term '{name}' was exactly 0 for {steps} steps, up to step {step}: it is probably not "
                    "computed, or a file of weights that it needs is a stub; correct that, set the term's weight to 0, "
                    "or switch this check off with training.max_zero=0"
                )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"in_a_row": dict(self.in_a_row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.in_a_row = dict(state["in_a_row"])


class CollapseGuard:
    """Warns when the codebook's mean perplexity over a window of steps is too small a share of its codes.

    Attributes:
        warned_at: step of the first warning, or None.
    """

    def __init__(self, options: TrainingConfig, num_codes: int | None) -> None:
        # A codebook of a few codes has no share that small: a perplexity near 1 is a collapse of any codebook.
        self.threshold = max(options.collapse_share * num_codes, 1.5) if num_codes and options.collapse_share else 0.0
        self.num_codes = num_codes
        self.window: collections.deque[float] = collections.deque(maxlen=options.collapse_steps)
        self.warned_at: int | None = None

    def watch(self, step: int, perplexity: float) -> str | None:
        """Notes a batch's perplexity; returns a warning, once per window, while the codebook is collapsed."""
        self.window.append(perplexity)
        mean = sum(self.window) / len(self.window)
        if len(self.window) < (self.window.maxlen or 0) or mean >= self.threshold:
            return None
        self.window.clear()
        self.warned_at = self.warned_at or step
        return (
            f"WARNING: codebook collapse: perplexity {mean:.1f} of {self.num_codes} codes over the last "
            f"{self.window.maxlen} steps, up to step {step}; try model.quantizer.name=ema, a lower "
            "model.quantizer.commitment, a shorter training.reseed_every, or with vq model.quantizer.entropy=0.1"
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"window": list(self.window), "warned_at": self.warned_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.window.clear()
        self.window.extend(state["window"])
        self.warned_at = state["warned_at"]


class Alarms:
    """Lets each alarm be said once, and again only after a validation without it."""

    def __init__(self) -> None:
        self._last: set[str] = set()

    def new(self, sentences: list[str]) -> list[str]:
        """Those that differ from all of the call before in more than their figures."""
        kinds = {sentence: FIGURES.sub("#", sentence) for sentence in sentences}
        found = [sentence for sentence, kind in kinds.items() if kind not in self._last]
        self._last = set(kinds.values())
        return found
