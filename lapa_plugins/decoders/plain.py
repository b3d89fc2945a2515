"""The reference decoder: no skip connections."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from lapa.contracts import MakeConditioner
from lapa.nn.layers import Upsampler
from lapa_plugins.decoders.halving import HalvingDecoder, HalvingDecoderConfig


class PlainDecoder(HalvingDecoder):
    """Transposed convolutions bring the steered features back to the frame's exact size.

    There is no skip connection: what it predicts of the frame went through the bottleneck.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(HalvingDecoderConfig):
        """The common options."""

    def __init__(
        self,
        config: Config,
        *,
        channels: int,
        frame_size: tuple[int, int],
        latent_dim: int,
        make_conditioner: MakeConditioner,
    ) -> None:
        super().__init__(
            config,
            channels=channels,
            frame_size=frame_size,
            latent_dim=latent_dim,
            make_conditioner=make_conditioner,
        )
        self.upsampler = Upsampler((*self.up_channels, channels))
        if config.base != "zero":
            self.upsampler.start_small()

    def forward(self, current: Tensor, latent: Tensor) -> Tensor:
        features = self.steer(self.frame_encoder(current), latent)  # (B, F, h, w)
        return self.on_base(self.upsampler(features, self.frame_size), current)
