"""Each recording has its own figures, where one tokenizer is judged on several."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import write_episode
from lapa.config import load_config
from lapa.data.packing import open_store
from lapa.engine.checkpoint import load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.evaluate import evaluate, summary_rows
from lapa.evaluation.recordings import RecordingsEvaluator


def test_a_recording_is_compared_with_the_mean_frame_of_its_own_training_episodes(
    record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    """One recording is the toy; in the other every frame is the same, so that its mean frame is perfect."""
    toy = record_toy(tmp_path / "toy")
    for name in range(5):
        write_episode(tmp_path / "still" / str(name), np.full((13, 40, 32, 3), 90, dtype=np.uint8))
    store = open_store([toy, tmp_path / "still"], notify=lambda _: None)
    fixed = [f"training.out={tmp_path / 'run'}", "data.downsample=1", "training.precision=fp32", "data.split_seed=1"]
    config = load_config("tokenizer_debug", overrides=fixed)
    checkpoint = load_checkpoint(train(config, store, lambda _: None).best, "cpu")
    found = evaluate(checkpoint, store, "all", notify=lambda _: None)
    names = ("toy", "still")
    assert [found.metrics[f"recordings/{name}/frames"] for name in names] == [5 * 12, 5 * 12]
    errors = [10 ** (-found.metrics[f"recordings/{name}/psnr_db"] / 10) for name in names]
    assert found.metrics["rebuilt/psnr_db"] == pytest.approx(-10 * math.log10(sum(errors) / 2))
    assert found.metrics["recordings/still/mean_psnr_db"] > 100
    assert found.metrics["recordings/toy/mean_psnr_db"] < 30
    labels = [row[0] for row in summary_rows(found.metrics)]
    assert {"PSNR, toy", "PSNR, still"} <= set(labels)
    assert "Worst recording: still" in " ".join(verdict.sentence for verdict in found.verdicts)


def test_a_single_recording_needs_no_such_table(record_toy: Callable[..., Path], tmp_path: Path) -> None:
    store = open_store(record_toy(tmp_path / "toy"), notify=lambda _: None)
    config = load_config("tokenizer_debug", overrides=[f"training.out={tmp_path / 'run'}", "data.downsample=1"])
    found = evaluate(load_checkpoint(train(config, store, lambda _: None).best, "cpu"), store, notify=lambda _: None)
    assert found.find(RecordingsEvaluator) is None
    assert not any("PSNR, toy" in row[0] for row in summary_rows(found.metrics))
