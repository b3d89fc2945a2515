"""``lapa doctor`` and ``lapa plugins``."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from typing import Any

from lapa.commands.options import Subparsers, command
from lapa.errors import RegistryError


def add_plugins(subparsers: Subparsers) -> None:
    """``lapa plugins``."""
    parser = command(
        subparsers,
        "plugins",
        run_plugins,
        "List all systems and plugins, or explain the options of one.",
        example="lapa plugins ema",
    )
    parser.add_argument("name", nargs="?", help="system or plugin to explain")


def run_plugins(arguments: argparse.Namespace) -> None:
    """Prints one line for each system and plugin, or one of them in full."""
    from lapa.plugins import describe, list_plugins

    print(describe(arguments.name) if arguments.name else list_plugins())


def add_doctor(subparsers: Subparsers) -> None:
    """``lapa doctor``."""
    command(
        subparsers,
        "doctor",
        run_doctor,
        "Print installed versions, the device, presets, plugins, models and default folders.",
        example="lapa doctor",
    )


def run_doctor(arguments: argparse.Namespace) -> None:
    """Prints versions, device, plugins, models and paths."""
    import platform

    import torch

    import lapa
    from lapa.compiled import can_compile
    from lapa.config import Config
    from lapa.data.packing import STORE_FOLDER
    from lapa.device import has_fast_bf16, pick_device
    from lapa.plugins import ROLES
    from lapa.presets import presets_by_system

    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"lapa         {lapa.__version__} at {Path(lapa.__file__).parent}")
    print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in (
        "torch",
        "gymnasium",
        "ale-py",
        "numpy",
        "numba",
        "pillow",
        "omegaconf",
        "zstandard",
        "opencv-python-headless",
        "vector-quantize-pytorch",
        "wandb",
        "tensorboard",
    ):
        print(f"{package:<12} {installed_version(package)}")
    bf16 = "bf16 in hardware" if has_fast_bf16(device) else "bf16 is only emulated, so fp32 is used"
    print(f"device       {device} ({name}), {bf16}")
    if not can_compile():
        print("loops        BROKEN, numba cannot be imported: labels take two to three times as long")
    for system, names in presets_by_system().items():
        print(f"presets      {system}: {', '.join(names)}")
    for members in ROLES:
        for plugin in members.names():
            print(f"{members.role:<12} {plugin}: {plugin_state(members, plugin)}")
    for line in models_in_words():
        print(f"models       {line}")
    defaults = Config()
    print(f"data         {Path(defaults.data.root).absolute()} (packed: {Path(defaults.data.root) / STORE_FOLDER})")
    print(f"checkpoints  {Path(defaults.training.out).absolute()}")


def models_in_words() -> list[str]:
    """A line for each distribution that brings models: their names, or why they cannot be used."""
    from lapa.shipped import collections

    return [
        f"BROKEN, from {each.owner}: {each.reason}" if each.reason else f"{', '.join(each.names())}, from {each.owner}"
        for each in collections()
    ]


def installed_version(package: str) -> str:
    """A package's version, or that it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def plugin_state(members: Any, name: str) -> str:
    """Where a system or plugin comes from, or why it cannot be used."""
    try:
        members.get(name)
        return f"ok, from {members.owner(name)}"
    except RegistryError as error:
        return f"BROKEN: {error}"
