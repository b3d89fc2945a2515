"""A vision transformer on patches of the frames."""

from __future__ import annotations

import dataclasses
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Encoder
from lapa.nn.layers import FrameInput, sine_positions


class PatchEncoder(Encoder):
    """Patches become tokens, which attend to each other (Dosovitskiy et al. 2021, section 3.1).

    Frames are filled up with zeros to whole patches; positions are sines, so that any frame size will do.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``patch``.

        Attributes:
            patch: side of a patch, in pixels.
            width: width of the tokens, a multiple of 4 and of ``num_heads``.
            num_layers: number of transformer layers.
            num_heads: number of attention heads.
            sees: what the encoder gets: the ``frames``, or the ``difference`` of each frame from the one before.
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

    def __init__(self, config: Config, *, channels: int, latent_dim: int, frames: int = 2) -> None:
        super().__init__()
        self.patch = config.patch
        self.input = FrameInput(config.sees, channels, frames)
        self.embed = nn.Conv2d(self.input.channels, config.width, config.patch, stride=config.patch)
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

    def forward(self, *frames: Tensor) -> Tensor:
        seen = self.input(*frames)
        missing = [-size % self.patch for size in seen.shape[-2:]]
        tokens = self.embed(F.pad(seen, (0, missing[1], 0, missing[0])))  # (B, width, h, w)
        tokens = tokens + sine_positions(tokens)
        mixed = self.layers(tokens.flatten(2).transpose(1, 2))  # (B, h*w, width)
        return self.project(mixed.transpose(1, 2).unflatten(2, tokens.shape[-2:]))
