"""Runs are judged on the same pairs, and seeds of one configuration stand as mean and spread."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lapa.cli import main
from lapa.config import load_config
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.training import train
from lapa.errors import DataError
from lapa.evaluation.compare import compare, comparison_header, comparison_rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, toys: FrameStore) -> list[Path]:
    """Two seeds of one configuration, and one of another."""
    out = tmp_path_factory.mktemp("runs")
    folders = []
    for name, overrides in (
        ("a0", ["training.seed=0"]),
        ("a1", ["training.seed=1"]),
        ("b0", ["model.conditioner.name=cross_attention"]),
    ):
        config = load_config("debug", overrides=["data.downsample=1", f"training.out={out / name}", *overrides])
        train(config, toys, lambda _: None)
        folders.append(out / name)
    return folders


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory, record_toy: Callable[..., Path]) -> FrameStore:
    return open_store(record_toy(tmp_path_factory.mktemp("toys") / "toy", episodes=6, steps=30))


def test_seeds_are_grouped_and_what_differs_is_named(runs: list[Path], toys: FrameStore, tmp_path: Path) -> None:
    groups = compare(runs, toys, tmp_path / "out", device="cpu", notify=lambda _: None)
    assert [[run.name for run in group.runs] for group in groups] == [["a0", "a1"], ["b0"]]
    assert [group.label.split(",")[0] for group in groups] == [
        "conditioner=film",
        "conditioner=cross_attention",
    ]
    values = groups[0].figures("recon/gain_over_copy_db")
    assert len(values) == 2
    cells = comparison_rows(groups)
    assert cells[0][3] == f"{values.mean():+.2f} ± {values.std(ddof=1):.2f}"
    assert "±" not in " ".join(cells[1])
    assert all(len(row) == len(comparison_header(groups)) for row in cells)
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert facts[groups[0].label]["mean"]["recon/gain_over_copy_db"] == pytest.approx(values.mean())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a0", "a1", "b0", "curves.png", "measures.png", "pictures.png"} | {
        f"comparison.{kind}" for kind in ("html", "json", "md")
    }
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert all(f'href="{name}/report.html"' in page for name in ("a0", "a1", "b0"))


def test_a_report_that_is_there_is_not_made_again(runs: list[Path], toys: FrameStore, tmp_path: Path) -> None:
    said: list[str] = []
    compare(runs[:2], toys, tmp_path / "out", device="cpu", notify=said.append)
    assert said == ["judging a0", "judging a1"]
    first = (tmp_path / "out" / "comparison.json").read_text()
    said.clear()
    compare(runs[:2], toys, tmp_path / "out", device="cpu", notify=said.append)
    assert said == []
    assert (tmp_path / "out" / "comparison.json").read_text() == first
    compare(runs[:2], toys, tmp_path / "out", "val", device="cpu", notify=said.append)
    assert said == ["judging a0", "judging a1"], "another split is judged anew"


def test_runs_on_other_episodes_cannot_be_compared(runs: list[Path], toys: FrameStore, tmp_path: Path) -> None:
    overrides = ["data.downsample=1", "data.split_seed=5", f"training.out={tmp_path / 'other'}"]
    train(load_config("debug", overrides=overrides), toys, lambda _: None)
    with pytest.raises(DataError, match=r"split 'test' of a0 is .*, that of other is .*nothing to compare"):
        compare([runs[0], tmp_path / "other"], toys, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_name_cannot_be_told_apart(runs: list[Path], toys: FrameStore, tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "a0")
    with pytest.raises(DataError, match="two runs are called 'a0'"):
        compare([runs[0], tmp_path / "a0"], toys, tmp_path / "out", device="cpu")


def test_the_command_line_compares(
    runs: list[Path], toys: FrameStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(toys.path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["compare", *map(str, runs), *options]) == 0
    told = capsys.readouterr().out
    assert "a0, a1" in told
    assert f"comparison: {tmp_path / 'out' / 'comparison.html'}" in told
    assert main(["compare", str(tmp_path / "nothing"), *options]) == 2
    assert "nothing" in capsys.readouterr().err
