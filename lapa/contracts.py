"""What a model family and its parts must do.

A :class:`System` is a model family: what it wants of the recordings, its forward pass, its loss. The engine trains any
of them. What else it can do it says by what it derives from: a :class:`Coder` gives codes, a :class:`Drawer` draws
frames, a :class:`Dreamer` continues a game by itself. An :class:`Encoder`, a :class:`Quantizer`, a
:class:`Conditioner`, a :class:`Decoder` and a :class:`FrameDecoder` are parts that systems pick by name.

Shape legend, used throughout the project:

    B batch    T frames of a clip    C channels (1 grey, 3 RGB)    H W frame    D latent width    h w latent grid
    K codes    F decoder width       n codes at each place of the grid
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lapa.data.clips import ClipDataset
    from lapa.data.frames import FrameFormat


class ClipSpec(NamedTuple):
    """What a system wants of the recordings.

    Attributes:
        frames: T, consecutive frames in a clip, at least 1.
        tracks: names of the arrays it cannot do without, such as ``actions``; see
            :data:`lapa.data.episodes.TRACKS`.
    """

    frames: int
    tracks: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Clips:
    """A batch of clips.

    Attributes:
        frames: (B, T, C, H, W) uint8, prepared for the model.
        tracks: by name; (B, T-1, ...) of what happens between two frames, (B, T, ...) of what is so in each frame.
    """

    frames: Tensor
    tracks: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def current(self) -> Tensor:
        """(B, C, H, W) uint8, the last frame but one."""
        return self.frames[:, -2]

    @property
    def next(self) -> Tensor:
        """(B, C, H, W) uint8, the last frame."""
        return self.frames[:, -1]

    def __len__(self) -> int:
        return len(self.frames)

    def to(self, device: torch.device) -> Clips:
        """The same clips on another device."""
        moved = {name: track.to(device, non_blocking=True) for name, track in self.tracks.items()}
        return Clips(self.frames.to(device, non_blocking=True), moved)

    def pin_memory(self) -> Clips:
        """The same in page-locked memory, which a GPU can read by itself."""
        return Clips(self.frames.pin_memory(), {name: track.pin_memory() for name, track in self.tracks.items()})

    def chunk(self, count: int) -> list[Clips]:
        """Cut into ``count`` batches of equal size."""
        tracks = {name: track.chunk(count) for name, track in self.tracks.items()}
        return [
            Clips(frames, {name: parts[index] for name, parts in tracks.items()})
            for index, frames in enumerate(self.frames.chunk(count))
        ]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is measured on the recordings and never configured.

    Attributes:
        format: what the model sees of a frame.
        num_actions: how many actions the controller has; None where the recordings do not tell.
        num_codes: K of the track ``codes`` or ``tokens``, if the recordings have one.
        code_grid: shape of a transition's or a frame's codes in that track.
    """

    format: FrameFormat
    num_actions: int | None = None
    num_codes: int | None = None
    code_grid: tuple[int, int] | None = None


class Progress(float):
    """Share of the training that is done, in [0, 1]: a float, so a family that needs no more may treat it as one.

    Args:
        share: where there is a time limit, of the time or of the steps, whichever is more.

    Attributes:
        step: optimizer steps taken so far.
        epochs: passes over the training clips so far.
    """

    step: int
    epochs: float

    def __new__(cls, share: float = 0.0, step: int = 0, epochs: float = 0.0) -> Progress:
        made = super().__new__(cls, share)
        made.step, made.epochs = step, epochs
        return made

    @classmethod
    def of(cls, progress: float) -> Progress:
        """The same progress; a plain float becomes one at step 0."""
        return progress if isinstance(progress, Progress) else cls(progress)


Terms = dict[str, tuple[float, Tensor]]
"""The terms of a loss by name: weight, and unweighted scalar."""


