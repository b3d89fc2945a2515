"""The mirror of the encoder ``resnet``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Literal

from torch import nn

from lapa_plugins.encoders.residual import ResidualBlock
from lapa_plugins.encoders.strided import strides_of
from lapa_plugins.frame_decoders.mirrored import MirroredConfig, MirroredDecoder, transposed, upsampled


class ResnetDecoder(MirroredDecoder):
    """Residual blocks with batch norm, then a layer that may double the grid, in each stage.

    Nothing comes before the first block, unless the latent has another width than it.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(MirroredConfig):
        """Options of ``resnet``.

        Attributes:
            doubling: by ``transposed`` convolutions of kernel 4; or by ``nearest`` places, repeated and convolved,
                which leave no grid (Odena et al. 2016).
        """

        num_blocks: int = 1
        doubling: Literal["transposed", "nearest"] = "transposed"

    def make_layers(self, config: Config, latent_dim: int, outputs: int) -> Iterator[nn.Module]:
        if config.channels[0] != latent_dim:
            yield nn.Conv2d(latent_dim, config.channels[0], 1)
        widths = itertools.pairwise((*config.channels, outputs))
        for (before, after), stride in zip(widths, strides_of(config), strict=True):
            for _ in range(config.num_blocks):
                yield ResidualBlock(before, config.kernel)
            if not config.num_blocks:
                yield nn.ReLU()
            yield self.stage(config, before, after, stride)

    def stage(self, config: Config, before: int, after: int, stride: int) -> nn.Module:
        layer = {"transposed": transposed, "nearest": upsampled}[config.doubling]
        return layer(before, after, stride, config.kernel)
