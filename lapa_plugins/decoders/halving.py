"""What the convolutional decoders share: the halved current frame, steered by the latent, and what they start from."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from lapa.contracts import Decoder, MakeConditioner
from lapa.data.clips import ClipDataset
from lapa.nn.layers import Upsampler, down_block, halved
from lapa.sections import require

Base = Literal["zero", "mean", "current"]


@dataclasses.dataclass(frozen=True)
class HalvingDecoderConfig:
    """Options that all of them have.

    Attributes:
        channels: number of channels of the frame encoder after each halving of the frame.
        up_channels: number of channels before each doubling; null mirrors ``channels``.
        positions: add a learnt bias for each position of the grid to the conditioned features.
        base: what the output is added to: ``zero`` (nothing), the ``mean`` training frame, or the ``current`` frame.
            On the current frame, only what changes must be drawn.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    up_channels: tuple[int, ...] | None = None
    positions: bool = False
    base: Base = "zero"

    def __post_init__(self) -> None:
        widths, up = self.channels, self.up_channels
        require(
            bool(widths) and min(widths) > 0, "channels", f"needs at least one width, all positive, not {list(widths)}"
        )
        mirrored = up is None or (len(up) == len(widths) and up[0] == widths[-1] and min(up) > 0)
        require(
            mirrored,
            "up_channels",
            f"needs {len(widths)} positive widths, one for each of channels, the first {widths[-1]}",
        )


class HalvingDecoder(Decoder):
    """The current frame through convolutions that halve it; the latent steers what comes out; then up again.

    Args:
        outputs: how many channels are drawn, where they are not those of the frame.

    Attributes:
        has_skips: whether each doubling also sees the current frame's features of its size.
        mean_frame: (C, H, W) of the training clips, where ``base`` is ``mean``.
    """

    has_skips: ClassVar[bool] = False
    mean_frame: Tensor | None
    positions: nn.Parameter | None

    def __init__(
        self,
        config: HalvingDecoderConfig,
        *,
        channels: int,
        frame_size: tuple[int, int],
        latent_dim: int,
        make_conditioner: MakeConditioner,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        self.base, self.frame_size = config.base, frame_size
        widths = (channels, *config.channels)
        self.frame_encoder = nn.Sequential(*(down_block(a, b) for a, b in itertools.pairwise(widths)))
        self.conditioner = make_conditioner(widths[-1])
        grid = halved(frame_size, len(config.channels))
        self.positions = nn.Parameter(torch.zeros(widths[-1], *grid)) if config.positions else None
        self.register_buffer("mean_frame", torch.zeros(channels, *frame_size) if config.base == "mean" else None)
        skips = (0, *config.channels[-2::-1]) if self.has_skips else ()
        self.upsampler = Upsampler((*(config.up_channels or config.channels[::-1]), outputs or channels), skips)
        if config.base != "zero":
            self.upsampler.start_small()

    def start(self, dataset: ClipDataset) -> None:
        """Measures the mean frame, if it is what the prediction starts from."""
        if self.mean_frame is not None:
            self.mean_frame.copy_(dataset.mean_frame())

    def steer(self, features: Tensor, latent: Tensor) -> Tensor:
        """(B, F, h, w) and (B, D, h', w') -> (B, F, h, w), what comes out of the halving, steered by the latent."""
        features = self.conditioner(features, latent)
        return features if self.positions is None else features + self.positions

    def on_base(self, drawn: Tensor, current: Tensor) -> Tensor:
        """(B, C, H, W) twice -> (B, C, H, W), what is drawn, added to what the decoder starts from."""
        if self.base == "current":
            return drawn + current
        return drawn if self.mean_frame is None else drawn + self.mean_frame
