"""The ``lapa`` command: subcommands are functions here, or entry points in group ``lapa.commands``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lapa.errors import LapaError, RegistryError, TrainingInterrupted
from lapa.progress import talks

if TYPE_CHECKING:
    from lapa.config import Config

Subparsers = Any  # argparse's own type for it is private
DEFAULT_CHECKPOINT = "checkpoints/latent_action/best.pt"
DEFAULT_DATASET = "latent_actions.lapa"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 a user's mistake, 128 + n ended by signal n."""
    # Before torch is imported: OpenMP threads that spin while they wait cost a tenfold slowdown as soon as another
    # program wants a core, and gain about a fifth when none does.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(prog="lapa", description="Latent actions from game video.")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (add_train, add_extract, add_evaluate, add_compare, add_plugins, add_doctor):
        add(subparsers)
    for point in sorted(metadata.entry_points(group="lapa.commands"), key=lambda point: point.name):
        add_foreign(point, subparsers)
    arguments = parse(parser, argv)
    try:
        import_plugins(getattr(arguments, "plugin", []))
        arguments.run(arguments)
    except TrainingInterrupted as error:
        print(f"lapa: {error}", file=sys.stderr)
        return 128 + error.signal
    except (LapaError, OSError) as error:
        print(f"lapa: error: {describe(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lapa: interrupted", file=sys.stderr)
        return 130
    return 0


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with overrides wherever they stand: argparse takes positional ones in one piece only."""
    arguments, rest = parser.parse_known_args(argv)
    if not hasattr(arguments, "overrides") or any(value.startswith("-") for value in rest):
        return parser.parse_args(argv)  # which says what is wrong with them
    arguments.overrides += rest
    return arguments


def add_foreign(point: metadata.EntryPoint, subparsers: Subparsers) -> None:
    """Adds a subcommand that an entry point names; a broken one is reported, and harms no other."""
    try:
        point.load()(subparsers)
    except Exception as error:  # a stranger's module can raise anything
        print(f"lapa: command '{point.name}' of {point.value} cannot be loaded: {error}", file=sys.stderr)


def run_command(name: str) -> int:
    """Runs one subcommand with this process's arguments; for the scripts."""
    return main([name, *sys.argv[1:]])


def describe(error: Exception) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the free space"
    if isinstance(error, OSError):
        return f"{error.strerror or error}; check permissions and the free space"
    return " ".join(str(error).split())


def import_plugins(modules: Sequence[str]) -> None:
    """Imports local modules that register plugins; the current folder is searched first.

    Raises:
        RegistryError: a module cannot be imported.
    """
    if modules and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in modules:
        try:
            importlib.import_module(name.removesuffix(".py"))
        except LapaError:
            raise
        except Exception as error:  # a stranger's module can raise anything
            raise RegistryError(f"--plugin {name}: cannot be imported: {type(error).__name__}: {error}") from error


def command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """A subcommand's parser, with the options that all of them have."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary, description=summary)
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="local module that registers plugins"
    )
    parser.set_defaults(run=run)
    return parser


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


def open_configured_store(config: Config, strict: bool = False) -> Any:
    """The packed store that a configuration names."""
    from lapa.data.store import open_store

    store = Path(config.data.store) if config.data.store else None
    return open_store(Path(config.data.root), store, strict=strict)


def add_data_options(parser: argparse.ArgumentParser, *, checkpoint: bool = True) -> None:
    """Options of the commands that read recordings, and perhaps a checkpoint."""
    if checkpoint:
        parser.add_argument("--checkpoint", type=Path, default=Path(DEFAULT_CHECKPOINT), help="(default: %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("bulk_videos"), help="recorded episodes (default: %(default)s)"
    )
    parser.add_argument("--store", type=Path, help="packed store (default: inside the data folder)")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda (default: %(default)s)")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad episode instead of leaving it out")


def add_extract(subparsers: Subparsers) -> None:
    """``lapa extract``."""
    parser = command(subparsers, "extract", run_extract, "Label all recorded pairs: the latent-action dataset.")
    add_data_options(parser)
    parser.add_argument("--out", type=Path, default=Path(DEFAULT_DATASET), help="file to write (default: %(default)s)")


def run_extract(arguments: argparse.Namespace) -> None:
    """Labels every pair of the recordings."""
    from lapa import distributed
    from lapa.data.store import open_store
    from lapa.engine.checkpoint import load_checkpoint
    from lapa.inference.extraction import extract

    with distributed.process_group(arguments.device) as device:
        checkpoint = load_checkpoint(arguments.checkpoint, device)
        with distributed.main_first():
            store = open_store(arguments.data, arguments.store, strict=arguments.strict)
        extract(checkpoint, store, arguments.out)


def add_evaluate(subparsers: Subparsers) -> None:
    """``lapa evaluate``."""
    parser = command(subparsers, "evaluate", run_evaluate, "Judge a model on held-out episodes; write the report.")
    add_data_options(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--lag", type=int, default=0, help="probe for the action taken so many steps before (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write (default: %(default)s)")


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Judges, writes the report, prints the table."""
    from lapa.data.store import open_store
    from lapa.engine.checkpoint import load_checkpoint
    from lapa.evaluation.evaluate import evaluate
    from lapa.evaluation.report import read_history, write_report
    from lapa.report.tables import format_table, summary_rows

    checkpoint = load_checkpoint(arguments.checkpoint, arguments.device)
    store = open_store(arguments.data, arguments.store, strict=arguments.strict)
    evaluation = evaluate(checkpoint, store, arguments.split, lag=arguments.lag)
    history = read_history(arguments.checkpoint.parent / "metrics.jsonl")
    path = write_report(arguments.out, checkpoint, evaluation, history)
    print(format_table(summary_rows(evaluation.metrics)))
    for verdict in evaluation.verdicts:
        print(f"{verdict.level}: {verdict.sentence}")
    for sentence in evaluation.left_out:
        print(f"left out: {sentence}")
    print(f"report: {path}")


