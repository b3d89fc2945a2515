"""The whole pipeline once, on real Breakout: record, pack, train, extract, evaluate, label live play."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Literal

from lapa.commands.options import DEFAULT_DATASET
from lapa.config import load_config
from lapa.data.files import write_text
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import load_checkpoint
from lapa.engine.training import train
from lapa.errors import DataError
from lapa.evaluation.evaluate import evaluate, summary_rows
from lapa.evaluation.report import write_report
from lapa.inference.extraction import LatentActionDataset, extract
from lapa.progress import notify
from lapa.report.tables import format_table
from lapa.tracking.jsonl import read_history
from lapa_envs.atari import make_env
from lapa_envs.live.game import label_live
from lapa_envs.playing import record

LIVE_STEPS = 200


def run(data: Path, preset: str, episodes: int, max_steps: int, run_folder: Path, report: Path) -> None:
    """Runs each part, or says that its result is reused.

    Args:
        data: folder of recorded episodes.
        preset: name of the configuration to train.
        episodes: how many to record if ``data`` is missing or empty.
        max_steps: an episode is cut after this many.
        run_folder: folder of the training run.
        report: folder of the report.

    Raises:
        LapaError: whatever a part raises.
    """
    notify("1/6 record")
    if data.is_dir() and any(data.iterdir()):
        notify(f"reusing the episodes in {data}; delete the folder to record again")
    else:
        # Under another name until it is complete, so that an interrupted recording is not reused.
        part = data.with_name(f".{data.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        record(make_env, part, episodes=episodes, max_steps=max_steps, workers=os.cpu_count() or 1)
        part.rename(data)
    notify("2/6 pack")
    store = open_store(data)
    notify("3/6 train")
    best = run_folder / "best.pt"
    done = run_folder / "done.json"
    config = load_config(preset, overrides=[f"data.root={data}", f"training.out={run_folder}"])
    stamp = {"preset": preset, "data": store.header["fingerprint"]}
    if best.exists() and done.exists() and json.loads(done.read_text()) == stamp:
        notify(f"reusing {best}; delete {run_folder} to train again")
    else:
        # An interrupted run has no stamp yet and is resumed; a finished one with another stamp is replaced.
        existing: Literal["resume", "overwrite"] = "overwrite" if done.exists() else "resume"
        done.unlink(missing_ok=True)
        train(config, store, existing=existing)
        write_text(done, json.dumps(stamp))
    checkpoint = load_checkpoint(best)
    notify("4/6 extract")
    dataset = Path(DEFAULT_DATASET)
    if is_extracted(dataset, checkpoint.digest, store):
        notify(f"reusing {dataset}; delete it to extract again")
    else:
        extract(checkpoint, store, dataset)
    notify("5/6 evaluate")
    evaluation = evaluate(checkpoint, store)
    path = write_report(report, checkpoint, evaluation, read_history(run_folder / "metrics.jsonl"))
    notify("6/6 label live play")
    steps, rate = label_live(make_env(), best, "scripted", LIVE_STEPS, seed=1000)
    grids = Counter(str(step["latent_action"]) for step in steps)
    print(f"labelled {len(steps)} live steps at {rate:.0f} steps/s: {len(grids)} different code grids")
    print()
    print(format_table(summary_rows(evaluation.metrics)))
    print(f"\nreport: {path}")


def is_extracted(path: Path, digest: str, store: FrameStore) -> bool:
    """Whether the dataset at ``path`` was made with this checkpoint from these frames."""
    try:
        dataset = LatentActionDataset(path)
    except DataError:
        return False
    return dataset.header["checkpoint"] == digest and len(dataset.store) == len(store)
