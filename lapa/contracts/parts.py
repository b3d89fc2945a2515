"""What the parts must do that systems pick by name."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lapa.data.clips import ClipDataset


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        latent: (B, D, h, w), what the decoder gets; gradients pass through to the encoder.
        codes: (B, h, w * n) int64 in ``[0, num_codes)``, the n of a place side by side; None when the latent is
            continuous.
        loss: scalar, the quantizer's own weighted loss; always 0 where :attr:`Quantizer.has_loss` is False.
        metrics: detached scalars worth logging.
    """

    latent: Tensor
    codes: Tensor | None
    loss: Tensor
    metrics: dict[str, Tensor]


class Changes(NamedTuple):
    """The latents of B pairs of frames where they may differ from those of a pair of equal frames.

    Attributes:
        places: (M,) int64, which of the B * h * w places, each at most once, in any order.
        latents: (M, D), those there.
    """

    places: Tensor
    latents: Tensor


class Encoder(nn.Module, ABC):
    """Maps frames to a latent grid.

    Subclasses take ``(config, *, channels, latent_dim, frames=2)`` and carry a frozen dataclass ``Config``. ``frames``
    is passed only where it is not 2, so one that is made for pairs may do without it.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Latent grid ``(h, w)`` for frames of ``(H, W)``, known before any data is seen."""

    @abstractmethod
    def forward(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) float, as many as ``frames``, in order of time -> (B, D, h, w)."""

    def optimize_for_inference(self) -> None:
        """Makes a copy in eval mode faster, for labelling alone; what it computes may change by rounding.

        Batch norms are folded into convolutions anyway. Encoders that know of nothing else keep this default.
        """

    def changes(self, *frames: Tensor) -> Changes | None:
        """For labelling alone: the latents of (B, C, H, W) uint8 frames where something changes between them.

        All others must be those of frames that are equal, whatever these show. None where the encoder cannot tell, or
        would take longer than ``forward``. Only after :meth:`optimize_for_inference`.
        """
        return None


class Quantizer(nn.Module, ABC):
    """Maps latents to discrete codes and back.

    Subclasses take ``(config, *, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @property
    @abstractmethod
    def num_codes(self) -> int | None:
        """K, or None when the latent is continuous."""

    @property
    def codes_per_place(self) -> int:
        """n, how many codes each place of the latent grid has; 1 unless a quantizer says otherwise."""
        return 1

    @property
    def bits(self) -> float:
        """Nominal bits per place of the grid, ``n log2(K)``; ``inf`` when the latent is continuous."""
        return math.inf if self.num_codes is None else self.codes_per_place * math.log2(self.num_codes)

    @property
    def has_loss(self) -> bool:
        """Whether :attr:`Quantized.loss` is a loss to be minimized; False where it is 0 by design.

        A loss that is exactly 0 for long ends a run as a mistake, unless the quantizer says that it has none.
        """
        return True

    @property
    def num_distinct(self) -> int:
        """n K, the codes there are if those of a place are told apart; 0 when the latent is continuous."""
        return self.codes_per_place * (self.num_codes or 0)

    def distinct(self, codes: Tensor) -> Tensor:
        """Tells a place's codes apart, for each means something of its own: (B, h, w * n) below K -> below n K."""
        which = torch.arange(codes.shape[2], device=codes.device) % self.codes_per_place
        return codes + (self.num_codes or 0) * which

    @abstractmethod
    def forward(self, latent: Tensor) -> Quantized:
        """(B, D, h, w) float -> :class:`Quantized`."""

    @abstractmethod
    def codes_to_latent(self, codes: Tensor) -> Tensor:
        """(B, h, w * n) int64 -> the (B, D, h, w) that ``forward`` gave for them in eval mode."""

    def margin(self, latent: Tensor) -> Tensor | None:
        """How far each latent can move before one of its codes changes: (B, D, h, w) -> (B, h, w), a lower bound >= 0.

        Labelling uses it to find latents so near a border that rounding could decide. None means unknown.
        """
        return None

    def assign(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents (N, D), wherever they lie -> codes (N, n) and margins (N,) as :meth:`margin` says, for labelling.

        Where the margin is 0, the codes may be any of the nearest. Quantizers that find both in one go say so here, and
        save labelling half its time.
        """
        latent = rows[:, :, None, None]
        codes, margin = self(latent).codes, self.margin(latent)
        assert codes is not None
        return codes.flatten(1), None if margin is None else margin.flatten()

    def optimize_for_inference(self) -> None:
        """Makes a copy in eval mode faster, for labelling alone; its weights do not change afterwards.

        Quantizers that have nothing to keep leave this default.
        """

    def anneal(self, progress: float) -> None:
        """Sets what changes over the training; called before each step.

        ``progress`` is the share of it that is done, in [0, 1]. Quantizers without a schedule keep this default.
        """

    def update(self) -> None:
        """Takes in what the ``forward`` calls of one optimizer step have seen, over all ranks; called after the step.

        Quantizers that learn by gradient alone keep this default.
        """

    def reseed_unused(self, latent: Tensor) -> int:
        """Moves codes that went unused since the last call onto encodings from ``latent`` (B, D, h, w).

        Unused is what no rank used; ``latent`` is this rank's. All ranks call it at the same step. Returns how many
        moved. Quantizers whose codes cannot die keep this default.
        """
        return 0


class Conditioner(nn.Module, ABC):
    """Lets the latent action steer the decoder's features.

    Subclasses take ``(config, *, features, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        """(B, F, h, w) and (B, D, h', w'), any h' w' down to 1 x 1 -> (B, F, h, w)."""


MakeConditioner = Callable[[int], Conditioner]
"""Makes the configured conditioner for features of F channels."""


class Decoder(nn.Module, ABC):
    """Predicts the next frame from the current one and the latent.

    Subclasses take ``(config, *, channels, frame_size, latent_dim, make_conditioner)`` and carry a frozen dataclass
    ``Config``. ``channels`` and ``frame_size`` are the C and (H, W) of the frames. ``make_conditioner`` makes the
    configured conditioner for features of any width; a decoder may make several, or mix the latent in by itself.
    """

    Config: ClassVar[type[Any]]

    def start(self, dataset: ClipDataset) -> None:  # most measure nothing
        """Called once before training, with the training clips; what it measures must be kept in buffers."""

    @abstractmethod
    def forward(self, current: Tensor, latent: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] and (B, D, h, w), any h w down to 1 x 1 -> (B, C, H, W), not clipped to [0, 1].

        In eval mode, a row of a batch does not depend on the others.
        """


class FrameDecoder(nn.Module, ABC):
    """Predicts a frame from its latent grid alone.

    Subclasses take ``(config, *, channels, frame_size, grid, latent_dim)`` and carry a frozen dataclass ``Config``.
    ``channels`` and ``frame_size`` are the C and (H, W) of the frames, ``grid`` is the (h, w) of the latent.
    """

    Config: ClassVar[type[Any]]

    def start(self, dataset: ClipDataset) -> None:  # most measure nothing
        """Called once before training, with the training clips; what it measures must be kept in buffers."""

    @abstractmethod
    def forward(self, latent: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, O, H, W), what is predicted of each pixel: its C channels, or what they come from.

        In eval mode, a row of a batch does not depend on the others.
        """

    def to_frame(self, outputs: Tensor) -> Tensor:
        """What :meth:`forward` gave -> (B, C, H, W) in [0, 1], both ends of which it can reach."""
        return outputs

    def pixel_errors(self, outputs: Tensor, frame: Tensor) -> Tensor:
        """How wrong each pixel is: (B, H, W), not negative, the squared error by default.

        Args:
            outputs: what :meth:`forward` gave.
            frame: (B, C, H, W) in [0, 1], the true one.
        """
        return (self.to_frame(outputs).float() - frame).square().mean(1)
