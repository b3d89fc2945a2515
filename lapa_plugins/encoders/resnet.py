"""Halvings with a ResNet block after each: the encoder of the recurrent world model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from torch import nn

from lapa_plugins.encoders.residual import ResidualBlock
from lapa_plugins.encoders.strided import StridedConfig, StridedEncoder, convolution, strides_of


class ResnetEncoder(StridedEncoder):
    """As ``strided``, with residual blocks that have batch norm (He et al. 2016, section 3.2).

    Nothing comes after the last block, unless the latent has another width than it.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(StridedEncoder.Config):
        """The options of ``strided``."""

        num_blocks: int = 1

    def make_layers(self, config: StridedConfig, before: int, latent_dim: int) -> Iterator[nn.Module]:
        widths = itertools.pairwise((before, *config.channels))
        for (width, after), stride in zip(widths, strides_of(config), strict=True):
            yield convolution(width, after, stride, config.kernel)
            for _ in range(config.num_blocks):
                yield ResidualBlock(after, config.kernel)
            if not config.num_blocks:
                yield nn.ReLU()
        if config.channels[-1] != latent_dim:
            yield nn.Conv2d(config.channels[-1], latent_dim, 1)
