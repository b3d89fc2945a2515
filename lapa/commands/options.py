"""What the subcommands share: their parser, and the options that name data, checkpoint, device and settings."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lapa.errors import UsageError

if TYPE_CHECKING:
    from lapa.config import Config
    from lapa.data.frames import Fitting

Subparsers = Any  # argparse's own type for it is private
DEFAULT_CHECKPOINT = "checkpoints/latent_action/best.pt"
DEFAULT_DATASET = "latent_actions.lapa"
DEFAULT_TOKENS = "tokens.lapa"
ALIASES = {"data": "data.root", "out": "training.out", "device": "training.device"}
"""Options of ``lapa train`` that have the names that other commands give them, and the keys they set."""


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, and whose help can end with what takes time to find out.

    Attributes:
        details: gives the last paragraph of the help; called only when the help is printed.
    """

    details: Callable[[], str] | None = None

    def format_help(self) -> str:
        """The help, with ``details`` before the example."""
        if self.details is None:
            return super().format_help()
        example, self.epilog = self.epilog, f"{self.details()}\n\n{self.epilog or ''}".rstrip()
        try:
            return super().format_help()
        finally:
            self.epilog = example

    def error(self, message: str) -> NoReturn:
        """Raises what the command line prints in one line.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}; see `{self.prog} --help`")


def command(
    subparsers: Subparsers, name: str, run: Callable[[argparse.Namespace], None], summary: str, *, example: str = ""
) -> argparse.ArgumentParser:
    """A subcommand's parser, with the options that all of them have.

    Args:
        subparsers: what an entry point of group ``lapa.commands`` is called with.
        name: of the subcommand.
        run: called with the parsed arguments.
        summary: one line for the list of commands and for the top of the help.
        example: a command line that ends the help.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=textwrap.fill(summary, 79),
        epilog=f"example:\n  {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="local module that registers plugins"
    )
    parser.set_defaults(run=run, command=name)
    return parser


def add_data_options(parser: argparse.ArgumentParser, *, checkpoint: bool = True) -> None:
    """Options of the commands that read recordings, and perhaps a checkpoint."""
    if checkpoint:
        add_checkpoint(parser)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("bulk_videos"),
        help="recorded episodes, pictures or videos (default: %(default)s)",
    )
    parser.add_argument("--store", type=Path, help="packed store (default: inside the data folder)")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda (default: %(default)s)")
    add_strict(parser)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The option that names a model."""
    parser.add_argument(
        "--checkpoint",
        type=checkpoint_argument,
        default=DEFAULT_CHECKPOINT,
        metavar="FILE|NAME",
        help="model to use: a file, or one that `lapa models` lists (default: %(default)s)",
    )


def checkpoint_argument(text: str) -> str:
    """A checkpoint's file, or the name of a model; says so where the working directory has a file of that name."""
    from lapa.shipped import is_name, model_names

    if is_name(text) and Path(text).exists() and text in model_names():
        print(f"lapa: '{text}' is the model that `lapa models` lists; ./{text} is the one here", file=sys.stderr)
    return text


def add_strict(parser: argparse.ArgumentParser) -> None:
    """The option that makes a bad episode an error."""
    parser.add_argument("--strict", action="store_true", help="stop at the first bad episode instead of skipping it")


def add_split(parser: argparse.ArgumentParser) -> None:
    """The option that names the episodes of a run's recording to evaluate on."""
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="test", help="episodes to use (default: %(default)s)"
    )


def add_split_or_all(parser: argparse.ArgumentParser) -> None:
    """The same, where models are also judged on recordings that their runs have never seen."""
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        default="test",
        help="episodes to use; all: each one, of a recording that the run has never seen (default: %(default)s)",
    )


def add_preset_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a preset and a file of settings; the help lists the presets."""
    parser.add_argument(
        "--preset", help="a configuration that comes with lapa (default: breakout, if no other system is asked for)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the differences from the preset")
    if isinstance(parser, Parser):
        parser.details = presets_in_words


def presets_in_words() -> str:
    """The names of the presets, a line for each system."""
    from lapa.presets import presets_by_system

    lines = [
        textwrap.fill(f"{system}: {', '.join(names)}", 79, initial_indent="  ", subsequent_indent="    ")
        for system, names in presets_by_system().items()
    ]
    return "\n".join(["presets by system:", *lines])


def with_aliases(overrides: Sequence[str], aliases: dict[str, str | None]) -> list[str]:
    """The settings on a command line, those that are given as options included.

    Args:
        overrides: ``dotted.key=value``.
        aliases: option without its dashes -> value, or None where it is not given; see :data:`ALIASES`.

    Raises:
        UsageError: an option and a setting disagree.
    """
    settings = list(overrides)
    for option, value in aliases.items():
        if value is None:
            continue
        key = ALIASES[option]
        for other in overrides:
            if other.startswith(f"{key}=") and plain_text(other.removeprefix(f"{key}=")) != value:
                raise UsageError(f"--{option} {value} and {other} disagree; leave one of them out")
        settings.append(f"{key}={json.dumps(value, ensure_ascii=False)}")  # quoted: a path may look like a number
    return settings


def plain_text(value: str) -> str:
    """What stands behind ``key=``, without the quotes of YAML."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def setting_for(unknown: str, value: str | None, command: str) -> str | None:
    """What to tell who wrote a setting as an option, such as ``--steps 5``.

    Args:
        unknown: the option, with its dashes.
        value: what was given to it, if anything.
        command: the subcommand, which takes settings.

    Returns:
        The settings that may be meant; None if no key has that name.
    """
    from lapa.settings import keys_named

    keys = keys_named(unknown.lstrip("-").replace("-", "_"))
    if not keys:
        return None
    settings = [f"{key}={'VALUE' if value is None else value}" for key in keys]
    return f"{command} takes settings as KEY=VALUE: {', or '.join(settings)}"


def open_configured_store(config: Config, strict: bool = False) -> Any:
    """The packed store that a configuration names."""
    from lapa.data.packing import open_store

    store = Path(config.data.store) if config.data.store else None
    return open_store(config.data.root, store, reading=reading_of(config), strict=strict)


def reading_of(config: Config) -> Fitting:
    """The size that a configuration brings pictures and videos to."""
    from lapa.data.frames import Fitting

    return Fitting(config.data.resize, config.data.fit)
