"""From frames to codes, the same codes whatever the batch.

Convolutions round differently at different batch sizes and thread counts, and a latent that lies on the border
between two codes can fall either way. So a pair with such a latent is labelled again in double precision, where
the rounding is too small to matter: a live wrapper that sees one pair at a time gives exactly the codes of a
batched extraction.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from lapa.data.frames import prepare, to_float
from lapa.errors import DataError
from lapa.model import LatentActionModel

ROUNDING = 1e-5
"""Latents nearer a border than this share of the pair's largest value count as undecided in single precision.

Measured on a trained model, single precision errs by 3e-7 of the largest value at most.
"""


class Labeller:
    """Labels pairs of frames with a trained model.

    Args:
        model: a trained model, in eval mode.

    Raises:
        DataError: the model's quantizer is continuous.
    """

    def __init__(self, model: LatentActionModel) -> None:
        if model.quantizer.num_codes is None:
            raise DataError("this model's quantizer is continuous: it has no codes to label with")
        self.model = model
        self.device = next(model.parameters()).device
        self._exact: LatentActionModel | None = None

    @torch.inference_mode()
    def __call__(self, current: Tensor, next: Tensor) -> Tensor:
        """Codes (B, h, w) int64, on the model's device, of prepared (B, C, H, W) uint8 frames."""
        current, next = current.to(self.device), next.to(self.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            latent = self.model.encode(to_float(current), to_float(next))
            codes = self.model.quantizer(latent).codes
            assert codes is not None
            margin = self.model.quantizer.margin(latent)
        if margin is None:
            undecided = torch.ones(len(codes), dtype=torch.bool, device=self.device)
        else:
            undecided = margin.flatten(1).amin(1) <= ROUNDING * latent.abs().flatten(1).amax(1)
        rows = undecided.nonzero().squeeze(1)
        if len(rows):
            codes[rows] = self._label_exactly(current[rows], next[rows])
        return codes

    def _label_exactly(self, current: Tensor, next: Tensor) -> Tensor:
        if self._exact is None:
            self._exact = copy.deepcopy(self.model).double()
        exact = self._exact
        codes = [
            exact.quantizer(exact.encode(to_float(a).double(), to_float(b).double())).codes
            for a, b in zip(current.split(1), next.split(1), strict=True)
        ]
        return torch.cat([c for c in codes if c is not None])


def label(model: LatentActionModel, frame_t: np.ndarray | Tensor, frame_next: np.ndarray | Tensor) -> Tensor:
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
