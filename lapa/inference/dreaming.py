"""Frames that a system continues by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from lapa.contracts import Clips, Dreamer


@torch.inference_mode()
def rollout(model: Dreamer, clips: Clips, actions: Tensor) -> Tensor:
    """The frame after t steps.

    Args:
        model: in eval mode.
        clips: S of them, of the frames that it sees before the first step.
        actions: (S, t, ...), what it is given at each step.

    Returns:
        (S, C, H, W) in [0, 1], on the CPU.
    """
    device = next(model.parameters()).device
    state = model.begin(clips.to(device))
    for action in actions.to(device).unbind(1):
        state, imagined = model.step(state, action)
    return imagined.frame.cpu()


def before_last(clips: Clips, context: int) -> Clips:
    """The ``context`` frames before each clip's last one: what a dream of that frame begins with."""
    stop = clips.frames.shape[1] - 1
    return Clips(clips.frames[:, stop - context : stop])
