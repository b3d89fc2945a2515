"""Reading actions and events from a grid of codes, and keeping what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lapa.engine.checkpoint import Checkpoint
from lapa.errors import DataError
from lapa.evaluation.evaluate import Evaluation
from lapa.evaluation.reading import event_reading_metrics, fit_reader
from lapa.evaluation.report import write_report
from lapa.inference.reading import READER_FILE, CodeReader, load_reader
from lapa_envs.pretrained import default_checkpoint, default_reader

ACTIONS = ("stay", "right", "left")
EVENTS = ("blink", "never")


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (P, 2, 3) below 8, of which the first tells the action, and the last is 7 when it blinks."""
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 3, count)
    codes = rng.integers(0, 7, (count, 2, 3))
    codes[:, 0, 0] = actions + 2
    blinks = rng.random(count) < 0.2
    codes[blinks, 1, 2] = 7
    return codes, actions, np.stack([blinks, np.zeros(count, dtype=bool)], axis=1)


@pytest.fixture(scope="module")
def reader() -> CodeReader:
    codes, actions, happens = planted(500, 0)
    return fit_reader(codes, 8, actions, ACTIONS, happens, EVENTS)


def test_what_the_codes_tell_is_read(reader: CodeReader) -> None:
    codes, actions, happens = planted(200, 1)
    for grid, action, (blinks, _) in zip(codes, actions, happens, strict=True):
        reading = reader.read(grid)
        assert reading.action is not None
        assert reading.action[0] == ACTIONS[action]
        assert reading.action[1] > 0.8
        assert [name for name, _ in reading.events] == ["blink"] * bool(blinks)


def test_probabilities_are_those_of_what_was_fitted(reader: CodeReader) -> None:
    of_actions, of_events = reader.probabilities(planted(50, 2)[0])
    assert of_actions.shape == (50, 3)
    np.testing.assert_allclose(of_actions.sum(1), 1, rtol=1e-5)
    assert of_events.shape == (50, 1), "an event that never happened cannot be read"
    assert ((of_events > 0) & (of_events < 1)).all()


def test_two_actions_are_read_too() -> None:
    codes, actions, _ = planted(300, 0)
    two = fit_reader(codes, 8, np.minimum(actions, 1), ("stay", "move"), None, ())
    of_actions, _ = two.probabilities(codes)
    np.testing.assert_array_equal(of_actions.argmax(1), np.minimum(actions, 1))
    assert two.read(codes[0]).events == []


def test_without_actions_and_events_nothing_is_read() -> None:
    codes, _, _ = planted(20, 0)
    reading = fit_reader(codes, 8, None, (), None, ()).read(codes[0])
    assert (reading.action, reading.events, str(reading)) == (None, [], "")


def test_it_is_read_back_as_it_was_written(reader: CodeReader, tmp_path: Path) -> None:
    reader.save(tmp_path / "reader.npz", "abc")
    again = load_reader(tmp_path / "reader.npz", "abc")
    assert (again.num_codes, again.actions, again.events) == (8, ACTIONS, ("blink",))
    codes = planted(100, 3)[0]
    for found, expected in zip(again.probabilities(codes), reader.probabilities(codes), strict=True):
        np.testing.assert_allclose(found, expected, atol=5e-3)  # kept in half precision


def test_how_well_events_are_read_is_measured(reader: CodeReader) -> None:
    codes, _, happens = planted(300, 4)
    metrics = event_reading_metrics(reader, codes, happens, EVENTS)
    assert metrics["blink/share"] == pytest.approx(happens[:, 0].mean())
    assert metrics["blink/average_precision"] == metrics["blink/precision"] == metrics["blink/recall"] == 1.0
    assert not any(name.startswith("never") for name in metrics)
    shuffled = event_reading_metrics(reader, np.random.default_rng(0).permutation(codes), happens, EVENTS)
    assert shuffled["blink/average_precision"] < 2 * shuffled["blink/share"], "guessing looks good"


@pytest.mark.parametrize(
    ("content", "checkpoint", "said"),
    [
        (None, "abc", "no such file; `lapa evaluate` writes it"),
        (b"junk", "abc", "cannot be used .*run `lapa evaluate` again"),
        ("saved", "other", "reads the codes of checkpoint abc, not of other; run `lapa evaluate` on this one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    content: bytes | str | None, checkpoint: str, said: str, reader: CodeReader, tmp_path: Path
) -> None:
    path = tmp_path / "reader.npz"
    if content == "saved":
        reader.save(path, "abc")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        load_reader(path, checkpoint)
    assert "\n" not in str(caught.value)


def test_the_report_keeps_a_reader_of_its_checkpoint(
    breakout_checkpoint: Checkpoint, evaluation: Evaluation, tmp_path: Path
) -> None:
    page = write_report(tmp_path, breakout_checkpoint, evaluation).read_text()
    reader = load_reader(tmp_path / READER_FILE, breakout_checkpoint.digest)
    assert set(reader.actions) <= {"stay", "right", "left"}
    assert "paddle moves left" in reader.events
    codes = evaluation.study.codes
    assert codes is not None
    assert reader.probabilities(codes)[0].shape == (len(codes), len(reader.actions))
    assert "reads from all codes of a grid together" in page
    assert "reading/paddle_moves_left/average_precision" in evaluation.metrics


def test_the_model_that_comes_with_the_package_has_a_reader() -> None:
    from lapa.engine.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(default_checkpoint(), "cpu")
    reader = load_reader(default_reader(), checkpoint.digest)
    assert reader.actions == ("stay", "right", "left")
    assert reader.weights.shape[0] == 14 * 20 * 256
