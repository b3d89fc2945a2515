"""Tokens of frames: the same by hand and extracted, and frames from tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lapa
from helpers import TOY_SIZE
from lapa.cli import main
from lapa.config import config_from_dict, load_config
from lapa.contracts import ClipSpec
from lapa.data.clips import ClipDataset
from lapa.data.episodes import TRACKS_FILE
from lapa.data.frames import FrameFormat, prepare
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from lapa.engine.setup import measure
from lapa.errors import DataError
from lapa.inference.extraction import ExtractionSummary, LatentActionDataset, extract
from lapa.inference.labelling import label
from lapa.inference.tokens import TokenDataset, detokenize, tokenize
from lapa.systems.tokenizer.model import Tokenizer

GRID = (27, 20)


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the extraction of ``path`` tells the user."""
    return []


@pytest.fixture(scope="module")
def path(
    tokenizer_checkpoint: Checkpoint,
    breakout_store: FrameStore,
    tmp_path_factory: pytest.TempPathFactory,
    said: list[str],
) -> Path:
    """The tokens extracted from real Breakout."""
    path = tmp_path_factory.mktemp("extracted") / "tokens.lapa"
    summary = extract(tokenizer_checkpoint, breakout_store, path, notify=said.append)
    assert summary == ExtractionSummary(path, len(breakout_store), summary.per_second)
    return path


@pytest.fixture(scope="module")
def dataset(path: Path) -> TokenDataset:
    return TokenDataset(path)


@pytest.fixture
def toy_tokenizer(tmp_path: Path) -> Callable[..., Checkpoint]:
    """A function that returns an untrained tokenizer for the toy's frames."""

    def make(*overrides: str) -> Checkpoint:
        config = load_config("tokenizer_debug", overrides=["data.downsample=1", *overrides])
        model = Tokenizer(config.model, FrameFormat(*TOY_SIZE))
        save_checkpoint(tmp_path / "toy.pt", model, config, split={}, step=0, metrics={})
        return load_checkpoint(tmp_path / "toy.pt", "cpu")

    return make


def test_every_frame_is_there_with_its_tokens_and_its_episode(
    dataset: TokenDataset, breakout_store: FrameStore, tokenizer_checkpoint: Checkpoint
) -> None:
    assert len(dataset) == len(breakout_store)
    assert dataset.tokens.shape == (len(breakout_store), *GRID)
    assert dataset.tokens.dtype == np.uint8
    for index in (0, 50, 51, 123, -1):  # 50 ends the first episode
        frame, tokens, episode = dataset[index]
        at = index % len(dataset)
        np.testing.assert_array_equal(frame, breakout_store.frame(at))
        np.testing.assert_array_equal(tokens, tokenize(tokenizer_checkpoint.model, frame))
        assert breakout_store.episodes[episode].start <= at < breakout_store.episodes[episode].stop
    with pytest.raises(IndexError):
        dataset[len(dataset)]


def test_tokens_do_not_depend_on_the_batch(dataset: TokenDataset, tokenizer_checkpoint: Checkpoint) -> None:
    frames = dataset.episode(dataset.episodes[0]).frames
    for batch in (1, 3, len(frames)):
        tokens = [tokenize(tokenizer_checkpoint.model, part) for part in torch.from_numpy(frames).split(batch)]
        np.testing.assert_array_equal(torch.cat(tokens), dataset.tokens[: len(frames)])
    assert tokenize(tokenizer_checkpoint.model, frames[:0]).shape == (0, *GRID)
    assert len(np.unique(dataset.tokens)) > 5


def test_whole_episodes_come_back_by_name(dataset: TokenDataset, breakout_store: FrameStore) -> None:
    for stored in breakout_store.episodes:
        episode = dataset.episode(stored.name)
        np.testing.assert_array_equal(episode.frames, breakout_store.frames(range(stored.start, stored.stop)))
        np.testing.assert_array_equal(episode.tokens, dataset.tokens[stored.start : stored.stop])
        np.testing.assert_array_equal(episode.actions, [*stored.tracks.actions, -1])
    with pytest.raises(KeyError, match="no episode 'seven'; there are 0, 1"):
        dataset.episode("seven")


