"""What a step reports of its codes."""

from __future__ import annotations

import pytest
import torch

from lapa.contracts import Quantized
from lapa.engine.metering import StepResult
from lapa.systems.latent_action.model import ModelOutput
from lapa_plugins.quantizers.residual import ResidualQuantizer


def test_the_codes_of_a_place_are_counted_apart() -> None:
    quantizer = ResidualQuantizer(ResidualQuantizer.Config(num_codes=4, depth=2), latent_dim=3)
    frames, latent = torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 1, 2)
    codes = torch.tensor([[[1, 1, 2, 1]]])  # two places of two codes each
    result = StepResult(quantizer)
    for _ in range(2):
        output = ModelOutput(frames, latent, Quantized(latent, codes, torch.zeros(()), {}))
        result.add(torch.zeros(()), {}, output, frames)
    values = result.values(torch.zeros(()), stop=0)
    assert values["train/quantizer/codes_used"] == 3, "1 and 2 of the first level, 1 of the second"
    assert values["train/quantizer/perplexity"] == pytest.approx(2**1.5)
