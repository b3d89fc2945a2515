"""The whole judgement is on held-out episodes, beside doing nothing, and says what it could not judge."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lapa.data.episodes import TRACKS_FILE
from lapa.data.frames import prepare, to_float
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint
from lapa.errors import CheckpointError, DataError
from lapa.evaluation.control import STEPS
from lapa.evaluation.drawing import DrawingEvaluator
from lapa.evaluation.evaluate import Evaluation, evaluate
from lapa.evaluation.events import code_events
from lapa.games.breakout.events import EVENTS
from lapa.inference.labelling import label
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa_envs.atari import make_env
from lapa_envs.playing import record

ERRORS = [f"{where}{what}" for where in ("", "changed_") for what in ("psnr_db", "ssim", "l1", "l2")]
NEED_NO_TRUTH = {
    *(f"recon/{who}{what}" for who in ("", "copy_", "mean_") for what in ERRORS),
    *("recon/gain_over_copy_db", "recon/changed_gain_over_copy_db"),
    *("recon/episode_gain_over_copy_db_min", "recon/episode_gain_over_copy_db_max"),
    *(f"codebook/{what}" for what in ("num_codes", "codes_used", "perplexity", "bits_nominal", "bits_empirical")),
    *(f"codebook/place_{what}_{end}" for what in ("codes_used", "perplexity") for end in ("min", "max")),
    *(
        f"control/{what}_db/t{t}"
        for what in ("psnr", "copy_psnr", "shuffled_delta_psnr", "random_delta_psnr")
        for t in STEPS
    ),
    "speed/pairs_per_second",
}
DISTANCES = {
    f"elements/{what}/{who}{name}_px"
    for what in ("ball", "paddle")
    for who in ("", "copy_")
    for name in ("median", "p95")
}
READING = {
    f"reading/{event.replace(' ', '_')}/{figure}"
    for event in EVENTS
    for figure in ("share", "average_precision", "precision", "recall")
}
NEED_TRUTH = {
    *(f"elements/ball/{what}_frames" for what in ("free", "away")),
    *(
        f"elements/ball/{who}{what}"
        for who in ("", "copy_")
        for what in ("drawn", "within_2px", "within_4px", "false", "extra")
    ),
    *(f"elements/paddle/{who}within_{pixels}px" for who in ("", "copy_") for pixels in (1, 2, 4)),
    *(
        f"elements/{what}/{who}{which}accuracy"
        for what in ("bricks", "score", "lives")
        for who in ("", "copy_")
        for which in ("", "changed_")
    ),
    *(
        f"probe/{who}{which}accuracy"
        for who in ("", "linear_", "observation_", "majority_", "oracle_")
        for which in ("", "balanced_")
    ),
    *("probe/share_of_oracle", "probe/nmi", "probe/ami", "probe/labels_10_accuracy", "probe/labels_100_accuracy"),
}


def drawing(evaluation: Evaluation) -> DrawingEvaluator:
    found = evaluation.find(DrawingEvaluator)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def on_val(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> Evaluation:
    return evaluate(breakout_checkpoint, breakout_store, "val")


def test_breakout_gets_all_figures_and_they_are_finite(evaluation: Evaluation) -> None:
    # A distance may be missing where nothing was drawn, a change where nothing changed, a false ball where one flies,
    # and an event that happens too seldom.
    optional = DISTANCES | READING | {name for name in NEED_TRUTH if name.endswith(("changed_accuracy", "false"))}
    assert evaluation.metrics.keys() & READING
    stages = {name for name in evaluation.metrics if name.startswith("stages/")}  # which ones, the episode decides
    assert stages
    assert evaluation.metrics.keys() - stages - optional == (NEED_NO_TRUTH | NEED_TRUTH) - optional
    assert evaluation.left_out == []
    assert [name for name, value in evaluation.metrics.items() if not math.isfinite(value)] == []


def test_the_episodes_judged_are_those_of_the_split(
    breakout_checkpoint: Checkpoint, evaluation: Evaluation, on_val: Evaluation
) -> None:
    assert evaluation.split == "test"
    assert evaluation.episodes == breakout_checkpoint.split["test"]
    pairs = 50 * len(evaluation.episodes)
    assert evaluation.study.codes is not None
    assert evaluation.study.codes.size == pairs * math.prod(breakout_checkpoint.model.grid)
    assert evaluation.details()["code_counts"] == np.bincount(evaluation.study.codes.flat, minlength=16).tolist()
    assert len(evaluation.study.clips) == len(drawing(evaluation).errors[""]) == pairs
    assert on_val.episodes == breakout_checkpoint.split["val"]


def test_all_splits_stand_side_by_side(evaluation: Evaluation, on_val: Evaluation) -> None:
    splits = drawing(evaluation).splits
    assert list(splits) == ["train", "val", "test"]
    for split in splits:  # 200 training pairs: all of them are looked at
        assert drawing(on_val).splits[split] == pytest.approx(splits[split], rel=1e-4), split
    assert evaluation.metrics["recon/psnr_db"] == splits["test"]["psnr_db"]


def test_each_episode_has_its_own_figures(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> None:
    found = evaluate(breakout_checkpoint, breakout_store, "train")
    by_episode = drawing(found).by_episode
    assert set(by_episode) == set(breakout_checkpoint.split["train"])
    errors = [10 ** (-figures["psnr_db"] / 10) for figures in by_episode.values()]
    pairs = [len(found.study.pair_starts(episode)) for episode in found.study.episodes]
    assert found.metrics["recon/psnr_db"] == pytest.approx(-10 * math.log10(np.average(errors, weights=pairs)))
    gains = [figures["gain_over_copy_db"] for figures in by_episode.values()]
    assert found.metrics["recon/episode_gain_over_copy_db_min"] == min(gains)
    assert found.metrics["recon/episode_gain_over_copy_db_max"] == max(gains)


def test_figures_are_those_of_the_labelled_and_redrawn_pairs(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    model = breakout_checkpoint.model
    (episode,) = (e for e in breakout_store.episodes if e.name in evaluation.episodes)
    raw = breakout_store.frames(range(episode.start, episode.stop))
    seen = to_float(prepare(torch.from_numpy(raw), model.format))
    codes = label(model, raw[:-1], raw[1:])
    drawn = model.decode(seen[:-1], codes)
    train = [e for e in breakout_store.episodes if e.name in breakout_checkpoint.split["train"]]
    firsts = np.concatenate([breakout_store.frames(range(e.start, e.stop - 1)) for e in train])
    mean = to_float(prepare(torch.from_numpy(firsts), model.format)).mean(0)
    expected = {"psnr_db": drawn, "copy_psnr_db": seen[:-1], "mean_psnr_db": mean.expand_as(drawn)}
    for name, picture in expected.items():
        error = squared_errors(picture, seen[1:]).mean()
        assert evaluation.metrics[f"recon/{name}"] == pytest.approx(psnr_db(error), abs=1e-3), name
    metrics = evaluation.metrics
    assert metrics["recon/gain_over_copy_db"] == metrics["recon/psnr_db"] - metrics["recon/copy_psnr_db"]
    assert metrics["codebook/codes_used"] == len(codes.unique())
    assert metrics["codebook/bits_nominal"] == 27 * 20 * 4


def test_a_batch_size_changes_no_figure(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    again = evaluate(breakout_checkpoint, breakout_store, batch_size=7)
    for name in evaluation.metrics.keys() - {"speed/pairs_per_second"}:
        assert again.metrics[name] == pytest.approx(evaluation.metrics[name], rel=1e-4, abs=1e-4), name


def test_a_lag_asks_for_earlier_actions(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    later = evaluate(breakout_checkpoint, breakout_store, lag=2)
    assert np.sum(evaluation.details()["confusion"]["counts"]) == 50
    assert np.sum(later.details()["confusion"]["counts"]) == 48  # the first two pairs have no action so long before
    assert later.metrics["probe/oracle_accuracy"] < evaluation.metrics["probe/oracle_accuracy"]
    with pytest.raises(DataError, match="lag 900: no pair has an action"):
        evaluate(breakout_checkpoint, breakout_store, lag=900)


# Models that flatter


class Copy(nn.Module):
    """A decoder that repeats the current frame, whatever the codes."""

    def forward(self, current: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return current


def verdicts_of(evaluation: Evaluation) -> str:
    """All that speaks against a model."""
    return " ".join(verdict.sentence for verdict in evaluation.verdicts if verdict.level == "bad")


def test_a_leaky_model_that_copies_is_exposed(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> None:
    model = copy.deepcopy(breakout_checkpoint.model)
    model.decoder = Copy()  # type: ignore[assignment]
    found = evaluate(dataclasses.replace(breakout_checkpoint, model=model), breakout_store)
    metrics = found.metrics
    for name in ("recon/gain_over_copy_db", "control/shuffled_delta_psnr_db/t1"):
        assert metrics[name] == pytest.approx(0.0, abs=1e-5), name
    for name in (name for name in metrics if "copy_" in name.rsplit("/")[-1] and "gain" not in name):
        own = name.replace("copy_", "")
        assert metrics[name] == pytest.approx(metrics[own], abs=0.002) or "/t" in name, name
    assert "no better than copying" in verdicts_of(found)
    assert "hardly steer" in verdicts_of(found)


def test_a_model_with_one_code_is_exposed(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> None:
    model = copy.deepcopy(breakout_checkpoint.model)
    with torch.no_grad():
        model.quantizer.codebook[1:] = 1e6
    found = evaluate(dataclasses.replace(breakout_checkpoint, model=model), breakout_store)
    assert found.metrics["codebook/codes_used"] == 1.0
    assert "has collapsed" in verdicts_of(found)
    assert "hardly steer" in verdicts_of(found)
    assert "do not tell the action" in verdicts_of(found)


# Recordings that tell less


@pytest.fixture
def pictures_only(breakout_recording: Path, tmp_path: Path) -> FrameStore:
    """The recording without anything but its PNG files."""
    root = shutil.copytree(breakout_recording, tmp_path / "bulk_videos", ignore=shutil.ignore_patterns(".lapa"))
    for path in root.glob(f"*/{TRACKS_FILE}"):
        path.unlink()
    return open_store(root)


def test_pictures_alone_get_all_that_needs_no_truth_and_say_what_is_missing(
    breakout_checkpoint: Checkpoint, pictures_only: FrameStore, evaluation: Evaluation
) -> None:
    found = evaluate(breakout_checkpoint, pictures_only)
    assert found.metrics.keys() == NEED_NO_TRUTH
    for name in NEED_NO_TRUTH - {"speed/pairs_per_second"}:
        assert found.metrics[name] == pytest.approx(evaluation.metrics[name], rel=1e-5, abs=1e-5), name
    parts = [sentence.split(":")[0] for sentence in found.left_out]
    assert parts == ["what is on the screen", "stages", "events", "actions"]


@pytest.mark.parametrize(("name", "split"), [("100", "test"), ("0", "all")], ids=["unknown name", "all"])
def test_a_recording_made_later_is_judged_whole(
    name: str, split: str, breakout_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Also where the run has an episode of the same name."""
    assert any("0" in names for names in breakout_checkpoint.split.values())
    env = make_env()
    record(env, tmp_path / "later", episodes=1, max_steps=20, seed=99)
    env.close()
    (tmp_path / "later" / "0").rename(tmp_path / "later" / name)
    found = evaluate(breakout_checkpoint, open_store(tmp_path / "later"), split)
    assert found.episodes == [name]
    assert list(drawing(found).splits) == [split]
    assert "elements/paddle/within_2px" in found.metrics
    assert "probe/accuracy" not in found.metrics  # there is nothing to fit it on
    assert len(found.left_out) == 1
    events = found.study.shared(code_events)
    assert events is not None
    assert events.chosen_on is events.judged


def test_a_split_that_is_not_there_is_an_error(
    breakout_checkpoint: Checkpoint, breakout_recording: Path, tmp_path: Path
) -> None:
    name = breakout_checkpoint.split["train"][0]
    shutil.copytree(breakout_recording / name, tmp_path / "some" / name)
    with pytest.raises(DataError, match=r"no episode of the split 'test' of .*--split all"):
        evaluate(breakout_checkpoint, open_store(tmp_path / "some"))


def test_frames_of_another_size_are_refused(breakout_checkpoint: Checkpoint, tmp_path: Path, record_toy) -> None:
    with pytest.raises(CheckpointError, match="210 x 160, these are 40 x 32"):
        evaluate(breakout_checkpoint, open_store(record_toy(tmp_path / "toy")))
