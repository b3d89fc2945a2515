"""The latent action model.

    current ─┬──────────────────────────────────────────► decoder (and its conditioner) ─► predicted next
             │                                               ▲
             └─► encoder ─► latent grid ─► quantizer ─► codes ┘
    next ──────►

The encoder sees both frames; the decoder sees only the current one and the quantized latent. So all that changes
between the frames must come through the codes.

Shapes: B batch, C channels (1 grey, 3 RGB), H W frame, D latent width, h w latent grid, K codes, F decoder width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from lapa import registry
from lapa.contracts import (
    ActionSpec,
    Changes,
    Clips,
    ClipSpec,
    Dreamer,
    Facts,
    Imagined,
    Quantized,
    Terms,
    summary_of,
)
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat, to_float
from lapa.errors import DataError
from lapa.nn.layers import TokenPool
from lapa.sections import build, build_encoder
from lapa.systems.coding import CodingSystem
from lapa.systems.latent_action.config import LossConfig, ModelConfig
from lapa.systems.latent_action.losses import loss_terms


@dataclasses.dataclass(frozen=True)
class ModelOutput:
    """What one forward pass gives.

    Attributes:
        prediction: (B, C, H, W) float, the next frame as the decoder draws it; not clipped to [0, 1].
        encoding: (B, D, h, w) float, the latent before quantization.
        quantized: the latent after it, the codes, and the quantizer's loss.
    """

    prediction: Tensor
    encoding: Tensor
    quantized: Quantized


class LatentActionModel(CodingSystem, Dreamer):
    """Encoder -> quantizer -> conditioned decoder, each picked by name from ``config``.

    It gives codes of transitions, draws the next frame, and dreams under codes.

    Args:
        config: the model's section of a run's configuration.
        facts: what is measured on the recordings; the frame format alone will do, it fixes C, H and W.

    Attributes:
        grid: (h, w), the latent grid.

    Raises:
        ConfigError: a plugin's section is wrong.
        RegistryError: a plugin's name is.
    """

    Config = ModelConfig
    Loss = LossConfig
    baseline = "copy"

    def __init__(self, config: ModelConfig, facts: Facts | FrameFormat) -> None:
        super().__init__(config, facts)
        seen = self.format
        self.encoder = build_encoder(config.encoder, frames=2, channels=seen.channels, latent_dim=config.latent_dim)
        grid = self.encoder.grid(seen.size)
        places = grid if config.token_positions else None
        self.pool = TokenPool(config.latent_dim, config.tokens, places) if config.tokens else None
        self.grid = (1, config.tokens) if config.tokens else grid
        self.quantizer = build(registry.quantizers, config.quantizer, latent_dim=config.latent_dim)
        self.decoder = build(
            registry.decoders,
            config.decoder,
            channels=seen.channels,
            frame_size=seen.size,
            latent_dim=config.latent_dim,
            make_conditioner=lambda features: build(
                registry.conditioners, config.conditioner, features=features, latent_dim=config.latent_dim
            ),
        )
        self.sees_all = self.pool is not None

    def forward(self, current: Tensor, following: Tensor) -> ModelOutput:  # type: ignore[override] # two inputs, named
        """(B, C, H, W) float in [0, 1] twice -> :class:`ModelOutput`."""
        encoding = self.run_part(self.encode, current, following)
        quantized = self.quantizer(encoding)
        return ModelOutput(self.run_part(self.decoder, current, quantized.latent), encoding, quantized)

    def encode(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) float in [0, 1], current and next -> the (B, D, h, w) latent before quantization."""
        latent: Tensor = self.encoder(*frames)
        return self.pool(latent) if self.pool else latent

    def changes(self, *frames: Tensor) -> Changes | None:
        return None if self.pool else self.encoder.changes(*frames)

    def decode(self, current: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H, W) float and (B, h, w * n) codes -> the next frame (B, C, H, W) float."""
        prediction: Tensor = self.decoder(current, self.quantizer.codes_to_latent(codes))
        return prediction

    # What the engine asks

    @classmethod
    def clip(cls, config: ModelConfig, loss: LossConfig) -> ClipSpec:
        return ClipSpec(2)

    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        return to_float(clips.current), to_float(clips.next)

    def terms(self, output: ModelOutput, inputs: tuple[Tensor, ...], loss: LossConfig, progress: float) -> Terms:
        """The terms of :func:`loss_terms`; that of a quantizer without a loss of its own has the weight 0."""
        current, following = inputs
        perceptual = self.perceptual(current.device)
        terms = loss_terms(output.prediction, output.quantized, current, following, loss, progress, perceptual)
        if not self.quantizer.has_loss:
            terms["quantizer"] = (0.0, output.quantized.loss)
        return terms

    def drawn(self, output: ModelOutput) -> Tensor:
        return output.prediction

    def baseline_frame(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The current frame."""
        return inputs[0]

    def start(self, dataset: ClipDataset, loss: LossConfig) -> None:
        super().start(dataset, loss)
        self.decoder.start(dataset)

    def pictures(self, output: ModelOutput, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        current, following = inputs
        return {"current": current, "true next": following, "predicted next": output.prediction}

    def outcome(self, best: dict[str, float]) -> str:
        return (
            f"validation PSNR {best['val/recon/psnr_db']:.1f} dB, "
            f"copying the current frame {best['val/recon/copy_psnr_db']:.1f} dB"
        )

    def warnings(self, best: dict[str, float]) -> list[str]:
        psnr, copied = best["val/recon/psnr_db"], best["val/recon/copy_psnr_db"]
        if psnr > copied:
            return []
        return [
            f"the model draws held-out frames no better ({psnr:.1f} dB) than copying the current one does "
            f"({copied:.1f} dB): train longer, or look at examples/"
        ]

    def summary(self) -> dict[str, Any]:
        parts = {
            **{name: part for name, part in self.named_children() if name != "decoder"},
            **{f"decoder.{name}": part for name, part in self.decoder.named_children()},
        }
        return {
            "grid": list(self.code_grid),
            "bits": self.bits,
            "parts": {name: summary_of(part) for name, part in parts.items()},
        }

    # What it can do

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [0, 1], the last frame of each clip, drawn from the one before and codes (B, h, w * n)."""
        current, following = self.inputs(clips)
        drawn = self(current, following).prediction if codes is None else self.decode(current, codes)
        return drawn.float().clamp(0, 1)

    @property
    def actions(self) -> ActionSpec:
        """A grid of codes.

        Raises:
            DataError: the quantizer is continuous.
        """
        if self.quantizer.num_codes is None:
            raise DataError("this model's quantizer is continuous: it has no codes to dream under")
        return ActionSpec("codes", self.quantizer.num_codes, self.code_grid)

    def begin(self, clips: Clips) -> Tensor:
        """The last frame of each clip, (B, C, H, W) in [0, 1]."""
        return to_float(clips.next)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Imagined]:
        """The next frame under codes (B, h, w * n), which is the next state too."""
        frame = self.decode(state, action).float().clamp(0, 1)
        return frame, Imagined(frame)
