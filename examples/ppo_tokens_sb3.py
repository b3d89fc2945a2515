"""Stable-Baselines3's PPO learns Breakout from tokens: an embedding for each, a small convolutional network on top.

    pip install 'lapa[sb3]'
    lapa train --preset tokenizer_breakout --out checkpoints/tokenizer
    python examples/ppo_tokens_sb3.py --checkpoint checkpoints/tokenizer/best.pt --steps 100000

After each update it prints the mean return, and how much of the returns the value function explains.
"""

from __future__ import annotations

import argparse
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from lapa_envs import TokenObservation

gym.register_envs(ale_py)


def make_env(checkpoint: str, stack: int) -> gym.Env[Any, Any]:
    """Breakout whose observations are the tokens of the last frames, (stack, h, w)."""
    env = gym.make("ALE/Breakout-v5")
    env = TokenObservation(env, checkpoint)
    return gym.wrappers.FrameStackObservation(env, stack)  # one frame does not tell where the ball flies


class TokenFeatures(BaseFeaturesExtractor):
    """A vector for each token, and convolutions over their grid; the frames of the stack lie side by side as channels.

    Args:
        observation_space: of (stack, h, w) tokens.
        width: of a token's vector.
        features_dim: of what the policy gets.
    """

    def __init__(self, observation_space: gym.spaces.Box, width: int = 16, features_dim: int = 128) -> None:
        super().__init__(observation_space, features_dim)
        stack, rows, columns = observation_space.shape
        self.embedding = nn.Embedding(int(observation_space.high.max()) + 1, width)
        self.convolutions = nn.Sequential(
            nn.Conv2d(stack * width, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        places = -(-rows // 4) * -(-columns // 4)
        self.project = nn.Sequential(nn.Linear(32 * places, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """(B, stack, h, w) tokens, which Stable-Baselines3 hands on as floats -> (B, features_dim)."""
        vectors = self.embedding(observations.long())  # (B, stack, h, w, width)
        return self.project(self.convolutions(vectors.permute(0, 1, 4, 2, 3).flatten(1, 2)))


class Report(BaseCallback):
    """Prints a line for each update, of what was learnt before it."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        tokens = self.model.rollout_buffer.observations
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        explained = self.logger.name_to_value.get("train/explained_variance", 0.0)
        print(
            f"step {self.num_timesteps}: {len(np.unique(tokens))} different tokens seen, mean return of the last "
            f"{len(returns)} episodes {np.mean(returns or [0]):.1f}, explained variance {explained:.2f}"
        )


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="of all environments together")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
    parser.add_argument("--stack", type=int, default=2, help="frames that the agent sees")
    parser.add_argument("--checkpoint", default="checkpoints/tokenizer/best.pt", help="a tokenizer")
    arguments = parser.parse_args()
    options = {"checkpoint": arguments.checkpoint, "stack": arguments.stack}
    envs = make_vec_env(make_env, n_envs=arguments.envs, seed=0, env_kwargs=options)
    agent = PPO(
        "MlpPolicy",  # of the features
        envs,
        n_steps=arguments.rollout,
        batch_size=min(256, arguments.rollout * arguments.envs),
        n_epochs=4,
        ent_coef=0.01,
        seed=0,
        policy_kwargs={"features_extractor_class": TokenFeatures, "net_arch": []},
    )
    before = agent.policy.features_extractor.embedding.weight.detach().clone()
    agent.learn(arguments.steps, callback=Report())
    moved = (agent.policy.features_extractor.embedding.weight.detach() - before).abs().amax(1) > 0
    print(f"learnt from {agent.num_timesteps} steps; {int(moved.sum())} of {len(moved)} tokens have learnt vectors")
    envs.close()


if __name__ == "__main__":
    main()
