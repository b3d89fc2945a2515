"""The seven ways in which earlier tokenizers failed, each planted and caught."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from vgg import write_heads, write_vgg16

from helpers import toy_episode, write_episode
from lapa import registry
from lapa.config import Config, load_config
from lapa.contracts import Quantized
from lapa.data.packing import open_store
from lapa.data.splits import split_episodes
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import load_checkpoint
from lapa.engine.training import train
from lapa.errors import ConfigError, TrainingError
from lapa.evaluation.evaluate import Evaluation, evaluate
from lapa.evaluation.rebuilding import RebuildingEvaluator
from lapa.systems.tokenizer.model import Tokenizer
from lapa.testing import LATENT_DIM, check_frame_decoder
from lapa_plugins.frame_decoders.transposed import TransposedDecoder
from lapa_plugins.quantizers.ema import EmaQuantizer


def configured(folder: Path, *overrides: str) -> Config:
    """The ``tokenizer_debug`` preset on the toy."""
    fixed = [f"training.out={folder}", "data.downsample=1", "training.precision=fp32", "training.device=cpu"]
    return load_config("tokenizer_debug", overrides=[*fixed, *overrides])


class HalfPrecision(EmaQuantizer):
    """Computes its loss in half precision, as under autocast, on latents that have grown after seven batches."""

    batches = 0

    def forward(self, latent: Tensor) -> Quantized:
        found = super().forward(latent)
        type(self).batches += self.training
        if type(self).batches <= 7:
            return found
        grown = 300 * (1 + latent.abs()).half()
        return dataclasses.replace(found, loss=grown.square().mean().float())


@pytest.fixture
def half_precision() -> Iterator[None]:
    """The planted quantizer under the name ``half``."""
    HalfPrecision.batches = 0
    registry.quantizers.register("half", HalfPrecision)
    yield
    registry.quantizers.forget("half")


@pytest.mark.usefixtures("half_precision")
def test_an_infinite_loss_under_mixed_precision_ends_the_run_and_names_the_last_good_checkpoint(
    toy_store: FrameStore, tmp_path: Path
) -> None:
    config = configured(tmp_path / "run", "model.quantizer.name=half", "training.checkpoint_every=5")
    with pytest.raises(
        TrainingError, match=r"was not finite for 10 steps.*last good checkpoint is .*step_15\.pt"
    ) as error:
        train(config, toy_store, lambda _: None)
    assert "\n" not in str(error.value)
    kept = torch.load(tmp_path / "run" / "step_15.pt", weights_only=True)["model"]
    assert all(bool(value.isfinite().all()) for value in kept.values())


@pytest.mark.parametrize("name", ["ema", "vq", "fsq", "residual", "gumbel", "lfq", "simvq"])
def test_our_quantizers_compute_in_single_precision_whatever_is_around_them(name: str) -> None:
    cls = registry.quantizers.get(name)
    quantizer = cls(cls.Config(), latent_dim=LATENT_DIM)
    latent = 1e3 * torch.randn(2, LATENT_DIM, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.float16):
        found = quantizer(latent.half())
    assert found.loss.dtype == torch.float32
    assert bool(found.loss.isfinite())
    assert bool(found.latent.isfinite().all())


def perceptual(folder: Path, *overrides: str) -> list[str]:
    """Settings of a perceptual loss with small files of weights; frames are large enough for its five layers."""
    folder.mkdir(exist_ok=True)
    files = (write_vgg16(folder / "vgg16.pt"), write_heads(folder / "heads.pth"))
    named = [f"loss.perceptual_{kind}={file}" for kind, file in zip(("weights", "heads"), files, strict=True)]
    return [*named, "loss.perceptual_unit=steps", *overrides]


@pytest.mark.parametrize("missing", ["weights", "heads"])
def test_a_perceptual_loss_whose_files_are_missing_is_an_error_before_the_first_step(
    toy_store: FrameStore, tmp_path: Path, missing: str
) -> None:
    settings = perceptual(tmp_path / "files", "loss.perceptual=0.1", f"loss.perceptual_{missing}=nowhere.pt")
    with pytest.raises(ConfigError, match=rf"^loss\.perceptual_{missing}: nowhere\.pt: no such file"):
        train(configured(tmp_path / "run", *settings), toy_store, lambda _: None)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_perceptual_loss_grows_by_steps_and_is_logged_under_its_own_name(
    toy_store: FrameStore, tmp_path: Path
) -> None:
    growing = ["loss.perceptual_increment=0.1", "loss.perceptual_every=5", "loss.perceptual_cap=0.2"]
    config = configured(tmp_path / "run", *perceptual(tmp_path / "files", *growing), "training.log_every=1")
    train(config, toy_store, lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss/total" in line]
    for number, line in enumerate(steps):
        weight = min(0.2, 0.1 * (number // 5))
        parts = {name: line.get(f"train/loss/{name}", 0.0) for name in ("reconstruction", "quantizer", "perceptual")}
        total = parts["reconstruction"] + parts["quantizer"] + weight * parts["perceptual"]
        assert line["train/loss/total"] == pytest.approx(total, rel=1e-4)
        assert ("train/loss/perceptual" in line) == (number >= 5)
        assert parts["perceptual"] > 0 or number < 5


def test_a_perceptual_loss_that_is_silently_zero_ends_the_run_with_a_word(
    toy_store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lapa.nn.perceptual.FeatureLoss.forward", lambda self, prediction, target: prediction.sum() * 0)
    settings = [*perceptual(tmp_path / "files", "loss.perceptual=0.1"), "training.max_zero=6"]
    with pytest.raises(TrainingError, match=r"loss term 'perceptual' was exactly 0 for 6 steps, up to step 6"):
        train(configured(tmp_path / "run", *settings), toy_store, lambda _: None)


class WithRelu(TransposedDecoder):
    """Keeps what goes into the last sigmoid from being negative."""

    def to_frame(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(nn.functional.relu(outputs))


def test_a_relu_before_the_last_sigmoid_is_found_by_the_contract_check() -> None:
    with pytest.raises(AssertionError, match=r"frames do not span \[0, 1\].*leave out a ReLU before the last sigmoid"):
        check_frame_decoder(WithRelu, WithRelu.Config(channels=(16, 8)))


def test_a_collapse_to_grey_is_said_at_the_first_validation(
    toy_store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "encode", lambda self, frame: 0 * self.encoder(frame))
    said: list[str] = []
    config = configured(
        tmp_path / "run", "training.steps=40", "training.learning_rate=1e-2", "training.validate_every=10"
    )
    summary = train(config, toy_store, said.append)
    warnings = [line for line in said if "no better" in line]
    assert len(warnings) == 1, "once, not at each validation"
    assert "WARNING" in warnings[0]
    assert "than by the mean frame" in warnings[0]
    assert "lower model.quantizer.commitment" in warnings[0]
    assert summary.warnings


def test_a_tokenizer_that_learns_gives_no_such_warning(toy_store: FrameStore, tmp_path: Path) -> None:
    said: list[str] = []
    learning = ["training.steps=200", "training.learning_rate=1e-2", "training.validate_every=200"]
    learning += ["model.frame_decoder.output=palette", "model.frame_decoder.num_colors=4"]
    summary = train(configured(tmp_path / "run", *learning), toy_store, said.append)
    assert not [line for line in said if "no better" in line]
    assert summary.metrics["val/recon/psnr_db"] > summary.metrics["val/recon/mean_psnr_db"] + 3


class Checkered(TransposedDecoder):
    """Leaves a pattern of 4 x 4 pixels: the first of each is too bright."""

    def to_frame(self, outputs: Tensor) -> Tensor:
        frame = super().to_frame(outputs)
        pattern = torch.zeros_like(frame)
        pattern[..., ::4, ::4] = 0.2
        return (frame + pattern).clamp(0, 1)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Evaluation]:
    """Judges, on a split, a model that shows a grid and knows the colours of its training episodes alone."""
    folder = tmp_path_factory.mktemp("red_and_blue")
    names = [str(number) for number in range(6)]
    trained = split_episodes(names, (0.5, 0.25, 0.25), seed=0)["train"]
    rng = np.random.default_rng(0)
    for name in names:
        frames = toy_episode(rng, 12)[0]
        write_episode(folder / "data" / name, frames if name in trained else np.flip(frames, -1))
    store = open_store(folder / "data", notify=lambda _: None)
    learning = ["training.steps=200", "training.learning_rate=1e-2", "training.validate_every=200", "data.color=rgb"]
    learning += ["data.split=[0.5,0.25,0.25]", "model.frame_decoder.output=palette", "model.frame_decoder.num_colors=4"]
    registry.frame_decoders.register("checkered", Checkered)
    try:
        config = configured(folder / "run", *learning, "model.frame_decoder.name=checkered")
        checkpoint = load_checkpoint(train(config, store, lambda _: None).best, "cpu")
    finally:
        registry.frame_decoders.forget("checkered")
    assert checkpoint.split["train"] == trained
    return lambda split: evaluate(checkpoint, store, split, notify=lambda _: None)


def sentences(evaluation: Evaluation) -> str:
    return " ".join(verdict.sentence for verdict in evaluation.verdicts)


def test_a_grid_in_flat_areas_is_measured_with_its_stride_and_said(judged: Callable[[str], Evaluation]) -> None:
    found = judged("test")
    # One pixel in 16 is 0.2 too bright: the root of the variance over the phases is 0.2 times the root of 15 / 256.
    assert found.metrics["rebuilt/grid_pattern/4x4"] == pytest.approx(255 * 0.2 * (15 / 256) ** 0.5, rel=0.1)
    assert "Flat areas show a grid: it repeats every 4 x 4 pixels" in sentences(found)


def test_what_was_learnt_by_heart_is_seen_beside_training_frames_and_said(
    judged: Callable[[str], Evaluation], tmp_path: Path
) -> None:
    found = judged("test")
    assert found.metrics["rebuilt/train_psnr_db"] - found.metrics["rebuilt/psnr_db"] == pytest.approx(
        found.metrics["rebuilt/gap_db"]
    )
    assert "dB worse than training frames: it has learnt training frames by heart." in sentences(found)
    rebuilding = found.find(RebuildingEvaluator)
    assert rebuilding is not None
    assert "trained.png" in rebuilding.images(found.metrics)


def test_figures_of_training_episodes_are_called_what_they_are(judged: Callable[[str], Evaluation]) -> None:
    on_train, on_test = judged("train"), judged("test")
    said = "Judged on training episodes: these figures say nothing about new frames."
    assert said in sentences(on_train)
    assert said not in sentences(on_test)
    assert set(on_test.episodes).isdisjoint(on_train.episodes)
