"""From frames to codes, the same codes whatever the batch.

Convolutions round differently at different batch sizes and thread counts, and a latent that lies on the border
between two codes can fall either way. So a pair with such a latent is encoded again in double precision, where
the rounding is too small to matter: a live wrapper that sees one pair at a time gives exactly the codes of a
batched extraction.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Changes, Coder, Encoder, Quantizer, System
from lapa.data.frames import prepare, to_float
from lapa.device import cpu_threads, full_float32
from lapa.errors import DataError
from lapa.nn.layers import fold_batch_norm

FRAMES = {"codes": 2, "tokens": 1}
"""How many consecutive frames have a label together, by what a :class:`Coder` calls its codes."""
WORDS = {"codes": "codes of transitions", "tokens": "tokens, codes of single frames"}
"""What these are, for messages."""
ROUNDING = 1e-5
"""Latents nearer a border than this share of the pair's largest value count as undecided in single precision.

Measured on a trained model, single precision errs by 3e-7 of the largest value at most.
"""


@dataclasses.dataclass(frozen=True)
class Labels:
    """What a :class:`Labeller` finds of B pairs, or of B frames.

    Attributes:
        codes: (B, h, w * n) int64.
        margin: (B, h, w) float, how far the latent of each place can move before a code changes; None where the
            quantizer cannot tell. Equal within rounding, not bit for bit, whatever the batch.
    """

    codes: Tensor
    margin: Tensor | None


class Labeller:
    """Labels pairs of frames, or single ones, with a trained model.

    Args:
        model: a trained model, in eval mode. Later changes of its encoder's weights go unseen.
        threads: how many of the processor's cores to compute on; None leaves that to PyTorch's own setting. The
            codes are the same.

    Attributes:
        frames: how many frames have a label together: 2 of a model of transitions, 1 of a tokenizer.

    Raises:
        DataError: the model gives no codes, or its quantizer is continuous.
    """

    def __init__(self, model: System, threads: int | None = None) -> None:
        if not isinstance(model, Coder):
            raise DataError(
                f"a {type(model).__name__} gives no codes to label with; name a checkpoint of a system that does"
            )
        if model.quantizer.num_codes is None:
            raise DataError("this model's quantizer is continuous: it has no codes to label with")
        self.model, self.threads, self.frames = model, threads, FRAMES[model.track]
        self.device = next(model.parameters()).device
        self._copies: Copies | None = None

    def __call__(self, *frames: Tensor) -> Tensor:
        """Codes (B, h, w * n) int64, on the model's device.

        Args:
            frames: prepared (B, C, H, W) uint8, as many as the model looks at, in order of time: a pair for a
                transition.
        """
        return self.label(*frames).codes

    @property
    def num_codes(self) -> int:
        """K: all codes are below it."""
        num_codes = self.model.quantizer.num_codes
        assert num_codes is not None
        return num_codes

    def check_track(self, track: str, remedy: str) -> None:
        """Checks that the model gives ``codes``, or that it gives ``tokens``.

        Raises:
            DataError: it gives the other; the message ends with the remedy.
        """
        if self.model.track != track:
            raise DataError(
                f"a {type(self.model).__name__} gives {WORDS[self.model.track]}, not {WORDS[track]}; {remedy}"
            )

    @torch.inference_mode()
    def label(self, *frames: Tensor) -> Labels:
        """Codes and margins, on the model's device, of frames as in :meth:`__call__`."""
        with cpu_threads(self.threads), full_float32():
            frames = tuple(frame.to(self.device) for frame in frames)
            if self._copies is None:
                self._copies = Copies(self.model, [torch.zeros_like(frame[:1]) for frame in frames])
            return self._copies.label(*frames)

    def __getstate__(self) -> dict[str, object]:
        """Without the copies, which are made anew where they are needed."""
        return {**self.__dict__, "_copies": None}


