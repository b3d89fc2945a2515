"""What a step reports of its codes."""

from __future__ import annotations

import pytest
import torch

from lapa.config import load_config
from lapa.contracts import Quantized
from lapa.data.frames import FrameFormat
from lapa.engine.step import StepResult
from lapa.systems.latent_action.model import LatentActionModel, ModelOutput

PARTS = ["model.quantizer.name=residual", "model.quantizer.num_codes=4", "model.quantizer.depth=2"]


def test_the_codes_of_a_place_are_counted_apart() -> None:
    system = LatentActionModel(load_config("debug", overrides=PARTS).model, FrameFormat(8, 8))
    frames, latent = torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 1, 2)
    codes = torch.tensor([[[1, 1, 2, 1]]])  # two places of two codes each
    result = StepResult(system)
    for _ in range(2):
        output = ModelOutput(frames, latent, Quantized(latent, codes, torch.zeros(()), {}))
        result.add(torch.zeros(()), {}, output, (frames, frames))
    result.finish(torch.zeros(()), stop=0)
    assert result.metrics["train/quantizer/codes_used"] == 3, "1 and 2 of the first level, 1 of the second"
    assert result.metrics["train/quantizer/perplexity"] == pytest.approx(2**1.5)


def test_a_stop_signal_is_no_metric() -> None:
    system = LatentActionModel(load_config("debug").model, FrameFormat(8, 8))
    result = StepResult(system)
    frames, latent = torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 1, 2)
    output = ModelOutput(
        frames, latent, Quantized(latent, torch.zeros(1, 1, 2, dtype=torch.int64), torch.zeros(()), {})
    )
    result.add(torch.tensor(0.5), {}, output, (frames, frames))
    result.finish(torch.tensor(2.0), stop=15)
    assert result.stop == 15
    assert all(name.startswith("train/") for name in result.metrics)
    assert result.metrics["train/optim/gradient_norm"] == 2.0
    assert result.is_finite
