"""`lapa inspect` tells what a recording holds, of any kind that can be trained on, and writes over nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lapa.cli import main
from lapa.data.store import FrameStore


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    """What a call prints, on the error output if it fails."""
    capsys.readouterr()
    assert main(["inspect", *map(str, words)]) == code
    output = capsys.readouterr()
    return output.err if code else output.out


def test_a_recording_of_a_known_game_gets_its_coverage(
    breakout_recording: Path, breakout_store: FrameStore, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, breakout_recording)
    lines = {line.split("  ")[0]: line for line in text.splitlines()}
    assert lines["episodes"].split() == ["episodes", "6"]
    assert lines["frames"].endswith(f"{len(breakout_store)}  210 x 160 pixels")
    assert lines["environment"].endswith("ALE/Breakout-v5")
    assert lines["natural play"].endswith("no (5), yes (1)")
    assert "tunnel (1)" in lines["starts"]
    assert lines["actions"].count("%") == 4
    assert "coverage of Breakout at full size, by RAM; splits as dealt by data.split 0.8 / 0.1 / 0.1" in text
    assert any(line.startswith("bricks standing") and line.endswith("test") for line in lines.values())
    assert "missing: no frame with 864 points; record with --start cleared" in text
    assert "picture" not in text


def test_json_has_the_same_and_nothing_else_is_printed(
    breakout_recording: Path, breakout_store: FrameStore, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(told(capsys, "--data", breakout_recording, "--json"))
    assert found["contents"]["frames"] == len(breakout_store)
    assert found["game"] == "Breakout at full size"
    assert sorted(name for part in ("train", "val", "test") for name in found["split"][part]) == list("012345")
    aspect = found["coverage"][0]
    assert aspect["title"] == "bricks standing"
    assert len(aspect["parts"]) == len(aspect["frames"]["all"])
    assert sum(aspect["frames"]["all"]) == len(breakout_store)
    assert any("0 bricks standing" in sentence for sentence in found["missing"])


def test_packed_stores_are_inspected_too(
    breakout_recording: Path, breakout_store: FrameStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    for name in ("a", "b"):
        shutil.copy(breakout_store.path, stores / f"{name}.lapa")
    assert told(capsys, stores / "a.lapa").count("coverage of Breakout") == 1
    for roots in ([stores], [stores / "a.lapa", stores / "b.lapa"]):
        assert json.loads(told(capsys, *roots, "--json"))["contents"]["episodes"] == 12


def test_a_recording_without_anything_but_pictures_says_what_it_lacks(
    tmp_path: Path, record_toy: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = record_toy(tmp_path / "toy", episodes=2, steps=5, with_actions=False)
    text = told(capsys, root)
    assert "coverage: unknown, for the recording is not Breakout at full size" in text
    assert "missing: actions in 2 of 2 episodes" in text
    assert "missing: ram in 2 of 2 episodes" in text
    assert "missing: episodes: train, val and test need one each, and there is 2; record more" in text
    assert re.search(r"natural play +unknown\n", text)
    error = told(capsys, root, "--out", tmp_path / "a.png", code=2)
    assert "there is no coverage to show" in error
    assert error.count("\n") <= 2, "one line, after that on the store"


def test_a_picture_is_written_only_if_asked_for_and_only_over_its_own_kind(
    breakout_recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told(capsys, breakout_recording)
    assert list(tmp_path.iterdir()) == []
    for _ in range(2):
        assert "picture: c.png" in told(capsys, breakout_recording, "--out", "c.png")
        with Image.open("c.png") as image:
            assert image.width > 500
    frame = tmp_path / "1.png"
    shutil.copy(breakout_recording / "0" / "1.png", frame)
    before = frame.read_bytes()
    assert "was not written by `lapa inspect`; name another file" in told(
        capsys, breakout_recording, "--out", frame, code=2
    )
    assert frame.read_bytes() == before
    assert "must end with .png" in told(capsys, breakout_recording, "--out", "c.txt", code=2)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = told(capsys, tmp_path / "nothing", code=2)
    assert error.startswith("lapa: error: ")
    assert error.count("\n") == 1
    assert "no such folder; record episodes with" in error
