"""A decoder with skip connections from the current frame."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from lapa_plugins.decoders.halving import Base, HalvingDecoder, HalvingDecoderConfig


class UNetDecoder(HalvingDecoder):
    """As ``plain``, but each doubling also sees the current frame's features of its size (Ronneberger et al. 2015).

    The skip connections come from the *current* frame alone, so they tell nothing of the next one: what changes still
    has to come through the codes, and what does not change need not be remembered.
    """

    has_skips = True

    @dataclasses.dataclass(frozen=True)
    class Config(HalvingDecoderConfig):
        """The common options; the prediction starts from the current frame unless told otherwise."""

        base: Base = "current"

    def forward(self, current: Tensor, latent: Tensor) -> Tensor:
        seen = [current]
        for block in self.frame_encoder:
            seen.append(block(seen[-1]))
        features = self.steer(seen[-1], latent)  # (B, F, h, w)
        return self.on_base(self.upsampler(features, self.frame_size, seen[-2:0:-1]), current)
