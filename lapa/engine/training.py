"""Training, as one flat loop: batch, losses, backward, clip, step; then what is due at this step.

A step is exact: started again from the checkpoint before it, with the same configuration, data, software and
number of threads, it gives the same bits. So all that a step depends on is in the checkpoint, and nothing else
is: see :meth:`Run.training_state`.
"""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from lapa import distributed
from lapa.config import Config
from lapa.contracts import Coder, Progress, System
from lapa.data.clips import ClipSampler
from lapa.data.feed import Feed, place
from lapa.data.files import atomic_file
from lapa.data.splits import deal
from lapa.data.store import FrameStore
from lapa.device import check_compiler, set_cpu_arithmetic
from lapa.engine.checkpoint import prune, save_checkpoint, step_checkpoints, step_path
from lapa.engine.facts import run_facts
from lapa.engine.guards import Alarms, CollapseGuard, NonFiniteGuard, ZeroLossGuard
from lapa.engine.metering import Meter, training_bar, update_bar
from lapa.engine.randomness import rng_state, seed_everything, set_rng_state
from lapa.engine.run_folder import find_run, prepare_folder
from lapa.engine.schedule import Clock, is_due, with_steps
from lapa.engine.setup import (
    check_ranks,
    lay_out,
    make_datasets,
    make_system,
    measure,
    parallel_system,
)
from lapa.engine.step import OptimizerStep, StepResult
from lapa.engine.stopping import StopSignal
from lapa.engine.validation import Validator
from lapa.errors import ConfigError, TrainingInterrupted
from lapa.metrics.codes import perplexity
from lapa.progress import notify as print_line
from lapa.report.pictures import compared, png_bytes
from lapa.tracking.trackers import Trackers, check_packages, open_trackers


@dataclasses.dataclass(frozen=True)
class TrainingSummary:
    """What a run leaves behind.

    Attributes:
        best: the checkpoint with the lowest :attr:`lapa.contracts.System.best`.
        last: the checkpoint after the last step.
        steps: optimizer steps taken.
        seconds: they took, validation and those before a resume included.
        pairs_per_second: clips trained on in a second, validation included.
        metrics: of the best checkpoint.
        outcome: what these say, in a few words.
        warnings: one sentence for each thing that went wrong without ending the run.
    """

    best: Path
    last: Path
    steps: int
    seconds: float
    pairs_per_second: float
    metrics: dict[str, float]
    outcome: str
    warnings: list[str]


def train(
    config: Config,
    store: FrameStore,
    notify: Callable[[str], None] = print_line,
    *,
    existing: Literal["refuse", "resume", "overwrite"] = "refuse",
) -> TrainingSummary:
    """Trains a model on the store's training episodes.

    Writes into ``config.training.out``: ``config.yaml``, ``run.json`` (what was trained, on what), ``split.json``
    (episode names), ``metrics.jsonl``, ``examples/``, ``best.pt`` (lowest validation error) and the last few
    ``step_<n>.pt``, from which training can go on.

    Under ``torchrun`` each process is one rank of a group that trains one model; the first one writes.

    Args:
        config: the run's configuration.
        store: the recording.
        notify: told in one line each what happens.
        existing: what to do with a run that is in the folder already. A run that is not there is started.

    Raises:
        CheckpointError: the run to resume cannot be read, or was configured otherwise.
        ConfigError: an option does not fit the data or the machine, or the folder holds a run already.
        DataError: too few episodes.
        TrainingError: the loss stays infinite or NaN, or one of its terms 0.
        TrainingInterrupted: on SIGINT or SIGTERM, after saving.
    """
    with distributed.process_group(config.training.device) as device:
        notify = notify if distributed.is_main() else _silence
        with StopSignal() as stop:
            run = Run(config, store, device, notify, existing)
            with run.trackers:
                return run.train(stop)


