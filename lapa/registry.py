"""Names for the parts that can be swapped: one registry per role, filled by entry points.

The built-in plugins come through the same entry points as everybody else's (see ``setup.cfg``), so this
file knows none of them. Package metadata is read on the first look-up; a plugin's module is imported only
when its name is asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
from importlib import metadata
from typing import Generic, TypeVar

from lapa.contracts import Conditioner, Decoder, Encoder, FrameDecoder, Quantizer, System
from lapa.errors import RegistryError

Member = TypeVar("Member")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered name: a class, or the ``"module:Class"`` that leads to it, and who brought it."""

    target: type | str
    owner: str


def public_name(cls: type) -> str:
    """Where others import a class from: its module, or the package about it if that has the class too."""
    package = cls.__module__.rpartition(".")[0]
    whole = getattr(sys.modules.get(package), cls.__name__, None) is cls
    return f"{package if whole else cls.__module__}.{cls.__name__}"


class Registry(Generic[Member]):
    """Maps names to the classes of one role.

    Args:
        role: singular noun, such as ``"quantizer"``; third parties use the entry-point group ``lapa.<role>s``.
        contract: the base class that each member must derive from.
        sections: names of the dataclasses of options that each member must carry.
    """

    def __init__(self, role: str, contract: type[Member], sections: tuple[str, ...] = ("Config",)) -> None:
        self.role = role
        self.contract = contract
        self.sections = sections
        self._entries: dict[str, list[Entry]] = {}
        self._discovered = False

    @property
    def group(self) -> str:
        """The entry-point group that this registry reads."""
        return f"lapa.{self.role}s"

    def register(self, name: str, target: type[Member] | str, *, owner: str | None = None) -> None:
        """Adds a class, or a lazy ``"module:Class"``, under a name.

        Raises:
            RegistryError: another owner holds the name already.
        """
        self._discover()
        if owner is None:
            owner = target.partition(":")[0] if isinstance(target, str) else target.__module__
        taken = self._entries.get(name, [])
        if any(entry.owner != owner for entry in taken):
            raise RegistryError(
                f"{self.role} '{name}' of {owner} is taken already by {taken[0].owner}; choose another name"
            )
        self._entries[name] = [Entry(target, owner)]

    def forget(self, name: str) -> None:
        """Takes a registered class back, as a test does after itself."""
        self._entries.pop(name, None)

    def names(self) -> list[str]:
        """All known names, sorted. Imports no plugin."""
        self._discover()
        return sorted(self._entries)

    def owner(self, name: str) -> str:
        """The distribution or module that registered a name.

        Raises:
            RegistryError: the name is unknown, or claimed by two owners.
        """
        return self._entry(name).owner

    def get(self, name: str) -> type[Member]:
        """The class registered under a name, imported if need be.

        Raises:
            RegistryError: the name is unknown, claimed by two owners, cannot be imported, or names
                something that does not meet the contract.
        """
        entry = self._entry(name)
        cls = self._resolve(name, entry)
        if not (isinstance(cls, type) and issubclass(cls, self.contract)):
            raise RegistryError(
                f"{self.role} '{name}' of {entry.owner} does not derive from {public_name(self.contract)}"
            )
        for section in self.sections:
            options = getattr(cls, section, None)
            if not (isinstance(options, type) and dataclasses.is_dataclass(options)):
                raise RegistryError(f"{self.role} '{name}' of {entry.owner} lacks a dataclass named {section}")
        return cls

    def _entry(self, name: str) -> Entry:
        self._discover()
        found = self._entries.get(name)
        if not found:
            close = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise RegistryError(
                f"unknown {self.role} '{name}'{hint}; known: {', '.join(self.names())}; "
                f"add one with an entry point in group '{self.group}', or --plugin MODULE"
            )
        if len(found) > 1:
            owners = " and ".join(entry.owner for entry in found)
            raise RegistryError(f"{self.role} '{name}' is claimed by both {owners}; uninstall or rename one")
        return found[0]

    def _resolve(self, name: str, entry: Entry) -> object:
        if not isinstance(entry.target, str):
            return entry.target
        module, _, attribute = entry.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a stranger's module raises, the message must name the stranger
            raise RegistryError(
                f"{self.role} '{name}' of {entry.owner} cannot be loaded from {entry.target}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for point in metadata.entry_points(group=self.group):
            owner = point.dist.name if point.dist else point.value
            entry = Entry(point.value, f"distribution '{owner}'")
            claims = self._entries.setdefault(point.name, [])
            if entry not in claims:  # the same distribution can be on sys.path twice
                claims.append(entry)


encoders: Registry[Encoder] = Registry("encoder", Encoder)
quantizers: Registry[Quantizer] = Registry("quantizer", Quantizer)
conditioners: Registry[Conditioner] = Registry("conditioner", Conditioner)
decoders: Registry[Decoder] = Registry("decoder", Decoder)
frame_decoders: Registry[FrameDecoder] = Registry("frame_decoder", FrameDecoder)
systems: Registry[System] = Registry("system", System, ("Config", "Loss"))
