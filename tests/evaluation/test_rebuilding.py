"""A system that sees the frame it draws is compared with codes of equal bytes, never with copying."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lapa.config import load_config
from lapa.contracts import Clips
from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks
from lapa.data.frames import to_float
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.compare import compare, comparison_header, comparison_rows
from lapa.evaluation.evaluate import EVALUATORS, Evaluation, evaluate, summary_rows, verdicts
from lapa.evaluation.grid import code_grids
from lapa.evaluation.nearest import encoding_distances, nearest_patches, nearest_sheet
from lapa.evaluation.rebuilding import RebuildingEvaluator
from lapa.evaluation.report import write_report
from lapa.metrics.equal_bytes import coded
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.systems.tokenizer.model import Tokenizer
from square import corners

QUIET: Callable[[str], None] = lambda _: None  # noqa: E731


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory, record_toy: Callable[..., Path]) -> FrameStore:
    """Of the toy game, with the square's corner as RAM."""
    root = record_toy(tmp_path_factory.mktemp("toys") / "toy", episodes=6, steps=30)
    bare = open_store(root, notify=QUIET)
    for episode in bare.episodes:
        frames = bare.frames(range(episode.start, episode.stop))
        ram = corners(frames[..., 0] > 100).astype(np.uint8)
        tracks = Tracks(actions=episode.tracks.actions, ram=ram, meta={**episode.tracks.meta, "start": "serve"})
        write_tracks(root / episode.name / TRACKS_FILE, tracks)
    return open_store(root, root.parent / "with_ram.lapa", notify=QUIET)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, toys: FrameStore) -> list[Path]:
    """Two tokenizers of a few steps, with codebooks of two sizes."""
    out = tmp_path_factory.mktemp("runs")
    for number in (16, 32):
        overrides = ["data.downsample=1", "data.color=rgb", f"model.quantizer.num_codes={number}"]
        config = load_config("tokenizer_debug", overrides=[*overrides, f"training.out={out / f'k{number}'}"])
        train(config, toys, QUIET)
    return [out / "k16", out / "k32"]


@pytest.fixture(scope="module")
def checkpoint(runs: list[Path]) -> Checkpoint:
    return load_checkpoint(runs[0] / "best.pt", "cpu")


@pytest.fixture(scope="module")
def judged(checkpoint: Checkpoint, toys: FrameStore) -> Evaluation:
    return evaluate(checkpoint, toys, batch_size=7, notify=QUIET)


class Perfect(Tokenizer):
    """Draws every frame as it is."""

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        return to_float(clips.next)


class Grey(Tokenizer):
    """Draws all frames alike."""

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        return torch.full_like(to_float(clips.next), 0.5)


class Checkered(Tokenizer):
    """Draws every second column two units too bright."""

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        frame = to_float(clips.next)
        frame[..., ::2] += 2 / 255
        return frame


def drawn_by(kind: type[Tokenizer], like: Checkpoint) -> Checkpoint:
    """The trained tokenizer's codes, and other frames."""
    model = kind(like.config.model, like.model.facts)
    model.load_state_dict(like.model.state_dict(), strict=False)
    return dataclasses.replace(like, model=model.eval().requires_grad_(False))


def rebuilt_verdicts(metrics: dict[str, float]) -> dict[str, str]:
    """Level by sentence, of what is said of the pictures alone."""
    return {verdict.sentence: verdict.level for verdict in RebuildingEvaluator.verdicts(metrics)}


# Figures


def test_figures_are_those_of_the_frames_and_of_simple_codes_of_as_many_bytes(judged: Evaluation) -> None:
    study = judged.study
    clips = study.clips[np.arange(len(study.clips))]
    drawn = study.system.draw(study.seen(clips)).clamp(0, 1)  # type: ignore[operator]
    true = to_float(clips.next)
    squared = squared_errors(drawn, true)
    found = judged.metrics
    assert found["rebuilt/psnr_db"] == pytest.approx(psnr_db(squared.mean()), abs=1e-3)
    assert found["rebuilt/worst_psnr_db"] == pytest.approx(psnr_db(squared.max()), abs=1e-3)
    assert found["rebuilt/l1"] == pytest.approx(float((drawn - true).abs().mean()), rel=1e-4)
    assert found["rebuilt/mean_psnr_db"] == pytest.approx(
        psnr_db(squared_errors(study.mean_frame.expand_as(true), true).mean()), abs=1e-3
    )
    assert found["rebuilt/bytes"] == found["codebook/bytes_per_frame"] == 10 * 8 * 4 / 8
    for name, simple in coded(clips.next, 40.0).items():
        expected = psnr_db(squared_errors(simple.pictures, true).mean())
        assert found[f"rebuilt/{name}_psnr_db"] == pytest.approx(expected, abs=1e-3)
    assert {"rebuilt/blocks_size", "rebuilt/runs_size"} <= found.keys()
    assert 0 < found["codebook/bytes_per_frame_zstd"] < 40
    seen = [len(study.store.block(int(start) + 1)) for start in study.clips.starts]
    assert found["codebook/bytes_per_frame_stored"] == pytest.approx(np.mean(seen))


