"""The script for a lent GPU, on the CPU with the smallest preset: parts, limits, and going on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PATIENCE, ROOT
from lapa.engine.checkpoint import load_checkpoint

SCRIPT = ROOT / "scripts" / "gpu_run.sh"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Folders of its own, the smallest preset, and this Python."""
    return {
        **os.environ,
        "PRESET": "debug",
        "PYTHON": sys.executable,
        "RUN": str(tmp_path / "run"),
        "RESULTS": str(tmp_path / "results"),
        "OMP_NUM_THREADS": "1",
    }


def run(environment: dict[str, str], *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**environment, **settings})


@pytest.fixture
def store(breakout_recording: Path, breakout_store: object) -> str:
    """The packed store alone is all that is carried."""
    return str(breakout_recording / ".lapa" / "frames.lapa")


def test_training_and_evaluation_leave_figures_and_pictures(
    environment: dict[str, str], store: str, tmp_path: Path
) -> None:
    done = run(environment, store, "train evaluate")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "gpu_run: all done" in done.stdout
    results = tmp_path / "results"
    assert json.loads((results / "debug.json").read_text())["checkpoint"]["step"] in (10, 20)
    shown = tmp_path / "run" / "report" / "pairs.png"
    assert (results / "debug.png").read_bytes() == shown.read_bytes()
    assert json.loads((results / "debug-run.json").read_text())["config"]["training"]["steps"] == 20
    again = run(environment, store, "train evaluate")
    assert again.stdout.count("done before") == 2


def impatient(tmp_path: Path) -> Path:
    """A folder with a ``timeout`` whose time is up when the training has logged something, on any machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "timeout").write_text(
        f"""#!/usr/bin/env bash
        while [[ $1 == --* ]]; do shift; done
        "${{@:2}}" &
        until [ -s "{tmp_path}/run/run/metrics.jsonl" ]; do kill -0 $! || exit 1; sleep 0.1; done
        kill -TERM $!
        wait $!
        exit 124
        """
    )
    (folder / "timeout").chmod(0o755)
    return folder


def test_a_part_whose_time_is_up_goes_on_when_called_again(
    environment: dict[str, str], store: str, tmp_path: Path
) -> None:
    rarely = "training.log_every=100 training.validate_every=100000 training.checkpoint_every=100000"
    path = f"{impatient(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    cut = run(environment, store, "train", PATH=path, OVERRIDES=f"training.steps=100000 {rarely}")
    assert cut.returncode == 75, cut.stderr[-2000:]
    assert "gpu_run: train: time is up; call again to go on" in cut.stdout
    assert "saved" in cut.stderr
    (saved,) = (tmp_path / "run" / "run").glob("step_*.pt")
    step = int(saved.stem.removeprefix("step_"))
    done = run(environment, store, "train", OVERRIDES=f"training.steps={step + 5} {rarely}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"resuming from {saved}" in done.stdout
    assert load_checkpoint(saved.parent / f"step_{step + 5}.pt", "cpu").step == step + 5


def test_a_missing_store_and_an_unknown_part_are_told(environment: dict[str, str], store: str) -> None:
    missing = run(environment, "none.lapa")
    assert (missing.returncode, missing.stderr) == (2, "gpu_run: none.lapa: no such packed store\n")
    unknown = run(environment, store, "dance")
    assert unknown.returncode == 2
    assert "no part 'dance'; there are bench, train and evaluate" in unknown.stderr
