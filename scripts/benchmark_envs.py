"""Measures what labelling and recording cost an environment, on an idle machine and beside a busy process.

Writes ``bench-envs-<host kind>.json``. Absolute figures drift with the machine, so each is measured in turns with what
it is held against, and the ratio is that of the medians. Real Breakout, random play, frameskip 4.

Recordings go into the folder for temporary files, and are deleted at the very end: for minutes after many files were
deleted, ext4 takes ten times as long to make each new one, for it looks at all that were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from benchmark import host_kind, processor, rate

from lapa.config import load_config
from lapa.data.files import write_text
from lapa.data.frames import FrameFormat, prepare
from lapa.device import peak_memory, pick_device
from lapa.engine.checkpoint import load_model
from lapa.inference.labelling import Labeller
from lapa.progress import notify
from lapa.systems.latent_action.model import LatentActionModel
from lapa_envs import LatentActionVectorWrapper, LatentActionWrapper, RecordEpisodes, make_env
from lapa_envs.playing import record

NUM_ENVS = 8
ROUNDS = 5


def in_turns(work: Mapping[str, Callable[[], int]], seconds: float) -> dict[str, float]:
    """The median rate of each, over rounds in which all take their turn."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(ROUNDS):
        for name, function in work.items():
            rates[name].append(rate(function, seconds / ROUNDS))
    return {name: statistics.median(found) for name, found in rates.items()}


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within, so many other processes want a core each, all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def stepping(env: gym.Env[Any, Any]) -> Callable[[], int]:
    """One step of random play; the environment is reset when it must be."""
    env.reset(seed=0)
    env.action_space.seed(0)

    def step() -> int:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
        return 1

    return step


def vector_stepping(envs: gym.vector.VectorEnv[Any, Any, Any]) -> Callable[[], int]:
    """One step of all sub-environments, by random play."""
    envs.reset(seed=0)
    envs.action_space.seed(0)

    def step() -> int:
        envs.step(envs.action_space.sample())
        return envs.num_envs

    return step


def atari_vector() -> AtariVectorEnv:
    """ale_py's own vector of full-size RGB games."""
    return AtariVectorEnv(
        "breakout", NUM_ENVS, img_height=210, img_width=160, grayscale=False, stack_num=1, maxpool=False
    )


def measure_vectors(seconds: float) -> dict[str, dict[str, float]]:
    """Environment steps per second in a vector of eight, bare and labelled by the model that comes with the package."""
    makers = {
        "SyncVectorEnv": lambda: gym.make_vec("ALE/Breakout-v5", NUM_ENVS, vectorization_mode="sync"),
        "AsyncVectorEnv": lambda: gym.make_vec("ALE/Breakout-v5", NUM_ENVS, vectorization_mode="async"),
        "AtariVectorEnv": atari_vector,
    }
    found = {}
    for name, make in makers.items():
        bare, labelled = make(), LatentActionVectorWrapper(make())
        work = {"bare_steps_per_s": vector_stepping(bare), "labelled_steps_per_s": vector_stepping(labelled)}
        found[name] = in_turns(work, seconds)
        found[name]["share"] = found[name]["labelled_steps_per_s"] / found[name]["bare_steps_per_s"]
        bare.close()
        labelled.close()
        notify(f"{name}: {found[name]}")
    return found


def measure_single(seconds: float, scratch: Path) -> dict[str, float]:
    """Steps per second of one game, bare, labelled and recorded."""
    envs = {
        "bare_steps_per_s": make_env(),
        "labelled_steps_per_s": LatentActionWrapper(make_env()),
        "recorded_steps_per_s": RecordEpisodes(make_env(), tempfile.mkdtemp(dir=scratch)),
    }
    found = in_turns({name: stepping(env) for name, env in envs.items()}, seconds)
    for env in envs.values():
        env.close()
    found["labelled_share"] = found["labelled_steps_per_s"] / found["bare_steps_per_s"]
    found["recorded_share"] = found["recorded_steps_per_s"] / found["bare_steps_per_s"]
    notify(f"one game: {found}")
    return found


def measure_long_recording(steps: int, scratch: Path) -> dict[str, float]:
    """Steps per second of so many, bare and recorded, until the last frame is on disk: what a queue cannot hide."""
    found = {}
    recorded = RecordEpisodes(make_env(), tempfile.mkdtemp(dir=scratch))
    for name, env in (("bare_steps_per_s", make_env()), ("recorded_steps_per_s", recorded)):
        step = stepping(env)
        started = time.perf_counter()
        for _ in range(steps):
            step()
        if isinstance(env, RecordEpisodes):
            env.flush()
        found[name] = steps / (time.perf_counter() - started)
        env.close()
    found["share"] = found["recorded_steps_per_s"] / found["bare_steps_per_s"]
    notify(f"recording {steps} steps: {found}")
    return found


