"""The benchmark's parts measure what they say, each in a process of its own."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import pytest

from helpers import ROOT
from lapa.data.store import FrameStore

SCRIPTS = ROOT / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))  # the processes find it there too
    import benchmark

    return benchmark


@pytest.fixture
def benchmark_envs(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    import benchmark_envs

    monkeypatch.setattr(benchmark_envs, "ROUNDS", 2)
    return benchmark_envs


@pytest.mark.parametrize("placement", ["memory", "disk"])
def test_the_engine_tells_its_rate_and_how_long_it_waits(
    benchmark: ModuleType, breakout_store: FrameStore, placement: str
) -> None:
    options = [f"data.placement={placement}", "training.num_workers=2", "training.log_every=1"]
    figures = benchmark.in_a_process(benchmark.measure_engine, breakout_store, "debug", 8, options)
    assert math.isfinite(figures["pairs_per_s"])
    assert 0 <= figures["data_wait_share"] <= 1


def test_a_row_tells_rate_arithmetic_and_memory(benchmark: ModuleType, breakout_store: FrameStore) -> None:
    config = benchmark.configured("debug", "fp32", True)
    figures = benchmark.measure_training(breakout_store, config, 8, 0.1)
    assert figures["gflop_per_s"] == pytest.approx(figures["gflop_per_pair"] * figures["pairs_per_s"])
    assert figures["gflop_per_pair"] == pytest.approx(0.00262, rel=0.05), "of the preset debug"
    assert figures["peak_memory_mb"] > 10
    encoding = benchmark.measure_encoding(breakout_store, config, 4, 0.1)
    assert encoding["ms_per_batch"] == pytest.approx(1000 * 4 / encoding["pairs_per_s"])


def test_what_does_not_fit_is_said_in_its_row(benchmark: ModuleType) -> None:
    assert math.isfinite(benchmark.in_a_process(benchmark.matmul_flops, "fp32", 0.01))
    assert "non-negative" in benchmark.in_a_process(benchmark.torch.zeros, -1)


def test_each_machine_has_its_own_file(benchmark: ModuleType) -> None:
    assert benchmark.host_kind(benchmark.torch.device("cpu")).startswith("cpu-")


def test_what_is_measured_in_turns_gets_a_rate_each(benchmark_envs: ModuleType) -> None:
    turns = []
    work = {name: lambda name=name: turns.append(name) or 1 for name in "ab"}
    rates = benchmark_envs.in_turns(work, 0.01)
    assert rates.keys() == {"a", "b"}
    assert min(rates.values()) > 0
    assert "".join(turns).count("ab") == "".join(turns).count("ba") + 1 == 2


def test_labelling_and_recording_are_held_against_the_bare_game(benchmark_envs: ModuleType, tmp_path: Path) -> None:
    single = benchmark_envs.measure_single(0.2, tmp_path)
    assert single["labelled_share"] == single["labelled_steps_per_s"] / single["bare_steps_per_s"]
    assert math.isfinite(single["labelled_share"])
    assert math.isfinite(benchmark_envs.measure_long_recording(20, tmp_path)["recorded_steps_per_s"])
    assert math.isfinite(benchmark_envs.measure_labels("debug", 8, 0.1))


def test_memory_is_compared_with_that_of_the_first_tenth(benchmark_envs: ModuleType) -> None:
    found = benchmark_envs.measure_memory(20)
    assert found["grown_mb"] == found["at_the_end_mb"] - found["after_a_tenth_mb"]
    assert found["at_the_end_mb"] > 50
