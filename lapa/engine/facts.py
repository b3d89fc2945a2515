"""What a run was: model, configuration, code, data and machine, for ``run.json`` and the trackers."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lapa
from lapa import distributed
from lapa.config import Config, config_to_dict
from lapa.data.store import FrameStore
from lapa.systems.latent_action.model import LatentActionModel


def run_facts(config: Config, model: LatentActionModel, store: FrameStore, device: torch.device) -> dict[str, Any]:
    """All that is needed to know, later, what was trained; plain values."""
    return {
        "lapa": lapa.__version__,
        "git": git_revision(Path(lapa.__file__).parent),
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "data": {
            "fingerprint": store.header.get("fingerprint"),
            "episodes": len(store.episodes),
            "frames": len(store),
            "frame_size": list(store.frame_size),
        },
        "model": {
            "parameters": count_parameters(model),
            "grid": list(model.code_grid),
            "bits": model.bits,
            "parts": model_summary(model),
        },
        "config": config_to_dict(config),
    }


def git_revision(folder: Path) -> str | None:
    """The commit that a folder of a checkout is at, with ``-dirty`` where files differ; None outside of one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def model_summary(model: LatentActionModel) -> dict[str, dict[str, Any]]:
    """Class and number of trainable parameters of each part of a model, the decoder's parts by themselves."""
    parts = {
        **{name: part for name, part in model.named_children() if name != "decoder"},
        **{f"decoder.{name}": part for name, part in model.decoder.named_children()},
    }
    return {
        name: {"class": type(part).__name__, "parameters": count_parameters(part)}
        for name, part in parts.items()
        if part is not None
    }


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
