"""What a run was: model, configuration, code, data and machine, for ``run.json`` and the trackers."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from lapa import distributed
from lapa.config import Config, config_to_dict
from lapa.contracts import System, count_parameters
from lapa.data.store import FrameStore
from lapa.version import __version__


def run_facts(config: Config, system: System, store: FrameStore, device: torch.device) -> dict[str, Any]:
    """All that is needed to know, later, what was trained; plain values."""
    return {
        "lapa": __version__,
        "git": git_revision(Path(__file__).parent),
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
            "parameters": count_parameters(system),
            **system.summary(),
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
