"""The latent action model.

    current ─┬─────────────► frame encoder ─► features ─► conditioner ─► upsampler ─► predicted next
             │                                               ▲
             └─► encoder ─► latent grid ─► quantizer ─► codes ┘
    next ──────►

The encoder sees both frames; the decoder sees only the current one and the quantized latent. There is no skip
connection, so all that changes between the frames must come through the codes.

Shapes: B batch, C channels (1 grey, 3 RGB), H W frame, D latent width, h w latent grid, K codes, F decoder width.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lapa import registry
from lapa.contracts import Quantized
from lapa.data.frames import FrameFormat
from lapa.nn.layers import TokenPool, Upsampler, down_block, halved
from lapa.nn.recompute import recomputation_contexts
from lapa.sections import build
from lapa.systems.latent_action.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ModelOutput:
    """What one forward pass gives.

    Attributes:
        prediction: (B, C, H, W) float, the next frame as the decoder draws it; not clipped to [0, 1].
        encoding: (B, D, h, w) float, the latent before quantization.
        quantized: the latent after it, the codes, and the quantizer's loss.
    """

    prediction: Tensor
    encoding: Tensor
    quantized: Quantized


class LatentActionModel(nn.Module):
    """Encoder -> quantizer -> conditioned decoder, each picked by name from ``config``.

    Args:
        config: the model's section of a run's configuration.
        format: what it sees of a frame; fixes C, H and W.

    Attributes:
        activation_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        ConfigError: a plugin's section is wrong.
        RegistryError: a plugin's name is.
    """

    def __init__(self, config: ModelConfig, format: FrameFormat) -> None:
        super().__init__()
        self.config = config
        self.format = format
        self.encoder = build(registry.encoders, config.encoder, channels=format.channels, latent_dim=config.latent_dim)
        grid = self.encoder.grid(format.size)
        places = grid if config.token_positions else None
        self.pool = TokenPool(config.latent_dim, config.tokens, places) if config.tokens else None
        self.grid: tuple[int, int] = (1, config.tokens) if config.tokens else grid
        self.quantizer = build(registry.quantizers, config.quantizer, latent_dim=config.latent_dim)
        self.decoder = Decoder(config, format)
        self.activation_checkpointing = False

    @property
    def code_grid(self) -> tuple[int, int]:
        """Shape of a transition's codes: the latent grid, with the codes of a place side by side."""
        return self.grid[0], self.grid[1] * self.quantizer.codes_per_place

    @property
    def bits(self) -> float:
        """Nominal bits per transition."""
        return self.grid[0] * self.grid[1] * self.quantizer.bits

    def forward(self, current: Tensor, next: Tensor) -> ModelOutput:
        """(B, C, H, W) float in [0, 1] twice -> :class:`ModelOutput`."""
        # The quantizer counts what it sees, so it alone must not run twice.
        encoding = self._run(self.encode, current, next)
        quantized = self.quantizer(encoding)
        return ModelOutput(self._run(self.decoder, current, quantized.latent), encoding, quantized)

    def encode(self, current: Tensor, next: Tensor) -> Tensor:
        """(B, C, H, W) float in [0, 1] twice -> the (B, D, h, w) latent before quantization."""
        latent = self.encoder(current, next)
        return self.pool(latent) if self.pool else latent

    def _run(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if not (self.activation_checkpointing and self.training):
            return part(*inputs)
        contexts = functools.partial(recomputation_contexts, self)
        output: Tensor = checkpoint(part, *inputs, use_reentrant=False, context_fn=contexts)
        return output

    def decode(self, current: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H, W) float and (B, h, w * n) codes -> the next frame (B, C, H, W) float."""
        return self.decoder(current, self.quantizer.codes_to_latent(codes))


class Decoder(nn.Module):
    """Draws the next frame from the current one and the latent.

    The frame goes through its own convolutions, the conditioner mixes the latent in, and transposed convolutions
    bring it back to its exact size.
    """

    mean_frame: Tensor | None

    def __init__(self, config: ModelConfig, format: FrameFormat) -> None:
        super().__init__()
        widths = (format.channels, *config.decoder.channels)
        self.frame_size = format.size
        self.frame_encoder = nn.Sequential(*(down_block(a, b) for a, b in itertools.pairwise(widths)))
        self.conditioner = build(
            registry.conditioners, config.conditioner, features=widths[-1], latent_dim=config.latent_dim
        )
        grid = halved(format.size, len(config.decoder.channels))
        self.positions = nn.Parameter(torch.zeros(widths[-1], *grid)) if config.decoder.positions else None
        self.upsampler = Upsampler((*(config.decoder.up_channels or widths[:0:-1]), format.channels))
        # Not the current frame: all that differs from the still scene must come through the bottleneck.
        mean = torch.zeros(format.channels, *format.size) if config.decoder.mean_frame else None
        self.register_buffer("mean_frame", mean)
        if mean is not None:
            self.upsampler.start_small()

    def forward(self, current: Tensor, latent: Tensor) -> Tensor:
        """(B, C, H, W) and (B, D, h, w) -> (B, C, H, W)."""
        features = self.conditioner(self.frame_encoder(current), latent)  # (B, F, h, w)
        if self.positions is not None:
            features = features + self.positions
        drawn = self.upsampler(features, self.frame_size)
        return drawn if self.mean_frame is None else drawn + self.mean_frame
