"""Imagined play is judged beside the recording: who knows the game is right, who stands still is a copy."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from lapa.config import load_config
from lapa.contracts import ActionSpec, Clips, ClipSpec, Dreamer, Facts, Imagined, System, Terms
from lapa.data.frames import FrameFormat, to_float
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.dream import OBSERVED, DreamEvaluator, until
from lapa.evaluation.evaluate import Evaluation, evaluate, summary_rows
from lapa.evaluation.report import write_report
from lapa.testing import toy_store

QUIET: Callable[[str], None] = lambda _: None  # noqa: E731
MOVES = torch.tensor([(0, 0), (0, 4), (0, -4), (4, 0), (-4, 0)])
"""What the toy's actions do to its square, in rows and columns."""


class Seen(NamedTuple):
    """The last frame (B, C, H, W) in [0, 1]."""

    frame: Tensor


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No options."""


class Knows(Dreamer):
    """Moves the square as the toy does, and earns its reward: the action 1."""

    Config = Nothing
    Loss = Nothing

    def __init__(self, config: Any, facts: Facts) -> None:
        super().__init__(config, facts)
        self.weight = nn.Parameter(torch.ones(()))

    @classmethod
    def clip(cls, config: Any, loss: Any) -> ClipSpec:
        return ClipSpec(2, ("actions", "rewards", "terminated"))

    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        return (to_float(clips.next),)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.weight * inputs[0]

    def terms(self, output: Any, inputs: tuple[Tensor, ...], loss: Any, progress: float) -> Terms:
        return {}

    @property
    def actions(self) -> ActionSpec:
        return ActionSpec("actions", len(MOVES))

    def begin(self, clips: Clips) -> Seen:
        if "actions" in clips.tracks:  # those between the frames
            assert clips.tracks["actions"].shape[1] == clips.frames.shape[1] - 1
        return Seen(to_float(clips.next))

    def step(self, state: Seen, action: Tensor) -> tuple[Seen, Imagined]:
        moved = [frame.roll(tuple(MOVES[a].tolist()), (1, 2)) for frame, a in zip(state.frame, action, strict=True)]
        after = Seen(torch.stack(moved))
        return after, Imagined(after.frame, (action == 1).float(), torch.zeros(len(action)))


class StandsStill(Knows):
    """Predicts the last frame that it saw, a reward at each step, and that it never ends."""

    def step(self, state: Seen, action: Tensor) -> tuple[Seen, Imagined]:
        return state, Imagined(state.frame, torch.ones(len(action)), torch.zeros(len(action)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Six toy episodes of 41 frames, which is less than a dream."""
    return toy_store(tmp_path_factory.mktemp("toys") / "toys.lapa", episodes=6, steps=40)


@pytest.fixture(scope="module")
def checkpoint(store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A recurrent world model on the toy, hardly trained."""
    out = tmp_path_factory.mktemp("run") / "run"
    config = load_config("rssm_debug", overrides=["data.downsample=1", "training.steps=4", f"training.out={out}"])
    return load_checkpoint(train(config, store, QUIET).best, "cpu")


def judged(cls: type[System], like: Checkpoint, store: FrameStore) -> Evaluation:
    format: FrameFormat = like.model.format
    system = cls(Nothing(), Facts(format, len(MOVES))).eval().requires_grad_(False)
    return evaluate(dataclasses.replace(like, model=system), store, notify=QUIET)


def test_who_knows_the_game_imagines_it_and_other_actions_lead_elsewhere(
    checkpoint: Checkpoint, store: FrameStore
) -> None:
    found = judged(Knows, checkpoint, store)
    metrics = found.metrics
    assert metrics["dream/psnr_db/steps_1_16"] > 100 > 30 > metrics["dream/copy_psnr_db/steps_1_16"]
    assert metrics["dream/twin_psnr_db/t16"] > 100 > 30 > metrics["dream/other_psnr_db/t16"]
    assert metrics["dream/reward_recall/steps_1_16"] == metrics["dream/reward_precision/steps_1_16"] == 1
    sentences = [verdict.sentence for verdict in found.verdicts if verdict.level == "good"]
    assert any("Imagined play is better than the last frame that was seen" in each for each in sentences)
    assert any("The actions steer it" in each for each in sentences)


def test_who_stands_still_is_as_good_as_copying_and_is_not_praised(checkpoint: Checkpoint, store: FrameStore) -> None:
    found = judged(StandsStill, checkpoint, store)
    metrics = found.metrics
    assert metrics["dream/psnr_db/steps_1_16"] == pytest.approx(metrics["dream/copy_psnr_db/steps_1_16"])
    assert metrics["dream/other_psnr_db/t8"] == pytest.approx(metrics["dream/psnr_db/t8"])
    assert metrics["dream/reward_recall/steps_1_16"] == 1
    assert 0.05 < metrics["dream/reward_precision/steps_1_16"] < 0.5
    about = [each for each in found.verdicts if "magined play" in each.sentence or "steer" in each.sentence]
    levels = {verdict.level for verdict in about}
    assert levels == {"bad", "weak"}


def test_of_short_episodes_only_what_was_recorded_is_judged(checkpoint: Checkpoint, store: FrameStore) -> None:
    """41 frames: 16 seen, 25 to imagine, none of the last window."""
    evaluation = judged(Knows, checkpoint, store)
    dreams = evaluation.find(DreamEvaluator)
    assert dreams is not None
    assert dreams._found is not None
    assert dreams._found.real.sum(1).tolist() == [41 - OBSERVED] * len(dreams.clips)
    assert "dream/psnr_db/steps_17_32" in evaluation.metrics
    assert "dream/psnr_db/steps_33_50" not in evaluation.metrics
    assert evaluation.metrics["dream/end_recall/steps_17_32"] == 0


def test_the_recurrent_world_model_gets_its_section_and_pictures(
    checkpoint: Checkpoint, store: FrameStore, tmp_path: Path
) -> None:
    found = evaluate(checkpoint, store, notify=QUIET)
    page = write_report(tmp_path, checkpoint, found).read_text()
    assert 'id="dream"' in page
    assert 'id="rebuilding"' in page
    assert {"dream.png", "dreams.png"} <= {path.name for path in tmp_path.iterdir()}
    assert "imagined, steps 1 to 16" in {row[0] for row in summary_rows(found.metrics)}
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["dream/psnr_db/t1"] > 0
    assert not any("imagined" in sentence for sentence in found.left_out)


def test_a_model_of_latent_actions_is_judged_without_it_also_where_its_latent_is_continuous(
    store: FrameStore, tmp_path: Path
) -> None:
    for quantizer in ("continuous", "ema"):
        overrides = ["data.downsample=1", "training.steps=2", f"training.out={tmp_path / quantizer}"]
        config = load_config("debug", overrides=[*overrides, f"model.quantizer.name={quantizer}"])
        found = evaluate(load_checkpoint(train(config, store, QUIET).best, "cpu"), store, notify=QUIET)
        assert not any(name.startswith("dream/") for name in found.metrics)
        assert found.metrics["recon/psnr_db"] > 0


def test_a_part_of_a_clip_has_the_tracks_of_its_steps() -> None:
    clips = Clips(
        torch.zeros(2, 5, 1, 8, 8, dtype=torch.uint8),
        {"actions": torch.arange(8).reshape(2, 4), "lives": torch.arange(10).reshape(2, 5)},
    )
    first = until(clips, 3)
    assert first.frames.shape[1] == 3
    assert first.tracks["actions"].tolist() == [[0, 1], [4, 5]]
    assert first.tracks["lives"].tolist() == [[0, 1, 2], [5, 6, 7]]
