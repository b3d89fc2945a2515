"""What a run is made of: model, dataset, optimizer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lapa import distributed
from lapa.config import Config, TrainingConfig
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat
from lapa.data.store import FrameStore
from lapa.errors import ConfigError, DataError
from lapa.systems.latent_action.model import LatentActionModel


def check_ranks(options: TrainingConfig) -> None:
    """Checks that a batch can be dealt to the group.

    Raises:
        ConfigError: it cannot.
    """
    parts = options.accumulate * distributed.world_size()
    if options.batch_size % parts or options.batch_size // parts < 2:
        raise ConfigError(
            f"training.batch_size: {options.batch_size} pairs cannot be cut into {parts} equal parts of 2 or more, for "
            f"{distributed.world_size()} process(es) with training.accumulate={options.accumulate}"
        )


def make_model(config: Config, format: FrameFormat) -> LatentActionModel:
    """The model of a configuration, for frames of a format.

    Raises:
        ConfigError: the frames are too small for so many halvings.
    """
    if min(format.size) < 8:
        raise ConfigError(
            f"data.downsample: {config.data.downsample} leaves frames of {format.size[0]} x {format.size[1]}; lower it"
        )
    return LatentActionModel(config.model, format)


def make_dataset(store: FrameStore, names: list[str], format: FrameFormat) -> ClipDataset:
    """The pairs of the named episodes.

    Raises:
        DataError: an episode is not in the store, or there is no pair.
    """
    missing = set(names) - {episode.name for episode in store.episodes}
    if missing:
        raise DataError(f"{store.path}: episode '{min(missing)}' of the run is missing; restore it, or start a new run")
    chosen = set(names)
    return ClipDataset(store, [episode for episode in store.episodes if episode.name in chosen], format)


def make_optimizer(model: nn.Module, options: TrainingConfig) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), as one fused kernel."""
    return torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)


def parallel_model(model: LatentActionModel, device: torch.device) -> nn.Module:
    """The model to call in training: itself, or in a group one whose gradients are averaged over ranks."""
    if distributed.world_size() == 1:
        return model
    distributed.synchronize_batch_norm(model, device)
    # Buffers are kept equal by what they count, over all ranks; broadcasting them would lose the others' counts.
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
