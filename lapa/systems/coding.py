"""What systems share that draw a frame from codes of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from lapa.contracts import Coder, Drawer, Encoder, Facts, Quantized, Quantizer, Readings
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat
from lapa.metrics.codes import perplexity
from lapa.metrics.pixels import mean_ssim, psnr_db, squared_errors
from lapa.nn.perceptual import FeatureLoss
from lapa.nn.recompute import recomputed
from lapa.systems.losses import make_perceptual


class CodingSystem(Coder, Drawer):
    """An encoder, a quantizer, and a frame drawn from the codes; the last frame that the system is given is the target.

    What :meth:`forward` returns has the attributes ``encoding`` (B, D, h, w), the latent before quantization, and
    ``quantized``, a :class:`~lapa.contracts.Quantized`.

    Args:
        config: the model's section of a run's configuration.
        facts: what is measured on the recordings; the frame format alone will do, it fixes C, H and W.

    Attributes:
        baseline: name of the frame that needs no codes, with which validations compare: ``copy``, ``mean``.
    """

    best = "val/recon/mse"
    bar = (("PSNR", "train/recon/psnr_db", "{:.1f} dB"), ("perplexity", "train/quantizer/perplexity", "{:.0f}"))
    baseline: ClassVar[str]
    encoder: Encoder

    def __init__(self, config: Any, facts: Facts | FrameFormat) -> None:
        super().__init__(config, facts if isinstance(facts, Facts) else Facts(facts))
        self._perceptual: FeatureLoss | None = None

    @abstractmethod
    def drawn(self, output: Any) -> Tensor:
        """What :meth:`forward` returned -> the frame that it shows, (B, C, H, W) float; it may leave [0, 1]."""

    @abstractmethod
    def baseline_frame(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The frame that needs no codes, (B, C, H, W) float in [0, 1]."""

    def run_part(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``part(*inputs)``; with ``activation_checkpointing`` it runs again in the backward pass.

        The quantizer counts what it sees, so it alone must not be run so.
        """
        return recomputed(self, part, *inputs) if self.activation_checkpointing else part(*inputs)

    def perceptual(self, device: torch.device) -> FeatureLoss | None:
        """The perceptual loss on this device, if the configuration asks for one."""
        return self._perceptual.to(device) if self._perceptual is not None else None

    def readings(self, output: Any, inputs: tuple[Tensor, ...]) -> Readings:
        target = inputs[-1]
        means = {
            **{f"quantizer/{name}": value for name, value in output.quantized.metrics.items()},
            "mse": squared_errors(self.drawn(output), target).mean(),
        }
        if not self.training:
            means["baseline_mse"] = squared_errors(self.baseline_frame(inputs), target).mean()
        return Readings(means, code_counts(self.quantizer, output.quantized))

    def sampled_readings(self, output: Any, inputs: tuple[Tensor, ...]) -> Readings:
        target = inputs[-1]
        pictures = {
            "ssim": self.drawn(output).float().clamp(0, 1),
            f"{self.baseline}_ssim": self.baseline_frame(inputs),
        }
        truth = target.cpu().numpy()
        return Readings(
            {
                f"recon/{name}": torch.tensor(mean_ssim(picture.cpu().numpy(), truth), device=target.device)
                for name, picture in pictures.items()
            }
        )

    def metrics(self, stage: str, means: dict[str, float], counts: dict[str, Tensor]) -> dict[str, float]:
        mse, baseline_mse = means.pop("mse", None), means.pop("baseline_mse", None)
        if stage == "val":
            means = {name: value for name, value in means.items() if not name.startswith("quantizer/")}
            if mse is not None and baseline_mse is not None:
                means |= {"recon/mse": mse, f"recon/{self.baseline}_psnr_db": psnr_db(baseline_mse)}
        if mse is not None:
            means["recon/psnr_db"] = psnr_db(mse)
        return super().metrics(stage, means | code_metrics(stage, counts), counts)

    def start(self, dataset: ClipDataset, loss: Any) -> None:
        # Not a part of the module: its weights stay as they are, in the file that the user names.
        object.__setattr__(self, "_perceptual", make_perceptual(loss))
        if self._perceptual is not None:
            blank = torch.zeros(1, self.format.channels, *self.format.size)
            self._perceptual(blank, blank)  # says now if frames are too small for it

    def before_step(self, progress: float) -> None:
        self.quantizer.anneal(progress)

    def after_step(self) -> None:
        self.quantizer.update()

    def revive(self, output: Any) -> int:
        return self.quantizer.reseed_unused(output.encoding.detach())


def code_counts(quantizer: Quantizer, quantized: Quantized) -> dict[str, Tensor]:
    """Counts of a system's readings: ``codebook``, (n K,) times that each code was used; empty without codes."""
    if quantized.codes is None:
        return {}
    codes = quantizer.distinct(quantized.codes)
    return {"codebook": torch.bincount(codes.flatten(), minlength=quantizer.num_distinct)}


def code_metrics(stage: str, counts: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics of such counts, without the stage: codes used, and their perplexity."""
    if (used := counts.get("codebook")) is None:
        return {}
    group = "quantizer" if stage == "train" else "codebook"
    return {f"{group}/codes_used": float((used > 0).sum()), f"{group}/perplexity": perplexity(used)}
