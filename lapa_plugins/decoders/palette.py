"""A decoder that chooses each pixel among few colours."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from lapa.data.clips import ClipDataset
from lapa.sections import require
from lapa_plugins.decoders.colors import common_colors
from lapa_plugins.decoders.halving import Base
from lapa_plugins.decoders.unet import UNetDecoder


class PaletteDecoder(UNetDecoder):
    """As ``unet``, but each pixel is a mixture of the recordings' most common colours and of what is there already.

    The weights of the mixture are a softmax, as of the masks of Finn et al. 2016, section 3. A pixel that is sure of
    its colour has it exactly, and what stays as it is needs no drawing.

    Attributes:
        colors: (K, C) in [0, 1], measured on the training clips.
    """

    colors: Tensor

    @dataclasses.dataclass(frozen=True)
    class Config(UNetDecoder.Config):
        """Those of ``unet``, and how many colours.

        Attributes:
            num_colors: K, besides the pixel of ``base``; with ``base: zero``, that is black.
        """

        base: Base = "current"
        num_colors: int = 8

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.num_colors > 0, "num_colors", f"needs at least 1, not {self.num_colors}")

    def __init__(self, config: Config, *, channels: int, **options: Any) -> None:
        super().__init__(config, channels=channels, outputs=config.num_colors + 1, **options)
        # Grey levels at even distances, until they are measured.
        steps = torch.linspace(0, 1, config.num_colors)[:, None]
        self.register_buffer("colors", steps.expand(-1, channels).clone())
        # At first, nine tenths of each pixel are what is there already.
        nn.init.constant_(self.upsampler.convs[-1].bias[:1], math.log(9 * config.num_colors))  # type: ignore[index]

    def start(self, dataset: ClipDataset) -> None:
        """Measures the colours too."""
        super().start(dataset)
        common = common_colors(dataset, len(self.colors))
        self.colors[: len(common)] = common.to(self.colors)

    def on_base(self, drawn: Tensor, current: Tensor) -> Tensor:
        """(B, K + 1, H, W) and (B, C, H, W) -> (B, C, H, W)."""
        weights = drawn.float().softmax(1)
        mixed = torch.einsum("bkhw,kc->bchw", weights[:, 1:], self.colors.float())
        base = super().on_base(torch.zeros_like(current), current)
        return mixed + weights[:, :1] * base
