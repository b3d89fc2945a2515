"""Several processes as one: joining the group that ``torchrun`` starts, and what its ranks must agree on.

Outside a group every function here does what it would do in a group of one, so that callers need not ask.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as differentiable_all_reduce

from lapa.device import pick_device
from lapa.errors import ConfigError

TIMEOUT = datetime.timedelta(hours=2)
"""Long enough for the first rank to pack a large recording while the others wait."""


def rank() -> int:
    """This process's number in the group, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes the group has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of the group's processes share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


@contextlib.contextmanager
def process_group(device_name: str = "auto") -> Iterator[torch.device]:
    """Joins the group that ``torchrun`` has announced, if any, and yields this process's device.

    CUDA devices talk over NCCL, one for each process of a machine; CPUs over gloo.

    Raises:
        ConfigError: no such device, or fewer CUDA devices than processes on this machine.
    """
    device = pick_device(device_name)
    if dist.is_initialized():  # joined already, by an outer call or by the user's own code
        yield torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
        return
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if device.type == "cuda":
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"training.device: {torch.cuda.device_count()} CUDA device(s), but a process of local rank "
                f"{local_rank}; lower --nproc-per-node, or set training.device=cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Lets the main process run the body before the others do, so that they find what it has made."""
    if not is_main():
        dist.barrier()
    yield
    if is_main() and world_size() > 1:
        dist.barrier()


@torch.no_grad()
def summed(values: Tensor) -> Tensor:
    """The sum over ranks, on all of them."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


@torch.no_grad()
def broadcast(values: Tensor) -> Tensor:
    """The main process's values, on all ranks."""
    if world_size() > 1:
        dist.broadcast(values, src=0)
    return values


@torch.no_grad()
def gathered_rows(rows: Tensor) -> Tensor:
    """All ranks' rows in the order of the ranks: (N, ...) on each -> (world size * N, ...) on all."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gathered_objects(value: Any) -> list[Any]:
    """Each rank's value, in the order of the ranks, on all of them."""
    values: list[Any] = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def gathered_on_main(value: Any) -> list[Any]:
    """Each rank's value, in the order of the ranks, on the main process; an empty list on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values or []


def mean_with_gradient(values: Tensor) -> Tensor:
    """The mean over ranks, through which gradients flow to the values of all ranks."""
    if world_size() == 1:
        return values
    mean: Tensor = differentiable_all_reduce(values) / world_size()
    return mean


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Lets batch norm see the batches of all ranks, so that the group computes what one process would."""
    if world_size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GroupBatchNorm2d
    return model


class GroupBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks; :class:`torch.nn.SyncBatchNorm` does this on CUDA alone."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        x = input.float()
        mean = mean_with_gradient(x.mean((0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = mean_with_gradient(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            count = x.numel() // x.shape[1] * world_size()
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)
