"""Measures the machine, storage, loading, training, encoding and labelling; writes ``bench-<host kind>.json``.

Absolute figures drift with the machine; the ratios within one run hold. Frames are real Breakout, recorded into
a temporary folder unless ``--data`` names a recording or a packed store. Each model runs in a process of its own, so
that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lapa.config import Config, load_config
from lapa.contracts import Facts
from lapa.data.clips import ClipDataset, ClipSampler
from lapa.data.feed import Feed
from lapa.data.files import write_text
from lapa.data.frames import FrameFormat, to_float
from lapa.data.packing import open_store
from lapa.data.png import read_png
from lapa.data.store import FrameStore
from lapa.device import autocast, has_fast_bf16, peak_memory, pick_device
from lapa.engine.checkpoint import load_model
from lapa.engine.setup import make_system
from lapa.engine.step import OptimizerStep
from lapa.engine.training import train
from lapa.inference.labelling import Labeller
from lapa.progress import notify

PRESETS = ("breakout", "breakout_rgb", "laptop")
BATCHES = {"cpu": (8, 32), "cuda": (32, 128, 512)}
ENCODING_BATCHES = {"cpu": (1, 8, 64), "cuda": (1, 64, 1024)}
EXTRAS = ("activation_checkpointing", "compile")
PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}


def rate(work: Callable[[], int], seconds: float, device: torch.device | None = None) -> float:
    """Items per second of ``work``, which returns how many it did; once to warm up, then for so long."""
    work()
    synchronize(device)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        done += work()
    synchronize(device)
    return done / (time.perf_counter() - started)


def synchronize(device: torch.device | None) -> None:
    """Waits for a GPU to finish."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def host_kind(device: torch.device) -> str:
    """A short name for files: the GPU's, or the number of cores and the widest arithmetic of the CPU."""
    if device.type == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")
    capabilities = torch.cpu.get_capabilities()
    arithmetic = next(
        (name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if capabilities.get(name)), "any"
    )
    return f"cpu-{torch.get_num_threads()}-{arithmetic.replace('_', '-')}"


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def matmul_flops(precision: str, seconds: float) -> float:
    """Floating-point operations per second of a large matrix multiplication."""
    device = pick_device()
    size = 8192 if device.type == "cuda" else 2048
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> int:
        torch.mm(a, b)
        return 2 * size**3

    return rate(multiply, seconds, device)


def configured(preset: str, precision: str, channels_last: bool, extra: str | None = None) -> Config:
    """A preset with what is varied; ``extra`` is a switch of the training to turn on."""
    options = {"precision": precision, "channels_last": channels_last, **({extra: True} if extra else {})}
    return load_config(preset, overrides=[f"training.{name}={value}" for name, value in options.items()])


def prepared_pairs(store: FrameStore, config: Config, device: torch.device) -> ClipDataset:
    """The pairs of one episode, kept on the device."""
    seen = FrameFormat(*store.frame_size, config.data.color, config.data.downsample)
    pairs = ClipDataset(store, store.episodes[:1], seen)
    pairs.keep_on(device)
    return pairs


def prepared_model(config: Config, seen: FrameFormat, device: torch.device) -> Any:
    """The model in its memory layout."""
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    return make_system(config, Facts(seen)).to(device).to(memory_format=layout)


def measure_training(store: FrameStore, config: Config, batch_size: int, seconds: float) -> dict[str, float]:
    """The training step: pairs per second, floating-point operations per pair and second, and peak memory."""
    device = pick_device()
    pairs = prepared_pairs(store, config, device)
    model = prepared_model(config, pairs.format, device)
    model.activation_checkpointing = config.training.activation_checkpointing
    take_step = OptimizerStep(model, config.loss, config.training)
    rng = np.random.default_rng(0)

    def step() -> int:
        take_step(pairs[rng.choice(len(pairs), batch_size)], 0.5)
        return batch_size

    counter = FlopCounterMode(display=False)
    with counter:
        step()
    if config.training.compile:
        model.compile()
    pairs_per_s = rate(step, seconds, device)
    flops = counter.get_total_flops() / batch_size
    return {
        "pairs_per_s": pairs_per_s,
        "gflop_per_pair": flops / 1e9,
        "gflop_per_s": flops * pairs_per_s / 1e9,
        "peak_memory_mb": peak_memory(device) / 2**20,
    }


