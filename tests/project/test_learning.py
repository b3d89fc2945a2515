"""A toy with five planted actions: training finds them from pictures alone, and not where time is torn apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lapa.config import load_config
from lapa.data.packing import open_store
from lapa.engine.checkpoint import load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.evaluate import Evaluation, evaluate

# One token of 16 codes for 5 actions. Seeds 0 to 6 all reach 1.0; with 8 codes some merge two actions.
SETTINGS = [
    *("model.tokens=1", "model.quantizer.num_codes=16"),
    *("model.encoder.channels=[16,32]", "model.decoder.channels=[16,32]"),
    *("data.downsample=1", "loss.motion=10", "loss.motion_end=10"),
    *("training.steps=300", "training.batch_size=32", "training.learning_rate=3e-3"),
    *("training.reseed_every=10", "training.reseed_until=0.8", "training.validate_every=150"),
    *("training.precision=fp32", "training.device=cpu", "training.seed=0"),
]


@pytest.fixture
def recording(record_toy: Callable[..., Path], tmp_path: Path) -> Path:
    return record_toy(tmp_path / "toy", episodes=12, steps=40)


def shuffle_in_time(root: Path) -> None:
    """Gives the frames of each episode their numbers anew, so that pairs are of unrelated frames."""
    for folder in sorted(root.iterdir()):
        contents = [path.read_bytes() for path in folder.glob("*.png")]
        order = np.random.default_rng(int(folder.name)).permutation(len(contents))
        for number, place in enumerate(order):
            (folder / f"{number}.png").write_bytes(contents[place])


def learn(recording: Path) -> Evaluation:
    """What is found of a tiny model on the held-out episodes of the recording."""
    store = open_store(recording)
    config = load_config("debug", overrides=[*SETTINGS, f"training.out={recording.parent / 'run'}"])
    return evaluate(load_checkpoint(train(config, store).best, "cpu"), store)


def test_planted_actions_are_found_from_pictures_alone(recording: Path) -> None:
    found = learn(recording)
    metrics = found.metrics
    assert metrics["probe/accuracy"] >= 0.9
    assert metrics["probe/observation_accuracy"] <= 0.5
    assert metrics["probe/majority_accuracy"] <= 0.35
    assert metrics["codebook/codes_used"] >= 5
    assert metrics["recon/gain_over_copy_db"] > 0
    assert metrics["control/shuffled_delta_psnr_db/t1"] > 0.5
    assert any("The codes tell the action" in verdict.sentence for verdict in found.verdicts)
    assert not [verdict for verdict in found.verdicts if verdict.level == "bad"]


def test_nothing_is_found_where_frames_are_shuffled_in_time(recording: Path) -> None:
    shuffle_in_time(recording)
    found = learn(recording)
    assert found.metrics["probe/accuracy"] <= 0.45
    bad = " ".join(verdict.sentence for verdict in found.verdicts if verdict.level == "bad")
    assert "do not tell the action" in bad
