"""What the codes of a model say: use, control, events, actions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.splits import evenly_spaced
from lapa.data.store import FrameStore, StoredEpisode
from lapa.errors import DataError
from lapa.evaluation.association import Association, associate
from lapa.evaluation.control import Counterfactual, controllability, counterfactual
from lapa.evaluation.drawing import Drawn, batches
from lapa.evaluation.probe import ProbeData, ProbeResult, probe_actions
from lapa.evaluation.reading import event_reading_metrics, fit_reader
from lapa.games.breakout.events import EVENTS, episode_events
from lapa.games.breakout.screen import ACTION_CLASSES, action_classes, is_breakout, rams, screen_state
from lapa.inference.labelling import Labeller
from lapa.inference.reading import CodeReader
from lapa.metrics.codes import CodeUse, code_names, code_use
from lapa.progress import progress_bar
from lapa.systems.latent_action.model import LatentActionModel

FIT_PAIRS = 20_000
"""Probes are fitted on whole training episodes, until there are so many pairs."""

KEPT_BYTES = 2**31
"""Frames to fit on stay in memory if they are no larger together: they are looked at twice."""

OBSERVATION_SIZE = 20
"""The longer side of the current frame as the observation-only probe sees it, in pixels."""

COUNTERFACTUAL_CODES = 8

COUNTERFACTUAL_FRAMES = 3


@dataclasses.dataclass(frozen=True)
class CodeEvents:
    """Codes against events.

    Attributes:
        names: the events.
        code_names: of the n K codes, as :meth:`lapa.contracts.Quantizer.distinct` numbers them.
        happens: (P, E) bool, on the judged pairs.
        chosen_on: on training episodes, from which top codes are chosen; the same as ``judged`` if there are none.
        judged: on the judged pairs, from which their figures come.
    """

    names: Sequence[str]
    code_names: Sequence[str]
    happens: np.ndarray
    chosen_on: Association
    judged: Association


@dataclasses.dataclass(frozen=True)
class CodeJudgement:
    """What was found of the codes.

    Attributes:
        codes: (P, h, w * n), those of the judged pairs, the n codes of a place told apart.
        names: (n K,) of the codes.
        use: how often each stands where.
        vectors: (n K, D), their latents.
        centres: (h, w, 2), the pixel (x, y) about which each place of the grid looks; None where every place sees all.
        events: codes against events, where the recording shows any.
        probe: what they tell of the true action, where the recording has it.
        action_names: of the probe's classes.
        reader: what it takes to read actions and events from the codes of any transition.
        counterfactuals: some frames under other codes.
    """

    codes: np.ndarray
    names: Sequence[str]
    use: CodeUse
    vectors: np.ndarray
    centres: np.ndarray | None
    events: CodeEvents | None
    probe: ProbeResult | None
    action_names: list[str]
    reader: CodeReader
    counterfactuals: list[Counterfactual]


def judge_codes(
    model: LatentActionModel,
    store: FrameStore,
    drawn: Drawn,
    episodes: Sequence[StoredEpisode],
    learnt: Sequence[StoredEpisode],
    lag: int,
    batch_size: int,
    notify: Callable[[str], None],
) -> tuple[CodeJudgement, dict[str, float], list[str]]:
    """The judgement of the codes, its figures, and what was left out."""
    codes = drawn.codes
    num_codes = model.quantizer.num_codes
    assert codes is not None
    assert num_codes is not None
    per_place, number = model.quantizer.codes_per_place, model.quantizer.num_distinct
    told_apart, names_of_codes = distinct(model, codes), code_names(num_codes, per_place)
    use = code_use(told_apart, number, per_place)
    notify("rolling the decoder out under true, shuffled and random codes")
    metrics = named("codebook", use.metrics()) | named("control", controllability(model, drawn.pairs, codes))
    left_out = []

    fitted = fitting_pairs(store, learnt, drawn.pairs)
    fitted_codes = label_all(model, fitted, batch_size) if fitted else None
    events, seen = None, None
    if all(is_breakout(episode.tracks, store.frame_size) for episode in episodes):
        notify("finding events")
        happens = np.concatenate([episode_events(store, episode) for episode in episodes])
        judged = associate(told_apart, happens, number)
        chosen_on = judged
        if fitted is not None and fitted_codes is not None:
            seen = np.concatenate([episode_events(store, episode) for episode in fitted.episodes])
            chosen_on = associate(distinct(model, fitted_codes), seen, number)
        events = CodeEvents(EVENTS, names_of_codes, happens, chosen_on, judged)
    else:
        left_out.append("events: the recording is not Breakout at full size")

    probe, names, fitted_actions = None, [], None
    if fitted is None or fitted_codes is None:
        left_out.append("actions: the recording has none of the training episodes, on which probes are fitted")
    elif any(episode.tracks.actions is None for episode in (*fitted.episodes, *episodes)):
        left_out.append("actions: the recording does not tell the true actions")
    else:
        notify("fitting the probes of the action")
        seen_data, asked_data = probe_data(fitted, fitted_codes, lag), probe_data(drawn.pairs, codes, lag)
        if not len(seen_data) or not len(asked_data):
            raise DataError(f"lag {lag}: no pair has an action so many steps before it; take a smaller one")
        probe = probe_actions(seen_data, asked_data, num_codes)
        metrics |= named("probe", probe.metrics)
        if lag == 0:
            fitted_actions = np.searchsorted(probe.classes, seen_data.actions)
        names = [action_name(int(label), episodes, store.frame_size) for label in probe.classes]
    known = seen is not None or fitted_actions is not None
    reader = fit_reader(
        fitted_codes if known and fitted_codes is not None else codes, num_codes, fitted_actions, names, seen, EVENTS
    )
    if events is not None and seen is not None:
        metrics |= named("reading", event_reading_metrics(reader, codes, events.happens, EVENTS))
    judgement = CodeJudgement(
        codes=told_apart,
        names=names_of_codes,
        use=use,
        vectors=code_vectors(model, num_codes),
        centres=place_centres(model, drawn.pairs),
        events=events,
        probe=probe,
        action_names=names,
        reader=reader,
        counterfactuals=pick_counterfactuals(model, drawn, use, events),
    )
    return judgement, metrics, left_out


def distinct(model: LatentActionModel, codes: np.ndarray) -> np.ndarray:
    """(P, h, w * n), the codes of a place told apart."""
    told_apart: np.ndarray = model.quantizer.distinct(torch.from_numpy(codes)).numpy()
    return told_apart


def fitting_pairs(store: FrameStore, learnt: Sequence[StoredEpisode], like: ClipDataset) -> ClipDataset | None:
    """The pairs of training episodes until there are enough; None if there are no such episodes."""
    chosen, count = [], 0
    for episode in learnt:
        if count < FIT_PAIRS:
            chosen.append(episode)
            count += len(episode.clip_starts())
    if not chosen:
        return None
    pairs = ClipDataset(store, chosen, like.format)
    if pairs.frame_bytes < KEPT_BYTES:
        pairs.keep_on(torch.device("cpu"))
    return pairs


def label_all(model: LatentActionModel, pairs: ClipDataset, batch_size: int) -> np.ndarray:
    """(P, h, w) codes of all pairs."""
    labeller = Labeller(model)
    parts = []
    with progress_bar(total=len(pairs), desc="label training episodes", unit="pair") as bar:
        for batch, _ in batches(pairs, batch_size, np.arange(len(pairs))):
            parts.append(labeller(batch.current, batch.next).cpu())
            bar.update(len(batch))
    return torch.cat(parts).numpy()


def code_vectors(model: LatentActionModel, num_codes: int) -> np.ndarray:
    """(n K, D), the latent of each code; where a place has several, beside the first ones of the others."""
    device = next(model.parameters()).device
    per_place = model.quantizer.codes_per_place
    number = torch.arange(num_codes * per_place, device=device)
    codes = torch.zeros(len(number), 1, per_place, dtype=torch.int64, device=device)
    codes[number, 0, number // num_codes] = number % num_codes
    with torch.inference_mode():
        latent = model.quantizer.codes_to_latent(codes)
    return latent.flatten(1).float().cpu().numpy()


def place_centres(model: LatentActionModel, pairs: ClipDataset) -> np.ndarray | None:
    """(h, w, 2), the pixel (x, y) about which each place of the grid looks; None for pooled tokens, which see all.

    Measured, since encoders are strangers: the centre of mass of the gradient of the place's latent.
    """
    if model.pool is not None:
        return None
    device = next(model.parameters()).device
    clips = pairs[[0]]
    frames = [to_float(frame).to(device).requires_grad_() for frame in (clips.current, clips.next)]
    latent = model.encode(*frames)
    height, width = model.grid
    centres = np.zeros((height, width, 2))
    for row, column in np.ndindex(height, width):
        place = latent[0, :, row, column].square().sum()
        gradients = torch.autograd.grad(place, frames, retain_graph=True, allow_unused=True)
        weight = sum(gradient[0].abs().sum(0) for gradient in gradients if gradient is not None)
        assert isinstance(weight, Tensor)
        total = weight.sum().clamp_min(1e-20)
        centres[row, column] = [
            float((weight.sum(axis) * (torch.arange(size, device=device) + 0.5)).sum() / total)
            for axis, size in ((0, weight.shape[1]), (1, weight.shape[0]))
        ]
    return centres


def probe_data(pairs: ClipDataset, codes: np.ndarray, lag: int) -> ProbeData:
    """Codes, the actions taken ``lag`` steps before, and what can be known without codes."""
    actions, states, before, keep = [], [], [], []
    for episode in pairs.episodes:
        assert episode.tracks.actions is not None
        rows = episode.step_rows(episode.clip_starts())
        known = (rows >= lag) & (rows - lag < len(episode.tracks.actions))
        taken = episode.tracks.actions[np.where(known, rows - lag, 0)].astype(np.int64)
        if is_breakout(episode.tracks, pairs.store.frame_size):
            taken = action_classes(taken, episode.tracks.meta["action_meanings"])
            if episode.tracks.ram is not None:
                first, second = (screen_state(memory) for memory in rams(episode))
                states.append(np.stack([first.paddle, second.paddle, second.paddle - first.paddle], axis=1))
                before.append(np.column_stack([first.paddle, first.ball, first.ball_away]))
        actions.append(taken)
        keep.append(known)
    kept = np.concatenate(keep)
    has_state = len(states) == len(pairs.episodes)
    observation = np.concatenate(before) if has_state else small_frames(pairs)
    return ProbeData(
        codes[kept],
        np.concatenate(actions)[kept],
        observation[kept],
        np.concatenate(states)[kept] if has_state else None,
    )


def small_frames(pairs: ClipDataset) -> np.ndarray:
    """(P, O) float, each current frame made small."""
    height, width = pairs.format.size
    scale = max(height, width) / OBSERVATION_SIZE
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    parts = [
        F.adaptive_avg_pool2d(to_float(batch.current), size).flatten(1).numpy()
        for batch, _ in batches(pairs, 256, np.arange(len(pairs)))
    ]
    return np.concatenate(parts)


def action_name(label: int, episodes: Sequence[StoredEpisode], frame_size: tuple[int, int]) -> str:
    """What a probe's class is called."""
    if all(is_breakout(episode.tracks, frame_size) for episode in episodes):
        return ACTION_CLASSES[label]
    meanings = episodes[0].tracks.meta.get("action_meanings", [])
    return str(meanings[label]) if label < len(meanings) else str(label)


def pick_counterfactuals(
    model: LatentActionModel, drawn: Drawn, use: CodeUse, events: CodeEvents | None
) -> list[Counterfactual]:
    """Some frames, at even distances, under the top code of each event and then under the most frequent ones."""
    assert drawn.codes is not None
    tried = (
        [code for event in range(len(events.names)) for code in events.chosen_on.top_codes(event, 1)] if events else []
    )
    tried += [int(code) for code in np.argsort(-use.totals, kind="stable")]
    tried = [code for code in dict.fromkeys(tried) if use.totals[code]][:COUNTERFACTUAL_CODES]
    rows = evenly_spaced(len(drawn.pairs), COUNTERFACTUAL_FRAMES + 2)[1:-1]
    return [counterfactual(model, drawn.pairs, int(row), drawn.codes, tried, use.counts) for row in rows]


def named(group: str, metrics: dict[str, float]) -> dict[str, float]:
    """The metrics with their group's name before them."""
    return {f"{group}/{name}": value for name, value in metrics.items()}
