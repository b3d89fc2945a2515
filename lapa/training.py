"""Training, as one flat loop: batch, loss, backward, clip, step; then what is due at this step."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lapa.checkpoint import save_checkpoint
from lapa.config import Config, TrainingConfig, to_yaml
from lapa.data.files import write_text
from lapa.data.frames import FrameFormat, to_float
from lapa.data.pairs import PairDataset, Pairs, PairSampler, split_episodes
from lapa.data.store import FrameStore
from lapa.device import autocast, pick_device, set_cpu_arithmetic
from lapa.errors import ConfigError, TrainingError
from lapa.evaluation.reconstruction import psnr_db, squared_errors
from lapa.losses import loss_terms, loss_weights, weighted_sum
from lapa.model import LatentActionModel
from lapa.progress import notify as print_line
from lapa.progress import progress_bar
from lapa.tracking import JsonlTracker

MAX_NON_FINITE = 10
"""So many steps in a row with a loss or gradient that is not finite end the run."""


@dataclasses.dataclass(frozen=True)
class TrainingSummary:
    """What a run leaves behind.

    Attributes:
        best: the checkpoint with the lowest validation error.
        steps: optimizer steps taken.
        seconds: they took, validation included.
        pairs_per_second: trained on, validation included.
        metrics: of the best checkpoint.
    """

    best: Path
    steps: int
    seconds: float
    pairs_per_second: float
    metrics: dict[str, float]


def train(config: Config, store: FrameStore, notify: Callable[[str], None] = print_line) -> TrainingSummary:
    """Trains a model on the store's training episodes.

    Writes into ``config.training.out``: ``config.yaml``, ``split.json`` (episode names), ``metrics.jsonl``,
    ``best.pt`` (lowest validation error) and ``step_<n>.pt`` (with the optimizer's state).

    Raises:
        ConfigError: an option does not fit the data or the machine.
        DataError: too few episodes.
        TrainingError: the loss stays infinite or NaN.
    """
    options = config.training
    seed_everything(options.seed)
    set_cpu_arithmetic()
    device = pick_device(options.device)
    layout = torch.channels_last if options.channels_last else torch.contiguous_format

    format = FrameFormat(*store.frame_size, config.data.color, config.data.downsample)
    split = split_episodes([episode.name for episode in store.episodes], config.data.split, config.data.split_seed)
    train_set = make_dataset(store, split["train"], format, preload=config.data.preload)
    val_set = make_dataset(store, split["val"], format, preload=config.data.preload)
    sampler = PairSampler(len(train_set), options.batch_size, options.seed)

    model = make_model(config, format)
    if model.decoder.mean_frame is not None:
        model.decoder.mean_frame.copy_(train_set.mean_frame())
    model.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, options)
    weights = loss_weights(config.loss)

    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", to_yaml(config))
    write_text(out / "split.json", json.dumps(split, indent=2) + "\n")
    notify(
        f"training {count_parameters(model):,} parameters on {device}: {len(train_set)} pairs of "
        f"{len(split['train'])} episodes; validating on {len(val_set)} pairs of {len(split['val'])}"
    )

    clock = Clock(options)
    best = math.inf
    best_metrics: dict[str, float] = {}
    non_finite = 0
    step = 0
    with JsonlTracker(out / "metrics.jsonl") as tracker, training_bar(options) as bar:
        for batch in batches(train_set, sampler, options.num_workers):
            progress = clock.progress(step)
            set_learning_rate(optimizer, options, progress)
            pair = batch.to(device)
            current, next = to_float(pair.current), to_float(pair.next)

            buffers = [buffer.clone() for buffer in model.buffers()]
            with autocast(device, options.precision):
                output = model(current, next)
            terms = loss_terms(output, current, next, config.loss, progress)
            loss = weighted_sum(terms, weights)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
            step += 1

            if is_finite(loss, norm):
                optimizer.step()
                non_finite = 0
            else:
                # The forward pass has spoilt the running statistics already.
                restore_buffers(model, buffers)
                non_finite += 1
                stop_if_hopeless(non_finite, step, out / "best.pt" if best < math.inf else None)

            done = clock.is_over(step)
            if is_due(step, options.reseed_every) and progress < options.reseed_until and not non_finite:
                model.quantizer.reseed_unused(output.encoding.detach())
            if is_due(step, options.log_every) or done:
                logged = training_metrics(terms, output.quantized.metrics, norm, optimizer)
                logged["train/recon/psnr_db"] = psnr_db(squared_errors(output.prediction.detach(), next).mean())
                tracker.log(step, logged)
                update_bar(bar, clock, step, logged)
            if is_due(step, options.validate_every) or done:
                metrics = validate(model, val_set, options)
                tracker.log(step, metrics)
                if metrics["val/recon/mse"] < best:
                    best, best_metrics = metrics["val/recon/mse"], metrics
                    save_checkpoint(out / "best.pt", model, config, split=split, step=step, metrics=metrics)
            if is_due(step, options.checkpoint_every):
                path = out / f"step_{step}.pt"
                save_checkpoint(path, model, config, split=split, step=step, metrics=best_metrics, optimizer=optimizer)
            if done:
                break
    seconds = clock.elapsed()
    return TrainingSummary(out / "best.pt", step, seconds, step * options.batch_size / seconds, best_metrics)


class Clock:
    """Measures progress by steps, or by time where the time limit comes first, so that schedules always finish."""

    def __init__(self, options: TrainingConfig) -> None:
        self.steps = options.steps
        self.limit = math.inf if options.max_minutes is None else 60 * options.max_minutes
        self.started = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """Share of the training that is done, in [0, 1]."""
        return min(1.0, max(step / self.steps, self.elapsed() / self.limit))

    def is_over(self, step: int) -> bool:
        """Whether the last step is done."""
        return step >= self.steps or self.elapsed() >= self.limit


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_model(config: Config, format: FrameFormat) -> LatentActionModel:
    """The model of a configuration, for frames of a format.

    Raises:
        ConfigError: the frames are too small for so many halvings.
    """
    if min(format.size) < 8:
        raise ConfigError(
            f"data.downsample: {config.data.downsample} leaves frames of {format.size[0]} x {format.size[1]}; lower it"
        )
    return LatentActionModel(config.model, format)


def make_dataset(store: FrameStore, names: list[str], format: FrameFormat, *, preload: bool) -> PairDataset:
    """The pairs of the named episodes."""
    chosen = set(names)
    return PairDataset(store, [e for e in store.episodes if e.name in chosen], format, preload=preload)


def make_optimizer(model: LatentActionModel, options: TrainingConfig) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), as one fused kernel."""
    return torch.optim.Adam(model.parameters(), lr=options.learning_rate, fused=True)


def batches(dataset: PairDataset, sampler: PairSampler, num_workers: int) -> Iterator[Pairs]:
    """Endless training batches."""
    return iter(DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=num_workers))


