"""Training a grid of configurations, each in a folder of its own, to be compared."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from lapa.config import Config, load_config
from lapa.data.store import FrameStore
from lapa.engine.training import train
from lapa.errors import ConfigError, LapaError, TrainingInterrupted, UsageError
from lapa.progress import notify as print_line


@dataclasses.dataclass(frozen=True)
class Cell:
    """One configuration of a grid.

    Attributes:
        name: of its folder, such as ``quantizer-vq_conditioner-film``.
        overrides: ``dotted.key=value``.
    """

    name: str
    overrides: tuple[str, ...]


def cells(axes: Sequence[str]) -> list[Cell]:
    """The grid of all combinations.

    Args:
        axes: ``dotted.key=value,value,...`` each; a comma inside of brackets belongs to its value. A key with one value
            is set in all cells and left out of their names.

    Raises:
        UsageError: an axis is not of that form, or is there twice.
    """
    values: dict[str, list[str]] = {}
    for axis in axes:
        key, equals, text = axis.partition("=")
        choices = re.split(r",(?![^\[\](){}]*[\])}])", text)
        if not (key and equals) or not all(choices):
            raise UsageError(f"sweep '{axis}' is not of the form dotted.key=value,value")
        if key in values:
            raise UsageError(f"sweep: {key} is given twice; give all its values at once, as {key}=VALUE,VALUE")
        values[key] = list(dict.fromkeys(choices))
    grid = []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        parts = [_part(key, value) for key, value in chosen.items() if len(values[key]) > 1]
        grid.append(Cell("_".join(parts) or "only", tuple(f"{key}={value}" for key, value in chosen.items())))
    return grid


def _part(key: str, value: str) -> str:
    *_, section, last = ["", *key.split(".")]
    return f"{section if last == 'name' and section else last}-" + re.sub(r"[^\w.+-]+", "-", value).strip("-")


def train_cells(
    grid: Sequence[Cell],
    store: FrameStore,
    out: Path,
    *,
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    notify: Callable[[str], None] = print_line,
) -> tuple[list[Path], dict[str, str]]:
    """Trains each cell in ``out/<name>``; resumes those that were begun and skips those that are done.

    A cell that fails is noted, and the others are trained.

    Args:
        grid: what to train.
        store: the recording.
        out: folder to write to.
        preset: what the cells differ from; as in :func:`lapa.config.load_config`.
        file: likewise.
        overrides: likewise; the cells' own come after.
        notify: told in one line each what is trained and what failed.

    Returns:
        The folders of the cells that are trained, and why the others are not, by name.

    Raises:
        ConfigError: no cell can be configured.
        TrainingInterrupted: on SIGINT or SIGTERM; the same call resumes.
    """
    configs: dict[str, Config] = {}
    failed: dict[str, str] = {}
    for cell in grid:
        try:
            configs[cell.name] = load_config(
                preset, file, [*overrides, *cell.overrides, f"training.out={out / cell.name}"]
            )
        except LapaError as error:
            failed[cell.name] = str(error)
            notify(f"{cell.name} cannot be trained: {error}")
    if not configs:
        raise ConfigError(f"no cell of the sweep can be trained: {next(iter(failed.values()))}")
    for number, (name, config) in enumerate(configs.items(), 1):
        notify(f"cell {number} of {len(configs)}: {name}")
        try:
            train(config, store, notify, existing="resume")
        except TrainingInterrupted:
            raise
        except Exception as error:  # whatever a stranger's plugin raises, the other cells go on
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            notify(f"{name} failed: {failed[name]}")
    return [out / name for name in configs if name not in failed], failed
