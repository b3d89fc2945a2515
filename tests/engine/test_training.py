"""Training writes what it says, keeps its best, gives the same run for the same seed, and outlives a bad loss."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lapa import device
from lapa.config import Config, TrainingConfig, config_from_dict, load_config
from lapa.contracts import Facts, Progress, Terms
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint, read_state
from lapa.engine.facts import git_revision
from lapa.engine.schedule import learning_rate
from lapa.engine.setup import make_system
from lapa.engine.stopping import StopSignal
from lapa.engine.training import Run, train
from lapa.engine.validation import Validator
from lapa.errors import ConfigError, DataError, TrainingError
from lapa.systems.latent_action import model as latent_action
from lapa.systems.latent_action.losses import loss_terms
from lapa.systems.latent_action.model import LatentActionModel

LIMIT = 10
"""Bad steps in a row that end a run, by default."""
GROUPS = {
    "train": {"loss", "quantizer", "optim", "recon", "speed", "device"},
    "val": {"loss", "recon", "codebook"},
}


def quiet(message: str) -> None:
    """Takes what training has to say."""


@pytest.fixture
def toy_config(tmp_path: Path) -> Callable[..., Config]:
    """A function that returns the ``debug`` preset at the toy's size, with overrides."""

    def make(*overrides: str) -> Config:
        # fp32: what is tested here must not depend on what the machine is good at.
        fixed = ["data.downsample=1", f"training.out={tmp_path / 'run'}", "training.precision=fp32"]
        return load_config("debug", overrides=[*fixed, *overrides])

    return make


