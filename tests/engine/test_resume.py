"""A run that was killed, stopped or damaged goes on to the same bits as one that was left alone."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lapa.cli import main
from lapa.config import Config, load_config, to_yaml
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import load_checkpoint, read_state, step_checkpoints
from lapa.engine.randomness import rng_state, set_rng_state
from lapa.engine.stopping import StopSignal
from lapa.engine.training import train
from lapa.errors import CheckpointError, ConfigError, DataError, TrainingInterrupted
from lapa.systems.latent_action import model as latent_action

STEPS = 60


def quiet(message: str) -> None:
    """Takes what training has to say."""


@pytest.fixture
def toy_config(tmp_path: Path) -> Callable[..., Config]:
    """A function that returns a small preset at the toy's size, of a run in the named folder."""

    def make(out: str, *overrides: str, preset: str = "debug") -> Config:
        fixed = [f"training.out={tmp_path / out}", "data.downsample=1", "training.precision=fp32"]
        every = [f"training.{name}_every={n}" for name, n in (("checkpoint", 3), ("validate", 7), ("reseed", 4))]
        return load_config(preset, overrides=[*fixed, *every, f"training.steps={STEPS}", *overrides])

    return make


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_state(path)["model"]


def same(a: Any, b: Any) -> bool:
    """Whether two nested containers of tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def logged(out: Path) -> list[dict[str, Any]]:
    """The run's metrics, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    clocked = ("seconds", "train/speed/", "train/device/")
    return [{name: value for name, value in line.items() if not name.startswith(clocked)} for line in lines]


def last_checkpoint(out: Path) -> int:
    """Step of a run's newest checkpoint, 0 before the first."""
    return max((int(path.stem[5:]) for path in step_checkpoints(out)), default=0)


@pytest.fixture(scope="module")
def children() -> Iterator[Any]:
    """Starts child processes from a server that has imported torch already, so that a start takes no seconds."""
    context = multiprocessing.get_context("forkserver")
    plugins = [f"lapa_plugins.{name}" for name in ("encoders.conv", "quantizers.vq", "conditioners.film")]
    context.set_forkserver_preload(["lapa.engine.training", "skimage.metrics", *plugins])
    return context


