"""``lapa config``."""

from __future__ import annotations

import argparse

from lapa.commands.options import Subparsers, add_preset_options, command


def add_config(subparsers: Subparsers) -> None:
    """``lapa config``."""
    parser = command(
        subparsers,
        "config",
        run_config,
        "Print every setting with its meaning; where the value is not the default, the default too.",
        example="lapa config --preset laptop training",
    )
    add_preset_options(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE | SECTION",
        help="a setting to change first, or the section to print, such as training or model.quantizer",
    )


def run_config(arguments: argparse.Namespace) -> None:
    """Prints all settings, or those of the sections that are named."""
    from lapa.config import load_config
    from lapa.settings import all_settings, in_words, select

    overrides = [value for value in arguments.overrides if "=" in value]
    sections = [value for value in arguments.overrides if "=" not in value]
    settings = all_settings(load_config(arguments.preset, arguments.config, overrides))
    chosen = [setting for section in sections for setting in select(settings, section)] if sections else settings
    print(in_words(chosen))