def log_lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_hash(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(checkpoint.model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def test_a_run_leaves_its_config_its_log_and_its_checkpoints(breakout_run: Path) -> None:
    names = {path.name for path in breakout_run.iterdir()}
    files = {"config.yaml", "split.json", "run.json", "metrics.jsonl", "best.pt", "step_10.pt", "step_20.pt"}
    assert names == files
    assert json.loads((breakout_run / "split.json").read_text()) == load_checkpoint(breakout_run / "best.pt").split
    overrides = [f"training.out={breakout_run}", "data.downsample=2", "training.precision=fp32", "training.device=cpu"]
    expected = load_config("debug", overrides=overrides)
    assert load_config(file=breakout_run / "config.yaml") == expected


def test_the_summary_says_what_was_done(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    said: list[str] = []
    summary = train(toy_config(), toy_store, said.append)
    assert summary.steps == 20
    assert summary.best == Path(toy_config().training.out) / "best.pt"
    assert summary.pairs_per_second == pytest.approx(20 * 8 / summary.seconds)
    assert summary.metrics == load_checkpoint(summary.best, "cpu").metrics
    assert any("36 clips of 3 episodes, frames in memory; validating on 12 clips of 1" in line for line in said)


def test_metrics_are_named_by_stage_group_and_name(breakout_run: Path) -> None:
    lines = log_lines(breakout_run)
    seen: dict[str, set[str]] = {"train": set(), "val": set()}
    for line in lines:
        assert line.keys() > {"step", "seconds"}
        for key in line.keys() - {"step", "seconds"}:
            stage, group, _ = key.split("/")
            seen[stage].add(group)
            assert isinstance(line[key], (list, str)) or math.isfinite(line[key]), key
    assert seen == GROUPS
    assert [line["step"] for line in lines if "train/loss/reconstruction" in line] == [5, 10, 15, 20]
    assert [line["step"] for line in lines if "val/recon/mse" in line] == [10, 20]


def test_the_last_step_is_always_logged_and_validated(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    lines = log_lines(train(toy_config("training.steps=7"), toy_store, quiet).best.parent)
    assert [line["step"] for line in lines if "train/recon/psnr_db" in line] == [5, 7]
    assert [line["step"] for line in lines if "val/recon/mse" in line] == [7]


def test_the_best_checkpoint_has_the_lowest_validation_error(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([0.5, 0.2, 0.3, 0.4])
    look = Validator.metrics

    def spoilt(*arguments: Any) -> dict[str, float]:
        return {**look(*arguments), "val/recon/mse": next(errors)}

    monkeypatch.setattr(Validator, "metrics", spoilt)
    summary = train(toy_config("training.validate_every=5"), toy_store, quiet)
    best = load_checkpoint(summary.best, "cpu")
    assert (best.step, best.metrics["val/recon/mse"]) == (10, 0.2)
    assert summary.metrics == best.metrics


def test_a_real_run_keeps_the_lowest_error_of_its_log(breakout_run: Path, breakout_checkpoint: Checkpoint) -> None:
    logged = {line["step"]: line["val/recon/mse"] for line in log_lines(breakout_run) if "val/recon/mse" in line}
    best = breakout_checkpoint
    assert best.metrics["val/recon/mse"] == min(logged.values()) == logged[best.step]


def test_the_kept_steps_hold_the_optimizer_and_the_best_does_not(breakout_run: Path) -> None:
    best, kept = (torch.load(breakout_run / name, weights_only=True) for name in ("best.pt", "step_20.pt"))
    assert "training" not in best
    assert kept["training"]["optimizer"]["state"]
    assert kept["step"] == 20


def test_the_split_in_the_checkpoint_holds_each_episode_once(breakout_checkpoint: Checkpoint) -> None:
    split = breakout_checkpoint.split
    assert sorted(name for names in split.values() for name in names) == ["0", "1", "2", "3", "4", "5"]
    assert all(split[stage] for stage in ("train", "val", "test"))


def test_validation_sees_the_validation_episodes_alone(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    look = Validator.metrics

    def spy(self: Validator, losses: Any) -> dict[str, float]:
        seen.append([episode.name for episode in self.dataset.episodes])
        return look(self, losses)

    monkeypatch.setattr(Validator, "metrics", spy)
    summary = train(toy_config(), toy_store, quiet)
    assert seen == [load_checkpoint(summary.best, "cpu").split["val"]] * 2


def test_the_loss_falls(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    config = toy_config("training.steps=40", "training.learning_rate=3e-3")
    lines = log_lines(train(config, toy_store, quiet).best.parent)
    losses = [line["train/loss/reconstruction"] for line in lines if "train/loss/reconstruction" in line]
    assert losses[-1] < losses[0] / 1.5


def test_a_seed_gives_the_same_weights_again(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    def weights(out: str, seed: int) -> str:
        config = toy_config(f"training.out={toy_store.path.parent / out}", f"training.seed={seed}")
        train(config, toy_store, quiet)
        return weights_hash(load_checkpoint(toy_store.path.parent / out / "step_20.pt", "cpu"))

    first = weights("a", 3)
    torch.rand(5)  # what was drawn before must not matter
    assert weights("b", 3) == first
    assert weights("c", 4) != first


def plant_nan(monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[int], bool]) -> None:
    """Lets the loss of those steps, counted from 1, be NaN."""
    steps = iter(range(1, 10_000))

    def spoilt(*arguments: Any) -> Terms:
        terms = loss_terms(*arguments)
        if not torch.is_grad_enabled():  # validation
            return terms
        factor = math.nan if is_bad(next(steps)) else 1.0
        weight, error = terms["reconstruction"]
        return {**terms, "reconstruction": (weight, error * factor)}

    monkeypatch.setattr(latent_action, "loss_terms", spoilt)


def test_a_step_whose_loss_is_nan_changes_no_weight(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_nan(monkeypatch, lambda step: step in (3, 4, 9))
    summary = train(toy_config(), toy_store, quiet)
    assert summary.steps == 20
    kept = torch.load(summary.best.parent / "step_20.pt", weights_only=True)
    assert all(value.isfinite().all() for value in kept["model"].values())
    assert {int(state["step"]) for state in kept["training"]["optimizer"]["state"].values()} == {17}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_not_followed(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    clip, steps = torch.nn.utils.clip_grad_norm_, iter(range(1, 100))

    def spoil(parameters: Any, limit: float) -> torch.Tensor:
        return clip(parameters, limit) * (bad if next(steps) == 4 else 1.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoil)
    summary = train(toy_config(), toy_store, quiet)
    assert summary.warnings[-1] == "1 step(s) were skipped: loss or gradient not finite"
    kept = read_state(summary.last)
    assert {int(state["step"]) for state in kept["training"]["optimizer"]["state"].values()} == {19}


def test_a_loss_that_stays_nan_ends_the_run_and_names_the_last_good_checkpoint(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_nan(monkeypatch, lambda step: step > 12)
    config = toy_config("training.steps=100")
    with pytest.raises(TrainingError) as raised:
        train(config, toy_store, quiet)
    best = Path(config.training.out) / "best.pt"
    assert f"not finite for {LIMIT} steps, up to step {12 + LIMIT}" in str(raised.value)
    assert f"the last good checkpoint is {best.with_name('step_20.pt')}" in str(raised.value)
    assert "lower training.learning_rate" in str(raised.value)
    model = load_checkpoint(best, "cpu").model
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_a_loss_that_is_nan_now_and_then_does_not_end_the_run(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_nan(monkeypatch, lambda step: step % LIMIT != 0)
    assert train(toy_config("training.steps=25"), toy_store, quiet).steps == 25


def test_a_run_that_is_nan_from_the_start_names_no_checkpoint_that_is_not_there(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_nan(monkeypatch, lambda step: True)
    with pytest.raises(TrainingError, match="no checkpoint was written yet"):
        train(toy_config("training.validate_every=1000"), toy_store, quiet)


def test_an_older_runs_checkpoint_is_not_called_the_last_good_one(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(toy_config("training.steps=2"), toy_store, quiet)
    plant_nan(monkeypatch, lambda step: True)
    with pytest.raises(TrainingError, match="no checkpoint was written yet"):
        train(toy_config("training.validate_every=1000"), toy_store, quiet, existing="overwrite")


@pytest.mark.parametrize("quantizer", ["vq", "ema"])
def test_a_batch_that_overflows_leaves_the_model_finite(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, quantizer: str
) -> None:
    to_float, calls = latent_action.to_float, iter(range(10_000))

    def overflow(frames: torch.Tensor) -> torch.Tensor:
        return to_float(frames) * (math.nan if next(calls) == 6 else 1.0)  # two calls a step: in the fourth

    monkeypatch.setattr(latent_action, "to_float", overflow)
    summary = train(toy_config(f"model.quantizer.name={quantizer}"), toy_store, quiet)
    model = load_checkpoint(summary.best.parent / "step_20.pt", "cpu").model
    assert [name for name, value in model.state_dict().items() if not value.isfinite().all()] == []


def test_a_time_limit_ends_the_run_with_its_schedule_done(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    summary = train(toy_config("training.steps=1000000", "training.max_minutes=0.002"), toy_store, quiet)
    assert 1 <= summary.steps < 1_000_000
    assert summary.best.exists()
    assert log_lines(summary.best.parent)[-1]["step"] == summary.steps


def test_unused_codes_are_seeded_again_until_told_to_stop(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lapa_plugins.quantizers.vq import VectorQuantizer

    steps: list[int] = []
    moved: list[int] = []
    forward, reseed = VectorQuantizer.forward, VectorQuantizer.reseed_unused

    def count(self: VectorQuantizer, latent: torch.Tensor) -> Any:
        if self.training:
            steps.append(1)
        return forward(self, latent)

    def spy(self: VectorQuantizer, latent: torch.Tensor) -> int:
        moved.append(len(steps))
        assert len(latent) == 8
        return reseed(self, latent)

    monkeypatch.setattr(VectorQuantizer, "forward", count)
    monkeypatch.setattr(VectorQuantizer, "reseed_unused", spy)
    train(toy_config("training.reseed_until=0.7"), toy_store, quiet)
    assert moved == [5, 10]  # progress before step 15 is 0.7


def test_dead_codes_come_back_to_life(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    def codes_used(*overrides: str) -> float:
        config = toy_config("model.quantizer.num_codes=64", "training.steps=30", *overrides)
        run = train(config, toy_store, quiet, existing="overwrite").best.parent
        return log_lines(run)[-1]["val/codebook/codes_used"]

    assert codes_used("training.reseed_every=5") > codes_used("training.reseed_every=1000")


@pytest.mark.parametrize("episodes", [1, 2])
def test_too_few_episodes_for_a_split_are_an_error(
    record_toy: Callable[..., Path], toy_config: Callable[..., Config], tmp_path: Path, episodes: int
) -> None:
    store = open_store(record_toy(tmp_path / "few", episodes=episodes), notify=quiet)
    with pytest.raises(DataError, match=rf"only {episodes} usable episode.*record more"):
        train(toy_config(), store, quiet)
    assert not (tmp_path / "run").exists()


def test_too_few_pairs_for_a_batch_are_an_error(
    record_toy: Callable[..., Path], toy_config: Callable[..., Config], tmp_path: Path
) -> None:
    store = open_store(record_toy(tmp_path / "few", episodes=3, steps=5), notify=quiet)
    with pytest.raises(DataError, match=r"5 training clips do not fill one batch of 8.*training.batch_size"):
        train(toy_config(), store, quiet)


def test_frames_too_small_for_the_model_are_an_error(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"data.downsample: 5 leaves frames of 8 x 6"):
        train(toy_config("data.downsample=5"), toy_store, quiet)


def test_the_checkpoint_holds_the_whole_configuration(breakout_run: Path) -> None:
    stored = torch.load(breakout_run / "best.pt", weights_only=True)
    assert config_from_dict(stored["config"]) == load_config(file=breakout_run / "config.yaml")


def without_batch_norm_statistics(run: Run) -> None:
    """Freezes batch norm: what a batch is cut into then makes no difference."""
    for module in run.system.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train(False)
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]


def curve_of(config: Config, store: FrameStore, prepare: Callable[[Run], None] = lambda run: None) -> list[float]:
    """The training loss of every step."""
    run = Run(config, store, torch.device("cpu"), quiet, "overwrite")
    prepare(run)
    with StopSignal() as stop, run.trackers:
        run.train(stop)
    return [line["train/loss/total"] for line in log_lines(run.out) if "train/loss/total" in line]


@pytest.mark.parametrize("quantizer", ["vq", "ema"])
def test_two_micro_batches_of_sixteen_are_one_batch_of_thirty_two(
    toy_store: FrameStore, toy_config: Callable[..., Config], quantizer: str
) -> None:
    # The first batch spreads the codes over its encodings, of which a micro-batch has fewer: leave that out.
    def prepare(run: Run) -> None:
        without_batch_norm_statistics(run)
        run.system.quantizer.started.fill_(True)

    options = [f"model.quantizer.name={quantizer}", "training.batch_size=32", "training.log_every=1"]
    whole, cut = (
        curve_of(toy_config(*options, "training.reseed_every=1000", f"training.accumulate={n}"), toy_store, prepare)
        for n in (1, 2)
    )
    assert len(whole) == 20
    assert cut == pytest.approx(whole, rel=1e-3)
    assert whole[-1] < whole[0]


def test_batch_norm_sees_micro_batches(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    options = ["training.batch_size=32", "training.log_every=1", "training.steps=2"]
    whole, cut = (curve_of(toy_config(*options, f"training.accumulate={n}"), toy_store) for n in (1, 2))
    assert cut != pytest.approx(whole, rel=1e-3)  # told in the README


def saved_bytes(model: LatentActionModel, batch: torch.Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage counted once."""
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch, batch)
    output.prediction.sum().backward()
    return sum(storages.values())


def test_activation_checkpointing_keeps_less_and_changes_no_bit(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    options = ["training.log_every=1", "training.checkpoint_every=20"]
    config, saving = toy_config(*options), toy_config(*options, "training.activation_checkpointing=true")
    assert curve_of(config, toy_store) == curve_of(saving, toy_store)
    kept = read_state(Path(saving.training.out) / "step_20.pt")["model"]
    curve_of(config, toy_store)
    usual = read_state(Path(config.training.out) / "step_20.pt")["model"]
    assert all(torch.equal(kept[name], usual[name]) for name in usual)  # the running statistics too
    model = make_system(config, Facts(FrameFormat(40, 32)))
    batch = torch.rand(16, 1, 40, 32)
    before = saved_bytes(model, batch)
    model.activation_checkpointing = True
    assert saved_bytes(model, batch) < 0.5 * before


def test_fp16_scales_the_loss_and_keeps_the_scale(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    config = toy_config("training.precision=fp16", "training.log_every=1", "training.max_non_finite=50")
    summary = train(config, toy_store, quiet)
    scales = [line["train/optim/loss_scale"] for line in log_lines(summary.best.parent) if "train/loss/total" in line]
    assert read_state(summary.last)["training"]["scaler"]["scale"] == scales[-1] > 1
    half = toy_config("training.precision=fp16", "training.max_non_finite=50", "training.steps=30")
    said = log_lines(train(half, toy_store, quiet, existing="resume").best.parent)
    assert said[-1]["step"] == 30
    assert math.isfinite(summary.metrics["val/recon/mse"])


def test_an_overflow_in_fp16_lowers_the_scale_and_skips_the_step(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_nan(monkeypatch, lambda step: step == 4)
    config = toy_config("training.precision=fp16", "training.log_every=1", "training.max_non_finite=50")
    lines = [line for line in log_lines(train(config, toy_store, quiet).best.parent) if "train/loss/total" in line]
    assert lines[3]["train/loss/total"] is None
    assert lines[4]["train/optim/loss_scale"] <= lines[2]["train/optim/loss_scale"] / 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_single_precision_does(
    toy_store: FrameStore, toy_config: Callable[..., Config], precision: str
) -> None:
    single, half = (
        curve_of(toy_config("training.steps=40", "training.max_non_finite=50", f"training.precision={name}"), toy_store)
        for name in ("fp32", precision)
    )
    assert half[-1] == pytest.approx(single[-1], rel=0.15)


def test_a_model_no_better_than_copying_is_said_in_the_summary(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    (warning,) = train(toy_config("training.steps=2"), toy_store, quiet).warnings
    assert "no better" in warning
    assert "than copying the current one does" in warning


def test_what_a_validation_finds_wrong_is_said_at_once_and_once(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarms(self: LatentActionModel, metrics: dict[str, float]) -> list[str]:
        return [f"held-out frames are drawn with an error of {metrics['val/recon/mse']:.9f}"]

    monkeypatch.setattr(LatentActionModel, "alarms", alarms)
    said: list[str] = []
    train(toy_config("training.validate_every=5"), toy_store, said.append)
    (warning,) = [line for line in said if "held-out frames are drawn" in line]
    first = next(line for line in log_lines(Path(toy_config().training.out)) if "val/recon/mse" in line)
    assert warning == f"WARNING: held-out frames are drawn with an error of {first['val/recon/mse']:.9f}"


def test_a_system_is_told_share_steps_and_epochs(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, float, int, float]] = []

    def spy(*arguments: Any) -> Terms:
        progress = arguments[5]
        assert isinstance(progress, Progress)
        seen.append((torch.is_grad_enabled(), progress, progress.step, progress.epochs))
        return loss_terms(*arguments)

    monkeypatch.setattr(latent_action, "loss_terms", spy)
    train(toy_config("training.steps=5"), toy_store, quiet)
    expected = [(step / 5, step, step / 4) for step in range(5)]  # 36 clips are 4 batches of 8
    assert [tuple(each[1:]) for each in seen if each[0]] == expected
    assert {tuple(each[1:]) for each in seen if not each[0]} == {expected[-1]}


def test_epochs_say_how_long_and_the_run_says_the_steps(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    config, said = toy_config("training.epochs=1.6"), list[str]()
    summary = train(config, toy_store, said.append)
    assert summary.steps == 7  # 36 clips are 4 batches of 8, of which 6.4 are asked for
    assert any(line.endswith("; 1.6 epochs are 7 steps") for line in said)
    assert log_lines(summary.best.parent)[-1]["step"] == 7
    rates = [line["train/optim/learning_rate"] for line in log_lines(summary.best.parent) if "train/loss/total" in line]
    assert rates[-1] == pytest.approx(learning_rate(config.training, 6 / 7)), "the schedule is that of seven steps"
    assert load_config(file=summary.best.parent / "config.yaml") == config
    facts = json.loads((summary.best.parent / "run.json").read_text())
    assert facts["training"] == {"steps": 7, "steps_per_epoch": 4, "clips": 36}


@pytest.mark.parametrize(("weight", "ends"), [(1.0, True), (0.0, False)])
def test_a_term_that_is_never_computed_ends_the_run_unless_it_has_no_weight(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, weight: float, ends: bool
) -> None:
    def with_stub(*arguments: Any) -> Terms:
        return {**loss_terms(*arguments), "stub": (weight, torch.zeros(()))}

    monkeypatch.setattr(latent_action, "loss_terms", with_stub)
    config = toy_config("training.max_zero=12", "training.accumulate=2")
    if ends:
        with pytest.raises(TrainingError, match="loss term 'stub' was exactly 0 for 12 steps, up to step 12"):
            train(config, toy_store, quiet)
    else:
        assert train(config, toy_store, quiet).steps == 20


def test_a_quantizer_without_a_loss_of_its_own_is_not_taken_for_a_mistake(
    toy_store: FrameStore, toy_config: Callable[..., Config]
) -> None:
    summary = train(toy_config("training.max_zero=2", "model.quantizer.name=fsq"), toy_store, quiet)
    assert summary.metrics["val/loss/quantizer"] == 0
    assert summary.steps == 20


def test_a_collapsing_codebook_is_told_while_it_trains(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lapa_plugins.quantizers.vq import VectorQuantizer

    def distances(self: VectorQuantizer, flat: torch.Tensor) -> torch.Tensor:
        return flat @ self.codebook.T * 0 + torch.arange(self.num_codes)  # every encoding takes code 0

    monkeypatch.setattr(VectorQuantizer, "distances", distances)
    said: list[str] = []
    summary = train(toy_config("training.collapse_steps=8"), toy_store, said.append)
    assert [line for line in said if "codebook collapse: perplexity 1.0 of 16 codes" in line]
    assert "the codebook had collapsed at step 8" in summary.warnings


def test_what_is_due_is_logged_at_its_step(toy_store: FrameStore, toy_config: Callable[..., Config]) -> None:
    cadence = ["log_every=1", "validate_every=4", "usage_every=5", "examples_every=6", "checkpoint_every=7"]
    run = train(toy_config(*(f"training.{option}" for option in cadence)), toy_store, quiet).best.parent
    steps: dict[str, list[int]] = {}
    for line in log_lines(run):
        for name in line:
            steps.setdefault(name, []).append(line["step"])
    assert steps["train/loss/total"] == steps["train/speed/data_wait_share"] == list(range(1, 21))
    for name in ("val/loss/total", "val/loss/reconstruction", "val/recon/psnr_db", "val/recon/ssim"):
        assert steps[name] == [4, 8, 12, 16, 20]
    assert steps["val/codebook/use"] == [5, 10, 15, 20]
    assert steps["val/codebook/perplexity"] == [4, 5, 8, 10, 12, 15, 16, 20, 20]
    assert steps["val/recon/examples"] == [6, 12, 18]
    assert sorted(path.name for path in (run / "examples").iterdir()) == ["step_12.png", "step_18.png", "step_6.png"]
    assert sorted(path.name for path in run.glob("step_*.pt")) == ["step_14.pt", "step_20.pt", "step_7.pt"]


def test_the_references_cadence_is_the_default() -> None:
    training = TrainingConfig()
    assert (training.steps, training.batch_size) == (100_000, 32)
    assert (training.learning_rate, training.final_learning_rate) == (3e-4, 1e-4)
    assert (training.log_every, training.validate_every, training.usage_every) == (1, 1_000, 5_000)
    assert (training.examples_every, training.reseed_every, training.checkpoint_every) == (2_500, 10_000, 10_000)


def test_the_run_says_what_it_trained_on_what(breakout_run: Path, breakout_store: FrameStore) -> None:
    facts = json.loads((breakout_run / "run.json").read_text())
    assert facts["data"]["fingerprint"] == breakout_store.header["fingerprint"]
    assert facts["data"]["frames"] == len(breakout_store)
    model = load_checkpoint(breakout_run / "best.pt", "cpu").model
    assert facts["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert sum(part["parameters"] for part in facts["model"]["parts"].values()) == facts["model"]["parameters"]
    assert facts["model"]["parts"]["quantizer"]["class"] == "VectorQuantizer"
    assert facts["config"]["training"]["steps"] == 20
    assert facts["torch"] == torch.__version__


def test_the_revision_is_that_of_the_checkout(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    for command in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "c"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    subprocess.run(["git", "commit", "-q", "-m", "1"], cwd=tmp_path, check=True)
    revision = git_revision(tmp_path)
    assert revision is not None
    assert len(revision) == 12
    (tmp_path / "file").write_text("2")
    assert git_revision(tmp_path) == f"{revision}-dirty"


def test_compiling_without_a_compiler_is_an_error_before_the_first_step(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    config = toy_config("training.compile=true")
    with pytest.raises(ConfigError, match=r"training.compile: needs a C\+\+ compiler for the CPU; install g\+\+"):
        train(config, toy_store, quiet)
    assert not Path(config.training.out).exists()


def test_a_compiled_model_trains_the_same_curve_and_keeps_its_names(
    toy_store: FrameStore, toy_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the code generator, which takes a minute: what is traced is what can go wrong here.
    compile = torch.nn.Module.compile
    monkeypatch.setattr(LatentActionModel, "compile", lambda self: compile(self, backend="eager"))
    monkeypatch.setattr(device.shutil, "which", lambda name: name)
    options = ["training.log_every=1", "training.checkpoint_every=20"]
    usual = curve_of(toy_config(*options), toy_store)
    config = toy_config(*options, "training.compile=true")
    assert curve_of(config, toy_store) == pytest.approx(usual, rel=1e-3)
    assert load_checkpoint(Path(config.training.out) / "step_20.pt", "cpu").step == 20
