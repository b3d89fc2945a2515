"""Memory and speed of one dataset over many packed stores: synthetic frames, read in the order of a training.

    python scripts/benchmark_scale.py --frames 1000000 --stores 50

Each store is a file of its own. The same number of batches is drawn from a tenth of them and from all of them; the
memory of the process is read before and after, and the speed beside it.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lapa.contracts import ClipSpec
from lapa.data.clips import ClipDataset, ClipSampler
from lapa.data.episodes import Tracks
from lapa.data.feed import Feed
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.data.store import store_writer

SIZE = (32, 32)
EPISODE = 500
"""Frames of an episode."""


def write_store(path: Path, frames: int, rng: np.random.Generator) -> None:
    """A store of episodes in which a bright bar wanders, with actions, lives and 128 bytes of memory a frame."""
    bars = [np.zeros((*SIZE, 3), dtype=np.uint8) for _ in range(SIZE[1])]
    for column, bar in enumerate(bars):
        bar[:, column] = 200

    def pictures(places: np.ndarray) -> Iterator[np.ndarray]:
        return (bars[place] for place in places.tolist())

    with store_writer(path, SIZE) as writer:
        for number in range(frames // EPISODE):
            places = rng.integers(0, SIZE[1], EPISODE)
            tracks = Tracks(
                actions=rng.integers(0, 4, EPISODE - 1),
                lives=np.full(EPISODE, 5),
                ram=rng.integers(0, 256, (EPISODE, 128), dtype=np.uint8),
                meta={"env_id": "Synthetic-v0", "action_meanings": ["NOOP", "FIRE", "RIGHT", "LEFT"]},
            )
            writer.add(str(number), np.arange(EPISODE), tracks, pictures(places))
        writer.header = {"skipped": []}


def resident() -> float:
    """Megabytes of memory that the process has now, without pages of files, which the system takes back as it likes."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon:")).split()[1]) / 1024


def measure(paths: list[Path], batches: int, batch_size: int) -> dict[str, float]:
    """Opens the stores as one, draws batches of clips with their actions, and says what it took."""
    gc.collect()
    before = resident()
    started = time.perf_counter()
    store = open_store([str(path) for path in paths])
    dataset = ClipDataset(store, store.episodes, FrameFormat(*SIZE), ClipSpec(4, ("actions",)))
    opened, seconds = resident(), time.perf_counter() - started
    sampler = ClipSampler(len(dataset), batch_size, seed=0, groups=dataset.groups)
    feed = Feed(dataset, sampler, torch.device("cpu"), num_workers=0)
    most = opened
    started = time.perf_counter()
    for number in range(batches):
        assert next(feed).tracks["actions"].shape == (batch_size, 3)
        if number % 20 == 0:
            most = max(most, resident())
    return {
        "frames": len(store),
        "clips": len(dataset),
        "seconds_to_open": seconds,
        "opened_mb": opened - before,
        "most_mb": most - before,
        "clips_per_s": batches * batch_size / (time.perf_counter() - started),
    }


def main() -> None:
    """Writes the stores, measures, prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="in all (default: %(default)s)")
    parser.add_argument("--stores", type=int, default=50, help="files (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=2000, help="drawn of each size (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="clips in a batch (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the stores are kept (default: a temporary folder)")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        paths = [folder / f"shard_{number:04d}.lapa" for number in range(arguments.stores)]
        for path in paths:
            if not path.exists():
                write_store(path, arguments.frames // arguments.stores, rng)
        measure(paths[:2], 20, arguments.batch_size)  # what is loaded once is not counted
        for some in (paths[: max(2, len(paths) // 10)], paths):
            print(json.dumps(measure(some, arguments.batches, arguments.batch_size)), flush=True)
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
