"""What the quantizers with an explicit codebook share: nearest codes, gradients, usage, re-seeding."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa import distributed
from lapa.compiled import can_compile, compiled
from lapa.contracts import Quantized, Quantizer

KMEANS_ROUNDS = 10
FARTHEST = 16
"""Encodings of a batch that are remembered, at most."""

TIE = {torch.float32: 1e-6, torch.float64: 1e-9}
"""Codes whose squared distances, or logits, differ by less than this share of their size are tied: the lowest wins.

Codes that started on equal encodings are equal, and then rounding would choose between them, differently on every
processor. The share is well above the rounding of its precision, and far below what training can tell apart.
"""


@dataclasses.dataclass(frozen=True)
class CodebookConfig:
    """Options that all quantizers with a codebook have.

    Attributes:
        num_codes: K, the number of codes.
        commitment: weight of the term that moves encodings to codes.
        distance: ``euclidean``, or ``cosine``: encodings and codes are brought to length 1 first.
        code_dim: number of dimensions that encodings are projected to before the look-up, and back from after it (Yu et
            al. 2021, section 3.2); 0 looks them up without a projection.
        start: on the first batch, codes are a ``sample`` of its encodings, or their ``kmeans`` centres.
        gradient: how the gradient passes the quantizer: ``straight_through`` unchanged, or turned by the ``rotation``
            that takes the encoding to its code (Fifty et al. 2024, section 4).
        reseed_below: re-seed codes used less than this share of the mean, not only unused ones.
        reseed_by_error: re-seed codes onto encodings that are far from every code, rather than onto random ones.
        reseed_memory: number of encodings that are remembered between re-seedings, those farthest from their codes;
            codes are re-seeded onto these too, one by one, each where a code is missing most. Rare things are hardly
            ever in the one batch that is looked at otherwise.
    """

    num_codes: int = 256
    commitment: float = 0.25
    distance: Literal["euclidean", "cosine"] = "euclidean"
    code_dim: int = 0
    start: Literal["sample", "kmeans"] = "sample"
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    reseed_below: float = 0.0
    reseed_by_error: bool = False
    reseed_memory: int = 0

    def __post_init__(self) -> None:
        if self.num_codes < 2:
            raise ValueError(f"num_codes: needs at least 2, not {self.num_codes}")
        if not 0 <= self.reseed_below < 1:
            raise ValueError(f"reseed_below: must be a share in [0, 1), not {self.reseed_below}")
        if self.commitment < 0:
            raise ValueError(f"commitment: must not be negative, as {self.commitment} is")
        if self.reseed_memory < 0:
            raise ValueError(f"reseed_memory: must not be negative, as {self.reseed_memory} is")
        if self.code_dim < 0:
            raise ValueError(f"code_dim: must be 0 (as wide as the latent) or more, not {self.code_dim}")


class CodebookQuantizer(Quantizer):
    """A table of K code vectors; each encoding becomes its nearest one.

    ``used`` counts how often each code was chosen since the last re-seeding. The first training batch
    spreads the codes over real encodings, so that none starts where no encoding ever comes.

    Subclasses make ``codebook``, (K, :attr:`width`), and say what moves it.
    """

    codebook: Tensor
    used: Tensor
    started: Tensor
    far: Tensor | None
    far_errors: Tensor | None

    def __init__(self, config: CodebookConfig, *, latent_dim: int) -> None:
        super().__init__()
        self.options = config
        self.width = config.code_dim or latent_dim
        self.down = nn.Linear(latent_dim, self.width) if config.code_dim else nn.Identity()
        self.up = nn.Linear(self.width, latent_dim) if config.code_dim else nn.Identity()
        self.register_buffer("used", torch.zeros(config.num_codes, dtype=torch.int64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        memory = config.reseed_memory
        self.register_buffer("far", torch.zeros(memory, self.width) if memory else None)
        self.register_buffer("far_errors", torch.zeros(memory) if memory else None)  # 0 where nothing is remembered
        self._distinct: tuple[Tensor, Tensor] | None = None  # kept for inference

    @property
    def num_codes(self) -> int:
        return self.options.num_codes

    @abstractmethod
    def losses(self, flat: Tensor, chosen: Tensor, distances: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Weight and term of each loss by name, from encodings (N, d), their codes' vectors, and (N, K) distances."""

    def collect(self, flat: Tensor, codes: Tensor) -> None:
        """Sees the encodings (N, d) of a training batch and their codes (N,)."""

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            flat = self.encodings(flatten(latent))
            if self.training:
                self.start_from(flat.detach())
            distances = self.distances(flat)
            codes = nearest(distances, flat)
            chosen = F.embedding(codes, self.vectors())
            terms = self.losses(flat, chosen, distances)
            if self.training:
                self.used += distributed.summed(torch.bincount(codes, minlength=self.num_codes))
                self.collect(flat.detach(), codes)
                self.remember(flat.detach(), distances.detach())
            quantized = self.up(pass_gradient(flat, chosen, self.options.gradient))
            loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return Quantized(
            latent=unflatten(quantized, latent).movedim(-1, 1),
            codes=unflatten(codes, latent),
            loss=loss,
            metrics={name: term.detach() for name, (_, term) in terms.items()},
        )

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        return self.up(F.embedding(codes, self.vectors())).movedim(-1, 1)  # (B, h, w) -> (B, D, h, w)

    def encodings(self, rows: Tensor) -> Tensor:
        """(N, D) -> (N, d), projected and brought to length 1 where the options say so."""
        flat = self.down(full_precision(rows))
        return F.normalize(flat, dim=1) if self.options.distance == "cosine" else flat

    def vectors(self) -> Tensor:
        """(K, d), the codes as encodings are compared with them."""
        return F.normalize(self.codebook, dim=1) if self.options.distance == "cosine" else self.codebook

    def distances(self, flat: Tensor) -> Tensor:
        """Squared distances (N, K) of encodings (N, d) to codes, less each encoding's own squared length."""
        return squared_distances(flat, self.vectors())

    def margin(self, latent: Tensor) -> Tensor:
        return unflatten(self.assign(flatten(latent))[1], latent)

    def assign(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        codes, margin = nearest_in_turn(self.encodings(rows), [self.table()])
        if self.options.distance == "cosine":
            # Bringing two vectors to length 1 brings them apart by at most 2 / length times their distance.
            margin = margin * self.down(full_precision(rows)).norm(dim=1) / 2
        if isinstance(self.down, nn.Linear):
            margin = margin / torch.linalg.matrix_norm(self.down.weight, 2)
        return codes, margin

    def table(self) -> tuple[Tensor, Tensor]:
        """:meth:`distinct_vectors`, kept where that was asked for."""
        return self._distinct or self.distinct_vectors()

    def optimize_for_inference(self) -> None:
        self._distinct = self.distinct_vectors()

    def distinct_vectors(self) -> tuple[Tensor, Tensor]:
        """:meth:`vectors` (K, d) and their squared lengths (K,), of equal ones all but the lowest out of reach.

        They are one code, and on no border with each other.
        """
        vectors = self.vectors().detach()
        squares = vectors.square().sum(1)
        repeated = np.ones(len(vectors), dtype=bool)
        repeated[np.unique(vectors.cpu().numpy(), axis=0, return_index=True)[1]] = False
        squares[torch.from_numpy(repeated).to(squares.device)] = torch.finfo(squares.dtype).max / 4
        return vectors.T.contiguous().T, squares  # find_nearest goes along the codes

    @torch.no_grad()
    def start_from(self, flat: Tensor) -> None:
        """On the first training batch, puts every code on an encoding (N, d) drawn from it, or on their centres."""
        if not self.started:
            flat = distributed.gathered_rows(flat)
            self._move(torch.arange(self.num_codes, device=flat.device), flat, flat.new_ones(len(flat)))
            if self.options.start == "kmeans":
                self.place(slice(None), kmeans(flat, self.codebook, KMEANS_ROUNDS))
            self.started.fill_(True)

    @torch.no_grad()
    def remember(self, flat: Tensor, distances: Tensor) -> None:
        """Keeps those of a training batch's encodings (N, d) that are farthest from their codes, if they are wanted."""
        if self.far is None or self.far_errors is None:
            return
        errors, rows = squared_errors(flat, distances).topk(min(len(flat), FARTHEST))
        errors, vectors = (distributed.gathered_rows(each) for each in (errors, flat[rows]))
        vectors = torch.cat([self.far, vectors.to(self.far.dtype)])
        errors = torch.cat([self.far_errors, errors.to(self.far_errors.dtype)])
        largest, kept = errors.topk(len(self.far))
        self.far_errors.copy_(largest)
        self.far.copy_(vectors[kept])

    @torch.no_grad()
    def reseed_unused(self, latent: Tensor) -> int:
        rare = self.used < self.options.reseed_below * self.used.sum() / self.num_codes
        unused = ((self.used == 0) | rare).nonzero().squeeze(1)
        self.used.zero_()
        if not len(unused):
            return 0
        flat = distributed.gathered_rows(self.encodings(flatten(latent)))
        if self.far is not None and self.far_errors is not None:
            known = self.far[self.far_errors > 0].to(flat.dtype)
            self.far_errors.zero_()
            return self._spread(unused, torch.cat([known, flat]))
        weights = flat.new_ones(len(flat))
        if self.options.reseed_by_error:
            # In proportion to the squared distance from the nearest code, as k-means++ does (Arthur and Vassilvitskii
            # 2007, section 2.2): codes go where they are missing.
            error = squared_errors(flat, self.distances(flat))
            weights = error.clamp(min=1e-12)  # rounding can make it negative; and each must stay possible
        self._move(unused, flat, weights)
        return len(unused)

    def _spread(self, which: Tensor, flat: Tensor) -> int:
        """Puts the codes ``which`` on encodings (N, d), one after the other, by the error that those before it left.

        That is k-means++ (Arthur and Vassilvitskii 2007, section 2.2). Where all encodings have a code, the rest of the
        codes stay as they are. Returns how many have moved.
        """
        error = squared_errors(flat, self.distances(flat))
        negligible = TIE[flat.dtype] * flat.square().sum(1).mean()
        for moved, code in enumerate(which):
            error = torch.where(error > negligible, error, 0)
            if not error.any():
                return moved
            drawn = distributed.broadcast(torch.multinomial(error, 1))
            self.place(code[None], flat[drawn])
            vector = F.normalize(flat[drawn], dim=1) if self.options.distance == "cosine" else flat[drawn]
            error = torch.minimum(error, (flat - vector).square().sum(1))
        return len(which)

    def _move(self, which: Tensor, flat: Tensor, weights: Tensor) -> None:
        """Puts the codes ``which`` on encodings drawn from ``flat`` (N, d) by ``weights``, the same on all ranks."""
        # No two codes on one encoding, if there are enough.
        drawn = torch.multinomial(weights, len(which), replacement=len(flat) < len(which))
        self.place(which, flat[distributed.broadcast(drawn)])

    def place(self, which: Tensor | slice, vectors: Tensor) -> None:
        """Puts the codes ``which`` on ``vectors``."""
        self.codebook[which] = vectors.to(self.codebook.dtype)


def squared_errors(flat: Tensor, distances: Tensor) -> Tensor:
    """Squared distance (N,) of encodings (N, d) from their nearest codes, from what ``distances`` says (N, K)."""
    return distances.amin(1) + flat.square().sum(1)


def squared_distances(flat: Tensor, vectors: Tensor) -> Tensor:
    """(N, d) and (K, d) -> (N, K), squared distances less each encoding's own squared length."""
    return distances_to(flat, (vectors, vectors.square().sum(1)))


def distances_to(flat: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """The same of (N, d) and of (K, d) with their squared lengths (K,)."""
    vectors, squares = table
    return torch.addmm(squares, flat, vectors.T, alpha=-2)


def nearest(distances: Tensor, flat: Tensor) -> Tensor:
    """The column (N,) of the smallest of each row (N, K), of tied ones the lowest; see :data:`TIE`.

    Args:
        distances: squared, less the own squared length of the encodings.
        flat: (N, d), the encodings.
    """
    smallest = distances.amin(1)
    slack = TIE[distances.dtype] * (flat.square().sum(1) + smallest.abs())
    return lowest(distances <= (smallest + slack)[:, None])


def lowest(candidates: Tensor) -> Tensor:
    """(..., K) bool -> (...) int64, the first column that is true; the last one where none is, as after an overflow."""
    # Of equal values argmax may take any.
    count = candidates.shape[-1]
    columns = torch.arange(count, dtype=torch.int32, device=candidates.device)
    return torch.where(candidates, columns, count - 1).amin(-1).long()


def nearest_with_margin(distances: Tensor, flat: Tensor) -> tuple[Tensor, Tensor]:
    """The column (N,) of the smallest of each row (N, K), and how far each encoding can move before it is another.

    Args:
        distances: squared, less the own squared length of the encodings.
        flat: (N, d), the encodings.

    Returns:
        Columns, any of those that are tied, and margins (N,), lower bounds.
    """
    # By the triangle inequality, the margin is half the gap between the nearest and the second nearest code, which is
    # that of their squares over twice their sum; less what is tied, and what squares lose by rounding.
    smallest, columns = distances.topk(2, dim=1, largest=False)
    own = flat.square().sum(1)
    first, second = smallest.unbind(1)
    lengths = (first + own).clamp_min_(0).sqrt_() + (second + own).clamp_min_(0).sqrt_()
    gap = second - first - lost_by_rounding(flat.dtype) * (own + torch.maximum(first.abs(), second.abs()))
    return columns[:, 0], gap.clamp_min_(0) / (2 * lengths).clamp_min_(1e-30)


def lost_by_rounding(dtype: torch.dtype) -> float:
    """The share of their size below which the difference of two squared distances says nothing."""
    return TIE[dtype] + 4 * torch.finfo(dtype).eps


def nearest_in_turn(flat: Tensor, tables: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Codes from n tables, each for what those before it left over of an encoding.

    Args:
        flat: (N, d), the encodings.
        tables: vectors (K, d) and their squared lengths (K,).

    Returns:
        Codes (N, n), and margins (N,) within which none of them changes.
    """
    if flat.device.type == "cpu" and can_compile():
        vectors = tuple(np.ascontiguousarray(each.numpy().T) for each, _ in tables)
        squares = tuple(each.numpy() for _, each in tables)
        found = find_nearest(flat.detach().numpy(), vectors, squares, lost_by_rounding(flat.dtype))
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    codes, margins = [], []
    for table in tables:
        nearest_codes, margin = nearest_with_margin(distances_to(flat, table), flat)
        flat = flat - F.embedding(nearest_codes, table[0])
        codes.append(nearest_codes)
        margins.append(margin)
    # While no code changes, what is left over moves as the encoding does: the smallest margin holds for all.
    return torch.stack(codes, dim=1), torch.stack(margins).amin(0)


@compiled
def find_nearest(
    flat: np.ndarray, vectors: tuple[np.ndarray, ...], squares: tuple[np.ndarray, ...], lost: float
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`nearest_in_turn` in one go: for a few rows, calls would take longer than the work.

    Args:
        flat: (N, d), the encodings.
        vectors: (d, K) of each table.
        squares: (K,), likewise.
        lost: see :func:`lost_by_rounding`.
    """
    codes, margins = np.empty((len(flat), len(vectors)), np.int64), np.empty(len(flat), flat.dtype)
    distances = np.empty(len(squares[0]), flat.dtype)
    for row in range(len(flat)):
        left, margin = flat[row].copy(), np.inf
        for turn in range(len(vectors)):
            distances[:] = squares[turn]
            for i in range(len(left)):
                twice = 2 * left[i]
                for k in range(len(distances)):
                    distances[k] -= twice * vectors[turn][i, k]
            column, first, second = 0, np.inf, np.inf
            for k in range(len(distances)):
                distance = distances[k]
                if distance < first:
                    column, first, second = k, distance, first
                elif distance < second:
                    second = distance
            own = (left * left).sum()
            lengths = math.sqrt(max(first + own, 0.0)) + math.sqrt(max(second + own, 0.0))
            gap = second - first - lost * (own + max(abs(first), abs(second)))
            margin = min(margin, max(gap, 0.0) / max(2 * lengths, 1e-30))
            codes[row, turn] = column
            left -= vectors[turn][:, column]
        margins[row] = margin
    return codes, margins


def pass_gradient(flat: Tensor, chosen: Tensor, how: str) -> Tensor:
    """The codes' vectors (N, d), with a gradient for the encodings (N, d)."""
    if how == "straight_through":
        return flat + (chosen - flat).detach()
    # The rotation of the encoding's direction e onto the code's q, as two reflections, is x - 2 r (r x) + 2 q (e x)
    # with r = (e + q) / |e + q|; it and the change of length are held fixed.
    with torch.no_grad():
        e, q = F.normalize(flat, dim=1), F.normalize(chosen, dim=1)
        r = F.normalize(e + q, dim=1)
        scale = chosen.norm(dim=1, keepdim=True) / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
    turned = flat - 2 * r * (r * flat).sum(1, keepdim=True) + 2 * q * (e * flat).sum(1, keepdim=True)
    turned = scale * turned
    return turned + (chosen - turned).detach()  # exact also where rounding, or an encoding of length 0, is not


def kmeans(points: Tensor, centres: Tensor, rounds: int) -> Tensor:
    """Lloyd's algorithm on points (N, d) from centres (K, d); a centre that wins no point stays."""
    for _ in range(rounds):
        chosen = F.one_hot(torch.cdist(points, centres).argmin(1), len(centres)).to(points.dtype)  # (N, K)
        counts = chosen.sum(0)[:, None]
        centres = torch.where(counts > 0, chosen.T @ points / counts.clamp_min(1), centres)
    return centres


def assignment_entropy_loss(soft: Tensor) -> Tensor:
    """Of soft assignments (N, K): lowers the entropy of each and raises that of their mean, over all ranks.

    An argmin has no gradient, soft assignments do (Yu et al. 2023, equation 6).
    """
    soft = soft.clamp_min(torch.finfo(soft.dtype).tiny)  # at 0 the entropy's slope is infinite
    each = torch.special.entr(soft).sum(-1).mean()
    mean = torch.special.entr(distributed.mean_with_gradient(soft.mean(0))).sum(-1).mean()
    return each - mean


def normal_codebook(num_codes: int, width: int) -> Tensor:
    """(K, d), drawn so that codes have about length 1."""
    return torch.randn(num_codes, width) / math.sqrt(width)


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
