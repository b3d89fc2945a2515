"""The report is one page that needs nothing from elsewhere, shows every figure, and loads without an error."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import PATIENCE, pixels
from lapa.data.frames import prepare
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint
from lapa.evaluation.association import associate
from lapa.evaluation.drawing import DrawingEvaluator
from lapa.evaluation.evaluate import Evaluation, summary_rows
from lapa.evaluation.events import CodeEvents, event_codes, event_rows, event_sentences
from lapa.evaluation.report import write_report
from lapa.metrics.codes import code_names
from lapa.report.pictures import DIFFERENCE, difference_image, movie, outlined, sheet, width_of
from lapa.report.tables import format_table
from lapa.tracking.jsonl import read_history

FIGURES = {
    *("pairs.png", "extremes.png", "movie.webp", "episodes.png", "codes.png", "code_map.png", "control.png"),
    *("counterfactuals.png", "confusion.png", "labels.png", "training.png"),
}


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
    names = {path.name for path in report.parent.iterdir()}
    assert FIGURES | {"report.html", "metrics.json"} <= names
    assert all(name.startswith("code_") for name in names - FIGURES - {"report.html", "metrics.json"})
    for path in report.parent.glob("*.png"):
        shown = pixels(path)
        drawn = (shown != 255).any(2)
        assert shown.shape[0] > 100, path.name
        assert shown.shape[1] > 300, path.name
        assert drawn.any(0).mean() > 0.3, f"{path.name} is blank over most of its width"
        assert drawn.any(1).mean() > 0.5, f"{path.name} is blank over most of its height"


def test_the_pairs_shown_are_held_out_frames_and_what_is_between(
    report: Path, breakout_checkpoint: Checkpoint, breakout_store: FrameStore, evaluation: Evaluation
) -> None:
    image = pixels(report.parent / "pairs.png")
    top, left, height, width = 18, 96, 2 * 105, 160  # of the first cell; frames of half size are drawn at twice theirs
    current, following, drawn, difference = (
        image[top + row * (height + 4) :, left:][:height:2, :width:2].astype(int) for row in range(4)
    )
    (episode,) = (e for e in breakout_store.episodes if e.name in evaluation.episodes)
    raw = torch.from_numpy(breakout_store.frames(range(episode.start, episode.stop)))
    frames = prepare(raw, breakout_checkpoint.model.format)[:, 0].numpy()
    pairs = itertools.pairwise(frames)
    assert any((a == current[..., 0]).all() and (b == following[..., 0]).all() for a, b in pairs)
    error = (drawn - following)[..., 0]
    assert (difference[abs(error) < 2] > 250).all(), "white is equal"
    assert (difference[error > 20][:, 0] == 255).all(), "red is too bright"
    assert (difference[error < -20][:, 2] == 255).all(), "blue is too dark"


def test_the_moving_picture_has_a_frame_for_each_pair(report: Path) -> None:
    with Image.open(report.parent / "movie.webp") as movie:
        assert (movie.n_frames, movie.height) == (50, 18 + 2 * 105 + 4)


def test_the_report_needs_nothing_from_elsewhere(report: Path) -> None:
    text = report.read_text()
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    sources = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"' >]+)", text)
    assert len([source for source in sources if source.startswith("data:image/")]) >= len(FIGURES)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.findall(r"<script|<iframe|@import|url\(", text)
    anchors = {source[1:] for source in sources if source.startswith("#")}
    assert all(f'id="{anchor}"' in text for anchor in anchors)


def test_the_report_says_what_was_judged(report: Path, breakout_checkpoint: Checkpoint, evaluation: Evaluation) -> None:
    text = report.read_text()
    for fact in (breakout_checkpoint.digest, f"held-out episode(s): {', '.join(evaluation.episodes)}", "downsample: 2"):
        assert fact in text
    for name, value, _ in summary_rows(evaluation.metrics):
        assert f">{name}</td>" in text
        assert value in text
    for verdict in evaluation.verdicts:
        assert verdict.sentence in text


def test_the_figures_are_stored_as_json(report: Path, breakout_checkpoint: Checkpoint, evaluation: Evaluation) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    facts = json.loads((report.parent / "metrics.json").read_text(), parse_constant=refuse)
    assert facts["metrics"] == evaluation.metrics
    assert facts["episodes"] == evaluation.episodes
    assert facts["checkpoint"]["digest"] == breakout_checkpoint.digest
    drawing = evaluation.find(DrawingEvaluator)
    assert drawing is not None
    assert facts["splits"] == drawing.splits
    assert facts["by_episode"] == drawing.by_episode
    assert len(facts["events"]["lift"]) == facts["metrics"]["codebook/num_codes"]
    assert np.sum(facts["confusion"]["counts"]) == 50


def test_the_table_says_only_what_was_measured(evaluation: Evaluation) -> None:
    everything = format_table(summary_rows(evaluation.metrics))
    known = ("recon/", "codebook/", "control/", "speed/")
    less = format_table(summary_rows({n: v for n, v in evaluation.metrics.items() if n.startswith(known)}))
    assert "ball" in everything
    assert "true action" in everything
    assert "ball" not in less
    assert "true action" not in less


def test_a_report_without_history_has_no_curves(
    breakout_checkpoint: Checkpoint, evaluation: Evaluation, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "deep" / "report", breakout_checkpoint, evaluation, read_history(tmp_path / "none"))
    assert not (path.parent / "training.png").exists()
    assert 'id="training"' not in path.read_text()


# Events in words


def planted_events() -> CodeEvents:
    """Code 3 stands for the first event, codes 1 and 2 for the second; the third happens to none."""
    rng = np.random.default_rng(0)
    events = np.zeros((1000, 3), dtype=bool)
    events[:100, 0] = events[100:400, 1] = True
    codes = np.zeros((1000, 1, 1), dtype=int)
    codes[:100] = 3
    codes[100:400, 0, 0] = rng.choice([1, 2], 300, p=[0.7, 0.3])
    found = associate(codes, events, 5)
    return CodeEvents(("paddle moves left", "wall bounce", "never"), code_names(5, 1), events, found, found)


def test_the_report_answers_in_words() -> None:
    events = planted_events()
    assert event_sentences(events) == [
        "code 3: paddle moves left (lift 10.0)",
        "codes 1 and 2: wall bounce (lift 3.3)",
    ]
    assert event_rows(events)[0][:7] == ("paddle moves left", "100", "3", "100", "100", "10.0", "<0.001")


def test_top_codes_are_chosen_in_training_and_judged_elsewhere() -> None:
    """A code that goes with an event by chance in training is shown with what it is elsewhere, and not named for it."""
    events = planted_events()
    judged = associate(np.full((1000, 1, 1), 3), events.happens, 5)
    held_out = CodeEvents(events.names, events.code_names, events.happens, events.chosen_on, judged)
    assert event_codes(held_out)[0].codes == [3]
    assert event_sentences(held_out) == [
        "no code: paddle moves left (code 3 does not hold)",
        "no code: wall bounce (codes 1 and 2 do not hold)",
    ]
    assert event_rows(held_out)[0][5:7] == ("1.0", "1.000")


# Pictures


def test_colours_of_the_difference_picture() -> None:
    target = np.array([[[0.5, 0.5, 0.5]]])
    prediction = np.array([[[0.5, 0.5 + DIFFERENCE, 0.5 - DIFFERENCE]]])
    assert difference_image(prediction, target).tolist() == [[[255, 255, 255], [255, 0, 0], [0, 0, 255]]]


def test_a_sheet_shows_every_cell_enlarged_by_a_whole_number() -> None:
    cells = [[np.full((105, 80, 3), 10 * (3 * row + column), np.uint8) for column in range(3)] for row in range(2)]
    image = sheet(cells, ["above", "below"], ["a", "b", "c"], scale_bar=True)
    for shade in range(6):
        row, column = divmod(shade, 3)
        cell = image[18 + row * 214 :, 96 + column * 164 :][:210, :160]
        assert (cell == 10 * shade).all()
    assert image.shape == (18 + 2 * 214, 96 + 3 * 164 + 110, 3)
    bar = image[18 + 214 :, 96 + 3 * 164 + 8 + 7][:210]  # down its middle
    assert [bar[1].tolist(), bar[-2].tolist()] == [[255, 2, 2], [2, 2, 255]]
    assert image.dtype == np.uint8


def test_places_are_outlined_about_their_centres() -> None:
    image = outlined(np.zeros((105, 80, 3), np.uint8), np.array([[72.0, 97.0]]), (7, 5))
    rows, columns, _ = np.nonzero(image)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (90, 104, 64, 79)
    assert not image[95, 70].any(), "only the border is coloured"


def test_longer_names_do_not_move_a_picture() -> None:
    names, cell = (
        ["breakout/episode_with_a_name/9.png", "breakout/episode_with_a_name/10.png"],
        np.zeros((64, 64, 3), np.uint8),
    )
    sheets = [sheet([[cell]], [name], [""], names_width=width_of(names)) for name in names]
    assert sheets[0].shape == sheets[1].shape


def test_the_moving_picture_is_lossless(tmp_path: Path) -> None:
    frames = [np.random.default_rng(n).integers(0, 255, (20, 30, 3), np.uint8) for n in range(3)]
    (tmp_path / "movie.webp").write_bytes(movie(frames))
    with Image.open(tmp_path / "movie.webp") as image:
        assert image.n_frames == 3
        for number, frame in enumerate(frames):
            image.seek(number)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frame)


# In a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Where a browser must be there, its absence is a failure.
needs_browser = pytest.mark.skipif(
    not CHROMIUM and "LAPA_BROWSER" not in os.environ, reason="no Chromium on this machine"
)


def console_errors(page: Path, profile: Path) -> list[str]:
    """What a headless Chromium writes on its console while it loads a page from disk."""
    assert CHROMIUM, "LAPA_BROWSER is set, but there is no Chromium"
    quiet = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", *quiet, f"--user-data-dir={profile}"),
            *("--enable-logging=stderr", "--dump-dom", page.absolute().as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "</html>" in done.stdout, done.stderr[-2000:]
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@needs_browser
def test_the_page_loads_without_an_error(report: Path, tmp_path: Path) -> None:
    assert console_errors(report, tmp_path / "profile") == []


@pytest.mark.browser
@needs_browser
def test_an_error_on_a_page_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<html><body><script>nothing.here()</script></body></html>")
    assert len(console_errors(page, tmp_path / "profile")) == 1
