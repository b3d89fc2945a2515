"""Which device and which precision a run uses."""

from __future__ import annotations

import contextlib

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
        raise ConfigError(f"training.device: '{name}' cannot be used here ({reason}); take 'auto' or 'cpu'") from None
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
    """The autocast context for ``auto``, ``fp32`` or ``bf16``."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def set_cpu_arithmetic() -> None:
    """Treats denormal floats as zero: they say nothing here, and cost a hundredfold on CPUs."""
    torch.set_flush_denormal(True)
