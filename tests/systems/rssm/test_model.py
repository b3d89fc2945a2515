"""The recurrent world model: the described architecture to the number, and what its state may know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lapa.config import load_config
from lapa.contracts import Clips, count_parameters
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat
from lapa.data.store import FrameStore
from lapa.engine.setup import measure
from lapa.engine.training import train
from lapa.errors import DataError
from lapa.nn.losses import weighted_sum
from lapa.systems.rssm.model import Inputs, Rssm
from lapa.testing import toy_store

SIZE = (40, 32)
ACTIONS = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Toy episodes with all tracks: a reward comes with action 1, and the last step ends the game."""
    return toy_store(tmp_path_factory.mktemp("toy") / "toy.lapa", episodes=6, steps=16)


def clips_of(store: FrameStore, frames: int) -> ClipDataset:
    spec = Rssm.clip(
        dataclasses.replace(load_config("rssm_debug").model, sequence=frames), load_config("rssm_debug").loss
    )
    return ClipDataset(store, store.episodes, FrameFormat(*SIZE), spec)


def made(store: FrameStore, *overrides: str, size: tuple[int, int] = SIZE) -> Rssm:
    config = load_config("rssm_debug", overrides=overrides)
    torch.manual_seed(0)
    return Rssm(config.model, measure(store, store.episodes, FrameFormat(*size))).eval()


def reference_parameters(channels: int, actions: int) -> int:
    """By hand, from the description: widths 32 to 256, 9 x 10 places, 512 embedding, 512 hidden, 32 x 32 classes."""

    def layer(before: int, after: int) -> int:
        return before * after + after

    def block(width: int) -> int:
        return 2 * (9 * width * width + 2 * width)  # without biases, for a batch norm follows

    widths = (32, 64, 128, 256)
    pairs = list(zip((channels, *widths[:-1]), widths, strict=True))
    encoder = sum(16 * before * after + after + block(after) for before, after in pairs)
    decoder = sum(block(after) + 16 * before * after + before for before, after in pairs)
    state = 512 + 1024
    cell = 3 * 512 * (1024 + actions) + 3 * 512 * 512 + 2 * 3 * 512
    prior, posterior = (layer(inputs, 512) + layer(512, 1024) for inputs in (512, 1024))
    heads = 2 * (layer(state, 256) + layer(256, 1))
    return encoder + decoder + layer(23_040, 512) + layer(state, 23_040) + cell + prior + posterior + heads


def test_the_preset_is_the_description_to_the_number(store: FrameStore) -> None:
    config = load_config("rssm")
    facts = dataclasses.replace(measure(store, store.episodes, FrameFormat(144, 160, "rgb")), num_actions=8)
    model = Rssm(config.model, facts).eval()
    assert count_parameters(model) == reference_parameters(3, 8) == 56_726_981
    convolutions = [layer for layer in model.encoder.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(each.out_channels, each.kernel_size, each.stride, each.padding) for each in convolutions] == [
        (width, (4, 4), (2, 2), (1, 1)) for width in (32, 64, 128, 256)
    ]
    training, loss = config.training, config.loss
    assert (training.batch_size, config.model.sequence, training.learning_rate) == (64, 15, 3e-4)
    assert (loss.dynamics, loss.representation) == (0.8, 0.2)
    clips = Clips(torch.randint(256, (1, 2, 3, 144, 160), dtype=torch.uint8), {"actions": torch.tensor([[3]])})
    with torch.no_grad():
        output = model(*model.inputs(clips))
        assert model.encoder(torch.rand(1, 3, 144, 160)).shape == (1, 256, 9, 10)
    assert output.embedding.shape == (2, 512, 1, 1)
    assert output.recurrent.shape == (2, 512, 1, 1)
    assert output.prior.shape == output.posterior.shape == output.sample.shape == (2, 1024, 1, 1)
    assert model.reconstruction(output.outputs).shape == (2, 3, 144, 160)


