"""``lapa plugins``: what there is, where it comes from, and what its options mean."""

from __future__ import annotations

import dataclasses

import pytest

from lapa import registry
from lapa.cli import main
from lapa.errors import RegistryError
from lapa.plugins import ROLES, describe, list_plugins, plugin_options


def test_all_plugins_are_listed_with_their_source_and_options() -> None:
    lines = list_plugins().splitlines()
    assert len(lines) == sum(len(members.names()) for members in ROLES)
    (vq,) = [line.split() for line in lines if line.startswith("quantizer") and line.split()[1] == "vq"]
    assert vq[2:4] == ["distribution", "'lapa'"]
    assert "commitment=0.25," in vq


@pytest.mark.parametrize(("members", "name"), [(members, name) for members in ROLES for name in members.names()])
def test_every_option_says_what_it_means(members: registry.Registry, name: str) -> None:
    cls = members.get(name)
    options = list(plugin_options(cls))
    assert [key for key, _, _ in options] == [field.name for field in dataclasses.fields(cls.Config)]
    assert all(meaning for _, _, meaning in options), options


def test_a_plugin_is_described_with_settings_to_copy() -> None:
    text = describe("fsq")
    assert "model.quantizer.name=fsq" in text
    assert "lapa_plugins.quantizers.fsq:FsqQuantizer, from distribution 'lapa'" in text
    assert "  model.quantizer.levels=[8,8,4]  of each dimension" in text


def test_a_name_of_two_roles_is_described_in_both() -> None:
    assert "model.encoder.name=residual" in describe("residual")
    assert "model.quantizer.depth=2" in describe("residual")


def test_a_broken_plugin_is_listed_with_its_reason() -> None:
    members = registry.quantizers
    members.register("unloadable", "no_such_module:Nothing", owner="somebody")
    try:
        (line,) = [line for line in list_plugins().splitlines() if "unloadable" in line]
    finally:
        del members._entries["unloadable"]
    assert "BROKEN: quantizer 'unloadable' of somebody cannot be loaded" in line


def test_an_unknown_plugin_is_refused_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RegistryError, match=r"unknown plugin 'fsk' \(did you mean 'fsq'\?\)"):
        describe("fsk")
    assert main(["plugins", "fsk"]) == 2
    assert capsys.readouterr().err.startswith("lapa: error: unknown plugin 'fsk'")


def test_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    assert "cross_attention" in capsys.readouterr().out
    assert main(["plugins", "film"]) == 0
    assert capsys.readouterr().out.endswith("  no options\n")