@torch.inference_mode()
def measure_encoding(store: FrameStore, config: Config, batch_size: int, seconds: float) -> dict[str, float]:
    """Frames to codes, on the device already: pairs per second, milliseconds a batch, and peak memory."""
    device = pick_device()
    precision = config.training.precision
    pairs = prepared_pairs(store, config, device)
    model = prepared_model(config, pairs.format, device).eval()
    batch = pairs[np.random.default_rng(0).choice(len(pairs), batch_size)]

    def encode() -> int:
        with autocast(device, precision):
            latent = model.encode(to_float(batch.current), to_float(batch.next))
        codes = model.quantizer(latent).codes
        codes.cpu()
        return len(codes)

    pairs_per_s = rate(encode, seconds, device)
    return {
        "pairs_per_s": pairs_per_s,
        "ms_per_batch": 1000 * batch_size / pairs_per_s,
        "peak_memory_mb": peak_memory(device) / 2**20,
    }


def measure_storage(store: FrameStore, root: Path | None, seconds: float) -> dict[str, float]:
    """Bytes per frame and random pairs per second, one thread, of the store and of the PNG files it was packed from."""
    rng = np.random.default_rng(0)
    starts = np.concatenate([episode.clip_starts() for episode in store.episodes])

    def from_store() -> int:
        for start in rng.choice(starts, 256).tolist():
            store.frame(start)
            store.frame(start + 1)
        return 256

    figures = {
        "store_bytes_per_frame": store.path.stat().st_size / len(store),
        "store_random_pairs_per_s": rate(from_store, seconds),
    }
    if root is None:
        return figures
    begins = np.array([episode.start for episode in store.episodes])
    pngs = [path.stat().st_size for episode in store.episodes for path in (root / episode.name).glob("*.png")]

    def from_png() -> int:
        for start in rng.choice(starts, 32).tolist():
            episode = store.episodes[int(np.searchsorted(begins, start, side="right")) - 1]
            for number in episode.numbers[start - episode.start :][:2]:
                read_png(root / episode.name / f"{number}.png")
        return 32

    return {
        **figures,
        "png_bytes_per_frame": float(np.mean(pngs)),
        "png_random_pairs_per_s": rate(from_png, seconds),
    }


def measure_loading(store: FrameStore, seconds: float) -> dict[str, float]:
    """Pairs per second that reach the device as the model wants them, from each place where frames can be."""
    device = pick_device()
    figures = {}
    for color, (placement, workers) in itertools.product(
        ("grey", "rgb"), (("device", 0), ("memory", 0), ("disk", 0), ("disk", 2))
    ):
        pairs = ClipDataset(store, store.episodes[:2], FrameFormat(*store.frame_size, color))
        if placement != "disk":
            pairs.keep_on(device if placement == "device" else torch.device("cpu"))
        feed = Feed(pairs, ClipSampler(len(pairs), 32, seed=0), device, workers)

        def load(feed: Feed = feed) -> int:
            return len(next(feed))

        name = f"{color} from {placement}" + (f", {workers} workers" if workers else "")
        figures[name] = rate(load, seconds, device)
    return figures


def measure_labelling(store: FrameStore, batch_size: int, seconds: float) -> float:
    """Pairs per second labelled by the model that comes with the package, in fp32 and with exact borders."""
    model = load_model("breakout")
    labeller = Labeller(model)
    pairs = ClipDataset(store, store.episodes[:1], model.format)
    pairs.keep_on(labeller.device)
    rng = np.random.default_rng(0)

    def label() -> int:
        pair = pairs[rng.choice(len(pairs), batch_size)]
        labeller(pair.current, pair.next).cpu()
        return batch_size

    return rate(label, seconds, labeller.device)


