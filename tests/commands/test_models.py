"""``lapa models``, and the names of models wherever a command takes a checkpoint."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import lapa
from lapa.cli import main
from lapa.inference.extraction import LatentActionDataset
from lapa.shipped import model_named, model_names


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_models_are_listed_with_their_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == model_names()
    rows = {line[:28].strip(): line[28:].split() for line in lines}
    assert rows["preset"] == [model.preset for model in lapa.models()]
    gains = {model.name: model.figures.get("recon/gain_over_copy_db") for model in lapa.models()}
    assert rows["gain over copying, dB"] == ["-" if gain is None else f"{gain:+.2f}" for gain in gains.values()]
    assert lines[-len(gains) :] == [f"{model.name}: {model.title}" for model in lapa.models()]


def test_models_are_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [model.to_json() for model in lapa.models()]
    assert main(["models", "breakout_v0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == "e0f1eb83574627c0"


def test_one_model_is_told_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "breakout_v0"]) == 0
    told = capsys.readouterr().out
    for fact in ("e0f1eb83574627c0", "lapa train --preset laptop", "6,338 steps", "episodes 1, 9, 22"):
        assert fact in told
    assert re.search(r"^PSNR gain over copying +\+7\.5 dB", told, re.MULTILINE)


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "braekout"]) == 2
    assert capsys.readouterr().err == (
        "lapa: error: braekout: no such model (did you mean 'breakout'?) and no such file; known models: "
        f"{', '.join(model_names())}; `lapa models` lists them\n"
    )


def test_the_doctor_names_the_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert f"\nmodels       {', '.join(model_names())}, from lapa\n" in capsys.readouterr().out


def test_a_command_takes_the_name(
    here: Path, breakout_recording: Path, breakout_store: object, capsys: pytest.CaptureFixture[str]
) -> None:
    extract = ["extract", "--data", str(breakout_recording), "--device", "cpu"]
    assert main([*extract, "--checkpoint", "breakout_v0"]) == 0
    assert LatentActionDataset("latent_actions.lapa").header["checkpoint"] == model_named("breakout_v0").digest
    assert capsys.readouterr().err.count("lapa:") == 0
    Path("breakout").mkdir()
    assert main([*extract, "--checkpoint", "./breakout"]) == 2
    assert "breakout: is a folder; name the file in it" in capsys.readouterr().err
    assert main([*extract, "--checkpoint", "breakout"]) == 0
    assert (
        "lapa: 'breakout' is the model that `lapa models` lists; ./breakout is the one here" in capsys.readouterr().err
    )
    assert main([*extract, "--checkpoint", "breakuot"]) == 2
    assert "error: breakuot: no such model (did you mean 'breakout'?)" in capsys.readouterr().err


def test_models_are_evaluated_and_compared_by_name(
    here: Path, breakout_recording: Path, breakout_store: object, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(breakout_recording), "--device", "cpu"]
    assert main(["evaluate", *data, "--checkpoint", "breakout_v0"]) == 0
    assert json.loads(Path("report/metrics.json").read_text())["checkpoint"]["digest"] == "e0f1eb83574627c0"
    Path("copied").mkdir()
    shutil.copy(model_named("breakout_v0").path, "copied/best.pt")
    shutil.copytree("report", "comparison/breakout_v0")
    shutil.copytree("report", "comparison/copied")
    assert main(["compare", "breakout_v0", "copied", *data]) == 0
    assert "breakout_v0, copied" in capsys.readouterr().out
