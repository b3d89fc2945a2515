"""What there is to swap, in words: all plugins, and each one's options."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from lapa import registry
from lapa.errors import RegistryError

ROLES: tuple[registry.Registry[Any], ...] = (registry.encoders, registry.quantizers, registry.conditioners)


def list_plugins() -> str:
    """A line for each plugin: role, name, who brought it, its options or why it cannot be used."""
    rows = []
    for members in ROLES:
        for name in members.names():
            try:
                options = ", ".join(f"{key}={value}" for key, value, _ in plugin_options(members.get(name)))
                rows.append((members.role, name, members.owner(name), options or "no options"))
            except RegistryError as error:
                rows.append((members.role, name, "", f"BROKEN: {error}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    )


def describe(name: str) -> str:
    """What a plugin does, where it comes from, and its options with their defaults; of every role that has the name.

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
    yield f"model.{members.role}.name={name}"
    yield f"{cls.__module__}:{cls.__qualname__}, from {members.owner(name)}"
    yield inspect.getdoc(cls) or ""
    options = list(plugin_options(cls))
    shown = [f"model.{members.role}.{key}={value}" for key, value, _ in options]
    width = max(map(len, shown), default=0)
    yield ""
    for setting, (_, _, meaning) in zip(shown, options, strict=True):
        yield f"  {setting:<{width}}  {meaning}".rstrip()
    if not options:
        yield "  no options"


def plugin_options(cls: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Name, default and meaning of each option of a plugin's ``Config``; the meaning as its docstring gives it."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.Config.__mro__):
        meanings |= _documented(base.__dict__.get("__doc__") or "")
    default = cls.Config()
    for field in dataclasses.fields(cls.Config):
        value = getattr(default, field.name)
        text = f"[{','.join(map(str, value))}]" if isinstance(value, (tuple, list)) else str(value)
        yield field.name, text, meanings.get(field.name, "")


def _documented(docstring: str) -> dict[str, str]:
    """``name: meaning`` of an ``Attributes:`` section, or of a docstring that begins with ````name``: meaning``."""
    text = inspect.cleandoc(docstring)
    if alone := re.match(r"``(\w+)``: (.*)", text, re.DOTALL):
        return {alone[1]: " ".join(alone[2].split())}
    _, _, section = text.partition("Attributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in found}
