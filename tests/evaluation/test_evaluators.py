"""What a system can do and a recording knows decides what is judged; no measure keeps frames; games come by name."""

from __future__ import annotations

import dataclasses
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lapa.config import load_config
from lapa.contracts import Clips, ClipSpec, Drawer, Facts, System, Terms
from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks
from lapa.data.frames import FrameFormat, to_float
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.drawing import DrawingEvaluator
from lapa.evaluation.elements import ElementsEvaluator
from lapa.evaluation.evaluate import EVALUATORS, Evaluation, comparison_columns, evaluate, summary_rows, verdicts
from lapa.evaluation.report import write_report
from lapa.evaluation.study import DrawnBatch, Study
from lapa.games.game import find_game, games
from lapa.inference.reading import READER_FILE, load_reader
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.report.tables import format_table, percent
from square import Square, corners

QUIET: Callable[[str], None] = lambda _: None  # noqa: E731


# Systems that can do less


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No options."""


class Plain(System):
    """A system that can do nothing that is judged."""

    Config = Nothing
    Loss = Nothing
    frames: ClassVar[int] = 2

    def __init__(self, config: Any, facts: Facts) -> None:
        super().__init__(config, facts)
        self.weight = nn.Parameter(torch.ones(()))

    @classmethod
    def clip(cls, config: Any, loss: Any) -> ClipSpec:
        return ClipSpec(cls.frames)

    def inputs(self, clips: Clips) -> tuple[Tensor, ...]:
        return tuple(to_float(frame) for frame in clips.frames.unbind(1))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.weight * inputs[-1]

    def terms(self, output: Any, inputs: tuple[Tensor, ...], loss: Any, progress: float) -> Terms:
        return {}


class DrawsTheMeanOfTwo(Plain, Drawer):
    """Draws a frame as the mean of the two before it."""

    frames = 3

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        assert codes is None
        assert clips.frames.shape[1] == 3
        before, current, _ = self.inputs(clips)
        return self.weight * (before + current) / 2


class DrawsOneFrame(Plain, Drawer):
    """Sees one frame, as a tokenizer does, and draws it a little darker."""

    frames = 1

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        assert clips.frames.shape[1] == 1
        return self.weight * 0.9 * self.inputs(clips)[0]


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory, record_toy: Callable[..., Path]) -> FrameStore:
    return open_store(record_toy(tmp_path_factory.mktemp("toys") / "toy", episodes=6, steps=30), notify=QUIET)


@pytest.fixture(scope="module")
def toy_checkpoint(toys: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A latent action model on the toy recording."""
    out = tmp_path_factory.mktemp("run") / "run"
    config = load_config("debug", overrides=["data.downsample=1", f"training.out={out}"])
    return load_checkpoint(train(config, toys, QUIET).best, "cpu")


@pytest.fixture(scope="module")
def judged(toy_checkpoint: Checkpoint, toys: FrameStore) -> Evaluation:
    return evaluate(toy_checkpoint, toys, notify=QUIET)


def checkpoint_of(cls: type[System], like: Checkpoint) -> Checkpoint:
    """An untrained system in the place of a trained one."""
    format: FrameFormat = like.model.format
    return dataclasses.replace(like, model=cls(Nothing(), Facts(format)).eval().requires_grad_(False))


def headings(page: str) -> list[str]:
    return [part.partition('"')[0] for part in page.split('<h2 id="')[1:]]


@pytest.mark.parametrize("system", [DrawsTheMeanOfTwo, DrawsOneFrame])
def test_a_system_that_only_draws_gets_a_report_without_codes(
    system: type[System], toy_checkpoint: Checkpoint, toys: FrameStore, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(system, toy_checkpoint)
    found = evaluate(checkpoint, toys, notify=QUIET)
    assert {name.partition("/")[0] for name in found.metrics} == {"recon", "speed"}
    missing = {sentence.partition(":")[0]: sentence for sentence in found.left_out}
    assert missing.keys() - {"what is on the screen"} == {
        *("stages", "codebook", "events", "reading", "control", "actions")
    }
    assert missing["actions"] == f"actions: a {system.__name__} gives no codes"
    page = write_report(tmp_path, checkpoint, found).read_text()
    assert headings(page) == ["verdict", "drawing", "configuration"]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "metrics.json", "pairs.png", "extremes.png", "movie.webp", "episodes.png")
    }


