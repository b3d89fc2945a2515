"""The small model that comes with the package; ``checkpoints/README.md`` says how it was trained and how good it is."""

from __future__ import annotations

from pathlib import Path


def default_checkpoint() -> Path:
    """File of the Breakout model of preset ``laptop``."""
    return Path(__file__).with_name("breakout_laptop.pt")


def default_reader() -> Path:
    """File of what reads actions and events from its codes."""
    return Path(__file__).with_name("breakout_laptop_reader.npz")
