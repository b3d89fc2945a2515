"""A group of processes trains and extracts what one process would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lapa import distributed
from lapa.cli import main
from lapa.config import Config, load_config, to_yaml
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import load_checkpoint, read_state
from lapa.engine.training import train
from lapa.errors import ConfigError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

TRAIN = """
import sys
from pathlib import Path
import torch
from lapa import distributed
from lapa.config import load_config
from lapa.data.store import FrameStore
from lapa.engine.stopping import StopSignal
from lapa.engine.training import Run

config = load_config(None, Path(sys.argv[1]))
with distributed.process_group("cpu") as device:
    run = Run(config, FrameStore(Path(sys.argv[2])), device, lambda message: None, sys.argv[3])
    with StopSignal() as stop, run.trackers:
        run.train(stop)
    torch.save(run.system.state_dict(), Path(sys.argv[4]) / f"rank_{distributed.rank()}.pt")
"""


def quiet(message: str) -> None:
    """Takes what training has to say."""


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python command line as a group of two processes on this machine."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*TORCHRUN, *arguments], capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture
def toy_config(tmp_path: Path) -> Callable[..., Config]:
    """A function that returns a small preset at the toy's size, of a run in the named folder."""

    def make(out: str, *overrides: str, preset: str = "debug") -> Config:
        fixed = [f"training.out={tmp_path / out}", "data.downsample=1", "training.precision=fp32"]
        exact = ["training.log_every=1", "training.learning_rate=1e-4"]
        return load_config(preset, overrides=[*fixed, *exact, *overrides])

    return make


def train_together(config: Config, store: FrameStore, folder: Path, existing: str = "refuse") -> list[dict[str, Any]]:
    """Trains with two processes; returns the weights of both."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "config.yaml").write_text(to_yaml(config))
    files = (folder / "train.py", folder / "config.yaml", store.path)
    done = torchrun(*map(str, files), existing, str(folder))
    # The ranks' output decides: gloo now and then aborts at exit, after all is done.
    ranks = [folder / f"rank_{rank}.pt" for rank in (0, 1)]
    assert all(path.exists() for path in ranks), done.stderr[-3000:]
    return [torch.load(path, weights_only=True) for path in ranks]


def curve(config: Config, name: str) -> list[float]:
    lines = [json.loads(line) for line in (Path(config.training.out) / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize(
    ("preset", "options"),
    [
        ("debug", ["model.quantizer.name=ema", "model.quantizer.decay=0.9"]),
        ("debug", ["model.quantizer.name=vq", "model.quantizer.entropy=0.1", "training.accumulate=2", "loss.motion=5"]),
        ("tokenizer_debug", ["model.quantizer.num_codes=256", "loss.worst=0.1"]),
    ],
    ids=["ema", "vq, entropy, two micro-batches", "tokenizer"],
)
def test_two_processes_train_what_one_does(
    toy_store: FrameStore, toy_config: Callable[..., Config], tmp_path: Path, preset: str, options: list[str]
) -> None:
    together, alone = (toy_config(out, *options, preset=preset) for out in ("together", "alone"))
    first, second = train_together(together, toy_store, tmp_path / "ranks")
    train(alone, toy_store, quiet)
    for name in ("train/loss/total", "train/quantizer/perplexity", "train/optim/gradient_norm", "val/loss/total"):
        assert curve(together, name) == pytest.approx(curve(alone, name), rel=2e-3), name
    assert len(curve(together, "train/loss/total")) == 20
    moved, moved_alone = curve(together, "train/quantizer/reseeded"), curve(alone, "train/quantizer/reseeded")
    # A latent that lies between two codes may fall either way by rounding, and a code be used or not by it.
    assert moved[0] == moved_alone[0] > 0
    assert moved == pytest.approx(moved_alone, abs=1)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    kept = read_state(Path(together.training.out) / "step_20.pt")["model"]
    assert all(torch.equal(kept[name], first[name]) for name in first)


def test_two_processes_go_on_where_they_stopped(
    toy_store: FrameStore, toy_config: Callable[..., Config], tmp_path: Path
) -> None:
    train_together(toy_config("run", "training.steps=10"), toy_store, tmp_path / "ranks")
    stopped, _ = train_together(toy_config("run"), toy_store, tmp_path / "ranks", "resume")
    alone, _ = train_together(toy_config("alone"), toy_store, tmp_path / "alone_ranks")
    assert all(torch.equal(stopped[name], alone[name]) for name in alone)


@pytest.mark.parametrize("run", ["breakout_run", "tokenizer_run"])
def test_two_processes_extract_the_bytes_of_one(
    run: str, breakout_recording: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    checkpoint = request.getfixturevalue(run) / "best.pt"
    options = ["extract", "--checkpoint", str(checkpoint), "--data", str(breakout_recording)]
    assert main([*options, "--out", str(tmp_path / "alone.lapa")]) == 0
    done = torchrun("-m", "lapa.cli", *options, "--out", str(tmp_path / "together.lapa"))
    assert (tmp_path / "together.lapa").exists(), done.stderr[-3000:]
    assert (tmp_path / "together.lapa").read_bytes() == (tmp_path / "alone.lapa").read_bytes()
    assert done.stdout.count("extracted") == 1


def test_the_command_line_trains_with_two_processes(record_toy: Callable[..., Path], tmp_path: Path) -> None:
    data = record_toy(tmp_path / "toy")  # not packed yet: the first rank packs, the second waits
    options = ["--preset", "debug", "data.downsample=1", f"data.root={data}", f"training.out={tmp_path / 'run'}"]
    done = torchrun("-m", "lapa.cli", "train", *options)
    assert load_checkpoint(tmp_path / "run" / "best.pt", "cpu").step > 0, done.stderr[-3000:]
    assert done.stdout.count("best: ") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2


def test_a_batch_that_cannot_be_dealt_is_an_error(record_toy: Callable[..., Path], tmp_path: Path) -> None:
    options = ["--preset", "debug", "data.downsample=1", f"data.root={record_toy(tmp_path / 'toy')}"]
    done = torchrun("-m", "lapa.cli", "train", *options, f"training.out={tmp_path / 'run'}", "training.batch_size=9")
    assert done.returncode != 0
    assert "training.batch_size: 9 clips cannot be cut into 2 equal parts of 2 or more, for 2 proc" in done.stderr
    assert not (tmp_path / "run").exists()


def test_alone_everything_is_what_it_was() -> None:
    values = torch.arange(6.0).view(3, 2)
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    for name in ("summed", "broadcast", "gathered_rows", "mean_with_gradient"):
        assert getattr(distributed, name)(values) is values
    assert distributed.gathered_objects("a") == ["a"] == distributed.gathered_on_main("a")
    norm = nn.BatchNorm2d(2)
    assert distributed.synchronize_batch_norm(norm, torch.device("cpu")) is norm
    assert type(norm) is nn.BatchNorm2d


def test_batch_norm_over_a_group_is_torchs_own_when_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, 6, requires_grad=True)
    reference, grouped = nn.BatchNorm2d(3), distributed.GroupBatchNorm2d(3)
    (reference(x) * torch.arange(6)).sum().backward()
    expected, x.grad = x.grad, None
    (grouped(x) * torch.arange(6)).sum().backward()
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(grouped.state_dict(), reference.state_dict())
    torch.testing.assert_close(grouped.eval()(x), reference.eval()(x))


def test_more_processes_than_cuda_devices_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(distributed, "pick_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = r"1 CUDA device\(s\), but a process of local rank 1; lower --nproc-per-node"
    with pytest.raises(ConfigError, match=message), distributed.process_group("cuda"):
        pass