def test_what_is_drawn_is_judged_against_the_last_frame_of_a_clip(toy_checkpoint: Checkpoint, toys: FrameStore) -> None:
    found = evaluate(checkpoint_of(DrawsTheMeanOfTwo, toy_checkpoint), toys, batch_size=7, notify=QUIET)
    study = found.study
    assert len(study.clips) == 29 * len(study.episodes), "30 pairs an episode, 29 of which have a frame before them"
    frames = to_float(study.clips[np.arange(len(study.clips))].frames)
    before, current, following = frames.unbind(1)
    expected = psnr_db(squared_errors((before + current) / 2, following).mean())
    assert found.metrics["recon/psnr_db"] == pytest.approx(expected, abs=1e-3)
    assert found.metrics["recon/copy_psnr_db"] == pytest.approx(
        psnr_db(squared_errors(current, following).mean()), abs=1e-3
    )
    (example,) = study.examples(np.array([5]))
    np.testing.assert_array_equal(example.next, following[5].numpy())
    np.testing.assert_allclose(example.prediction, ((before + current) / 2)[5].numpy(), atol=1e-6)


def test_a_system_that_does_nothing_gets_an_empty_but_valid_report(
    toy_checkpoint: Checkpoint, toys: FrameStore, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(Plain, toy_checkpoint)
    found = evaluate(checkpoint, toys, notify=QUIET)
    assert (found.metrics, found.verdicts, found.evaluators) == ({}, [], [])
    assert len(found.left_out) == len([kind for kind in EVALUATORS if kind.applies(found.study)]) > 0
    assert format_table(summary_rows(found.metrics)) == ""
    page = write_report(tmp_path, checkpoint, found).read_text()
    assert headings(page) == ["verdict", "configuration"]
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == {}
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "metrics.json"}


# One measure, one evaluator


def test_each_group_of_metrics_has_one_evaluator() -> None:
    groups = [kind.group for kind in EVALUATORS]
    assert len(set(groups)) == len(groups)
    assert {kind.__module__ for kind in EVALUATORS} == {f"lapa.evaluation.{name}" for name in (
        "drawing", "rebuilding", "recordings", "elements", "stages", "codebook", "events", "reading", "control",
        "dream", "actions", "speed",
    )}  # fmt: skip
    for kind in EVALUATORS:
        assert [c for c in kind.columns() if not c.metric.startswith(f"{kind.group}/")] == []


def test_an_evaluator_uses_its_own_metrics_alone(judged: Evaluation) -> None:
    metrics = judged.metrics
    assert {name.partition("/")[0] for name in metrics} <= {kind.group for kind in EVALUATORS}
    for kind in EVALUATORS:
        own = {name: value for name, value in metrics.items() if name.startswith(f"{kind.group}/")}
        assert kind.rows(own) == kind.rows(metrics)
        assert list(kind.verdicts(own)) == list(kind.verdicts(metrics))
        assert kind.rows({}) == list(kind.verdicts({})) == []
    assert len(verdicts(metrics)) >= 3


# Memory


