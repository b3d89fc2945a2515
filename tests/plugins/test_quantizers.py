"""Quantizers against the package vector-quantize-pytorch on equal inputs, and what their options do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ, ResidualVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from lapa import registry
from lapa.errors import DataError
from lapa.testing import LATENT_DIM, check_quantizer
from lapa_plugins.quantizers.codebook import assignment_entropy_loss, kmeans, pass_gradient
from lapa_plugins.quantizers.continuous import ContinuousQuantizer
from lapa_plugins.quantizers.ema import EmaConfig, EmaQuantizer
from lapa_plugins.quantizers.fsq import FsqQuantizer
from lapa_plugins.quantizers.gumbel import GumbelQuantizer
from lapa_plugins.quantizers.residual import ResidualQuantizer
from lapa_plugins.quantizers.vq import VectorQuantizer

CODES = 16


def latents(seed: int = 0, count: int = 6) -> Tensor:
    return torch.randn(count, LATENT_DIM, 4, 3, generator=torch.Generator().manual_seed(seed))


def rows(latent: Tensor) -> Tensor:
    return latent.movedim(1, -1).flatten(0, 2)


def started(cls: Any, **options: Any) -> Any:
    """A quantizer in training mode whose codes stay where they were drawn."""
    torch.manual_seed(0)
    quantizer = cls(cls.Config(num_codes=CODES, **options), latent_dim=LATENT_DIM)
    quantizer.started.fill_(True)
    return quantizer


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {"distance": "cosine"}) for name in ("vq", "ema")),
        *((name, {"code_dim": 3}) for name in ("vq", "ema", "residual")),
        *((name, {"code_dim": 3, "distance": "cosine"}) for name in ("vq", "ema")),
        *((name, {"gradient": "rotation", "start": "kmeans", "num_codes": 8}) for name in ("vq", "ema", "residual")),
        ("vq", {"entropy": 0.1}),
        *((name, {"commitment": 0.0}) for name in ("ema", "residual")),
        ("gumbel", {"entropy": 0.0}),
        ("lfq", {"entropy": 0.0, "commitment": 0.0}),
        ("continuous", {"kl": 0.0}),
        ("residual", {"depth": 3, "num_codes": 4}),
        ("gumbel", {"num_codes": 32, "categoricals": 32}),
        ("fsq", {"levels": (4, 4)}),
        ("fsq", {"levels": (8, 5, 5, 5)}),
        ("lfq", {"spherical": True}),
        ("simvq", {"rotation": False}),
    ],
    ids=str,
)
def test_options_keep_the_contract(name: str, options: dict[str, Any]) -> None:
    cls = registry.quantizers.get(name)
    check_quantizer(cls, cls.Config(**options))


# Against the library


def test_vq_is_that_of_the_library() -> None:
    ours = started(VectorQuantizer)
    theirs = VectorQuantize(
        dim=LATENT_DIM,
        codebook_size=CODES,
        learnable_codebook=True,
        ema_update=False,
        rotation_trick=False,
        accept_image_fmap=True,
    )
    theirs._codebook.embed.data.copy_(ours.codebook.data)
    quantized = ours(latents())
    expected, codes, _ = theirs(latents())
    assert torch.equal(quantized.codes, codes)
    torch.testing.assert_close(quantized.latent, expected)


def test_cosine_codes_are_those_of_the_library() -> None:
    ours = started(EmaQuantizer, distance="cosine").eval()
    theirs = VectorQuantize(dim=LATENT_DIM, codebook_size=CODES, use_cosine_sim=True, accept_image_fmap=True).eval()
    theirs._codebook.embed.data.copy_(ours.vectors())
    quantized = ours(latents())
    expected, codes, _ = theirs(latents())
    assert torch.equal(quantized.codes, codes)
    torch.testing.assert_close(quantized.latent, expected)


def test_the_codebook_loss_is_that_of_the_paper() -> None:
    quantizer = started(VectorQuantizer, commitment=0.25, codebook=1.0)
    latent = latents()
    quantized = quantizer(latent)
    error = F.mse_loss(quantizer.codes_to_latent(quantized.codes), latent)
    torch.testing.assert_close(quantized.loss, 1.25 * error)


def test_ema_moves_its_codes_as_the_library_does() -> None:
    ours = started(EmaQuantizer, decay=0.8, smoothing=1e-5)
    theirs = VectorQuantize(
        dim=LATENT_DIM,
        codebook_size=CODES,
        decay=0.8,
        eps=1e-5,
        rotation_trick=False,
        accept_image_fmap=True,
        threshold_ema_dead_code=0,
    )
    book = theirs._codebook
    book.embed.data.copy_(ours.codebook)
    book.embed_avg.data.copy_(ours.sums)
    book.cluster_size.data.copy_(ours.counts)
    for seed in range(5):
        quantized = ours(latents(seed))
        expected, codes, _ = theirs(latents(seed))
        ours.update()
        assert torch.equal(quantized.codes, codes)
        torch.testing.assert_close(quantized.latent, expected)
        torch.testing.assert_close(ours.counts, book.cluster_size[0])
        torch.testing.assert_close(ours.codebook, book.embed[0], atol=1e-5, rtol=1e-4)


def test_residual_is_that_of_the_library() -> None:
    torch.manual_seed(0)
    ours = ResidualQuantizer(ResidualQuantizer.Config(num_codes=CODES, depth=3), latent_dim=LATENT_DIM).eval()
    theirs = ResidualVQ(dim=LATENT_DIM, num_quantizers=3, codebook_size=CODES).eval()
    for level, layer in zip(ours.levels, theirs.layers, strict=True):
        layer._codebook.embed.data.copy_(level.codebook)
    latent = latents()
    quantized = ours(latent)
    expected, codes, _ = theirs(rows(latent)[None])
    assert torch.equal(quantized.codes.flatten(), codes.flatten())
    torch.testing.assert_close(rows(quantized.latent), expected[0])


@pytest.mark.parametrize("levels", [(8, 8, 4), (5, 3), (4, 3, 3, 3)], ids=str)
def test_fsq_is_that_of_the_library(levels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours = FsqQuantizer(FsqQuantizer.Config(levels=levels), latent_dim=LATENT_DIM)
    theirs = FSQ(levels=list(levels), dim=LATENT_DIM)
    theirs.project_in.load_state_dict({"weight": ours.down.weight.flatten(1), "bias": ours.down.bias})
    theirs.project_out.load_state_dict({"weight": ours.up.weight.flatten(1), "bias": ours.up.bias})
    latent = 3 * latents()
    quantized = ours(latent)
    expected, codes = theirs(latent)
    assert torch.equal(quantized.codes, codes.long())
    torch.testing.assert_close(quantized.latent, expected)
    assert len(quantized.codes.unique()) > min(4, ours.num_codes - 1)


def test_gumbel_draws_as_torch_does() -> None:
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(GumbelQuantizer.Config(num_codes=CODES, temperature=0.7), latent_dim=LATENT_DIM)
    latent = latents()
    logits = quantizer.logits(rows(latent))
    torch.manual_seed(3)
    codes = quantizer(latent).codes.flatten()
    torch.manual_seed(3)
    assert torch.equal(codes, F.gumbel_softmax(logits[:, None], tau=0.7, hard=True).argmax(-1)[:, 0])


def test_the_rotation_passes_the_gradient_as_the_library_does() -> None:
    generator = torch.Generator().manual_seed(0)
    flat, chosen, weight = torch.randn(3, 20, LATENT_DIM, generator=generator)
    gradients = []
    for rotate in (lambda x, y: pass_gradient(x, y, "rotation"), rotate_to):
        encoding = flat.clone().requires_grad_()
        turned = rotate(encoding, chosen)
        torch.testing.assert_close(turned, chosen)
        (turned * weight).sum().backward()
        gradients.append(encoding.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(gradients[0], weight), "straight through, the gradient would be the weight"


# Options


def test_kmeans_finds_the_centres_of_clouds() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    generator = torch.Generator().manual_seed(0)
    points = centres.repeat_interleave(50, 0) + 0.1 * torch.randn(150, 2, generator=generator)
    found = kmeans(points, points[[0, 60, 120]], 10)
    torch.testing.assert_close(found, centres, atol=0.1, rtol=0)


@pytest.mark.parametrize("cls", [VectorQuantizer, EmaQuantizer])
def test_a_kmeans_start_codes_the_first_batch_better(cls: Any) -> None:
    def error(start: str) -> float:
        torch.manual_seed(0)
        quantizer = cls(cls.Config(num_codes=4, start=start), latent_dim=LATENT_DIM)
        latent = latents() + 5 * F.one_hot(torch.arange(6) % 3, LATENT_DIM)[:, :, None, None]
        return float(F.mse_loss(quantizer(latent).latent, latent))

    assert error("kmeans") < 0.95 * error("sample")


def test_cosine_codes_do_not_see_lengths() -> None:
    quantizer = started(VectorQuantizer, distance="cosine").eval()
    assert torch.equal(quantizer(latents()).codes, quantizer(7 * latents()).codes)


def test_a_narrow_code_is_looked_up_in_its_own_width() -> None:
    quantizer = started(VectorQuantizer, code_dim=3)
    assert quantizer.codebook.shape == (CODES, 3)
    assert torch.linalg.matrix_rank(rows(quantizer(latents()).latent).detach() - quantizer.up.bias) <= 3


def test_residual_levels_bring_the_latent_nearer() -> None:
    def error(depth: int) -> float:
        torch.manual_seed(0)
        config = ResidualQuantizer.Config(num_codes=8, depth=depth)
        quantizer = ResidualQuantizer(config, latent_dim=LATENT_DIM)
        return float(F.mse_loss(quantizer(latents()).latent, latents()))

    errors = [error(depth) for depth in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.7 * errors[0]


def test_the_gradient_passes_residual_levels_once() -> None:
    latent = latents().requires_grad_()
    ResidualQuantizer(ResidualQuantizer.Config(depth=4), latent_dim=LATENT_DIM)(latent).latent.sum().backward()
    torch.testing.assert_close(latent.grad, torch.ones_like(latent))


def test_unused_codes_of_all_levels_are_moved() -> None:
    quantizer = ResidualQuantizer(ResidualQuantizer.Config(num_codes=8, depth=2), latent_dim=LATENT_DIM)
    quantizer(latents())
    for level in quantizer.levels:
        level.used[:3] = 0
    assert quantizer.reseed_unused(latents()) >= 6
    assert all(level.used.sum() == 0 for level in quantizer.levels)


def three_places(rare: int) -> torch.Tensor:
    """Latents (1, D, 1, 64) at two places, and ``rare`` of them at a third one."""
    latent = torch.zeros(64, LATENT_DIM)
    latent[::2, 0], latent[:rare, 1] = 1.0, 5.0
    return latent.T[None, :, None]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize(("memory", "has_a_code"), [(0, False), (8, True)])
def test_a_rare_encoding_is_remembered_until_codes_are_reseeded(distance: str, memory: int, has_a_code: bool) -> None:
    """It is in one batch, but not in the last one, which is all that is looked at without a memory."""
    options = {"reseed_by_error": True, "reseed_memory": memory, "distance": distance, "decay": 0.0}
    torch.manual_seed(0)
    quantizer = EmaQuantizer(EmaQuantizer.Config(num_codes=6, **options), latent_dim=LATENT_DIM)
    common, seldom = three_places(0), three_places(2)
    for latent in (common, seldom, common, common):
        quantizer(latent)
        quantizer.update()
    quantizer.reseed_unused(common)
    found = quantizer.eval()(seldom).latent.flatten(2)[0, :, 1]
    wanted = quantizer.encodings(seldom.flatten(2)[0].T)[1]
    assert torch.allclose(found, wanted, atol=1e-3) is has_a_code


def test_codes_that_nothing_is_missing_for_stay_where_they_are() -> None:
    torch.manual_seed(0)
    options = {"reseed_memory": 8, "decay": 0.0, "smoothing": 1e-12}
    quantizer = EmaQuantizer(EmaQuantizer.Config(num_codes=16, **options), latent_dim=LATENT_DIM)
    latent = three_places(2)
    for _ in range(3):
        quantizer(latent)
        quantizer.update()
        moved = quantizer.reseed_unused(latent)
    assert moved == 0
    assert (quantizer.eval()(latent).latent - latent).abs().max() < 1e-3


def test_a_memory_is_part_of_the_state_and_no_memory_is_not() -> None:
    with_memory, without = (
        EmaQuantizer(EmaQuantizer.Config(reseed_memory=memory), latent_dim=LATENT_DIM) for memory in (8, 0)
    )
    assert {"far", "far_errors"} == with_memory.state_dict().keys() - without.state_dict().keys()


def test_a_gumbel_temperature_falls_geometrically() -> None:
    quantizer = GumbelQuantizer(GumbelQuantizer.Config(temperature=1.0, temperature_end=0.01), latent_dim=LATENT_DIM)
    for progress, expected in ((0.0, 1.0), (0.5, 0.1), (1.0, 0.01)):
        quantizer.anneal(progress)
        assert float(quantizer.temperature) == pytest.approx(expected)


def test_a_gumbel_draw_is_noisy_in_training_and_sure_otherwise() -> None:
    quantizer = GumbelQuantizer(GumbelQuantizer.Config(num_codes=CODES), latent_dim=LATENT_DIM)
    assert not torch.equal(quantizer(latents()).codes, quantizer(latents()).codes)
    quantizer.eval()
    likeliest = quantizer.logits(rows(latents())).argmax(1)
    assert torch.equal(quantizer(latents()).codes.flatten(), likeliest)


def test_a_continuous_latent_has_no_codes_and_costs_what_it_tells() -> None:
    quantizer = ContinuousQuantizer(ContinuousQuantizer.Config(kl=1.0), latent_dim=LATENT_DIM)
    quantized = quantizer(latents())
    assert quantized.codes is None
    assert quantizer.num_codes is None
    assert math.isinf(quantizer.bits)
    with torch.no_grad():
        quantizer.moments.weight.zero_()
        quantizer.moments.bias.zero_()
    assert float(quantizer(latents()).loss.detach()) == pytest.approx(0.0)
    with pytest.raises(DataError, match="has no codes"):
        quantizer.codes_to_latent(torch.zeros(1, 1, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (EmaConfig, {"num_codes": 1}, "needs at least 2"),
        (EmaConfig, {"commitment": -1.0}, "commitment: must not be negative"),
        (EmaConfig, {"code_dim": -1}, "code_dim: must be 0"),
        (EmaConfig, {"decay": 1.0}, "decay must lie in"),
        (ResidualQuantizer.Config, {"depth": 0}, "depth: needs at least 1"),
        (ResidualQuantizer.Config, {"distance": "cosine"}, "take euclidean"),
        (FsqQuantizer.Config, {"levels": ()}, "levels: each must be at least 3"),
        (FsqQuantizer.Config, {"levels": (2, 4)}, "for 2 take lfq"),
        (GumbelQuantizer.Config, {"categoricals": 0}, "categoricals at least 1"),
        (GumbelQuantizer.Config, {"temperature": 0.0}, "must be positive"),
        (ContinuousQuantizer.Config, {"kl": -1.0}, "kl: must not be negative"),
    ],
)
def test_impossible_options_are_refused(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_the_entropy_of_sure_assignments_has_a_finite_gradient() -> None:
    logits = torch.tensor([[0.0, 200.0, -200.0]], requires_grad=True)
    assignment_entropy_loss(logits.softmax(-1)).backward()
    assert logits.grad.isfinite().all()


def planted(name: str, share: float) -> tuple[Any, Tensor, int]:
    """A quantizer, a latent (1, D, 1, 1) tied between code 2 and a higher one but for ``share``, and that code."""
    torch.manual_seed(0)
    quantizer = registry.quantizers.get(name)(registry.quantizers.get(name).Config(), latent_dim=LATENT_DIM)
    quantizer = quantizer.double().eval().requires_grad_(False)
    latent = torch.zeros(1, LATENT_DIM, 1, 1, dtype=torch.float64)
    latent[0, 0] = 1.0
    other = 9
    if name in ("vq", "ema", "residual"):
        book = quantizer.levels[0].codebook if name == "residual" else quantizer.codebook
        book[:] = -5.0
        book[2], book[9] = latent[0, :, 0, 0] * 0.5, latent[0, :, 0, 0] * (0.5 + share)
    elif name == "gumbel":
        quantizer.logits.weight.zero_()
        quantizer.logits.bias[2], quantizer.logits.bias[9] = 3.0, 3.0 * (1 + share)
    elif name == "simvq":
        lengthening = torch.full((len(quantizer.inner.codebook), 1), 7.0, dtype=torch.float64)
        quantizer.inner.frozen_codebook[:] = lengthening
        quantizer.inner.frozen_codebook[9] = quantizer.inner.frozen_codebook[2] = 0.1
        quantizer.inner.frozen_codebook[9] *= 1 - share
        latent[:] = 0.0
    elif name == "lfq":  # bit 0 is undecided, bit 1 of code 2 is set, and no other
        quantizer.inner.project_in.weight.zero_()
        quantizer.inner.project_in.bias[:] = -1.0
        mask = quantizer.inner.mask.tolist()
        quantizer.inner.project_in.bias[mask.index(2)] = 1.0
        quantizer.inner.project_in.weight[mask.index(1), 0] = 1.0
        quantizer.inner.project_in.bias[mask.index(1)] = -(1.0 - share)
        other = 3
    else:  # fsq: the first dimension is half-way between two levels
        quantizer.down.weight.zero_()
        _, offset, shift = quantizer._bounds(latent)
        half = quantizer._bounds(latent)[0]
        wanted = torch.full_like(half, 0.0)
        wanted[0] = 0.5 + share
        quantizer.down.bias[:] = (((wanted + offset) / half).atanh() - shift).flatten()
        low = torch.tensor(quantizer.levels.tolist()) // 2 * quantizer.basis
        return quantizer, latent, int(low.sum() + 1)
    return quantizer, latent, other


@pytest.mark.parametrize("name", [name for name in registry.quantizers.names() if name != "continuous"])
def test_of_tied_codes_the_lowest_wins_and_of_others_the_nearest(name: str) -> None:
    tied = [planted(name, share) for share in (0.0, 1e-13, -1e-13)]
    codes = {int(quantizer(latent).codes.flatten()[0]) for quantizer, latent, _ in tied}
    quantizer, latent, other = planted(name, 1e-6)
    lowest = codes.pop()
    assert not codes, "rounding decides between tied codes"
    assert lowest == (other - 1 if name == "fsq" else 2)
    assert int(quantizer(latent).codes.flatten()[0]) == other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["vq", "ema", "residual"])
def test_equal_code_vectors_give_the_lowest_code_whatever_the_batch(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    quantizer = registry.quantizers.get(name)(registry.quantizers.get(name).Config(num_codes=16), latent_dim=LATENT_DIM)
    quantizer = quantizer.to(dtype).eval().requires_grad_(False)
    for book in [level.codebook for level in getattr(quantizer, "levels", [quantizer])]:
        book[8:] = book[:8]  # each code twice
    latent = torch.randn(64, LATENT_DIM, 7, 5, dtype=dtype)
    codes = quantizer(latent).codes
    assert int(codes.max()) < 8
    laid = quantizer(latent.to(memory_format=torch.channels_last)).codes
    assert torch.equal(laid, codes)
    assert torch.equal(torch.cat([quantizer(row).codes for row in latent.split(1)]), codes)
