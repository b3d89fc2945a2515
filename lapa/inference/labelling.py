"""From frames to codes, the same codes whatever the batch.

Convolutions round differently at different batch sizes and thread counts, and a latent that lies on the border
between two codes can fall either way. So a pair with such a latent is encoded again in double precision, where
the rounding is too small to matter: a live wrapper that sees one pair at a time gives exactly the codes of a
batched extraction.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Coder, Encoder, Quantizer, System
from lapa.data.frames import prepare, to_float
from lapa.device import cpu_threads, full_float32
from lapa.errors import DataError
from lapa.nn.layers import fold_batch_norm

ROUNDING = 1e-5
"""Latents nearer a border than this share of the pair's largest value count as undecided in single precision.

Measured on a trained model, single precision errs by 3e-7 of the largest value at most.
"""


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a :class:`Labeller` finds of B pairs.

    Attributes:
        codes: (B, h, w * n) int64.
        margin: (B, h, w) float, how far the latent of each place can move before a code changes; None where the
            quantizer cannot tell. Equal within rounding, not bit for bit, whatever the batch.
    """

    codes: Tensor
    margin: Tensor | None


class Labeller:
    """Labels pairs of frames with a trained model.

    Args:
        model: a trained model, in eval mode. Later changes of its encoder's weights go unseen.
        threads: how many of the processor's cores to compute on; None leaves that to PyTorch's own setting. The
            codes are the same.

    Raises:
        DataError: the model gives no codes, or its quantizer is continuous.
    """

    def __init__(self, model: System, threads: int | None = None) -> None:
        if not isinstance(model, Coder):
            raise DataError(
                f"a {type(model).__name__} gives no codes to label with; name a checkpoint of a system that does"
            )
        if model.quantizer.num_codes is None:
            raise DataError("this model's quantizer is continuous: it has no codes to label with")
        self.model, self.threads = model, threads
        self.device = next(model.parameters()).device
        self._copies: Copies | None = None

    def __call__(self, *frames: Tensor) -> Tensor:
        """Codes (B, h, w * n) int64, on the model's device.

        Args:
            frames: prepared (B, C, H, W) uint8, as many as the model looks at, in order of time: a pair for a
                transition.
        """
        return self.label(*frames).codes

    @torch.inference_mode()
    def label(self, *frames: Tensor) -> Labels:
        """Codes and margins, on the model's device, of frames as in :meth:`__call__`."""
        with cpu_threads(self.threads), full_float32():
            frames = tuple(frame.to(self.device) for frame in frames)
            if self._copies is None:
                self._copies = Copies(self.model, [torch.zeros_like(frame[:1]) for frame in frames])
            return self._copies.label(*frames)

    def __getstate__(self) -> dict[str, object]:
        """Without the copies, which are made anew where they are needed."""
        return {**self.__dict__, "_copies": None}


class Copies:
    """Copies of a model's encoder and quantizer, for labelling.

    The encoder is in single precision. Codes are found in double precision, which costs little there and leaves only
    the encoder's rounding to say what is near a border.

    Args:
        model: a trained model, in eval mode.
        blank: (1, C, H, W) uint8 zeros, as many as it looks at.
    """

    def __init__(self, model: Coder, blank: Sequence[Tensor]) -> None:
        self._model = for_inference(model, torch.float32)
        self._exact = for_inference(model, torch.float64)
        # Where nothing moves, an encoder that sees differences gives the same latents at each step. What they mean is
        # found out once, in double precision, be they near a border or not.
        self._still = self._model.encode(*map(to_float, blank)).flatten(2)[0].T.contiguous()  # (h * w, D)
        every_place = torch.arange(len(self._still), device=self._still.device)
        self._still_codes = self.label_exactly(every_place, *blank)  # (h * w, n)
        self._still_margin = self._assign(self._still)[1]

    def label(self, *frames: Tensor) -> Labels:
        """Codes and margins of prepared frames (B, C, H, W) uint8."""
        latent = self._model.encode(*map(to_float, frames)).movedim(1, -1)  # (B, h, w, D)
        count, height, width, _ = latent.shape
        rows = latent.reshape(count, height * width, -1)
        codes = torch.cat([self._still_codes] * count)  # (B * h * w, n)
        margin = None if self._still_margin is None else torch.cat([self._still_margin] * count)
        # A comparison would take three times as long as a difference.
        moved = (rows - self._still).abs_().amax(2).flatten().nonzero()[:, 0]
        if len(moved):
            codes[moved], found = self._assign(rows.flatten(0, 1)[moved])
            undecided = moved
            if margin is not None and found is not None:
                margin[moved] = found
                undecided = moved[found <= ROUNDING * rows.abs().amax((1, 2))[moved // (height * width)]]
            if len(undecided):  # rounding may have decided there
                pair = undecided // (height * width)
                for which in pair.unique().tolist():
                    at = undecided[pair == which]
                    codes[at] = self.label_exactly(at % (height * width), *(frame[[which]] for frame in frames))
        return Labels(codes.view(count, height, -1), None if margin is None else margin.view(count, height, width))

    def label_exactly(self, places: Tensor, *frames: Tensor) -> Tensor:
        """Codes (N, n) of N places of one pair of prepared frames, with all of it in double precision."""
        latent = self._exact.encode(*(to_float(frame).double() for frame in frames))  # (1, D, h, w)
        codes = self._exact.quantizer(latent.flatten(2)[0].T[places, :, None, None]).codes
        assert codes is not None
        return codes.flatten(1)

    def _assign(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents (N, D) -> the nearest codes (N, n) and the margins (N,)."""
        codes, margin = self._exact.quantizer.assign(rows.double()[:, :, None, None])
        return codes.flatten(1), None if margin is None else margin.flatten()


def without_decoder(model: Coder) -> Coder:
    """A copy of what labelling needs."""
    return copy.deepcopy(model, {id(getattr(model, "decoder", None)): None})


def for_inference(model: Coder, dtype: torch.dtype) -> Coder:
    """A copy of what labelling needs, made fast; it rounds a little differently."""
    quick = without_decoder(model).to(dtype)
    for part in quick.modules():
        if isinstance(part, Encoder | Quantizer):
            part.optimize_for_inference()
    fold_batch_norm(quick)
    return quick.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def label(model: System, frame_t: np.ndarray | Tensor, frame_next: np.ndarray | Tensor) -> Tensor:
    """The latent action between two frames.

    Args:
        model: a trained model, as :func:`lapa.load_model` returns it.
        frame_t: (H, W, 3) uint8 RGB as recorded, or a batch (B, H, W, 3).
        frame_next: the same, one step on.

    Returns:
        (h, w) int64 codes on the CPU, or (B, h, w) for a batch.

    Raises:
        DataError: the frames are not uint8 RGB of the size the model was trained on.
    """
    first, second = (torch.as_tensor(np.asarray(frame)) for frame in (frame_t, frame_next))
    if first.shape != second.shape:
        raise DataError(f"the two frames differ in shape: {tuple(first.shape)} and {tuple(second.shape)}")
    single = first.ndim == 3
    if single:
        first, second = first[None], second[None]
    codes = Labeller(model)(prepare(first, model.format), prepare(second, model.format)).cpu()
    return codes[0] if single else codes
