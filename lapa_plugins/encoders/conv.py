"""The reference encoder: strided convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import nn

from lapa.nn.layers import down_block
from lapa_plugins.encoders.halving import HalvingConfig, HalvingEncoder


class ConvEncoder(HalvingEncoder):
    """Strided convolutions on the pair, then 1x1 to the latent width."""

    @dataclasses.dataclass(frozen=True)
    class Config(HalvingConfig):
        """Options of ``conv``."""

        channels: tuple[int, ...] = (64, 128, 256, 512, 512)

    def stage(self, before: int, after: int) -> Iterable[nn.Module]:
        yield down_block(before, after)
