"""Frames by transposed convolutions."""

from __future__ import annotations

import dataclasses

from torch import nn

from lapa_plugins.encoders.strided import convolution
from lapa_plugins.frame_decoders.mirrored import MirroredConfig, MirroredDecoder


class TransposedDecoder(MirroredDecoder):
    """The mirror of ``strided``: transposed convolutions of kernel 4 and stride 2 double the grid.

    Their overlaps can leave a pattern of the size of the stride in flat areas (Odena et al. 2016); ``upsample`` has
    none.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(MirroredConfig):
        """The common options."""

    def stage(self, before: int, after: int, stride: int, kernel: int) -> nn.Module:
        if stride == 1:
            return convolution(before, after, 1, kernel)
        return nn.ConvTranspose2d(before, after, 2 * stride, stride=stride, padding=stride // 2)
