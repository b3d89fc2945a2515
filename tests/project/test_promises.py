"""What users rely on and must not change: names, entry points, commands with their options and defaults, presets.

``fixtures/promises.json`` was written by the version before there were systems. Something may be added to it, by the
version that adds it; nothing may be taken away. Another default is a change for users, and needs an entry in the
changelog: `record` and `demo` play more and shorter episodes than they did.
"""

from __future__ import annotations

import argparse
import configparser
import importlib
import json
from importlib import metadata
from typing import Any

import pytest

import lapa
import lapa_envs
from helpers import FIXTURES, ROOT
from lapa.config import config_to_dict, load_config
from lapa.engine.run_folder import flat

PROMISES: dict[str, Any] = json.loads((FIXTURES / "promises.json").read_text())


@pytest.mark.parametrize("package", [lapa, lapa_envs], ids=lambda package: package.__name__)
def test_every_public_name_is_still_there(package: Any) -> None:
    assert set(PROMISES[package.__name__]) <= set(package.__all__)
    for name in PROMISES[package.__name__]:
        assert getattr(package, name).__name__ == name


@pytest.mark.parametrize("module", PROMISES["modules"])
def test_every_public_module_is_still_there(module: str) -> None:
    assert importlib.import_module(module).__name__ == module


def test_players_record_where_they_always_did() -> None:
    from lapa_envs.playing import record

    assert callable(record)


def test_every_entry_point_group_has_the_names_it_had() -> None:
    for group, names in PROMISES["entry_points"].items():
        found = {point.name for point in metadata.entry_points(group=group)}
        assert set(names) <= found, group


@pytest.fixture(scope="module")
def commands() -> dict[str, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for point in metadata.entry_points(group="lapa.commands"):
        point.load()(subparsers)
    return dict(subparsers.choices)


@pytest.mark.parametrize("command", PROMISES["commands"])
def test_every_command_takes_the_options_it_took_with_their_defaults(
    commands: dict[str, argparse.ArgumentParser], command: str
) -> None:
    found = {option: action.default for action in commands[command]._actions for option in action.option_strings}
    for option, default in PROMISES["commands"][command].items():
        assert option in found
        assert (None if found[option] is None else str(found[option])) == default, option


@pytest.mark.parametrize("preset", PROMISES["presets"])
def test_every_preset_says_what_it_said(preset: str) -> None:
    found = json.loads(json.dumps(flat(config_to_dict(load_config(preset)))))
    assert {key: found[key] for key in PROMISES["presets"][preset]} == PROMISES["presets"][preset]


def test_every_key_can_still_be_set_and_read_back() -> None:
    for key, value in PROMISES["presets"]["breakout"].items():
        text = json.dumps(value)
        assert flat(config_to_dict(load_config(overrides=[f"{key}={text}"])))[key] is not None or value is None, key


def test_the_version_is_that_of_the_metadata() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert lapa.__version__ == setup["metadata"]["version"]
