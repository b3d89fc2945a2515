"""The contract sweep: what every registered encoder, quantizer and conditioner must do."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lapa import registry
from lapa.config import config_from_dict, config_to_dict, load_config
from lapa.contracts import Conditioner, Encoder, Quantizer
from lapa_plugins.quantizers.codebook import CodebookQuantizer
from lapa_plugins.quantizers.ema import EmaQuantizer
from lapa_plugins.quantizers.vq import VectorQuantizer

REGISTRIES = {"encoder": registry.encoders, "quantizer": registry.quantizers, "conditioner": registry.conditioners}
MEMBERS = [(role, name) for role, members in REGISTRIES.items() for name in members.names()]
FACTS: dict[str, dict[str, int]] = {
    "encoder": {"channels": 1, "latent_dim": 8},
    "quantizer": {"latent_dim": 8},
    "conditioner": {"features": 32, "latent_dim": 8},
}
FRAME_SIZES = [(210, 160), (84, 84), (64, 64), (144, 160)]
LATENT_GRIDS = [(7, 5), (1, 1), (1, 4)]

every_member = pytest.mark.parametrize(("role", "name"), MEMBERS)
every_encoder = pytest.mark.parametrize("name", registry.encoders.names())
every_quantizer = pytest.mark.parametrize("name", registry.quantizers.names())
every_conditioner = pytest.mark.parametrize("name", registry.conditioners.names())


def make(role: str, name: str, **facts: int) -> Any:
    """The plugin with its own defaults, seeded."""
    torch.manual_seed(0)
    cls = REGISTRIES[role].get(name)
    return cls(cls.Config(), **(FACTS[role] | facts))


def inputs(role: str) -> tuple[Tensor, ...]:
    """What a member of the role is called with."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "encoder": [(2, 1, 64, 64)] * 2,
        "quantizer": [(2, 8, 7, 5)],
        "conditioner": [(2, 32, 7, 5), (2, 8, 7, 5)],
    }[role]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def result(role: str, output: Any) -> Tensor:
    return output.latent if role == "quantizer" else output


def without_gradient(module: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]


def zero_gradients(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if not parameter.grad.any()]


# Every member of every role


@every_member
def test_state_dict_round_trip_gives_the_same_output(role, name):
    trained, fresh = make(role, name), make(role, name)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    trained(*inputs(role))  # in training mode, so that statistics move too
    fresh.load_state_dict(trained.state_dict())
    expected, output = (result(role, module.eval()(*inputs(role))) for module in (trained, fresh))
    assert torch.equal(output, expected)


@every_member
def test_double_precision_works_and_agrees_with_single(role, name):
    single = make(role, name).eval()
    double = make(role, name).double().eval()
    output = result(role, double(*(value.double() for value in inputs(role))))
    assert output.dtype == torch.float64
    assert torch.allclose(output.float(), result(role, single(*inputs(role))), atol=1e-4)


@every_member
def test_training_in_double_precision_works(role, name):
    output = result(role, make(role, name).double()(*(value.double() for value in inputs(role))))
    assert output.dtype == torch.float64
    assert output.isfinite().all()


@every_member
def test_autocast_to_bf16_gives_finite_values(role, name):
    with torch.autocast("cpu", torch.bfloat16):
        output = make(role, name)(*inputs(role))
    assert result(role, output).isfinite().all()


