"""The convolution blocks that encoders and the decoder share, and the arithmetic of their sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


def halved(size: tuple[int, int], times: int) -> tuple[int, int]:
    """The grid ``(h, w)`` left of ``(H, W)`` after so many :func:`down_block`; 210 x 160 and 5 give 7 x 5."""
    height, width = size
    for _ in range(times):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def check_widths(channels: Sequence[int]) -> None:
    """Checks the widths of a stack of layers.

    Raises:
        ValueError: there is none, or one is not positive.
    """
    if not channels or min(channels) < 1:
        raise ValueError(f"channels: needs at least one width, all positive, not {list(channels)}")


class FrameInput(nn.Module):
    """What an encoder sees of its frames: all, stacked on channels, or the ``difference`` of each to the one before.

    From the difference, codes can tell what moved, but hardly what stands still: they need not spend themselves on it.

    Args:
        sees: ``frames`` or ``difference``.
        channels: C of one frame.
        frames: how many there are.

    Attributes:
        channels: of what comes out.

    Raises:
        ValueError: there is one frame, and its difference is asked for.
    """

    def __init__(self, sees: str, channels: int, frames: int = 2) -> None:
        super().__init__()
        self.sees = sees
        seen = frames if sees == "frames" else frames - 1
        if not seen:
            raise ValueError("sees: one frame has no difference; take frames")
        self.channels = channels * seen

    def forward(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) each -> (B, self.channels, H, W)."""
        if self.sees == "frames":
            return torch.cat(frames, dim=1)
        differences = [after - before for before, after in itertools.pairwise(frames)]
        return differences[0] if len(differences) == 1 else torch.cat(differences, dim=1)


def fold_batch_norm(module: nn.Module) -> None:
    """Multiplies each batch norm that follows a convolution in a sequence into the convolution; in place.

    The module must be in eval mode. What it computes stays the same up to rounding.
    """
    for sequence in [part for part in module.modules() if isinstance(part, nn.Sequential)]:
        for i in range(len(sequence) - 1):
            convolution, norm = sequence[i], sequence[i + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
                sequence[i] = fuse_conv_bn_eval(convolution, norm)
                sequence[i + 1] = nn.Identity()


def down_block(before: int, after: int) -> nn.Sequential:
    """Halves height and width, rounding up. Kernel 3: kernel 4 would round down and turn 210 into 6, not 7."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class PlainResidualBlock(nn.Module):
    """Two convolutions, 3x3 unless told otherwise, each after its ReLU, added to their input; no batch norm."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, kernel, padding=kernel // 2)
        self.second = nn.Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class Upsampler(nn.Module):
    """Transposed convolutions that undo :func:`halved` exactly: each layer returns the size that is asked for.

    Args:
        widths: channels before, between and after the layers.
        skips: channels that each layer sees besides those of the layer before; none by default.
    """

    def __init__(self, widths: Sequence[int], skips: Sequence[int] = ()) -> None:
        super().__init__()
        skips = skips or [0] * (len(widths) - 1)
        # Batch norm takes out a bias before it, so only the last layer has one.
        self.convs = nn.ModuleList(
            nn.ConvTranspose2d(a + skip, b, 3, stride=2, padding=1, bias=index == len(widths) - 2)
            for index, ((a, b), skip) in enumerate(zip(itertools.pairwise(widths), skips, strict=True))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:-1])

    def start_small(self) -> None:
        """Lets the last layer begin near zero."""
        nn.init.normal_(self.convs[-1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.convs[-1].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, frame_size: tuple[int, int], skips: Sequence[Tensor] = ()) -> Tensor:
        """(B, widths[0], h, w) -> (B, widths[-1], H, W), where ``(H, W)`` is ``frame_size``.

        ``skips`` are what the layers after the first one see besides, from the smallest grid to the largest.
        """
        depth = len(self.convs)
        for index, conv in enumerate(self.convs):
            size = halved(frame_size, depth - 1 - index)
            if index and skips:
                x = torch.cat([x, skips[index - 1]], dim=1)
            short = (size[0] - (2 * x.shape[-2] - 1), size[1] - (2 * x.shape[-1] - 1))  # 0 or 1 each
            x = F.conv_transpose2d(x, conv.weight, stride=2, padding=1, output_padding=short)  # type: ignore[arg-type]
            if index < depth - 1:
                x = self.norms[index](x).relu_()
        # Added apart: on CPUs a transposed convolution in bf16 takes up to ten times as long with its bias.
        return x + self.convs[-1].bias[:, None, None]  # type: ignore[index]


def over_grid(latent: Tensor, features: Tensor) -> Tensor:
    """(B, D, h', w') -> (B, D, h, w), over the grid of features (B, F, h, w) by nearest neighbour.

    One token so stands at every place of the frame.
    """
    if latent.shape[-2:] == features.shape[-2:]:
        return latent
    return F.interpolate(latent, size=features.shape[-2:], mode="nearest")


def sine_positions(x: Tensor) -> Tensor:
    """(F, h, w) sine positions in [-1, 1] for features (B, F, h, w): half of the channels say the row, half the column.

    Rows and columns are counted in [0, 1], so that a place means the same on grids of different sizes.
    """
    width, rows, columns = x.shape[1:]
    quarter = width // 4
    frequency = math.pi * torch.exp2(torch.arange(quarter, device=x.device) * (5.0 / max(quarter - 1, 1)))
    angles = [((torch.arange(count, device=x.device) + 0.5) / count)[:, None] * frequency for count in (rows, columns)]
    row, column = (torch.cat([angle.sin(), angle.cos()], dim=1).T for angle in angles)  # (F/2, h) and (F/2, w)
    grid = torch.cat([row[:, :, None].expand(-1, -1, columns), column[:, None, :].expand(-1, rows, -1)])
    return grid.to(x.dtype)


class TokenPool(nn.Module):
    """Pools a latent grid to n tokens: each is a learnt weighting of places (attention pooling).

    Few tokens force the codes to say what was done rather than what is seen.

    Args:
        latent_dim: D.
        num_tokens: n.
        grid: (h, w) of the latent, to learn a position for each place; None lets tokens tell what was done, but not
            where.
    """

    positions: nn.Parameter | None

    def __init__(self, latent_dim: int, num_tokens: int, grid: tuple[int, int] | None) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.positions = nn.Parameter(0.02 * torch.randn(latent_dim, *grid)) if grid else None
        self.scores = nn.Conv2d(latent_dim, num_tokens, 1)
        self.values = nn.Conv2d(latent_dim, num_tokens * latent_dim, 1)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, 1, n)."""
        if self.positions is not None:
            latent = latent + self.positions
        weights = self.scores(latent).flatten(2).softmax(-1)  # (B, n, h*w)
        values = self.values(latent).flatten(2).unflatten(1, (self.num_tokens, -1))  # (B, n, D, h*w)
        tokens = (values * weights[:, :, None]).sum(-1)  # (B, n, D)
        return tokens.transpose(1, 2)[:, :, None]
