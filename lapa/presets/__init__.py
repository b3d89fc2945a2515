"""The configurations that come with the package, one YAML file each.

A preset begins with ``system:``, the model family that it configures, or with ``base:``, another preset that it differs
from.
"""

from __future__ import annotations

from importlib import resources

from omegaconf import DictConfig

from lapa.errors import ConfigError
from lapa.sections import read_yaml


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("lapa") / "presets"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def presets_by_system() -> dict[str, list[str]]:
    """Names of the presets of each system.

    Raises:
        ConfigError: as :func:`read_preset`.
    """
    found: dict[str, list[str]] = {}
    for name in presets():
        found.setdefault(read_preset(name)[0], []).append(name)
    return found


def read_preset(name: str) -> tuple[str, list[DictConfig]]:
    """The system of a preset, and its layers: the one that it is based on first.

    Raises:
        ConfigError: there is no such preset, it is based on itself, or it names no system.
    """
    layers: list[DictConfig] = []
    seen: list[str] = []
    while name:
        if name not in presets():
            raise ConfigError(f"unknown preset '{name}'; known: {', '.join(presets())}")
        if name in seen:
            raise ConfigError(f"preset '{name}' is based on itself: {' -> '.join([*seen, name])}")
        seen.append(name)
        layers.insert(0, read_yaml(resources.files("lapa") / "presets" / f"{name}.yaml"))
        name = str(layers[0].pop("base", ""))
    if "system" not in layers[0]:
        raise ConfigError(f"preset '{seen[-1]}' names no system; begin it with 'system: NAME'")
    return str(layers[0]["system"]), layers
