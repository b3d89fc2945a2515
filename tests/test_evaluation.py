"""Every figure of the report is what its name says, and is judged on held-out episodes beside doing nothing."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

from lapa.checkpoint import Checkpoint
from lapa.data.episodes import TRUTH_FILE
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.store import FrameStore, open_store
from lapa.errors import CheckpointError, DataError
from lapa.evaluation.codebook import codebook_metrics
from lapa.evaluation.evaluate import Evaluation, evaluate
from lapa.evaluation.probe import ProbeData, probe_metrics
from lapa.evaluation.reconstruction import CHANGED, ReconstructionError, mean_ssim, psnr_db, squared_errors
from lapa.evaluation.report import format_table, read_history, summary_rows, write_report
from lapa.labelling import label
from lapa_envs.atari import make_env
from lapa_envs.recording import record

NEED_NO_TRUTH = {
    *(f"recon/{who}{what}" for who in ("", "copy_", "shuffled_") for what in ("psnr_db", "changed_psnr_db")),
    *("recon/gain_over_copy_db", "recon/shuffled_drop_db", "recon/ssim", "recon/copy_ssim"),
    *(f"codebook/{what}" for what in ("num_codes", "codes_used", "perplexity", "bits_nominal", "bits_empirical")),
    "speed/pairs_per_second",
}
DISTANCES = {f"elements/{what}/{who}median_px" for what in ("ball", "paddle") for who in ("", "copy_")}
NEED_TRUTH = {
    *("elements/ball/free_frames", "elements/ball/drawn", "elements/ball/copy_drawn"),
    *("elements/ball/within_4px", "elements/ball/copy_within_4px"),
    *("elements/paddle/within_2px", "elements/paddle/copy_within_2px"),
    *("elements/bricks/accuracy", "elements/bricks/copy_accuracy"),
    *("elements/bricks/changed_accuracy", "elements/bricks/copy_changed_accuracy"),
    *(
        "probe/accuracy",
        "probe/linear_accuracy",
        "probe/majority_accuracy",
        "probe/oracle_accuracy",
        "probe/share_of_oracle",
    ),
}


@pytest.fixture(scope="module")
def evaluation(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> Evaluation:
    return evaluate(breakout_checkpoint, breakout_store)


def frames(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 24, 20, generator=torch.Generator().manual_seed(seed))


# Reconstruction


@pytest.mark.parametrize(("mse", "db"), [(1.0, 0.0), (0.1, 10.0), (1e-4, 40.0), (0.0, 120.0)])
def test_psnr_is_ten_times_the_logarithm_of_one_over_the_error(mse: float, db: float) -> None:
    assert psnr_db(mse) == pytest.approx(db)


def test_squared_errors_are_means_over_each_clipped_frame() -> None:
    prediction, target = frames(seed=1) * 3 - 1, frames(seed=2)
    expected = ((prediction.numpy().clip(0, 1) - target.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(squared_errors(prediction, target), expected, rtol=1e-5)


def test_errors_over_batches_are_those_over_all_pairs() -> None:
    prediction, current = frames(7, seed=1) * 1.4 - 0.2, frames(7, seed=2)
    next = torch.where(frames(7, seed=3) > 0.8, frames(7, seed=4), current)
    sums = ReconstructionError()
    for rows in (slice(0, 4), slice(4, 7)):
        sums.add(prediction[rows], current[rows], next[rows])
    error = (prediction.numpy().clip(0, 1) - next.numpy()) ** 2
    changed = np.abs(next.numpy() - current.numpy()) > CHANGED
    assert 0 < changed.mean() < 0.5
    assert sums.metrics() == {
        "psnr_db": pytest.approx(-10 * math.log10(error.mean()), rel=1e-5),
        "changed_psnr_db": pytest.approx(-10 * math.log10(error[changed].mean()), rel=1e-5),
    }


def published_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004: an 11 x 11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03; without the border of 5."""

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image.astype(np.float64), 1.5, radius=5)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, both = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(index[5:-5, 5:-5].mean())


