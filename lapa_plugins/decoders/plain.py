"""The reference decoder: no skip connections."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from lapa_plugins.decoders.halving import HalvingDecoder, HalvingDecoderConfig


class PlainDecoder(HalvingDecoder):
    """Transposed convolutions bring the steered features back to the frame's exact size.

    There is no skip connection: what it predicts of the frame went through the bottleneck.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(HalvingDecoderConfig):
        """The common options."""

    def forward(self, current: Tensor, latent: Tensor) -> Tensor:
        features = self.steer(self.frame_encoder(current), latent)  # (B, F, h, w)
        return self.on_base(self.upsampler(features, self.frame_size), current)
