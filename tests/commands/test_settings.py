"""``lapa config``: every setting of every system has a meaning, and what is printed can be given back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from lapa import registry
from lapa.cli import main
from lapa.config import PLUGIN_SECTIONS, Config, config_from_dict, load_config, presets
from lapa.errors import LapaError, UsageError
from lapa.sections import as_text, meanings
from lapa.settings import Setting, all_settings, in_words, keys_named, select


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """What the command prints: key -> value, meaning."""
    assert main(["config", *arguments]) == 0
    lines = [line.partition("  ") for line in capsys.readouterr().out.splitlines()]
    found = {(pair := setting.partition("="))[0]: (pair[2], meaning.strip()) for setting, _, meaning in lines}
    assert len(found) == len(lines), "a key is there twice"
    return found


@pytest.mark.parametrize("system", registry.systems.names())
def test_every_setting_of_every_system_says_what_it_means(system: str) -> None:
    settings = all_settings(config_from_dict({"system": system}))
    assert [setting.key for setting in settings if len(setting.meaning) < 5] == []
    sections = dict.fromkeys(setting.key.partition(".")[0] for setting in settings)
    assert list(sections) == [field.name for field in dataclasses.fields(Config)]


@pytest.mark.parametrize(
    ("role", "name"), [(role, name) for role, members in PLUGIN_SECTIONS.items() for name in members.names()]
)
def test_every_setting_of_every_plugin_says_what_it_means(role: str, name: str) -> None:
    section = {"name": name, **dataclasses.asdict(PLUGIN_SECTIONS[role].get(name).Config())}
    system = "tokenizer" if role == "frame_decoder" else "latent_action"
    config = load_config(overrides=[f"system={system}", f"model.{role}.name={name}"])
    shown = select(all_settings(config), f"model.{role}")
    assert {setting.key: setting.value for setting in shown} == {
        f"model.{role}.{key}": as_text(value) for key, value in section.items()
    }
    assert [setting.key for setting in shown if len(setting.meaning) < 5] == []


@pytest.mark.parametrize("preset", presets())
def test_what_is_printed_is_the_configuration(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Given back as overrides of the bare system, it is the preset again."""
    found = printed(capsys, "--preset", preset)
    system = f"system={found['system'][0]}"
    overrides = [f"{key}={value}" for key, (value, _) in found.items()]
    assert load_config(overrides=[system, *overrides]) == load_config(preset)


@pytest.mark.parametrize("preset", presets())
def test_what_differs_from_the_default_is_marked_with_it(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "--preset", preset)
    bare = printed(capsys, f"system={found['system'][0]}")
    for key, (value, meaning) in found.items():
        if "[default: " not in meaning:
            continue
        default = meaning.rpartition("[default: ")[2].removesuffix("]")
        assert default != value
        if key in bare and not key.startswith(
            ("model.quantizer.", "model.encoder.", "model.conditioner.", "model.decoder.", "model.frame_decoder.")
        ):
            assert default == bare[key][0]
    differing = {key for key, (value, _) in found.items() if key in bare and bare[key][0] != value}
    unmarked = {key for key in differing if "[default: " not in found[key][1]}
    assert all(key.startswith(("model.quantizer.", "model.decoder.", "model.frame_decoder.")) for key in unmarked), (
        "but the options of another plugin"
    )
    assert not any("[default: " in meaning for _, meaning in bare.values())


def test_one_section_or_several_or_a_single_key_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    everything = printed(capsys)
    training = printed(capsys, "training")
    assert training.keys() == {key for key in everything if key.startswith("training.")}
    assert list(printed(capsys, "model.conditioner", "training.steps")) == ["model.conditioner.name", "training.steps"]
    assert "model.quantizer.levels" in printed(capsys, "model.quantizer.name=fsq", "model.quantizer")


def test_files_and_settings_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("base: laptop\ntraining: {steps: 7}\n")
    found = printed(capsys, "training", "--config", str(tmp_path / "mine.yaml"), "training.seed=3")
    assert found["training.steps"] == ("7", "number of optimizer steps [default: 100000]")
    assert found["training.seed"][0] == "3"
    assert found["training.batch_size"][0] == "8"


def test_a_time_limit_is_explained_in_plain_words(capsys: pytest.CaptureFixture[str]) -> None:
    said = "time limit in minutes; schedules are compressed to fit; null means none"
    assert printed(capsys, "training.max_minutes") == {"training.max_minutes": ("null", said)}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("trainin", r"unknown section 'trainin' \(did you mean 'training'\?\); known: system, data, model, loss,"),
        ("model.quantiser", r"did you mean 'model.quantizer'"),
        ("train", r"unknown section 'train'"),  # no beginning of a word
    ],
)
def test_an_unknown_section_is_refused(section: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        select(all_settings(load_config()), section)


def test_lines_stand_in_columns() -> None:
    settings = [Setting("a.long_key", "1", "1", "one"), Setting("b", "null", "2", "two")]
    assert in_words(settings) == "a.long_key=1  one\nb=null        two [default: 2]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ((8, 16), "[8,16]"),
        (1e-5, "1e-05"),
        ("a b", "a b"),
        (0, "0"),
        ("2024", '"2024"'),
        ("", '""'),
        ("a: b", '"a: b"'),
        ("off", "off"),
        (["b", "1"], '[b,"1"]'),
        ({"a": None}, "{a: null}"),
    ],
)
def test_values_are_written_as_they_are_read(value: object, text: str) -> None:
    assert as_text(value) == text


def test_keys_are_found_by_their_last_part() -> None:
    assert keys_named("steps") == keys_named("training.steps") == ["training.steps"]
    assert keys_named("num_codes") == ["model.quantizer.num_codes"], "several quantizers have it, under one key"
    assert keys_named("channels") == [f"model.{role}.channels" for role in ("encoder", "decoder", "frame_decoder")]
    assert keys_named("name") == [
        "model.encoder.name",
        "model.quantizer.name",
        "model.conditioner.name",
        "model.decoder.name",
        "tracking.name",
        "model.frame_decoder.name",
    ]
    assert keys_named("nothing") == []


class Options:
    """Options.

    Attributes:
        first: in one line.
        second: in ``two``
            lines.
    """


class More(Options):
    """``third``: alone.

    With a remark.
    """


def test_meanings_come_from_the_docstrings_of_a_class_and_its_bases() -> None:
    assert meanings(Options) == {"first": "in one line", "second": "in `two` lines"}
    assert meanings(More) == {**meanings(Options), "third": "alone. With a remark"}


def test_usage_errors_are_errors_of_lapa_and_value_errors() -> None:
    assert issubclass(UsageError, LapaError)
    assert issubclass(UsageError, ValueError)