@dataclasses.dataclass(frozen=True)
class Readings:
    """What is read off one forward pass, detached; the engine combines parts of a batch, batches and ranks.

    Attributes:
        means: scalars that are averaged over clips.
        counts: (K,) int64, summed; those called ``codebook`` are watched for a collapse.
    """

    means: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    counts: dict[str, Tensor] = dataclasses.field(default_factory=dict)


class System(nn.Module, ABC):
    """A model family, found by its name in the entry-point group ``lapa.systems``.

    The engine calls, for each part of a batch, :meth:`inputs`, the module itself and :meth:`terms`, and steps the
    optimizer on the weighted sum; see :class:`lapa.engine.step.OptimizerStep`.

    Subclasses take ``(config, facts)`` and hand both on.

    Args:
        config: an instance of ``Config``.
        facts: what is measured on the recordings.

    Attributes:
        Config: frozen dataclass with defaults, the configuration's section ``model``.
        Loss: the same for the section ``loss``.
        best: the validation metric whose lowest value keeps ``best.pt``.
        bar: what the progress bar shows beside the loss: label, name of the metric, format.
        activation_checkpointing: recompute activations in the backward pass instead of keeping them; systems that
            cannot do so leave it unread.
    """

    Config: ClassVar[type[Any]]
    Loss: ClassVar[type[Any]]
    best: ClassVar[str] = "val/loss/total"
    bar: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    activation_checkpointing: bool = False

    def __init__(self, config: Any, facts: Facts) -> None:
        super().__init__()
        self.config, self.facts = config, facts

    @property
    def format(self) -> FrameFormat:
        """What it sees of a frame."""
        return self.facts.format

    @classmethod
    @abstractmethod
    def clip(cls, config: Any, loss: Any) -> ClipSpec:
        """What this configuration wants of the recordings."""

    @abstractmethod
    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        """The arguments of the forward pass, on the clips' device; frames as floats in [0, 1]."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Any:
        """One pass, under autocast; what it returns is for the other methods alone."""

    @abstractmethod
    def terms(self, output: Any, inputs: tuple[Tensor, ...], loss: Any, progress: Progress) -> Terms:
        """The loss of one batch, outside of autocast.

        Args:
            output: what :meth:`forward` returned.
            inputs: what it was given.
            loss: an instance of ``Loss``.
            progress: share of the training that is done, in [0, 1], with its steps and epochs; a family that needs the
                share alone may take a ``float``. In a validation it is that of the step before.
        """

    def readings(self, output: Any, inputs: tuple[Tensor, ...]) -> Readings:
        """What is measured in training and validation alike. Called without gradients."""
        return Readings()

    def sampled_readings(self, output: Any, inputs: tuple[Tensor, ...]) -> Readings:
        """What takes longer to measure than a forward pass: in validation, on a sample of the clips."""
        return Readings()

    def metrics(self, stage: str, means: dict[str, float], counts: dict[str, Tensor]) -> dict[str, float]:
        """The readings of a step or of a validation as metrics with full names.

        Args:
            stage: ``train`` or ``val``.
            means: of the readings, over all clips.
            counts: of the readings, in sum, on the CPU.
        """
        return {f"{stage}/{name}": value for name, value in means.items()}

    def start(self, dataset: ClipDataset, loss: Any) -> None:
        """Called once, before the weights of a resumed run are loaded.

        Here is measured on the training clips what is not learnt, and loaded what the loss needs.

        Raises:
            ConfigError: what the loss needs cannot be loaded.
        """

    def before_step(self, progress: Progress) -> None:
        """Called before each step with the share of the training that is done, in [0, 1], its steps and epochs."""

    def after_step(self) -> None:
        """Called after each step that was taken, for what is not learnt by gradient."""

    def revive(self, output: Any) -> int:
        """Every ``training.reseed_every`` steps: moves dead codes; returns how many.

        Args:
            output: of this rank's last part of the batch.
        """
        return 0

    def pictures(self, output: Any, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Rows of pictures for ``examples/``: name -> (B, C, H, W) in [0, 1]; an empty dict draws none.

        The last row is shown once more less the one before.
        """
        return {}

    def outcome(self, best: dict[str, float]) -> str:
        """What a run has reached, for one line to the user; ``best`` are the metrics of the best checkpoint."""
        return f"{self.best} {best[self.best]:.5g}" if self.best in best else ""

    def warnings(self, best: dict[str, float]) -> list[str]:
        """A sentence for each thing that the best checkpoint's metrics say is wrong."""
        return []

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        """A sentence for each thing that a validation's ``metrics`` say is wrong already; it is said at once.

        A sentence that differs from one of the last validation in its figures alone is not said again.
        """
        return []

    def summary(self) -> dict[str, Any]:
        """What ``run.json`` tells of the model, as plain values."""
        return {"parts": {name: summary_of(part) for name, part in self.named_children()}}


