"""Every model family goes the whole way on the toy: recorded, packed, trained, resumed, loaded, judged, extracted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lapa import LatentActionDataset, TokenDataset, registry
from lapa.cli import main
from lapa.contracts import Coder
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import load_checkpoint, read_state

SETTINGS: dict[str, list[str]] = {
    "latent_action": ["--preset", "debug"],
    "tokenizer": ["--preset", "tokenizer_debug"],
    "rssm": ["--preset", "rssm_debug", "loss.reward=0", "loss.ends=0"],
}
"""Of each family: the smallest that trains in seconds, on frames and actions alone."""
STEPS = 8


def whole_and_resumed(train: list[str], folder: Path) -> list[dict[str, torch.Tensor]]:
    """Weights of a run of 8 steps, and of one that was resumed after half of them."""
    whole, resumed = folder / "whole", folder / "resumed"
    assert main([*train, f"training.out={whole}", f"training.steps={STEPS}"]) == 0
    assert main([*train, f"training.out={resumed}", f"training.steps={STEPS}"]) == 0
    for path in (resumed / f"step_{STEPS}.pt", resumed / "best.pt"):
        path.unlink()
    assert main(["train", "--resume", f"training.out={resumed}"]) == 0
    return [read_state(run / f"step_{STEPS}.pt")["model"] for run in (whole, resumed)]


@pytest.mark.parametrize("system", registry.systems.names())
def test_a_family_goes_the_whole_way(
    system: str, record_toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert system in SETTINGS, f"how is '{system}' trained in seconds? Say so in SETTINGS of {Path(__file__).name}"
    monkeypatch.chdir(tmp_path)
    data = record_toy(tmp_path / "bulk_videos", episodes=5, steps=12)
    fixed = [f"data.root={data}", "data.downsample=1", "training.precision=fp32", "training.device=cpu"]
    often = [f"training.{name}_every={STEPS // 2}" for name in ("validate", "checkpoint")]
    whole, resumed = whole_and_resumed(["train", *SETTINGS[system], *fixed, *often], tmp_path)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []

    store = FrameStore(data / ".lapa" / "frames.lapa")
    assert (len(store.episodes), len(store)) == (5, 5 * 13)

    best = tmp_path / "whole" / "best.pt"
    checkpoint = load_checkpoint(best, "cpu")
    assert checkpoint.config.system == system
    assert type(checkpoint.model) is registry.systems.get(system)
    assert checkpoint.step in (STEPS // 2, STEPS)
    assert math.isfinite(checkpoint.metrics[checkpoint.model.best])

    judged = ["--checkpoint", str(best), "--data", str(data)]
    assert main(["evaluate", *judged, "--out", "report"]) == 0
    found = json.loads(Path("report/metrics.json").read_text())
    assert found["episodes"] == checkpoint.split["test"]
    assert [name for name, value in found["metrics"].items() if not math.isfinite(value)] == []

    if isinstance(checkpoint.model, Coder):
        assert main(["extract", *judged, "--out", "codes.lapa"]) == 0
        dataset, found = read_codes(checkpoint.model.track, "codes.lapa")
        assert len(dataset) == len(found) == 5 * (12 if checkpoint.model.track == "codes" else 13)
        assert found.shape[1:] == checkpoint.model.code_grid
        assert 0 <= found.min() <= found.max() < checkpoint.model.quantizer.num_codes


def read_codes(track: str, path: str) -> tuple[LatentActionDataset | TokenDataset, np.ndarray]:
    """A dataset of codes of transitions, or of tokens of frames, and all of these."""
    if track == "codes":
        codes = LatentActionDataset(path)
        return codes, codes.codes
    tokens = TokenDataset(path)
    return tokens, tokens.tokens
