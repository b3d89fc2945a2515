"""All settings of a run in words: key, value, meaning and default."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from lapa import registry
from lapa.config import PLUGIN_SECTIONS, Config, config_from_dict, plugin_roles, sections
from lapa.errors import RegistryError, UsageError
from lapa.sections import as_text, meanings


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of a configuration.

    Attributes:
        key: dotted, such as ``training.steps``.
        value: as text, to be written behind ``key=``.
        default: the same without preset, file and overrides; that of a plugin's option is the plugin's own.
        meaning: what the docstring of its dataclass says.
    """

    key: str
    value: str
    default: str
    meaning: str

    def lies_in(self, section: str) -> bool:
        """Whether the key is ``section``, or stands in it."""
        return f"{self.key}.".startswith(f"{section}.")


def all_settings(config: Config) -> list[Setting]:
    """Every key of a configuration, in the order of its dataclasses."""
    return list(_settings(config, config_from_dict({"system": config.system}), ""))


def model_settings(system: str) -> list[Setting]:
    """The keys of a system's section ``model`` with their defaults; of a plugin, its name alone.

    Raises:
        RegistryError: there is no such system, or it is unusable.
    """
    options = registry.systems.get(system).Config()
    return list(_settings(options, options, "model."))


def plugin_settings(options: Any, prefix: str = "") -> list[Setting]:
    """The keys of a plugin's ``Config`` with their defaults."""
    return list(_settings(options, options, prefix))


def _settings(options: Any, defaults: Any, prefix: str) -> Iterator[Setting]:
    said = meanings(type(options))
    for field in dataclasses.fields(options):
        key, value, default = f"{prefix}{field.name}", getattr(options, field.name), getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, default, f"{key}.")
        elif isinstance(value, dict) and field.name in PLUGIN_SECTIONS:
            yield from _plugin_section(PLUGIN_SECTIONS[field.name], value, default, f"{key}.")
        else:
            yield Setting(key, as_text(value), as_text(default), said.get(field.name, ""))


def _plugin_section(
    members: registry.Registry[Any], section: dict[str, Any], default: dict[str, Any], prefix: str
) -> Iterator[Setting]:
    choices = f"one of {', '.join(members.names())}; `lapa plugins NAME` explains its options"
    yield Setting(f"{prefix}name", section["name"], default["name"], choices)
    options = members.get(section["name"]).Config()
    for setting in plugin_settings(options, prefix):
        option = setting.key.removeprefix(prefix)
        if option in section:
            yield dataclasses.replace(setting, value=as_text(section[option]))


def in_words(settings: Iterable[Setting]) -> str:
    """A line for each setting: ``key=value``, meaning, and the default where the value is another."""
    rows = [
        (f"{s.key}={s.value}", s.meaning if s.value == s.default else f"{s.meaning} [default: {s.default}]")
        for s in settings
    ]
    width = max((len(setting) for setting, _ in rows), default=0)
    return "\n".join(f"{setting:<{width}}  {meaning}".rstrip() for setting, meaning in rows)


def select(settings: Iterable[Setting], section: str) -> list[Setting]:
    """The settings of one section, such as ``training`` or ``model.quantizer``, or the one with that key.

    Raises:
        UsageError: there is no such section.
    """
    settings = list(settings)
    found = [setting for setting in settings if setting.lies_in(section)]
    if found:
        return found
    parts = [setting.key.split(".") for setting in settings]
    known = list(dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)))
    close = difflib.get_close_matches(section, known, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    tops = ", ".join(name for name in known if "." not in name)
    raise UsageError(f"unknown section '{section}'{hint}; known: {tops}")


def keys_named(name: str) -> list[str]:
    """All dotted keys that a configuration can have and whose last part, or the whole, is ``name``.

    Plugins and systems that cannot be loaded have none.
    """
    return [key for key in dict.fromkeys(_all_keys()) if name in (key, key.rpartition(".")[2])]


def _all_keys() -> Iterator[str]:
    for system in registry.systems.names():
        try:
            config = config_from_dict({"system": system})
            roles = plugin_roles(sections(system)["model"])
        except (RegistryError, ValueError):
            continue
        yield from (setting.key for setting in all_settings(config))
        for role, members in roles.items():
            for name in members.names():
                try:
                    options = members.get(name).Config
                except RegistryError:
                    continue
                yield from (f"model.{role}.{field.name}" for field in dataclasses.fields(options))
