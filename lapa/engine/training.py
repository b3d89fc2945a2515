"""Training, as one flat loop: batch, losses, backward, clip, step; then what is due at this step.

A step is exact: started again from the checkpoint before it, with the same configuration, data, software and
number of threads, it gives the same bits. So all that a step depends on is in the checkpoint, and nothing else
is: see :meth:`Run.training_state`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from lapa import distributed
from lapa.config import Config, TrainingConfig
from lapa.contracts import Clips
from lapa.data.clips import ClipSampler
from lapa.data.feed import Feed, place
from lapa.data.files import atomic_file
from lapa.data.frames import FrameFormat, to_float
from lapa.data.splits import split_episodes
from lapa.data.store import FrameStore
from lapa.device import autocast, check_compiler, set_cpu_arithmetic
from lapa.engine.checkpoint import prune, save_checkpoint, step_checkpoints, step_path
from lapa.engine.facts import run_facts
from lapa.engine.guards import CollapseGuard, NonFiniteGuard
from lapa.engine.metering import Meter, StepResult
from lapa.engine.randomness import rng_state, seed_everything, set_rng_state
from lapa.engine.run_folder import find_run, prepare_folder
from lapa.engine.schedule import Clock, is_due, learning_rate
from lapa.engine.setup import check_ranks, make_dataset, make_model, make_optimizer, parallel_model
from lapa.engine.stopping import StopSignal
from lapa.engine.validation import Validator, usage_metrics
from lapa.errors import DataError, TrainingInterrupted
from lapa.nn.losses import weighted_sum
from lapa.progress import notify as print_line
from lapa.progress import progress_bar
from lapa.report.pictures import example_sheet, png_bytes
from lapa.systems.latent_action.losses import loss_terms, loss_weights, make_perceptual
from lapa.systems.latent_action.model import ModelOutput
from lapa.tracking.trackers import Trackers, check_packages, open_trackers


@dataclasses.dataclass(frozen=True)
class TrainingSummary:
    """What a run leaves behind.

    Attributes:
        best: the checkpoint with the lowest validation error.
        last: the checkpoint after the last step.
        steps: optimizer steps taken.
        seconds: they took, validation and those before a resume included.
        pairs_per_second: trained on, validation included.
        metrics: of the best checkpoint.
        warnings: one sentence for each thing that went wrong without ending the run.
    """

    best: Path
    last: Path
    steps: int
    seconds: float
    pairs_per_second: float
    metrics: dict[str, float]
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
        TrainingError: the loss stays infinite or NaN.
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

        format = FrameFormat(*store.frame_size, config.data.color, config.data.downsample)
        names = [episode.name for episode in store.episodes]
        dealt = split_episodes(names, config.data.split, config.data.split_seed)
        self.split: dict[str, list[str]] = resumed["split"] if resumed else dealt
        train_set = make_dataset(store, self.split["train"], format)
        val_set = make_dataset(store, self.split["val"], format)
        if len(val_set) < distributed.world_size():
            raise DataError(f"{len(val_set)} validation pair(s) for {distributed.world_size()} processes; record more")
        self.step = resumed["step"] if resumed else 0
        sampler = ClipSampler(
            len(train_set),
            options.batch_size,
            options.seed,
            first=self.step,
            parts=options.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

        self.model = make_model(config, format)
        self.perceptual = make_perceptual(config.loss, device)
        placement = place([train_set, val_set], config.data.placement, device)
        if self.model.decoder.mean_frame is not None:
            self.model.decoder.mean_frame.copy_(train_set.mean_frame())
        if resumed:
            self.model.load_state_dict(resumed["model"])
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.model.activation_checkpointing = options.activation_checkpointing
        facts = run_facts(config, self.model, store, device)
        self.parallel = parallel_model(self.model, device)
        if options.compile:
            self.model.compile()
        self.optimizer = make_optimizer(self.model, options)
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16")
        self.validator = Validator(
            self.model,
            val_set,
            options.validate_pairs,
            max(2, options.batch_size // options.accumulate // distributed.world_size()),
            options.precision,
        )
        self.non_finite = NonFiniteGuard(options)
        self.collapse = CollapseGuard(options, self.model.quantizer.num_codes)
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
            f"training {facts['model']['parameters']:,} parameters on {device}: {len(train_set)} pairs of "
            f"{len(self.split['train'])} episodes, frames in {placement}; "
            f"validating on {len(val_set)} pairs of {len(self.split['val'])}"
        )

    def train(self, stop: StopSignal) -> TrainingSummary:
        """Takes all steps that are left.

        Raises:
            TrainingError: the loss stays infinite or NaN.
            TrainingInterrupted: on SIGINT or SIGTERM, after saving.
        """
        options = self.config.training
        with training_bar(options, self.clock, self.step) as bar:
            done = self.is_over()
            while not done:
                batch = next(self.feed)
                progress = self.progress()
                set_learning_rate(self.optimizer, learning_rate(options, progress))
                before = [buffer.clone() for buffer in self.model.buffers()]

                self.model.quantizer.anneal(progress)
                result = self.accumulate_gradients(batch, progress)
                self.scaler.unscale_(self.optimizer)
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), options.clip_norm)
                values = result.values(norm, stop.received)
                self.step += 1

                if math.isfinite(values["train/loss/total"]) and math.isfinite(values["train/optim/gradient_norm"]):
                    self.scaler.step(self.optimizer)
                    self.model.quantizer.update()
                    self.non_finite.good()
                else:
                    # The forward pass has spoilt the running statistics already.
                    restore_buffers(self.model, before)
                    self.non_finite.bad(self.step, self.last_good())
                self.scaler.update()
                self.meter.count(options.batch_size)

                done = self.is_over()
                if warning := self.collapse.watch(self.step, values.get("train/quantizer/perplexity", math.inf)):
                    self.notify(warning)
                if self.should_reseed(progress):
                    moved = self.model.quantizer.reseed_unused(result.encoding)
                    values["train/quantizer/reseeded"] = float(moved)
                if is_due(self.step, options.log_every) or done:
                    self.log_training(values, bar)
                with self.meter.paused():
                    if is_due(self.step, options.validate_every) or done:
                        self.validate(progress)
                    if is_due(self.step, options.usage_every):
                        self.log_usage()
                    if is_due(self.step, options.examples_every):
                        self.log_examples()
                    if is_due(self.step, options.checkpoint_every) or done:
                        self.save()
                    if values["stop"]:
                        self.leave(stop.received or signal.SIGTERM)  # another rank's, if not this one's
        return self.summary()

    def accumulate_gradients(self, batch: Clips, progress: float) -> StepResult:
        """Forward and backward over the micro-batches of one step."""
        options, loss_options = self.config.training, self.config.loss
        result = StepResult(self.model.quantizer)
        weights = loss_weights(loss_options, progress)
        self.optimizer.zero_grad(set_to_none=True)
        parts = batch.chunk(options.accumulate)
        for index, part in enumerate(parts):
            current, next = to_float(part.current), to_float(part.next)
            is_last = index == len(parts) - 1
            with synchronized(self.parallel, is_last):
                with autocast(self.device, options.precision):
                    output = self.parallel(current, next)
                terms = loss_terms(output, current, next, loss_options, progress, self.perceptual)
                loss = weighted_sum(terms, weights)
                self.scaler.scale(loss / len(parts)).backward()
            result.add(loss, terms, output, next)
        return result

    def progress(self) -> float:
        """Share of the training that is done; the same on all ranks."""
        progress = self.clock.progress(self.step)
        return self._agreed(progress) if self.clock.counts_time else progress

    def is_over(self) -> bool:
        """Whether the last step is done; the same on all ranks."""
        over = self.clock.is_over(self.step)
        return bool(self._agreed(float(over))) if self.clock.counts_time else over

    def _agreed(self, value: float) -> float:
        """The main process's value: each rank has a clock of its own."""
        if distributed.world_size() == 1:
            return value
        return float(distributed.broadcast(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def should_reseed(self, progress: float) -> bool:
        """Whether unused codes are moved after this step."""
        options = self.config.training
        due = is_due(self.step, options.reseed_every) and progress < options.reseed_until
        return due and not self.non_finite.in_a_row

    def log_training(self, values: dict[str, float], bar: tqdm[Any]) -> None:
        """One line of training metrics, and the bar."""
        metrics = {name: value for name, value in values.items() if name != "stop"}
        metrics["train/optim/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if self.scaler.is_enabled():
            metrics["train/optim/loss_scale"] = self.scaler.get_scale()
        metrics |= self.meter.read()
        self.trackers.log(self.step, metrics)
        update_bar(bar, self.clock, self.step, metrics)

    def validate(self, progress: float) -> None:
        """Validates, and keeps the model if it is the best so far."""
        loss_options = self.config.loss

        def losses(output: ModelOutput, current: Tensor, following: Tensor) -> Mapping[str, Tensor]:
            terms = loss_terms(output, current, following, loss_options, progress, self.perceptual)
            return {**terms, "total": weighted_sum(terms, loss_weights(loss_options, progress))}

        metrics = self.validator.metrics(losses)
        self.trackers.log(self.step, metrics)
        if not self.best or metrics["val/recon/mse"] < self.best["val/recon/mse"]:
            self.best = metrics
            if distributed.is_main():
                best = self.out / "best.pt"
                save_checkpoint(best, self.model, self.config, split=self.split, step=self.step, metrics=metrics)

    def log_usage(self) -> None:
        """Histogram and perplexity of the codes on held-out episodes."""
        counts = self.validator.code_use()
        if len(counts):
            self.trackers.histogram(self.step, "val/codebook/use", counts)
            self.trackers.log(self.step, usage_metrics(counts))

    def log_examples(self) -> None:
        """A picture of held-out pairs, ``examples/step_<n>.png``."""
        if not distributed.is_main():
            return
        path = self.out / "examples" / f"step_{self.step}.png"
        with atomic_file(path) as file:
            file.write(png_bytes(example_sheet(self.validator.examples())))
        self.trackers.image(self.step, "val/recon/examples", path)

    def save(self) -> Path:
        """Writes ``step_<n>.pt``, from which training can go on, and deletes those that are too old."""
        path = step_path(self.out, self.step)
        state = self.training_state()
        if distributed.is_main():
            save_checkpoint(
                path, self.model, self.config, split=self.split, step=self.step, metrics=self.best, training=state
            )
            prune(self.out, self.config.training.keep_last)
        return path

    def training_state(self) -> dict[str, Any]:
        """All that a step depends on beside the weights, as plain values and tensors.

        The batches are not in it: they depend on the seed and the step alone.
        """
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": distributed.gathered_objects(rng_state(self.device)),
            "elapsed": self.clock.elapsed(),
            "non_finite": self.non_finite.state_dict(),
            "collapse": self.collapse.state_dict(),
            "best": self.best,
            "fingerprint": self.fingerprint,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`training_state`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.non_finite.load_state_dict(state["non_finite"])
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
            f"go on with `lapa train --resume training.out={self.config.training.out}`",
            received,
        )

    def summary(self) -> TrainingSummary:
        """What the run has come to."""
        seconds = self.clock.elapsed()
        warnings = []
        if self.best and self.best["val/recon/psnr_db"] <= self.best["val/recon/copy_psnr_db"]:
            warnings.append(
                f"the model draws held-out frames no better ({self.best['val/recon/psnr_db']:.1f} dB) than copying the "
                f"current one does ({self.best['val/recon/copy_psnr_db']:.1f} dB): train longer, or look at examples/"
            )
        if self.collapse.warned_at is not None:
            warnings.append(f"the codebook had collapsed at step {self.collapse.warned_at}")
        if self.non_finite.total:
            warnings.append(f"{self.non_finite.total} step(s) were skipped: loss or gradient not finite")
        return TrainingSummary(
            best=self.out / "best.pt",
            last=step_path(self.out, self.step),
            steps=self.step,
            seconds=seconds,
            pairs_per_second=self.step * self.config.training.batch_size / seconds,
            metrics=self.best,
            warnings=warnings,
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def synchronized(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[Any]:
    """Lets ranks exchange gradients in the last micro-batch of a step alone."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()


def restore_buffers(model: nn.Module, buffers: list[Tensor]) -> None:
    """Puts back what :meth:`torch.nn.Module.buffers` held."""
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)


def training_bar(options: TrainingConfig, clock: Clock, step: int) -> tqdm[Any]:
    """Counts steps, or the share of the time where there is a limit."""
    if not clock.counts_time:
        return progress_bar(total=options.steps, initial=step, desc="train", unit="step")
    return progress_bar(
        total=100, desc="train", unit="%", bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    )


def update_bar(bar: tqdm[Any], clock: Clock, step: int, logged: dict[str, float]) -> None:
    """Shows loss, PSNR and perplexity."""
    done = 100 * clock.progress(step) if clock.counts_time else step
    bar.update(done - bar.n)
    bar.set_postfix_str(
        f"step {step}, loss {logged['train/loss/total']:.4f}, PSNR {logged['train/recon/psnr_db']:.1f} dB, "
        f"perplexity {logged.get('train/quantizer/perplexity', math.nan):.0f}, "
        f"{logged['train/speed/pairs_per_s']:.0f} pairs/s",
        refresh=False,
    )


def _silence(message: str) -> None:
    """What ranks other than the first have to say."""
