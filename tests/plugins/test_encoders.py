"""Encoders of one, two and more frames, and those that a third party made for two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lapa import Encoder, registry
from lapa.errors import ConfigError
from lapa.sections import build_encoder

SIZE = (40, 32)


class OldEncoder(Encoder):
    """As encoders were written when there were pairs alone."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """No options."""

    def __init__(self, config: Config, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(2 * channels, latent_dim, 4, stride=4)

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return frame_size[0] // 4, frame_size[1] // 4

    def forward(self, current: Tensor, following: Tensor) -> Tensor:  # type: ignore[override]
        return self.project(torch.cat([current, following], dim=1))


@pytest.fixture
def old() -> Iterator[str]:
    registry.encoders.register("old", OldEncoder)
    yield "old"
    registry.encoders.forget("old")


def build(name: str, frames: int, **options: Any) -> Any:
    return build_encoder({"name": name, **options}, frames=frames, channels=1, latent_dim=8)


def test_an_encoder_that_was_made_for_two_frames_still_takes_two(old: str) -> None:
    encoder = build(old, 2)
    assert encoder(*torch.rand(2, 3, 1, *SIZE)).shape == (3, 8, 10, 8)


@pytest.mark.parametrize("frames", [1, 3])
def test_asked_for_another_number_it_is_refused_in_one_line(old: str, frames: int) -> None:
    with pytest.raises(ConfigError, match=f"'old' sees two frames, and {frames} are wanted; take another, or give"):
        build(old, frames)


@pytest.mark.parametrize("name", registry.encoders.names())
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_every_encoder_takes_any_number_of_frames_or_says_why_not(name: str, frames: int) -> None:
    if name == "difference" and frames == 1:
        with pytest.raises(ConfigError, match=r"model\.encoder: one frame has no difference; take another encoder"):
            build(name, frames)
        return
    encoder = build(name, frames).eval()
    latent = encoder(*torch.rand(frames, 2, 1, *SIZE))
    assert latent.shape == (2, 8, *encoder.grid(SIZE))


@pytest.mark.parametrize("name", ["conv", "residual", "impala", "patch"])
def test_one_frame_has_no_difference_to_see(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder\.sees: one frame has no difference; take frames"):
        build(name, 1, sees="difference")


@pytest.mark.parametrize("name", registry.encoders.names())
def test_two_frames_are_what_is_built_without_a_word(name: str) -> None:
    cls = registry.encoders.get(name)
    unsaid, said = (cls(cls.Config(), channels=1, latent_dim=8, **more) for more in ({}, {"frames": 2}))
    shapes = [{key: value.shape for key, value in encoder.state_dict().items()} for encoder in (unsaid, said)]
    assert shapes[0] == shapes[1]


def test_differences_of_several_frames_stand_in_the_order_of_time() -> None:
    encoder = build("conv", 3, channels=[4], sees="difference").eval()
    frames = torch.rand(3, 1, 1, *SIZE)
    steps = torch.cat([frames[1] - frames[0], frames[2] - frames[1]], dim=1)
    assert torch.equal(encoder(*frames), encoder.layers(steps))
