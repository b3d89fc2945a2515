"""Frames by transposed convolutions."""

from __future__ import annotations

import dataclasses

from torch import nn

from lapa_plugins.frame_decoders.mirrored import MirroredConfig, MirroredDecoder, transposed


class TransposedDecoder(MirroredDecoder):
    """The mirror of ``strided``: transposed convolutions of kernel 4 and stride 2 double the grid.

    Their overlaps can leave a pattern of the size of the stride in flat areas (Odena et al. 2016); ``upsample`` has
    none.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(MirroredConfig):
        """The common options."""

    def stage(self, config: Config, before: int, after: int, stride: int) -> nn.Module:
        return transposed(before, after, stride, config.kernel)
