"""Checkpoints: plain tensors and containers, written whole or not at all, read without unpickling code.

A checkpoint is a dict with ``kind``, ``version``, ``config`` (plain), ``format`` (what the model sees of a frame),
``facts`` (what else was measured on the recordings), ``model`` (weights), ``step``, ``metrics``, ``split`` (episode
names) and, where training can go on from it, ``training`` (the state of all else).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lapa import registry
from lapa.config import Config, config_from_dict, config_to_dict
from lapa.contracts import Facts, System
from lapa.data.files import atomic_file
from lapa.data.frames import FrameFormat
from lapa.device import pick_device
from lapa.errors import CheckpointError, ConfigError
from lapa.shipped import checkpoint_path

VERSION = 1
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
)
"""All that torch raises when it loads a file that is cut, or something else altogether."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained model with what is needed to use and to judge it.

    Attributes:
        model: in eval mode, on the device asked for.
        config: the run's configuration.
        split: episode names by split, as the run dealt them.
        step: optimizer steps taken.
        metrics: the validation metrics at that step.
        digest: first 16 hexadecimal digits of the file's SHA-256.
        path: where it was read.
    """

    model: System
    config: Config
    split: dict[str, list[str]]
    step: int
    metrics: dict[str, float]
    digest: str
    path: Path


def save_checkpoint(
    path: Path,
    model: System,
    config: Config,
    *,
    split: dict[str, list[str]],
    step: int,
    metrics: dict[str, float],
    training: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint atomically. Without ``training`` it is small, and training cannot go on from it."""
    state = {
        "kind": kind_of(config.system),
        "version": VERSION,
        "config": config_to_dict(config),
        "format": model.facts.format.to_dict(),
        "facts": {name: value for name, value in vars(model.facts).items() if name != "format"},
        "model": model.state_dict(),
        "split": split,
        "step": step,
        "metrics": metrics,
    }
    if training is not None:
        state["training"] = training
    with atomic_file(path) as file:
        torch.save(state, file)


def kind_of(system: str) -> str:
    """What marks the checkpoints of a system."""
    return f"lapa.{system}_model"


def is_kind(mark: object) -> bool:
    """Whether something is a mark of :func:`kind_of`."""
    return isinstance(mark, str) and mark.startswith("lapa.") and mark.endswith("_model")


def load_checkpoint(path: str | os.PathLike[str], device: str | torch.device = "auto") -> Checkpoint:
    """Reads a checkpoint written by :func:`save_checkpoint`.

    Args:
        path: a file, or the name of a model that comes with lapa (:func:`lapa.models`), such as ``"breakout"``. A
            file or folder of that name in the working directory is ``"./breakout"``.
        device: where to put the model.

    Raises:
        CheckpointError: no such model or file, not a checkpoint, of another project or version, or its plugins are
            missing.
    """
    path = checkpoint_path(path)
    target = pick_device(device) if isinstance(device, str) else device
    state = read_state(path)
    try:
        config = config_from_dict(state["config"])
        facts = Facts(FrameFormat(**state["format"]), **state.get("facts", {}))
        model = registry.systems.get(config.system)(config.model, facts)
        model.load_state_dict(state["model"])
        step = int(state["step"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration does not fit this installation: {error}") from None
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: is damaged or of another version of lapa ({reason}); train again") from None
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    model.to(target).to(memory_format=layout)  # type: ignore[call-overload]
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        config=config,
        split=state.get("split", {}),
        step=step,
        metrics=state.get("metrics", {}),
        digest=file_digest(path),
        path=path,
    )


def load_model(path: str | os.PathLike[str], device: str | torch.device = "auto") -> System:
    """The trained model alone, in eval mode and without gradients.

    Args:
        path: a file, or the name of a model that comes with lapa, as in :func:`load_checkpoint`.
        device: where to put the model.

    Raises:
        CheckpointError: as :func:`load_checkpoint`.
    """
    return load_checkpoint(path, device).model


def file_digest(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def step_path(out: Path, step: int) -> Path:
    """Where a run keeps the checkpoint that training can go on from after this step."""
    return out / f"step_{step}.pt"


def step_checkpoints(out: Path) -> list[Path]:
    """The run's checkpoints that training can go on from, the newest last."""
    found = [path for path in out.glob("step_*.pt") if path.stem.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("step_")))


def newest_state(out: Path, notify: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that training can go on from, with its file; None where the run has none.

    Args:
        out: the run's folder.
        notify: told of each newer one that cannot be read.

    Raises:
        CheckpointError: there are some, but none can be read.
    """
    paths = step_checkpoints(out)
    for path in reversed(paths):
        try:
            state = read_state(path)
        except CheckpointError as error:
            notify(f"{error}; falling back to the one before")
            continue
        if "training" in state:
            return path, state
    if paths:
        raise CheckpointError(f"{out}: none of its {len(paths)} checkpoints can be read; start anew with --overwrite")
    return None


def prune(out: Path, keep_last: int) -> None:
    """Deletes all but the newest checkpoints that training can go on from; ``best.pt`` stays."""
    for path in step_checkpoints(out)[:-keep_last]:
        path.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """A checkpoint's content as it was written, tensors on the CPU.

    Raises:
        CheckpointError: no such file, not a checkpoint, or of another project or version.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickles of strangers, which are refused right below
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:  # torch does not look at the checksums
                    raise ValueError("wrong checksum")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train one with `lapa train`") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder; name the file in it, such as {path / 'best.pt'}") from None
    except PermissionError:
        raise
    except UNREADABLE:
        raise CheckpointError(f"{path}: not a checkpoint, or a cut one; train again or name another file") from None
    if not isinstance(state, dict) or not is_kind(state.get("kind")):
        raise CheckpointError(f"{path}: not a checkpoint of lapa; name one written by `lapa train`")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: has checkpoint version {state.get('version')}, this lapa reads {VERSION}; "
            "install the lapa that wrote it, or train again"
        )
    return state


def check_format(checkpoint: Checkpoint, frame_size: tuple[int, int]) -> FrameFormat:
    """The checkpoint's frame format for recorded frames of this size.

    Raises:
        CheckpointError: it was trained on frames of another size, and does not resize them.
    """
    seen = checkpoint.model.format
    if seen.resize is not None:
        return seen.of_size(frame_size)
    if (seen.height, seen.width) != frame_size:
        raise CheckpointError(
            f"{checkpoint.path}: was trained on frames of {seen.height} x {seen.width}, "
            f"these are {frame_size[0]} x {frame_size[1]}; train on this recording, or name another checkpoint"
        )
    return seen
