"""The blocks of encoders and decoders, against PyTorch's own layers."""

from __future__ import annotations

import pytest
import torch

from lapa.nn.layers import Upsampler, halved


@pytest.mark.parametrize("size", [(17, 14), (16, 16), (9, 12)])
def test_an_upsampler_is_a_stack_of_transposed_convolutions(size: tuple[int, int]) -> None:
    """Sizes and bias are worked out apart from them, and must come to the same."""
    torch.manual_seed(0)
    upsampler = Upsampler((8, 6, 4, 3), skips=(0, 5, 2)).double()
    torch.nn.init.normal_(upsampler.convs[-1].bias)  # type: ignore[arg-type]
    sizes = [halved(size, times) for times in (3, 2, 1, 0)]
    features = torch.randn(2, 8, *sizes[0], dtype=torch.float64)
    skips = [torch.randn(2, width, *at, dtype=torch.float64) for width, at in zip((5, 2), sizes[1:3], strict=True)]

    expected = upsampler.convs[0](features, output_size=list(sizes[1]))
    for norm, conv, skip, after in zip(upsampler.norms, upsampler.convs[1:], skips, sizes[2:], strict=True):
        expected = conv(torch.cat([norm(expected).relu(), skip], dim=1), output_size=list(after))
    assert torch.allclose(upsampler(features, size, skips), expected, atol=1e-12)