def test_no_prediction_outlives_its_batch(
    toy_checkpoint: Checkpoint, toys: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the study nor an evaluator holds a drawn frame, however many clips there are."""
    drawn: list[weakref.ref[Tensor]] = []
    most = 0
    draw = Study.draw

    def watched(study: Study, *args: Any, **options: Any) -> Iterator[DrawnBatch]:
        nonlocal most
        for batch in draw(study, *args, **options):
            drawn.append(weakref.ref(batch.drawn))
            most = max(most, sum(each() is not None for each in drawn))
            yield batch

    monkeypatch.setattr(Study, "draw", watched)
    found = evaluate(toy_checkpoint, toys, "train", batch_size=8, notify=QUIET)
    assert len(drawn) > 12
    assert most <= 2, "the batch at hand, and the one before it"
    write_report(tmp_path, toy_checkpoint, found)
    gc.collect()
    assert [each for each in drawn if each() is not None] == []


def test_frames_are_kept_only_below_the_limit(
    judged: Evaluation, toy_checkpoint: Checkpoint, toys: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lapa.evaluation.study.KEPT_BYTES", judged.study.clips.frame_bytes)
    found = evaluate(toy_checkpoint, toys, notify=QUIET)
    for study, kept in ((judged.study, True), (found.study, False)):
        assert study.fitting is not None
        assert [clips.kept_on is not None for clips in (study.clips, study.fitting)] == [kept, kept]
    for name in judged.metrics.keys() - {"speed/pairs_per_second"}:
        assert found.metrics[name] == judged.metrics[name], name


def test_the_errors_of_all_clips_are_kept_as_numbers_alone(judged: Evaluation) -> None:
    """A few for each clip, whatever the size of a frame."""
    drawing = judged.find(DrawingEvaluator)
    assert drawing is not None
    arrays = [array for errors in drawing.errors.values() for array in vars(errors).values()]
    assert {array.shape for array in arrays} == {(len(judged.study.clips),)}


# Games


@pytest.fixture
def toys_with_ram(tmp_path: Path, record_toy: Callable[..., Path]) -> FrameStore:
    root = record_toy(tmp_path / "toy", episodes=6, steps=30)
    bare = open_store(root, notify=QUIET)
    for episode in bare.episodes:
        frames = bare.frames(range(episode.start, episode.stop))
        ram = corners(frames[..., 0] > 100).astype(np.uint8)
        meta = {**episode.tracks.meta, "start": "middle" if episode.name in "135" else "serve"}
        tracks = Tracks(actions=episode.tracks.actions, ram=ram, meta=meta)
        write_tracks(root / episode.name / TRACKS_FILE, tracks)
    return open_store(root, tmp_path / "with_ram.lapa", notify=QUIET)


@pytest.mark.usefixtures("square")
def test_a_third_partys_game_is_judged_like_breakout(
    toy_checkpoint: Checkpoint, toys_with_ram: FrameStore, tmp_path: Path
) -> None:
    found = evaluate(toy_checkpoint, toys_with_ram, notify=QUIET)
    assert isinstance(found.study.game, Square)
    assert found.left_out == []
    assert found.metrics["elements/square/copy_within_2px"] < 1
    share = found.metrics["elements/square/within_2px"]
    examples = list(found.study.examples(np.arange(len(found.study.clips))))
    truth = corners(np.stack([example.next for example in examples])[:, 0] > 0.4)
    drawn = corners(np.stack([example.prediction for example in examples])[:, 0] > 0.4)
    assert share == pytest.approx((np.abs(drawn - truth).max(1) <= 2).mean(), abs=0.04)
    assert ("square in its place", percent(share)) in [row[:2] for row in summary_rows(found.metrics)]
    assert any(verdict.sentence.startswith("The square is in its place") for verdict in found.verdicts)
    columns = [column.label for column in comparison_columns([found.metrics])]
    assert "square" in columns
    assert "gain in the worst stage, dB" in columns
    assert found.metrics["probe/oracle_accuracy"] == 1.0, "whether it moved is known from two corners"
    assert 0 < found.metrics["reading/it_moves_down/share"] < 0.5
    details = found.details()
    assert details["confusion"]["classes"] == ["stay", "move"]
    assert details["events"]["names"] == list(Square.event_names)
    page = write_report(tmp_path / "report", toy_checkpoint, found).read_text()
    assert ">The square</h2>" in page
    reader = load_reader(tmp_path / "report" / READER_FILE, toy_checkpoint.digest)
    assert reader.actions == ("stay", "move")
    assert set(reader.events) == set(Square.event_names)


def test_a_recording_of_no_known_game_is_said_to_be_so(
    toy_checkpoint: Checkpoint, toys: FrameStore, request: pytest.FixtureRequest
) -> None:
    assert find_game(toys.episodes, toys.frame_size) is None
    reasons = [kind.skip(Study(toy_checkpoint, toys)) for kind in EVALUATORS]
    assert "events: the recording is not Breakout at full size or Pong at full size" in reasons
    request.getfixturevalue("square")
    study = Study(toy_checkpoint, toys)
    assert isinstance(study.game, Square)
    assert ElementsEvaluator.skip(study) == "the square: the recording has no RAM"


def test_all_registered_games_meet_the_contract() -> None:
    assert "breakout" in games.names()
    for name in games.names():
        game = games.get(name)()
        assert game.title
        assert game.elements
        assert len(set(game.event_names)) == len(game.event_names) > 0
        assert len(game.action_classes) > 1
        assert all("{}" in measure.metric for measure in game.measures)
        assert all(len(aspect.starts) in (0, len(aspect.parts)) for aspect in game.aspects)
        assert {start for aspect in game.aspects for start in aspect.starts} <= set(game.starts)
        assert set(game.mix) <= set(game.starts)
        assert not game.matches({}, (1, 1))
        assert list(game.remarks({})) == []
