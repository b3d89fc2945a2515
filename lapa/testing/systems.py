"""The contract sweep of model families: each is trained for a few steps on a toy recording."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lapa import registry
from lapa.config import Config, DataConfig, TrainingConfig
from lapa.contracts import Clips, Coder, Drawer, Dreamer, Progress, System
from lapa.data.clips import ClipDataset
from lapa.data.episodes import Tracks
from lapa.data.frames import FrameFormat
from lapa.data.store import FrameStore, store_writer
from lapa.engine.checkpoint import read_state
from lapa.engine.setup import measure
from lapa.engine.step import OptimizerStep
from lapa.engine.training import train
from lapa.engine.validation import Validator
from lapa.errors import RegistryError
from lapa.inference.labelling import Labeller
from lapa.nn.losses import weighted_sum
from lapa.testing.parts import options_are_a_frozen_dataclass, require

SIZE = (40, 32)
"""Of the toy's frames."""
CODES = 5
"""Of the toy's tracks ``codes`` and ``tokens``, and its actions."""
BATCH = 8


def toy_store(path: Path, episodes: int = 5, steps: int = 16, seed: int = 0) -> FrameStore:
    """A packed store of a square that is pushed about, with every track that there is; the code is the action."""
    rng = np.random.default_rng(seed)
    moves = np.array([(0, 0), (0, 4), (0, -4), (4, 0), (-4, 0)])
    limit = np.array(SIZE) - 8
    codes: list[Any] = []
    tokens: list[Any] = []
    starts: list[int] = []
    first = 0
    with store_writer(path, SIZE) as writer:
        for number in range(episodes):
            place = rng.integers(0, limit // 4 + 1) * 4
            places, actions = [place], []
            for _ in range(steps):
                allowed = [a for a, move in enumerate(moves) if np.all((place + move >= 0) & (place + move <= limit))]
                actions.append(int(rng.choice(allowed)))
                place = place + moves[actions[-1]]
                places.append(place)
            taken = np.array(actions)
            tracks = Tracks(
                actions=taken,
                rewards=(taken == 1).astype(np.float32),
                terminated=np.arange(steps) == steps - 1,
                truncated=np.zeros(steps, dtype=bool),
                lives=np.full(steps + 1, 3),
                ram=np.array(places, dtype=np.uint8),
                fields=np.array(places, dtype=np.float64),
                meta={
                    "env_id": "Toy-v0",
                    "fields": ["row", "column"],
                    "action_meanings": ["STAY", "RIGHT", "LEFT", "DOWN", "UP"],
                },
            )
            writer.add(str(number), np.arange(steps + 1), tracks, map(_picture, places))
            codes += [[[action]] for action in actions]
            tokens += [[[int(row) % CODES]] for row, _ in places]
            starts += range(first, first + steps)
            first += steps + 1
        writer.extra = {
            "codes": np.array(codes, dtype=np.uint8),
            "tokens": np.array(tokens, dtype=np.uint8),
            "pair_starts": np.array(starts),
        }
        writer.header = {"num_codes": CODES, "grid": (1, 1), "fingerprint": "toy", "skipped": []}
    return FrameStore(path)


def _picture(place: np.ndarray) -> np.ndarray:
    frame = np.full((*SIZE, 3), (10, 20, 30), dtype=np.uint8)
    frame[place[0] : place[0] + 8, place[1] : place[1] + 8] = (200, 160, 60)
    return frame


class SystemSubject:
    """What is checked: a family, its options, and toy clips of the kind it wants.

    Args:
        cls: the family.
        config: an instance of its ``Config``; the default if None.
        loss: an instance of its ``Loss``; the default if None.
        folder: where files may be written.
    """

    def __init__(self, cls: type[System], config: Any, loss: Any, folder: Path) -> None:
        self.cls = cls
        self.config = cls.Config() if config is None else config
        self.loss = cls.Loss() if loss is None else loss
        self.folder = folder
        self.store = toy_store(folder / "toy.lapa", steps=16 + cls.clip(self.config, self.loss).frames)
        self.clips = ClipDataset(self.store, self.store.episodes, FrameFormat(*SIZE), cls.clip(self.config, self.loss))
        self.options = TrainingConfig(batch_size=BATCH, learning_rate=1e-3, precision="fp32", device="cpu")

    def make(self) -> System:
        """A new system that has begun, always with the same weights."""
        torch.manual_seed(0)
        system = self.cls(self.config, measure(self.store, self.store.episodes, self.clips.format))
        system.start(self.clips, self.loss)
        return system

    def trained(self, steps: int = 3) -> tuple[System, list[dict[str, float]]]:
        """A system that has taken some steps, and the metrics of each."""
        system = self.make()
        step = OptimizerStep(system, self.loss, self.options)
        found = []
        for number in range(steps):
            progress = Progress(number / steps, number, number * BATCH / len(self.clips))
            result = step(self.clips[np.arange(BATCH) + number], progress)
            require(result.is_finite, f"loss or gradient of step {number + 1} is not finite: {result.metrics}")
            found.append(result.metrics)
        return system, found

    def losses(self, system: System, clips: Clips) -> Tensor:
        """The loss of a batch, as it is weighed half-way."""
        inputs = system.inputs(clips)
        return weighted_sum(system.terms(system(*inputs), inputs, self.loss, Progress(0.5)))


Check = Callable[[SystemSubject], None]


def check_system(cls: type[System], config: Any = None, loss: Any = None) -> None:
    """Runs all checks of a model family.

    Args:
        cls: the family.
        config: an instance of its ``Config``, small enough to train in seconds; the default if None.
        loss: an instance of its ``Loss``; the default if None.

    Raises:
        AssertionError: it breaks the contract; the message says how.
    """
    derives = isinstance(cls, type) and issubclass(cls, System)
    require(derives, f"{cls!r} does not derive from lapa.contracts.System")
    for section in ("Config", "Loss"):
        options_are_a_frozen_dataclass(cls, section)
    with tempfile.TemporaryDirectory() as folder:
        subject = SystemSubject(cls, config, loss, Path(folder))
        for check in SYSTEM_CHECKS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                check(subject)


def a_step_is_finite(subject: SystemSubject) -> None:
    """Three steps have finite losses and gradients, and their metrics have the names of training."""
    _, found = subject.trained()
    for metrics in found:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        require(not bad, f"metrics are not finite: {', '.join(bad)}")
        foreign = [name for name in metrics if not name.startswith("train/")]
        require(not foreign, f"metrics of a step must begin with train/, not {', '.join(foreign)}")


def every_parameter_learns(subject: SystemSubject) -> None:
    """In three steps each parameter moves."""
    before = {name: parameter.detach().clone() for name, parameter in subject.make().named_parameters()}
    system, _ = subject.trained()
    still = [name for name, parameter in system.named_parameters() if torch.equal(parameter, before[name])]
    require(not still, f"parameters do not learn: {', '.join(still)}")


def state_is_complete(subject: SystemSubject) -> None:
    """A system that has trained validates to the same figures after its state dict went into a new one."""
    trained, _ = subject.trained()
    fresh = subject.make()
    fresh.load_state_dict(trained.state_dict())
    figures = [Validator(each, subject.clips, subject.loss, 16, 8, "fp32").metrics(0.5) for each in (trained, fresh)]
    require(figures[0] == figures[1], "state_dict misses something: a reloaded system validates to other figures")


def validation_repeats_itself(subject: SystemSubject) -> None:
    """Validated twice, the figures are equal, the best one is among them, and nothing in the state moves."""
    system, _ = subject.trained()
    before = copy.deepcopy(system.state_dict())
    validator = Validator(system, subject.clips, subject.loss, 16, 8, "fp32")
    first, second = validator.metrics(0.5), validator.metrics(0.5)
    require(first == second, "in eval mode the same clips give other figures")
    require(system.best in first, f"best is {system.best!r}, which is not among the figures: {', '.join(first)}")
    require(all(name.startswith("val/") for name in first), "figures of a validation must begin with val/")
    moved = [key for key, value in system.state_dict().items() if not torch.equal(value, before[key])]
    require(not moved, f"in eval mode the state moves: {', '.join(moved)}")


def two_parts_are_one_batch(subject: SystemSubject) -> None:
    """The gradient of a batch is the mean of those of its two halves: loss terms are means over clips.

    In eval mode, for batch norm and noise are what they are in training.
    """
    system = subject.trained()[0].eval()
    clips = subject.clips[np.arange(BATCH)]
    whole = _gradients(system, [subject.losses(system, clips)])
    halves = _gradients(system, [subject.losses(system, part) / 2 for part in clips.chunk(2)])
    scale = max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in whole.items():
        close = torch.allclose(gradient, halves[name], rtol=1e-3, atol=1e-5 * scale)
        require(close, f"{name}: the gradient of a batch is not the mean of its halves': make terms means over clips")


def _gradients(system: System, losses: list[Tensor]) -> dict[str, Tensor]:
    system.zero_grad(set_to_none=True)
    for loss in losses:
        loss.backward()
    return {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}


def readings_are_what_they_say(subject: SystemSubject) -> None:
    """Readings are detached scalars and whole-number counts, and pictures are (B, C, H, W)."""
    system = subject.make().eval()
    inputs = system.inputs(subject.clips[np.arange(BATCH)])
    with torch.no_grad():
        output = system(*inputs)
        for readings in (system.readings(output, inputs), system.sampled_readings(output, inputs)):
            for name, mean in readings.means.items():
                require(
                    mean.ndim == 0 and not mean.requires_grad, f"readings.means[{name!r}] must be a detached scalar"
                )
            for name, counts in readings.counts.items():
                whole = counts.ndim == 1 and not counts.dtype.is_floating_point
                require(whole, f"readings.counts[{name!r}] must be whole numbers (K,)")
        for name, rows in system.pictures(output, inputs).items():
            require(rows.ndim == 4 and len(rows) == BATCH, f"pictures[{name!r}] must be (B, C, H, W)")
    require(system.revive(output) >= 0, "revive must return how many codes have moved")


def a_resumed_run_ends_alike(subject: SystemSubject) -> None:
    """A run that is broken off and resumed ends with the weights of one left alone, bit for bit."""
    with _named(subject.cls) as name:
        whole, broken = subject.folder / "whole", subject.folder / "broken"
        options: dict[str, Any] = {"steps": 6, "validate_every": 3, "checkpoint_every": 3, "reseed_every": 2}
        config = Config(
            system=name,
            data=DataConfig(root=str(subject.store.path), split=(0.6, 0.2, 0.2)),
            model=subject.config,
            loss=subject.loss,
            training=dataclasses.replace(subject.options, out=str(whole), usage_every=3, examples_every=6, **options),
        )
        train(config, subject.store, lambda _: None)
        shutil.copytree(whole, broken)
        (broken / "step_6.pt").unlink()
        resumed = dataclasses.replace(config, training=dataclasses.replace(config.training, out=str(broken)))
        train(resumed, subject.store, lambda _: None, existing="resume")
        ends = [read_state(out / "step_6.pt") for out in (whole, broken)]
    differing = [key for key, value in ends[0]["model"].items() if not torch.equal(value, ends[1]["model"][key])]
    require(not differing, f"a resumed run ends with other weights: {', '.join(differing)}")


@contextlib.contextmanager
def _named(cls: type[System]) -> Iterator[str]:
    """The name under which a family is registered; if under none, it has one within."""
    for name in registry.systems.names():
        found = None
        with contextlib.suppress(RegistryError):  # another's broken family is no fault of this one
            found = registry.systems.get(name)
        if found is cls:
            yield name
            return
    registry.systems.register("checked", cls)
    try:
        yield "checked"
    finally:
        registry.systems.forget("checked")


def abilities_are_as_they_say(subject: SystemSubject) -> None:
    """A coder gives codes of its grid, a drawer frames in [0, 1], a dreamer steps under any of its actions."""
    system = subject.trained()[0].eval().requires_grad_(False)
    clips = subject.clips[np.arange(4)]
    height, width = system.format.size
    shape = (4, system.format.channels, height, width)
    codes = None
    if isinstance(system, Coder) and system.quantizer.num_codes is not None:
        seen = clips.frames.unbind(1)
        codes = Labeller(system)(*(seen[-2:] if system.track == "codes" else seen[-1:]))
        require(tuple(codes.shape[1:]) == system.code_grid, f"codes are {tuple(codes.shape[1:])}, not code_grid")
    if isinstance(system, Drawer):
        for given in (None, codes):
            _check_picture(system.draw(clips, given), shape, "draw")
    if isinstance(system, Dreamer) and not (isinstance(system, Coder) and system.quantizer.num_codes is None):
        spec = system.actions
        begun = clips.frames[:, -1:].expand(-1, system.context, -1, -1, -1)
        taken = torch.randint(spec.count, (4, system.context - 1, *spec.shape))
        state = system.begin(Clips(begun, {spec.kind: taken}))
        for _ in range(2):
            state, imagined = system.step(state, torch.randint(spec.count, (4, *spec.shape)))
            _check_picture(imagined.frame, shape, "step")


def _check_picture(frames: Tensor, shape: tuple[int, ...], where: str) -> None:
    require(tuple(frames.shape) == shape, f"{where} gives {tuple(frames.shape)}, not {shape}")
    inside = bool(frames.isfinite().all()) and float(frames.min()) >= 0 and float(frames.max()) <= 1
    require(inside, f"{where} gives values outside of [0, 1]")


SYSTEM_CHECKS: tuple[Check, ...] = (
    readings_are_what_they_say,
    a_step_is_finite,
    every_parameter_learns,
    state_is_complete,
    validation_repeats_itself,
    two_parts_are_one_batch,
    abilities_are_as_they_say,
    a_resumed_run_ends_alike,
)
"""The checks of every family, one after another."""
