"""What other codes do to what is drawn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.store import FrameStore, StoredEpisode
from lapa.engine.checkpoint import Checkpoint
from lapa.evaluation.control import BATCH, STEPS, TRIED_PLACES, controllability, counterfactual, run_starts
from lapa.inference.dreaming import before_last, rollout
from lapa.inference.labelling import label
from lapa.metrics.codes import code_use


class Scene:
    """A model's pairs and codes on one episode of 50 steps."""

    def __init__(self, checkpoint: Checkpoint, store: FrameStore) -> None:
        self.model = checkpoint.model
        self.episode = store.episodes[0]
        self.pairs = ClipDataset(store, [self.episode], self.model.format)
        raw = store.frames(range(self.episode.start, self.episode.stop))
        self.codes = label(self.model, raw[:-1], raw[1:]).numpy()


@pytest.fixture(scope="module")
def scene(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> Scene:
    return Scene(breakout_checkpoint, breakout_store)


def test_runs_stay_within_episodes_and_gaps() -> None:
    starts = np.array([0, 1, 2, 3, 5, 6, 7, 11])
    assert run_starts(starts, 1).tolist() == list(range(8))
    assert run_starts(starts, 3).tolist() == [0, 1, 4]
    assert run_starts(starts, 4).tolist() == [0]
    assert run_starts(starts, 9).tolist() == []


def test_a_rollout_feeds_its_own_pictures_back(scene: Scene) -> None:
    current = to_float(scene.pairs[[4]].current)
    codes = torch.from_numpy(scene.codes[4:7])
    with torch.inference_mode():
        picture = current
        for code in codes:
            picture = scene.model.decode(picture, code[None]).clamp(0, 1)
        torch.testing.assert_close(rollout(scene.model, before_last(scene.pairs[[4]], 1), codes[None]), picture)


def test_all_lengths_are_judged_and_one_step_is_what_the_decoder_draws(scene: Scene) -> None:
    metrics = controllability(scene.model, scene.pairs, scene.codes)
    for t in STEPS:
        for name in ("psnr_db", "copy_psnr_db", "shuffled_delta_psnr_db", "random_delta_psnr_db"):
            assert np.isfinite(metrics[f"{name}/t{t}"])
    everything = scene.pairs[np.arange(len(scene.pairs))]
    current, following = to_float(everything.current), to_float(everything.next)
    with torch.inference_mode():
        drawn = scene.model.decode(current, torch.from_numpy(scene.codes)).clamp(0, 1)
    error = (drawn - following).square().mean().item()
    assert metrics["psnr_db/t1"] == pytest.approx(-10 * np.log10(error), abs=1e-3)  # 50 pairs: all are started from


def test_a_decoder_that_ignores_the_codes_loses_nothing(scene: Scene) -> None:
    class Ignorant(nn.Module):
        def forward(self, current: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
            return 0.9 * current

    model = copy.deepcopy(scene.model)
    model.decoder = Ignorant()  # type: ignore[assignment]
    metrics = controllability(model, scene.pairs, scene.codes)
    deltas = [value for name, value in metrics.items() if "delta" in name]
    assert len(deltas) == 2 * len(STEPS)
    assert deltas == pytest.approx([0.0] * len(deltas), abs=1e-5)


def test_a_short_episode_has_short_rollouts_only(scene: Scene, breakout_store: FrameStore) -> None:
    whole = scene.episode
    short = StoredEpisode(whole.name, whole.start, whole.numbers[:7], whole.tracks)
    pairs = ClipDataset(breakout_store, [short], scene.model.format)
    metrics = controllability(scene.model, pairs, scene.codes[:6])
    assert "psnr_db/t4" in metrics
    assert "psnr_db/t8" not in metrics


def test_many_rollouts_at_once_are_those_one_by_one(scene: Scene) -> None:
    rows = np.arange(BATCH) % (len(scene.pairs) - 1)
    codes = torch.from_numpy(scene.codes[rows[:, None] + np.arange(2)])
    together = rollout(scene.model, before_last(scene.pairs[rows], 1), codes)
    assert len(together) == BATCH
    for i in (0, 1, BATCH - 1):
        alone = rollout(scene.model, before_last(scene.pairs[rows[[i]]], 1), codes[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_rollouts_are_judged_batch_by_batch(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = controllability(scene.model, scene.pairs, scene.codes)
    monkeypatch.setattr("lapa.evaluation.control.BATCH", 7)
    assert controllability(scene.model, scene.pairs, scene.codes) == pytest.approx(whole, abs=1e-3)


def test_a_counterfactual_puts_one_code_where_it_changes_most(scene: Scene) -> None:
    num_codes = scene.model.quantizer.num_codes
    assert num_codes is not None
    use = code_use(scene.codes, num_codes)
    tried = np.argsort(-use.totals)[:2].tolist()
    row = 3
    own = scene.codes[row].copy()
    found = counterfactual(scene.model, scene.pairs, row, scene.codes, tried, use.counts)
    np.testing.assert_array_equal(scene.codes[row], own)
    assert found.codes == tried
    current = to_float(scene.pairs[[row]].current)

    @torch.inference_mode()
    def drawn(grid: np.ndarray) -> np.ndarray:
        return scene.model.decode(current, torch.from_numpy(grid)[None])[0].clamp(0, 1).numpy()

    np.testing.assert_allclose(found.drawn, drawn(own), atol=1e-5)
    for code, place, picture in zip(tried, found.places, found.alternatives, strict=True):
        changes = {}
        for other in np.ndindex(*own.shape):
            grid = own.copy()
            grid[other] = code
            changes[other] = drawn(grid)
        np.testing.assert_allclose(picture, changes[place], atol=1e-5)
        frequent = np.sort(use.counts[:, :, code], axis=None)[::-1][:TRIED_PLACES].min()
        assert use.counts[(*place, code)] >= max(frequent, 1)
        size = {other: np.square(each - found.drawn).sum() for other, each in changes.items()}
        surely_tried = [other for other in size if use.counts[(*other, code)] > frequent]
        assert all(size[place] >= size[other] * (1 - 1e-4) - 1e-6 for other in surely_tried)