def test_the_gap_is_that_between_training_frames_and_held_out_ones(
    judged: Evaluation, checkpoint: Checkpoint, toys: FrameStore
) -> None:
    splits = judged.details()["splits"]
    assert list(splits) == ["train", "val", "test"]
    gap = splits["train"]["psnr_db"] - splits["test"]["psnr_db"]
    assert judged.metrics["rebuilt/gap_db"] == pytest.approx(gap)
    on_train = evaluate(checkpoint, toys, "train", notify=QUIET)
    assert on_train.metrics["rebuilt/gap_db"] == pytest.approx(gap, abs=0.01)
    warning = "Judged on training episodes: these figures say nothing about new frames."
    assert warning in rebuilt_verdicts(on_train.metrics)
    assert warning not in rebuilt_verdicts(judged.metrics)


def test_a_perfect_tokenizer_has_nothing_against_it(checkpoint: Checkpoint, toys: FrameStore) -> None:
    found = evaluate(drawn_by(Perfect, checkpoint), toys, notify=QUIET).metrics
    assert found["rebuilt/psnr_db"] == found["rebuilt/worst_psnr_db"] == 120
    assert found["rebuilt/ssim"] == pytest.approx(1, abs=1e-6)
    assert found["rebuilt/grid_pattern"] == found["rebuilt/gap_db"] == 0
    levels = {sentence.partition(" ")[0]: level for sentence, level in rebuilt_verdicts(found).items()}
    assert found["rebuilt/runs_psnr_db"] == 120, "the toy's frames fit into as many bytes without loss"
    assert levels == {"Frames": "good", "At": "bad", "Held-out": "good"}


def test_a_tokenizer_that_draws_one_grey_is_told_so(checkpoint: Checkpoint, toys: FrameStore) -> None:
    found = evaluate(drawn_by(Grey, checkpoint), toys, notify=QUIET).metrics
    said = rebuilt_verdicts(found)
    bad = [sentence for sentence, level in said.items() if level == "bad"]
    assert len(bad) == 2
    assert "no better" in bad[0]
    assert "which need no model, are as good or better" in bad[1]


def test_a_grid_is_found_at_its_stride(checkpoint: Checkpoint, toys: FrameStore) -> None:
    found = evaluate(drawn_by(Checkered, checkpoint), toys, notify=QUIET).metrics
    assert found["rebuilt/grid_pattern"] == pytest.approx(1, abs=0.02)
    (row,) = (row for row in summary_rows(found) if row[0] == "grid pattern")
    assert row == ("grid pattern", "1.00 of 255", "every 2 x 2 pixels")
    assert any("Flat areas show a grid: it repeats every 2 x 2" in sentence for sentence in rebuilt_verdicts(found))


GOOD = {
    "rebuilt/psnr_db": 35.0,
    "rebuilt/mean_psnr_db": 20.0,
    "rebuilt/bytes": 338.0,
    "rebuilt/blocks_psnr_db": 22.0,
    "rebuilt/runs_psnr_db": 25.0,
    "rebuilt/gap_db": 0.2,
    "rebuilt/grid_pattern/2x2": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "level", "sentence"),
    [
        ({}, "good", "Frames are reconstructed at 35.0 dB, 15.0 dB better than the mean frame."),
        (
            {},
            "good",
            "At equal bytes (338 a frame) it is 13.0 dB better than block means, 10.0 dB better than palette runs.",
        ),
        ({}, "good", "Held-out frames are reconstructed as well as training frames (-0.2 dB)."),
        (
            {"rebuilt/gap_db": 3.1},
            "bad",
            "Held-out frames are reconstructed 3.1 dB worse than training frames: it has learnt training frames by "
            "heart.",
        ),
        ({"rebuilt/gap_db": 1.5}, "weak", "Held-out frames are reconstructed 1.5 dB worse than training frames."),
        (
            {"rebuilt/psnr_db": 20.0},
            "bad",
            "Frames are reconstructed no better (20.0 dB) than by the mean frame (20.0 dB).",
        ),
        (
            {"rebuilt/runs_psnr_db": 34.5},
            "weak",
            "At equal bytes (338 a frame) it is hardly better than palette runs, which need no model (+0.5 dB).",
        ),
        (
            {"rebuilt/runs_psnr_db": 36.0},
            "bad",
            "At equal bytes (338 a frame) palette runs, which need no model, are as good or better (36.0 dB).",
        ),
    ],
)
def test_the_verdicts_follow_the_figures(changes: dict[str, float], level: str, sentence: str) -> None:
    assert rebuilt_verdicts(GOOD | changes)[sentence] == level
    assert set(rebuilt_verdicts(GOOD).values()) == {"good"}


# The report