def measure_record(steps: int, scratch: Path) -> dict[str, float]:
    """Frames per second of ``lapa record``, from nothing to the last file, by starts and workers.

    To most of its starts the scripted player has to play unseen, through half the game or all of it.
    """
    found = {}
    for name, starts in (("default starts", None), ("new games", ("serve",))):
        for workers in (1, 2):
            out, started = Path(tempfile.mkdtemp(dir=scratch)), time.perf_counter()
            folders = record(make_env, out, episodes=None, steps=steps, workers=workers, starts=starts)
            frames = sum(len(list(folder.glob("*.png"))) for folder in folders)
            found[f"{name}, {workers} workers"] = frames / (time.perf_counter() - started)
    notify(f"lapa record: {found}")
    return found


def measure_labels(preset: str, batch_size: int, seconds: float) -> float:
    """Labels per second in fp32 and with exact borders, as the wrappers label, of frames that are at hand.

    Of ``laptop`` it is the shipped model ``breakout``, which was trained with it; of others an untrained one with codes
    on its encodings.
    """
    if preset == "laptop":
        model = load_model("breakout")
    else:
        config = load_config(preset)
        torch.manual_seed(0)
        model = LatentActionModel(
            config.model, FrameFormat(210, 160, config.data.color, config.data.downsample)
        ).train()
        noise = torch.rand(2, 16, model.format.channels, *model.format.size)
        with torch.no_grad():
            model(*noise)
        model = model.eval().requires_grad_(False)
    labeller = Labeller(model.to(pick_device()))
    env = make_env()
    shown = [env.reset(seed=0)[0], *(env.step(1 + step % 3)[0] for step in range(64))]
    env.close()
    frames, at = prepare(torch.from_numpy(np.stack(shown)), model.format), 0

    def label() -> int:
        nonlocal at
        at = (at + batch_size) % (len(frames) - batch_size)
        labeller(frames[at : at + batch_size], frames[at + 1 : at + batch_size + 1]).cpu()
        return batch_size

    return rate(label, seconds)


def measure_memory(steps: int) -> dict[str, float]:
    """The process's memory while it labels so many steps: what it has grown by after the first tenth."""
    env = LatentActionWrapper(make_env(), confidence=True)
    step, sizes = stepping(env), []
    for number in range(steps):
        step()
        if number % (steps // 10) == steps // 10 - 1:
            sizes.append(resident_mb())
            notify(f"after {number + 1} labelled steps: {sizes[-1]:.1f} MB")
    env.close()
    return {"steps": steps, "after_a_tenth_mb": sizes[0], "at_the_end_mb": sizes[-1], "grown_mb": sizes[-1] - sizes[0]}


def resident_mb() -> float:
    """Memory that the process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not Linux: the most it ever held
        return peak_memory(torch.device("cpu")) / 2**20
    return pages * 4096 / 2**20


def main() -> None:
    """Runs all measurements and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each figure (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8000, help="of the recordings (default: %(default)s)")
    parser.add_argument("--memory-steps", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measured(arguments.seconds, arguments.steps, arguments.memory_steps, Path(scratch))
    path = arguments.out / f"bench-envs-{host_kind(pick_device())}.json"
    write_text(path, json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(path)


def measured(seconds: float, steps: int, memory_steps: int, scratch: Path) -> dict[str, Any]:
    """All figures."""
    load = os.getloadavg()[0]
    rates = {}
    for busy, beside in enumerate(("nothing", "a busy process")):
        with busy_processes(busy):
            rates[f"vector of {NUM_ENVS}, beside {beside}"] = measure_vectors(seconds)
            rates[f"one game, beside {beside}"] = measure_single(seconds, scratch)
    return {
        "machine": {
            "processor": processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "load before": load,
        },
        **rates,
        "long recording": measure_long_recording(steps, scratch),
        "lapa record, frames per second": measure_record(steps, scratch),
        "labels_per_s": {
            f"{preset}, batch {size}": measure_labels(preset, size, seconds)
            for preset in ("laptop", "breakout", "breakout_rgb")
            for size in (1, 8)
        },
        "memory": measure_memory(memory_steps),
    }


if __name__ == "__main__":
    main()
