"""Frames by repeated pixels and convolutions."""

from __future__ import annotations

import dataclasses

from torch import nn

from lapa_plugins.frame_decoders.mirrored import MirroredConfig, MirroredDecoder, upsampled


class UpsampleDecoder(MirroredDecoder):
    """Each doubling repeats places and convolves (Odena et al. 2016): all pixels come about alike, so no grid shows."""

    @dataclasses.dataclass(frozen=True)
    class Config(MirroredConfig):
        """The common options."""

    def stage(self, config: Config, before: int, after: int, stride: int) -> nn.Module:
        return upsampled(before, after, stride, config.kernel)
