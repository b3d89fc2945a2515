"""The whole judgement of a trained model on held-out episodes, as one dict of figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lapa.checkpoint import Checkpoint
from lapa.data.frames import to_float
from lapa.data.pairs import PairDataset
from lapa.data.store import FrameStore, StoredEpisode
from lapa.errors import DataError
from lapa.evaluation import breakout
from lapa.evaluation.codebook import codebook_metrics
from lapa.evaluation.pictures import Example
from lapa.evaluation.probe import ProbeData, probe_metrics
from lapa.evaluation.reconstruction import ReconstructionError, mean_ssim
from lapa.extraction import check_format, label_pairs
from lapa.labelling import Labeller
from lapa.model import LatentActionModel
from lapa.progress import notify as print_line
from lapa.progress import progress_bar

METRICS_FILE = "metrics.json"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        metrics: ``group/name`` -> figure.
        left_out: one sentence for each part that the recording could not support.
        code_counts: (K,) how often each code was used.
        examples: pairs for pictures, spread over the split.
        episodes: names of the episodes judged.
    """

    metrics: dict[str, float]
    left_out: list[str]
    code_counts: np.ndarray
    examples: list[Example]
    episodes: list[str]


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """All pairs of a split, as the model sees and draws them; (N, C, H, W) float in [0, 1]."""

    current: np.ndarray
    next: np.ndarray
    prediction: np.ndarray
    codes: np.ndarray  # (N, h, w)


def evaluate(
    checkpoint: Checkpoint,
    store: FrameStore,
    split: str = "test",
    *,
    batch_size: int = 64,
    num_examples: int = 8,
    notify: Callable[[str], None] = print_line,
) -> Evaluation:
    """Judges a checkpoint on one split of the episodes it was trained on.

    Episodes that the checkpoint has never heard of count as held out: on a recording made later, all of it is judged.

    Raises:
        CheckpointError: the checkpoint does not fit the frames.
        DataError: the split holds no episodes of this store.
    """
    format = check_format(checkpoint, store.frame_size)
    episodes = episodes_of(checkpoint, store, split)
    pairs = PairDataset(store, episodes, format)
    started = time.monotonic()
    done = reconstruct(checkpoint.model, pairs, batch_size)
    seconds = time.monotonic() - started
    metrics = {"speed/pairs_per_second": len(pairs) / seconds}
    left_out: list[str] = []

    metrics |= named("recon", reconstruction_metrics(checkpoint.model, pairs, done, batch_size))
    num_codes = checkpoint.model.quantizer.num_codes
    assert num_codes is not None
    metrics |= named("codebook", codebook_metrics(done.codes, num_codes))

    if all(breakout.is_breakout(e.truth, store.frame_size) and e.truth.ram is not None for e in episodes):
        if format.downsample <= breakout.MAX_DOWNSAMPLE:
            state = breakout.screen_state(np.concatenate([rams(e)[1] for e in episodes]))
            luma = {name: breakout.to_luma(getattr(done, name)) for name in ("prediction", "current", "next")}
            elements = breakout.element_metrics(**luma, truth=state, downsample=format.downsample)
            metrics |= named("elements", elements)
        else:
            left_out.append(f"ball, paddle and bricks: too small after {format.downsample}-fold downsampling")
    else:
        left_out.append("ball, paddle and bricks: the recording is not Breakout with the console's memory")

    train_episodes = [e for e in store.episodes if e.name in set(checkpoint.split.get("train", []))]
    known = [e for e in (*train_episodes, *episodes) if e.truth.actions is not None]
    if not train_episodes or len(known) < len(train_episodes) + len(episodes):
        left_out.append("action probe: the recording does not tell the true actions")
    else:
        notify("fitting the action probe")
        labeller = Labeller(checkpoint.model)
        train_codes = np.concatenate(list(label_pairs(labeller, PairDataset(store, train_episodes, format))))
        fitted = probe_data(train_episodes, train_codes, store.frame_size)
        metrics |= named("probe", probe_metrics(fitted, probe_data(episodes, done.codes, store.frame_size), num_codes))

    return Evaluation(
        metrics=metrics,
        left_out=left_out,
        code_counts=np.bincount(done.codes.ravel(), minlength=num_codes),
        examples=pick_examples(done, pairs, num_examples),
        episodes=[episode.name for episode in episodes],
    )


