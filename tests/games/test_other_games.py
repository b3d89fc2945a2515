"""Other games than Breakout go the whole way; what does not know a game steps aside and says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lapa.cli import main
from lapa.data.episodes import read_episode
from lapa.games.pong.game import Pong
from lapa.inference.extraction import LatentActionDataset

CHECKPOINT = "checkpoints/latent_action/best.pt"


UNKNOWN = "the recording is not Breakout at full size or Pong at full size"


@pytest.mark.parametrize(
    ("game", "num_actions", "skipped"),
    [
        ("ALE/Pong-v5", 6, ["ball, both paddles and scores: too small after 5-fold downsampling"]),
        pytest.param(
            *("ALE/Freeway-v5", 3, [f"what is on the screen: {UNKNOWN}", f"events: {UNKNOWN}"]), marks=pytest.mark.slow
        ),
    ],
)
def test_a_game_is_recorded_trained_on_extracted_judged_and_labelled(
    game: str,
    num_actions: int,
    skipped: list[str],
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
    assert [line.removeprefix("skipped: ") for line in told.splitlines() if line.startswith("skipped: ")] == skipped
    assert "true action read from the codes" in told
    names = truth.meta["action_meanings"] if "Pong" not in game else Pong.action_classes
    label = ["label", "--env", game, "--policy", "random", "--checkpoint", CHECKPOINT, "--steps", "10"]
    assert main([*label, "--out", "labels.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    assert np.array(lines[0]["latent_action"]).shape == dataset.codes.shape[1:]
    assert lines[0]["read_action"] in names  # from report/, which is of this checkpoint
    assert isinstance(lines[0]["read_events"], list)
    assert main(["record", "--env", game, "--episodes", "1", "--max-steps", "5", "--out", "more"]) == 0
    assert read_episode(Path("more"), "0").tracks.meta["policy"] == "scripted"


def test_a_game_without_a_scripted_player_is_not_recorded_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["record", "--env", "ALE/SpaceInvaders-v5", "--out", "more"]) == 2
    told = capsys.readouterr().err
    assert "the scripted player knows only Breakout, Freeway and Pong; take --policy random for other games" in told
    assert not Path("more").exists()
