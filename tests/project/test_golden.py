"""What must stay as it is, on every machine: labels, stores, datasets, names of metrics, old runs and checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import FIXTURES
from lapa import LatentActionDataset, extract, load_checkpoint, load_config, train
from lapa.data.clips import ClipSampler
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.evaluation.evaluate import Evaluation
from lapa.tracking.jsonl import read_lines
from lapa_envs.atari import make_env
from lapa_envs.playing import record

OLD_RUN = FIXTURES / "old_run"
"""A run of the preset ``debug`` on the toy recording, stopped at step 10 of 20, by a version that had one system."""
GOLDEN: dict[str, Any] = json.loads((FIXTURES / "golden.json").read_text())


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def random_play(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """A packed store of random play, which no change of the scripted players changes."""
    folder = tmp_path_factory.mktemp("golden") / "bulk_videos"
    with contextlib.closing(make_env()) as env:
        record(env, folder, policy="random", episodes=3, max_steps=60, seed=5)
    return open_store(folder)


def test_the_first_shipped_model_gives_the_labels_it_always_gave(random_play: FrameStore, tmp_path: Path) -> None:
    extract(load_checkpoint("breakout_v0", "cpu"), random_play, tmp_path / "labels.lapa")
    dataset = LatentActionDataset(tmp_path / "labels.lapa")
    assert [digest(dataset.codes), str(dataset.codes.dtype), list(dataset.codes.shape)] == GOLDEN["labels"]
    assert sorted(dataset.header) == GOLDEN["dataset_header"]
    assert sorted(dataset.store.extra) == GOLDEN["dataset_arrays"]


def test_a_packed_store_holds_what_it_always_held(random_play: FrameStore) -> None:
    frames = random_play.frames(range(len(random_play)))
    assert [digest(frames), list(frames.shape)] == GOLDEN["frames"]
    assert sorted(random_play.header) == GOLDEN["store_header"]
    with open(random_play.path, "rb") as file:
        assert file.read(8) == b"LAPA\x00\x00\x00\x01"


def test_metrics_keep_their_names(breakout_run: Path, evaluation: Evaluation) -> None:
    logged = set().union(*read_lines(breakout_run / "metrics.jsonl"))
    assert set(GOLDEN["training_metrics"]) <= logged
    # Of what is read from codes there is a figure only for events that happen in the recording, and of distances only
    # where enough frames show something.
    optional = ("reading/", "elements/ball/copy_p95_px")
    steady = {name for name in GOLDEN["report_metrics"] if not name.startswith(optional)}
    assert steady <= set(evaluation.metrics)


def test_batches_are_drawn_in_the_order_they_always_were() -> None:
    batches = [list(batch) for _, batch in zip(range(20), ClipSampler(36, 8, seed=3, first=2), strict=False)]
    assert digest(np.array(batches)) == GOLDEN["batches"]


def test_an_old_checkpoint_loads_and_labels(record_toy: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = load_checkpoint(OLD_RUN / "best.pt", "cpu")
    assert checkpoint.step == 20
    assert sorted(checkpoint.model.state_dict()) == GOLDEN["state"]
    extract(checkpoint, open_store(record_toy(tmp_path / "toy")), tmp_path / "toy.lapa")
    assert LatentActionDataset(tmp_path / "toy.lapa").codes.shape == (60, 10, 8)


def test_an_old_unfinished_run_is_resumed_and_ends_where_it_ended(
    record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(OLD_RUN, tmp_path / "run")
    (tmp_path / "run" / "best.pt").unlink()
    config = load_config(file=OLD_RUN / "config.yaml", overrides=[f"training.out={tmp_path / 'run'}"])
    summary = train(config, open_store(record_toy(tmp_path / "toy")), existing="resume")
    assert summary.steps == 20
    assert summary.metrics["val/recon/mse"] == pytest.approx(GOLDEN["old_run_mse"], rel=0.01)
