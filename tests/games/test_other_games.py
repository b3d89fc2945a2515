"""Other games than Breakout go the whole way; what knows Breakout only steps aside and says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lapa.cli import main
from lapa.data.episodes import read_episode
from lapa.inference.extraction import LatentActionDataset

CHECKPOINT = "checkpoints/latent_action/best.pt"


@pytest.mark.parametrize(
    ("game", "num_actions"), [("ALE/Pong-v5", 6), pytest.param("ALE/Freeway-v5", 3, marks=pytest.mark.slow)]
)
def test_a_game_is_recorded_trained_on_extracted_judged_and_labelled(
    game: str,
    num_actions: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--env", game, "--policy", "random", "--episodes", "4", "--max-steps", "60"]) == 0
    truth = read_episode(tmp_path / "bulk_videos", "0").tracks
    assert truth.meta["env_id"] == game
    assert len(np.unique(truth.actions)) > 2
    assert len(truth.meta["action_meanings"]) == num_actions
    assert main(["train", "--preset", "debug"]) == 0
    assert main(["extract"]) == 0
    dataset = LatentActionDataset("latent_actions.lapa")
    assert len(dataset) == 4 * 60
    assert len(np.unique(dataset.codes)) > 1
    capsys.readouterr()
    assert main(["evaluate"]) == 0
    told = capsys.readouterr().out
    assert "skipped: ball, paddle, bricks and digits: the recording is not Breakout at full size" in told
    assert "skipped: events: the recording is not Breakout at full size" in told
    assert "true action read from the codes" in told
    label = ["label", "--env", game, "--policy", "random", "--checkpoint", CHECKPOINT, "--steps", "10"]
    assert main([*label, "--out", "labels.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert np.array(lines[0]["latent_action"]).shape == dataset.codes.shape[1:]
    assert lines[0]["read_action"] in truth.meta["action_meanings"]  # from report/, which is of this checkpoint
    assert lines[0]["read_events"] == []
    capsys.readouterr()
    assert main(["record", "--env", game, "--out", "more"]) == 2
    assert "the scripted player knows only Breakout; take --policy random for other games" in capsys.readouterr().err
    assert not Path("more").exists()
