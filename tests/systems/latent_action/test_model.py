from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lapa.config import load_config
from lapa.contracts import count_parameters
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat, to_float
from lapa.data.packing import open_store
from lapa.systems.latent_action.model import LatentActionModel

TOY = FrameFormat(40, 32)


def reference(color: str = "grey", size: tuple[int, int] = (210, 160)) -> LatentActionModel:
    return LatentActionModel(load_config("breakout").model, FrameFormat(*size, color)).eval()


def small(*overrides: str, format: FrameFormat = TOY) -> LatentActionModel:
    """A model of a few thousand parameters with the code vectors of a random batch."""
    torch.manual_seed(0)
    model = LatentActionModel(load_config("debug", overrides=overrides).model, format)
    model(*frames(8, format))
    return model.eval()


def frames(batch: int, format: FrameFormat = TOY, seed: int = 1) -> Tensor:
    """(2, B, C, H, W) float in [0, 1]: current and next."""
    return torch.rand(2, batch, format.channels, *format.size, generator=torch.Generator().manual_seed(seed))


# The reference model


@pytest.mark.parametrize(("color", "parameters"), [("grey", 12_226_561), ("rgb", 12_231_171)])
def test_the_reference_model_has_its_size_its_grid_and_the_frame_exactly(color, parameters):
    model = reference(color)
    assert count_parameters(model) == parameters
    assert model.grid == (7, 5)
    assert model.bits == 280
    with torch.no_grad():
        output = model(*frames(1, model.format))
    assert output.prediction.shape == (1, model.format.channels, 210, 160)
    assert output.encoding.shape == output.quantized.latent.shape == (1, 128, 7, 5)
    assert output.quantized.codes.shape == (1, 7, 5)


@pytest.mark.parametrize(("size", "grid"), [((84, 84), (3, 3)), ((64, 64), (2, 2)), ((144, 160), (5, 5))])
@pytest.mark.parametrize("preset", ["breakout", "laptop"])
def test_frames_of_any_size_come_back_in_exactly_that_size(preset, size, grid):
    format = FrameFormat(*size)
    model = LatentActionModel(load_config(preset).model, format).eval()
    with torch.no_grad():
        output = model(*frames(1, format))
    assert output.prediction.shape == (1, 1, *size)
    assert output.quantized.codes.shape == (1, *model.code_grid)
    if preset == "breakout":
        assert model.grid == grid


@pytest.mark.parametrize("preset", ["laptop", "actions"])
def test_the_other_presets_fit_breakout(preset):
    config = load_config(preset)
    model = LatentActionModel(config.model, FrameFormat(210, 160, config.data.color, config.data.downsample)).eval()
    with torch.no_grad():
        assert model(*frames(1, model.format)).prediction.shape == (1, 1, 105, 80)


# What goes where


@pytest.mark.parametrize("overrides", [(), ("model.quantizer.name=ema",), ("model.tokens=3",)], ids=" ".join)
def test_decoding_the_codes_gives_the_prediction_of_the_forward_pass(overrides):
    model = small(*overrides)
    current, following = frames(4)
    output = model(current, following)
    assert torch.allclose(model.decode(current, output.quantized.codes), output.prediction, atol=1e-5)


def test_encode_is_the_first_half_of_the_forward_pass():
    model = small("model.tokens=3")
    current, following = frames(4)
    assert torch.equal(model.encode(current, following), model(current, following).encoding)


@pytest.mark.parametrize("conditioner", ["film", "cross_attention"])
def test_the_codes_of_another_pair_draw_another_frame(conditioner):
    model = small(f"model.conditioner.name={conditioner}")
    current, _ = frames(2)
    codes = torch.arange(2)[:, None, None].expand(-1, *model.grid)
    own, other = model.decode(current, codes), model.decode(current, codes.flip(0))
    assert (own - other).abs().amax() > 1e-3


@pytest.mark.parametrize("conditioner", ["film", "cross_attention"])
@pytest.mark.parametrize("decoder", [(), ("model.decoder.positions=true", "model.decoder.mean_frame=true")], ids=len)
def test_the_next_frame_reaches_the_prediction_through_the_codes_alone(conditioner, decoder):
    model = small(f"model.conditioner.name={conditioner}", *decoder)
    current, following = frames(2)
    fixed = model(current, following).quantized
    model.quantizer.register_forward_hook(lambda *_: fixed)
    assert torch.equal(model(current, following).prediction, model(current, 1 - following).prediction)
    assert not torch.equal(model(current, following).prediction, model(1 - current, following).prediction)


@pytest.mark.parametrize("decoder", [(), ("model.decoder.positions=true", "model.decoder.mean_frame=true")], ids=len)
def test_no_skip_connection_passes_by_the_conditioner(decoder):
    model = small(*decoder)
    current, following = frames(2)
    steered = []
    model.decoder.conditioner.register_forward_hook(lambda _, __, output: steered.append(output) or steered[0])
    codes = model(current, following).quantized.codes
    assert torch.equal(model.decode(current, codes), model.decode(1 - current, codes))
    assert not torch.equal(steered[1], steered[2])