def test_ssim_is_the_published_one() -> None:
    from skimage.metrics import structural_similarity

    x = frames(2, seed=1).numpy().astype(np.float64)
    y = (0.3 * x + 0.7 * frames(2, seed=2).numpy()).round()
    expected = np.mean([published_ssim(a[0], b[0]) for a, b in zip(x, y, strict=True)])
    assert mean_ssim(y, x) == pytest.approx(expected, abs=1e-6)
    by_default = np.mean([structural_similarity(a[0], b[0], data_range=1.0) for a, b in zip(x, y, strict=True)])
    assert abs(by_default - expected) > 1e-3, "the settings make no difference: the test says nothing"


def test_equal_frames_are_fully_similar() -> None:
    assert mean_ssim(frames().numpy(), frames().numpy()) == pytest.approx(1.0)


# Codebook


def test_codebook_figures_of_known_counts() -> None:
    codes = np.array([[[0, 1]], [[0, 1]], [[1, 1]], [[1, 1]]])  # 4 transitions of 1 x 2 codes
    metrics = codebook_metrics(codes, num_codes=16)
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert metrics == {
        "num_codes": 16.0,
        "codes_used": 2.0,
        "perplexity": pytest.approx(2**entropy),
        "bits_nominal": 8.0,
        "bits_empirical": pytest.approx(1.0),  # one bit at the first place, none at the second
    }


def test_a_codebook_of_one_code_carries_nothing() -> None:
    metrics = codebook_metrics(np.full((5, 2, 2), 3), num_codes=8)
    assert (metrics["codes_used"], metrics["perplexity"], metrics["bits_empirical"]) == (1.0, 1.0, 0.0)


def test_an_even_codebook_carries_all_it_could() -> None:
    metrics = codebook_metrics(np.arange(8).reshape(8, 1, 1), num_codes=8)
    assert metrics["perplexity"] == pytest.approx(8.0)
    assert metrics["bits_empirical"] == metrics["bits_nominal"] == 3.0


# Probe


def planted(count: int, seed: int, *, informative: bool) -> ProbeData:
    """Transitions of 1 x 2 codes: the first, and the state, are the action if ``informative``; the rest is noise."""
    rng = np.random.default_rng(seed)
    actions = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    told = actions if informative else rng.integers(0, 8, count)
    return ProbeData(
        codes=np.stack([told, rng.integers(0, 8, count)], axis=1)[:, None],
        actions=actions,
        state=np.stack([actions + rng.normal(0, 0.01, count), rng.normal(size=count)], axis=1),
    )


def test_the_probe_reads_a_planted_action() -> None:
    metrics = probe_metrics(planted(600, 0, informative=True), planted(300, 1, informative=True), num_codes=8)
    for name in ("accuracy", "linear_accuracy", "oracle_accuracy", "share_of_oracle"):
        assert metrics[name] == 1.0, name
    assert metrics["majority_accuracy"] == pytest.approx(0.6, abs=0.08)


def test_the_probe_reads_nothing_from_noise() -> None:
    metrics = probe_metrics(planted(600, 0, informative=False), planted(300, 1, informative=False), num_codes=8)
    assert metrics["accuracy"] == pytest.approx(metrics["majority_accuracy"], abs=0.05)
    assert metrics["share_of_oracle"] == pytest.approx(metrics["accuracy"] / metrics["oracle_accuracy"])


def test_the_probe_sees_what_two_codes_mean_together_and_a_linear_one_does_not() -> None:
    def exclusive_or(count: int, seed: int) -> ProbeData:
        codes = np.random.default_rng(seed).integers(0, 2, (count, 1, 2))
        return ProbeData(codes, codes.sum((1, 2)) % 2, state=None)

    metrics = probe_metrics(exclusive_or(400, 0), exclusive_or(200, 1), num_codes=2)
    assert metrics["accuracy"] == 1.0
    assert metrics["linear_accuracy"] < 0.8


def test_the_majority_is_that_of_the_training_actions() -> None:
    train, test = planted(300, 0, informative=True), planted(100, 1, informative=True)
    test = dataclasses.replace(test, actions=np.full(100, 2), state=None)
    metrics = probe_metrics(train, test, num_codes=8)
    assert metrics["majority_accuracy"] == 0.0
    assert "oracle_accuracy" not in metrics


# The whole