def test_frames_beside_a_gap_have_tokens_but_no_action(
    tmp_path: Path, record_toy: Callable[..., Path], toy_tokenizer: Callable[..., Checkpoint]
) -> None:
    root = record_toy(tmp_path / "toy", episodes=2, steps=6)
    taken = open_store(root, tmp_path / "whole.lapa").episodes[0].tracks.actions
    (root / "0" / "3.png").unlink()
    (root / "1" / TRACKS_FILE).unlink()
    extract(toy_tokenizer(), open_store(root), tmp_path / "tokens.lapa")
    dataset = TokenDataset(tmp_path / "tokens.lapa")
    assert len(dataset) == 6 + 7
    np.testing.assert_array_equal(dataset.episode("0").actions, [taken[0], taken[1], -1, taken[4], taken[5], -1])
    np.testing.assert_array_equal(dataset.episode("1").actions, [-1] * 7)


def test_another_system_can_train_on_the_tokens(
    dataset: TokenDataset, path: Path, tokenizer_checkpoint: Checkpoint
) -> None:
    store = FrameStore(path)
    seen = tokenizer_checkpoint.model.format
    facts = measure(store, store.episodes, seen)
    assert (facts.num_codes, facts.code_grid) == (16, GRID)
    clips = ClipDataset(store, store.episodes, seen, ClipSpec(4, ("tokens",)))
    batch = clips[[0, len(clips) - 1]]
    np.testing.assert_array_equal(batch.tracks["tokens"], np.stack([dataset.tokens[:4], dataset.tokens[-4:]]))


def test_the_header_says_where_the_tokens_come_from(dataset: TokenDataset, tokenizer_checkpoint: Checkpoint) -> None:
    header = dataset.header
    assert header["kind"] == "tokens"
    assert header["checkpoint"] == tokenizer_checkpoint.digest
    assert config_from_dict(header["config"]) == tokenizer_checkpoint.config
    assert header["split"] == tokenizer_checkpoint.split


def test_the_user_is_told_what_a_frame_takes(dataset: TokenDataset, said: list[str]) -> None:
    assert re.match(rf"extracted {len(dataset)} frames' tokens into .*tokens.lapa \(\d+ frames/s\)", said[0])
    raw, bits, packed, pixels = map(int, re.findall(r"\d+", said[1]))
    assert (raw, bits) == (math.prod(GRID) * 4 / 8, 4)
    assert packed < math.prod(GRID)
    blocks = [len(dataset.store.block(index)) for index in range(len(dataset))]
    assert pixels == round(np.mean(blocks))


def test_a_data_loader_collates_frames(dataset: TokenDataset) -> None:
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch.frame.shape == (4, 210, 160, 3)
    assert batch.tokens.shape == (4, *GRID)
    assert batch.episode.tolist() == [0, 0, 0, 0]


def test_several_codes_a_place_stand_side_by_side(
    toy_tokenizer: Callable[..., Checkpoint], toy_store: FrameStore, tmp_path: Path
) -> None:
    checkpoint = toy_tokenizer("model.quantizer={name: residual, depth: 3, num_codes: 300}")
    extract(checkpoint, toy_store, tmp_path / "tokens.lapa")
    tokens = TokenDataset(tmp_path / "tokens.lapa").tokens
    assert (tokens.shape, tokens.dtype) == ((len(toy_store), 10, 24), np.uint16)
    np.testing.assert_array_equal(tokenize(checkpoint.model, toy_store.frame(7)), tokens[7])
    assert detokenize(checkpoint.model, tokens[7]).shape == (*TOY_SIZE, 1)


