"""The folder of a training run: finding the run that is there, and beginning one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lapa.config import Config, config_from_dict, config_to_dict, to_yaml
from lapa.data.files import remove_unfinished, write_text
from lapa.engine.checkpoint import newest_state, step_checkpoints
from lapa.errors import CheckpointError, ConfigError

MAY_CHANGE = ("data.root", "data.store", "data.placement", "tracking", "training")
"""What a resumed run may set anew; of ``training``, see :data:`MUST_STAY`."""
MUST_STAY = ("training.seed", "training.batch_size")
RUN_FILES = ("config.yaml", "split.json", "run.json", "metrics.jsonl", "best.pt")


def find_run(out: Path, config: Config, existing: str, notify: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest state of a run in the folder if it is to be resumed, else None.

    Raises:
        CheckpointError: the run cannot be read, or was configured otherwise.
        ConfigError: there is a run, and it is neither to be resumed nor overwritten.
    """
    holds_run = bool(step_checkpoints(out)) or (out / "best.pt").exists()
    if existing == "refuse" and holds_run:
        raise ConfigError(
            f"training.out: {out} holds a run already; go on with --resume, replace it with --overwrite, "
            "or name another folder"
        )
    found = newest_state(out, notify) if existing == "resume" else None
    if existing == "resume" and found is None:
        notify(f"no run to resume in {out}; starting one")
    if found is None:
        return None
    path, state = found
    check_same_run(path, config_to_dict(config_from_dict(state["config"])), config_to_dict(config), notify)
    notify(f"resuming from {path}")
    return state


def check_same_run(path: Path, before: dict[str, Any], now: dict[str, Any], notify: Callable[[str], None]) -> None:
    """Checks that a run's configuration is still the one it began with, where it must be.

    Raises:
        CheckpointError: it is not.
    """
    old, new = flat(before), flat(now)
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    for key in changed:
        free = any(key == prefix or key.startswith(f"{prefix}.") for prefix in MAY_CHANGE) and key not in MUST_STAY
        if not free:
            raise CheckpointError(
                f"{path}: was trained with {key}={old.get(key)}, not {new.get(key)}; a run keeps what it began with: "
                "leave the option out, or start another run in another training.out"
            )
        if key.startswith("training.") and key != "training.out":
            notify(f"{key} is now {new.get(key)}; it was {old.get(key)}")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted keys."""
    items: dict[str, Any] = {}
    for key, value in values.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return items


def prepare_folder(
    out: Path, config: Config, facts: dict[str, Any], split: dict[str, list[str]], *, overwrite: bool
) -> None:
    """Makes the run's folder and writes what is known before the first step."""
    if overwrite:
        pictures = (out / "examples").glob("step_*.png")
        for path in (*step_checkpoints(out), *pictures, *(out / name for name in RUN_FILES)):
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    remove_unfinished(out)
    write_text(out / "config.yaml", to_yaml(config))
    write_text(out / "run.json", json.dumps(facts, indent=2) + "\n")
    write_text(out / "split.json", json.dumps(split, indent=2) + "\n")
