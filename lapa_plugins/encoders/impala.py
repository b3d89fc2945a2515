"""The IMPALA encoder: convolution, pooling and two residual blocks for each halving."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import nn

from lapa.nn.layers import PlainResidualBlock
from lapa_plugins.encoders.halving import HalvingConfig, HalvingEncoder


class ImpalaEncoder(HalvingEncoder):
    """The deep network of IMPALA, known from reinforcement learning (Espeholt et al. 2018, figure 3); no batch norm."""

    @dataclasses.dataclass(frozen=True)
    class Config(HalvingConfig):
        """Options of ``impala``."""

        channels: tuple[int, ...] = (16, 32, 32, 64, 64)

    def stage(self, before: int, after: int) -> Iterable[nn.Module]:
        yield nn.Conv2d(before, after, 3, padding=1)
        yield nn.MaxPool2d(3, stride=2, padding=1)
        yield PlainResidualBlock(after)
        yield PlainResidualBlock(after)

    def last(self) -> Iterable[nn.Module]:
        yield nn.ReLU()
