"""The demonstration runs from nothing, and the second time reuses what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from lapa.cli import main
from lapa.inference.extraction import LatentActionDataset
from lapa_envs import demo

DEMO = ["demo", "--preset", "debug", "--episodes", "4", "--max-steps", "30"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "LIVE_STEPS", 5)
    return tmp_path


def test_it_does_everything_once_and_then_reuses_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(DEMO) == 0
    told = capsys.readouterr().out
    assert "reusing" not in told
    assert "labelled 5 live steps" in told
    assert told.rstrip().endswith("report: report/report.html")
    assert len(LatentActionDataset("latent_actions.lapa")) == 4 * 30
    best = (here / "checkpoints/latent_action/best.pt").read_bytes()

    assert main(DEMO) == 0
    told = capsys.readouterr().out
    assert told.count("reusing") == 4
    assert (here / "checkpoints/latent_action/best.pt").read_bytes() == best


def test_an_interrupted_recording_is_not_taken_for_a_whole_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(env: object, out: Path, **options: object) -> None:
        (out / "0").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "record", interrupted)
    assert main(DEMO) == 130
    assert not (here / "bulk_videos").exists()
