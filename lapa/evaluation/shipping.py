"""Puts a trained and evaluated model where it is loaded by name: see :mod:`lapa.shipped`."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lapa.config import Config, config_to_dict, load_config
from lapa.data.files import atomic_file, write_text
from lapa.engine.checkpoint import load_checkpoint, read_state
from lapa.engine.run_folder import flat
from lapa.errors import CheckpointError, DataError, UsageError
from lapa.evaluation.report import METRICS_FILE, json_text
from lapa.inference.reading import READER_FILE, load_reader
from lapa.sections import as_text
from lapa.shipped import READER_SUFFIX, is_name

RUN_FILE = "run.json"
PLACES = ("data.root", "data.store", "data.placement", "training.out", "training.device", "training.num_workers")
"""Keys that say where a run was, not what it was: they are no part of its command. Nor are those of ``tracking``."""
DIGITS = 6
"""Significant digits of a figure."""


def ship(
    name: str,
    run: Path,
    report: Path,
    out: Path,
    *,
    title: str,
    preset: str,
    before: Sequence[str] = (),
    machine: str | None = None,
) -> Path:
    """Copies a run's best checkpoint and its code reader into a folder of models, and writes what is known of it.

    Writes ``<name>.pt``, ``<name>.json`` and, if the evaluation made one, ``<name>_reader.npz``; those of that name
    that are there already are replaced.

    Args:
        name: what it is loaded by.
        run: folder of the training run, or its checkpoint.
        report: folder that ``lapa evaluate`` wrote about that checkpoint.
        out: the folder of models.
        title: what it was trained on, in one line.
        preset: what it was trained with; how its settings differ is found out.
        before: the commands that made the recording.
        machine: where it was trained; None takes it from the run's ``run.json``.

    Returns:
        The path of the JSON file.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or has what only training needs.
        ConfigError: there is no such preset.
        DataError: the report is missing, or is about another checkpoint.
        UsageError: the name cannot be one, or nothing says where it was trained.
    """
    if not is_name(name):
        raise UsageError(f"'{name}' cannot be the name of a model; take letters, digits, '_' and '-'")
    path = run / "best.pt" if run.is_dir() else run
    if "training" in read_state(path):
        raise CheckpointError(f"{path}: has the state of training too, which nobody needs; ship the run's best.pt")
    checkpoint = load_checkpoint(path, "cpu")
    judged = read_metrics(report / METRICS_FILE, checkpoint.digest)
    reader = report / READER_FILE
    if reader.exists():
        load_reader(reader, checkpoint.digest)
    card = {
        "title": title,
        "preset": preset,
        "commands": [*before, training_command(checkpoint.config, preset)],
        "machine": machine or machine_of(path.parent / RUN_FILE),
        "steps": checkpoint.step,
        "digest": checkpoint.digest,
        "judged": {key: judged[key] for key in ("data", "split", "episodes")},
        "figures": {key: rounded(value) for key, value in sorted(judged["metrics"].items())},
    }
    copy(path, out / f"{name}.pt")
    if reader.exists():
        copy(reader, out / f"{name}{READER_SUFFIX}")
    else:  # one of an earlier model would refuse these codes
        (out / f"{name}{READER_SUFFIX}").unlink(missing_ok=True)
    write_text(out / f"{name}.json", json_text(card))
    return out / f"{name}.json"


def read_metrics(path: Path, digest: str) -> dict[str, Any]:
    """What an evaluation wrote about the checkpoint with this digest.

    Raises:
        DataError: it is missing, damaged, or about another checkpoint.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        about = found["checkpoint"]["digest"]
        found["metrics"], found["data"], found["split"], found["episodes"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `lapa evaluate` writes it") from None
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: cannot be used ({error!r}); run `lapa evaluate` again") from None
    if about != digest:
        raise DataError(f"{path}: is about checkpoint {about}, not {digest}; run `lapa evaluate` on this one")
    return found


def training_command(config: Config, preset: str) -> str:
    """The command that trains a configuration: the preset, and all settings that differ from it."""
    base, own = (flat(config_to_dict(each)) for each in (load_config(preset), config))
    differing = [
        f"{key}={as_text(value)}"
        for key, value in own.items()
        if (key not in base or base[key] != value) and key not in PLACES and not key.startswith("tracking.")
    ]
    return shlex.join(["lapa", "train", "--preset", preset, *differing])


def machine_of(path: Path) -> str:
    """Where a run was, from its ``run.json``.

    Raises:
        UsageError: it is missing or does not say.
    """
    try:
        facts = json.loads(path.read_text())
        place = f"{facts['threads']} threads of {facts['machine']}" if facts["device"] == "cpu" else facts["device"]
        return f"{place}, PyTorch {facts['torch']}"
    except (OSError, ValueError, LookupError, TypeError):
        raise UsageError(f"{path}: does not say where the run was; say it with --machine") from None


def rounded(value: float) -> float:
    """A figure with as many digits as anybody reads."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value


def copy(source: Path, target: Path) -> None:
    """Copies a file so that it appears whole or not at all, also onto itself."""
    with open(source, "rb") as file, atomic_file(target) as copied:
        shutil.copyfileobj(file, copied)
