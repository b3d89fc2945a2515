"""Training batches on the device: from frames that stay there, from host memory, or from disk by workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lapa.contracts import Clips
from lapa.data.clips import ClipDataset, ClipSampler, RawClips
from lapa.distributed import local_world_size

SHARE_OF_MEMORY = 0.4
"""Frames may take so much of what is free; the rest is for weights, activations and the machine's other users."""


class Feed:
    """Endless batches in the sampler's order.

    Args:
        dataset: the pairs; if it keeps its frames somewhere, batches are put together there.
        sampler: which pairs each batch has.
        device: where batches are wanted.
        num_workers: processes that read ahead if frames are on disk; 0 reads when asked.

    Attributes:
        waited: seconds spent waiting for batches so far.
    """

    def __init__(self, dataset: ClipDataset, sampler: ClipSampler, device: torch.device, num_workers: int) -> None:
        self.dataset = dataset
        self.device = device
        self.waited = 0.0
        self._batches: Iterator[Any]
        if dataset.kept_on == device:
            self._batches = (dataset[index] for index in sampler)
        else:
            self._batches = iter(
                DataLoader(
                    UnpreparedBatches(dataset),
                    sampler=sampler,  # type: ignore[arg-type] # yields lists, which batch_size=None hands on as they are
                    batch_size=None,
                    num_workers=num_workers,
                    prefetch_factor=4 if num_workers else None,
                    pin_memory=device.type == "cuda",
                    generator=torch.Generator(),  # else seeding the workers would draw from the global one
                )
            )

    def __iter__(self) -> Iterator[Clips]:
        return self

    def __next__(self) -> Clips:
        started = time.perf_counter()
        batch = next(self._batches)
        if isinstance(batch, RawClips):
            batch = batch.prepared(self.device, self.dataset.format)
        else:
            batch = batch.to(self.device)
        self.waited += time.perf_counter() - started
        return batch


class UnpreparedBatches(Dataset[RawClips | Clips]):
    """The batches of a :class:`ClipDataset` for worker processes, which leave conversion to the device."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> RawClips | Clips:
        return self.dataset.read(index) if self.dataset.kept_on is None else self.dataset[index]


def place(datasets: list[ClipDataset], placement: str, device: torch.device) -> str:
    """Puts the datasets' frames where ``placement`` says; returns the place: ``device``, ``memory`` or ``disk``.

    ``auto`` takes the first of the three that has room.
    """
    needed = sum(dataset.frame_bytes for dataset in datasets)
    if placement == "auto":
        placement = "disk"
        if needed < SHARE_OF_MEMORY * host_memory() / local_world_size():
            placement = "memory"
        if device.type == "cuda" and needed < SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
            placement = "device"
    if placement != "disk":
        where = device if placement == "device" else torch.device("cpu")
        for dataset in datasets:
            dataset.keep_on(where)
    return placement


def host_memory() -> int:
    """Bytes of the host's memory that are free or can be freed; half of all of it where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