class Run:
    """One training run: all its state, and the loop.

    Attributes:
        options: the section ``training`` of the configuration, with the steps that its epochs come to.
        step: optimizer steps taken.
        best: validation metrics of the best checkpoint; empty before the first.
    """

    def __init__(
        self, config: Config, store: FrameStore, device: torch.device, notify: Callable[[str], None], existing: str
    ) -> None:
        options = config.training
        self.config, self.device, self.notify = config, device, notify
        self.fingerprint = store.header.get("fingerprint")
        self.out = Path(options.out)
        check_ranks(options)
        check_packages(config.tracking)
        if options.compile:
            check_compiler(device)
        resumed = find_run(self.out, config, existing, notify)
        seed_everything(options.seed)
        set_cpu_arithmetic()

        self.split: dict[str, list[str]] = (
            resumed["split"] if resumed else deal(store.episodes, config.data.split, config.data.split_seed)
        )
        train_set, val_set = make_datasets(config, store, self.split)
        self.step = resumed["step"] if resumed else 0
        self.steps_per_epoch = len(train_set) // options.batch_size
        sampler = ClipSampler(
            len(train_set),
            options.batch_size,
            options.seed,
            first=self.step,
            parts=options.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            groups=train_set.groups,
        )
        options = self.options = with_steps(options, self.steps_per_epoch)

        self.system = make_system(config, measure(store, store.episodes, train_set.format))
        placement = place([train_set, val_set], config.data.placement, device)
        self.system.start(train_set, config.loss)
        if resumed:
            self.system.load_state_dict(resumed["model"])
        lay_out(self.system, options, device)
        facts = run_facts(config, self.system, store, device)
        facts["training"] = {"steps": options.steps, "steps_per_epoch": self.steps_per_epoch, "clips": len(train_set)}
        parallel = parallel_system(self.system, device)
        if options.compile:
            self.system.compile()
        self.take_step = OptimizerStep(self.system, config.loss, options, parallel)
        self.validator = Validator(
            self.system,
            val_set,
            config.loss,
            options.validate_pairs,
            max(2, options.batch_size // options.accumulate // distributed.world_size()),
            options.precision,
        )
        self.non_finite = NonFiniteGuard(options)
        self.zero_loss = ZeroLossGuard(options)
        self.collapse = CollapseGuard(
            options, self.system.quantizer.num_codes if isinstance(self.system, Coder) else None
        )
        self.alarms = Alarms()
        self.best: dict[str, float] = {}
        self.feed = Feed(train_set, sampler, device, options.num_workers)
        self.clock = Clock(options, before=resumed["training"]["elapsed"] if resumed else 0.0)
        self.meter = Meter(self.feed, device)
        if resumed:
            self.load_training_state(resumed["training"])

        if distributed.is_main():
            prepare_folder(self.out, config, facts, self.split, overwrite=existing == "overwrite" and not resumed)
        self.trackers: Trackers = open_trackers(
            config, self.out, facts=facts, resume_from=self.step if resumed else None, notify=notify
        )
        notify(
            f"training {facts['model']['parameters']:,} parameters on {device}: {len(train_set)} clips of "
            f"{len(self.split['train'])} episodes, frames in {placement}; "
            f"validating on {len(val_set)} clips of {len(self.split['val'])}"
            + (f"; {options.epochs:g} epochs are {options.steps:,} steps" if options.epochs else "")
        )

    def train(self, stop: StopSignal) -> TrainingSummary:
        """Takes all steps that are left.

        Raises:
            TrainingError: the loss stays infinite or NaN, or one of its terms 0.
            TrainingInterrupted: on SIGINT or SIGTERM, after saving.
        """
        options = self.options
        with training_bar(options, self.clock, self.step) as bar:
            done = self.is_over()
            while not done:
                batch = next(self.feed).mirrored(self.config.data.mirror)
                progress = self.progress()
                result = self.take_step(batch, progress, lambda: stop.received)
                self.step += 1
                self.meter.count(options.batch_size)
                self.watch(result)

                done = self.is_over()
                if self.should_revive(progress):
                    result.metrics["train/quantizer/reseeded"] = float(self.system.revive(result.output))
                result.output = None  # it would be held until the next step has one
                if is_due(self.step, options.log_every) or done:
                    self.log_training(result.metrics, bar)
                with self.meter.paused():
                    if is_due(self.step, options.validate_every) or done:
                        self.validate(progress)
                    if is_due(self.step, options.usage_every):
                        self.log_usage()
                    if is_due(self.step, options.examples_every):
                        self.log_examples()
                    if is_due(self.step, options.checkpoint_every) or done:
                        self.save()
                    if result.stop:
                        self.leave(stop.received or signal.SIGTERM)  # another rank's, if not this one's
        return self.summary()

    def watch(self, result: StepResult) -> None:
        """Tells the guards of a step.

        Raises:
            TrainingError: the loss stays infinite or NaN, or one of its terms 0.
        """
        self.zero_loss.watch(
            self.step, {name: result.metrics[f"train/loss/{name}"] for name in result.weights}, result.weights
        )
        if result.is_finite:
            self.non_finite.good()
        else:
            self.non_finite.bad(self.step, self.last_good())
        counts = result.counts.get("codebook")
        if warning := self.collapse.watch(self.step, math.inf if counts is None else perplexity(counts)):
            self.notify(warning)

    def progress(self) -> Progress:
        """Share of the training that is done, steps and epochs; the same on all ranks."""
        share = self.clock.progress(self.step)
        if self.clock.counts_time:
            share = self._agreed(share)
        return Progress(share, self.step, self.step / self.steps_per_epoch)

    def is_over(self) -> bool:
        """Whether the last step is done; the same on all ranks."""
        over = self.clock.is_over(self.step)
        return bool(self._agreed(float(over))) if self.clock.counts_time else over

    def _agreed(self, value: float) -> float:
        """The main process's value: each rank has a clock of its own."""
        if distributed.world_size() == 1:
            return value
        return float(distributed.broadcast(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def should_revive(self, progress: Progress) -> bool:
        """Whether dead codes are moved after this step."""
        options = self.options
        due = is_due(self.step, options.reseed_every) and progress < options.reseed_until
        return due and not self.non_finite.in_a_row

    def log_training(self, metrics: dict[str, float], bar: tqdm[Any]) -> None:
        """One line of training metrics, and the bar."""
        metrics |= self.meter.read()
        self.trackers.log(self.step, metrics)
        update_bar(bar, self.clock, self.step, metrics, self.system.bar)

    def validate(self, progress: Progress) -> None:
        """Validates, says what is wrong already, and keeps the model if it is the best so far."""
        metrics = self.validator.metrics(progress)
        self.trackers.log(self.step, metrics)
        for alarm in self.alarms.new(self.system.alarms(metrics)):
            self.notify(f"WARNING: {alarm}")
        measure = self.system.best
        if measure not in metrics:
            raise ConfigError(f"system: '{self.config.system}' keeps its best by {measure}, which it does not measure")
        kept = self.best.get(measure, math.inf)
        if not self.best or metrics[measure] < kept or (math.isnan(kept) and not math.isnan(metrics[measure])):
            self.best = metrics
            if distributed.is_main():
                best = self.out / "best.pt"
                save_checkpoint(best, self.system, self.config, split=self.split, step=self.step, metrics=metrics)

    def log_usage(self) -> None:
        """What is counted on held-out episodes: histograms, and the figures that come of them."""
        found = self.validator.counts()
        for name, counts in found.items():
            self.trackers.histogram(self.step, f"val/{name}/use", counts.numpy())
        if found:
            self.trackers.log(self.step, self.system.metrics("val", {}, found))

    def log_examples(self) -> None:
        """A picture of held-out clips, ``examples/step_<n>.png``."""
        if not distributed.is_main() or type(self.system).pictures is System.pictures:
            return
        rows, where = self.validator.pictures()
        if not rows:
            return
        path = self.out / "examples" / f"step_{self.step}.png"
        with atomic_file(path) as file:
            file.write(png_bytes(compared(rows, where)))
        self.trackers.image(self.step, "val/recon/examples", path)

    def save(self) -> Path:
        """Writes ``step_<n>.pt``, from which training can go on, and deletes those that are too old."""
        path = step_path(self.out, self.step)
        state = self.training_state()
        if distributed.is_main():
            save_checkpoint(
                path, self.system, self.config, split=self.split, step=self.step, metrics=self.best, training=state
            )
            prune(self.out, self.options.keep_last)
        return path

    def training_state(self) -> dict[str, Any]:
        """All that a step depends on beside the weights, as plain values and tensors.

        The batches are not in it: they depend on the seed and the step alone.
        """
        return {
            **self.take_step.state_dict(),
            "rng": distributed.gathered_objects(rng_state(self.device)),
            "elapsed": self.clock.elapsed(),
            "non_finite": self.non_finite.state_dict(),
            "zero_loss": self.zero_loss.state_dict(),
            "collapse": self.collapse.state_dict(),
            "best": self.best,
            "fingerprint": self.fingerprint,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`training_state`."""
        self.take_step.load_state_dict(state)
        self.non_finite.load_state_dict(state["non_finite"])
        if "zero_loss" in state:  # older checkpoints have none
            self.zero_loss.load_state_dict(state["zero_loss"])
        self.collapse.load_state_dict(state["collapse"])
        self.best = state["best"]
        if len(state["rng"]) == distributed.world_size():
            set_rng_state(state["rng"][distributed.rank()], self.device)
        else:
            self.notify(f"resuming a run of {len(state['rng'])} process(es) on {distributed.world_size()}: not exact")
        if state["fingerprint"] != self.fingerprint:
            self.notify("WARNING: the recordings have changed since the run began: it goes on, but not exactly")

    def last_good(self) -> str:
        """What to go back to, for an error."""
        paths = step_checkpoints(self.out)
        if paths:
            return f"the last good checkpoint is {paths[-1]}"
        return f"the last good checkpoint is {self.out / 'best.pt'}" if self.best else "no checkpoint was written yet"

    def leave(self, received: int) -> None:
        """Saves and ends the run.

        Raises:
            TrainingInterrupted: always.
        """
        path = self.save()
        raise TrainingInterrupted(
            f"stopped after step {self.step} and saved {path}; "
            f"go on with `lapa train --resume training.out={self.options.out}`",
            received,
        )

    def summary(self) -> TrainingSummary:
        """What the run has come to."""
        seconds = self.clock.elapsed()
        warnings = self.system.warnings(self.best) if self.best else []
        if self.collapse.warned_at is not None:
            warnings.append(f"the codebook had collapsed at step {self.collapse.warned_at}")
        if self.non_finite.total:
            warnings.append(f"{self.non_finite.total} step(s) were skipped: loss or gradient not finite")
        return TrainingSummary(
            best=self.out / "best.pt",
            last=step_path(self.out, self.step),
            steps=self.step,
            seconds=seconds,
            pairs_per_second=self.step * self.options.batch_size / seconds,
            metrics=self.best,
            outcome=self.system.outcome(self.best) if self.best else "",
            warnings=warnings,
        )


def _silence(message: str) -> None:
    """What ranks other than the first have to say."""
