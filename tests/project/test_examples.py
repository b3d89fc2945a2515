"""The examples run as they stand, for some hundred steps of the real game."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE, ROOT
from lapa.data.episodes import read_episode
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint
from lapa.inference.extraction import extract

EXAMPLES = ROOT / "examples"


def run(name: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def logged(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_stream(lines: list[dict[str, Any]], envs: int) -> None:
    """Steps in order, each environment's transition once, with a real code."""
    assert [(line["step"], line["env"]) for line in lines] == sorted({(line["step"], line["env"]) for line in lines})
    assert {line["env"] for line in lines} == set(range(envs))
    assert {line["action"] for line in lines} == {0, 1, 2, 3}
    for line in lines:
        assert len(line["code"]) == 14
        assert {len(row) for row in line["code"]} == {20}
        assert min(min(row) for row in line["code"]) >= 0
    assert len({str(line["code"]) for line in lines}) > len(lines) / 4, "the codes hardly change"


def test_ppo_of_stable_baselines3_logs_what_it_did_and_its_agent_records(tmp_path: Path) -> None:
    run("ppo_sb3.py", tmp_path, "--steps", "256", "--envs", "2", "--rollout", "64")
    lines = logged(tmp_path / "codes.jsonl")
    assert len(lines) == 256
    check_stream(lines, 2)
    command = [sys.executable, "-m", "lapa.cli", "record", "--policy", "sb3:ppo_sb3.zip", "--episodes", "1"]
    done = subprocess.run(
        [*command, "--max-steps", "20"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert len(read_episode(tmp_path / "bulk_videos", "0").tracks.actions) == 20


def test_ppo_in_one_file_logs_what_it_did_and_drops_rows_that_only_reset(tmp_path: Path) -> None:
    out = run("ppo_cleanrl.py", tmp_path, "--steps", "1024", "--envs", "2", "--rollout", "128")
    lines = logged(tmp_path / "codes.jsonl")
    assert "update 4 of 4, mean return of the last episodes:" in out
    assert 1024 * 0.98 < len(lines) < 1024, "no episode ended, or rows are missing"
    check_stream(lines, 2)


def test_ppo_learns_vectors_of_the_tokens_that_it_sees(tokenizer_run: Path, tmp_path: Path) -> None:
    checkpoint = ["--checkpoint", str(tokenizer_run / "best.pt")]
    out = run("ppo_tokens_sb3.py", tmp_path, "--steps", "384", "--envs", "2", "--rollout", "64", *checkpoint)
    seen = [(int(step), int(count)) for step, count in re.findall(r"step (\d+): (\d+) different tokens", out)]
    assert [step for step, _ in seen] == [128, 256, 384]
    learnt, num_codes = re.search(r"learnt from 384 steps; (\d+) of (\d+) tokens have learnt vectors", out).groups()
    assert int(num_codes) == 16
    assert max(count for _, count in seen) <= int(learnt) <= 16
    assert int(learnt) > 4


def test_behaviour_cloning_learns_from_the_dataset(
    breakout_checkpoint: Checkpoint, breakout_store: FrameStore, tmp_path: Path
) -> None:
    extract(breakout_checkpoint, breakout_store, tmp_path / "latent_actions.lapa", notify=lambda _: None)
    out = run("behaviour_cloning.py", tmp_path, "--steps", "110", "--labels", "100")
    bits = [float(line.split()[2]) for line in out.splitlines() if line.startswith("step")]
    assert bits[-1] < 0.7 * bits[0]
    assert "actions right:" in out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_every_example_explains_itself(path: Path) -> None:
    assert f"examples/{path.name}" in path.read_text().split('"""')[1]
    assert path.name in (EXAMPLES.parent / "README.md").read_text()
