"""Distances between the VGG16 features of two frames, as losses that see edges and shapes where pixels see greys."""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.errors import ConfigError

CONVS = (2, 2, 3, 3, 3)
"""Convolutions in each block before the next pooling (Simonyan and Zisserman 2015, configuration D)."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels in [0, 1]: what VGG16 was trained on."""
REMEDY = (
    "make one where torchvision is installed: "
    "torch.save(torchvision.models.vgg16(weights='IMAGENET1K_V1').state_dict(), 'vgg16.pt')"
)
HEADS_REMEDY = (
    "install the package that has them with `pip install --no-deps lpips` and leave the key null, or name its vgg.pth"
)

Convolutions = list[list[tuple[Tensor, Tensor]]]
"""For each block its convolutions' (weight, bias)."""


class FeatureLoss(nn.Module, ABC):
    """What the losses share: the VGG16 features after the last ReLU of each block, of length one at each place.

    Args:
        blocks: as many as there are layers to compare.
        epsilon: added to the squared length of the features, so that they may all be 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, blocks: Convolutions, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
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
        """(B, C, H, W) float in [0, 1] twice, C 1 or 3 -> scalar, the mean over pairs; no gradient to the target.

        Raises:
            ConfigError: the frames are too small to be pooled before each block but the first.
        """
        with torch.no_grad():
            wanted = self.features(target)
        found = self.features(prediction)
        return self.combined([(drawn - true).square() for drawn, true in zip(found, wanted, strict=True)])

    @abstractmethod
    def combined(self, differences: list[Tensor]) -> Tensor:
        """Squared differences (B, F, H', W') of each layer -> scalar."""

    def features(self, frames: Tensor) -> list[Tensor]:
        """(B, C, H, W) float in [0, 1] -> unit-length features of each layer, (B, F, H', W')."""
        smallest = 2 ** (len(self.blocks) - 1)
        if min(frames.shape[2:]) < smallest:
            height, width = frames.shape[2:]
            raise ConfigError(
                f"loss.perceptual: needs frames of at least {smallest} x {smallest} pixels, not {height} x {width}; "
                "lower data.downsample, or set the weight to 0"
            )
        x = (frames.float().expand(-1, 3, -1, -1) - self.mean) / self.std
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x / (x.square().sum(1, keepdim=True) + self.epsilon).sqrt())
        return features


class PerceptualLoss(FeatureLoss):
    """Mean squared distance between unit-length VGG16 features after relu1_2, relu2_2 and relu3_3.

    The layers are those of Johnson et al. (2016, section 3.2). Each place's features are scaled to length one over the
    channels, as in LPIPS (Zhang et al. 2018, equation 1) without its learnt weights: no layer drowns the others.
    Deeper layers name objects that no game frame shows.

    Args:
        blocks: the first three.
    """

    def __init__(self, blocks: Convolutions) -> None:
        super().__init__(blocks, epsilon=1e-10)

    def combined(self, differences: list[Tensor]) -> Tensor:
        """The mean over layers, places and pairs of what is summed over channels."""
        return torch.stack([difference.sum(1).mean() for difference in differences]).mean()


class Lpips(FeatureLoss):
    """LPIPS on VGG16 (Zhang et al. 2018, equation 1), as the package ``lpips`` computes it, in its version 0.1.

    The layers are relu1_2, 2_2, 3_3, 4_3 and 5_3; learnt weights say how much each channel of a layer counts. The
    package takes frames in [-1, 1], and then subtracts (-.030, -.088, -.188) and divides by (.458, .448, .450): of
    frames in [0, 1] that is exactly :data:`MEAN` and :data:`STD`.

    Args:
        blocks: all five.
        heads: (F,) for each layer, the weights of its channels, not negative.
    """

    heads: Sequence[Tensor]

    def __init__(self, blocks: Convolutions, heads: list[Tensor]) -> None:
        # The package adds 1e-10 to the length. Its square under the root does so where all features are 0, and there
        # has a slope; elsewhere it is lost in rounding.
        super().__init__(blocks, epsilon=1e-20)
        self.heads = nn.ParameterList(nn.Parameter(head.float(), requires_grad=False) for head in heads)  # type: ignore[assignment]

    def combined(self, differences: list[Tensor]) -> Tensor:
        """The sum over layers and channels, the mean over places and pairs."""
        pairs = zip(differences, self.heads, strict=True)
        return torch.stack([F.conv2d(difference, head[None, :, None, None]).mean() for difference, head in pairs]).sum()


def load_perceptual(kind: str, weights: Path, heads: Path | None = None) -> FeatureLoss:
    """The perceptual loss of a kind; calling it gives a scalar for predicted and true frames in [0, 1].

    Args:
        kind: ``vgg16``, :class:`PerceptualLoss`; or ``lpips``, :class:`Lpips`.
        weights: file with a state dict of VGG16, with torchvision's names (``features.0.weight``). Widths are those of
            the file, whatever they are.
        heads: of ``lpips``: file with the weights of its channels; None takes that of the installed package.

    Raises:
        ConfigError: a file is missing or not what it must be, or there is no such kind.
    """
    if kind == "vgg16":
        return PerceptualLoss(_read_blocks(weights, CONVS[:3]))
    if kind == "lpips":
        blocks = _read_blocks(weights, CONVS)
        return Lpips(blocks, _read_heads(heads or _packaged_heads(), [len(convs[-1][1]) for convs in blocks]))
    raise ConfigError(f"loss.perceptual_kind: must be vgg16 or lpips, not '{kind}'")


def _packaged_heads() -> Path:
    """The file in the package ``lpips``, which is not imported: that would import torchvision, which is not needed."""
    spec = importlib.util.find_spec("lpips")
    for folder in (spec and spec.submodule_search_locations) or ():
        return Path(folder) / "weights" / "v0.1" / "vgg.pth"
    raise ConfigError(f"loss.perceptual_heads: the package lpips is not installed; {HEADS_REMEDY}")


def _read_blocks(path: Path, counts: Sequence[int]) -> Convolutions:
    """VGG16's first blocks, of so many convolutions each."""
    where = f"loss.perceptual_weights: {path}"
    state = _read_state(path, where, REMEDY)
    blocks: Convolutions = []
    number, before = 0, 3
    for count in counts:
        convs = []
        for _ in range(count):
            weight, bias = (state.get(f"features.{number}.{kind}") for kind in ("weight", "bias"))
            if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or bias.ndim != 1:
                raise ConfigError(f"{where}: has no features.{number}.weight and .bias; {REMEDY}")
            if weight.shape != (len(bias), before, 3, 3):
                raise ConfigError(
                    f"{where}: features.{number}.weight is {tuple(weight.shape)}, not ({len(bias)}, {before}, 3, 3); "
                    f"{REMEDY}"
                )
            if not (weight.isfinite().all() and bias.isfinite().all()):
                raise ConfigError(f"{where}: features.{number} is not finite; {REMEDY}")
            if not weight.any():  # then all frames have the same features
                raise ConfigError(f"{where}: features.{number}.weight is all zeros, a stub; {REMEDY}")
            convs.append((weight, bias))
            number, before = number + 2, len(bias)  # a ReLU stands after each
        blocks.append(convs)
        number += 1  # the pooling
    return blocks