def test_the_report_speaks_of_frames_and_never_of_copying(
    judged: Evaluation, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    page = write_report(tmp_path, checkpoint, judged).read_text()
    text = page.partition('<h2 id="configuration">')[0]
    assert "<title>Tokenizer: report</title>" in text
    assert f"judged on {len(judged.study.clips)} frames of 1 held-out episode(s)" in text
    assert "bits per frame" in text
    for word in ("copying", "pairs", "transition<", "Latent actions"):
        assert word not in text, word
    transitions = "the codes of a Tokenizer are of single frames, not of transitions"
    assert text.count(transitions) == 1, "one reason is given once"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "metrics.json", "frames.png", "extremes.png", "trained.png", "movie.webp", "episodes.png"),
        *("codes.png", "code_map.png", "codes_nearest.png"),
    }
    assert set(json.loads((tmp_path / "metrics.json").read_text())["splits"]) == {"train", "val", "test"}
    assert [kind.group for kind in EVALUATORS if not kind.applies(judged.study)] == ["recon", "recordings", "dream"]


def test_the_frame_shown_is_the_one_that_is_named(judged: Evaluation, toys: FrameStore) -> None:
    (example,) = judged.study.examples(np.array([4]))
    episode = judged.study.episodes[0]
    assert example.where == f"{episode.name}/5.png"
    recorded = toys.frame(episode.start + 5)
    np.testing.assert_array_equal(np.moveaxis(example.next * 255, 0, -1).round(), recorded)


@pytest.mark.usefixtures("square")
def test_the_game_is_judged_by_frame_and_compared_with_simple_codes(checkpoint: Checkpoint, toys: FrameStore) -> None:
    evaluation = evaluate(drawn_by(Perfect, checkpoint), toys, notify=QUIET)
    found = evaluation.metrics
    assert not [name for name in found if "copy" in name]
    assert found["elements/square/within_2px"] == 1
    assert {f"elements/square/{who}_within_2px" for who in ("blocks", "runs")} <= found.keys()
    assert found["elements/simple_frames"] == len(evaluation.study.clips)
    stages = {name for name in found if name.startswith("stages/part/") and name.endswith("/frames")}
    assert stages == set()
    assert found["stages/part/upper_half_of_the_field/psnr_db"] == 120
    assert found["stages/start/serve/psnr_db"] == 120
    state = evaluation.study.game
    assert state is not None
    ram = np.concatenate([episode.tracks["ram"][1:] for episode in evaluation.study.episodes])
    assert found["stages/part/upper_half_of_the_field/pairs"] == (ram[:, 0] <= 15).sum(), "the frame's own stage"
    rows = {row[0]: row for row in summary_rows(found)}
    assert rows["square found"][1:] == (
        "100.0 %",
        f"block means {100 * found['elements/square/blocks_within_2px']:.1f} %, "
        f"palette runs {100 * found['elements/square/runs_within_2px']:.1f} %",
    )
    assert rows["PSNR, worst start"] == ("PSNR, worst start", "120.0 dB", "start serve")
    for kind in EVALUATORS:
        mine = {name: value for name, value in found.items() if name.startswith(f"{kind.group}/")}
        assert kind.rows(mine) == kind.rows(found)
        assert list(kind.verdicts(mine)) == list(kind.verdicts(found))
    assert len(verdicts(found)) >= 4


# What codes look like


def test_patches_of_a_code_are_the_nearest_places_that_have_it_each_of_another_frame(judged: Evaluation) -> None:
    study, grids = judged.study, judged.study.shared(code_grids)
    rows = np.arange(0, len(study.clips), 2)
    codes = np.unique(grids.codes[rows])
    distances = encoding_distances(study, study.coder, rows)  # type: ignore[arg-type]
    found = nearest_patches(study, codes, rows)
    for code in codes.tolist():
        patches = found[code]
        places = grids.codes[rows] == code
        assert len({patch.clip for patch in patches}) == len(patches) == min(6, places.any((1, 2)).sum())
        assert all(grids.codes[patch.clip, patch.row, patch.column] == code for patch in patches)
        assert patches[0].distance == pytest.approx(distances[places].min(), abs=1e-3)
        assert [patch.distance for patch in patches] == pytest.approx(
            sorted(np.where(places, distances, np.inf).min((1, 2)))[: len(patches)], abs=1e-3
        )
    picture = nearest_sheet(study)
    assert picture is not None
    assert (picture == np.array([255, 220, 0])).all(2).any(), "the places are outlined"


# Comparison


def test_tokenizers_are_compared_by_their_own_measures(runs: list[Path], toys: FrameStore, tmp_path: Path) -> None:
    groups = compare(runs, toys, tmp_path / "out", device="cpu", notify=QUIET)
    header, rows = comparison_header(groups), comparison_rows(groups)
    for column in (
        *("PSNR, dB", "SSIM of frames", "grid pattern, of 255", "training less held-out, dB", "codes used"),
        *("perplexity", "bits", "bytes", "labelled and redrawn, frames/s", "trained, frames/s"),
    ):
        assert column in header, column
    assert not [cell for row in rows for cell in row if cell == "-"], "no column is of other systems"
    assert not [label for label in header if "copying" in label or "pairs" in label]
    psnr: Any = groups[1].runs[0].metrics["rebuilt/psnr_db"]
    assert rows[1][header.index("PSNR, dB")] == f"{psnr:.2f}"
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<title>Tokenizers: comparison</title>" in page
    assert "Judged on the same frames" in page
