"""Figures of a stage are those of its pairs, the worst stage is named, and too few pairs conclude nothing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint
from lapa.evaluation.drawing import DrawingEvaluator
from lapa.evaluation.elements import FoundElements
from lapa.evaluation.evaluate import Evaluation, comparison_columns, evaluate, summary_rows
from lapa.evaluation.evaluator import GAIN_DB
from lapa.evaluation.report import render
from lapa.evaluation.stages import ENOUGH, WORST, StagesEvaluator, places_of, stage_rows, worst_of
from lapa.games.breakout.game import Breakout

MANY, FEW = float(ENOUGH), float(ENOUGH - 1)
WALL, LAST, NONE = (f"stages/part/{name}_bricks_standing" for name in ("91_to_108", "1_to_18", "0"))
TUNNEL = "stages/start/tunnel"
FOUND = {
    f"{WALL}/pairs": 500.0,
    f"{WALL}/gain_over_copy_db": 6.0,
    f"{WALL}/ball/within_2px": 0.9,
    f"{LAST}/pairs": MANY,
    f"{LAST}/gain_over_copy_db": 2.1,
    f"{LAST}/ball/within_2px": 0.5,
    f"{NONE}/pairs": FEW,
    f"{NONE}/gain_over_copy_db": -9.0,
    f"{NONE}/ball/within_2px": 0.1,
    f"{TUNNEL}/pairs": 80.0,
    f"{TUNNEL}/gain_over_copy_db": -1.0,
}


@pytest.fixture(scope="module")
def on_train(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> Evaluation:
    """Four episodes of different starts."""
    return evaluate(breakout_checkpoint, breakout_store, "train", notify=lambda _: None)


def test_figures_of_a_stage_are_those_of_its_pairs(on_train: Evaluation) -> None:
    study, metrics = on_train.study, on_train.metrics
    drawing = on_train.find(DrawingEvaluator)
    assert drawing is not None
    ram = np.concatenate([episode.tracks["ram"][:-1] for episode in study.episodes])
    aspect = Breakout.aspects[0]
    stage = aspect.find(Breakout().state(ram))
    assert len(stage) == len(study.clips)
    for part in range(len(aspect.parts)):
        name = f"stages/part/{aspect.phrase(part).replace(' ', '_')}"
        rows = np.flatnonzero(stage == part)
        assert metrics[f"{name}/pairs"] == len(rows)
        assert (f"{name}/gain_over_copy_db" in metrics) == (len(rows) > 0)
        if len(rows):
            model, copy = (drawing.errors[who] for who in ("", "copy_"))
            gain = 10 * math.log10(copy.squared[rows].mean() / model.squared[rows].mean())
            assert metrics[f"{name}/gain_over_copy_db"] == pytest.approx(gain)
            expected = model.ssim[rows].mean() - copy.ssim[rows].mean()
            assert metrics[f"{name}/ssim_over_copy"] == pytest.approx(expected)
            elements = study.shared(FoundElements).compare(rows)
            own = (key.removeprefix(f"{name}/") for key in metrics if key.startswith(f"{name}/"))
            shown = {key for key in own if "/" in key}
            assert shown
            assert {key: metrics[f"{name}/{key}"] for key in shown} == {key: elements[key] for key in shown}
    assert sum(metrics[f"{place}/pairs"] for place in places_of(metrics, "part")) == len(study.clips)


def test_every_start_of_the_episodes_has_its_figures(on_train: Evaluation) -> None:
    study = on_train.study
    starts = {episode.tracks.meta["start"]: len(study.pair_starts(episode)) for episode in study.episodes}
    found = {place.removeprefix("stages/start/"): place for place in places_of(on_train.metrics, "start")}
    assert list(found) == [name for name in Breakout.starts if name in starts], "in the order of the game"
    assert {name: on_train.metrics[f"{place}/pairs"] for name, place in found.items()} == starts
    for name in starts:
        assert f"stages/start/{name}/gain_over_copy_db" in on_train.metrics


def test_all_stages_together_are_the_whole(on_train: Evaluation) -> None:
    """What several evaluators share is found once, and is the same for each."""
    study = on_train.study
    whole = study.shared(FoundElements).compare()
    assert {f"elements/{name}": value for name, value in whole.items()}.items() <= on_train.metrics.items()


def test_the_report_has_one_table_of_them(on_train: Evaluation, breakout_checkpoint: Checkpoint) -> None:
    images = dict.fromkeys(("pairs.png", "extremes.png", "movie.webp", "episodes.png"), b"")
    only = [each for each in on_train.evaluators if isinstance(each, StagesEvaluator)]
    page = render(breakout_checkpoint, dataclasses.replace(on_train, evaluators=only), images)
    assert page.count('<h2 id="stages">Stages of the game</h2>') == 1
    section = page.partition('id="stages"')[2]
    starts = [f"start {episode.tracks.meta['start']}" for episode in on_train.study.episodes]
    for words in ("91 to 108 bricks standing", "0 bricks standing", "a second ball drawn", *starts):
        assert words in section, words


def test_the_worst_stage_is_the_lowest_of_those_with_enough_pairs() -> None:
    assert worst_of(FOUND, "part") == (LAST, 2.1)
    assert worst_of(FOUND, "start") == (TUNNEL, -1.0)
    assert worst_of(FOUND, "part", "ball/within_2px") == (LAST, 0.5)
    assert worst_of({f"{NONE}/pairs": FEW, f"{NONE}/gain_over_copy_db": 1.0}, "part") is None
    assert worst_of({f"{NONE}/pairs": 0.0}, "part") is None


@pytest.mark.parametrize(("gain", "level"), [(GAIN_DB, "good"), (0.3, "weak"), (0.0, "bad"), (-4.0, "bad")])
def test_the_verdict_names_the_worst_stage(gain: float, level: str) -> None:
    (verdict,) = StagesEvaluator.verdicts(FOUND | {f"{LAST}/gain_over_copy_db": gain})
    assert verdict.level == level
    assert verdict.sentence == f"Worst stage: 1 to 18 bricks standing, {gain:+.1f} dB over copying."


def test_the_summary_names_the_worst_stage_and_start() -> None:
    assert StagesEvaluator.rows(FOUND) == [
        ("PSNR gain over copying, worst stage", "+2.1 dB", "1 to 18 bricks standing"),
        ("PSNR gain over copying, worst start", "-1.0 dB", "start tunnel"),
        ("ball within 2 px, worst stage", "50.0 %", "1 to 18 bricks standing"),
    ]


def test_stages_with_few_pairs_are_shown() -> None:
    measures = [measure for measure in Breakout.measures if measure.label == "ball within 2 px"]
    rows = stage_rows(FOUND | {"stages/part/55_to_90_bricks_standing/pairs": 0.0}, measures)
    assert rows[2] == ("0 bricks standing", "29", "-9.00", "", "10.0 %")
    assert rows[3] == ("start tunnel", "80", "-1.00", "", "")
    assert rows[4] == ("55 to 90 bricks standing", "0", "", "", "")


def test_a_comparison_has_the_gain_in_the_worst_stage(on_train: Evaluation) -> None:
    assert WORST in [column.metric for column in comparison_columns()]
    worst = worst_of(on_train.metrics, "part")
    assert worst is not None
    assert on_train.metrics[WORST] == worst[1]
    assert any("worst stage" in row[0] for row in summary_rows(on_train.metrics))