def measure_engine(store: FrameStore, preset: str, steps: int, options: list[str]) -> dict[str, float]:
    """The training engine itself on a preset: pairs per second, and the share of the time it waits for data."""
    with tempfile.TemporaryDirectory() as out:
        fixed = [f"training.out={out}/run", f"training.steps={steps}", f"training.validate_every={10 * steps}"]
        train(load_config(preset, overrides=[*fixed, "training.validate_pairs=16", *options]), store, lambda _: None)
        lines = [json.loads(line) for line in (Path(out) / "run" / "metrics.jsonl").read_text().splitlines()]
    # Without the first quarter, in which memory is laid out and kernels are chosen.
    steady = [line for line in lines if "train/speed/pairs_per_s" in line and line["step"] > steps // 4]
    return {
        "pairs_per_s": float(np.mean([line["train/speed/pairs_per_s"] for line in steady])),
        "data_wait_share": float(np.mean([line["train/speed/data_wait_share"] for line in steady])),
    }


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or the error it raises, as text; run in a fresh process."""
    # Not a multiprocessing.Pool: its processes may not start others, such as those that read ahead.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except RuntimeError as error:  # such as a GPU that is too small
            return str(error).splitlines()[0]


def variants(precisions: list[str], batches: tuple[int, ...]) -> list[tuple[str, str, bool, int, str | None]]:
    """Preset, precision, channels-last, batch size and no switch: every combination that is measured."""
    return [(*row, None) for row in itertools.product(PRESETS, precisions, (True, False), batches)]


def main() -> None:
    """Runs all measurements and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="recorded episodes, or a packed store (default: records some)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="of the engine's own run (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    seconds, device = arguments.seconds, pick_device()
    kind = device.type
    # Emulated half precision is slower than single by far: nobody should use it, and measuring it takes minutes.
    precisions = [name for name in PRECISIONS[kind] if name == "fp32" or kind == "cuda" or has_fast_bf16(device)]
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.data
        if root is None:
            from lapa_envs.atari import make_env
            from lapa_envs.playing import record

            root = Path(temporary) / "bulk_videos"
            record(make_env(), root, episodes=4, max_steps=300)
        store = open_store(root)
        peak = {name: matmul_flops(name, seconds) / 1e9 for name in precisions}
        figures: dict[str, Any] = {
            "machine": {
                "processor": processor(),
                "device": torch.cuda.get_device_name(device) if kind == "cuda" else "cpu",
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "matmul_gflop_per_s": peak,
            },
            "storage": measure_storage(store, root if root.is_dir() else None, seconds),
            "loaded_pairs_per_s": measure_loading(store, seconds),
        }
        switches = [(preset, precisions[-1], True, 32, extra) for preset in PRESETS for extra in EXTRAS]
        for name, measure, varied in (
            ("training", measure_training, [*variants(precisions, BATCHES[kind]), *switches]),
            ("encoding", measure_encoding, variants(precisions, ENCODING_BATCHES[kind])),
        ):
            rows = []
            for preset, precision, channels_last, batch_size, extra in varied:
                config = configured(preset, precision, channels_last, extra)
                result = in_a_process(measure, store, config, batch_size, seconds)
                row = {"preset": preset, "precision": precision, "channels_last": channels_last, "batch": batch_size}
                row |= {"with": extra} if extra else {}
                row |= result if isinstance(result, dict) else {"failed": result}
                if "gflop_per_s" in row:
                    row["share_of_matmul"] = row["gflop_per_s"] / peak[precision]
                rows.append(row)
                notify(f"{name}: {describe(row)}")
            figures[name] = rows
        figures["engine"] = {
            "breakout": in_a_process(measure_engine, store, "breakout", arguments.steps, []),
            "breakout, frames on disk": in_a_process(
                measure_engine, store, "breakout", arguments.steps, ["data.placement=disk"]
            ),
            "laptop": in_a_process(measure_engine, store, "laptop", 10 * arguments.steps, ["training.log_every=1"]),
        }
        figures["labelled_pairs_per_s"] = {
            f"batch {batch_size}": in_a_process(measure_labelling, store, batch_size, seconds)
            for batch_size in ENCODING_BATCHES[kind]
        }
    path = arguments.out / f"bench-{host_kind(device)}.json"
    write_text(path, json.dumps(figures, indent=2) + "\n")
    print(
        json.dumps({name: value for name, value in figures.items() if name not in ("training", "encoding")}, indent=2)
    )
    print(path)


def describe(row: dict[str, Any]) -> str:
    """One row as a line."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )


if __name__ == "__main__":
    main()
