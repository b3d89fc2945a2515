"""Grids of runs: what is trained, what goes on after a failure or a stop, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import pixels
from lapa.cli import main
from lapa.config import load_config
from lapa.data.store import FrameStore
from lapa.engine import sweep
from lapa.engine.checkpoint import load_checkpoint
from lapa.engine.sweep import Cell, cells, train_cells
from lapa.errors import ConfigError, TrainingInterrupted, UsageError

TOY = ["data.downsample=1", "training.steps=6", "training.validate_every=3"]


def test_a_grid_has_all_combinations() -> None:
    grid = cells(["model.quantizer.name=vq,ema", "training.seed=0,1", "training.steps=10"])
    assert [cell.name for cell in grid] == [
        "quantizer-vq_seed-0",
        "quantizer-vq_seed-1",
        "quantizer-ema_seed-0",
        "quantizer-ema_seed-1",
    ]
    assert grid[1].overrides == ("model.quantizer.name=vq", "training.seed=1", "training.steps=10")


def test_a_comma_in_brackets_belongs_to_its_value() -> None:
    grid = cells(["model.quantizer.levels=[8,8,4],[4,4]"])
    assert [cell.overrides for cell in grid] == [("model.quantizer.levels=[8,8,4]",), ("model.quantizer.levels=[4,4]",)]
    assert [cell.name for cell in grid] == ["levels-8-8-4", "levels-4-4"]


def test_one_value_each_is_one_cell() -> None:
    assert cells(["training.seed=3"]) == [Cell("only", ("training.seed=3",))]


@pytest.mark.parametrize("axis", ["", "training.seed", "=1,2", "training.seed=", "training.seed=1,,2"])
def test_a_malformed_axis_is_refused(axis: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form dotted\.key=value,value"):
        cells([axis])


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match=r"training\.seed is given twice"):
        cells(["training.seed=1", "training.seed=2"])


def test_a_failed_cell_does_not_end_the_sweep(toy_store: FrameStore, tmp_path: Path) -> None:
    said: list[str] = []
    grid = cells(["model.conditioner.name=film,cross_attention", "model.conditioner.num_heads=3"])
    trained, failed = train_cells(grid, toy_store, tmp_path, preset="debug", overrides=TOY, notify=said.append)
    assert trained == []
    assert set(failed) == {"conditioner-film", "conditioner-cross_attention"}


def test_what_cannot_be_configured_or_built_is_said_and_the_rest_is_trained(
    toy_store: FrameStore, tmp_path: Path
) -> None:
    said: list[str] = []
    grid = [
        Cell("good", ()),
        Cell("misspelt", ("model.quantizer.name=vqq",)),
        Cell("odd", ("model.conditioner.name=cross_attention", "model.conditioner.num_heads=3")),
    ]
    trained, failed = train_cells(grid, toy_store, tmp_path, preset="debug", overrides=TOY, notify=said.append)
    assert trained == [tmp_path / "good"]
    assert "did you mean 'vq'" in failed["misspelt"]
    assert "3 heads do not divide 16 features" in failed["odd"]
    assert any(line.startswith("misspelt cannot be trained: model.quantizer.name") for line in said)
    assert any(line.startswith("odd failed: ConfigError") for line in said)
    assert load_checkpoint(tmp_path / "good" / "best.pt", "cpu").step in (3, 6)


def test_a_sweep_of_nothing_that_can_be_trained_is_an_error(toy_store: FrameStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no cell of the sweep can be trained: .*training\.stepz"):
        train_cells(cells(["training.stepz=1,2"]), toy_store, tmp_path, preset="debug", notify=lambda _: None)


def test_a_sweep_goes_on_where_it_was_stopped(
    toy_store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, train, called = cells(["training.seed=0,1,2"]), sweep.train, []

    def stop_at_the_second(config: Any, *arguments: Any, **options: Any) -> Any:
        called.append(config.training.seed)
        if len(called) == 2:
            raise TrainingInterrupted("stopped", 2)
        return train(config, *arguments, **options)

    monkeypatch.setattr(sweep, "train", stop_at_the_second)
    with pytest.raises(TrainingInterrupted):
        train_cells(grid, toy_store, tmp_path, preset="debug", overrides=TOY, notify=lambda _: None)
    assert called == [0, 1]
    first = (tmp_path / "seed-0" / "best.pt").read_bytes()
    trained, failed = train_cells(grid, toy_store, tmp_path, preset="debug", overrides=TOY, notify=lambda _: None)
    assert [folder.name for folder in trained] == ["seed-0", "seed-1", "seed-2"]
    assert failed == {}
    assert (tmp_path / "seed-0" / "best.pt").read_bytes() == first, "it was trained already"


@pytest.fixture(scope="module")
def swept(record_toy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison that the command line trained and wrote."""
    data = record_toy(tmp_path_factory.mktemp("toys") / "bulk_videos", episodes=6, steps=30)
    out = tmp_path_factory.mktemp("comparison") / "out"
    axes = ["model.quantizer.name=vq,residual,nonesuch", "training.seed=0,1", *TOY]
    command = ["sweep", "--preset", "debug", "--data", str(data), "--out", str(out), "--device", "cpu"]
    assert main([*command, *axes]) == 0
    return out


