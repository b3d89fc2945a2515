"""The whole judgement of a trained model on held-out episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lapa.data.clips import ClipDataset
from lapa.data.splits import SPLITS, evenly_spaced
from lapa.data.store import FrameStore, StoredEpisode
from lapa.engine.checkpoint import Checkpoint, check_format
from lapa.errors import DataError
from lapa.evaluation.codes import CodeJudgement, judge_codes, named
from lapa.evaluation.drawing import Drawn, draw, figures_by_episode, reconstruction_metrics, spread
from lapa.evaluation.verdicts import Verdict, verdicts
from lapa.games.breakout.detectors import to_luma
from lapa.games.breakout.elements import element_metrics
from lapa.games.breakout.screen import MAX_DOWNSAMPLE, is_breakout, rams, screen_state
from lapa.progress import notify as print_line
from lapa.systems.latent_action.model import LatentActionModel

ELSEWHERE_PAIRS = 256
"""At most so many pairs, at even distances, are looked at in the splits that are not judged but stand beside."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        metrics: ``group/name`` -> figure.
        verdicts: what they come to.
        left_out: one sentence for each part that the recording or the model could not support.
        split: name of the judged split.
        episodes: names of the episodes judged.
        splits: reconstruction figures by split.
        by_episode: reconstruction figures by judged episode.
        drawn: the judged pairs.
        codes: None when the latent is continuous.
    """

    metrics: dict[str, float]
    verdicts: list[Verdict]
    left_out: list[str]
    split: str
    episodes: list[str]
    splits: dict[str, dict[str, float]]
    by_episode: dict[str, dict[str, float]]
    drawn: Drawn
    codes: CodeJudgement | None


def evaluate(
    checkpoint: Checkpoint,
    store: FrameStore,
    split: str = "test",
    *,
    lag: int = 0,
    batch_size: int = 64,
    notify: Callable[[str], None] = print_line,
) -> Evaluation:
    """Judges a checkpoint on one split of the episodes it was trained on.

    Episodes that the checkpoint has never heard of count as held out: on a recording made later, all of it is judged.

    Args:
        checkpoint: the trained model.
        store: the recording.
        split: ``train``, ``val`` or ``test``.
        lag: the probe reads the action taken so many steps before the pair.
        batch_size: pairs in a forward pass.
        notify: told in one line each what takes long.

    Raises:
        CheckpointError: the checkpoint does not fit the frames.
        DataError: the split holds no episodes of this store, or the lag leaves none.
    """
    model, format = checkpoint.model, check_format(checkpoint, store.frame_size)
    assert isinstance(model, LatentActionModel)
    parts = split_of(checkpoint, store) or {split: store.episodes}
    episodes, learnt = parts.get(split, []), parts.get("train", [])
    if not episodes:
        raise DataError(f"{store.path}: holds no episode of the split '{split}' of {checkpoint.path}")
    pairs = ClipDataset(store, episodes, format)
    pairs.keep_on(torch.device("cpu"))
    mean_frame = (ClipDataset(store, learnt, format) if learnt else pairs).mean_frame()
    drawn = draw(model, pairs, mean_frame, batch_size)

    left_out: list[str] = []
    by_episode = figures_by_episode(drawn, episodes)
    splits = {split: reconstruction_metrics(drawn.errors)}
    for name in parts.keys() - {split}:
        beside = ClipDataset(store, parts[name], format)
        rows = evenly_spaced(len(beside), ELSEWHERE_PAIRS)
        splits[name] = reconstruction_metrics(draw(model, beside, mean_frame, batch_size, rows).errors)
    metrics = {
        "speed/pairs_per_second": len(pairs) / drawn.seconds,
        **named("recon", splits[split] | spread(by_episode)),
    }
    if not all(is_breakout(episode.tracks, store.frame_size) for episode in episodes):
        left_out.append("ball, paddle, bricks and digits: the recording is not Breakout at full size")
    elif any(episode.tracks.ram is None for episode in episodes):
        left_out.append("ball, paddle, bricks and digits: the recording does not tell the console's memory")
    elif format.downsample > MAX_DOWNSAMPLE:
        left_out.append(f"ball, paddle, bricks and digits: too small after {format.downsample}-fold downsampling")
    else:
        metrics |= named("elements", judge_elements(drawn, episodes))

    codes = None
    if drawn.codes is None:
        left_out.append("codes, events, actions and control: the model's latent is continuous")
    else:
        codes, found, missing = judge_codes(model, store, drawn, episodes, learnt, lag, batch_size, notify)
        metrics |= found
        left_out += missing
    return Evaluation(
        metrics=metrics,
        verdicts=verdicts(metrics),
        left_out=left_out,
        split=split,
        episodes=[episode.name for episode in episodes],
        splits={name: splits[name] for name in SPLITS if name in splits},
        by_episode=by_episode,
        drawn=drawn,
        codes=codes,
    )


def split_of(checkpoint: Checkpoint, store: FrameStore) -> dict[str, list[StoredEpisode]]:
    """The store's episodes by the checkpoint's splits, without empty ones; empty if it knows none of them."""
    dealt = {
        name: [episode for episode in store.episodes if episode.name in set(checkpoint.split.get(name, []))]
        for name in SPLITS
    }
    return {name: episodes for name, episodes in dealt.items() if episodes}


def judge_elements(drawn: Drawn, episodes: Sequence[StoredEpisode]) -> dict[str, float]:
    """Ball, paddle, bricks and digits in the drawn frames."""
    before, after = (screen_state(np.concatenate(rows)) for rows in zip(*(map(rams, episodes)), strict=True))
    current = drawn.pairs[np.arange(len(drawn.pairs))].current.numpy()
    prediction, copied = (to_luma(frames.astype(np.float32) / 255) for frames in (drawn.predictions, current))
    return element_metrics(prediction, copied, before, after, drawn.pairs.format.downsample)
