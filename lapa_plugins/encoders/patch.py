"""A vision transformer on patches of both frames."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Encoder
from lapa.nn.layers import PairInput, sine_positions


class PatchEncoder(Encoder):
    """Patches of the pair become tokens, which attend to each other (Dosovitskiy et al. 2021, section 3.1).

    Frames are filled up with zeros to whole patches; positions are sines, so that any frame size will do.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``patch``.

        Attributes:
            patch: side of a patch, in pixels.
            width: of the tokens, a multiple of 4 and of ``num_heads``.
            num_layers: transformer layers.
            num_heads: attention heads.
            sees: both ``frames``, or their ``difference`` alone.
        """

        patch: int = 32
        width: int = 128
        num_layers: int = 3
        num_heads: int = 4
        sees: Literal["frames", "difference"] = "frames"

        def __post_init__(self) -> None:
            if min(self.patch, self.width, self.num_layers, self.num_heads) < 1:
                raise ValueError("patch, width, num_layers and num_heads must be positive")
            if self.width % 4 or self.width % self.num_heads:
                raise ValueError(f"width: {self.width} is no multiple of 4 and of num_heads={self.num_heads}")

    def __init__(self, config: Config, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.pair = PairInput(config.sees, channels)
        self.embed = nn.Conv2d(self.pair.channels, config.width, config.patch, stride=config.patch)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.num_heads,
            2 * config.width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.num_layers, enable_nested_tensor=False)
        self.project = nn.Conv2d(config.width, latent_dim, 1)

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        height, width = frame_size
        return -(-height // self.patch), -(-width // self.patch)

    def forward(self, current: Tensor, next: Tensor) -> Tensor:
        pair = self.pair(current, next)
        missing = [-size % self.patch for size in pair.shape[-2:]]
        tokens = self.embed(F.pad(pair, (0, missing[1], 0, missing[0])))  # (B, width, h, w)
        tokens = tokens + sine_positions(tokens)
        mixed = self.layers(tokens.flatten(2).transpose(1, 2))  # (B, h*w, width)
        return self.project(mixed.transpose(1, 2).unflatten(2, tokens.shape[-2:]))
