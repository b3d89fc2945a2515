"""The commands take pictures and videos as they take recordings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import toy_episode
from lapa import load_checkpoint
from lapa.cli import main

SETTINGS = ("data.resize=[16,16]", "data.downsample=1", "training.device=cpu", "data.max_frames=9", "data.min_gap=1")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folders of twelve JPEG files each, of two sizes."""
    root = tmp_path_factory.mktemp("pictures") / "photos"
    for seed, name in enumerate(("beach", "forest", "town/night")):
        (root / name).mkdir(parents=True)
        for number, frame in enumerate(toy_episode(np.random.default_rng(seed), 11)[0]):
            size = (64, 48) if number % 2 else (80, 120)
            Image.fromarray(frame).resize(size).save(root / name / f"IMG_{number}.jpg")
    return root


@pytest.fixture(scope="module")
def best(photos: Path) -> Path:
    """The checkpoint of a short training on ``photos``."""
    out = photos.parent / "run"
    assert main(["train", "--preset", "debug", "--data", str(photos), "--out", str(out), *SETTINGS]) == 0
    return out / "best.pt"


def stores(photos: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (photos / ".lapa").iterdir()}


def test_a_model_is_trained_on_folders_of_pictures(photos: Path, best: Path) -> None:
    checkpoint = load_checkpoint(best, "cpu")
    assert sorted(name for part in checkpoint.split.values() for name in part) == ["beach", "forest", "town/night"]
    assert checkpoint.model.format.size == (16, 16)
    lines = [json.loads(line) for line in (best.parent / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("step") == 20 for line in lines)


def test_other_commands_read_what_the_training_packed(
    photos: Path, best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = stores(photos)
    assert list(packed) == ["frames-16x16-crop.lapa"]
    data = ["--data", str(photos)]
    model = ["--checkpoint", str(best), "--device", "cpu"]
    assert main(["extract", *data, *model, "--out", str(tmp_path / "codes.lapa")]) == 0
    assert main(["evaluate", *data, *model, "--out", str(tmp_path / "report")]) == 0
    assert main(["compare", str(best.parent), *data, "--device", "cpu", "--out", str(tmp_path / "comparison")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["contents"]["frame_size"] == [16, 16]
    assert stores(photos) == packed


def test_runs_that_see_other_pictures_are_not_compared(photos: Path, best: Path, tmp_path: Path, capsys) -> None:
    grid = ["--sweep", "data.resize=[16,16],[24,24]", "--preset", "debug"]
    assert main(["compare", *grid, "--data", str(photos), "--out", str(tmp_path)]) == 2
    assert "the runs differ in data.resize" in capsys.readouterr().err
    assert list(stores(photos)) == ["frames-16x16-crop.lapa"]


def test_two_folders_of_pictures_cannot_be_split_and_the_remedy_is_named(tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        (tmp_path / "two" / name).mkdir(parents=True)
        for number in range(9):
            Image.new("RGB", (16, 16)).save(tmp_path / "two" / name / f"x{number}.png")
    assert main(["train", "--preset", "debug", "--data", str(tmp_path / "two"), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "only 2 usable episode(s)" in error
    assert "put pictures into at least three folders" in error
