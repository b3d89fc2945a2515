"""Every encoder with every quantizer and every conditioner: built by name, trained, saved, labelling."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import pairwise_cover
from lapa import registry
from lapa.config import Config, load_config
from lapa.contracts import Clips
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.engine.checkpoint import load_checkpoint, save_checkpoint
from lapa.engine.step import OptimizerStep
from lapa.errors import DataError
from lapa.inference.labelling import label
from lapa.systems.latent_action.model import LatentActionModel

STEPS = 20
FORMAT = FrameFormat(40, 32)  # of the toy
ENCODERS, QUANTIZERS, CONDITIONERS = (
    members.names() for members in (registry.encoders, registry.quantizers, registry.conditioners)
)


def configured(encoder: str, quantizer: str, conditioner: str, *overrides: str) -> Config:
    names = {"encoder": encoder, "quantizer": quantizer, "conditioner": conditioner}
    return load_config("debug", overrides=[*(f"model.{role}.name={name}" for role, name in names.items()), *overrides])


def train(config: Config, frames: np.ndarray) -> tuple[LatentActionModel, list[float], dict[str, bool]]:
    """The model after some steps on one batch, the loss before each, and which parts got a gradient."""
    torch.manual_seed(0)
    model = LatentActionModel(config.model, FORMAT)
    options = dataclasses.replace(config.training, learning_rate=3e-3, precision="fp32")
    take_step = OptimizerStep(model, config.loss, options)
    prepared = prepare(torch.from_numpy(frames), FORMAT)
    clips = Clips(torch.stack([prepared[:-1], prepared[1:]], dim=1))
    losses, moved = [], dict.fromkeys(("encoder", "quantizer", "decoder.conditioner", "decoder.upsampler"), False)
    for step in range(STEPS):
        losses.append(take_step(clips, step / STEPS).metrics["train/loss/reconstruction"])
        for name in moved:
            parameters = list(model.get_submodule(name).parameters())
            # The moving averages of ``ema`` learn without a gradient.
            moved[name] |= not parameters or any(p.grad is not None and bool(p.grad.any()) for p in parameters)
    return model.eval(), losses, moved


def check(config: Config, frames: np.ndarray, folder: Path) -> None:
    """Trains; then codes, checkpoint and labels must survive."""
    model, losses, moved = train(config, frames)
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3]), losses
    assert all(moved.values()), moved
    path = folder / "best.pt"
    save_checkpoint(path, model, config, split={"train": ["0"]}, step=STEPS, metrics={})
    again = load_checkpoint(path, "cpu").model
    assert sorted(again.state_dict()) == sorted(model.state_dict())
    pair = [torch.from_numpy(part) for part in (frames[:-1], frames[1:])]
    if model.quantizer.num_codes is None:
        with pytest.raises(DataError, match="continuous"):
            label(again, *pair)
        return
    codes = label(again, *pair)
    assert codes.shape == (16, *model.code_grid)
    assert torch.equal(codes, label(model, *pair))
    assert torch.equal(codes[3], label(again, frames[3], frames[4]))
    with torch.inference_mode():
        current, following = (to_float(prepare(part, FORMAT)) for part in pair)
        output = again(current, following)
        quantized = output.quantized
        # Labelling decides in double precision what lies near a border, a forward pass does not.
        assert (codes == quantized.codes).float().mean() > 0.99
        latent = again.quantizer.codes_to_latent(quantized.codes)
        torch.testing.assert_close(latent, quantized.latent, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(again.decode(current, quantized.codes), output.prediction, atol=1e-5, rtol=1e-4)


COVER = pairwise_cover(ENCODERS, QUANTIZERS, CONDITIONERS)
REST = [names for names in product(ENCODERS, QUANTIZERS, CONDITIONERS) if names not in COVER]


@pytest.mark.parametrize(
    ("encoder", "quantizer", "conditioner"), [*COVER, *(pytest.param(*names, marks=pytest.mark.slow) for names in REST)]
)
def test_every_combination_trains_saves_and_labels(
    encoder: str, quantizer: str, conditioner: str, toy_frames: np.ndarray, tmp_path: Path
) -> None:
    check(configured(encoder, quantizer, conditioner), toy_frames, tmp_path)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize(
    ("encoder", "quantizer", "conditioner"),
    [
        *((name, "vq", "film") for name in ENCODERS),
        *(("conv", name, "film") for name in QUANTIZERS),
        *(("conv", "vq", name) for name in CONDITIONERS),
    ],
)
def test_every_part_works_with_pooled_tokens(
    encoder: str, quantizer: str, conditioner: str, tokens: int, toy_frames: np.ndarray, tmp_path: Path
) -> None:
    config = configured(encoder, quantizer, conditioner, f"model.tokens={tokens}")
    model = LatentActionModel(config.model, FORMAT)
    assert model.grid == (1, tokens)
    check(config, toy_frames, tmp_path)
