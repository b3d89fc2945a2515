"""Which codes go with which events: counts, lift, normalised mutual information."""

from __future__ import annotations

import dataclasses

import numpy as np

RARE = 5
"""A code that goes with an event in fewer transitions than this is not among its top codes."""


@dataclasses.dataclass(frozen=True)
class Association:
    """Codes against events over some transitions. A transition has a code that stands anywhere in its grid.

    Attributes:
        transitions: how many there are.
        code_counts: (K,) of them that have each code.
        event_counts: (E,) of them in which each event happens.
        counts: (K, E) of them with both.
    """

    transitions: int
    code_counts: np.ndarray
    event_counts: np.ndarray
    counts: np.ndarray

    def lift(self) -> np.ndarray:
        """(K, E), how many times as frequent the event is where the code stands: P(event | code) / P(event).

        NaN where the code or the event never occurs.
        """
        expected = np.outer(self.code_counts, self.event_counts) / self.transitions
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(expected > 0, self.counts / expected, np.nan)

    def nmi(self) -> np.ndarray:
        """(K, E), mutual information of "has the code" and "the event happens", over the mean of their entropies.

        In [0, 1]; 0 where one of the two is always or never so.
        """
        n = self.transitions
        code, event = self.code_counts[:, None] / n, self.event_counts[None] / n
        both = self.counts / n
        cells = (
            (both, code, event),
            (code - both, code, 1 - event),
            (event - both, 1 - code, event),
            (1 - code - event + both, 1 - code, 1 - event),
        )
        information = sum(_times_log(joint, joint / np.maximum(a * b, 1e-300)) for joint, a, b in cells)
        entropies = [-_times_log(share, share) - _times_log(1 - share, 1 - share) for share in (code, event)]
        total = np.add(*entropies)
        nmi: np.ndarray = np.where(total > 0, 2 * information / np.maximum(total, 1e-300), 0.0).clip(0, 1)
        return nmi

    def p_values(self) -> np.ndarray:
        """(K, E), the probability of this many transitions with both, or more, if code and event are independent.

        Fisher's exact test, one-sided: the hypergeometric distribution's upper tail.
        """
        from scipy.stats import hypergeom

        p: np.ndarray = hypergeom.sf(self.counts - 1, self.transitions, self.event_counts, self.code_counts[:, None])
        return p

    def top_codes(self, event: int, count: int) -> list[int]:
        """The codes that tell most about an event and make it likelier, best first; fewer where there are none."""
        likelier = (np.nan_to_num(self.lift()[:, event]) > 1) & (self.counts[:, event] >= RARE)
        order = np.argsort(-self.nmi()[:, event], kind="stable")
        return [int(code) for code in order if likelier[code]][:count]

    def usual_event(self) -> np.ndarray:
        """(K,) the event of the highest lift among those in at least a tenth of the code's transitions, -1 for none."""
        frequent = self.counts >= np.maximum(0.1 * self.code_counts[:, None], 1)
        lift = np.where(frequent, np.nan_to_num(self.lift()), 0.0)
        usual: np.ndarray = np.where(lift.max(1) > 1, lift.argmax(1), -1)
        return usual


def associate(codes: np.ndarray, events: np.ndarray, num_codes: int) -> Association:
    """Counts codes (P, h, w) against events (P, E) bool."""
    has = has_code(codes, num_codes)
    return Association(
        transitions=len(codes),
        code_counts=has.sum(0),
        event_counts=events.sum(0),
        counts=has.T.astype(np.float32) @ events.astype(np.float32),
    )


def has_code(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """(P, K) bool, whether each code stands anywhere in the grid of each of the transitions (P, h, w)."""
    has = np.zeros((len(codes), num_codes), dtype=bool)
    np.put_along_axis(has, codes.reshape(len(codes), -1).astype(np.int64), True, axis=1)
    return has


def _times_log(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """``weight * log2(value)``, 0 where the weight is 0."""
    product: np.ndarray = weight * np.log2(np.where(weight > 0, value, 1.0))
    return product