def _read_heads(path: Path, widths: Sequence[int]) -> list[Tensor]:
    """LPIPS' weights of the channels of each layer."""
    where = f"loss.perceptual_heads: {path}"
    state = _read_state(path, where, HEADS_REMEDY)
    heads = []
    for index, width in enumerate(widths):
        name = f"lin{index}.model.1.weight"
        head = state.get(name)
        if not isinstance(head, Tensor):
            raise ConfigError(f"{where}: has no {name}; {HEADS_REMEDY}")
        if head.shape != (1, width, 1, 1):
            raise ConfigError(f"{where}: {name} is {tuple(head.shape)}, not (1, {width}, 1, 1); {HEADS_REMEDY}")
        if not head.isfinite().all() or (head < 0).any():
            raise ConfigError(f"{where}: {name} is not finite, or negative; {HEADS_REMEDY}")
        heads.append(head.flatten())
    if not any(head.any() for head in heads):
        raise ConfigError(f"{where}: is all zeros, a stub; {HEADS_REMEDY}")
    return heads


def _read_state(path: Path, where: str, remedy: str) -> dict[Any, Any]:
    """The state dict in a file; no code in it is run."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file; {remedy}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError, zipfile.BadZipFile):
        raise ConfigError(f"{where}: cannot be read as weights; {remedy}") from None
    if not isinstance(state, dict):
        raise ConfigError(f"{where}: is not a state dict; {remedy}")
    return state
