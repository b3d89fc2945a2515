"""``lapa plugins``: what there is, where it comes from, and what its options mean."""

from __future__ import annotations

import dataclasses

import pytest

from lapa import registry
from lapa.cli import main
from lapa.config import PLUGIN_SECTIONS
from lapa.errors import RegistryError
from lapa.plugins import ROLES, describe, list_plugins
from lapa.settings import plugin_settings


def test_all_plugins_are_listed_with_their_source_and_options() -> None:
    lines = list_plugins().splitlines()
    assert len(lines) == sum(len(members.names()) for members in ROLES)
    (vq,) = [line.split() for line in lines if line.startswith("quantizer") and line.split()[1] == "vq"]
    assert vq[2:4] == ["distribution", "'lapa'"]
    assert "commitment=0.25," in vq
    (system,) = [line.split() for line in lines if line.split()[:2] == ["system", "latent_action"]]
    assert {"latent_dim=128,", "encoder.name=conv,", "decoder.name=plain"} <= set(system)


@pytest.mark.parametrize(
    ("members", "name"), [(members, name) for members in PLUGIN_SECTIONS.values() for name in members.names()]
)
def test_every_option_says_what_it_means(members: registry.Registry, name: str) -> None:
    cls = members.get(name)
    options = plugin_settings(cls.Config())
    assert [option.key for option in options] == [field.name for field in dataclasses.fields(cls.Config)]
    assert all(option.meaning for option in options), options


def test_a_system_is_described_with_its_model_its_presets_and_where_the_rest_is() -> None:
    lines = describe("latent_action").splitlines()
    assert lines[0] == "system=latent_action"
    assert any(line.startswith("  model.decoder.name=plain ") for line in lines)
    assert any(line.startswith("  model.quantizer.name=vq ") and "one of continuous, ema" in line for line in lines)
    assert "presets: actions, breakout, breakout_rgb, debug, laptop, laptop_rgb" in lines
    assert lines[-1].endswith("lapa config system=latent_action")
    assert "Raises:" not in lines, "how it is called from Python is no option"


def test_a_plugin_is_described_with_settings_to_copy() -> None:
    text = describe("fsq")
    assert "model.quantizer.name=fsq" in text
    assert "lapa_plugins.quantizers.fsq:FsqQuantizer, from distribution 'lapa'" in text
    assert "  model.quantizer.levels=[8,8,4]  number of levels of each dimension" in text


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