def test_breakout_gets_all_figures_and_they_are_finite(evaluation: Evaluation) -> None:
    # A distance may be missing where nothing was drawn.
    assert evaluation.metrics.keys() - DISTANCES == NEED_NO_TRUTH | NEED_TRUTH
    assert evaluation.left_out == []
    assert [name for name, value in evaluation.metrics.items() if not math.isfinite(value)] == []


def test_the_episodes_judged_are_those_of_the_split(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    assert evaluation.episodes == breakout_checkpoint.split["test"]
    pairs = 50 * len(evaluation.episodes)
    assert evaluation.code_counts.sum() == pairs * math.prod(breakout_checkpoint.model.grid)
    assert {example.where.split("/")[0] for example in evaluation.examples} <= set(evaluation.episodes)
    assert evaluate(breakout_checkpoint, breakout_store, "val").episodes == breakout_checkpoint.split["val"]


def test_figures_are_those_of_the_labelled_and_redrawn_pairs(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    model = breakout_checkpoint.model
    (episode,) = (e for e in breakout_store.episodes if e.name in evaluation.episodes)
    raw = breakout_store.frames(range(episode.start, episode.stop))
    seen = to_float(prepare(torch.from_numpy(raw), model.format))
    codes = label(model, raw[:-1], raw[1:])
    drawn = model.decode(seen[:-1], codes)
    metrics = evaluation.metrics
    assert metrics["recon/psnr_db"] == pytest.approx(psnr_db(squared_errors(drawn, seen[1:]).mean()), abs=1e-3)
    assert metrics["recon/copy_psnr_db"] == pytest.approx(psnr_db(squared_errors(seen[:-1], seen[1:]).mean()), abs=1e-3)
    assert metrics["recon/gain_over_copy_db"] == metrics["recon/psnr_db"] - metrics["recon/copy_psnr_db"]
    assert metrics["codebook/codes_used"] == len(codes.unique())
    assert metrics["codebook/bits_nominal"] == 27 * 20 * 4


def test_a_batch_size_changes_no_figure(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    again = evaluate(breakout_checkpoint, breakout_store, batch_size=7)
    for name in evaluation.metrics.keys() - {"speed/pairs_per_second"}:
        assert again.metrics[name] == pytest.approx(evaluation.metrics[name], rel=1e-4, abs=1e-4), name


class Copy(nn.Module):
    """A decoder that repeats the current frame, whatever the codes."""

    def forward(self, current: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        return current


def test_a_model_that_copies_gains_nothing(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> None:
    model = copy.deepcopy(breakout_checkpoint.model)
    model.decoder = Copy()  # type: ignore[assignment]
    metrics = evaluate(dataclasses.replace(breakout_checkpoint, model=model), breakout_store).metrics
    assert metrics["recon/gain_over_copy_db"] == metrics["recon/shuffled_drop_db"] == 0.0
    for name in (name for name in metrics if "copy_" in name.rsplit("/")[-1] and "gain" not in name):
        assert metrics[name] == pytest.approx(metrics[name.replace("copy_", "")]), name


@pytest.fixture
def pictures_only(breakout_recording: Path, tmp_path: Path) -> FrameStore:
    """The recording without anything but its PNG files."""
    root = shutil.copytree(breakout_recording, tmp_path / "bulk_videos", ignore=shutil.ignore_patterns(".lapa"))
    for path in root.glob(f"*/{TRUTH_FILE}"):
        path.unlink()
    return open_store(root)


def test_pictures_alone_get_all_that_needs_no_truth_and_say_what_is_missing(
    breakout_checkpoint: Checkpoint, pictures_only: FrameStore, evaluation: Evaluation
) -> None:
    found = evaluate(breakout_checkpoint, pictures_only)
    assert found.metrics.keys() == NEED_NO_TRUTH
    for name in NEED_NO_TRUTH - {"speed/pairs_per_second"}:
        assert found.metrics[name] == evaluation.metrics[name], name
    assert [sentence.split(":")[0] for sentence in found.left_out] == ["ball, paddle and bricks", "action probe"]


def test_a_recording_made_later_is_judged_whole(breakout_checkpoint: Checkpoint, tmp_path: Path) -> None:
    env = make_env()
    record(env, tmp_path / "later", episodes=1, max_steps=10, seed=99)
    env.close()
    (tmp_path / "later" / "0").rename(tmp_path / "later" / "100")
    found = evaluate(breakout_checkpoint, open_store(tmp_path / "later"))
    assert found.episodes == ["100"]
    assert "elements/paddle/within_2px" in found.metrics
    assert "probe/accuracy" not in found.metrics  # there is nothing to fit it on
    assert len(found.left_out) == 1


def test_a_split_that_is_not_there_is_an_error(
    breakout_checkpoint: Checkpoint, breakout_recording: Path, tmp_path: Path
) -> None:
    name = breakout_checkpoint.split["train"][0]
    shutil.copytree(breakout_recording / name, tmp_path / "some" / name)
    with pytest.raises(DataError, match="no episode of the split 'test'"):
        evaluate(breakout_checkpoint, open_store(tmp_path / "some"))


def test_frames_of_another_size_are_refused(breakout_checkpoint: Checkpoint, tmp_path: Path, record_toy) -> None:
    with pytest.raises(CheckpointError, match="210 x 160, these are 40 x 32"):
        evaluate(breakout_checkpoint, open_store(record_toy(tmp_path / "toy")))


# The report


@pytest.fixture(scope="module")
def report(
    breakout_checkpoint: Checkpoint,
    breakout_run: Path,
    evaluation: Evaluation,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    history = read_history(breakout_run / "metrics.jsonl")
    return write_report(tmp_path_factory.mktemp("report"), breakout_checkpoint, evaluation, history)


def test_the_report_is_one_page_with_its_figures_beside_it(report: Path) -> None:
    assert {path.name for path in report.parent.iterdir()} == {
        *("report.html", "metrics.json", "pairs.png", "codes.png", "training.png")
    }
    for path in report.parent.glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 1, f"{path.name} is blank"


def test_the_report_needs_nothing_from_elsewhere(report: Path) -> None:
    text = report.read_text()
    assert "http" not in text
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"' >]+)", text)
    assert len(sources) == 4  # three figures and an empty icon
    assert all(source.startswith("data:") for source in sources)
    assert not re.findall(r"<script|<iframe|@import|url\(", text)


def test_the_report_says_what_was_judged(report: Path, breakout_checkpoint: Checkpoint, evaluation: Evaluation) -> None:
    text = report.read_text()
    for fact in (breakout_checkpoint.digest, f"held-out episode(s): {', '.join(evaluation.episodes)}", "downsample: 2"):
        assert fact in text
    for name, value, _ in summary_rows(evaluation.metrics):
        assert f"<td>{name}</td>" in text
        assert value in text


def test_the_figures_are_stored_as_json(report: Path, breakout_checkpoint: Checkpoint, evaluation: Evaluation) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    facts = json.loads((report.parent / "metrics.json").read_text(), parse_constant=refuse)
    assert facts["metrics"] == evaluation.metrics
    assert facts["episodes"] == evaluation.episodes
    assert facts["checkpoint"]["digest"] == breakout_checkpoint.digest


def test_the_table_says_only_what_was_measured(evaluation: Evaluation) -> None:
    everything = format_table(summary_rows(evaluation.metrics))
    less = format_table(summary_rows({name: evaluation.metrics[name] for name in NEED_NO_TRUTH}))
    assert set(less.splitlines()) < set(everything.splitlines()) or len(less) < len(everything)
    assert "ball" in everything
    assert "ball" not in less
    assert "true action" not in less


def test_a_report_without_history_has_no_curves(
    breakout_checkpoint: Checkpoint, evaluation: Evaluation, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "deep" / "report", breakout_checkpoint, evaluation, read_history(tmp_path / "none"))
    assert not (path.parent / "training.png").exists()
    assert "training curves" not in path.read_text()


def test_colours_of_the_difference_picture() -> None:
    from lapa.evaluation.pictures import difference_image

    target = np.array([[[0.5, 0.5, 0.5]]])
    prediction = np.array([[[0.5, 1.0, 0.0]]])
    assert difference_image(prediction, target).tolist() == [[[255, 255, 255], [255, 0, 0], [0, 0, 255]]]


def test_prepared_examples_are_drawn_in_their_size(evaluation: Evaluation) -> None:
    assert FrameFormat(210, 160, downsample=2).size == evaluation.examples[0].current.shape[1:]
    assert len(evaluation.examples) == 8
