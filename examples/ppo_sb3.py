"""Stable-Baselines3's PPO on Breakout with its usual preprocessing; one line adds latent actions to every step.

    pip install 'lapa[sb3]'
    python examples/ppo_sb3.py --steps 100000

Writes one JSON line per transition: step, env, action, code.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import IO, Any

import ale_py
import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from lapa_envs import LatentActionWrapper

gym.register_envs(ale_py)


def make_env(checkpoint: str) -> gym.Env[Any, Any]:
    """Grey frames of 84 x 84 for the agent, raw ones for the labels."""
    env = gym.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.0, render_mode="rgb_array")
    env = gym.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True, grayscale_newaxis=True)
    return LatentActionWrapper(env, checkpoint, frame_source="render")  # the one line


class LogCodes(BaseCallback):
    """Writes what was done, as the controller and as the model have it.

    Stable-Baselines3 resets within the step that ends an episode, but keeps that step's info: no code is lost.
    """

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self.file = file

    def _on_step(self) -> bool:
        for env, (action, info) in enumerate(zip(self.locals["actions"], self.locals["infos"], strict=True)):
            line = {"step": self.n_calls - 1, "env": env, "action": int(action), "code": info["latent_action"].tolist()}
            self.file.write(json.dumps(line) + "\n")
        return True


def main() -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000, help="of all environments together")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--rollout", type=int, default=128, help="steps of each environment between updates")
    parser.add_argument("--checkpoint", default="breakout", help="one that `lapa models` lists, or a file")
    parser.add_argument("--log", type=Path, default=Path("codes.jsonl"))
    parser.add_argument("--save", type=Path, default=Path("ppo_sb3.zip"), help="for lapa record --policy sb3:PATH")
    arguments = parser.parse_args()
    options = {"checkpoint": arguments.checkpoint}
    envs = VecFrameStack(make_vec_env(make_env, n_envs=arguments.envs, seed=0, env_kwargs=options), n_stack=4)
    batch_size = min(256, arguments.rollout * arguments.envs)
    agent = PPO("CnnPolicy", envs, n_steps=arguments.rollout, batch_size=batch_size, n_epochs=4, ent_coef=0.01, seed=0)
    with arguments.log.open("w") as file:
        agent.learn(arguments.steps, callback=LogCodes(file))
    agent.save(arguments.save)
    envs.close()
    print(f"codes: {arguments.log}, agent: {arguments.save}")


if __name__ == "__main__":
    main()