def episodes_of(checkpoint: Checkpoint, store: FrameStore, split: str) -> list[StoredEpisode]:
    """The store's episodes in a split, or all of them if the checkpoint knows none.

    Raises:
        DataError: some are known, but none is in the split.
    """
    known = {name for names in checkpoint.split.values() for name in names}
    if not any(episode.name in known for episode in store.episodes):
        return store.episodes
    chosen = [episode for episode in store.episodes if episode.name in checkpoint.split.get(split, [])]
    if not chosen:
        raise DataError(f"{store.path}: holds no episode of the split '{split}' of {checkpoint.path}")
    return chosen


@torch.inference_mode()
def reconstruct(model: LatentActionModel, pairs: PairDataset, batch_size: int) -> Reconstructed:
    """Labels and redraws every pair."""
    labeller = Labeller(model)
    device = labeller.device
    parts: list[tuple[Tensor, ...]] = []
    with progress_bar(total=len(pairs), desc="evaluate", unit="pair") as bar:
        for first in range(0, len(pairs), batch_size):
            pair = pairs[range(first, min(first + batch_size, len(pairs)))].to(device)
            codes = labeller(pair.current, pair.next)
            prediction = model.decode(to_float(pair.current), codes).clamp(0, 1)
            parts.append((to_float(pair.current).cpu(), to_float(pair.next).cpu(), prediction.cpu(), codes.cpu()))
            bar.update(len(codes))
    return Reconstructed(*(torch.cat(column).numpy() for column in zip(*parts, strict=True)))


@torch.inference_mode()
def reconstruction_metrics(
    model: LatentActionModel, pairs: PairDataset, done: Reconstructed, batch_size: int
) -> dict[str, float]:
    """Errors of the model, of copying the current frame, and of the model with the codes of other pairs."""
    device = next(model.parameters()).device
    shuffled_codes = done.codes[np.random.default_rng(0).permutation(len(done.codes))]
    sums = {"": ReconstructionError(), "copy_": ReconstructionError(), "shuffled_": ReconstructionError()}
    for first in range(0, len(pairs), batch_size):
        rows = slice(first, first + batch_size)
        current, following = torch.from_numpy(done.current[rows]), torch.from_numpy(done.next[rows])
        wrong = torch.from_numpy(shuffled_codes[rows]).to(device)
        sums[""].add(torch.from_numpy(done.prediction[rows]), current, following)
        sums["copy_"].add(current, current, following)
        sums["shuffled_"].add(model.decode(current.to(device), wrong).cpu(), current, following)
    metrics = {prefix + name: value for prefix, s in sums.items() for name, value in s.metrics().items()}
    metrics["gain_over_copy_db"] = metrics["psnr_db"] - metrics["copy_psnr_db"]
    metrics["shuffled_drop_db"] = metrics["psnr_db"] - metrics["shuffled_psnr_db"]
    metrics["ssim"] = mean_ssim(done.prediction, done.next)
    metrics["copy_ssim"] = mean_ssim(done.current, done.next)
    return metrics


def probe_data(episodes: list[StoredEpisode], codes: np.ndarray, frame_size: tuple[int, int]) -> ProbeData:
    """Codes, true actions, and in Breakout the paddle's place before and after."""
    actions, states = [], []
    for episode in episodes:
        taken = episode.actions(episode.pair_starts())
        if breakout.is_breakout(episode.truth, frame_size):
            taken = breakout.action_classes(taken, episode.truth.meta["action_meanings"])
            if episode.truth.ram is not None:
                before, after = (breakout.screen_state(ram).paddle for ram in rams(episode))
                states.append(np.stack([before, after, after - before], axis=1))
        actions.append(taken)
    state = np.concatenate(states) if len(states) == len(episodes) else None
    return ProbeData(codes, np.concatenate(actions), state)


def rams(episode: StoredEpisode) -> tuple[np.ndarray, np.ndarray]:
    """The console's memory at the first and at the second frame of each pair, (P, bytes) uint8 each."""
    assert episode.truth.ram is not None
    rows = episode.step_rows(episode.pair_starts())
    return episode.truth.ram[rows], episode.truth.ram[rows + 1]


def pick_examples(done: Reconstructed, pairs: PairDataset, count: int) -> list[Example]:
    """Pairs at even distances over the split; no choice by quality."""
    chosen = np.linspace(0, len(pairs) - 1, count + 2).round().astype(int)[1:-1]
    return [
        Example(done.current[i], done.next[i], done.prediction[i], pairs.where(int(i)))
        for i in np.unique(chosen).tolist()
    ]


def named(group: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics with their group's name before them."""
    return {f"{group}/{name}": value for name, value in metrics.items()}
