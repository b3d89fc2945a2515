"""What a tracker is."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lapa.errors import ConfigError


class Tracker(ABC):
    """Takes what a run has to tell."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes numbers by name."""

    @abstractmethod
    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        """Takes how often each of K things was seen, (K,) int64."""

    @abstractmethod
    def image(self, step: int, name: str, path: Path) -> None:
        """Takes a PNG file that has just been written."""

    @abstractmethod
    def close(self) -> None:
        """Writes what is left."""


def imported(module: str, extra: str, option: str) -> Any:
    """A module that an extra of the package installs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"{option}: needs the package '{module}'; install it with `pip install lapa[{extra}]`"
        ) from None


def first_line(error: Exception) -> str:
    """The start of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
