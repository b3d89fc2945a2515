"""What a run is made of: the system, its clips, what is measured on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lapa import distributed, registry
from lapa.config import Config, TrainingConfig
from lapa.contracts import ClipSpec, Facts, System
from lapa.data.choice import EVERY_CLIP, ClipChoice
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat
from lapa.data.store import FrameStore, StoredEpisode
from lapa.errors import ConfigError, DataError


def check_ranks(options: TrainingConfig) -> None:
    """Checks that a batch can be dealt to the group.

    Raises:
        ConfigError: it cannot.
    """
    parts = options.accumulate * distributed.world_size()
    if options.batch_size % parts or options.batch_size // parts < 2:
        raise ConfigError(
            f"training.batch_size: {options.batch_size} clips cannot be cut into {parts} equal parts of 2 or more, for "
            f"{distributed.world_size()} process(es) with training.accumulate={options.accumulate}"
        )


def frame_format(config: Config, store: FrameStore) -> FrameFormat:
    """What the model sees of the store's frames.

    Raises:
        ConfigError: too little of them.
    """
    resize = config.data.resize
    seen = FrameFormat(*store.frame_size, config.data.color, config.data.downsample, resize, config.data.fit)
    if min(seen.size) < 8:
        left = f"leaves frames of {seen.size[0]} x {seen.size[1]}"
        if resize and min(resize) < 8:
            raise ConfigError(f"data.resize: {list(resize)} {left}; each side needs 8 pixels, name a larger size")
        raise ConfigError(f"data.downsample: {config.data.downsample} {left}; lower it")
    return seen


def clip_spec(config: Config) -> ClipSpec:
    """What the configured system wants of the recordings."""
    return registry.systems.get(config.system).clip(config.model, config.loss)


def measure(store: FrameStore, episodes: Sequence[StoredEpisode], seen: FrameFormat) -> Facts:
    """What is measured on the recordings and never configured.

    Args:
        store: the packed frames.
        episodes: all of them: an action that only held-out episodes have is one too.
        seen: what the model sees of a frame.
    """
    named = [len(episode.tracks.meta.get("action_meanings") or ()) for episode in episodes]
    if not all(named):  # then by the highest that was taken
        named += [
            int(actions.max()) + 1 for e in episodes if (actions := e.tracks.actions) is not None and len(actions)
        ]
    grid = store.header.get("grid")
    return Facts(
        format=seen,
        num_actions=max(named, default=0) or None,
        num_codes=store.header.get("num_codes"),
        code_grid=(grid[0], grid[1]) if grid else None,
    )


def make_system(config: Config, facts: Facts) -> System:
    """The system of a configuration, untrained.

    Raises:
        ConfigError: a section of the model is wrong, or does not fit the recordings.
    """
    return registry.systems.get(config.system)(config.model, facts)


def make_datasets(config: Config, store: FrameStore, split: dict[str, list[str]]) -> tuple[ClipDataset, ClipDataset]:
    """The clips for training and for validation, of the kind that the configured system wants.

    Args:
        config: the run's configuration.
        store: the packed frames.
        split: names of episodes by split.

    Raises:
        ConfigError: the frames are too small, or would be mirrored while their tracks cannot be.
        DataError: an episode is not in the store, lacks a track, or there is no clip for each process.
    """
    seen, spec = frame_format(config, store), clip_spec(config)
    if config.data.mirror and spec.tracks:
        raise ConfigError(
            f"data.mirror: '{config.system}' learns from {', '.join(spec.tracks)}, which would not fit mirrored "
            "frames; set it to 0"
        )
    choice = ClipChoice(
        skip_first=config.data.skip_first,
        stride=config.data.stride,
        max_frames=config.data.max_frames,
        min_gap=config.data.min_gap,
        seed=config.data.split_seed,
    )
    train_set, val_set = (make_dataset(store, split[name], seen, spec, choice) for name in ("train", "val"))
    if len(val_set) < distributed.world_size():
        raise DataError(f"{len(val_set)} validation clip(s) for {distributed.world_size()} processes; record more")
    return train_set, val_set


def make_dataset(
    store: FrameStore, names: list[str], seen: FrameFormat, spec: ClipSpec, choice: ClipChoice = EVERY_CLIP
) -> ClipDataset:
    """The clips of the named episodes, or those that ``choice`` leaves of them.

    Raises:
        DataError: an episode is not in the store, lacks a track, or there is no clip.
    """
    missing = set(names) - {episode.name for episode in store.episodes}
    if missing:
        raise DataError(f"{store.path}: episode '{min(missing)}' of the run is missing; restore it, or start a new run")
    chosen = set(names)
    return ClipDataset(store, [episode for episode in store.episodes if episode.name in chosen], seen, spec, choice)


def lay_out(system: System, options: TrainingConfig, device: torch.device) -> None:
    """Moves a system to its device and memory layout."""
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    system.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    system.activation_checkpointing = options.activation_checkpointing


def parallel_system(system: System, device: torch.device) -> nn.Module:
    """The module to call in training: the system, or in a group one whose gradients are averaged over ranks."""
    if distributed.world_size() == 1:
        return system
    distributed.synchronize_batch_norm(system, device)
    # Buffers are kept equal by what they count, over all ranks; broadcasting them would lose the others' counts.
    return DistributedDataParallel(system, broadcast_buffers=False, gradient_as_bucket_view=True)