class Copies:
    """Copies of a model's encoder and quantizer, for labelling.

    The encoder is in single precision. Codes are found in double precision, which costs little there and leaves only
    the encoder's rounding to say what is near a border.

    Args:
        model: a trained model, in eval mode.
        blank: (1, C, H, W) uint8 zeros, as many as it looks at.
    """

    def __init__(self, model: Coder, blank: Sequence[Tensor]) -> None:
        self._quick = EncoderCopy(model, torch.float32, blank)
        self._exact = EncoderCopy(model, torch.float64, blank)
        self._grid = model.grid
        # Where nothing moves, an encoder that sees differences gives the same latents at each step. What they mean is
        # found out once, in double precision, be they near a border or not.
        every_place = np.arange(len(self._exact.still))
        self._still_codes = self.label_exactly(every_place, *blank)  # (h * w, n)
        self._still_margin = self._assign(self._quick.still)[1]
        self._still_size = float(self._quick.still.abs().amax())

    def label(self, *frames: Tensor) -> Labels:
        """Codes and margins of prepared frames (B, C, H, W) uint8."""
        # Few numbers are left to look at behind the encoder, for which NumPy takes a fraction of PyTorch's time.
        count, (height, width) = len(frames[0]), self._grid
        codes = np.concatenate([self._still_codes] * count)  # (B * h * w, n)
        margin = None if self._still_margin is None else np.concatenate([self._still_margin] * count)
        moved, latents = self._quick.changes(*frames)
        if len(moved):
            places = moved.cpu().numpy()
            codes[places], found = self._assign(latents)
            pair, undecided = places // (height * width), np.ones(len(places), dtype=bool)
            if margin is not None and found is not None:
                margin[places] = found
                size = np.full(count, self._still_size)
                np.maximum.at(size, pair, latents.abs().amax(1).cpu().numpy())
                undecided = found <= ROUNDING * size[pair]  # rounding may have decided there
            for which in set(pair[undecided].tolist()):
                at = places[undecided & (pair == which)]
                codes[at] = self.label_exactly(at % (height * width), *(frame[which : which + 1] for frame in frames))
        device = frames[0].device
        return Labels(
            torch.from_numpy(codes.reshape(count, height, -1)).to(device),
            None if margin is None else torch.from_numpy(margin.reshape(count, height, width)).to(device),
        )

    def label_exactly(self, places: np.ndarray, *frames: Tensor) -> np.ndarray:
        """Codes (N, n) of N places of one pair of prepared frames, with all of it in double precision."""
        moved, latents = self._exact.changes(*frames)
        rows = self._exact.still.index_copy(0, moved, latents)[torch.from_numpy(places).to(moved.device)]
        codes, margin = self._assign(rows)
        if margin is None or not margin.all():  # of tied codes, forward takes the lowest
            quantized = self._exact.model.quantizer(rows[:, :, None, None])
            assert quantized.codes is not None
            codes = quantized.codes.flatten(1).cpu().numpy()
        return codes

    def _assign(self, rows: Tensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents (N, D) -> the nearest codes (N, n) and the margins (N,)."""
        codes, margin = self._exact.model.quantizer.assign(rows.double())
        return codes.cpu().numpy(), None if margin is None else margin.cpu().numpy()


class EncoderCopy:
    """A copy of what labelling needs of a model, in one precision.

    Args:
        model: a trained model, in eval mode.
        dtype: the precision.
        blank: (1, C, H, W) uint8 zeros, as many as it looks at.

    Attributes:
        model: the copy.
        still: (h * w, D), the latents of frames that are equal.
    """

    def __init__(self, model: Coder, dtype: torch.dtype, blank: Sequence[Tensor]) -> None:
        self.model, self.dtype = for_inference(model, dtype), dtype
        self.still = self._encode(*blank)[0]

    def changes(self, *frames: Tensor) -> Changes:
        """The latents of (B, C, H, W) uint8 frames wherever they are not :attr:`still`."""
        found = self.model.changes(*frames)
        if found is None:
            rows = self._encode(*frames)
            # A comparison would take three times as long as a difference.
            moved = (rows - self.still).abs_().amax(2).flatten().nonzero()[:, 0]
            found = Changes(moved, rows.flatten(0, 1)[moved])
        return found

    def _encode(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) uint8 -> (B, h * w, D)."""
        latent = self.model.encode(*(to_float(frame).to(self.dtype) for frame in frames))
        return latent.movedim(1, -1).flatten(1, 2).contiguous()


def without_decoder(model: Coder) -> Coder:
    """A copy of what labelling needs."""
    decoders = (getattr(model, name, None) for name in ("decoder", "frame_decoder"))
    return copy.deepcopy(model, {id(decoder): None for decoder in decoders})


def for_inference(model: Coder, dtype: torch.dtype) -> Coder:
    """A copy of what labelling needs, made fast; it rounds a little differently."""
    quick = without_decoder(model).to(dtype)
    for part in quick.modules():
        if isinstance(part, Encoder | Quantizer):
            part.optimize_for_inference()
    fold_batch_norm(quick)
    return quick.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def as_tensor(array: np.ndarray | Tensor) -> Tensor:
    """An array as a tensor: a copy of it if it is read-only or flipped, which PyTorch does not take."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(np.require(np.asarray(array), requirements=["C", "W"]))


def label(model: System, frame_t: np.ndarray | Tensor, frame_next: np.ndarray | Tensor) -> Tensor:
    """The latent action between two frames.

    Args:
        model: a trained model, as :func:`lapa.load_model` returns it.
        frame_t: (H, W, 3) uint8 RGB as recorded, or a batch (B, H, W, 3).
        frame_next: the same, one step on.

    Returns:
        (h, w) int64 codes on the CPU, or (B, h, w) for a batch.

    Raises:
        DataError: the frames are not uint8 RGB of the size the model was trained on, or the model is a tokenizer.
    """
    labeller = Labeller(model)
    labeller.check_track("codes", "take lapa.tokenize, or name a latent action model")
    first, second = (as_tensor(frame) for frame in (frame_t, frame_next))
    if first.shape != second.shape:
        raise DataError(f"the two frames differ in shape: {tuple(first.shape)} and {tuple(second.shape)}")
    single = first.ndim == 3
    if single:
        first, second = first[None], second[None]
    codes = labeller(prepare(first, model.format), prepare(second, model.format)).cpu()
    return codes[0] if single else codes
