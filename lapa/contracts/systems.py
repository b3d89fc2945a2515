"""What a model family must do, and what else it can say that it does."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from lapa.contracts.clips import Clips, ClipSpec, Facts, Progress
from lapa.contracts.parts import Changes, Quantizer

if TYPE_CHECKING:
    from lapa.data.clips import ClipDataset
    from lapa.data.frames import FrameFormat

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
    """A system that draws the last frame of a clip.

    Attributes:
        sees_target: whether it sees the very frame that it draws, as a tokenizer does. It is then compared with the
            mean frame, not with the frame before.
    """

    sees_target: ClassVar[bool] = False

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
        context: frames that it is to see before the first step.
    """

    context: ClassVar[int] = 1

    @property
    @abstractmethod
    def actions(self) -> ActionSpec:
        """What it takes as an action."""

    @abstractmethod
    def begin(self, clips: Clips) -> Any:
        """The state after clips of real frames, on the system's device.

        Args:
            clips: of :attr:`context` frames; of fewer it still begins, but knows less. Where the system takes the
                controller's actions, with the track ``actions``.
        """

    def observe(self, state: Any, action: Tensor, frame: Tensor) -> Any:
        """The state after a step whose frame was seen; by default that of the frame alone, as for :meth:`begin`.

        Args:
            state: before the step.
            action: (B, ...), as for :meth:`step`.
            frame: (B, C, H, W) uint8, prepared for the model.
        """
        return self.begin(Clips(frame[:, None]))

    @abstractmethod
    def step(self, state: Any, action: Tensor) -> tuple[Any, Imagined]:
        """The next state and what is seen of it, for actions (B, ...)."""
