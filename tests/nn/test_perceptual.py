"""The perceptual loss computes what VGG16's layers would, reaches the prediction, and refuses other files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lapa.config import load_config
from lapa.contracts import Quantized, Terms
from lapa.data.store import FrameStore
from lapa.engine.training import train
from lapa.errors import ConfigError
from lapa.nn.perceptual import PerceptualLoss, load_vgg16
from lapa.systems.latent_action.config import LossConfig
from lapa.systems.latent_action.losses import loss_terms, make_perceptual

WIDTHS = {0: (3, 4), 2: (4, 4), 5: (4, 6), 7: (6, 6), 10: (6, 8), 12: (8, 8), 14: (8, 8)}
"""Channels before and after each convolution of a small VGG16, by its number in torchvision's ``features``."""


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """The state dict of a small VGG16 with random weights, and what else such a file holds."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number, (before, after) in WIDTHS.items():
        weights[f"features.{number}.weight"] = torch.randn(after, before, 3, 3, generator=generator) / 3
        weights[f"features.{number}.bias"] = torch.randn(after, generator=generator) / 3
    return {**weights, "features.17.weight": torch.zeros(8, 8, 3, 3), "classifier.0.weight": torch.zeros(2, 2)}


@pytest.fixture
def file(state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "vgg16.pt")
    return tmp_path / "vgg16.pt"


def reference(state: dict[str, torch.Tensor]) -> nn.Sequential:
    """The same layers, as torchvision numbers them, up to relu3_3."""
    layers: list[nn.Module] = []
    for number in range(16):
        if number in WIDTHS:
            layers.append(nn.Conv2d(*WIDTHS[number], 3, padding=1))
        else:
            layers.append(nn.MaxPool2d(2, 2) if number in (4, 9) else nn.ReLU())
    network = nn.Sequential(*layers)
    used = {f"{number}.{kind}" for number in WIDTHS for kind in ("weight", "bias")}
    network.load_state_dict({name: state[f"features.{name}"] for name in used})
    return network


@pytest.mark.parametrize("channels", [1, 3])
def test_the_loss_compares_unit_features_of_three_layers(
    state: dict[str, torch.Tensor], file: Path, channels: int
) -> None:
    prediction, target = torch.rand(2, 2, channels, 20, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = ((frames.expand(2, 3, 20, 16) - mean[:, None, None]) / std[:, None, None] for frames in (prediction, target))
    distances = []
    for number, layer in enumerate(reference(state)):
        x, y = layer(x), layer(y)
        if number in (3, 8, 15):
            a, b = (nn.functional.normalize(features, dim=1) for features in (x, y))
            distances.append(((a - b) ** 2).sum(1).mean())
    assert len(distances) == 3
    assert float(load_vgg16(file)(prediction, target)) == pytest.approx(float(sum(distances).detach() / 3), rel=1e-4)


def test_equal_frames_are_at_no_distance_and_others_are(file: Path) -> None:
    loss = load_vgg16(file)
    frames = torch.rand(2, 1, 20, 16)
    assert loss(frames, frames) == 0
    assert loss(frames.flip(3), frames) > 0.01


def test_the_gradient_reaches_the_prediction_and_no_weight(file: Path) -> None:
    loss = load_vgg16(file)
    prediction = torch.rand(2, 1, 20, 16, requires_grad=True)
    loss(prediction, torch.rand(2, 1, 20, 16)).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert prediction.grad.flatten(1).any(1).all()
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_prediction_gives_a_finite_loss(file: Path, dtype: torch.dtype) -> None:
    assert load_vgg16(file)(torch.zeros(1, 1, 20, 16, dtype=dtype), torch.zeros(1, 1, 20, 16)).isfinite()


def terms_of(
    frames: torch.Tensor,
    following: torch.Tensor,
    config: LossConfig,
    progress: float,
    perceptual: PerceptualLoss | None,
) -> Terms:
    """The terms for a model whose quantizer lost 0.7."""
    quantized = Quantized(torch.zeros(1, 2, 1, 1), None, torch.tensor(0.7), {})
    return loss_terms(frames, quantized, following, following, config, progress, perceptual)


@pytest.mark.parametrize(
    ("start", "end", "progress", "weight"), [(0.1, 0.1, 0.5, 0.1), (0.0, 0.2, 0.5, 0.1), (1.0, 0.01, 0.5, 0.1)]
)
def test_the_weight_follows_its_schedule(file: Path, start: float, end: float, progress: float, weight: float) -> None:
    config = LossConfig(perceptual=start, perceptual_end=end, perceptual_weights=str(file))
    frames = torch.rand(2, 2, 1, 20, 16)
    perceptual = make_perceptual(config)
    found, value = terms_of(frames[0], frames[1], config, progress, perceptual)["perceptual"]
    assert found == pytest.approx(weight)
    assert perceptual is not None
    assert value == perceptual(frames[0], frames[1])


def test_while_the_weight_is_zero_the_features_are_not_computed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LossConfig(perceptual=0, perceptual_end=1, perceptual_weights=str(file))
    perceptual = make_perceptual(config)
    assert perceptual is not None
    monkeypatch.setattr(perceptual, "forward", None)
    frames = torch.rand(2, 1, 20, 16)
    assert terms_of(frames, frames, config, 0.0, perceptual).keys() == {"reconstruction", "quantizer"}


def test_without_a_weight_there_is_no_perceptual_loss() -> None:
    assert make_perceptual(LossConfig()) is None


@pytest.mark.parametrize("option", ["loss.perceptual=0.1", "loss.perceptual_end=0.1"])
def test_asked_for_without_weights_it_stops_before_anything_is_read(option: str) -> None:
    with pytest.raises(ConfigError, match=r"perceptual_weights: the perceptual loss needs a file of VGG16 weights"):
        load_config("debug", overrides=[option])


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("features.5.bias"), r"has no features.5.weight and .bias"),
        (lambda state: {**state, "features.7.weight": torch.zeros(6, 5, 3, 3)}, r"features.7.weight is \(6, 5, 3, 3\)"),
        (lambda state: {**state, "features.0.weight": torch.zeros(4, 1, 3, 3)}, r"not \(4, 3, 3, 3\)"),
        (lambda state: list(state.values()), "is not a state dict"),
        (lambda state: re.compile("code"), "cannot be read as weights"),  # a pickled object, which loading would run
    ],
)
def test_a_file_that_is_not_vgg16_is_refused(
    state: dict[str, torch.Tensor], file: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    torch.save(spoil(state), file)
    with pytest.raises(ConfigError, match=message) as raised:
        load_vgg16(file)
    assert str(raised.value).startswith(f"loss.perceptual_weights: {file}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vgg16.pt").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as weights; make one"):
        load_vgg16(tmp_path / "vgg16.pt")
    with pytest.raises(ConfigError, match="no such file; make one"):
        load_vgg16(tmp_path / "none.pt")


def test_a_run_trains_with_it_and_logs_it(breakout_store: FrameStore, file: Path, tmp_path: Path) -> None:
    options = ["loss.perceptual=0.1", f"loss.perceptual_weights={file}", f"training.out={tmp_path / 'run'}"]
    summary = train(load_config("debug", overrides=[*options, "training.steps=5"]), breakout_store, lambda _: None)
    assert 0 < summary.metrics["val/loss/perceptual"] < 4, "a squared distance of unit vectors"
    assert '"train/loss/perceptual"' in (tmp_path / "run" / "metrics.jsonl").read_text()
