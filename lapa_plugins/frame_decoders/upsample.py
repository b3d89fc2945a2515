"""Frames by repeated pixels and convolutions."""

from __future__ import annotations

import dataclasses

from torch import nn

from lapa_plugins.encoders.strided import convolution
from lapa_plugins.frame_decoders.mirrored import MirroredConfig, MirroredDecoder


class UpsampleDecoder(MirroredDecoder):
    """Each doubling repeats places and convolves (Odena et al. 2016): all pixels come about alike, so no grid shows."""

    @dataclasses.dataclass(frozen=True)
    class Config(MirroredConfig):
        """The common options."""

    def stage(self, before: int, after: int, stride: int, kernel: int) -> nn.Module:
        layer = convolution(before, after, 1, max(kernel, 3) if stride > 1 else kernel)
        return layer if stride == 1 else nn.Sequential(nn.Upsample(scale_factor=stride, mode="nearest"), layer)
