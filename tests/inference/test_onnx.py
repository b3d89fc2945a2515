"""A model written as ONNX gives the same codes and frames without PyTorch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import run_lapa
from lapa.config import load_config
from lapa.contracts import Clips, Facts
from lapa.data.frames import FrameFormat, prepare
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.errors import ConfigError, DataError
from lapa.inference import onnx as module
from lapa.inference.labelling import Labeller
from lapa.inference.onnx import to_onnx
from lapa.systems.latent_action.model import LatentActionModel
from lapa.systems.rssm.model import Rssm
from lapa_plugins.quantizers.residual import ResidualQuantizer

onnxruntime = pytest.importorskip("onnxruntime")
EXAMPLE = Path(__file__).parents[2] / "examples" / "label_with_onnx.py"
PAIRS = 32


@pytest.fixture(scope="module")
def frames(breakout_store: FrameStore) -> np.ndarray:
    return breakout_store.frames(range(PAIRS + 1))


@pytest.fixture(scope="module", params=["breakout", "breakout_rgb"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return load_checkpoint(request.param, "cpu")


@pytest.fixture(scope="module")
def files(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return to_onnx(checkpoint, tmp_path_factory.mktemp("onnx") / "new folder")


def run(path: Path, **inputs: np.ndarray) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


@pytest.mark.parametrize("batch", [1, 5, PAIRS])
def test_codes_are_those_of_lapa_for_any_batch(
    checkpoint: Checkpoint, files: list[Path], frames: np.ndarray, batch: int
) -> None:
    before, after = frames[:batch], frames[1 : batch + 1]
    codes, frame = run(files[0], current=before, next=after)
    assert codes.dtype == np.int64
    prepared = [prepare(torch.from_numpy(part), checkpoint.model.format) for part in (before, after)]
    assert np.array_equal(frame, (prepared[0].float() / 255).numpy())
    labels = Labeller(checkpoint.model).label(*prepared)
    decided = (labels.margin.flatten(1).amin(1) > 1e-6).numpy()  # near a border, rounding may choose the other code
    assert decided.mean() > 0.9 or batch == 1
    assert np.array_equal(codes[decided], labels.codes.numpy()[decided])


def test_frames_are_resized_in_the_file_as_by_lapa(frames: np.ndarray, tmp_path: Path) -> None:
    seen = FrameFormat(210, 160, "grey", 1, (48, 40), "pad")
    config = load_config("debug", overrides=["data.resize=[48,40]", "data.fit=pad"])
    model = LatentActionModel(config.model, seen).eval()
    untrained = Checkpoint(model, config, split={}, step=0, metrics={}, digest="", path=tmp_path)
    encoder, _ = to_onnx(untrained, tmp_path)
    _, frame = run(encoder, current=frames[:3], next=frames[1:4])
    assert np.array_equal(frame, (prepare(torch.from_numpy(frames[:3]), seen).float() / 255).numpy())


def test_a_decoder_draws_what_the_model_draws_and_goes_on_from_it(
    checkpoint: Checkpoint, files: list[Path], frames: np.ndarray
) -> None:
    model = checkpoint.model
    codes, frame = run(files[0], current=frames[:4], next=frames[1:5])
    state = model.begin(Clips(prepare(torch.from_numpy(frames[:4]), model.format)[:, None]))
    for _ in range(3):
        (frame,) = run(files[1], frame=frame, codes=codes)
        with torch.no_grad():
            state, imagined = model.step(state, torch.from_numpy(codes))
        assert frame.min() >= 0
        assert frame.max() <= 1
        np.testing.assert_allclose(frame, imagined.frame.numpy(), atol=1e-4)


def test_a_tokenizer_gives_the_same_tokens_and_frames(
    tokenizer_checkpoint: Checkpoint, frames: np.ndarray, tmp_path: Path
) -> None:
    model = tokenizer_checkpoint.model
    encoder, decoder = to_onnx(tokenizer_checkpoint, tmp_path)
    for batch in (1, PAIRS):
        (tokens,) = run(encoder, frames=frames[:batch])
        assert tokens.dtype == np.int64
        prepared = prepare(torch.from_numpy(frames[:batch]), model.format)
        labels = Labeller(model).label(prepared)
        decided = (labels.margin > 1e-6).numpy()  # near a border, rounding may choose the other code
        assert decided.mean() > 0.99
        assert np.array_equal(tokens[decided], labels.codes.numpy()[decided])
        (drawn,) = run(decoder, tokens=tokens)
        assert drawn.shape == prepared.shape
        expected = model.draw(Clips(prepared[:, None]), torch.from_numpy(tokens))
        np.testing.assert_allclose(drawn, expected.numpy(), atol=1e-5)


def test_the_example_labels_without_pytorch(
    checkpoint: Checkpoint, files: list[Path], breakout_recording: Path
) -> None:
    pair = sorted(breakout_recording.glob("*/[01].png"))[:2]
    code = f"import sys; sys.modules['torch'] = sys.modules['lapa'] = None; exec(open({str(EXAMPLE)!r}).read())"
    command = [sys.executable, "-c", code, str(files[0].parent), *map(str, pair)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shown = np.array(done.stdout.replace("[", " ").replace("]", " ").split(), dtype=int)
    assert shown.size == np.prod(checkpoint.model.code_grid)


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    run_lapa(Path(sys.executable), ["export", "--to", "onnx", "--checkpoint", "breakout", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "encoder.onnx"]


def test_what_is_missing_is_named(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("onnx", "not_installed"))
    with pytest.raises(ConfigError, match=r"needs the package not_installed; .*lapa\[onnx\]"):
        to_onnx(checkpoint, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(ResidualQuantizer, "num_codes", None)
    with pytest.raises(DataError, match="continuous"):
        to_onnx(dataclasses.replace(checkpoint), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", ["vector", "grid"])
def test_a_recurrent_world_model_goes_on_in_the_files_as_in_lapa(
    frames: np.ndarray, tmp_path: Path, state: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config("rssm_debug", overrides=[f"model.state={state}", "model.reward_head=two_hot"])
    torch.manual_seed(0)
    model = Rssm(config.model, Facts(FrameFormat(210, 160, "grey", 5), num_actions=4)).eval().requires_grad_(False)
    untrained = Checkpoint(model, config, split={}, step=0, metrics={}, digest="", path=tmp_path)
    begin, observe, step = to_onnx(untrained, tmp_path, notify=lambda _: None)
    assert [path.name for path in (begin, observe, step)] == ["begin.onnx", "observe.onnx", "step.onnx"]
    assert "Skipping" not in "".join(capfd.readouterr())
    seen = torch.from_numpy(frames[:9].reshape(3, 3, *frames.shape[1:]))  # three frames of three games
    prepared = torch.stack([prepare(part, model.format) for part in seen])
    actions = torch.tensor([[0, 1, 3, 2], [1, 1, 1, 1], [3, 2, 0, 0]])
    ours = model.begin(Clips(prepared, {"actions": actions[:, :2]}))
    theirs = run(begin, frames=seen[:, 0].numpy())
    for number in (1, 2):
        given = {"recurrent": theirs[0], "stochastic": theirs[1], "frames": seen[:, number].numpy()}
        theirs = run(observe, action=actions[:, number - 1].numpy(), **given)
    for number in (2, 3):
        ours, imagined = model.step(ours, actions[:, number])
        *theirs, frame, reward, ended = run(
            step, recurrent=theirs[0], stochastic=theirs[1], action=actions[:, number].numpy()
        )
        assert np.array_equal(theirs[1], ours.stochastic.numpy())
        assert imagined.reward is not None
        assert imagined.ended is not None
        shown = (imagined.frame, imagined.reward, imagined.ended)
        pairs = zip((theirs[0], frame, reward, ended), (ours.recurrent, *shown), strict=True)
        for found, expected in pairs:
            assert np.allclose(found, expected.numpy(), atol=1e-4)


def test_a_state_that_is_no_named_tuple_cannot_be_written_and_that_is_said_in_one_line(tmp_path: Path) -> None:
    class Plain(Rssm):
        """A recurrent world model whose state is a plain tuple."""

        def begin(self, clips: Clips) -> Any:
            return tuple(super().begin(clips))

    config = load_config("rssm_debug")
    model = Plain(config.model, Facts(FrameFormat(210, 160, "grey", 5), num_actions=4)).eval()
    untrained = Checkpoint(model, config, split={}, step=0, metrics={}, digest="", path=tmp_path / "run.pt")
    with pytest.raises(DataError, match=r"run\.pt: a Plain cannot be exported; name a checkpoint of another system$"):
        to_onnx(untrained, tmp_path / "out")
    assert not (tmp_path / "out").exists()
