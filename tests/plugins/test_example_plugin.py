"""A third party's distribution: checked with our sweep, installed into a fresh environment, trained by name."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from helpers import EXAMPLE_PLUGIN, install, run_lapa
from lapa import LatentActionDataset
from lapa.contracts import Conditioner, Encoder, Quantized, Quantizer
from lapa.testing import check_conditioner, check_encoder, check_quantizer

EXAMPLE = EXAMPLE_PLUGIN


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_plugin", EXAMPLE / "example_plugin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_meets_the_contract(example: ModuleType) -> None:
    check_quantizer(example.Signs)
    check_quantizer(example.Signs, example.Signs.Config(bits=2))
    check_conditioner(example.Shift)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment with the example installed by pip."""
    return install(EXAMPLE, tmp_path_factory.mktemp("fresh"))


def test_an_installed_distribution_is_trained_by_name(
    environment: Path, record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    overrides = ["model.quantizer.name=signs", "model.quantizer.bits=3", "model.conditioner.name=shift"]
    toys, out = record_toy(tmp_path / "toys"), tmp_path / "run"
    places = ["data.downsample=1", f"data.root={toys}", f"training.out={out}"]
    train = ["train", "--preset", "debug", *overrides, *places]
    dataset = tmp_path / "codes.lapa"
    extract = ["extract", "--checkpoint", str(out / "best.pt"), "--data", str(toys), "--out", str(dataset)]
    said = run_lapa(environment, ["plugins"], train, extract)
    assert "distribution 'example-plugin'  bits=4" in " ".join(said.split("\n")).replace("   ", "  ")
    codes = LatentActionDataset(dataset).codes
    assert codes.shape[0] == 5 * 12
    assert codes.max() < 2**3


# The sweep finds what is wrong


class Sound(Quantizer):
    """Rounds the sign of the first channel."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """No options."""

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @property
    def num_codes(self) -> int | None:
        return 2

    def forward(self, latent: torch.Tensor) -> Quantized:
        codes = (latent[:, 0] > 0).long()
        rounded = self.codes_to_latent(codes).to(latent.dtype)
        return Quantized(latent + (rounded - latent).detach(), codes, latent.square().mean(), {})

    def codes_to_latent(self, codes: torch.Tensor) -> torch.Tensor:
        return (2.0 * codes - 1)[:, None].expand(-1, self.latent_dim, -1, -1)


def without_config() -> type[Quantizer]:
    return type("Broken", (Sound,), {"Config": None})


def with_changeable_config() -> type[Quantizer]:
    return type("Broken", (Sound,), {"Config": dataclasses.make_dataclass("Config", [])})


def with_an_option_without_default() -> type[Quantizer]:
    return type("Broken", (Sound,), {"Config": dataclasses.make_dataclass("Config", [("width", int)], frozen=True)})


class Noisy(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        return super().forward(latent + torch.randn_like(latent))


class Counting(Sound):
    def __init__(self, config: Any, *, latent_dim: int) -> None:
        super().__init__(config, latent_dim=latent_dim)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, latent: torch.Tensor) -> Quantized:
        self.calls += 1
        return super().forward(latent)


class Forgetful(Sound):
    def __init__(self, config: Any, *, latent_dim: int) -> None:
        super().__init__(config, latent_dim=latent_dim)
        self.calls = 0

    def forward(self, latent: torch.Tensor) -> Quantized:
        if self.training:
            self.calls += 1
        quantized = super().forward(latent)
        return dataclasses.replace(quantized, latent=quantized.latent + self.calls)


class Idle(Sound):
    def __init__(self, config: Any, *, latent_dim: int) -> None:
        super().__init__(config, latent_dim=latent_dim)
        self.unused = torch.nn.Parameter(torch.ones(3))


class Single(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        return super().forward(latent.float())


class Floating(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        quantized = super().forward(latent)
        return dataclasses.replace(quantized, codes=quantized.codes.float())


class OutOfRange(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        quantized = super().forward(latent)
        return dataclasses.replace(quantized, codes=quantized.codes + 1)


class Dead(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        return super().forward(latent.abs() + 1)


class OneWay(Sound):
    def codes_to_latent(self, codes: torch.Tensor) -> torch.Tensor:
        return super().codes_to_latent(codes) + 0.5

    def forward(self, latent: torch.Tensor) -> Quantized:
        codes = (latent[:, 0] > 0).long()
        rounded = Sound.codes_to_latent(self, codes).to(latent.dtype)
        return Quantized(latent + (rounded - latent).detach(), codes, latent.square().mean(), {})


class Blocking(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        quantized = super().forward(latent)
        return dataclasses.replace(quantized, latent=quantized.latent.detach().requires_grad_())


class Bold(Sound):
    def margin(self, latent: torch.Tensor) -> torch.Tensor:
        return latent[:, 0].abs() * 2


class Timid(Sound):
    def margin(self, latent: torch.Tensor) -> torch.Tensor:
        return latent[:, 0].abs() * 0


class Lossless(Sound):
    def forward(self, latent: torch.Tensor) -> Quantized:
        return dataclasses.replace(super().forward(latent), loss=latent.new_zeros(()))


class Denying(Sound):
    has_loss = False


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (int, "does not derive from lapa.Quantizer"),
        (without_config(), "Config must be a dataclass"),
        (with_changeable_config(), "Config must be frozen"),
        (with_an_option_without_default(), "Config.width needs a default"),
        (Noisy, "in eval mode the same input gives two outputs"),
        (Counting, "in eval mode the state moves: calls"),
        (Forgetful, "state_dict misses something"),
        (Idle, "unused gets no finite gradient"),
        (Single, "with float64 inputs the output is torch.float32"),
        (Floating, "codes must be int64"),
        (OutOfRange, r"codes lie outside of \[0, 2\)"),
        (Dead, "all latents get the same code"),
        (OneWay, "is not the latent that forward gave"),
        (Blocking, "latent passes no gradient to the encoder"),
        (Bold, "changed its code though it moved by less than its margin"),
        (Timid, "margin must not be negative, nor always 0"),
        (Lossless, "the loss is 0: compute it, or let has_loss be False"),
        (Denying, r"has_loss is False, but the loss is \d"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_fault_of_a_quantizer_is_found(cls: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_quantizer(cls)


def test_the_sound_one_passes() -> None:
    check_quantizer(Sound)


class Lying(Encoder):
    """Promises another grid than it gives."""

    Config = Sound.Config

    def __init__(self, config: Any, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(2 * channels, latent_dim, 3, stride=2, padding=1)

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return frame_size[0] // 2 + 1, frame_size[1] // 2

    def forward(self, current: torch.Tensor, next: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat([current, next], dim=1))


class HalfBlind(Lying):
    """Sees the current frame alone."""

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return -(-frame_size[0] // 2), -(-frame_size[1] // 2)

    def forward(self, current: torch.Tensor, next: torch.Tensor) -> torch.Tensor:
        return super().forward(current, current)


@pytest.mark.parametrize(("cls", "message"), [(Lying, r"grid\(\) promised"), (HalfBlind, "next frame does not matter")])
def test_each_fault_of_an_encoder_is_found(cls: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_encoder(cls)


class Deaf(Conditioner):
    """Listens to one place of the latent alone."""

    Config = Sound.Config

    def __init__(self, config: Any, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.project = torch.nn.Linear(latent_dim, features)

    def forward(self, features: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return features + self.project(latent[:, :, 0, 0])[:, :, None, None]


class Mixing(Deaf):
    """Lets the rows of a batch see each other."""

    def forward(self, features: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return features + self.project(latent.mean((0, 2, 3)))[None, :, None, None]


class Cropping(Deaf):
    """Loses a row."""

    def forward(self, features: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return super().forward(features, latent)[:, :, :6]


@pytest.mark.parametrize(
    ("cls", "message"),
    [(Deaf, "steers nothing"), (Mixing, "depends on the rows beside it"), (Cropping, r"features .* give")],
)
def test_each_fault_of_a_conditioner_is_found(cls: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_conditioner(cls)