@pytest.mark.parametrize("state", ["vector", "grid"])
@pytest.mark.parametrize("size", [(210, 160), (64, 64), (37, 50)])
def test_any_frame_size_works(store: FrameStore, state: str, size: tuple[int, int]) -> None:
    model = made(store, f"model.state={state}", size=size)
    clips = Clips(torch.randint(256, (2, 3, 1, *size), dtype=torch.uint8), {"actions": torch.tensor([[0, 1], [2, 3]])})
    with torch.no_grad():
        assert model.draw(clips).shape == (2, 1, *size)
        state_after, imagined = model.step(model.begin(clips), torch.tensor([4, 0]))
    assert imagined.frame.shape == (2, 1, *size)
    assert imagined.reward is not None
    assert imagined.reward.shape == (2,)
    assert imagined.ended is not None
    assert bool(((imagined.ended > 0) & (imagined.ended < 1)).all())
    assert state_after.features.shape[:2] == (2, 32 + 4 * 8)


def test_step_by_step_the_state_is_that_of_the_whole_sequence(store: FrameStore) -> None:
    model, clips = made(store), clips_of(store, 6)[[0, 7]]
    with torch.no_grad():
        output = model(*model.inputs(clips))
        state = model.begin(Clips(clips.frames, {"actions": clips.tracks["actions"]}))
    last = [5, 11]
    assert torch.allclose(output.recurrent[last], state.recurrent, atol=1e-5)
    assert torch.equal(output.sample[last], state.stochastic)


def test_the_prior_does_not_see_the_frame_that_it_predicts(store: FrameStore) -> None:
    model, clips = made(store), clips_of(store, 4)[[3]]
    other = Clips(clips.frames.clone(), clips.tracks)
    other.frames[:, -1] = 255 - other.frames[:, -1]
    with torch.no_grad():
        ours, theirs = (model(*model.inputs(each)) for each in (clips, other))
    assert torch.equal(ours.prior, theirs.prior)
    assert torch.equal(ours.posterior[:-1], theirs.posterior[:-1])
    assert not torch.allclose(ours.posterior[-1], theirs.posterior[-1])


def test_an_action_leads_to_the_frame_after_it(store: FrameStore) -> None:
    model, clips = made(store), clips_of(store, 4)[[3]]
    tracks = {name: track.clone() for name, track in clips.tracks.items()}
    tracks["actions"][0, 1] = (tracks["actions"][0, 1] + 1) % ACTIONS
    with torch.no_grad():
        ours, theirs = (model(*model.inputs(Clips(clips.frames, each))).prior for each in (clips.tracks, tracks))
    assert torch.equal(ours[:2], theirs[:2])
    assert not torch.allclose(ours[2], theirs[2])


def test_reward_and_end_stand_beside_the_frame_that_they_came_with(store: FrameStore) -> None:
    clips = clips_of(store, 17)[[0]]
    seen = made(store).inputs(clips)
    assert seen.actions[0, 0] == -1
    assert torch.equal(seen.rewards[0, 1:] == 1, clips.tracks["actions"][0] == 1)
    assert seen.ended[0].tolist() == [0.0] * 16 + [1.0]


def test_a_lost_life_is_an_end_unless_the_game_is_meant(store: FrameStore) -> None:
    clips = clips_of(store, 5)[[0]]
    clips.tracks["lives"][0] = torch.tensor([3, 3, 2, 2, 2])
    assert made(store).inputs(clips).ended[0].tolist() == [0, 0, 1, 0, 0]
    assert not made(store, "model.ends=game").inputs(clips).ended.any()


def test_what_a_sequence_is_padded_with_has_no_loss(store: FrameStore) -> None:
    config = load_config("rssm_debug")
    model = made(store).train()
    clips = clips_of(store, 5)[[0, 1]]
    clips.tracks["mask"] = torch.tensor([[True] * 5, [True, True, True, False, False]])
    other = Clips(clips.frames.clone(), clips.tracks)
    other.frames[1, 3:] = 0
    losses = []
    for each in (clips, other):
        inputs = model.inputs(each)
        torch.manual_seed(0)
        losses.append(model.eval().terms(model(*inputs), inputs, config.loss, 0.0))
    assert losses[0].keys() == losses[1].keys()
    for name, (_, term) in losses[0].items():
        assert torch.allclose(term, losses[1][name][1], rtol=1e-5), name


