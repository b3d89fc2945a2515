"""Behaviour cloning on latent actions, in plain PyTorch: what would the player do here, said in codes?

    lapa record && lapa train --preset laptop && lapa extract
    python examples/behaviour_cloning.py

A policy learns to predict the code grid from the current frame alone, without a single true action. Then some labelled
transitions are enough to read actions out of the codes it predicts, as LAPA does (Ye et al. 2024, section 3.3). All
figures are of held-out episodes.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa import LatentActionDataset


class Cloner(nn.Module):
    """(B, 3, H, W) -> logits (B, K, h, w) of each code of the grid, from the place it looks at and from the whole."""

    def __init__(self, grid: tuple[int, int], num_codes: int) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.body = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in itertools.pairwise(widths)
            ),
            nn.AdaptiveAvgPool2d(grid),
        )
        self.whole = nn.Sequential(nn.Flatten(), nn.Linear(64 * grid[0] * grid[1], 128), nn.ReLU())
        self.head = nn.Conv2d(64 + 128, num_codes, 1)
        self.place = nn.Parameter(torch.zeros(num_codes, *grid))

    def forward(self, frames: Tensor) -> Tensor:
        features = self.body(frames)
        whole = self.whole(features)[:, :, None, None].expand(-1, -1, *features.shape[2:])
        return self.head(torch.cat([features, whole], 1)) + self.place


def load(dataset: LatentActionDataset, episodes: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (P, 3, H/2, W/2) float16, codes (P, h, w) and true actions (P,) of some episodes."""
    parts = []
    for name in episodes:
        episode = dataset.episode(name)
        frames = torch.from_numpy(episode.frames[episode.starts]).movedim(-1, 1)
        half = torch.cat([F.avg_pool2d(batch.float() / 255, 2).half() for batch in frames.split(64)])
        parts.append((half, torch.from_numpy(episode.codes.astype(np.int64)), torch.from_numpy(episode.actions)))
    frames, codes, actions = (torch.cat(part) for part in zip(*parts, strict=True))
    return frames, codes, actions


def predict(policy: Cloner, frames: Tensor) -> Tensor:
    """The probabilities (P, K, h, w) of each code."""
    policy.eval()
    with torch.no_grad():
        return torch.cat([policy(batch.float()).softmax(1) for batch in frames.split(64)])


def main() -> None:
    """Trains and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("latent_actions.lapa"))
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--labels", type=int, default=1000, help="transitions whose true action is used")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    dataset = LatentActionDataset(arguments.dataset)
    split = dataset.header["split"]
    frames, codes, actions = load(dataset, split["train"])
    asked_frames, asked_codes, asked_actions = load(dataset, split["test"])
    num_codes = dataset.header["num_codes"]

    policy = Cloner((codes.shape[1], codes.shape[2]), num_codes)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=arguments.steps)
    for step in range(arguments.steps):
        rows = torch.from_numpy(rng.choice(len(frames), 32))
        loss = F.cross_entropy(policy.train()(frames[rows].float()), codes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item() / np.log(2):.2f} bits a code")

    said = predict(policy, asked_frames)
    usual = codes.flatten(1).mode(0).values.view(codes.shape[1:])
    print(
        f"codes right:   {share(said.argmax(1), asked_codes)}, the usual code of each place {share(usual, asked_codes)}"
    )
    if (actions < 0).any():
        print("the recording does not tell the true actions")
        return
    labelled = torch.from_numpy(rng.choice(len(frames), arguments.labels, replace=False))
    reader = ActionReader(codes[labelled], actions[labelled], num_codes)
    majority = actions[labelled].mode().values
    print(
        f"actions right: {share(reader(said), asked_actions)} from the codes it predicts, "
        f"{share(reader(one_hot(asked_codes, num_codes)), asked_actions)} from the codes of what was done, "
        f"{share(majority, asked_actions)} always the commonest"
    )


def share(said: Tensor, true: Tensor) -> str:
    """How much of it is right."""
    return f"{(said == true).float().mean():.3f}"


class ActionReader(nn.Module):
    """A linear map from (probabilities of) codes (P, K, h, w) to the true action, fitted on few labels."""

    def __init__(self, codes: Tensor, actions: Tensor, num_codes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_codes * codes[0].numel(), int(actions.max()) + 1)
        nn.init.zeros_(self.linear.weight)
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        seen = one_hot(codes, num_codes).flatten(1)
        for _ in range(200):
            loss = F.cross_entropy(self.linear(seen), actions) + 1e-3 * self.linear.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def forward(self, codes: Tensor) -> Tensor:
        with torch.no_grad():
            return self.linear(codes.flatten(1)).argmax(1)


def one_hot(codes: Tensor, num_codes: int) -> Tensor:
    """(P, h, w) -> (P, K, h, w) float."""
    return F.one_hot(codes, num_codes).movedim(-1, 1).float()


if __name__ == "__main__":
    main()
