"""Trained models that are installed with lapa, or with another distribution, and are loaded by name.

A distribution names, in the entry-point group ``lapa.models``, a function that gives a folder. Each ``<name>.pt`` in it
that has a ``<name>.json`` beside it is a model; ``<name>_reader.npz`` is its code reader, if it has one.
:func:`lapa.evaluation.shipping.ship` writes all three.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from lapa.errors import CheckpointError

GROUP = "lapa.models"
NAME = re.compile(r"[A-Za-z0-9_-]+")
READER_SUFFIX = "_reader.npz"


@dataclasses.dataclass(frozen=True)
class ShippedModel:
    """A model that is loaded by its name.

    Attributes:
        name: what ``load_model``, ``--checkpoint`` and the wrappers take.
        path: the checkpoint file.
        title: what it was trained on, in one line.
        preset: the configuration that it was trained with.
        commands: what records its training data and trains it, in order.
        machine: where it was trained.
        steps: optimizer steps taken.
        bytes: size of the file.
        digest: first 16 hexadecimal digits of the file's SHA-256.
        judged: what the figures were measured on: ``data`` (fingerprint of the recording), ``split``, ``episodes``.
        figures: ``group/name`` -> figure, the metrics of ``lapa evaluate``.
        reader: file that reads actions and events from its codes, or None.
        owner: the distribution that brings it.
    """

    name: str
    path: Path
    title: str
    preset: str
    commands: tuple[str, ...]
    machine: str
    steps: int
    bytes: int
    digest: str
    judged: dict[str, Any]
    figures: dict[str, float]
    reader: Path | None
    owner: str

    def to_json(self) -> dict[str, Any]:
        """As plain values for JSON."""
        values = dataclasses.asdict(self)
        reader = str(self.reader) if self.reader else None
        return values | {"path": str(self.path), "reader": reader, "commands": list(self.commands)}


@dataclasses.dataclass(frozen=True)
class Collection:
    """The models of one distribution.

    Attributes:
        owner: the distribution.
        folder: where they lie; None if it cannot be told.
        reason: why not; empty if it can.
    """

    owner: str
    folder: Path | None
    reason: str = ""

    def names(self) -> list[str]:
        """Names of its models, sorted."""
        if self.folder is None:
            return []
        return sorted(path.stem for path in self.folder.glob("*.json") if path.with_suffix(".pt").exists())


def models() -> list[ShippedModel]:
    """All models that can be loaded by name, sorted by name.

    Raises:
        CheckpointError: a name is claimed by two distributions, or what is known of a model cannot be read.

    Example:
        >>> import lapa
        >>> "breakout" in [model.name for model in lapa.models()]
        True
    """
    return [model_named(name) for name in model_names()]


def model_names() -> list[str]:
    """Names of all models, sorted."""
    return sorted({name for collection in collections() for name in collection.names()})


def model_named(name: str) -> ShippedModel:
    """What is known of a model.

    Raises:
        CheckpointError: there is none of that name, two distributions claim it, or its facts cannot be read.
    """
    collection = _collection_of(name)
    if collection is None:
        raise CheckpointError(f"{_unknown(name)}; `lapa models` lists them")
    assert collection.folder is not None
    path, reader = collection.folder / f"{name}.pt", collection.folder / f"{name}{READER_SUFFIX}"
    card = collection.folder / f"{name}.json"
    try:
        facts = json.loads(card.read_text())
        return ShippedModel(
            name=name,
            path=path,
            bytes=path.stat().st_size,
            reader=reader if reader.exists() else None,
            owner=collection.owner,
            **facts | {"commands": tuple(facts["commands"])},
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{card}: cannot be used ({reason}); install {collection.owner} again") from None


def model_with(digest: str) -> ShippedModel | None:
    """The model whose file has this digest, wherever the file was read; None if it is none of them."""
    for name in model_names():
        try:
            model = model_named(name)
        except CheckpointError:  # its facts are needed for nothing else here
            continue
        if model.digest == digest:
            return model
    return None


def is_name(checkpoint: object) -> bool:
    """Whether this names a model and no file: a string without a path separator and without a suffix."""
    return isinstance(checkpoint, str) and NAME.fullmatch(checkpoint) is not None


def checkpoint_path(checkpoint: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint that is given by the name of a model, or by its path.

    A string without a path separator and without a suffix that is the name of a model means that model, also where the
    working directory has a file or folder of that name: write ``./breakout``, or pass a ``Path``, for the file.

    Raises:
        CheckpointError: it can only be a name, and there is no such model.
    """
    if not isinstance(checkpoint, str) or not is_name(checkpoint):
        return Path(checkpoint)
    if collection := _collection_of(checkpoint):
        assert collection.folder is not None
        return collection.folder / f"{checkpoint}.pt"
    if not Path(checkpoint).exists():
        raise CheckpointError(f"{_unknown(checkpoint)}; name one, or a file such as checkpoints/{checkpoint}/best.pt")
    return Path(checkpoint)


def checkpoint_text(checkpoint: str | os.PathLike[str]) -> str:
    """A checkpoint's name or path as a string that means the same to :func:`checkpoint_path`."""
    text = os.fspath(checkpoint)
    return f".{os.sep}{text}" if is_name(text) and not isinstance(checkpoint, str) else text


def collections() -> list[Collection]:
    """The models of each distribution, in the order of the owners' names; broken ones too."""
    points = {(point.value, point.dist.name if point.dist else point.value): point for point in _entry_points()}
    return [_collection(points[value, owner], owner) for value, owner in sorted(points, key=lambda key: key[::-1])]


def _entry_points() -> metadata.EntryPoints:
    return metadata.entry_points(group=GROUP)


def _collection(point: metadata.EntryPoint, owner: str) -> Collection:
    try:
        return Collection(owner, Path(point.load()()))
    except Exception as error:  # a stranger's module can raise anything
        return Collection(owner, None, f"{point.value}: {type(error).__name__}: {' '.join(str(error).split())}")


def _collection_of(name: str) -> Collection | None:
    having = [collection for collection in collections() if name in collection.names()]
    if len(having) > 1:
        owners = " and ".join(collection.owner for collection in having)
        raise CheckpointError(f"model '{name}' is claimed by both {owners}; uninstall one, or name the file")
    return having[0] if having else None


def _unknown(name: str) -> str:
    """That there is no such model, with what is there."""
    known = model_names()
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    broken = "".join(f"; those of {c.owner} cannot be loaded: {c.reason}" for c in collections() if c.reason)
    return f"{name}: no such model{hint} and no such file; known models: {', '.join(known) or 'none'}{broken}"
