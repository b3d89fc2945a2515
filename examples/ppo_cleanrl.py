"""PPO in one file, in the manner of CleanRL, on a vector of Breakouts that are labelled in one forward pass.

    python examples/ppo_cleanrl.py --steps 100000

Writes one JSON line per transition: step, env, action, code.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from lapa_envs import LatentActionVectorWrapper

gym.register_envs(ale_py)

GAMMA, LAMBDA, CLIP, ENTROPY, VALUE, EPOCHS, MINIBATCHES = 0.99, 0.95, 0.1, 0.01, 0.5, 4, 4


def make_env() -> gym.Env[Any, Any]:
    """The last four grey frames of 84 x 84; raw frames can still be rendered."""
    env = gym.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0, render_mode="rgb_array")
    env = gym.wrappers.RecordEpisodeStatistics(env)
    return gym.wrappers.FrameStackObservation(gym.wrappers.AtariPreprocessing(env), 4)


class Agent(nn.Module):
    """The network of Mnih et al. 2015 with a head for the policy and one for the value."""

    def __init__(self, num_actions: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, 512),
            nn.ReLU(),
        )
        self.actor, self.critic = nn.Linear(512, num_actions), nn.Linear(512, 1)
        nn.init.orthogonal_(self.actor.weight, 0.01)

    def forward(self, frames: Tensor) -> tuple[Categorical, Tensor]:
        """(B, 4, 84, 84) uint8 -> policy and value (B,)."""
        features = self.body(frames / 255.0)
        return Categorical(logits=self.actor(features)), self.critic(features).squeeze(1)


def advantages_of(rewards: Tensor, values: Tensor, ended: Tensor, last_value: Tensor) -> Tensor:
    """Generalized advantage estimates (T, N); ``ended`` (T, N) says which step ended an episode."""
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(last_value)
    following = last_value
    for t in reversed(range(len(rewards))):
        goes_on = 1.0 - ended[t]
        running = rewards[t] + GAMMA * following * goes_on - values[t] + GAMMA * LAMBDA * goes_on * running
        advantages[t], following = running, values[t]
    return advantages


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="of all environments together")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
    parser.add_argument("--checkpoint", default="breakout", help="one that `lapa models` lists, or a file")
    parser.add_argument("--log", type=Path, default=Path("codes.jsonl"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    # NEXT_STEP autoreset: the row after an episode's end only resets. Its code is -1, and it is not learnt from.
    envs = LatentActionVectorWrapper(  # the one line
        gym.vector.SyncVectorEnv([make_env] * arguments.envs), arguments.checkpoint, frame_source="render"
    )
    agent = Agent(int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(agent.parameters(), lr=2.5e-4, eps=1e-5)
    returns: deque[float] = deque(maxlen=20)
    frames = torch.from_numpy(envs.reset(seed=0)[0])
    step, updates = 0, max(1, arguments.steps // (arguments.rollout * arguments.envs))
    with arguments.log.open("w") as log:
        for update in range(updates):
            optimizer.param_groups[0]["lr"] = 2.5e-4 * (1 - update / updates)
            rows: list[tuple[Tensor, ...]] = []
            for _ in range(arguments.rollout):
                with torch.no_grad():
                    policy, value = agent(frames)
                action = policy.sample()
                observation, reward, terminated, truncated, infos = envs.step(action.numpy())
                code = infos["latent_action"]
                real = (code >= 0).reshape(len(code), -1).all(1)
                for env in np.flatnonzero(real):
                    line = {"step": step, "env": int(env), "action": int(action[env]), "code": code[env].tolist()}
                    log.write(json.dumps(line) + "\n")
                if "episode" in infos:
                    returns.extend(infos["episode"]["r"][infos["_episode"]].tolist())
                facts = (np.sign(reward), terminated | truncated, real)
                numbers = (torch.as_tensor(fact, dtype=torch.float32) for fact in facts)
                rows.append((frames, action, policy.log_prob(action), value, *numbers))
                frames = torch.from_numpy(observation)
                step += 1
            columns = (torch.stack(column) for column in zip(*rows, strict=True))  # each (T, N, ...)
            seen, actions, log_probs, values, rewards, ended, is_real = columns
            with torch.no_grad():
                advantages = advantages_of(rewards, values, ended, agent(frames)[1])
            learn(agent, optimizer, seen, actions, log_probs, values, advantages, is_real)
            mean = f"{np.mean(returns):.1f}" if returns else "none yet"
            print(f"update {update + 1} of {updates}, mean return of the last episodes: {mean}")
    envs.close()
    print(f"codes: {arguments.log}")


def learn(
    agent: Agent,
    optimizer: torch.optim.Optimizer,
    frames: Tensor,
    actions: Tensor,
    log_probs: Tensor,
    values: Tensor,
    advantages: Tensor,
    real: Tensor,
) -> None:
    """Some epochs of clipped updates on a rollout, each (T, N, ...), without rows that are no transition."""
    frames, actions, log_probs, values, advantages, real = (
        tensor.flatten(0, 1) for tensor in (frames, actions, log_probs, values, advantages, real)
    )
    targets = advantages + values
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(actions)).chunk(MINIBATCHES):
            rows = rows[real[rows] > 0]
            policy, value = agent(frames[rows])
            advantage = advantages[rows]
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            ratio = (policy.log_prob(actions[rows]) - log_probs[rows]).exp()
            gain = torch.min(advantage * ratio, advantage * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
            error = (value - targets[rows]).square().mean() / 2
            loss = VALUE * error - gain - ENTROPY * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


if __name__ == "__main__":
    main()
