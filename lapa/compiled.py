"""Loops over arrays that NumPy has no word for, compiled by Numba where it is installed."""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any, TypeVar

Loop = TypeVar("Loop", bound=Callable[..., Any])


@functools.cache
def numba() -> Any:
    """The package, or None where it is missing or does not fit the NumPy that is installed."""
    try:
        return importlib.import_module("numba")
    except ImportError:
        return None


def can_compile() -> bool:
    """Whether :func:`compiled` functions may be called: as plain Python they would take minutes."""
    return numba() is not None


def compiled(loop: Loop) -> Loop:
    """Compiles a function of arrays and numbers at its first call, once for each of their types.

    It may call others of its file that are ``compiled`` too. What was compiled is kept on disk for the next process. It
    lets other threads run meanwhile, and starts none.
    """

    @functools.cache
    def made() -> Callable[..., Any]:
        found = loop.__globals__
        others = {name: found[name].made() for name in loop.__code__.co_names if hasattr(found.get(name), "made")}
        plain = types.FunctionType(loop.__code__, {**found, **others})
        try:
            return numba().njit(nogil=True, cache=True)(plain)  # type: ignore[no-any-return]
        except RuntimeError:  # there is no folder that it may be kept in
            return numba().njit(nogil=True)(plain)  # type: ignore[no-any-return]

    @functools.wraps(loop)
    def call(*arguments: Any) -> Any:
        return made()(*arguments)

    call.made = made  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