@pytest.mark.slow
def test_the_old_name_does_the_same(
    record_toy: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = record_toy(tmp_path / "bulk_videos", episodes=6), tmp_path / "out"
    command = ["compare", "--preset", "debug", "--data", str(data), "--out", str(out), "--device", "cpu"]
    axes = ["training.seed=0,1", "data.downsample=1", "training.steps=2"]
    assert main([*command, "--sweep", *axes]) == 0
    (group,) = json.loads((out / "comparison.json").read_text()).values()
    assert list(group["runs"]) == ["seed-0", "seed-1"]
    assert capsys.readouterr().out.endswith(f"comparison: {out / 'comparison.html'}\n")


def test_the_command_line_trains_and_compares_a_grid(swept: Path) -> None:
    facts = json.loads((swept / "comparison.json").read_text())
    assert list(facts) == ["quantizer=vq", "quantizer=residual"]
    assert list(facts["quantizer=residual"]["runs"]) == ["quantizer-residual_seed-0", "quantizer-residual_seed-1"]
    page = (swept / "comparison.html").read_text()
    assert page.count("Missing: quantizer-nonesuch_seed-") == 2
    measures = pixels(swept / "measures.png").reshape(-1, 3)
    assert len(np.unique(measures[np.ptp(measures, axis=1) > 60], axis=0)) >= 2, "each group has a colour of its own"


def test_the_table_is_there_as_markdown_too(swept: Path) -> None:
    header, rule, *rows = (swept / "comparison.md").read_text().splitlines()
    assert rule == "|---" * (header.count("|") - 1) + "|"
    assert len(rows) == 2
    assert all(row.count("|") == header.count("|") for row in rows)
    for column in ("gain over copying", "perplexity", "trained, pairs/s", "parameters"):
        assert column in header
    assert "of the oracle" not in header, "no run has the figure, for the toy is no known game"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare"], "nothing to compare; name run folders, or train some with `lapa sweep`"),
        (["compare", "--preset", "debug", "somewhere"], "--preset and --config are for --sweep"),
        (["compare", "--sweep", "training.seed"], "is not of the form dotted.key=value,value"),
        (["sweep"], "nothing to sweep; give settings as KEY=VALUE,VALUE"),
        (["sweep", "training.seed"], "is not of the form dotted.key=value,value"),
        (["sweep", "--seed", "0,1"], "sweep takes settings as KEY=VALUE: training.seed=0,1"),
    ],
)
def test_misuse_is_one_line(arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_configuration_of_a_cell_is_that_of_its_overrides(toy_store: FrameStore, tmp_path: Path) -> None:
    train_cells(cells(["training.seed=5"]), toy_store, tmp_path, preset="debug", overrides=TOY, notify=lambda _: None)
    own = load_config(file=tmp_path / "only" / "config.yaml")
    assert own.training.seed == 5
    assert own.training.out == str(tmp_path / "only")