def summary_of(part: nn.Module) -> dict[str, Any]:
    """Class and number of trainable parameters, as plain values."""
    return {"class": type(part).__name__, "parameters": count_parameters(part)}


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


class Coder(System):
    """A system that gives discrete codes: for each transition, or for each frame.

    Attributes:
        quantizer: whose codes they are; its ``num_codes`` is None where the latent is continuous.
        grid: (h, w), the latent grid.
        track: ``codes`` (of a transition) or ``tokens`` (of a frame): the name under which :func:`lapa.extract` keeps
            them and another system can ask for them.
        sees_all: whether each place of the grid sees the whole frame, as pooled tokens do.
    """

    quantizer: Quantizer
    grid: tuple[int, int]
    track: ClassVar[str] = "codes"
    sees_all: bool = False

    @property
    def code_grid(self) -> tuple[int, int]:
        """Shape of the codes of a transition or frame: the latent grid, with the codes of a place side by side."""
        return self.grid[0], self.grid[1] * self.quantizer.codes_per_place

    @property
    def bits(self) -> float:
        """Nominal bits of a transition or frame."""
        return self.grid[0] * self.grid[1] * self.quantizer.bits

    @abstractmethod
    def encode(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) floats in [0, 1], one or several -> the (B, D, h, w) latent before quantization."""

    def changes(self, *frames: Tensor) -> Changes | None:
        """What :meth:`Encoder.changes` says, where that is the whole of :meth:`encode`; None by default."""
        return None


class Drawer(System):
    """A system that draws the last frame of a clip."""

    @abstractmethod
    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [0, 1], the last frame of each clip as the system draws it.

        Args:
            clips: on the system's device.
            codes: (B, h, w * n), the codes to draw from; None draws from its own.
        """


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """What a :class:`Dreamer` takes as an action.

    Attributes:
        kind: ``codes``, latent actions; or ``actions``, those of the controller.
        count: how many values each number of an action has, from 0.
        shape: of one action; empty for a single number.
    """

    kind: Literal["codes", "actions"]
    count: int
    shape: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Imagined:
    """One step of a dream.

    Attributes:
        frame: (B, C, H, W) in [0, 1].
        reward: (B,) float, or None where the system does not predict it.
        ended: (B,) float in [0, 1], how likely the episode ends here, or None likewise.
    """

    frame: Tensor
    reward: Tensor | None = None
    ended: Tensor | None = None