@pytest.mark.parametrize(
    ("preset", "quantizer", "kills", "at_least"),
    [
        ("debug", "vq", 6, 2),
        ("debug", "ema", 3, 1),
        ("tokenizer_debug", "ema", 3, 1),
        pytest.param("debug", "vq", 20, 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    toy_store: FrameStore,
    toy_config: Callable[..., Config],
    children: Any,
    preset: str,
    quantizer: str,
    kills: int,
    at_least: int,
) -> None:
    options = [f"model.quantizer.name={quantizer}"]
    alone = toy_config("alone", *options, preset=preset)
    train(alone, toy_store, quiet)

    killed = toy_config("killed", *options, preset=preset)
    out = Path(killed.training.out)
    rng = random.Random(quantizer)
    steps: set[int] = set()
    while kills > 0:
        child = children.Process(target=train, args=(killed, toy_store), kwargs={"existing": "resume"})
        child.start()
        # At a random step, and a random moment of it: by the clock alone, a busy machine would hardly get to train.
        step = last_checkpoint(out) + rng.choice([0, 3, 6, 9, 12])
        while child.exitcode is None and last_checkpoint(out) < step:
            time.sleep(0.002)
        child.join(rng.uniform(0.0, 0.03))
        if child.exitcode == 0:  # it was done before the blow fell: begin again, killing goes on
            shutil.rmtree(out)
            continue
        assert child.exitcode is None, "the child failed by itself"
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills -= 1
        steps.add(last_checkpoint(out))
    train(killed, toy_store, quiet, existing="resume")

    ends = [Path(config.training.out) / f"step_{STEPS}.pt" for config in (alone, killed)]
    assert same(weights(ends[0]), weights(ends[1]))
    first, second = (read_state(path)["training"] for path in ends)
    assert same({**first, "elapsed": 0}, {**second, "elapsed": 0})
    assert logged(ends[0].parent) == logged(ends[1].parent)
    assert same(weights(ends[0].parent / "best.pt"), weights(ends[1].parent / "best.pt"))
    assert not list(out.glob(".*.part"))
    assert len(steps) >= at_least, "it was hardly ever killed while it trained"


DIES_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import torch
from lapa.config import load_config
from lapa.data.store import FrameStore
from lapa.engine.training import train

save, saved = torch.save, []

def die(state, file):
    save(state, file)
    saved.append(file)
    if len(saved) == int(sys.argv[3]):
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = die
train(load_config("debug", Path(sys.argv[1])), FrameStore(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("nth", [1, 4])
def test_a_run_killed_while_it_writes_a_checkpoint_goes_on(
    toy_store: FrameStore, toy_config: Callable[..., Config], tmp_path: Path, nth: int
) -> None:
    config, alone = toy_config("killed", "training.steps=20"), toy_config("alone", "training.steps=20")
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-c", DIES_WHILE_SAVING, str(file), str(toy_store.path), str(nth)]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    out = Path(config.training.out)
    assert list(out.glob(".*.part"))  # what it was writing
    train(config, toy_store, quiet, existing="resume")
    train(alone, toy_store, quiet)
    assert same(weights(out / "step_20.pt"), weights(Path(alone.training.out) / "step_20.pt"))
    assert not list(out.glob(".*.part"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    config, alone = toy_config("stopped"), toy_config("alone")
    send_at(monkeypatch, number, step=17)
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted) as raised:
        train(config, toy_store, quiet)
    out = Path(config.training.out)
    assert raised.value.signal == number
    assert str(raised.value) == (
        f"stopped after step 17 and saved {out / 'step_17.pt'}; go on with `lapa train --resume training.out={out}`"
    )
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    train(config, toy_store, quiet, existing="resume")
    train(alone, toy_store, quiet)
    assert same(weights(out / f"step_{STEPS}.pt"), weights(Path(alone.training.out) / f"step_{STEPS}.pt"))
    assert logged(out) == logged(Path(alone.training.out))


def test_a_run_of_epochs_resumes_to_the_same_steps_and_bits(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, alone = (toy_config(out, "training.epochs=3.2") for out in ("stopped", "alone"))
    send_at(monkeypatch, signal.SIGTERM, step=5)
    with pytest.raises(TrainingInterrupted):
        train(config, toy_store, quiet)
    monkeypatch.undo()
    assert train(config, toy_store, quiet, existing="resume").steps == train(alone, toy_store, quiet).steps == 13
    out, whole = Path(config.training.out), Path(alone.training.out)
    assert same(weights(out / "step_13.pt"), weights(whole / "step_13.pt"))
    assert logged(out) == logged(whole)


def test_checkpoints_from_before_a_guard_still_resume(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    newest = train(toy_config("run", "training.steps=6"), toy_store, quiet).last
    state = torch.load(newest, weights_only=True)
    del state["training"]["zero_loss"]
    for key in ("epochs", "max_zero"):
        del state["config"]["training"][key]
    torch.save(state, newest)
    assert train(toy_config("run", "training.steps=9"), toy_store, quiet, existing="resume").steps == 9


def send_at(monkeypatch: pytest.MonkeyPatch, number: int, step: int) -> None:
    """Sends this process a signal while that step is computed."""
    steps, terms = iter(range(1, 1000)), latent_action.loss_terms

    def send(*arguments: Any) -> Any:
        if torch.is_grad_enabled() and next(steps) == step:
            os.kill(os.getpid(), number)
        return terms(*arguments)

    monkeypatch.setattr(latent_action, "loss_terms", send)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_is_not_held_back() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_the_last_checkpoints_and_the_best_are_kept(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    config = toy_config("run", "training.steps=20", "training.keep_last=2")
    train(config, toy_store, quiet)
    out = Path(config.training.out)
    assert sorted(path.name for path in out.glob("*.pt")) == ["best.pt", "step_18.pt", "step_20.pt"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "text"])
def test_an_unreadable_checkpoint_falls_back_to_the_one_before(
    toy_store: FrameStore, toy_config: Callable[..., Config], damage: str
) -> None:
    config, alone = toy_config("run", "training.steps=12"), toy_config("alone", "training.steps=20")
    train(config, toy_store, quiet)
    newest = Path(config.training.out) / "step_12.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255
    newest.write_bytes({"cut": content[:-500], "flipped": content, "emptied": b"", "text": b"hello"}[damage])
    said: list[str] = []
    longer = toy_config("run", "training.steps=20")
    train(longer, toy_store, said.append, existing="resume")
    assert any(line.startswith(f"{newest}: ") and line.endswith("falling back to the one before") for line in said)
    assert f"resuming from {newest.with_name('step_9.pt')}" in said
    train(alone, toy_store, quiet)
    assert len(step_checkpoints(newest.parent)) == 3


def test_a_run_without_a_readable_checkpoint_is_not_begun_anew_in_silence(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    config = toy_config("run", "training.steps=6")
    train(config, toy_store, quiet)
    for path in step_checkpoints(Path(config.training.out)):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of its 2 checkpoints can be read; start anew with --overwrite"):
        train(config, toy_store, quiet, existing="resume")


def test_a_run_is_not_overwritten_unless_asked(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    config = toy_config("run", "training.steps=6")
    train(config, toy_store, quiet)
    before = weights(Path(config.training.out) / "step_6.pt")
    other = toy_config("run", "training.steps=3", "training.seed=1")
    with pytest.raises(ConfigError, match=r"holds a run already; go on with --resume, replace it with --overwrite"):
        train(other, toy_store, quiet)
    assert same(weights(Path(config.training.out) / "step_6.pt"), before)
    train(other, toy_store, quiet, existing="overwrite")
    assert [path.name for path in step_checkpoints(Path(config.training.out))] == ["step_3.pt"]
    assert logged(Path(config.training.out))[-1]["step"] == 3


def test_a_finished_run_has_nothing_left_to_do(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    config = toy_config("run", "training.steps=6")
    first = train(config, toy_store, quiet)
    content = first.last.read_bytes()
    again = train(config, toy_store, quiet, existing="resume")
    assert (again.steps, again.best, again.metrics) == (first.steps, first.best, first.metrics)
    assert first.last.read_bytes() == content


def test_resuming_where_there_is_no_run_starts_one(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    config = toy_config("run", "training.steps=3")
    said: list[str] = []
    train(config, toy_store, said.append, existing="resume")
    assert f"no run to resume in {config.training.out}; starting one" in said


@pytest.mark.parametrize(
    "option", ["model.latent_dim=16", "loss.motion=3", "data.color=rgb", "training.seed=5", "training.batch_size=4"]
)
def test_a_run_keeps_what_it_began_with(toy_store: FrameStore, toy_config: Callable[..., Config], option: str) -> None:
    train(toy_config("run", "training.steps=3"), toy_store, quiet)
    key, _, value = option.partition("=")
    with pytest.raises(CheckpointError, match=rf"step_3.pt: was trained with {key}=.*, not {value}.*; a run keeps"):
        train(toy_config("run", "training.steps=3", option), toy_store, quiet, existing="resume")


def test_what_does_not_change_the_model_may_be_set_anew(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    train(toy_config("run", "training.steps=3"), toy_store, quiet)
    said: list[str] = []
    options = ["training.steps=9", "training.log_every=2", "data.placement=disk", "training.num_workers=0"]
    summary = train(toy_config("run", *options), toy_store, said.append, existing="resume")
    assert summary.steps == 9
    assert "training.steps is now 9; it was 3" in said


def test_changed_recordings_are_told(
    toy_store: FrameStore, toy_config: Callable[..., Config], record_toy: Callable[..., Path], tmp_path: Path
) -> None:
    train(toy_config("run", "training.steps=3"), toy_store, quiet)
    said: list[str] = []
    more = open_store(record_toy(tmp_path / "more", episodes=7, seed=1), notify=quiet)
    train(toy_config("run", "training.steps=6"), more, said.append, existing="resume")
    assert any("recordings have changed" in line for line in said)
    fewer = open_store(record_toy(tmp_path / "fewer", episodes=3, seed=1), notify=quiet)
    with pytest.raises(DataError, match=r"episode '.' of the run is missing"):
        train(toy_config("run", "training.steps=9"), fewer, quiet, existing="resume")


def test_random_numbers_go_on_where_they_were() -> None:
    device = torch.device("cpu")
    state = rng_state(device)
    first = (torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1))
    set_rng_state(state, device)
    second = (torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1))
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[2:] == second[2:]
    assert same(state, torch.load(saved(state), weights_only=True))


def saved(state: Any) -> io.BytesIO:
    """What ``torch.save`` makes of it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_the_command_line_goes_on_without_being_told_the_configuration(
    toy_store: FrameStore, toy_config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy_config("run", f"data.root={toy_store.path.parent.parent}", "training.steps=3", "model.latent_dim=4")
    train(config, toy_store, quiet)
    assert main(["train", "--resume", f"training.out={tmp_path / 'run'}", "training.steps=6"]) == 0
    assert "after 6 steps" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run" / "step_6.pt", "cpu").config.model.latent_dim == 4