def test_a_file_of_the_other_kind_is_one_line_with_its_reader(
    path: Path, breakout_checkpoint: Checkpoint, breakout_store: FrameStore, tmp_path: Path
) -> None:
    extract(breakout_checkpoint, breakout_store, tmp_path / "codes.lapa")
    with pytest.raises(DataError, match=r"holds latent actions, not tokens; read it with lapa.LatentActionDataset$"):
        TokenDataset(tmp_path / "codes.lapa")
    with pytest.raises(DataError, match=r"holds tokens, not latent actions; read it with lapa.TokenDataset$"):
        LatentActionDataset(path)
    with pytest.raises(DataError, match=r"store without tokens; make one with `lapa extract` and a tokenizer$"):
        TokenDataset(breakout_store.path)
    with pytest.raises(DataError, match="no such packed store"):
        TokenDataset(tmp_path / "none.lapa")


def test_the_command_names_the_file_after_what_is_in_it(
    tokenizer_run: Path, breakout_run: Path, breakout_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", str(breakout_recording), "--device", "cpu"]
    assert main(["extract", "--checkpoint", str(tokenizer_run / "best.pt"), *data]) == 0
    assert main(["extract", "--checkpoint", str(breakout_run / "best.pt"), *data]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latent_actions.lapa", "tokens.lapa"]
    named = ["--out", "latent_actions.lapa"]
    assert main(["extract", "--checkpoint", str(tokenizer_run / "best.pt"), *data, *named]) == 0
    assert Path("latent_actions.lapa").read_bytes() == Path("tokens.lapa").read_bytes()


# Frames from tokens


def test_tokens_become_the_frames_that_the_model_reconstructs(
    dataset: TokenDataset, tokenizer_checkpoint: Checkpoint
) -> None:
    model = tokenizer_checkpoint.model
    frames = detokenize(model, dataset.tokens[:70])
    assert (tuple(frames.shape), frames.dtype) == ((70, 105, 80, 1), torch.uint8)
    recorded = torch.from_numpy(dataset.store.frames(range(70)))
    outputs = model(prepare(recorded, model.format).float() / 255).outputs
    expected = model.reconstruction(outputs).movedim(1, -1) * 255
    np.testing.assert_allclose(frames, expected, atol=0.51)
    for index in (0, 69):
        alone = detokenize(model, torch.from_numpy(dataset.tokens[index]).long())
        assert (alone.int() - frames[index].int()).abs().max() <= 1, "more than rounding"


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (np.zeros((3, 3), int), r"tokens are \(3, 3\) int64, but the model wants \(27, 20\) whole numbers"),
        (np.zeros(27, int), r"tokens are \(27,\) int64, but"),
        (np.zeros(GRID), r"\(27, 20\) float64, but"),
        (np.full(GRID, 16), "tokens go from 16 to 16, but the model has those from 0 to 15"),
        (np.full((2, *GRID), -1), "tokens go from -1 to -1"),
    ],
    ids=["grid", "axes", "floats", "too high", "negative"],
)
def test_what_are_no_tokens_is_one_line(tokens: Any, said: str, tokenizer_checkpoint: Checkpoint) -> None:
    with pytest.raises(DataError, match=said) as caught:
        detokenize(tokenizer_checkpoint.model, tokens)
    assert "\n" not in str(caught.value)


def test_each_function_wants_its_own_kind_of_model(
    tokenizer_checkpoint: Checkpoint, breakout_checkpoint: Checkpoint
) -> None:
    frame = np.zeros((210, 160, 3), np.uint8)
    pairs, frames = breakout_checkpoint.model, tokenizer_checkpoint.model
    with pytest.raises(DataError, match=r"gives codes of transitions, not tokens, .*; take lapa.label, or name a tok"):
        tokenize(pairs, frame)
    with pytest.raises(DataError, match=r"gives codes of transitions, not tokens, .*; name a tokenizer"):
        detokenize(pairs, np.zeros(GRID, int))
    with pytest.raises(DataError, match=r"gives tokens, .*, not codes of transitions; take lapa.tokenize, or name a"):
        label(frames, frame, frame)
    with pytest.raises(DataError, match=r"frames are \(84, 84, 3\) uint8, but the model wants \(210, 160, 3\) uint8"):
        tokenize(frames, np.zeros((84, 84, 3), np.uint8))


def test_they_are_public() -> None:
    assert (lapa.tokenize, lapa.detokenize, lapa.TokenDataset) == (tokenize, detokenize, TokenDataset)
