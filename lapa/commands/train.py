"""``lapa train``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lapa.commands.options import Subparsers, command, open_configured_store
from lapa.progress import talks


def add_train(subparsers: Subparsers) -> None:
    """``lapa train``."""
    parser = command(subparsers, "train", run_train, "Train a latent action model on recorded episodes.")
    parser.add_argument("--preset", help="a configuration that comes with lapa (default: breakout)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of what differs from the preset")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad episode instead of leaving it out")
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume", action="store_true", help="go on with the run in training.out; start it if there is none"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run in training.out")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as model.quantizer.name=ema")


def run_train(arguments: argparse.Namespace) -> None:
    """Packs if need be, trains, says what was reached."""
    from lapa import distributed
    from lapa.config import load_config
    from lapa.engine.training import train

    file = arguments.config
    if arguments.resume and not arguments.preset and not file:
        file = configuration_of_run(arguments.overrides)
    config = load_config(arguments.preset, file, arguments.overrides)
    existing: Literal["refuse", "resume", "overwrite"] = (
        "resume" if arguments.resume else "overwrite" if arguments.overwrite else "refuse"
    )
    with distributed.process_group(config.training.device):
        with distributed.main_first():
            store = open_configured_store(config, arguments.strict)
        summary = train(config, store, existing=existing)
    if not talks():
        return
    metrics = summary.metrics
    print(
        f"best: {summary.best} after {summary.steps} steps in {summary.seconds:.0f} s "
        f"({summary.pairs_per_second:.0f} pairs/s); validation PSNR {metrics['val/recon/psnr_db']:.1f} dB, "
        f"copying the current frame {metrics['val/recon/copy_psnr_db']:.1f} dB"
    )
    for sentence in summary.warnings:
        print(f"WARNING: {sentence}")


def configuration_of_run(overrides: Sequence[str]) -> Path | None:
    """The configuration file of the run that the overrides name, if it is there."""
    from lapa.config import TrainingConfig

    named = [value.removeprefix("training.out=") for value in overrides if value.startswith("training.out=")]
    path = Path((named or [TrainingConfig.out])[-1]) / "config.yaml"
    return path if path.exists() else None