def add_compare(subparsers: Subparsers) -> None:
    """``lapa compare``."""
    parser = command(subparsers, "compare", run_compare, "Judge several runs on the same pairs, side by side.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folder, or checkpoint file")
    parser.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="KEY=VALUE,VALUE",
        help="first train all combinations into OUT/runs; called again, it goes on",
    )
    parser.add_argument("--preset", help="what the sweep's runs differ from (default: breakout)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="likewise, a YAML file")
    add_data_options(parser, checkpoint=False)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder to write (default: %(default)s)")


def run_compare(arguments: argparse.Namespace) -> None:
    """Judges, writes the page, prints the table."""
    from lapa.data.store import open_store
    from lapa.engine.sweep import cells, train_cells
    from lapa.errors import ConfigError
    from lapa.evaluation.compare import compare, comparison_header, comparison_rows

    if not arguments.runs and not arguments.sweep:
        raise ConfigError("nothing to compare: name run folders, or --sweep KEY=VALUE,VALUE")
    if (arguments.preset or arguments.config) and not arguments.sweep:
        raise ConfigError("--preset and --config say what a --sweep trains; runs that are there have their own")
    grid = cells(arguments.sweep) if arguments.sweep else []
    store = open_store(arguments.data, arguments.store, strict=arguments.strict)
    runs: list[Path] = list(arguments.runs)
    failed: dict[str, str] = {}
    if grid:
        trained, failed = train_cells(
            grid,
            store,
            arguments.out / "runs",
            preset=arguments.preset,
            file=arguments.config,
            overrides=[f"data.root={arguments.data}", f"training.device={arguments.device}"],
        )
        runs += trained
    groups = compare(runs, store, arguments.out, arguments.split, device=arguments.device, failed=failed)
    labels, rows = comparison_header(), comparison_rows(groups)
    width = max(map(len, labels))
    for row in rows:
        print("\n".join(f"{label:<{width}}  {cell}" for label, cell in zip(labels, row, strict=True)), end="\n\n")
    for name, reason in failed.items():
        print(f"missing: {name}: {reason}")
    print(f"comparison: {arguments.out / 'comparison.html'}")


def add_plugins(subparsers: Subparsers) -> None:
    """``lapa plugins``."""
    parser = command(subparsers, "plugins", run_plugins, "List what can be swapped, or one plugin's options.")
    parser.add_argument("name", nargs="?", help="print this one's options with their defaults")


def run_plugins(arguments: argparse.Namespace) -> None:
    """Prints all plugins in a line each, or one in full."""
    from lapa.plugins import describe, list_plugins

    print(describe(arguments.name) if arguments.name else list_plugins())


def add_doctor(subparsers: Subparsers) -> None:
    """``lapa doctor``."""
    command(subparsers, "doctor", run_doctor, "Say what is installed, what is found, and where things go.")


def run_doctor(arguments: argparse.Namespace) -> None:
    """Prints versions, device, plugins and paths."""
    import platform

    import torch

    import lapa
    from lapa.config import PLUGIN_SECTIONS, Config, presets
    from lapa.data.store import STORE_FOLDER
    from lapa.device import has_fast_bf16, pick_device

    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"lapa         {lapa.__version__} at {Path(lapa.__file__).parent}")
    print(f"python       {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in (
        "torch",
        "gymnasium",
        "ale-py",
        "numpy",
        "pillow",
        "omegaconf",
        "zstandard",
        "opencv-python-headless",
        "vector-quantize-pytorch",
        "wandb",
        "tensorboard",
    ):
        print(f"{package:<12} {installed_version(package)}")
    bf16 = "bf16 in hardware" if has_fast_bf16(device) else "bf16 only emulated, so fp32 is used"
    print(f"device       {device} ({name}), {bf16}")
    print(f"presets      {', '.join(presets())}")
    for role, members in PLUGIN_SECTIONS.items():
        for plugin in members.names():
            print(f"{role:<12} {plugin}: {plugin_state(members, plugin)}")
    defaults = Config()
    print(f"data         {Path(defaults.data.root).absolute()} (packed: {Path(defaults.data.root) / STORE_FOLDER})")
    print(f"checkpoints  {Path(defaults.training.out).absolute()}")


def installed_version(package: str) -> str:
    """A package's version, or that it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def plugin_state(members: Any, name: str) -> str:
    """Who brought a plugin, or why it cannot be used."""
    try:
        members.get(name)
        return f"ok, from {members.owner(name)}"
    except RegistryError as error:
        return f"BROKEN: {error}"


if __name__ == "__main__":
    sys.exit(main())
