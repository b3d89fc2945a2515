"""The tokenizer.

    frame ─► encoder ─► latent grid ─► quantizer ─► tokens ─► frame decoder ─► reconstruction

All that the reconstruction shows went through the grid of codes, the frame's *tokens* (van den Oord et al. 2017).

Shapes: B batch, C channels (1 grey, 3 RGB), H W frame, D latent width, h w latent grid, K codes, n codes at each place.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from lapa import registry
from lapa.contracts import Changes, Clips, ClipSpec, Facts, Quantized, Terms
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat, to_float
from lapa.sections import build, build_encoder
from lapa.systems.coding import CodingSystem
from lapa.systems.tokenizer.config import LossConfig, ModelConfig
from lapa.systems.tokenizer.losses import perceptual_weight, pixel_terms, quantizer_term


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


class Tokenizer(CodingSystem):
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
    track = "tokens"
    baseline = "mean"
    sees_target = True
    mean_frame: Tensor

    def __init__(self, config: ModelConfig, facts: Facts | FrameFormat) -> None:
        super().__init__(config, facts)
        seen = self.format
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
        # Of the training clips; validation compares with it.
        self.register_buffer("mean_frame", torch.zeros(seen.channels, *seen.size), persistent=False)

    def forward(self, frame: Tensor) -> TokenizerOutput:  # type: ignore[override] # one input, named
        """(B, C, H, W) float in [0, 1] -> :class:`TokenizerOutput`."""
        encoding = self.run_part(self.encode, frame)
        quantized = self.quantizer(encoding)
        return TokenizerOutput(self.run_part(self.frame_decoder, quantized.latent), encoding, quantized)

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

    # What the engine asks

    @classmethod
    def clip(cls, config: ModelConfig, loss: LossConfig) -> ClipSpec:
        return ClipSpec(1)

    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        return (to_float(clips.next),)

    def terms(self, output: TokenizerOutput, inputs: tuple[Tensor, ...], loss: LossConfig, progress: float) -> Terms:
        (frame,) = inputs
        codes = output.quantized.codes
        if codes is not None:
            codes = codes[..., :: self.quantizer.codes_per_place]  # the first of each place
        terms = pixel_terms(self.frame_decoder.pixel_errors(output.outputs, frame), loss, codes)
        terms |= quantizer_term(output.quantized, loss, self.quantizer.has_loss)
        perceptual, weight = self.perceptual(frame.device), perceptual_weight(loss, progress)
        if perceptual is not None and weight:
            terms["perceptual"] = (weight, perceptual(self.drawn(output), frame))
        return terms

    def drawn(self, output: TokenizerOutput) -> Tensor:
        return self.reconstruction(output.outputs)

    def baseline_frame(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The mean of the training frames."""
        return self.mean_frame.expand_as(inputs[0])

    def start(self, dataset: ClipDataset, loss: LossConfig) -> None:
        super().start(dataset, loss)
        self.mean_frame.copy_(dataset.mean_frame())
        self.frame_decoder.start(dataset)

    def pictures(self, output: TokenizerOutput, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"frame": inputs[0], "reconstruction": self.drawn(output)}

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
        return self.drawn(self(*self.inputs(clips)))
