"""From frames to codes, the same codes whatever the batch.

Convolutions round differently at different batch sizes and thread counts, and a latent that lies on the border
between two codes can fall either way. So a pair with such a latent is labelled again in double precision, where
the rounding is too small to matter: a live wrapper that sees one pair at a time gives exactly the codes of a
batched extraction.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Coder, System
from lapa.data.frames import prepare, to_float
from lapa.device import full_float32
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

    Raises:
        DataError: the model gives no codes, or its quantizer is continuous.
    """

    def __init__(self, model: System) -> None:
        if not isinstance(model, Coder):
            raise DataError(
                f"a {type(model).__name__} gives no codes to label with; name a checkpoint of a system that does"
            )
        if model.quantizer.num_codes is None:
            raise DataError("this model's quantizer is continuous: it has no codes to label with")
        self.model = model
        self.device = next(model.parameters()).device
        self._folded: Coder | None = None
        self._exact: Coder | None = None

    def __call__(self, current: Tensor, following: Tensor) -> Tensor:
        """Codes (B, h, w * n) int64, on the model's device, of prepared (B, C, H, W) uint8 frames."""
        return self.label(current, following).codes

    @torch.inference_mode()
    def label(self, current: Tensor, following: Tensor) -> Labels:
        """Codes and margins, on the model's device, of prepared (B, C, H, W) uint8 frames."""
        if self._folded is None:
            # Twice as fast; it rounds a little differently.
            self._folded = without_decoder(self.model)
            fold_batch_norm(self._folded)
            self._folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        current, following = current.to(self.device), following.to(self.device)
        with full_float32():
            latent = self._folded.encode(to_float(current), to_float(following))
            codes, margin = self.model.quantizer.assign(latent)
        if margin is None:
            undecided = torch.ones(len(codes), dtype=torch.bool, device=self.device)
        else:
            undecided = margin.flatten(1).amin(1) <= ROUNDING * latent.abs().flatten(1).amax(1)
        rows = undecided.nonzero().squeeze(1)
        if len(rows):
            codes[rows] = self._label_exactly(current[rows], following[rows])
        return Labels(codes, margin)

    def _label_exactly(self, current: Tensor, following: Tensor) -> Tensor:
        if self._exact is None:
            self._exact = without_decoder(self.model).double()
        exact = self._exact
        codes = [
            exact.quantizer(exact.encode(to_float(a).double(), to_float(b).double())).codes
            for a, b in zip(current.split(1), following.split(1), strict=True)
        ]
        return torch.cat([c for c in codes if c is not None])

    def __getstate__(self) -> dict[str, object]:
        """Without the copies, which are made anew where they are needed."""
        return {**self.__dict__, "_folded": None, "_exact": None}


def without_decoder(model: Coder) -> Coder:
    """A copy of what labelling needs."""
    return copy.deepcopy(model, {id(getattr(model, "decoder", None)): None})


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