def test_rewards_that_are_not_learnt_are_not_asked_for() -> None:
    config = load_config("rssm_debug")
    assert Rssm.clip(config.model, config.loss).tracks == ("actions", "rewards", "terminated", "lives")
    frames_alone = dataclasses.replace(config.loss, reward=0.0, ends=0.0)
    assert Rssm.clip(config.model, frames_alone).tracks == ("actions",)
    game = dataclasses.replace(config.model, ends="game")
    assert Rssm.clip(game, config.loss).tracks == ("actions", "rewards", "terminated")


def test_recordings_without_actions_are_refused() -> None:
    with pytest.raises(DataError, match="rssm learns what actions do, and the recordings do not tell them"):
        Rssm(load_config("rssm_debug").model, FrameFormat(*SIZE))


def test_the_steps_of_a_sequence_are_those_that_led_to_a_real_frame() -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    zeros = torch.zeros(2, 3)
    seen = Inputs(torch.zeros(2, 3, 1, 8, 8), zeros.long(), zeros, zeros, mask)
    assert seen.steps.tolist() == [False, True, True, False, True, False]


def trained(store: FrameStore, folder: Path, *overrides: str) -> tuple[dict[str, float], list[str]]:
    fixed = [f"training.out={folder}", "data.downsample=1", "training.precision=fp32", "training.device=cpu"]
    pace = ["training.steps=150", "training.validate_every=50", "training.batch_size=8", "training.learning_rate=3e-3"]
    said: list[str] = []
    summary = train(load_config("rssm_debug", overrides=[*fixed, *pace, *overrides]), store, said.append)
    return summary.metrics, [line for line in said if line.startswith("WARNING")]


def test_the_mean_over_pixels_collapses_and_it_is_said_while_the_sum_keeps_its_mind(
    store: FrameStore, tmp_path: Path
) -> None:
    """The loss scales of a public Game Boy model, planted: 0.0005 nats, 10 dB."""
    good, _ = trained(store, tmp_path / "sum")
    bad, warnings = trained(store, tmp_path / "mean", "loss.pixels=mean")
    assert bad["val/latent/kl_nats"] < 1 < good["val/latent/kl_nats"]
    assert any("posterior collapse: the frame adds" in line and "set loss.pixels=sum" in line for line in warnings)
    assert good["val/recon/psnr_db"] > bad["val/recon/psnr_db"] + 3
    assert good["val/recon/psnr_db"] > good["val/recon/shuffled_psnr_db"] + 1


def test_a_posterior_that_ignores_its_frame_is_told_by_the_frames_of_others(store: FrameStore) -> None:
    model = made(store)
    torch.nn.init.zeros_(model.posterior[0].weight[:, 32:])  # what comes of the embedding
    clips = clips_of(store, 6)[np.arange(8)]
    with torch.no_grad():
        inputs = model.inputs(clips)
        output = model(*inputs)
        means = {**model.readings(output, inputs).means, **model.sampled_readings(output, inputs).means}
    found = model.metrics("val", {name: float(value) for name, value in means.items()}, {})
    assert found["val/recon/shuffled_psnr_db"] == pytest.approx(found["val/recon/psnr_db"], abs=1e-3)
    assert any("the posterior ignores its frame" in line for line in model.alarms(found))


@pytest.mark.parametrize("name", ["reward", "ends", "dynamics", "representation"])
def test_each_term_is_logged_under_its_name(store: FrameStore, tmp_path: Path, name: str) -> None:
    model, clips, loss = made(store), clips_of(store, 6)[np.arange(4)], load_config("rssm_debug").loss
    inputs = model.inputs(clips)
    terms = model.terms(model(*inputs), inputs, loss, 0.0)
    assert terms[name][0] == getattr(loss, name)
    assert torch.isfinite(weighted_sum(terms))
    json.dumps({each: term.item() for each, (_, term) in terms.items()})
