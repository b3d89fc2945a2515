"""A run becomes a model with a name: files as they were, figures from the evaluation, commands from the settings."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PATIENCE, ROOT
from lapa.config import load_config
from lapa.engine.checkpoint import Checkpoint
from lapa.errors import CheckpointError, ConfigError, DataError, UsageError
from lapa.evaluation.evaluate import Evaluation
from lapa.evaluation.report import write_report
from lapa.evaluation.shipping import ship, training_command

SCRIPT = ROOT / "scripts" / "ship_model.py"
RECORD = "lapa record --episodes 6 --max-steps 50"


@pytest.fixture(scope="module")
def report(breakout_checkpoint: Checkpoint, evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the report about ``breakout_run``."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, breakout_checkpoint, evaluation)
    return folder


def test_a_run_is_shipped_as_it_is(
    breakout_run: Path, report: Path, breakout_checkpoint: Checkpoint, evaluation: Evaluation, tmp_path: Path
) -> None:
    card = ship("small", breakout_run, report, tmp_path, title="A test.", preset="debug", before=[RECORD])
    facts = json.loads(card.read_text())
    assert (tmp_path / "small.pt").read_bytes() == (breakout_run / "best.pt").read_bytes()
    assert (tmp_path / "small_reader.npz").read_bytes() == (report / "code_reader.npz").read_bytes()
    assert (facts["digest"], facts["steps"]) == (breakout_checkpoint.digest, breakout_checkpoint.step)
    assert facts["figures"] == {name: pytest.approx(value, rel=1e-5) for name, value in evaluation.metrics.items()}
    assert facts["judged"]["episodes"] == evaluation.episodes
    assert facts["commands"] == [
        RECORD,
        "lapa train --preset debug data.downsample=2 training.precision=fp32",
    ]
    assert "PyTorch" in facts["machine"]


def test_a_model_of_that_name_is_replaced_with_its_reader(breakout_run: Path, report: Path, tmp_path: Path) -> None:
    ship("small", breakout_run, report, tmp_path / "out", title="Old.", preset="debug")
    shutil.copytree(report, tmp_path / "report", ignore=shutil.ignore_patterns("code_reader.npz"))
    path = breakout_run / "best.pt"
    card = ship("small", path, tmp_path / "report", tmp_path / "out", title="New.", preset="debug", machine="a laptop")
    assert {file.name for file in card.parent.iterdir()} == {"small.pt", "small.json"}
    facts = json.loads(card.read_text())
    assert (facts["title"], facts["machine"]) == ("New.", "a laptop")


def test_the_training_command_gives_the_settings_again() -> None:
    changed = [
        "model.quantizer.name=ema",
        "model.quantizer.num_codes=32",
        "training.max_minutes=null",
        "data.color=rgb",
    ]
    config = load_config("laptop", overrides=[*changed, "training.out=elsewhere", "tracking.wandb=offline"])
    words = training_command(config, "laptop").split()
    assert words[:4] == ["lapa", "train", "--preset", "laptop"]
    again = load_config("laptop", overrides=words[4:])
    assert (again.model, again.loss, again.data) == (config.model, config.loss, config.data)
    assert again.training.max_minutes is None
    assert "elsewhere" not in " ".join(words)
    assert "tracking" not in " ".join(words)


def test_a_report_of_another_checkpoint_is_refused(breakout_run: Path, report: Path, tmp_path: Path) -> None:
    shutil.copytree(report, tmp_path / "report")
    metrics = tmp_path / "report" / "metrics.json"
    facts = json.loads(metrics.read_text())
    facts["checkpoint"]["digest"] = "0123456789abcdef"
    metrics.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"metrics\.json: is about checkpoint 0123456789abcdef, not"):
        ship("small", breakout_run, tmp_path / "report", tmp_path / "out", title="A test.", preset="debug")
    metrics.write_text("{}")
    with pytest.raises(DataError, match=r"metrics\.json: cannot be used"):
        ship("small", breakout_run, tmp_path / "report", tmp_path / "out", title="A test.", preset="debug")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_shipped_is_refused_before_anything_is_written(
    breakout_run: Path, report: Path, tmp_path: Path
) -> None:
    out, facts = tmp_path / "out", {"title": "A test.", "preset": "debug"}
    step = max(breakout_run.glob("step_*.pt"))
    lonely = Path(shutil.copy(breakout_run / "best.pt", tmp_path / "best.pt"))
    with pytest.raises(UsageError, match="cannot be the name of a model"):
        ship("small.pt", breakout_run, report, out, **facts)
    with pytest.raises(CheckpointError, match=r"step_\d+\.pt: has the state of training too"):
        ship("small", step, report, out, **facts)
    with pytest.raises(DataError, match=r"nowhere/metrics\.json: no such file"):
        ship("small", breakout_run, Path("nowhere"), out, **facts)
    with pytest.raises(ConfigError, match="unknown preset 'debgu'"):
        ship("small", breakout_run, report, out, title="A test.", preset="debgu")
    with pytest.raises(UsageError, match=r"run\.json: does not say where the run was; say it with --machine"):
        ship("small", lonely, report, out, **facts)
    assert not out.exists()


def test_the_script_ships_and_reports_a_mistake_in_one_line(breakout_run: Path, report: Path, tmp_path: Path) -> None:
    options = ["--title", "A test.", "--preset", "debug", "--out", str(tmp_path), "--report", str(report)]
    command = [sys.executable, str(SCRIPT), "small", *options, "--run"]
    done = subprocess.run([*command, str(breakout_run)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == f"shipped: {tmp_path / 'small.json'}\n", done.stderr
    done = subprocess.run([*command, "nowhere.pt"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert done.stderr == "ship_model: error: nowhere.pt: no such checkpoint; train one with `lapa train`\n"