class Dreamer(System):
    """A system that continues a game by itself.

    Attributes:
        context: frames that it must see before the first step.
    """

    context: ClassVar[int] = 1

    @property
    @abstractmethod
    def actions(self) -> ActionSpec:
        """What it takes as an action."""

    @abstractmethod
    def begin(self, clips: Clips) -> Any:
        """The state after clips of :attr:`context` frames, on the system's device."""

    @abstractmethod
    def step(self, state: Any, action: Tensor) -> tuple[Any, Imagined]:
        """The next state and what is seen of it, for actions (B, ...)."""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        latent: (B, D, h, w), what the decoder gets; gradients pass through to the encoder.
        codes: (B, h, w * n) int64 in ``[0, num_codes)``, the n of a place side by side; None when the latent is
            continuous.
        loss: scalar, the quantizer's own weighted loss; always 0 where :attr:`Quantizer.has_loss` is False.
        metrics: detached scalars worth logging.
    """

    latent: Tensor
    codes: Tensor | None
    loss: Tensor
    metrics: dict[str, Tensor]


class Changes(NamedTuple):
    """The latents of B pairs of frames where they may differ from those of a pair of equal frames.

    Attributes:
        places: (M,) int64, which of the B * h * w places, each at most once, in any order.
        latents: (M, D), those there.
    """

    places: Tensor
    latents: Tensor


class Encoder(nn.Module, ABC):
    """Maps frames to a latent grid.

    Subclasses take ``(config, *, channels, latent_dim, frames=2)`` and carry a frozen dataclass ``Config``. ``frames``
    is passed only where it is not 2, so one that is made for pairs may do without it.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Latent grid ``(h, w)`` for frames of ``(H, W)``, known before any data is seen."""

    @abstractmethod
    def forward(self, *frames: Tensor) -> Tensor:
        """(B, C, H, W) float, as many as ``frames``, in order of time -> (B, D, h, w)."""

    def optimize_for_inference(self) -> None:
        """Makes a copy in eval mode faster, for labelling alone; what it computes may change by rounding.

        Batch norms are folded into convolutions anyway. Encoders that know of nothing else keep this default.
        """

    def changes(self, *frames: Tensor) -> Changes | None:
        """For labelling alone: the latents of (B, C, H, W) uint8 frames where something changes between them.

        All others must be those of frames that are equal, whatever these show. None where the encoder cannot tell, or
        would take longer than ``forward``. Only after :meth:`optimize_for_inference`.
        """
        return None


class Quantizer(nn.Module, ABC):
    """Maps latents to discrete codes and back.

    Subclasses take ``(config, *, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @property
    @abstractmethod
    def num_codes(self) -> int | None:
        """K, or None when the latent is continuous."""

    @property
    def codes_per_place(self) -> int:
        """n, how many codes each place of the latent grid has; 1 unless a quantizer says otherwise."""
        return 1

    @property
    def bits(self) -> float:
        """Nominal bits per place of the grid, ``n log2(K)``; ``inf`` when the latent is continuous."""
        return math.inf if self.num_codes is None else self.codes_per_place * math.log2(self.num_codes)

    @property
    def has_loss(self) -> bool:
        """Whether :attr:`Quantized.loss` is a loss to be minimized; False where it is 0 by design.

        A loss that is exactly 0 for long ends a run as a mistake, unless the quantizer says that it has none.
        """
        return True

    @property
    def num_distinct(self) -> int:
        """n K, the codes there are if those of a place are told apart; 0 when the latent is continuous."""
        return self.codes_per_place * (self.num_codes or 0)

    def distinct(self, codes: Tensor) -> Tensor:
        """Tells a place's codes apart, for each means something of its own: (B, h, w * n) below K -> below n K."""
        which = torch.arange(codes.shape[2], device=codes.device) % self.codes_per_place
        return codes + (self.num_codes or 0) * which

    @abstractmethod
    def forward(self, latent: Tensor) -> Quantized:
        """(B, D, h, w) float -> :class:`Quantized`."""

    @abstractmethod
    def codes_to_latent(self, codes: Tensor) -> Tensor:
        """(B, h, w * n) int64 -> the (B, D, h, w) that ``forward`` gave for them in eval mode."""

    def margin(self, latent: Tensor) -> Tensor | None:
        """How far each latent can move before one of its codes changes: (B, D, h, w) -> (B, h, w), a lower bound >= 0.

        Labelling uses it to find latents so near a border that rounding could decide. None means unknown.
        """
        return None

    def assign(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents (N, D), wherever they lie -> codes (N, n) and margins (N,) as :meth:`margin` says, for labelling.

        Where the margin is 0, the codes may be any of the nearest. Quantizers that find both in one go say so here, and
        save labelling half its time.
        """
        latent = rows[:, :, None, None]
        codes, margin = self(latent).codes, self.margin(latent)
        assert codes is not None
        return codes.flatten(1), None if margin is None else margin.flatten()

    def optimize_for_inference(self) -> None:
        """Makes a copy in eval mode faster, for labelling alone; its weights do not change afterwards.

        Quantizers that have nothing to keep leave this default.
        """

    def anneal(self, progress: float) -> None:
        """Sets what changes over the training; called before each step.

        ``progress`` is the share of it that is done, in [0, 1]. Quantizers without a schedule keep this default.
        """

    def update(self) -> None:
        """Takes in what the ``forward`` calls of one optimizer step have seen, over all ranks; called after the step.

        Quantizers that learn by gradient alone keep this default.
        """

    def reseed_unused(self, latent: Tensor) -> int:
        """Moves codes that went unused since the last call onto encodings from ``latent`` (B, D, h, w).

        Unused is what no rank used; ``latent`` is this rank's. All ranks call it at the same step. Returns how many
        moved. Quantizers whose codes cannot die keep this default.
        """
        return 0


class Conditioner(nn.Module, ABC):
    """Lets the latent action steer the decoder's features.

    Subclasses take ``(config, *, features, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        """(B, F, h, w) and (B, D, h', w'), any h' w' down to 1 x 1 -> (B, F, h, w)."""


MakeConditioner = Callable[[int], Conditioner]
"""Makes the configured conditioner for features of F channels."""


class Decoder(nn.Module, ABC):
    """Predicts the next frame from the current one and the latent.

    Subclasses take ``(config, *, channels, frame_size, latent_dim, make_conditioner)`` and carry a frozen dataclass
    ``Config``. ``channels`` and ``frame_size`` are the C and (H, W) of the frames. ``make_conditioner`` makes the
    configured conditioner for features of any width; a decoder may make several, or mix the latent in by itself.
    """

    Config: ClassVar[type[Any]]

    def start(self, dataset: ClipDataset) -> None:  # most measure nothing
        """Called once before training, with the training clips; what it measures must be kept in buffers."""

    @abstractmethod
    def forward(self, current: Tensor, latent: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] and (B, D, h, w), any h w down to 1 x 1 -> (B, C, H, W), not clipped to [0, 1].

        In eval mode, a row of a batch does not depend on the others.
        """


class FrameDecoder(nn.Module, ABC):
    """Predicts a frame from its latent grid alone.

    Subclasses take ``(config, *, channels, frame_size, grid, latent_dim)`` and carry a frozen dataclass ``Config``.
    ``channels`` and ``frame_size`` are the C and (H, W) of the frames, ``grid`` is the (h, w) of the latent.
    """

    Config: ClassVar[type[Any]]

    def start(self, dataset: ClipDataset) -> None:  # most measure nothing
        """Called once before training, with the training clips; what it measures must be kept in buffers."""

    @abstractmethod
    def forward(self, latent: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, O, H, W), what is predicted of each pixel: its C channels, or what they come from.

        In eval mode, a row of a batch does not depend on the others.
        """

    def to_frame(self, outputs: Tensor) -> Tensor:
        """What :meth:`forward` gave -> (B, C, H, W) in [0, 1], both ends of which it can reach."""
        return outputs

    def pixel_errors(self, outputs: Tensor, frame: Tensor) -> Tensor:
        """How wrong each pixel is: (B, H, W), not negative, the squared error by default.

        Args:
            outputs: what :meth:`forward` gave.
            frame: (B, C, H, W) in [0, 1], the true one.
        """
        return (self.to_frame(outputs).float() - frame).square().mean(1)
