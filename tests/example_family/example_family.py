"""A third party's model family: the next frame from the current one and what was done, an action or a latent action."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import ActionSpec, Clips, ClipSpec, Drawer, Dreamer, Facts, Imagined, Readings, Terms
from lapa.data.frames import to_float


class Nudge(Drawer, Dreamer):
    """Adds to the current frame what two convolutions make of it and of what was done."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``nudge``.

        Attributes:
            width: channels between the convolutions.
            given: the track that says what was done.
        """

        width: int = 16
        given: Literal["actions", "codes"] = "actions"

    @dataclasses.dataclass(frozen=True)
    class Loss:
        """Weights of the loss.

        Attributes:
            error: of the squared error.
        """

        error: float = 1.0

    def __init__(self, config: Config, facts: Facts) -> None:
        super().__init__(config, facts)
        grid = facts.code_grid or (1, 1)
        self.count = (facts.num_actions if config.given == "actions" else facts.num_codes) or 1
        self.places = 1 if config.given == "actions" else grid[0] * grid[1]
        self.enter = nn.Conv2d(self.format.channels, config.width, 3, padding=1)
        self.done = nn.Linear(self.places * self.count, config.width)
        self.leave = nn.Conv2d(config.width, self.format.channels, 3, padding=1)

    @classmethod
    def clip(cls, config: Config, loss: Loss) -> ClipSpec:
        return ClipSpec(2, (config.given,))

    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        done = clips.tracks[self.config.given].reshape(len(clips), -1)
        return to_float(clips.current), to_float(clips.next), done

    def forward(self, current: Tensor, following: Tensor, done: Tensor) -> Tensor:
        return self.next_frame(current, done)

    def next_frame(self, current: Tensor, done: Tensor) -> Tensor:
        said = F.one_hot(done.reshape(len(done), -1), self.count).flatten(1).to(current.dtype)
        features = torch.tanh(self.enter(current) + self.done(said)[:, :, None, None])
        return current + self.leave(features)

    def terms(self, output: Tensor, inputs: tuple[Tensor, ...], loss: Loss, progress: float) -> Terms:
        return {"error": (loss.error, F.mse_loss(output.float(), inputs[1]))}

    def readings(self, output: Tensor, inputs: tuple[Tensor, ...]) -> Readings:
        return Readings({"recon/l1": (output - inputs[1]).abs().mean()})

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        return self(*self.inputs(clips)).clamp(0, 1)

    @property
    def actions(self) -> ActionSpec:
        shape = () if self.config.given == "actions" else (self.facts.code_grid or (1, 1))
        return ActionSpec(self.config.given, self.count, shape)

    def begin(self, clips: Clips) -> Tensor:
        return to_float(clips.next)

    def step(self, state: Tensor, action: Tensor) -> tuple[Any, Imagined]:
        frame = self.next_frame(state, action).clamp(0, 1)
        return frame, Imagined(frame)
