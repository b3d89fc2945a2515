"""One section of a configuration and one dataclass: merged, checked, built, put into words."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lapa import registry
from lapa.contracts import Encoder
from lapa.errors import ConfigError

BOOLEAN_WORDS = ("on", "off", "yes", "no")
"""Booleans to YAML. As overrides they stay words, which switches and settings such as ``tracking.wandb`` both take."""


def build(members: registry.Registry[Any], section: dict[str, Any], **facts: Any) -> Any:
    """The plugin that a section names, made with its options and with facts such as ``latent_dim``.

    Raises:
        ConfigError: as :func:`plugin_config`, or the options do not fit the facts.
        RegistryError: as :func:`plugin_config`.
    """
    options = plugin_config(members, section)
    try:
        return members.get(section["name"])(options, **facts)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        names = {field.name for field in dataclasses.fields(options)}
        dot = "." if str(error).partition(":")[0] in names else ": "
        raise ConfigError(f"model.{members.role}{dot}{error}") from None


def build_encoder(section: dict[str, Any], *, frames: int, **facts: Any) -> Encoder:
    """The encoder that a section names, for so many frames; see :class:`lapa.contracts.Encoder`.

    Raises:
        ConfigError: it takes two frames and others are wanted, or as :func:`plugin_config`.
        RegistryError: as :func:`plugin_config`.
    """
    # One that is made for pairs knows no ``frames``.
    facts |= {} if frames == 2 else {"frames": frames}
    takes = inspect.signature(registry.encoders.get(section["name"])).parameters
    if frames != 2 and "frames" not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        raise ConfigError(
            f"model.encoder.name: '{section['name']}' sees two frames, and {frames} are wanted; take another, or give "
            "its __init__ an argument frames"
        )
    encoder: Encoder = build(registry.encoders, section, **facts)
    return encoder


def plugin_config(members: registry.Registry[Any], section: dict[str, Any]) -> Any:
    """The plugin's own ``Config`` from its section, checked by the class that the section names.

    Raises:
        ConfigError: an option the class does not have, or a wrong type.
        RegistryError: the name is unknown or unusable.
    """
    options = {key: value for key, value in section.items() if key != "name"}
    declared = members.get(section["name"]).Config
    known = ["name", *(field.name for field in dataclasses.fields(declared))]
    schema = OmegaConf.structured(declared)
    path = f"model.{members.role}"
    for key, value in options.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean: '{close[0]}'?" if close else ""
            raise ConfigError(f"{path}.{key}: '{section['name']}' has no such option.{hint} It has: {', '.join(known)}")
        schema = merge(schema, OmegaConf.create({key: value}), where=f"{path}.", at=key)
    try:
        return to_object(schema, "")
    except ConfigError as error:  # of one option, which it names, or of several together
        dot = "." if str(error).partition(":")[0] in known else ": "
        raise ConfigError(f"{path}{dot}{error}") from None


def merge(base: DictConfig, changes: Any, *, where: str = "", at: str = "") -> DictConfig:
    """Merges changes; an error names where they come from and the dotted key."""
    try:
        merged = OmegaConf.merge(base, changes)
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None) or at
        message = first_line(error)
        if "$VALUE" in message:  # OmegaConf's own placeholders, when an element of a list has the wrong type
            message = f"{OmegaConf.select(changes, at)} has an element of the wrong type"
        raise ConfigError(f"{where}{key}: {message}") from None
    assert isinstance(merged, DictConfig)
    return merged


def to_object(config: DictConfig, where: str) -> Any:
    """The dataclass that a merged section was made from, checked by its own ``__post_init__``.

    Raises:
        ConfigError: a value is missing, or cannot be; ``where`` stands before the key.
    """
    for key in map(str, config):  # sections within first, so that an error can name them
        try:
            within = config[key]
        except OmegaConfBaseException as error:  # what it refers to is not there
            raise ConfigError(f"{where}{key}: {first_line(error)}") from None
        if isinstance(within, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(within)):
            to_object(within, f"{where}{key}.")
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}{getattr(error, 'key', '') or ''}: {first_line(error)}") from None
    except ValueError as error:  # raised by the dataclass's own checks
        raise ConfigError(f"{where}{error}") from None


def read_yaml(path: Any) -> DictConfig:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, or it is no mapping.
    """
    try:
        plain = yaml.safe_load(path.read_text()) or {}
        values = OmegaConf.create(path.read_text()) if isinstance(plain, dict) else None
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, DictConfig):
        raise ConfigError(f"{path}: a configuration is a mapping such as 'training: {{steps: 100}}'")
    return values


def require(holds: bool, key: str, what: str) -> None:
    """For the checks of a section's ``__post_init__``.

    Raises:
        ValueError: what must hold does not; the message begins with the key.
    """
    if not holds:
        raise ValueError(f"{key}: {what}")


def meanings(options: type[Any]) -> dict[str, str]:
    """What the docstring of a dataclass of options, and those of its bases, say about each field, by its name.

    A docstring either has a section ``Attributes:`` or begins with ````name``: meaning``.
    """
    found: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        found |= dict(_documented(cls.__dict__.get("__doc__") or ""))
    return found


def _documented(docstring: str) -> Iterator[tuple[str, str]]:
    text = inspect.cleandoc(docstring).replace("``", "`")
    if alone := re.match(r"`(\w+)`: (.*)", text, re.DOTALL):
        yield alone[1], " ".join(alone[2].split()).rstrip(".")
        return
    _, _, section = text.partition("Attributes:\n")
    for name, meaning in re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section, re.MULTILINE):
        yield name, " ".join(meaning.split()).rstrip(".")


def as_text(value: Any) -> str:
    """A value as it is written behind ``dotted.key=``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (tuple, list)):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, str) and not _is_plain(value):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _is_plain(text: str) -> bool:
    """Whether YAML reads a text as itself; the words ``on``, ``off``, ``yes`` and ``no`` are read so too."""
    if text.lower() in BOOLEAN_WORDS:
        return True
    try:
        return bool(yaml.safe_load(text) == text)
    except YAMLError:
        return False


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).splitlines()[0]
