"""The ``lapa`` command: its subcommands are the entry points in group ``lapa.commands``."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from lapa.commands.options import Parser, Subparsers, setting_for
from lapa.errors import LapaError, RegistryError, TrainingInterrupted, UsageError
from lapa.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 a user's mistake, 128 + n ended by signal n."""
    # Before torch is imported: OpenMP threads that spin long while they wait cost a tenfold slowdown as soon as another
    # program wants a core; those that sleep at once make a small model's step take twice as long when none does.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        arguments = parse(make_parser(), sys.argv[1:] if argv is None else argv)
        import_plugins(getattr(arguments, "plugin", []))
        arguments.run(arguments)
    except TrainingInterrupted as error:
        print(f"lapa: {error}", file=sys.stderr)
        return 128 + error.signal
    except BrokenPipeError:  # what reads the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        return 128 + signal.SIGPIPE
    except (LapaError, OSError) as error:
        print(f"lapa: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lapa: interrupted", file=sys.stderr)
        return 130
    return 0


def make_parser() -> Parser:
    """The parser of the whole command line, with a subcommand for each entry point."""
    parser = Parser(
        prog="lapa",
        description="Latent actions from game video.",
        epilog="`lapa COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"lapa {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for point in sorted(metadata.entry_points(group="lapa.commands"), key=lambda point: point.name):
        add_command(point, subparsers)
    return parser


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, with settings wherever they stand: argparse takes positional ones in one piece only.

    Raises:
        UsageError: they cannot be used; one that looks like a setting is answered with the keys to use.
    """
    arguments, rest = parser.parse_known_args(argv)
    command = getattr(arguments, "command", "")
    options = [value for value in rest if value.startswith("-")]
    if options and hasattr(arguments, "overrides"):
        import_plugins(getattr(arguments, "plugin", []))  # whose options are keys too
        name, equals, value = options[0].partition("=")
        following = argv[argv.index(options[0]) + 1 :][:1]
        given = value if equals else next((word for word in following if not word.startswith("--")), None)
        if hint := setting_for(name, given, command):
            raise UsageError(hint)
    if options or (rest and not hasattr(arguments, "overrides")):
        raise UsageError(f"unrecognized arguments: {' '.join(rest)}; see `{f'lapa {command}'.strip()} --help`")
    if rest:
        arguments.overrides += rest
    return arguments


def add_command(point: metadata.EntryPoint, subparsers: Subparsers) -> None:
    """Adds the subcommand that an entry point names; a broken one is reported, and harms no other."""
    try:
        point.load()(subparsers)
    except Exception as error:  # a stranger's module can raise anything
        print(f"lapa: command '{point.name}' of {point.value} cannot be loaded: {error}", file=sys.stderr)


def run_command(name: str) -> int:
    """Runs one subcommand with this process's arguments; for the scripts."""
    return main([name, *sys.argv[1:]])


def one_line(error: Exception) -> str:
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


if __name__ == "__main__":
    sys.exit(main())
