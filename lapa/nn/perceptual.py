"""Distance between the VGG16 features of two frames, as a loss that sees edges and shapes where pixels see greys."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lapa.errors import ConfigError

CONVS = (2, 2, 3)
"""Convolutions in each block before the next pooling (Simonyan and Zisserman 2015, configuration D), three blocks."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels: what VGG16 was trained on."""
REMEDY = (
    "make one where torchvision is installed: "
    "torch.save(torchvision.models.vgg16(weights='IMAGENET1K_V1').state_dict(), 'vgg16.pt')"
)


class PerceptualLoss(nn.Module):
    """Mean squared distance between unit-length VGG16 features after relu1_2, relu2_2 and relu3_3.

    The layers are those of Johnson et al. (2016, section 3.2). Each place's features are scaled to length one over the
    channels, as in LPIPS (Zhang et al. 2018, equation 1) without its learnt weights: no layer drowns the others.
    Deeper layers name objects that no game frame shows.

    Args:
        blocks: for each block its convolutions' (weight, bias).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: list[list[tuple[Tensor, Tensor]]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for index, convs in enumerate(blocks):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if index else []
            for weight, bias in convs:
                conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
                conv.load_state_dict({"weight": weight, "bias": bias})
                layers += [conv, nn.ReLU()]
            self.blocks.append(nn.Sequential(*layers))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(B, C, H, W) float in [0, 1] twice, C 1 or 3 -> scalar, the mean over layers, places and pairs."""
        with torch.no_grad():
            wanted = self.features(target)
        distances = [
            (drawn - true).square().sum(1).mean() for drawn, true in zip(self.features(prediction), wanted, strict=True)
        ]
        return torch.stack(distances).mean()

    def features(self, frames: Tensor) -> list[Tensor]:
        """(B, C, H, W) float in [0, 1] -> unit-length features of each layer, (B, F, H', W')."""
        x = (frames.float().expand(-1, 3, -1, -1) - self.mean) / self.std
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x / (x.square().sum(1, keepdim=True) + 1e-10).sqrt())
        return features


def load_vgg16(path: Path) -> PerceptualLoss:
    """The perceptual loss with the weights in a file: a state dict with torchvision's names (``features.0.weight``).

    Widths are those of the file, whatever they are.

    Raises:
        ConfigError: no such file, or its content is not VGG16's weights.
    """
    where = f"loss.perceptual_weights: {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file; {REMEDY}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError, zipfile.BadZipFile):
        raise ConfigError(f"{where}: cannot be read as weights; {REMEDY}") from None
    if not isinstance(state, dict):
        raise ConfigError(f"{where}: is not a state dict; {REMEDY}")
    blocks: list[list[tuple[Tensor, Tensor]]] = []
    number, before = 0, 3
    for count in CONVS:
        convs = []
        for _ in range(count):
            weight, bias = (state.get(f"features.{number}.{kind}") for kind in ("weight", "bias"))
            if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
                raise ConfigError(f"{where}: has no features.{number}.weight and .bias; {REMEDY}")
            if weight.shape != (len(bias), before, 3, 3):
                raise ConfigError(
                    f"{where}: features.{number}.weight is {tuple(weight.shape)}, not ({len(bias)}, {before}, 3, 3); "
                    f"{REMEDY}"
                )
            convs.append((weight, bias))
            number, before = number + 2, len(bias)  # a ReLU stands after each
        blocks.append(convs)
        number += 1  # the pooling
    return PerceptualLoss(blocks)