def set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainingConfig, progress: float) -> None:
    """Rises linearly over the warm-up, then follows a cosine from the first to the final rate."""
    if progress < options.warmup:
        rate = options.learning_rate * max(progress, 1e-3) / options.warmup
    else:
        share = (progress - options.warmup) / (1 - options.warmup)
        span = options.learning_rate - options.final_learning_rate
        rate = options.final_learning_rate + span * (1 + math.cos(math.pi * share)) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate


def is_finite(loss: Tensor, norm: Tensor) -> bool:
    """Whether this step may change the weights."""
    return bool(torch.isfinite(loss) & torch.isfinite(norm))


def restore_buffers(model: LatentActionModel, buffers: list[Tensor]) -> None:
    """Puts back what :meth:`torch.nn.Module.buffers` held."""
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)


def stop_if_hopeless(non_finite: int, step: int, best: Path | None) -> None:
    """Ends a run whose loss stays infinite or NaN.

    Raises:
        TrainingError: after :data:`MAX_NON_FINITE` such steps in a row.
    """
    if non_finite >= MAX_NON_FINITE:
        good = f"the last good checkpoint is {best}" if best else "no checkpoint was written yet"
        raise TrainingError(
            f"the loss or its gradient was not finite for {non_finite} steps, up to step {step}; {good}; "
            "lower training.learning_rate or set training.precision=fp32"
        )


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps is due."""
    return step % every == 0


def training_metrics(
    terms: dict[str, Tensor], quantizer: dict[str, Tensor], norm: Tensor, optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """One line of training metrics."""
    return {
        **{f"train/loss/{name}": float(term.detach()) for name, term in terms.items()},
        **{f"train/quantizer/{name}": float(value) for name, value in quantizer.items()},
        "train/optim/gradient_norm": float(norm),
        "train/optim/learning_rate": optimizer.param_groups[0]["lr"],
    }


@torch.inference_mode()
def validate(model: LatentActionModel, dataset: PairDataset, options: TrainingConfig) -> dict[str, float]:
    """Reconstruction error on held-out episodes beside that of copying the current frame."""
    device = next(model.parameters()).device
    model.eval()
    error, copy_error, used = 0.0, 0.0, set[int]()
    for first in range(0, len(dataset), options.batch_size):
        pair = dataset[range(first, min(first + options.batch_size, len(dataset)))].to(device)
        current, following = to_float(pair.current), to_float(pair.next)
        with autocast(device, options.precision):
            output = model(current, following)
        error += float(squared_errors(output.prediction, following).sum())
        copy_error += float(squared_errors(current, following).sum())
        if output.quantized.codes is not None:
            used.update(output.quantized.codes.unique().tolist())
    model.train()
    return {
        "val/recon/mse": error / len(dataset),
        "val/recon/psnr_db": psnr_db(error / len(dataset)),
        "val/recon/copy_psnr_db": psnr_db(copy_error / len(dataset)),
        "val/codebook/codes_used": float(len(used)),
    }


def training_bar(options: TrainingConfig) -> tqdm[Any]:
    """Counts steps, or seconds where there is a time limit."""
    if options.max_minutes is None:
        return progress_bar(total=options.steps, desc="train", unit="step")
    return progress_bar(
        total=100, desc="train", unit="%", bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
    )


def update_bar(bar: tqdm[Any], clock: Clock, step: int, logged: dict[str, float]) -> None:
    """Shows loss, PSNR and codes in use."""
    done = step if bar.total == clock.steps else 100 * clock.progress(step)
    bar.update(done - bar.n)
    bar.set_postfix_str(
        f"step {step}, loss {logged['train/loss/reconstruction']:.4f}, PSNR {logged['train/recon/psnr_db']:.1f} dB, "
        f"codes {logged.get('train/quantizer/codes_used', math.nan):.0f}"
    )


def count_parameters(model: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
