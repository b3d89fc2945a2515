"""The recurrent world model.

                     action t-1, z t-1
                            │
    h t-1 ─► cell ──────────┴──────────► h t ─┬─► prior ─────► z t, imagined
                                              │
    frame t ─► encoder ─► embedding t ────────┴─► posterior ─► z t, observed

    (h t, z t) ─► frame decoder, reward, end

The recurrent state-space model of PlaNet (Hafner et al. 2019) with the categorical state of DreamerV2 (Hafner et al.
2021). While frames are seen, z is drawn from the posterior; without them, from the prior.

Shapes: B batch, T frames, C channels, H W frame, D latent width, h w grid, N variables of K classes, A actions. A state
that is one vector is a grid of one place, so there is one set of layers for both.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa import registry
from lapa.contracts import (
    ActionSpec,
    Clips,
    ClipSpec,
    Drawer,
    Dreamer,
    Facts,
    Imagined,
    Readings,
    Terms,
)
from lapa.data.clips import ClipDataset
from lapa.data.frames import FrameFormat, to_float
from lapa.errors import DataError
from lapa.metrics.events import REWARD_EVENT, event_counts, event_metrics
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.nn.recurrent import GruCell, NormGruCell
from lapa.nn.two_hot import two_hot_mean
from lapa.sections import build, build_encoder
from lapa.systems.rssm.config import LossConfig, ModelConfig
from lapa.systems.rssm.latent import Categoricals
from lapa.systems.rssm.losses import REWARD_LIMIT, loss_terms

LITTLE_NATS = 1.0
"""With a divergence below this the state says nothing of the frame."""
LITTLE_DB = 1.0
"""Where the frames of others in the batch cost less than this, the posterior does not look at its own."""


class State(NamedTuple):
    """What the model keeps in mind of B sequences.

    Attributes:
        recurrent: h, (B, H, h, w).
        stochastic: z, (B, N * K, h, w), one-hot.
    """

    recurrent: Tensor
    stochastic: Tensor

    @property
    def features(self) -> Tensor:
        """(B, H + N * K, h, w), both side by side."""
        return torch.cat([self.recurrent, self.stochastic.to(self.recurrent.dtype)], dim=1)


@dataclasses.dataclass(frozen=True)
class RssmOutput:
    """What one forward pass over sequences gives; M = B * T, sequence by sequence.

    Attributes:
        outputs: (M, O, H, W), what the frame decoder says of each pixel.
        prior: (M, N * K, h, w), logits before the frame was seen.
        posterior: (M, N * K, h, w), logits after.
        sample: (M, N * K, h, w), the stochastic state.
        reward: (M,) the mean, or (M, bins) logits of the reward that came with each frame.
        ended: (M,) logits: whether the step that led to each frame ended a life or the game.
        embedding: (M, E, h, w), what the model is told of each frame.
        recurrent: (M, H, h, w).
    """

    outputs: Tensor
    prior: Tensor
    posterior: Tensor
    sample: Tensor
    reward: Tensor
    ended: Tensor
    embedding: Tensor
    recurrent: Tensor


class Inputs(NamedTuple):
    """The arguments of the forward pass; of T frames, step t leads to frame t, and none leads to frame 0.

    Attributes:
        frames: (B, T, C, H, W) float in [0, 1].
        actions: (B, T) int64, the action that led to each frame; -1 for the first, which none did.
        rewards: (B, T) float, that came with it.
        ended: (B, T) float, 1 where it ended a life or the game.
        mask: (B, T) bool, which frames are real.
    """

    frames: Tensor
    actions: Tensor
    rewards: Tensor
    ended: Tensor
    mask: Tensor

    @property
    def steps(self) -> Tensor:
        """(B * T,) bool, the real frames that a step led to: the first of a sequence has neither reward nor end."""
        led_to = self.mask.clone()
        led_to[:, 0] = False
        return led_to.flatten()


class Rssm(Drawer, Dreamer):
    """Encoder and frame decoder, each picked by name, and the recurrent state between them.

    It reconstructs frames, continues a game under the controller's actions, and predicts reward and end.

    Args:
        config: the model's section of a run's configuration.
        facts: what is measured on the recordings: frame format and number of actions.

    Attributes:
        grid: (h, w) of the state.

    Raises:
        ConfigError: a plugin's section is wrong, or the parts do not fit together.
        DataError: the recordings do not tell the actions.
        RegistryError: a plugin's name is wrong.
    """

    Config = ModelConfig
    Loss = LossConfig
    bar = (
        ("PSNR", "train/recon/psnr_db", "{:.1f} dB"),
        ("KL", "train/latent/kl_nats", "{:.1f} nats"),
        ("classes", "train/latent/classes_used", "{:.0f}"),
    )
    sees_target = True
    mean_frame: Tensor
    start_state: Tensor

    def __init__(self, config: ModelConfig, facts: Facts | FrameFormat) -> None:
        facts = facts if isinstance(facts, Facts) else Facts(facts)
        super().__init__(config, facts)
        if facts.num_actions is None:
            raise DataError("system: rssm learns what actions do, and the recordings do not tell them; record them")
        self.num_actions = facts.num_actions
        seen = self.format
        self.encoder = build_encoder(config.encoder, frames=1, channels=seen.channels, latent_dim=config.latent_dim)
        encoded = self.encoder.grid(seen.size)
        self.variables = Categoricals(
            config.categoricals,
            config.classes,
            sampling=config.sampling,
            temperature=config.temperature,
            unimix=config.unimix,
        )
        features = config.hidden + self.variables.channels
        if config.state == "vector":
            self.grid, kernel, embedding = (1, 1), 1, config.embedding
            size = (config.latent_dim, *encoded)
            self.embed: nn.Module = nn.Sequential(
                nn.Flatten(), nn.Linear(math.prod(size), embedding), nn.Unflatten(1, (embedding, 1, 1))
            )
            self.expand: nn.Module = nn.Sequential(
                nn.Flatten(), nn.Linear(features, math.prod(size)), nn.Unflatten(1, size)
            )
        else:
            self.grid, kernel, embedding = encoded, config.kernel, config.latent_dim
            self.embed, self.expand = nn.Identity(), nn.Conv2d(features, config.latent_dim, 1)
        told = self.variables.channels + self.num_actions
        self.before_cell: nn.Module = nn.Identity()
        if config.input_width:
            self.before_cell = nn.Sequential(nn.Conv2d(told, config.input_width, kernel, padding=kernel // 2), nn.ELU())
            told = config.input_width
        cell = NormGruCell if config.layer_norm else GruCell
        self.cell = cell(told, config.hidden, kernel)
        self.prior = perceptron(config.hidden, config.width, self.variables.channels)
        self.posterior = perceptron(config.hidden + embedding, config.width, self.variables.channels)
        self.frame_decoder = build(
            registry.frame_decoders,
            config.frame_decoder,
            channels=seen.channels,
            frame_size=seen.size,
            grid=encoded,
            latent_dim=config.latent_dim,
        )
        outputs = config.reward_bins if config.reward_head == "two_hot" else 1
        self.reward = Head(features, config.head_width, outputs)
        self.end = Head(features, config.head_width, 1)
        start_state = torch.zeros(config.hidden, *self.grid)
        if config.learnt_start:
            self.start_state = nn.Parameter(start_state)
        else:
            self.register_buffer("start_state", start_state, persistent=False)
        # Of the training clips; validation compares with it.
        self.register_buffer("mean_frame", torch.zeros(seen.channels, *seen.size), persistent=False)

    # The state, step by step

    def first_state(self, batch: int) -> State:
        """The state before the first frame of B sequences."""
        recurrent = self.start_state.expand(batch, -1, -1, -1)
        return State(recurrent, recurrent.new_zeros(batch, self.variables.channels, *self.grid))

    def advance(self, state: State, actions: Tensor) -> Tensor:
        """h, (B, H, h, w), after an action (B,) int64; -1 is none."""
        pressed = F.one_hot(actions.clamp(min=0), self.num_actions) * (actions >= 0)[:, None]
        pressed = pressed.to(state.stochastic.dtype)[:, :, None, None].expand(-1, -1, *self.grid)
        recurrent: Tensor = self.cell(self.before_cell(torch.cat([state.stochastic, pressed], 1)), state.recurrent)
        return recurrent

    def drawn_from(self, logits: Tensor) -> Tensor:
        """A sample in training, the likeliest classes otherwise: (B, N * K, h, w)."""
        return self.variables.sample(logits) if self.training else self.variables.mode(logits)

    def embedded(self, frames: Tensor) -> Tensor:
        """(M, C, H, W) float in [0, 1] -> the embedding (M, E, h, w)."""
        embedding: Tensor = self.embed(self.encoder(frames))
        return embedding

    def updated(self, state: State, action: Tensor, embedding: Tensor) -> tuple[State, Tensor]:
        """The state after an action (B,) and the frame that came of it, and the posterior's logits."""
        recurrent = self.advance(state, action)
        logits = self.posterior(torch.cat([recurrent, embedding], dim=1))
        return State(recurrent, self.drawn_from(logits)), logits

    def imagine(self, state: State, action: Tensor) -> State:
        """The state after an action (B,), without a frame."""
        recurrent = self.advance(state, action)
        return State(recurrent, self.drawn_from(self.prior(recurrent)))

    def decoded(self, state: State) -> Tensor:
        """What the frame decoder says of each pixel, (B, O, H, W)."""
        outputs: Tensor = self.frame_decoder(self.expand(state.features))
        return outputs

    def frame(self, state: State) -> Tensor:
        """The frame that a state shows, (B, C, H, W) in [0, 1]."""
        return self.reconstruction(self.decoded(state))

    def reconstruction(self, outputs: Tensor) -> Tensor:
        """What the frame decoder said of each pixel -> (B, C, H, W) float in [0, 1]."""
        frame: Tensor = self.frame_decoder.to_frame(outputs)
        return frame.float().clamp(0, 1)

    # What the engine asks

    @classmethod
    def clip(cls, config: ModelConfig, loss: LossConfig) -> ClipSpec:
        """Sequences with actions; with rewards and ends where they are learnt."""
        tracks = ["actions"]
        if loss.reward:
            tracks.append("rewards")
        if loss.ends:
            tracks += ["terminated", "lives"] if config.ends == "life" else ["terminated"]
        return ClipSpec(config.sequence, tuple(tracks), padded=True)

    def inputs(self, clips: Clips) -> Inputs:
        actions = clips.tracks["actions"]
        rewards = clips.tracks.get("rewards", torch.zeros_like(actions)).float()
        ended = clips.ended(by_life=self.config.ends == "life")
        if ended is None:
            ended = torch.zeros_like(actions, dtype=torch.bool)
        return Inputs(
            frames=to_float(clips.frames),
            actions=F.pad(actions, (1, 0), value=-1),
            rewards=F.pad(rewards, (1, 0)),
            ended=F.pad(ended.float(), (1, 0)),
            mask=clips.mask,
        )

    def forward(self, *inputs: Tensor) -> RssmOutput:
        """The fields of :class:`Inputs` -> :class:`RssmOutput`."""
        frames, actions = inputs[0], inputs[1]
        embedding = self.embedded(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        state = self.first_state(len(frames))
        states, posteriors = [], []
        for action, seen in zip(actions.unbind(1), embedding.unbind(1), strict=True):
            state, logits = self.updated(state, action, seen)
            states.append(state)
            posteriors.append(logits)
        recurrent, sample = (torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*states, strict=True))
        states_seen = State(recurrent, sample)
        features = states_seen.features
        return RssmOutput(
            outputs=self.decoded(states_seen),
            prior=self.prior(recurrent),
            posterior=torch.stack(posteriors, dim=1).flatten(0, 1),
            sample=sample,
            reward=self.reward(features),
            ended=self.end(features)[:, 0],
            embedding=embedding.flatten(0, 1),
            recurrent=recurrent,
        )

    def terms(self, output: RssmOutput, inputs: tuple[Tensor, ...], loss: LossConfig, progress: float) -> Terms:
        return loss_terms(self, output, Inputs(*inputs), loss)

    def predicted_reward(self, output: Tensor) -> Tensor:
        """(M, 1) or (M, bins), what the head says -> (M,) the reward."""
        if self.config.reward_head == "two_hot":
            return two_hot_mean(output.float(), REWARD_LIMIT)
        return output[:, 0].float()

    def start(self, dataset: ClipDataset, loss: LossConfig) -> None:
        self.mean_frame.copy_(dataset.mean_frame())
        self.frame_decoder.start(dataset)

    def readings(self, output: RssmOutput, inputs: tuple[Tensor, ...]) -> Readings:
        seen = Inputs(*inputs)
        real = seen.mask.flatten().float()
        share = real / real.sum()
        frames = seen.frames.flatten(0, 1)

        def mean(values: Tensor) -> Tensor:
            return (values * share).sum()

        def error(drawn: Tensor) -> Tensor:
            return mean(squared_errors(drawn, frames))

        means = {
            "latent/kl_nats": mean(self.variables.divergence(output.posterior, output.prior)),
            "latent/prior_entropy_nats": mean(self.variables.entropy(output.prior)),
            "latent/posterior_entropy_nats": mean(self.variables.entropy(output.posterior)),
            "mse": error(self.reconstruction(output.outputs)),
        }
        if not self.training:
            means["mean_mse"] = error(self.mean_frame.expand_as(frames))
        steps = seen.steps
        rewarded = self.predicted_reward(output.reward).abs() >= REWARD_EVENT
        counts = {
            "classes": self.variables.used(output.sample[seen.mask.flatten()]),
            "reward": event_counts(rewarded[steps], seen.rewards.flatten()[steps] != 0),
            "end": event_counts(output.ended[steps] > 0, seen.ended.flatten()[steps] > 0),
        }
        return Readings(means, counts)

    def sampled_readings(self, output: RssmOutput, inputs: tuple[Tensor, ...]) -> Readings:
        """What the prior alone predicts, and what is left where the posterior is shown the frames of others."""
        seen = Inputs(*inputs)
        frames = seen.frames.flatten(0, 1)
        others = output.embedding.roll(len(frames) // 2, 0)
        shuffled = self.posterior(torch.cat([output.recurrent, others], dim=1))
        found = {}
        for name, logits in (("prior_mse", output.prior), ("shuffled_mse", shuffled)):
            drawn = self.frame(State(output.recurrent, self.variables.mode(logits)))
            found[name] = squared_errors(drawn, frames)[seen.mask.flatten()].mean()
        return Readings(found)

    def metrics(self, stage: str, means: dict[str, float], counts: dict[str, Tensor]) -> dict[str, float]:
        for name in [name for name in means if name == "mse" or name.endswith("_mse")]:
            error = means.pop(name)
            means[f"recon/{name.removesuffix('mse')}psnr_db"] = psnr_db(error)
        if (used := counts.get("classes")) is not None:
            means["latent/classes_used"] = float((used > 0).sum())
        for event in ("reward", "end"):
            if event in counts:
                means |= event_metrics(f"{event}/", counts[event])
        return super().metrics(stage, means, counts)

    def pictures(self, output: RssmOutput, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The last frame of each sequence, what the posterior makes of it, and what the prior expected."""
        seen = Inputs(*inputs)
        last = torch.arange(len(seen.frames), device=seen.frames.device) * seen.frames.shape[1] + seen.mask.sum(1) - 1
        expected = State(output.recurrent[last], self.variables.mode(output.prior[last]))
        return {
            "frame": seen.frames.flatten(0, 1)[last],
            "expected": self.frame(expected),
            "reconstruction": self.reconstruction(output.outputs[last]),
        }

    def outcome(self, best: dict[str, float]) -> str:
        return (
            f"validation PSNR {best['val/recon/psnr_db']:.1f} dB, expected without the frame "
            f"{best['val/recon/prior_psnr_db']:.1f} dB, the mean frame {best['val/recon/mean_psnr_db']:.1f} dB; "
            f"KL {best['val/latent/kl_nats']:.1f} nats"
        )

    def warnings(self, best: dict[str, float]) -> list[str]:
        return self.alarms(best)

    def alarms(self, metrics: dict[str, float]) -> list[str]:
        """Whether the state says nothing of the frame, or hardly anything comes from it."""
        found = []
        nats = metrics["val/latent/kl_nats"]
        if nats < LITTLE_NATS:
            found.append(
                f"posterior collapse: the frame adds {nats:.3f} nats a step to what the prior expects, less than "
                f"{LITTLE_NATS:g}: the state says nothing of it; if training has not just begun, set "
                "loss.pixels=sum, or raise loss.free_nats (1) or model.unimix (0.01), or lower loss.dynamics and "
                "loss.representation"
            )
        psnr, shuffled = metrics["val/recon/psnr_db"], metrics["val/recon/shuffled_psnr_db"]
        if psnr - shuffled < LITTLE_DB:
            found.append(
                f"the posterior ignores its frame: shown the frames of others it reconstructs {shuffled:.1f} dB, shown "
                f"its own {psnr:.1f}; train longer, or lower loss.representation"
            )
        return found

    # What it can do

    def draw(self, clips: Clips, codes: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in [0, 1], the last frame of each clip as the posterior shows it."""
        return self.frame(self.begin(clips))

    @property
    def context(self) -> int:  # type: ignore[override] # a constant elsewhere
        """As many frames as a training sequence has."""
        return self.config.sequence  # type: ignore[no-any-return]

    @property
    def actions(self) -> ActionSpec:
        """One of the controller's actions."""
        return ActionSpec("actions", self.num_actions)

    def begin(self, clips: Clips) -> State:
        """The state after the frames of each clip and the actions between them."""
        seen = self.inputs(clips)
        embedding = self.embedded(seen.frames.flatten(0, 1)).unflatten(0, seen.frames.shape[:2])
        state = self.first_state(seen.frames.shape[0])
        for action, told in zip(seen.actions.unbind(1), embedding.unbind(1), strict=True):
            state, _ = self.updated(state, action, told)
        return state

    def observe(self, state: State, action: Tensor, frame: Tensor) -> State:
        """The state after an action (B,) and the frame (B, C, H, W) uint8 that came of it."""
        state, _ = self.updated(state, action, self.embedded(to_float(frame)))
        return state

    def step(self, state: State, action: Tensor) -> tuple[State, Imagined]:
        """The next state, and what it shows, after actions (B,) int64."""
        state = self.imagine(state, action)
        features = state.features
        reward = self.predicted_reward(self.reward(features))
        return state, Imagined(self.frame(state), reward, torch.sigmoid(self.end(features)[:, 0].float()))


class Head(nn.Module):
    """A hidden layer at each place and one output for all of them (DreamerV2: ELU).

    What earns a reward happens at one place: of each channel, the largest value over the places counts.
    """

    def __init__(self, features: int, width: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(features, width, 1)
        self.output = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, outputs)."""
        hidden = F.elu(self.hidden(features)).flatten(2).amax(2)
        output: Tensor = self.output(hidden)
        return output


def perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """One hidden layer, place by place."""
    return nn.Sequential(nn.Conv2d(inputs, width, 1), nn.ELU(), nn.Conv2d(width, outputs, 1))
