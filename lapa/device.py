"""Which device and which precision a run uses."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from lapa.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """The named device; ``auto`` is CUDA where there is some, else the CPU.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device '{name}' cannot be used here ({reason}); take 'auto' or 'cpu'") from None
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic is done by hardware: emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The autocast context for ``auto``, ``fp32``, ``bf16`` or ``fp16``."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Within, float32 is computed in full, whatever autocast, ``set_float32_matmul_precision`` and TF32 flags say."""
    before = torch.get_float32_matmul_precision()
    lowered = before != "highest" or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
    if not (lowered or torch.cuda.is_initialized()):
        yield  # nothing to do, and entering what follows takes as long as labelling a row of pixels
        return
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Within, this thread computes on so many of the processor's cores; None leaves it as it is.

    OpenMP threads that wait for each other stand still for milliseconds as soon as another program wants a core.
    """
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_compiler(device: torch.device) -> None:
    """Checks that ``torch.compile`` can work.

    Raises:
        ConfigError: what it generates code with is missing.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("training.compile: needs the package triton for CUDA; install it, or leave compile off")
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("training.compile: needs a C++ compiler for the CPU; install g++, or leave compile off")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the device, or of this process where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Where there is one, this counter begins anew in a started process; the other begins at its parent's size.
    if (status := Path("/proc/self/status")).exists():
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), "")
        if line:
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def utilization(device: torch.device) -> float | None:
    """Share of the last second in which the device computed, or None where it does not tell."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except (ModuleNotFoundError, RuntimeError):  # without nvidia-ml-py, or in a container that hides it
        return None


def set_cpu_arithmetic() -> None:
    """Treats denormal floats as zero: they say nothing here, and cost a hundredfold on CPUs."""
    torch.set_flush_denormal(True)
