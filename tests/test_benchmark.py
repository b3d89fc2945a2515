"""The benchmark's parts measure what they say, each in a process of its own."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from lapa.data.store import FrameStore

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))  # the processes find it there too
    import benchmark

    return benchmark


@pytest.mark.parametrize("placement", ["memory", "disk"])
def test_the_engine_tells_its_rate_and_how_long_it_waits(
    benchmark: ModuleType, breakout_store: FrameStore, placement: str
) -> None:
    options = [f"data.placement={placement}", "training.num_workers=2", "training.log_every=1"]
    figures = benchmark.in_a_process(benchmark.measure_engine, breakout_store, "debug", 8, options)
    assert figures["pairs_per_s"] > 0
    assert 0 <= figures["data_wait_share"] < 1


def test_a_row_tells_rate_arithmetic_and_memory(benchmark: ModuleType, breakout_store: FrameStore) -> None:
    config = benchmark.configured("debug", "fp32", True)
    figures = benchmark.measure_training(breakout_store, config, 8, 0.1)
    assert figures["gflop_per_s"] == pytest.approx(figures["gflop_per_pair"] * figures["pairs_per_s"])
    assert figures["peak_memory_mb"] > 10
    assert benchmark.measure_encoding(breakout_store, config, 1, 0.1)["ms_per_batch"] > 0


def test_what_does_not_fit_is_said_in_its_row(benchmark: ModuleType) -> None:
    assert benchmark.in_a_process(benchmark.matmul_flops, "fp32", 0.01) > 0
    assert "non-negative" in benchmark.in_a_process(benchmark.torch.zeros, -1)


def test_each_machine_has_its_own_file(benchmark: ModuleType) -> None:
    assert benchmark.host_kind(benchmark.torch.device("cpu")).startswith("cpu-")
