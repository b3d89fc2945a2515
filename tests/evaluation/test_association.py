"""Codes against events, of known counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import fisher_exact
from sklearn.metrics import confusion_matrix, normalized_mutual_info_score

from lapa.evaluation.association import associate, has_code


def planted(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Codes (P, 1, 2) out of 6 and two events: code 3 stands somewhere if and only if the first event happens."""
    rng = np.random.default_rng(0)
    events = rng.random((count, 2)) < (0.2, 0.5)
    codes = rng.choice([0, 1, 2], (count, 1, 2))
    codes[events[:, 0], 0, rng.integers(0, 2, count)[events[:, 0]]] = 3
    return codes, events


def test_a_code_counts_once_wherever_it_stands() -> None:
    has = has_code(np.array([[[3, 3]], [[0, 3]], [[1, 2]]]), 5)
    assert has.astype(int).tolist() == [[0, 0, 0, 1, 0], [1, 0, 0, 1, 0], [0, 1, 1, 0, 0]]


def test_counts_and_lift_of_a_planted_code() -> None:
    codes, events = planted()
    found = associate(codes, events, 6)
    happens = events[:, 0].sum()
    assert found.transitions == 400
    assert found.event_counts.tolist() == events.sum(0).tolist()
    assert found.code_counts[3] == found.counts[3, 0] == happens
    assert found.lift()[3, 0] == pytest.approx(400 / happens)
    assert found.lift()[1, 1] == pytest.approx(1.0, abs=0.2)
    assert np.isnan(found.lift()[5]).all(), "a code that never occurs has no lift"


def test_mutual_information_is_that_of_scikit_learn() -> None:
    codes, events = planted()
    nmi, has = associate(codes, events, 6).nmi(), has_code(codes, 6)
    for code in range(5):
        for event in range(2):
            expected = normalized_mutual_info_score(has[:, code], events[:, event])
            assert nmi[code, event] == pytest.approx(expected, abs=1e-6)
    assert nmi[3, 0] == pytest.approx(1.0)
    assert nmi[5].tolist() == [0.0, 0.0]


def test_top_codes_make_the_event_likelier() -> None:
    codes, events = planted()
    found = associate(codes, np.column_stack([events[:, 0], ~events[:, 0]]), 6)
    assert found.top_codes(0, 3)[0] == 3
    assert 3 not in found.top_codes(1, 6), "a code that excludes the event tells much, but does not stand for it"
    assert found.usual_event()[3] == 0
    assert found.usual_event()[5] == -1


def test_p_values_are_those_of_fishers_exact_test() -> None:
    codes, events = planted()
    found, has = associate(codes, events, 6), has_code(codes, 6)
    for code in range(5):
        for event in range(2):
            table = confusion_matrix(has[:, code], events[:, event], labels=[False, True])
            expected = fisher_exact(table, alternative="greater").pvalue
            assert found.p_values()[code, event] == pytest.approx(expected, rel=1e-6)
    assert found.p_values()[5] == pytest.approx(1.0), "a code that never occurs proves nothing"


def test_a_rare_code_is_no_top_code() -> None:
    codes = np.zeros((100, 1, 1), dtype=int)
    codes[:5], codes[5:9] = 1, 2
    happens = np.arange(100)[:, None] < 9
    assert associate(codes, happens, 3).top_codes(0, 3) == [1]


def test_an_event_that_never_happens_has_no_codes() -> None:
    codes, _ = planted()
    assert associate(codes, np.zeros((400, 1), dtype=bool), 6).top_codes(0, 3) == []
