"""``lapa train``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lapa.commands.options import (
    ALIASES,
    Subparsers,
    add_preset_options,
    add_strict,
    command,
    open_configured_store,
    plain_text,
    with_aliases,
)
from lapa.progress import talks


def add_train(subparsers: Subparsers) -> None:
    """``lapa train``."""
    parser = command(
        subparsers,
        "train",
        run_train,
        "Train a model on recorded episodes. `lapa config` prints all settings.",
        example="lapa train --preset laptop --out checkpoints/ema model.quantizer.name=ema",
    )
    add_preset_options(parser)
    parser.add_argument("--data", metavar="PATH", help="recorded episodes; the same as data.root=PATH")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run; the same as training.out=FOLDER")
    parser.add_argument("--device", help="such as cpu or cuda; the same as training.device=DEVICE")
    add_strict(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--resume", action="store_true", help="resume the run in training.out; start it if there is none"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run in training.out")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, such as model.quantizer.name=ema")


def run_train(arguments: argparse.Namespace) -> None:
    """Packs if need be, trains, says what was reached."""
    from lapa import distributed
    from lapa.config import load_config
    from lapa.engine.training import train

    overrides = with_aliases(arguments.overrides, {option: getattr(arguments, option) for option in ALIASES})
    file = arguments.config
    if arguments.resume and not arguments.preset and not file:
        file = configuration_of_run(overrides)
    config = load_config(arguments.preset, file, overrides)
    existing: Literal["refuse", "resume", "overwrite"] = (
        "resume" if arguments.resume else "overwrite" if arguments.overwrite else "refuse"
    )
    with distributed.process_group(config.training.device):
        with distributed.main_first():
            store = open_configured_store(config, arguments.strict)
        summary = train(config, store, existing=existing)
    if not talks():
        return
    outcome = f"; {summary.outcome}" if summary.outcome else ""
    print(
        f"best: {summary.best} after {summary.steps} steps in {summary.seconds:.0f} s "
        f"({summary.pairs_per_second:.0f} pairs/s){outcome}"
    )
    for sentence in summary.warnings:
        print(f"WARNING: {sentence}")


def configuration_of_run(overrides: Sequence[str]) -> Path | None:
    """The configuration file of the run that the settings name, if it is there."""
    from lapa.config import TrainingConfig

    prefix = "training.out="
    named = [plain_text(value.removeprefix(prefix)) for value in overrides if value.startswith(prefix)]
    path = Path((named or [TrainingConfig.out])[-1]) / "config.yaml"
    return path if path.exists() else None
