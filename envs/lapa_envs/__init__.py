"""The Gymnasium side of ``lapa``: the labelling wrapper, the recorder, the scripted player, environment ids."""

from __future__ import annotations

from typing import Any

__all__ = ["LatentActionWrapper", "make_env"]

_HOMES = {"LatentActionWrapper": "lapa_envs.labelling", "make_env": "lapa_envs.atari"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lapa_envs' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
