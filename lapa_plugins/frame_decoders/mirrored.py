"""What the frame decoders share: stages that mirror those of ``strided``, and what becomes of their last channels."""

from __future__ import annotations

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import FrameDecoder
from lapa.data.clips import ClipDataset
from lapa.nn.layers import PlainResidualBlock
from lapa.sections import require
from lapa_plugins.decoders.colors import common_colors
from lapa_plugins.encoders.strided import StridedConfig, cell_of, convolution, strides_of, unpatched


@dataclasses.dataclass(frozen=True)
class MirroredConfig(StridedConfig):
    """Options that all of them have, those of the encoder in the order in which the decoder goes through them.

    Attributes:
        channels: number of channels before each stage.
        strides: how many times larger each stage makes the grid, 1 or 2; null doubles it in each.
        patch: rows and columns of the patches of pixels that the last stage predicts for each of its places.
        output: how pixels are predicted: each channel by a ``sigmoid``; or as a mixture of a ``palette``, the commonest
            colours of the training clips.
        num_colors: K of the palette.
    """

    channels: tuple[int, ...] = (128, 64)
    output: Literal["sigmoid", "palette"] = "sigmoid"
    num_colors: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_colors >= 2, "num_colors", f"needs at least 2, not {self.num_colors}")


class MirroredDecoder(FrameDecoder):
    """A convolution, then stages of residual blocks and one layer each, which may double the grid.

    Attributes:
        colors: (K, C) in [0, 1], measured on the training clips; None unless ``output`` is ``palette``.
    """

    colors: Tensor | None

    def __init__(
        self,
        config: MirroredConfig,
        *,
        channels: int,
        frame_size: tuple[int, int],
        grid: tuple[int, int],
        latent_dim: int,
    ) -> None:
        super().__init__()
        self.patch, self.frame_size = config.patch, frame_size
        self.check_grid(config, grid)
        colors = torch.linspace(0, 1, config.num_colors)[:, None].repeat(1, channels)  # until they are measured
        self.register_buffer("colors", colors if config.output == "palette" else None)
        outputs = (channels if self.colors is None else config.num_colors) * config.patch[0] * config.patch[1]
        self.layers = nn.Sequential(*self.make_layers(config, latent_dim, outputs))

    def make_layers(self, config: Any, latent_dim: int, outputs: int) -> Iterator[nn.Module]:
        """The layers from (B, latent_dim, h, w) to (B, outputs, ...), one after the other."""
        yield convolution(latent_dim, config.channels[0], 1, config.kernel)
        widths = itertools.pairwise((*config.channels, outputs))
        for (before, after), stride in zip(widths, strides_of(config), strict=True):
            for _ in range(config.num_blocks):
                yield PlainResidualBlock(before, config.kernel)
            yield nn.ReLU()
            yield self.stage(config, before, after, stride)

    @abstractmethod
    def stage(self, config: Any, before: int, after: int, stride: int) -> nn.Module:
        """The layer of a stage: the grid becomes ``stride`` times as large, or keeps its size."""

    def check_grid(self, config: MirroredConfig, grid: tuple[int, int]) -> None:
        """Checks that the stages lead from the grid to the frame, of which less than a place may be cut off.

        Raises:
            ValueError: they do not.
        """
        (height, width), (rows, columns), (down, across) = self.frame_size, grid, cell_of(config)
        require(
            (rows, columns) == (-(-height // down), -(-width // across)),
            "strides",
            f"with {list(strides_of(config))} and patch {list(config.patch)}, each place of the encoder's grid of "
            f"{rows} x {columns} becomes {down} x {across} pixels, {rows * down} x {columns * across} in all, and the "
            f"frame has {height} x {width}; give the decoder the strides and the patch of the encoder",
        )

    def start(self, dataset: ClipDataset) -> None:
        """Measures the colours, if there is a palette."""
        if self.colors is not None:
            found = common_colors(dataset, len(self.colors))
            self.colors[: len(found)] = found.to(self.colors)

    def forward(self, latent: Tensor) -> Tensor:
        height, width = self.frame_size
        return unpatched(self.layers(latent), self.patch)[..., :height, :width]

    def to_frame(self, outputs: Tensor) -> Tensor:
        """Channels by their sigmoid; or the mean colour of each pixel."""
        if self.colors is None:
            return torch.sigmoid(outputs)
        return torch.einsum("bkhw,kc->bchw", outputs.float().softmax(1), self.colors.float())

    def pixel_errors(self, outputs: Tensor, frame: Tensor) -> Tensor:
        """The squared error; with a palette, the cross-entropy of each pixel's nearest colour, in nats.

        A squared error has hardly a gradient where a wrong colour is sure.
        """
        if self.colors is None:
            return super().pixel_errors(outputs, frame)
        return F.cross_entropy(outputs.float(), nearest_colors(frame, self.colors), reduction="none")


def nearest_colors(frame: Tensor, colors: Tensor) -> Tensor:
    """(B, C, H, W) and (K, C) -> (B, H, W) int64, the colour nearest to each pixel."""
    products = torch.einsum("bchw,kc->bkhw", frame, colors)
    return (colors.square().sum(1)[:, None, None] - 2 * products).argmin(1)


def transposed(before: int, after: int, stride: int, kernel: int) -> nn.Module:
    """A transposed convolution of twice the stride, or a convolution where the grid keeps its size."""
    if stride == 1:
        return convolution(before, after, 1, kernel)
    return nn.ConvTranspose2d(before, after, 2 * stride, stride=stride, padding=stride // 2)


def upsampled(before: int, after: int, stride: int, kernel: int) -> nn.Module:
    """Places are repeated, then convolved, over at least 3 x 3 of them; or convolved alone."""
    if stride == 1:
        return convolution(before, after, 1, kernel)
    return nn.Sequential(
        nn.Upsample(scale_factor=stride, mode="nearest"), convolution(before, after, 1, max(kernel, 3))
    )
