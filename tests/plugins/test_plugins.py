"""The contract sweep: what every registered encoder, quantizer, conditioner and decoder must do."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lapa import registry
from lapa.config import config_from_dict, config_to_dict, load_config
from lapa.testing import CHECKS, Subject, options_are_a_frozen_dataclass
from lapa_plugins.quantizers.codebook import CodebookQuantizer, nearest_in_turn
from lapa_plugins.quantizers.ema import EmaQuantizer
from lapa_plugins.quantizers.vq import VectorQuantizer

REGISTRIES = {
    "encoder": registry.encoders,
    "quantizer": registry.quantizers,
    "conditioner": registry.conditioners,
    "decoder": registry.decoders,
    "frame_decoder": registry.frame_decoders,
}
MEMBERS = [(role, name) for role, members in REGISTRIES.items() for name in members.names()]

every_member = pytest.mark.parametrize(("role", "name"), MEMBERS)


@pytest.mark.parametrize(
    ("role", "name", "check"),
    [
        pytest.param(role, name, check, id=f"{name}-{check.__name__}")
        for role, name in MEMBERS
        for check in CHECKS[role]
    ],
)
def test_every_member_keeps_its_contract(role, name, check):
    torch.manual_seed(0)
    check(Subject(REGISTRIES[role].get(name)))


@every_member
def test_the_options_are_a_frozen_dataclass_with_defaults(role, name):
    options_are_a_frozen_dataclass(REGISTRIES[role].get(name))


@every_member
def test_the_options_survive_a_round_trip_through_the_run_configuration(role, name):
    defaults = dataclasses.asdict(REGISTRIES[role].get(name).Config())
    preset = "tokenizer_debug" if role == "frame_decoder" else "breakout"
    config = load_config(preset, overrides=[f"model.{role}.name={name}"])
    section = getattr(config.model, role)
    assert section.keys() == {"name", *defaults}
    assert section["name"] == name
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("name", sorted({*registry.encoders.names()} - {"strided", "resnet"}))  # their grids are finer
def test_the_reference_grid_is_seven_by_five(name):
    assert Subject(registry.encoders.get(name)).make().grid((210, 160)) == (7, 5)


# Quantizers with a codebook


def codebook_quantizer(kind: type[Any], num_codes: int, latent_dim: int = 2, **options: float) -> Any:
    torch.manual_seed(0)
    return kind(kind.Config(num_codes=num_codes, **options), latent_dim=latent_dim)


def as_grid(rows: list[list[float]]) -> Tensor:
    """N encodings of width D as a latent (N, D, 1, 1)."""
    return torch.tensor(rows)[:, :, None, None]


both_codebooks = pytest.mark.parametrize("kind", [VectorQuantizer, EmaQuantizer])


@both_codebooks
def test_the_code_is_that_of_the_nearest_vector(kind):
    quantizer = codebook_quantizer(kind, num_codes=3).eval()
    quantizer.codebook.data.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]))
    codes = quantizer(as_grid([[0.5, 0.1], [3.0, 0.5], [1.0, 2.5], [-9.0, -9.0]])).codes
    assert codes.flatten().tolist() == [0, 1, 2, 0]


@both_codebooks
def test_the_margin_is_half_the_gap_between_the_nearest_two(kind):
    quantizer = codebook_quantizer(kind, num_codes=3).eval()
    quantizer.codebook.data.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 40.0]]))
    margin = quantizer.margin(as_grid([[0.0, 0.0], [1.0, 0.0], [2.0, 7.0]])).flatten().tolist()
    assert margin == pytest.approx([2, 1, 0], rel=1e-5)  # less what counts as a tie


@both_codebooks
def test_the_first_training_batch_spreads_the_codes_over_its_encodings(kind):
    quantizer = codebook_quantizer(kind, num_codes=16)
    rows = [[100.0, 1.0], [101.0, 2.0], [102.0, 3.0]]
    quantizer.eval()(as_grid(rows))
    assert not quantizer.started  # looking is not training
    quantizer.train().start_from(torch.tensor(rows))
    assert all(code in rows for code in quantizer.codebook.tolist())
    before = quantizer.codebook.clone()
    quantizer.start_from(-torch.tensor(rows))
    assert torch.equal(quantizer.codebook, before)  # once is enough


@both_codebooks
def test_training_starts_from_the_first_batch_even_far_from_the_initial_codes(kind):
    quantizer = codebook_quantizer(kind, num_codes=16)
    latent = torch.randn(8, 2, 3, 3) + 100
    assert quantizer(latent).loss < 1.0
    assert quantizer.started
    assert len(quantizer(latent).codes.unique()) > 4


@both_codebooks
def test_reseeding_moves_exactly_the_unused_codes_onto_given_encodings(kind):
    quantizer: CodebookQuantizer = codebook_quantizer(kind, num_codes=8)
    quantizer.started.fill_(True)
    used = quantizer(torch.randn(2, 2, 1, 1)).codes.unique()
    before = quantizer.codebook.clone()
    fresh = [[50.0, 1.0], [60.0, 2.0]]
    assert quantizer.reseed_unused(as_grid(fresh)) == 8 - len(used)
    moved = [code for code in range(8) if code not in used]
    assert torch.equal(quantizer.codebook[used], before[used])
    assert all(row in fresh for row in quantizer.codebook[moved].tolist())
    assert quantizer.reseed_unused(as_grid(fresh)) == 8  # the count has begun anew, and nothing was used since


@both_codebooks
def test_rarely_used_codes_can_be_moved_too(kind):
    quantizer = codebook_quantizer(kind, num_codes=4, reseed_below=0.1)
    quantizer.started.fill_(True)
    quantizer.used.copy_(torch.tensor([100, 2, 3, 0]))  # a tenth of the mean is 2.6
    before = quantizer.codebook.clone()
    assert quantizer.reseed_unused(torch.randn(8, 2, 1, 1)) == 2
    assert [torch.equal(a, b) for a, b in zip(quantizer.codebook, before, strict=True)] == [True, False, True, False]


@both_codebooks
def test_codes_can_be_moved_to_where_they_are_missing(kind):
    quantizer = codebook_quantizer(kind, num_codes=3, reseed_by_error=True)
    quantizer.started.fill_(True)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]]))
    quantizer.used.copy_(torch.tensor([50, 50, 0]))
    coded, far = [[0.0, 0.0], [1.0, 0.0]] * 30, [[0.0, 5.0]]
    assert quantizer.reseed_unused(as_grid([*coded, *far])) == 1
    assert quantizer.codebook[2].tolist() == far[0]


@both_codebooks
def test_codes_used_in_evaluation_count_as_unused(kind):
    quantizer = codebook_quantizer(kind, num_codes=8).eval()
    quantizer(torch.randn(64, 2, 1, 1))
    assert quantizer.reseed_unused(torch.randn(4, 2, 1, 1)) == 8


@both_codebooks
def test_a_reseeded_code_stays_where_it_was_put_until_it_is_trained(kind):
    quantizer = codebook_quantizer(kind, num_codes=8)
    quantizer(torch.randn(8, 2, 1, 1))
    quantizer.used[3] = 0
    quantizer.reseed_unused(as_grid([[50.0, 1.0]]))
    quantizer(torch.randn(64, 2, 1, 1))
    distance = (quantizer.codebook - torch.tensor([50.0, 1.0])).norm(dim=1).min()
    assert distance < 1e-3


def test_the_vq_codebook_gets_a_gradient_for_each_chosen_code_and_no_other():
    quantizer = codebook_quantizer(VectorQuantizer, num_codes=32).eval()
    quantized = quantizer(torch.randn(4, 2, 3, 3))
    quantized.loss.backward()
    changed = quantizer.codebook.grad.any(dim=1).nonzero().flatten()
    assert torch.equal(changed, quantized.codes.unique())


def test_the_vq_codebook_moves_towards_the_encodings():
    quantizer = codebook_quantizer(VectorQuantizer, num_codes=4).eval()
    latent = torch.randn(16, 2, 2, 2) + 3
    losses = []
    for _ in range(20):
        loss = quantizer(latent).loss
        (gradient,) = torch.autograd.grad(loss, [quantizer.codebook])
        quantizer.codebook.data -= 0.5 * gradient
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_entropy_term_alone_has_a_gradient_for_encodings_and_all_codes():
    quantizer = codebook_quantizer(VectorQuantizer, num_codes=8, codebook=0.0, commitment=0.0, entropy=1.0).eval()
    latent = torch.randn(4, 2, 3, 3, requires_grad=True)
    quantizer(latent).loss.backward()
    assert latent.grad.any()
    assert quantizer.codebook.grad.any(dim=1).all()


def test_the_entropy_term_prefers_sure_and_evenly_used_codes():
    def loss(rows: list[list[float]]) -> float:
        quantizer = codebook_quantizer(VectorQuantizer, 2, codebook=0.0, commitment=0.0, entropy=1.0).eval()
        quantizer.codebook.data.copy_(torch.tensor([[-9.0, 0.0], [9.0, 0.0]]))
        return quantizer(as_grid(rows)).loss.item()

    sure_and_even, sure_and_one, unsure = loss([[-9, 0], [9, 0]]), loss([[9, 0], [9, 0]]), loss([[0, 0], [0, 0]])
    assert sure_and_even == pytest.approx(-math.log(2), abs=1e-4)
    assert sure_and_even < min(sure_and_one, unsure) - 0.5


def test_without_weight_the_entropy_term_is_left_out():
    latent = torch.randn(4, 2, 3, 3)
    plain, with_entropy = (codebook_quantizer(VectorQuantizer, 8, entropy=weight).eval() for weight in (0.0, 1.0))
    assert plain(latent).loss != with_entropy(latent).loss


def test_the_ema_codebook_moves_towards_the_encodings_in_training_only():
    quantizer = codebook_quantizer(EmaQuantizer, num_codes=4, decay=0.8)
    quantizer(torch.randn(16, 2, 2, 2))
    latent = torch.randn(16, 2, 2, 2) + 5
    losses = []
    for _ in range(20):
        losses.append(float(quantizer(latent).loss))
        quantizer.update()
    assert losses[-1] < 0.2 * losses[0]
    before = quantizer.codebook.clone()
    quantizer.eval()(latent - 5)
    assert torch.equal(quantizer.codebook, before)


def test_an_ema_codebook_sees_micro_batches_as_the_batch_they_make_up():
    whole, cut = (codebook_quantizer(EmaQuantizer, num_codes=4, decay=0.5) for _ in range(2))
    cut.load_state_dict(whole.state_dict())
    for quantizer in (whole, cut):
        quantizer.started.fill_(True)
    latent = torch.randn(16, 2, 2, 2)
    whole(latent)
    whole.update()
    for part in latent.chunk(4):
        cut(part)
    cut.update()
    torch.testing.assert_close(cut.codebook, whole.codebook)


def test_an_ema_code_becomes_the_mean_of_the_encodings_it_wins():
    quantizer = codebook_quantizer(EmaQuantizer, num_codes=2, decay=0.5)
    quantizer.started.fill_(True)
    quantizer.codebook.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    latent = as_grid([[-3.0, 1.0], [-5.0, 3.0], [2.0, 0.0], [2.0, 4.0]])
    for _ in range(40):
        quantizer(latent)
        quantizer.update()
    assert torch.allclose(quantizer.codebook, torch.tensor([[-4.0, 2.0], [2.0, 2.0]]), atol=1e-3)


def test_an_ema_code_of_something_rare_stays_until_it_comes_again():
    quantizer = codebook_quantizer(EmaQuantizer, num_codes=2, decay=0.5)
    quantizer.started.fill_(True)
    quantizer.place(slice(None), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    often, rare = as_grid([[1.0, 1.0]] * 4), as_grid([[1.0, 1.0]] * 3 + [[-1.0, 0.5]])
    for _ in range(100):
        quantizer(often)
        quantizer.update()
    assert torch.equal(quantizer.codebook[0], torch.tensor([-1.0, 0.0]))
    quantizer(rare)
    quantizer.update()
    assert torch.allclose(quantizer.codebook[0], torch.tensor([-1.0, 0.5]), atol=1e-3)


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_an_encoder_of_differences_sees_nothing_of_what_stands_still(name):
    cls = REGISTRIES["encoder"].get(name)
    encoder = cls(cls.Config(sees="difference"), channels=1, latent_dim=8).eval()
    current, following = torch.randn(2, 2, 1, 64, 64)
    assert torch.allclose(encoder(current, following), encoder(current + 1, following + 1), atol=1e-5)
    assert not torch.allclose(encoder(current, following), encoder(following, current))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("turns", [1, 3])
def test_nearest_codes_and_margins_are_alike_without_numba(turns, dtype, request):
    torch.manual_seed(0)
    flat = torch.randn(40, 8, dtype=dtype)
    vectors = [torch.randn(16, 8, dtype=dtype) for _ in range(turns)]
    flat[0], flat[1] = vectors[0][3], (vectors[0][3] + vectors[0][5]) / 2  # on a code, and on a border perhaps
    tables = [(each, each.square().sum(1)) for each in vectors]
    codes, margin = nearest_in_turn(flat, tables)
    left = flat
    for turn in range(turns):
        assert torch.equal(codes[:, turn], torch.cdist(left, vectors[turn]).argmin(1))
        left = left - vectors[turn][codes[:, turn]]
    request.getfixturevalue("without_numba")
    other_codes, other_margin = nearest_in_turn(flat, tables)
    assert torch.equal(other_codes, codes)
    torch.testing.assert_close(other_margin, margin)
    assert (margin[0] > 0).all()


def test_equal_code_vectors_are_one_code_called_by_the_lowest_kept_for_inference_or_not():
    quantizer = VectorQuantizer(VectorQuantizer.Config(num_codes=64), latent_dim=8).eval().requires_grad_(False)
    torch.manual_seed(0)
    quantizer.codebook.data[32:] = quantizer.codebook.data[:32]
    rows = torch.randn(50, 8)
    codes, margin = quantizer.assign(rows)
    assert codes.max() < 32
    assert (margin > 0).all()
    quantizer.optimize_for_inference()
    assert all(torch.equal(*pair) for pair in zip(quantizer.assign(rows), (codes, margin), strict=True))


@pytest.mark.parametrize("kind", [VectorQuantizer, EmaQuantizer])
def test_codes_that_lie_close_together_far_from_the_origin_have_no_margin_that_rounding_could_pass(kind):
    quantizer = kind(kind.Config(num_codes=256), latent_dim=32).eval()
    torch.manual_seed(0)
    quantizer.codebook.data = 1 + 0.005 * torch.randn(256, 32)
    rows = 1 + 0.005 * torch.randn(2240, 32)
    codes, margin = quantizer.assign(rows)
    exact, _ = quantizer.double().assign(rows.double())
    wrong = (codes != exact).any(1)
    assert wrong.any(), "the test says nothing"
    assert (margin[wrong] <= 1e-5 * rows.abs().max()).all()
