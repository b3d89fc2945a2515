"""The Gymnasium side of ``lapa``: wrappers for labels and tokens, the recorder, starts, players, environment ids."""

from __future__ import annotations

from typing import Any

from lapa_envs.ids import register

__all__ = [
    "GiveBackLives",
    "LatentActionVectorWrapper",
    "LatentActionWrapper",
    "RecordEpisodes",
    "StartAt",
    "TokenObservation",
    "TokenVectorObservation",
    "make_env",
]

_HOMES = {
    "GiveBackLives": "lapa_envs.starts",
    "LatentActionVectorWrapper": "lapa_envs.vector",
    "LatentActionWrapper": "lapa_envs.labelling",
    "RecordEpisodes": "lapa_envs.recording",
    "StartAt": "lapa_envs.starts",
    "TokenObservation": "lapa_envs.tokens",
    "TokenVectorObservation": "lapa_envs.tokens",
    "make_env": "lapa_envs.atari",
}

register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lapa_envs' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
