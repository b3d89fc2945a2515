"""What can be swapped, in words: all systems and plugins, and the options of each."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from lapa import registry
from lapa.config import PLUGIN_SECTIONS
from lapa.errors import RegistryError
from lapa.presets import presets_by_system
from lapa.settings import Setting, in_words, model_settings, plugin_settings

ROLES: tuple[registry.Registry[Any], ...] = (registry.systems, *PLUGIN_SECTIONS.values())


def list_plugins() -> str:
    """A line for each system and plugin: role, name, where it comes from, its options or why it cannot be used."""
    rows = []
    for members in ROLES:
        for name in members.names():
            try:
                options = ", ".join(f"{s.key}={s.value}" for s in _options(members, name, whole=False))
                rows.append((members.role, name, members.owner(name), options or "no options"))
            except RegistryError as error:
                rows.append((members.role, name, "", f"BROKEN: {error}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    )


def describe(name: str) -> str:
    """What a system or plugin does, where it comes from, and its options; of every role that has the name.

    Raises:
        RegistryError: no role has it, or it cannot be loaded.
    """
    having = [members for members in ROLES if name in members.names()]
    if not having:
        known = sorted({other for members in ROLES for other in members.names()})
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        raise RegistryError(f"unknown plugin '{name}'{hint}; known: {', '.join(known)}")
    return "\n\n".join("\n".join(_describe(members, name)) for members in having)


def _describe(members: registry.Registry[Any], name: str) -> Iterator[str]:
    cls = members.get(name)
    yield _chosen_by(members, name)
    yield f"{cls.__module__}:{cls.__qualname__}, from {members.owner(name)}"
    text, *_ = re.split(r"\n+(?:Args|Attributes|Raises):\n", inspect.getdoc(cls) or "")
    yield text
    yield ""
    options = _options(members, name)
    for line in in_words(options).splitlines() if options else ["no options"]:
        yield f"  {line}"
    if members is registry.systems:
        yield ""
        yield f"presets: {', '.join(presets_by_system().get(name, [])) or 'none'}"
        yield f"all settings, of loss and training too: lapa config system={name}"


def _chosen_by(members: registry.Registry[Any], name: str) -> str:
    return f"system={name}" if members is registry.systems else f"model.{members.role}.name={name}"


def _options(members: registry.Registry[Any], name: str, *, whole: bool = True) -> list[Setting]:
    """A plugin's options, or a system's keys of the section ``model``; with their ``whole`` dotted keys or without."""
    if members is registry.systems:
        found, prefix = model_settings(name), "model."
    else:
        prefix = f"model.{members.role}."
        found = plugin_settings(members.get(name).Config(), prefix)
    return found if whole else [dataclasses.replace(s, key=s.key.removeprefix(prefix)) for s in found]
