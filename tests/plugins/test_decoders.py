"""What each decoder starts from, and where its skip connections come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers import write_episode
from lapa.config import load_config
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.errors import ConfigError
from lapa.systems.latent_action.model import LatentActionModel

SIZE = (40, 32)
WIDTHS = ["model.encoder.channels=[8,16]", "model.decoder.channels=[8,16]", "model.latent_dim=8"]


def made(*overrides: str) -> LatentActionModel:
    config = load_config(overrides=[*WIDTHS, *overrides])
    torch.manual_seed(0)
    return LatentActionModel(config.model, FrameFormat(*SIZE, config.data.color)).eval()


def frames(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    current, following = torch.rand(2, 2, 1, *SIZE, generator=generator)
    return current, following


@pytest.mark.parametrize("name", ["plain", "unet", "palette"])
def test_training_starts_close_to_the_current_frame(name: str) -> None:
    current, following = frames()
    drawn = made(f"model.decoder.name={name}", "model.decoder.base=current")(current, following).prediction
    assert (drawn - current).abs().mean() < 0.1 * (following - current).abs().mean()


@pytest.mark.parametrize("name", ["plain", "unet", "palette"])
def test_training_starts_close_to_the_mean_frame(name: str) -> None:
    model = made(f"model.decoder.name={name}", "model.decoder.base=mean")
    current, following = frames()
    mean = torch.rand(1, *SIZE)
    model.decoder.mean_frame.copy_(mean)
    assert (model(current, following).prediction - mean).abs().mean() < 0.1 * (current - mean).abs().mean()


@pytest.mark.parametrize("name", ["plain", "unet", "palette"])
@pytest.mark.parametrize("base", ["zero", "mean", "current"])
def test_the_next_frame_is_seen_through_the_codes_alone(name: str, base: str) -> None:
    model = made(f"model.decoder.name={name}", f"model.decoder.base={base}")
    current, following = frames()
    output = model(current, following)
    assert torch.allclose(model.decode(current, output.quantized.codes), output.prediction, atol=1e-5)
    other = frames(seed=2)[1]
    forced = model.decode(current, model(current, other).quantized.codes)
    assert torch.allclose(forced, model(current, other).prediction, atol=1e-5)


def test_a_skip_connection_shows_what_the_bottleneck_hides() -> None:
    """A pixel of the current frame reaches the prediction although the features at the bottleneck stay as they are."""
    current, following = frames()
    codes = made()(current, following).quantized.codes
    moved = current.clone()
    moved[..., 20, 16] += 1.0
    for name, seen in (("plain", False), ("unet", True), ("palette", True)):
        model = made(f"model.decoder.name={name}", "model.decoder.base=zero")
        model.decoder.conditioner.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        changed = not torch.equal(model.decode(moved, codes), model.decode(current, codes))
        assert changed is seen


def test_a_palette_has_the_commonest_colours_of_the_training_clips(tmp_path: Path) -> None:
    shown = np.full((6, *SIZE, 3), 40, dtype=np.uint8)
    shown[:, :12] = (200, 72, 72)
    shown[:, 12:15, :9] = (66, 158, 130)
    shown[2, 0, 0] = (1, 2, 3)
    write_episode(tmp_path / "0", shown)
    store = open_store(tmp_path)
    model = made("data.color=rgb", "model.decoder.name=palette", "model.decoder.num_colors=3")
    model.decoder.start(ClipDataset(store, store.episodes, model.format))
    assert (model.decoder.colors * 255).round().int().tolist() == [[40, 40, 40], [200, 72, 72], [66, 158, 130]]


def test_a_pixel_of_a_palette_that_is_sure_is_one_of_its_colours_exactly() -> None:
    decoder = made("model.decoder.name=palette", "model.decoder.num_colors=4").decoder
    colors = torch.tensor([[0.1], [0.3], [0.6], [0.9]])
    decoder.colors.copy_(colors)
    current = frames()[0]
    chosen = torch.randint(5, (2, *SIZE), generator=torch.Generator().manual_seed(0))
    drawn = decoder.on_base(1000.0 * nn.functional.one_hot(chosen, 5).movedim(-1, 1), current)
    expected = torch.where(chosen == 0, current[:, 0], colors[(chosen - 1).clamp_min(0), 0])
    assert torch.equal(drawn[:, 0], expected)


def test_one_word_swaps_the_decoder_and_keeps_common_options() -> None:
    decoder = load_config("laptop", overrides=["model.decoder.name=plain"]).model.decoder
    assert decoder["channels"] == (16, 32, 64)
    assert (decoder["name"], decoder["base"]) == ("plain", "current")


def test_an_unknown_decoder_and_an_impossible_base_are_named() -> None:
    with pytest.raises(ConfigError, match=r"^model\.decoder\.name: unknown decoder 'unett' \(did you mean 'unet'\?\)"):
        load_config(overrides=["model.decoder.name=unett"])
    with pytest.raises(ConfigError, match=r"^model\.decoder\.base: .*previous"):
        load_config(overrides=["model.decoder.base=previous"])
