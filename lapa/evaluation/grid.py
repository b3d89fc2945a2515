"""The grids of codes of the judged clips: which code stands where, and what each place of the grid looks at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Coder
from lapa.data.frames import to_float
from lapa.evaluation.study import Study
from lapa.metrics.codes import CodeUse, code_names, code_use
from lapa.report.pictures import outlined


@dataclasses.dataclass(frozen=True)
class CodeGrids:
    """The codes of P clips, the n codes of a place told apart.

    Attributes:
        codes: (P, h, w * n) int64, as :meth:`lapa.contracts.Quantizer.distinct` numbers them.
        names: (n K,) of the codes.
        use: how often each stands where.
        centres: (h, w, 2), the pixel (x, y) about which each place of the grid looks; None where every place sees all,
            and for codes of single frames, where nothing is outlined.
    """

    codes: np.ndarray
    names: Sequence[str]
    use: CodeUse
    centres: np.ndarray | None

    def outline(self, picture: np.ndarray, places: Sequence[Sequence[int]]) -> np.ndarray:
        """The picture with places of codes (row, column) outlined; without, if there are no centres."""
        if self.centres is None:
            return picture
        centres = np.array([self.centres[row, column // self.use.per_place] for row, column in places])
        return outlined(picture, centres, self.centres.shape[:2])


def code_grids(study: Study) -> CodeGrids:
    """The grids of the judged clips; ask for them by :meth:`Study.shared`."""
    coder = coder_of(study)
    assert study.codes is not None
    quantizer, codes = coder.quantizer, told_apart(coder, study.codes)
    return CodeGrids(
        codes=codes,
        names=code_names(number_of_codes(coder), quantizer.codes_per_place),
        use=code_use(codes, quantizer.num_distinct, quantizer.codes_per_place),
        centres=None if coder.sees_all or coder.track == "tokens" else place_centres(study),
    )


def coder_of(study: Study) -> Coder:
    """The system of a study whose system gives codes."""
    assert study.coder is not None
    return study.coder


def number_of_codes(coder: Coder) -> int:
    """K, of a system that gives codes."""
    assert coder.quantizer.num_codes is not None
    return coder.quantizer.num_codes


def told_apart(coder: Coder, codes: np.ndarray) -> np.ndarray:
    """(P, h, w * n), the codes of a place told apart."""
    apart: np.ndarray = coder.quantizer.distinct(torch.from_numpy(codes)).numpy()
    return apart


def place_centres(study: Study) -> np.ndarray:
    """(h, w, 2), the pixel (x, y) about which each place of the grid looks.

    Measured, since any encoder may be in use: the centre of mass of the gradient of the place's latent.
    """
    coder = coder_of(study)
    device = next(coder.parameters()).device
    clips = study.seen(study.clips[[0]])
    frames = [to_float(frame).to(device).requires_grad_() for frame in clips.frames.unbind(1)]
    latent = coder.encode(*frames)
    height, width = coder.grid
    centres = np.zeros((height, width, 2))
    for row, column in np.ndindex(height, width):
        place = latent[0, :, row, column].square().sum()
        gradients = torch.autograd.grad(place, frames, retain_graph=True, allow_unused=True)
        weight = sum(gradient[0].abs().sum(0) for gradient in gradients if gradient is not None)
        assert isinstance(weight, Tensor)
        total = weight.sum().clamp_min(1e-20)
        centres[row, column] = [
            float((weight.sum(axis) * (torch.arange(size, device=device) + 0.5)).sum() / total)
            for axis, size in ((0, weight.shape[1]), (1, weight.shape[0]))
        ]
    return centres
