"""Measures storage, loading, training and labelling on this machine; writes ``results/benchmark.json``.

Absolute figures drift with the machine; the ratios within one run hold. Frames are real Breakout, recorded into
a temporary folder unless ``--data`` names a recording.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lapa.checkpoint import load_model
from lapa.config import load_config
from lapa.data.files import write_text
from lapa.data.frames import FrameFormat, read_png, to_float
from lapa.data.pairs import PairDataset
from lapa.data.store import FrameStore, open_store
from lapa.device import autocast, has_fast_bf16, pick_device
from lapa.labelling import Labeller
from lapa.losses import loss_terms, loss_weights, weighted_sum
from lapa.progress import notify
from lapa.training import make_model, make_optimizer
from lapa_envs.pretrained import default_checkpoint

TRAINED = {"laptop": 8, "breakout": 8}
"""Presets whose training is measured, with the batch size of each."""


def rate(work: Callable[[], int], seconds: float) -> float:
    """Items per second of ``work``, which returns how many it did; once to warm up, then for so long."""
    work()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += work()
    return done / (time.perf_counter() - started)


def measure_storage(root: Path, store: FrameStore, seconds: float) -> dict[str, float]:
    """Bytes per frame and random pairs per second, one thread, of the store and of the PNG files it was packed from."""
    rng = np.random.default_rng(0)
    starts = np.concatenate([episode.pair_starts() for episode in store.episodes])
    folders = {episode.start: root / episode.name for episode in store.episodes}
    begins = np.array(sorted(folders))

    def from_store() -> int:
        for start in rng.choice(starts, 256).tolist():
            store.frame(start)
            store.frame(start + 1)
        return 256

    def from_png() -> int:
        for start in rng.choice(starts, 32).tolist():
            begin = int(begins[np.searchsorted(begins, start, side="right") - 1])
            for number in (start - begin, start - begin + 1):
                read_png(folders[begin] / f"{number}.png")
        return 32

    pngs = [path.stat().st_size for folder in folders.values() for path in folder.glob("*.png")]
    return {
        "png_bytes_per_frame": float(np.mean(pngs)),
        "store_bytes_per_frame": store.path.stat().st_size / len(store),
        "png_random_pairs_per_s": rate(from_png, seconds),
        "store_random_pairs_per_s": rate(from_store, seconds),
    }


def measure_training(store: FrameStore, preset: str, batch_size: int, seconds: float) -> float:
    """Pairs per second of the training step."""
    config = load_config(preset)
    device = pick_device()
    format = FrameFormat(*store.frame_size, config.data.color, config.data.downsample)
    pairs = PairDataset(store, store.episodes[:1], format, preload=True)
    model = make_model(config, format).to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config.training)
    weights = loss_weights(config.loss)
    rng = np.random.default_rng(0)

    def train() -> int:
        pair = pairs[rng.choice(len(pairs), batch_size)].to(device)
        current, following = to_float(pair.current), to_float(pair.next)
        with autocast(device, config.training.precision):
            output = model(current, following)
        loss = weighted_sum(loss_terms(output, current, following, config.loss, 0.5), weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return batch_size

    return rate(train, seconds)


def measure_labelling(store: FrameStore, batch_size: int, seconds: float) -> float:
    """Pairs per second labelled by the model that comes with the package, frames prepared already."""
    model = load_model(default_checkpoint())
    labeller = Labeller(model)
    pairs = PairDataset(store, store.episodes[:1], model.format, preload=True)
    rng = np.random.default_rng(0)

    def label() -> int:
        pair = pairs[rng.choice(len(pairs), batch_size)]
        labeller(pair.current, pair.next).cpu()
        return batch_size

    return rate(label, seconds)


def main() -> None:
    """Runs all measurements and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="recorded episodes (default: records some)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmark.json"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.data
        if root is None:
            from lapa_envs.atari import make_env
            from lapa_envs.recording import record

            root = Path(temporary) / "bulk_videos"
            record(make_env(), root, episodes=4, max_steps=300)
        store = open_store(root)
        device = pick_device()
        notify("storage")
        figures: dict[str, object] = {
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, "
            f"{'bf16' if has_fast_bf16(device) else 'fp32'}, torch {torch.__version__}",
            "storage": measure_storage(root, store, arguments.seconds),
        }
        notify("training")
        figures["trained_pairs_per_s"] = {
            preset: measure_training(store, preset, batch_size, arguments.seconds)
            for preset, batch_size in TRAINED.items()
        }
        notify("labelling")
        figures["labelled_pairs_per_s"] = {
            f"batch {batch_size}": measure_labelling(store, batch_size, arguments.seconds) for batch_size in (1, 8, 64)
        }
    text = json.dumps(figures, indent=2)
    write_text(arguments.out, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
