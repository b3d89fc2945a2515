"""Residual vector quantization: each level codes what the ones before it left over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Quantized, Quantizer
from lapa_plugins.quantizers.codebook import flatten, full_precision, nearest, nearest_in_turn, pass_gradient, unflatten
from lapa_plugins.quantizers.ema import EmaConfig, EmaQuantizer


class ResidualQuantizer(Quantizer):
    """``depth`` codes a place: each level, an ``ema`` codebook, codes the rest (Zeghidour et al. 2021, III-C)."""

    @dataclasses.dataclass(frozen=True)
    class Config(EmaConfig):
        """Options of ``residual``, beside those of ``ema`` for each level; ``distance`` is ``euclidean``.

        Attributes:
            depth: n, the number of levels, each with K codes.
        """

        depth: int = 2

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.depth < 1:
                raise ValueError(f"depth: needs at least 1 level, not {self.depth}")
            if self.distance != "euclidean":
                raise ValueError("distance: what is left over has a length that matters; take euclidean")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        width = config.code_dim or latent_dim
        self.down = nn.Conv2d(latent_dim, width, 1) if config.code_dim else nn.Identity()
        self.up = nn.Conv2d(width, latent_dim, 1) if config.code_dim else nn.Identity()
        each = {f.name: getattr(config, f.name) for f in dataclasses.fields(EmaConfig)}
        level = EmaConfig(**{**each, "code_dim": 0})
        levels = [EmaQuantizer(level, latent_dim=width) for _ in range(config.depth)]
        self.levels: Sequence[EmaQuantizer] = nn.ModuleList(levels)  # type: ignore[assignment]

    @property
    def num_codes(self) -> int:
        return self.config.num_codes

    @property
    def codes_per_place(self) -> int:
        return self.config.depth

    @property
    def has_loss(self) -> bool:
        return self.config.commitment > 0

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            encoding = self.down(full_precision(latent))
            rest = encoding
            parts = []
            for level in self.levels:
                parts.append(level(rest))
                rest = rest - parts[-1].latent.detach()
            # The gradient passes once: through each of the levels it would count n times.
            quantized = pass_gradient(flatten(encoding), flatten((encoding - rest).detach()), self.config.gradient)
            quantized = self.up(unflatten(quantized, latent).movedim(-1, 1))
            loss = torch.stack([part.loss for part in parts]).sum()
        return Quantized(
            latent=quantized,
            codes=torch.stack([part.codes for part in parts], dim=-1).flatten(2),
            loss=loss,
            metrics={"rest": rest.detach().square().mean()},
        )

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        by_level = codes.unflatten(2, (-1, len(self.levels))).unbind(-1)
        parts = [level.codes_to_latent(part) for level, part in zip(self.levels, by_level, strict=True)]
        return self.up(torch.stack(parts).sum(0))

    def margin(self, latent: Tensor) -> Tensor:
        return unflatten(self.assign(flatten(latent))[1], latent)

    def assign(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = full_precision(rows)
        if not isinstance(self.down, nn.Conv2d):
            return nearest_in_turn(rows, [level.table() for level in self.levels])
        weight = self.down.weight.flatten(1)
        codes, margin = nearest_in_turn(
            F.linear(rows, weight, self.down.bias), [level.table() for level in self.levels]
        )
        return codes, margin / torch.linalg.matrix_norm(weight, 2)

    def update(self) -> None:
        for level in self.levels:
            level.update()

    def reseed_unused(self, latent: Tensor) -> int:
        rest, moved = self.down(full_precision(latent)).detach(), 0
        for level in self.levels:
            flat = level.encodings(flatten(rest))
            codes = nearest(level.distances(flat), flat)
            left = rest - level.codes_to_latent(unflatten(codes, rest))
            moved += level.reseed_unused(rest)
            rest = left
        return moved
