"""What the quantizers with an explicit codebook share: nearest codes, usage, re-seeding."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lapa import distributed
from lapa.contracts import Quantizer


class CodebookQuantizer(Quantizer):
    """A table of K code vectors of width D; each encoding becomes its nearest one.

    ``used`` counts how often each code was chosen since the last re-seeding. The first training batch
    spreads the codes over real encodings, so that none starts where no encoding ever comes.

    Args:
        num_codes: K.
        latent_dim: D.
        reseed_below: codes used less than this share of the mean are re-seeded too, not only unused ones.
        reseed_by_error: draw the encodings in proportion to their squared distance from the nearest code, as k-means++
            does (Arthur and Vassilvitskii 2007, section 2.2), so that codes go where they are missing; else evenly.
    """

    codebook: Tensor
    used: Tensor
    started: Tensor

    def __init__(
        self, num_codes: int, latent_dim: int, *, reseed_below: float = 0.0, reseed_by_error: bool = False
    ) -> None:
        super().__init__()
        self._num_codes = num_codes
        self._reseed_below = reseed_below
        self._reseed_by_error = reseed_by_error
        self.register_buffer("used", torch.zeros(num_codes, dtype=torch.int64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @property
    def num_codes(self) -> int:
        return self._num_codes

    @property
    def bits(self) -> float:
        return math.log2(self.num_codes)

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.codebook).movedim(-1, 1)  # (B, h, w) -> (B, D, h, w)

    def nearest(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances (N, K) of encodings (N, D) to codes, less each encoding's own norm; their argmin."""
        distances = self.codebook.square().sum(1) - 2 * flat @ self.codebook.T
        return distances, distances.argmin(1)

    def margin(self, latent: Tensor) -> Tensor:
        # By the triangle inequality, half the gap between the nearest and the second nearest code.
        flat = flatten(latent)
        nearest = torch.cdist(flat, self.codebook.to(flat.dtype)).topk(2, dim=1, largest=False).values
        return unflatten((nearest[:, 1] - nearest[:, 0]) / 2, latent)

    @torch.no_grad()
    def start_from(self, flat: Tensor) -> None:
        """On the first training batch, puts every code on an encoding (N, D) drawn from it."""
        if not self.started:
            flat = distributed.gathered_rows(flat)
            self._move(torch.arange(self.num_codes, device=flat.device), flat, flat.new_ones(len(flat)))
            self.started.fill_(True)

    @torch.no_grad()
    def reseed_unused(self, latent: Tensor) -> int:
        rare = self.used < self._reseed_below * self.used.sum() / self.num_codes
        unused = ((self.used == 0) | rare).nonzero().squeeze(1)
        if len(unused):
            flat = distributed.gathered_rows(full_precision(flatten(latent)))
            weights = flat.new_ones(len(flat))
            if self._reseed_by_error:
                distances, codes = self.nearest(flat)
                error = distances.gather(1, codes[:, None]).squeeze(1) + flat.square().sum(1)
                weights = error.clamp(min=1e-12)  # rounding can make it negative; and each must stay possible
            self._move(unused, flat, weights)
        self.used.zero_()
        return len(unused)

    def _move(self, which: Tensor, flat: Tensor, weights: Tensor) -> None:
        """Puts the codes ``which`` on encodings drawn from ``flat`` (N, D) by ``weights``, the same on all ranks."""
        # No two codes on one encoding, if there are enough.
        drawn = torch.multinomial(weights, len(which), replacement=len(flat) < len(which))
        self.codebook[which] = flat[distributed.broadcast(drawn)].to(self.codebook.dtype)

    @torch.no_grad()
    def usage_metrics(self, codes: Tensor) -> dict[str, Tensor]:
        """Perplexity and number of codes of a batch ``codes`` (N,); in training, of all ranks' batches together.

        Training counts them into ``used``.
        """
        counts = torch.bincount(codes, minlength=self.num_codes)
        if self.training:
            counts = distributed.summed(counts)
            self.used += counts
        share = counts / counts.sum()
        perplexity = torch.special.entr(share).sum().exp()
        return {"perplexity": perplexity, "codes_used": (counts > 0).sum()}


def check_codebook(num_codes: int, reseed_below: float) -> None:
    """Checks the options that the quantizers share.

    Raises:
        ValueError: fewer than two codes, or a share outside [0, 1).
    """
    if num_codes < 2:
        raise ValueError(f"num_codes: needs at least 2, not {num_codes}")
    if not 0 <= reseed_below < 1:
        raise ValueError(f"reseed_below: must be a share in [0, 1), not {reseed_below}")


def flatten(latent: Tensor) -> Tensor:
    """(B, D, h, w) -> (B*h*w, D)."""
    return latent.movedim(1, -1).flatten(0, 2)


def full_precision(x: Tensor) -> Tensor:
    """At least single precision: distances between near codes drown in half precision."""
    return x if x.dtype == torch.float64 else x.float()


def unflatten(flat: Tensor, like: Tensor) -> Tensor:
    """(B*h*w, ...) -> (B, h, w, ...) on the grid of ``like`` (B, D, h, w)."""
    batch, _, rows, columns = like.shape
    return flat.unflatten(0, (batch, rows, columns))
