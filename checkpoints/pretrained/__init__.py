"""The models that come with the package: ``<name>.pt``, ``<name>.json`` and ``<name>_reader.npz``.

``lapa models`` lists them; ``checkpoints/README.md`` says how one is added.
"""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """Where the models lie; the entry point of this package in the group ``lapa.models``."""
    return Path(__file__).parent


def default_checkpoint() -> Path:
    """File of the model ``breakout``."""
    return folder() / "breakout.pt"


def default_reader() -> Path:
    """File of what reads actions and events from its codes."""
    return folder() / "breakout_reader.npz"
