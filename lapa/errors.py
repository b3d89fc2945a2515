"""The errors a user can meet. Each message is one line: what was wrong, where, and what to do."""

from __future__ import annotations


class LapaError(Exception):
    """Base of every error that the command line reports without a traceback."""


class UsageError(LapaError, ValueError):
    """A command was called with arguments that it cannot use."""


class ConfigError(LapaError, ValueError):
    """A configuration names an unknown key, a wrong type or an impossible value."""


class DataError(LapaError, ValueError):
    """Recorded frames, or the truth beside them, cannot be used as they are."""


class CheckpointError(LapaError, ValueError):
    """A checkpoint is missing, damaged, or made for something else."""


class TrainingError(LapaError, RuntimeError):
    """Training cannot go on."""


class TrainingInterrupted(LapaError):
    """A signal asked the training to leave; it has saved itself.

    Attributes:
        signal: its number.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class RegistryError(LapaError, LookupError):
    """A plugin name is unknown, taken twice, or names something unusable."""