@every_member
def test_eval_mode_changes_no_state_and_repeats_itself(role, name):
    module = make(role, name).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first, second = (result(role, module(*inputs(role))) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@every_member
def test_the_options_survive_a_round_trip_through_the_run_configuration(role, name):
    defaults = dataclasses.asdict(REGISTRIES[role].get(name).Config())
    config = load_config("breakout", overrides=[f"model.{role}.name={name}"])
    section = getattr(config.model, role)
    assert section.keys() == {"name", *defaults}
    assert section["name"] == name
    assert config_from_dict(config_to_dict(config)) == config


@every_member
def test_the_options_are_a_frozen_dataclass_with_defaults(role, name):
    options = REGISTRIES[role].get(name).Config
    assert options() == options()
    assert options.__dataclass_params__.frozen


# Encoders


@every_encoder
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", FRAME_SIZES, ids="{0[0]}x{0[1]}".format)
def test_an_encoder_gives_the_grid_it_promised(name, size, channels):
    encoder: Encoder = make("encoder", name, channels=channels).eval()
    with torch.no_grad():
        latent = encoder(*torch.rand(2, 1, channels, *size))
    assert latent.shape == (1, 8, *encoder.grid(size))
    assert latent.isfinite().all()


@every_encoder
def test_the_reference_grid_is_seven_by_five(name):
    assert make("encoder", name).grid((210, 160)) == (7, 5)


@every_encoder
def test_every_parameter_of_an_encoder_gets_a_gradient(name):
    encoder = make("encoder", name)
    encoder(*inputs("encoder")).square().sum().backward()
    assert without_gradient(encoder) == []
    assert zero_gradients(encoder) == []


@every_encoder
def test_an_encoder_sees_both_frames_and_their_order(name):
    encoder = make("encoder", name).eval()
    a, b = inputs("encoder")
    outputs = [encoder(*pair) for pair in ((a, b), (b, a), (a, a))]
    assert not torch.allclose(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


# Quantizers


@every_quantizer
@pytest.mark.parametrize("grid", LATENT_GRIDS, ids="{0[0]}x{0[1]}".format)
def test_a_quantizer_returns_a_latent_codes_and_a_finite_loss(name, grid):
    quantizer: Quantizer = make("quantizer", name)
    quantized = quantizer(torch.randn(3, 8, *grid))
    assert quantized.latent.shape == (3, 8, *grid)
    assert quantized.loss.shape == ()
    assert quantized.loss.isfinite()
    assert all(value.ndim == 0 and not value.requires_grad for value in quantized.metrics.values())
    if quantizer.num_codes is None:
        assert quantized.codes is None
        assert quantizer.bits == math.inf
    else:
        assert quantized.codes.shape == (3, *grid)
        assert quantized.codes.dtype == torch.int64
        assert ((quantized.codes >= 0) & (quantized.codes < quantizer.num_codes)).all()
        assert quantizer.bits == pytest.approx(math.log2(quantizer.num_codes))


@every_quantizer
def test_different_latents_get_different_codes(name):
    quantizer = make("quantizer", name)
    quantizer(*inputs("quantizer"))
    codes = quantizer.eval()(*inputs("quantizer")).codes
    assert codes is None or len(codes.unique()) > 4


@every_quantizer
def test_codes_lead_back_to_the_latent(name):
    quantizer = make("quantizer", name)
    quantizer(*inputs("quantizer"))
    quantized = quantizer.eval()(*inputs("quantizer"))
    if quantized.codes is not None:
        assert torch.allclose(quantizer.codes_to_latent(quantized.codes), quantized.latent, atol=1e-5)


@every_quantizer
def test_every_parameter_of_a_quantizer_gets_a_gradient(name):
    quantizer = make("quantizer", name)
    quantized = quantizer(inputs("quantizer")[0].requires_grad_())
    (quantized.latent.square().sum() + quantized.loss).backward()
    assert without_gradient(quantizer) == []
    assert zero_gradients(quantizer) == []


@every_quantizer
@pytest.mark.parametrize("part", ["latent", "loss"])
def test_gradients_pass_through_a_quantizer_to_the_encoder(name, part):
    quantizer = make("quantizer", name).eval()  # a first training batch would put the codes on the latents
    latent = inputs("quantizer")[0].requires_grad_()
    getattr(quantizer(latent), part).sum().backward()
    assert latent.grad.isfinite().all()
    assert latent.grad.any()


@every_quantizer
@pytest.mark.parametrize("latent_dim", [2, 8])
def test_a_latent_keeps_its_code_while_it_moves_less_than_the_margin(name, latent_dim):
    quantizer: Quantizer = make("quantizer", name, latent_dim=latent_dim).double().eval()
    latent = torch.randn(4, latent_dim, 7, 5, dtype=torch.float64)
    margin = quantizer.margin(latent)
    if margin is None:
        return
    assert margin.shape == (4, 7, 5)
    assert (margin >= 0).all()
    assert (margin > 0).any()
    codes = quantizer(latent).codes
    towards = [quantizer.codes_to_latent(torch.full_like(codes, code)) - latent for code in range(quantizer.num_codes)]
    for direction in [*towards, *(-step for step in towards), *torch.randn(50, *latent.shape, dtype=torch.float64)]:
        step = nn.functional.normalize(direction, dim=1) * margin[:, None] * 0.999
        assert torch.equal(quantizer(latent + step).codes, codes)


@every_quantizer
def test_a_latent_on_the_border_between_two_codes_has_no_margin(name):
    quantizer: Quantizer = make("quantizer", name).double().eval()
    inside = quantizer.codes_to_latent(torch.arange(2).reshape(2, 1, 1)) if quantizer.num_codes else None
    if inside is None or quantizer.margin(inside) is None:
        return
    low, high = inside[:1], inside[1:]
    code = quantizer(low).codes
    for _ in range(60):  # bisects the way from one code to another
        middle = (low + high) / 2
        low, high = (middle, high) if torch.equal(quantizer(middle).codes, code) else (low, middle)
    assert float(quantizer.margin(low).detach()) == pytest.approx(0, abs=1e-9)


# Conditioners


@every_conditioner
@pytest.mark.parametrize("grid", LATENT_GRIDS, ids="{0[0]}x{0[1]}".format)
def test_a_conditioner_keeps_the_shape_of_the_features_and_trains_all_its_parameters(name, grid):
    conditioner: Conditioner = make("conditioner", name)
    features = torch.randn(2, 32, 7, 5, requires_grad=True)
    latent = torch.randn(2, 8, *grid, requires_grad=True)
    output = conditioner(features, latent)
    assert output.shape == features.shape
    output.square().sum().backward()
    assert without_gradient(conditioner) == []
    assert features.grad.any()
    assert latent.grad.any()
    if grid != (1, 1):  # attention to one token alone leaves nothing to choose
        assert zero_gradients(conditioner) == []


@every_conditioner
@pytest.mark.parametrize("features", [(10, 8), (3, 3), (1, 1)], ids="{0[0]}x{0[1]}".format)
def test_a_conditioner_takes_features_of_any_size(name, features):
    conditioner = make("conditioner", name).eval()
    assert conditioner(torch.randn(1, 32, *features), torch.randn(1, 8, 7, 5)).shape == (1, 32, *features)


@every_conditioner
@pytest.mark.parametrize("grid", LATENT_GRIDS, ids="{0[0]}x{0[1]}".format)
def test_each_place_of_the_latent_steers_the_features(name, grid):
    conditioner = make("conditioner", name).eval()
    features, latent = torch.randn(1, 32, 7, 5), torch.randn(1, 8, *grid)
    before = conditioner(features, latent)
    for place in range(grid[0] * grid[1]):
        moved = latent.clone()
        moved.flatten(2)[..., place] += 3.0
        assert not torch.allclose(conditioner(features, moved), before)


@every_conditioner
def test_a_conditioner_keeps_the_rows_of_a_batch_apart(name):
    conditioner = make("conditioner", name).eval()
    features, latent = inputs("conditioner")
    alone = conditioner(features[:1], latent[:1])
    assert torch.allclose(conditioner(features, latent)[:1], alone, atol=1e-5)


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
    assert quantizer.margin(as_grid([[0.0, 0.0], [1.0, 0.0], [2.0, 7.0]])).flatten().tolist() == pytest.approx(
        [2, 1, 0]
    )


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
    assert quantizer(latent).metrics["codes_used"] > 4


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


@both_codebooks
@pytest.mark.parametrize(("codes", "perplexity"), [([0, 0, 0, 0], 1.0), ([0, 1, 2, 3], 4.0), ([0, 0, 1, 1], 2.0)])
def test_perplexity_counts_the_codes_that_are_used_evenly(kind, codes, perplexity):
    metrics = codebook_quantizer(kind, num_codes=4).usage_metrics(torch.tensor(codes))
    assert metrics["perplexity"] == pytest.approx(perplexity)
    assert metrics["codes_used"] == len(set(codes))


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


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_an_encoder_of_differences_sees_nothing_of_what_stands_still(name):
    cls = REGISTRIES["encoder"].get(name)
    encoder = cls(cls.Config(sees="difference"), channels=1, latent_dim=8).eval()
    current, following = inputs("encoder")
    assert torch.allclose(encoder(current, following), encoder(current + 1, following + 1), atol=1e-5)
    assert not torch.allclose(encoder(current, following), encoder(following, current))
