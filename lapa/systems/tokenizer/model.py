"""The tokenizer.

    frame ─► encoder ─► latent grid ─► quantizer ─► tokens ─► frame decoder ─► reconstruction

All that the reconstruction shows went through the grid of codes, the frame's *tokens* (van den Oord et al. 2017).

Shapes: B batch, C channels (1 grey, 3 RGB), H W frame, D latent width, h w latent grid, K codes, n codes at each place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lapa import registry
from lapa.contracts import Changes, Clips, ClipSpec, Coder, Drawer, Facts, Quantized, Readings, Terms
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat, to_float
from lapa.metrics.pixels import mean_ssim, psnr_db, squared_errors
from lapa.nn.perceptual import FeatureLoss
from lapa.nn.recompute import recomputed
from lapa.sections import build, build_encoder
from lapa.systems.coding import code_counts, code_metrics
from lapa.systems.tokenizer.config import LossConfig, ModelConfig
from lapa.systems.tokenizer.losses import make_perceptual, perceptual_weight, pixel_terms, quantizer_term


@dataclasses.dataclass(frozen=True)
class TokenizerOutput:
    """What one forward pass gives.

    Attributes:
        outputs: (B, O, H, W), what the frame decoder says of each pixel.
        encoding: (B, D, h, w) float, the latent before quantization.
        quantized: the latent after it, the codes, and the quantizer's loss.
    """

    outputs: Tensor
    encoding: Tensor
    quantized: Quantized


class Tokenizer(Coder, Drawer):
    """Encoder -> quantizer -> frame decoder, each picked by name from ``config``.

    It gives codes of single frames, and predicts a frame from them.

    Args:
        config: the model's section of a run's configuration.
        facts: what is measured on the recordings; the frame format alone will do, it fixes C, H and W.

    Attributes:
        grid: (h, w), the latent grid.

    Raises:
        ConfigError: a plugin's section is wrong, or the parts do not fit together.
        RegistryError: a plugin's name is wrong.
    """

    Config = ModelConfig
    Loss = LossConfig
    best = "val/recon/mse"
    bar = (("PSNR", "train/recon/psnr_db", "{:.1f} dB"), ("perplexity", "train/quantizer/perplexity", "{:.0f}"))
    track = "tokens"
    mean_frame: Tensor

    def __init__(self, config: ModelConfig, facts: Facts | FrameFormat) -> None:
        facts = facts if isinstance(facts, Facts) else Facts(facts)
        super().__init__(config, facts)
        seen = facts.format
        self.encoder = build_encoder(config.encoder, frames=1, channels=seen.channels, latent_dim=config.latent_dim)
        self.grid = self.encoder.grid(seen.size)
        self.quantizer = build(registry.quantizers, config.quantizer, latent_dim=config.latent_dim)
        self.frame_decoder = build(
            registry.frame_decoders,
            config.frame_decoder,
            channels=seen.channels,
            frame_size=seen.size,
            grid=self.grid,
            latent_dim=config.latent_dim,
        )
        self._perceptual: FeatureLoss | None = None
        # Of the training clips; validation compares with it.
        self.register_buffer("mean_frame", torch.zeros(seen.channels, *seen.size), persistent=False)

    def forward(self, frame: Tensor) -> TokenizerOutput:  # type: ignore[override] # one input, named
        """(B, C, H, W) float in [0, 1] -> :class:`TokenizerOutput`."""
        # The quantizer counts what it sees, so it alone must not run twice.
        encoding = self._run(self.encode, frame)
        quantized = self.quantizer(encoding)
        return TokenizerOutput(self._run(self.frame_decoder, quantized.latent), encoding, quantized)

    def encode(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) float in [0, 1] -> the (B, D, h, w) latent before quantization."""
        latent: Tensor = self.encoder(*frames)
        return latent

    def changes(self, *frames: Tensor) -> Changes | None:
        return self.encoder.changes(*frames)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, h, w * n) -> the frame (B, C, H, W) in [0, 1]."""
        return self.reconstruction(self.frame_decoder(self.quantizer.codes_to_latent(codes)))

    def reconstruction(self, outputs: Tensor) -> Tensor:
        """What the frame decoder said of each pixel -> (B, C, H, W) float in [0, 1]."""
        frame: Tensor = self.frame_decoder.to_frame(outputs)
        return frame.float()

    def _run(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        return recomputed(self, part, *inputs) if self.activation_checkpointing else part(*inputs)

    # What the engine asks

    @classmethod
    def clip(cls, config: ModelConfig, loss: LossConfig) -> ClipSpec:
        return ClipSpec(1)

    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        return (to_float(clips.next),)

    def terms(self, output: TokenizerOutput, inputs: tuple[Tensor, ...], loss: LossConfig, progress: float) -> Terms:
        (frame,) = inputs
        terms = pixel_terms(self.frame_decoder.pixel_errors(output.outputs, frame), loss)
        terms |= quantizer_term(output.quantized, loss, self.quantizer.has_loss)
        weight = perceptual_weight(loss, progress)
        if self._perceptual is not None and weight:
            self._perceptual.to(frame.device)
            terms["perceptual"] = (weight, self._perceptual(self.reconstruction(output.outputs), frame))
        return terms

    def readings(self, output: TokenizerOutput, inputs: tuple[Tensor, ...]) -> Readings:
        (frame,) = inputs
        means = {
            **{f"quantizer/{name}": value for name, value in output.quantized.metrics.items()},
            "mse": squared_errors(self.reconstruction(output.outputs), frame).mean(),
        }
        if not self.training:
            means["mean_mse"] = squared_errors(self.mean_frame.expand_as(frame), frame).mean()
        return Readings(means, code_counts(self.quantizer, output.quantized))

    def sampled_readings(self, output: TokenizerOutput, inputs: tuple[Tensor, ...]) -> Readings:
        reconstruction = self.reconstruction(output.outputs)
        similarity = mean_ssim(reconstruction.cpu().numpy(), inputs[0].cpu().numpy())
        return Readings({"recon/ssim": torch.tensor(similarity, device=inputs[0].device)})

    def metrics(self, stage: str, means: dict[str, float], counts: dict[str, Tensor]) -> dict[str, float]:
        mse, mean_mse = means.pop("mse", None), means.pop("mean_mse", None)
        if stage == "val":
            means = {name: value for name, value in means.items() if not name.startswith("quantizer/")}
            if mse is not None and mean_mse is not None:
                means |= {"recon/mse": mse, "recon/mean_psnr_db": psnr_db(mean_mse)}
        if mse is not None:
            means["recon/psnr_db"] = psnr_db(mse)
        return super().metrics(stage, means | code_metrics(stage, counts), counts)

    def start(self, dataset: ClipDataset, loss: LossConfig) -> None:
        # Not a part of the module: its weights stay as they are, in the file that the user names.
        object.__setattr__(self, "_perceptual", make_perceptual(loss))
        self.mean_frame.copy_(dataset.mean_frame())
        if self._perceptual is not None:
            self._perceptual(self.mean_frame[None], self.mean_frame[None])  # says now if frames are too small for it
        self.frame_decoder.start(dataset)

    def before_step(self, progress: float) -> None:
        self.quantizer.anneal(progress)

    def after_step(self) -> None:
        self.quantizer.update()

    def revive(self, output: TokenizerOutput) -> int:
        return self.quantizer.reseed_unused(output.encoding.detach())

    def pictures(self, output: TokenizerOutput, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"frame": inputs[0], "reconstruction": self.reconstruction(output.outputs)}

    def outcome(self, best: dict[str, float]) -> str:
        return (
            f"validation PSNR {best['val/recon/psnr_db']:.1f} dB, the mean frame "
            f"{best['val/recon/mean_psnr_db']:.1f} dB"
        )

    def warnings(self, best: dict[str, float]) -> list[str]:
        return self.alarms(best)

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        """Whether all frames are predicted alike, as after a collapse of the codes."""
        psnr, mean = metrics["val/recon/psnr_db"], metrics["val/recon/mean_psnr_db"]
        if psnr > mean:
            return []
        return [
            f"held-out frames are reconstructed no better ({psnr:.1f} dB) than by the mean frame ({mean:.1f} dB): the "
            "codes may have collapsed; lower model.quantizer.commitment (0.02 to 0.05), and look at examples/"
        ]

    def summary(self) -> dict[str, Any]:
        return {"grid": list(self.code_grid), "bits": self.bits, **super().summary()}

    # What it can do

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [0, 1], the last frame of each clip, predicted from its own codes or from (B, h, w * n)."""
        if codes is not None:
            return self.decode(codes)
        return self.reconstruction(self(*self.inputs(clips)).outputs)