def test_every_parameter_of_the_model_gets_a_gradient():
    model = small("model.tokens=2", "model.decoder.positions=true").train()
    output = model(*frames(4))
    (output.prediction.square().mean() + output.quantized.loss).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


# Options


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_tokens_replace_the_grid_by_a_row_of_codes(tokens):
    model = small(f"model.tokens={tokens}")
    output = model(*frames(3))
    assert model.grid == (1, tokens)
    assert model.bits == tokens * math.log2(model.quantizer.num_codes)
    assert output.quantized.codes.shape == (3, 1, tokens)
    assert output.prediction.shape == (3, 1, *TOY.size)


def test_a_token_is_drawn_from_every_place_of_the_frame():
    model = small("model.tokens=1")
    current = frames(1)[0].requires_grad_()
    model.encode(current, current.detach()).square().sum().backward()
    height, width = TOY.size
    quarters = current.grad[0, 0].unfold(0, height // 2, height // 2).unfold(1, width // 2, width // 2)
    assert quarters.flatten(2).any(-1).all()


def test_positions_let_the_decoder_draw_what_stands_where():
    model = small("model.decoder.positions=true")
    assert model.decoder.positions.shape == (16, 10, 8)
    assert small().decoder.positions is None
    flat, codes = torch.zeros(1, 1, *TOY.size), torch.zeros(1, *model.grid, dtype=torch.int64)
    before = model.decode(flat, codes)
    with torch.no_grad():
        model.decoder.positions[:, 0, 0] += 5.0
    change = (model.decode(flat, codes) - before).abs()
    assert change[..., :4, :4].amax() > 1e-4
    assert change[..., 20:, 16:].amax() < 1e-6


def test_the_mean_frame_is_added_to_what_is_drawn_and_kept_with_the_weights():
    model = small("model.decoder.mean_frame=true")
    current, following = frames(2)
    before = model(current, following).prediction
    mean = torch.rand(1, *TOY.size)
    model.decoder.mean_frame.copy_(mean)
    assert torch.allclose(model(current, following).prediction, before + mean, atol=1e-6)
    assert torch.equal(model.state_dict()["decoder.mean_frame"], mean)
    assert "decoder.mean_frame" not in small().state_dict()


def test_with_a_mean_frame_training_starts_from_the_still_scene():
    model = small("model.decoder.mean_frame=true", "model.decoder.channels=[32,64]")
    mean = frames(1)[0, 0]
    model.decoder.mean_frame.copy_(mean)
    assert F.mse_loss(model(*frames(4)).prediction, mean.expand(4, -1, -1, -1)) < 0.02


def test_up_channels_set_the_widths_of_the_way_back():
    model = small("model.decoder.channels=[8,16]", "model.decoder.up_channels=[16,24]")
    assert [(conv.in_channels, conv.out_channels) for conv in model.decoder.upsampler.convs] == [(16, 24), (24, 1)]
    mirrored = small("model.decoder.channels=[8,16]")
    assert [(conv.in_channels, conv.out_channels) for conv in mirrored.decoder.upsampler.convs] == [(16, 8), (8, 1)]
    assert model(*frames(2)).prediction.shape == (2, 1, *TOY.size)


# Learning


@pytest.mark.parametrize("conditioner", ["film", "cross_attention"])
def test_a_tiny_model_learns_to_draw_what_was_done(conditioner, record_toy, tmp_path):
    store = open_store(record_toy(tmp_path / "toys", episodes=1, steps=32))
    pairs = ClipDataset(store, store.episodes, FrameFormat(40, 32, "grey", 4))
    batch = pairs[range(len(pairs))]
    current, following = to_float(batch.current), to_float(batch.next)
    widths = ["model.encoder.channels=[16,32]", "model.decoder.channels=[16,32]"]
    options = [f"model.conditioner.name={conditioner}", "model.quantizer.num_codes=32", "model.quantizer.codebook=0.02"]
    torch.manual_seed(1)
    model = LatentActionModel(load_config("debug", overrides=[*widths, *options]).model, pairs.format)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(200):
        output = model(current, following)
        optimizer.zero_grad()
        (F.mse_loss(output.prediction, following) + 0.1 * output.quantized.loss).backward()
        optimizer.step()
        if step % 20 == 19:
            model.quantizer.reseed_unused(output.encoding)
    model.eval().requires_grad_(False)
    codes = model(current, following).quantized.codes
    error = F.mse_loss(model.decode(current, codes), following)
    assert error < 0.5 * F.mse_loss(current, following)
    assert F.mse_loss(model.decode(current, codes.roll(16, 0)), following) > 2 * error
