"""The perceptual losses compute what VGG16's layers would, reach the prediction, and refuse other files."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from vgg import WIDTHS, vgg16_state, write_heads, write_vgg16

from lapa.config import load_config
from lapa.contracts import Quantized, Terms
from lapa.data.store import FrameStore
from lapa.engine.training import train
from lapa.errors import ConfigError
from lapa.nn.perceptual import FeatureLoss, load_perceptual
from lapa.systems.latent_action.config import LossConfig
from lapa.systems.latent_action.losses import loss_terms
from lapa.systems.losses import make_perceptual


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return vgg16_state()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_vgg16(tmp_path / "vgg16.pt")


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return write_heads(tmp_path / "heads.pth")


def reference(state: dict[str, torch.Tensor]) -> nn.Sequential:
    """The same layers, as torchvision numbers them, up to relu5_3."""
    layers: list[nn.Module] = []
    for number in range(30):
        if number in WIDTHS:
            layers.append(nn.Conv2d(*WIDTHS[number], 3, padding=1))
        else:
            layers.append(nn.MaxPool2d(2, 2) if number in (4, 9, 16, 23) else nn.ReLU())
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
    assert float(load_perceptual("vgg16", file)(prediction, target)) == pytest.approx(
        float(sum(distances).detach() / 3), rel=1e-4
    )


def lpips_by_hand(
    state: dict[str, torch.Tensor], heads: Path, prediction: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Equation 1 of Zhang et al. 2018 for frames (B, 3, H, W) in [-1, 1], through the package's scaling."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((frames - shift[:, None, None]) / scale[:, None, None] for frames in (prediction, target))
    weights = iter(torch.load(heads, weights_only=True).values())
    total = torch.zeros(len(prediction))
    for number, layer in enumerate(reference(state)):
        x, y = layer(x), layer(y)
        if number in (3, 8, 15, 22, 29):
            a, b = (features / (features.norm(dim=1, keepdim=True) + 1e-10) for features in (x, y))
            total += (next(weights) * (a - b) ** 2).sum(1).mean((1, 2))
    assert next(weights, None) is None
    return total.mean()


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_is_equation_1_of_frames_brought_to_minus_one_to_one(
    state: dict[str, torch.Tensor], file: Path, heads: Path, channels: int
) -> None:
    prediction, target = torch.rand(2, 3, channels, 32, 24, generator=torch.Generator().manual_seed(2))
    found = float(load_perceptual("lpips", file, heads)(prediction, target))
    colour = [frames.expand(-1, 3, -1, -1) for frames in (prediction, target)]
    expected = float(lpips_by_hand(state, heads, *(2 * frames - 1 for frames in colour)).detach())
    unscaled = float(lpips_by_hand(state, heads, *colour).detach())
    assert found == pytest.approx(expected, rel=1e-4)
    assert abs(found - unscaled) > 0.05 * expected, "this test could not tell frames in [0, 1]"


@pytest.fixture(params=["vgg16", "lpips"])
def loss(request: pytest.FixtureRequest, file: Path, heads: Path) -> FeatureLoss:
    return load_perceptual(request.param, file, heads)


def test_equal_frames_are_at_no_distance_and_others_are(loss: FeatureLoss) -> None:
    frames = torch.rand(2, 1, 20, 16)
    assert loss(frames, frames) == 0
    assert loss(frames.flip(3), frames) > 0.01


def test_the_gradient_reaches_the_prediction_and_no_weight(loss: FeatureLoss) -> None:
    prediction = torch.rand(2, 1, 20, 16, requires_grad=True)
    loss(prediction, torch.rand(2, 1, 20, 16)).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()
    assert prediction.grad.flatten(1).any(1).all()
    assert not any(parameter.requires_grad for parameter in loss.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_prediction_gives_a_finite_loss(loss: FeatureLoss, dtype: torch.dtype) -> None:
    assert loss(torch.zeros(1, 1, 20, 16, dtype=dtype), torch.zeros(1, 1, 20, 16)).isfinite()


def test_places_without_any_feature_leave_the_gradient_finite(
    state: dict[str, torch.Tensor], file: Path, heads: Path
) -> None:
    torch.save({**state, "features.28.bias": torch.full((7,), -1e6)}, file)  # nothing passes the last ReLU
    prediction = torch.rand(1, 1, 20, 16, requires_grad=True)
    load_perceptual("lpips", file, heads)(prediction, torch.rand(1, 1, 20, 16)).backward()
    assert prediction.grad is not None
    assert prediction.grad.isfinite().all()


def test_frames_too_small_for_the_layers_are_an_error(file: Path, heads: Path) -> None:
    frames = torch.rand(2, 1, 20, 15)
    with pytest.raises(ConfigError, match=r"frames of at least 16 x 16 pixels, not 20 x 15; lower data.downsample"):
        load_perceptual("lpips", file, heads)(frames, frames)
    assert load_perceptual("vgg16", file)(frames, frames) == 0


def terms_of(
    frames: torch.Tensor,
    following: torch.Tensor,
    config: LossConfig,
    progress: float,
    perceptual: FeatureLoss | None,
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
        (lambda state: {**state, "features.14.bias": torch.full((8,), torch.nan)}, "features.14 is not finite"),
        (
            lambda state: {**state, "features.12.weight": torch.zeros(8, 8, 3, 3)},
            "features.12.weight is all zeros, a stub",
        ),
        (lambda state: list(state.values()), "is not a state dict"),
        (lambda state: re.compile("code"), "cannot be read as weights"),  # a pickled object, which loading would run
    ],
)
def test_a_file_that_is_not_vgg16_is_refused(
    state: dict[str, torch.Tensor], file: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    torch.save(spoil(state), file)
    with pytest.raises(ConfigError, match=message) as raised:
        load_perceptual("vgg16", file)
    assert str(raised.value).startswith(f"loss.perceptual_weights: {file}: ")
    assert "\n" not in str(raised.value)


HEAD = "lin3.model.1.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without(HEAD), f"has no {HEAD}"),
        (lambda state: {**state, HEAD: torch.ones(1, 512, 1, 1)}, rf"{HEAD} is \(1, 512, 1, 1\), not \(1, 5, 1, 1\)"),
        (lambda state: {**state, HEAD: torch.full((1, 5, 1, 1), torch.inf)}, f"{HEAD} is not finite, or negative"),
        (lambda state: {**state, HEAD: -torch.ones(1, 5, 1, 1)}, f"{HEAD} is not finite, or negative"),
        (lambda state: {name: head * 0 for name, head in state.items()}, "is all zeros, a stub"),
        (lambda state: [state], "is not a state dict"),
    ],
)
def test_a_file_that_is_not_the_heads_of_lpips_is_refused(
    file: Path, heads: Path, spoil: Callable[[dict[str, Any]], Any], message: str
) -> None:
    torch.save(spoil(torch.load(heads, weights_only=True)), heads)
    with pytest.raises(ConfigError, match=message) as raised:
        load_perceptual("lpips", file, heads)
    assert str(raised.value).startswith(f"loss.perceptual_heads: {heads}: ")
    assert "pip install --no-deps lpips" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lpips_needs_all_thirteen_convolutions(state: dict[str, torch.Tensor], file: Path, heads: Path) -> None:
    torch.save(without("features.28.weight")(state), file)
    with pytest.raises(ConfigError, match=r"loss.perceptual_weights: .*: has no features.28.weight and .bias"):
        load_perceptual("lpips", file, heads)
    load_perceptual("vgg16", file)


def test_the_heads_are_those_of_the_installed_package_which_is_not_imported(
    file: Path, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("import torchvision_that_is_not_there")
    monkeypatch.syspath_prepend(str(package.parent))
    with pytest.raises(ConfigError, match=r"perceptual_heads: .*vgg.pth: no such file"):
        load_perceptual("lpips", file)
    heads.rename(package / "weights" / "v0.1" / "vgg.pth")
    frames = torch.rand(2, 2, 1, 20, 16)
    assert load_perceptual("lpips", file)(*frames) > 0
    assert "lpips" not in sys.modules


def test_without_the_package_a_file_of_heads_is_asked_for(
    file: Path, heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"loss.perceptual_heads: the package lpips is not installed; .*or name its"):
        load_perceptual("lpips", file)
    load_perceptual("lpips", file, heads)


def test_an_unknown_kind_is_an_error(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"loss.perceptual_kind: must be vgg16 or lpips, not 'alex'"):
        load_perceptual("alex", file)


@pytest.mark.parametrize("content", [b"", b"not weights"])
def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vgg16.pt").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as weights; make one"):
        load_perceptual("vgg16", tmp_path / "vgg16.pt")
    with pytest.raises(ConfigError, match="no such file; make one"):
        load_perceptual("vgg16", tmp_path / "none.pt")


def test_a_run_trains_with_it_and_logs_it(breakout_store: FrameStore, file: Path, tmp_path: Path) -> None:
    options = ["loss.perceptual=0.1", f"loss.perceptual_weights={file}", f"training.out={tmp_path / 'run'}"]
    summary = train(load_config("debug", overrides=[*options, "training.steps=5"]), breakout_store, lambda _: None)
    assert 0 < summary.metrics["val/loss/perceptual"] < 4, "a squared distance of unit vectors"
    assert '"train/loss/perceptual"' in (tmp_path / "run" / "metrics.jsonl").read_text()
