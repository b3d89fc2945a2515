"""The tokenizer: presets to the number, and all that the decoder predicts comes through the codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lapa.config import load_config
from lapa.contracts import count_parameters
from lapa.data.frames import FrameFormat
from lapa.errors import ConfigError
from lapa.inference.labelling import Labeller
from lapa.systems.tokenizer.model import Tokenizer

SIZE = (40, 32)


def made(*overrides: str, size: tuple[int, int] = SIZE) -> Tokenizer:
    config = load_config("tokenizer_debug", overrides=overrides)
    torch.manual_seed(0)
    return Tokenizer(config.model, FrameFormat(*size, config.data.color)).eval()


def frames(count: int = 3, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


# Name, frame, grid, K, D, convolutions of the encoder by width and stride, parameters
PRESETS = [
    ("tokenizer", (64, 64), (16, 16), 512, 64, [(64, 2), (128, 2), (128, 1), (64, 1)], 711_363),
    ("tokenizer_wide", (36, 64), (9, 16), 4096, 384, [(128, 2), (256, 2), (384, 1)], 8_732_803),
    ("tokenizer_hd", (72, 128), (9, 16), 1024, 384, [(128, 2), (256, 2), (256, 2), (384, 1)], 15_551_107),
    ("tokenizer_hd2", (72, 128), (18, 32), 1024, 384, [(128, 2), (256, 2), (384, 1)], 8_732_803),
]


@pytest.mark.parametrize(("name", "size", "grid", "codes", "width", "convolutions", "parameters"), PRESETS)
def test_a_preset_is_the_version_of_the_log_to_the_number(
    name: str,
    size: tuple[int, int],
    grid: tuple[int, int],
    codes: int,
    width: int,
    convolutions: list[tuple[int, int]],
    parameters: int,
) -> None:
    config = load_config(name)
    assert (config.data.resize, config.data.color, config.data.skip_first, config.data.stride) == (size, "rgb", 20, 2)
    model = Tokenizer(config.model, FrameFormat(*size, "rgb")).eval()
    found = [(layer.out_channels, layer.stride[0]) for layer in model.encoder.layers if hasattr(layer, "stride")]
    assert found == convolutions
    assert (model.grid, model.quantizer.num_codes) == (grid, codes)
    assert model.quantizer.codebook.shape == (codes, width)
    assert count_parameters(model) == parameters
    with torch.no_grad():
        output = model(torch.rand(1, 3, *size))
    assert output.quantized.codes.shape == (1, *grid)
    assert model.reconstruction(output.outputs).shape == (1, 3, *size)


def test_the_first_preset_is_trained_as_the_log_says() -> None:
    config = load_config("tokenizer")
    assert (config.model.quantizer["name"], config.model.quantizer["commitment"]) == ("ema", 0.25)
    assert (config.training.clip_norm, config.training.precision) == (1.0, "auto")
    assert config.model.encoder["num_blocks"] == config.model.frame_decoder["num_blocks"] == 0


def test_the_last_preset_has_a_perceptual_loss_that_grows_by_epochs() -> None:
    config = load_config("tokenizer_hd2")
    loss = config.loss
    assert (loss.perceptual_kind, loss.perceptual_unit) == ("lpips", "epochs")
    assert (loss.perceptual, loss.perceptual_increment, loss.perceptual_every, loss.perceptual_cap) == (0, 0.05, 5, 0.3)
    assert config.training.batch_size == 256


@pytest.mark.parametrize("quantizer", ["ema", "vq", "fsq", "residual", "gumbel", "lfq", "simvq"])
def test_all_that_a_reconstruction_shows_came_through_the_codes(quantizer: str) -> None:
    model = made(f"model.quantizer.name={quantizer}")
    output = model(frames())
    again = model.decode(output.quantized.codes)
    assert torch.allclose(again, model.reconstruction(output.outputs), atol=1e-5)
    assert tuple(output.quantized.codes.shape[1:]) == model.code_grid


@pytest.mark.parametrize("decoder", ["transposed", "upsample"])
@pytest.mark.parametrize("output", ["sigmoid", "palette"])
def test_frames_that_strides_do_not_divide_come_back_at_their_size(decoder: str, output: str) -> None:
    model = made(f"model.frame_decoder.name={decoder}", f"model.frame_decoder.output={output}", size=(41, 30))
    assert model.grid == (11, 8)
    assert model.reconstruction(model(torch.rand(2, 1, 41, 30)).outputs).shape == (2, 1, 41, 30)


def test_with_patches_and_kernel_one_each_place_sees_and_draws_its_own_pixels_alone() -> None:
    """A pixel that changes in one patch changes no other code, and a code that changes no other pixel."""
    patch = "patch: [4, 8], channels: [16, 16], strides: [1, 1], kernel: 1"
    model = made(f"model.encoder={{name: strided, {patch}}}", f"model.frame_decoder={{name: upsample, {patch}}}")
    assert model.grid == (10, 4)
    seen = frames(1)
    changed = seen.clone()
    changed[..., 4:8, 8:16] = 1 - changed[..., 4:8, 8:16]
    moved = (model.encode(seen) - model.encode(changed)).abs().amax(1)[0]
    assert torch.nonzero(moved).tolist() == [[1, 1]]
    codes = torch.zeros(1, *model.grid, dtype=torch.int64)
    other = codes.clone()
    other[0, 1, 1] = 1
    pixels = (model.decode(codes) - model.decode(other)).abs()[0, 0].nonzero()
    assert pixels.amin(0).tolist() == [4, 8]
    assert pixels.amax(0).tolist() == [7, 15]


def test_tokens_do_not_depend_on_the_batch() -> None:
    model = made("model.quantizer.name=vq")
    label = Labeller(model)
    many = (255 * frames(6)).to(torch.uint8)
    alone = torch.cat([label(frame[None]) for frame in many])
    assert torch.equal(label(many), alone)
    assert alone.unique().numel() > 1


def test_parts_that_do_not_fit_are_named_with_the_remedy() -> None:
    said = (
        r"^model\.frame_decoder\.strides: with \[2\].*each place of the encoder's grid of 10 x 8 becomes 2 x 2 pixels"
    )
    with pytest.raises(ConfigError, match=said):
        made("model.frame_decoder.channels=[8]", "model.frame_decoder.strides=null")
    with pytest.raises(ConfigError, match=r"^model\.encoder: one frame has no difference"):
        made("model.encoder.name=difference")
    with pytest.raises(ConfigError, match=r"^model\.encoder\.strides: needs 2, one for each of channels, 1 or 2, not"):
        made("model.encoder.strides=[2,3]")


def test_a_palette_is_measured_and_its_colours_come_back_exactly() -> None:
    model = made("model.frame_decoder.output=palette", "model.frame_decoder.num_colors=3")
    decoder = model.frame_decoder
    decoder.colors.copy_(torch.tensor([[0.0], [0.5], [1.0]]))
    chosen = torch.randint(3, (2, *SIZE), generator=torch.Generator().manual_seed(0))
    sure = 1000.0 * torch.nn.functional.one_hot(chosen, 3).movedim(-1, 1)
    shown = decoder.to_frame(sure)
    assert torch.equal(shown[:, 0], decoder.colors[chosen, 0])
    assert decoder.pixel_errors(sure, shown).max() == 0
    assert decoder.pixel_errors(torch.zeros_like(sure), shown).allclose(torch.tensor(3.0).log())
