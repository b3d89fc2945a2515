"""Loops that Numba compiles, and what happens where it is not there."""

from __future__ import annotations

import numpy as np
import pytest

from lapa import compiled as module
from lapa.compiled import can_compile, compiled


def doubled(values: np.ndarray) -> np.ndarray:
    """Twice the values."""
    out = np.empty_like(values)
    for i in range(len(values)):
        out[i] = 2 * values[i]
    return out


def test_a_loop_is_compiled_for_each_type_that_it_is_called_with() -> None:
    assert can_compile()
    loop = compiled(doubled)
    assert loop.__name__ == "doubled"
    for dtype in (np.float32, np.int64):
        values = np.arange(5, dtype=dtype)
        assert loop(values).dtype == dtype
        assert loop(values).tolist() == [0, 2, 4, 6, 8]


def test_a_loop_that_can_be_kept_nowhere_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class ReadOnly:
        def njit(self, **options: bool):  # type: ignore[no-untyped-def] # of Numba
            calls.append(options)
            if options.get("cache"):
                raise RuntimeError("cannot cache function 'doubled': no locator available")
            return lambda loop: loop

    monkeypatch.setattr(module, "numba", ReadOnly)
    assert compiled(doubled)(np.ones(2)).tolist() == [2, 2]
    assert calls == [{"nogil": True, "cache": True}, {"nogil": True}]


@pytest.mark.usefixtures("without_numba")
def test_without_the_package_nothing_can_be_compiled() -> None:
    assert not can_compile()


def test_a_package_that_does_not_fit_numpy_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(f"{name} needs NumPy 2.4 or less")

    monkeypatch.setattr(module.importlib, "import_module", refuse)
    assert module.numba.__wrapped__() is None
