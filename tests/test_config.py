from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pytest

from lapa import config as config_module
from lapa import registry, systems
from lapa.config import (
    PLUGIN_SECTIONS,
    Config,
    DataConfig,
    TrackingConfig,
    TrainingConfig,
    config_from_dict,
    config_to_dict,
    load_config,
    presets,
    to_yaml,
)
from lapa.contracts import System
from lapa.errors import ConfigError, LapaError
from lapa.presets import presets_by_system, read_preset
from lapa.sections import plugin_config
from lapa.systems.latent_action import config as latent_action_module
from lapa.systems.tokenizer import config as tokenizer_module

every_preset = pytest.mark.parametrize("preset", presets())


def load(*overrides: str, preset: str | None = None, file: Path | None = None) -> Config:
    return load_config(preset, file, overrides)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Presets and round trips


def test_the_presets_of_the_readme_are_there():
    assert {"laptop", "breakout", "breakout_rgb", "actions", "debug"} <= set(presets())


@every_preset
def test_every_preset_loads_and_survives_the_way_through_plain_values(preset):
    config = load(preset=preset)
    assert config_from_dict(config_to_dict(config)) == config


@every_preset
def test_every_preset_survives_the_way_through_yaml(preset, tmp_path):
    config = load(preset=preset)
    file = write(tmp_path / "config.yaml", to_yaml(config))
    another = {"latent_action": "actions", "tokenizer": "tokenizer_debug", "rssm": "rssm_debug"}[config.system]
    assert load(preset=another, file=file) == config  # the file says all, so the preset beneath says nothing


def test_no_two_presets_are_alike():
    assert len({to_yaml(load(preset=preset)) for preset in presets()}) == len(presets())


def test_the_reference_preset_is_the_default_and_equals_the_defaults():
    assert load() == load(preset="breakout") == config_from_dict({})


def test_plain_values_survive_json():
    config = load(preset="laptop")
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_a_plugin_section_is_filled_with_the_defaults_of_its_plugin():
    section = load("model.quantizer.num_codes=7").model.quantizer
    assert section == {"name": "vq", **dataclasses.asdict(registry.quantizers.get("vq").Config(num_codes=7))}
    assert plugin_config(registry.quantizers, section) == registry.quantizers.get("vq").Config(num_codes=7)


# Order of sources


def test_overrides_beat_the_file_and_the_file_beats_the_preset(tmp_path):
    file = write(tmp_path / "a.yaml", "training: {steps: 7, batch_size: 9}")
    config = load("training.batch_size=11", preset="debug", file=file)
    assert (config.training.steps, config.training.batch_size) == (7, 11)
    assert config.training.log_every == load(preset="debug").training.log_every != Config().training.log_every


def test_later_overrides_beat_earlier_ones():
    assert load("training.steps=7", "training.steps=8").training.steps == 8


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=3e-4", 3e-4),
        ("training.max_minutes=null", None),
        ("training.max_minutes=4", 4.0),
        ("training.channels_last=false", False),
        ("training.channels_last=off", False),
        ("training.compile=yes", True),
        ("tracking.wandb=off", "off"),
        ("training.out=runs/a=b", "runs/a=b"),
        ("data.split=[0.6, 0.2, 0.2]", (0.6, 0.2, 0.2)),
        ("model.decoder.channels=[8, 16]", (8, 16)),
    ],
)
def test_values_get_the_type_of_their_field(override, value):
    found: Any = load(override)
    for part in override.partition("=")[0].split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


# Systems and what a preset is based on


class Other(System):
    """A family with options of its own, as far as a configuration looks."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``width``: number of channels."""

        width: int = 7

    @dataclasses.dataclass(frozen=True)
    class Loss:
        """``error``: weight of the squared error."""

        error: float = 1.0


@pytest.fixture
def other() -> Iterator[str]:
    """The name of a second system."""
    registry.systems.register("other", Other)
    yield "other"
    registry.systems.forget("other")


@pytest.fixture
def own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of presets that a test may add to, in place of the package's."""
    folder = tmp_path / "package" / "presets"
    shutil.copytree(str(resources.files("lapa") / "presets"), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("lapa.presets.resources.files", lambda _: folder.parent)
    return folder


def test_a_preset_builds_on_its_base():
    base, colour = load(preset="breakout"), load(preset="breakout_rgb")
    assert colour == dataclasses.replace(base, data=dataclasses.replace(base.data, color="rgb"))


def test_bases_lie_below_one_another_in_order(own_presets):
    write(own_presets / "middle.yaml", "base: laptop\ntraining: {steps: 7, batch_size: 9}")
    write(own_presets / "top.yaml", "base: middle\ntraining: {batch_size: 11}")
    config = load(preset="top")
    assert (config.training.steps, config.training.batch_size) == (7, 11)
    assert config.model == load(preset="laptop").model
    assert [sorted(layer) for layer in read_preset("top")[1]][1:] == [["training"], ["training"]]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"mine": "base: laptopp"}, r"unknown preset 'laptopp'; known: .*laptop, .*mine"),
        ({"mine": "base: mine"}, r"preset 'mine' is based on itself: mine -> mine"),
        ({"mine": "base: yours", "yours": "base: mine"}, r"preset 'mine' is based on itself: mine -> yours -> mine"),
        ({"mine": "training: {steps: 7}"}, r"preset 'mine' names no system; begin it with 'system: NAME'"),
        ({"mine": "system: nothing"}, r"system: unknown system 'nothing'; known: .*latent_action"),
    ],
    ids=["unknown", "itself", "each other", "no system", "unknown system"],
)
def test_a_preset_that_leads_nowhere_is_refused(own_presets, files, said):
    for name, text in files.items():
        write(own_presets / f"{name}.yaml", text)
    with pytest.raises(ConfigError, match=said):
        load(preset="mine")


def test_a_file_names_the_preset_that_it_differs_from(tmp_path):
    file = write(tmp_path / "a.yaml", "base: laptop\ntraining: {steps: 7}")
    laptop = load(preset="laptop")
    assert load(file=file) == dataclasses.replace(laptop, training=dataclasses.replace(laptop.training, steps=7))


@pytest.mark.parametrize(
    ("text", "preset", "said"),
    [
        ("base: laptopp", None, r"unknown preset 'laptopp'; known: "),
        (
            "base: laptop",
            "debug",
            r"a\.yaml: base: is 'laptop', and the preset 'debug' is given too; leave one",
        ),
    ],
)
def test_a_base_that_cannot_be_is_refused(tmp_path, text, preset, said):
    with pytest.raises(ConfigError, match=said):
        load(preset=preset, file=write(tmp_path / "a.yaml", text))


@pytest.mark.parametrize("how", ["override", "file"])
def test_another_system_has_its_own_sections_and_no_preset_beneath(other, tmp_path, how):
    if how == "override":
        config = load("system=other", "model.width=9")
    else:
        config = load(file=write(tmp_path / "a.yaml", "system: other\nmodel: {width: 9}"))
    assert config == Config(system="other", model=Other.Config(width=9), loss=Other.Loss())
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_a_preset_of_another_system_is_found_by_its_name(other, own_presets):
    write(own_presets / "wide.yaml", "system: other\nmodel: {width: 99}")
    assert load(preset="wide").model == Other.Config(width=99)
    assert load("system=other", preset="wide").system == "other"
    assert presets_by_system()["other"] == ["wide"]
    assert "wide" not in presets_by_system()["latent_action"]
    assert sorted(name for names in presets_by_system().values() for name in names) == presets()


@pytest.mark.parametrize("others", [[], ["narrow", "wide"]], ids=["without presets", "with presets"])
def test_a_preset_of_another_system_than_the_one_asked_for_is_refused(other, own_presets, others):
    for name in others:
        write(own_presets / f"{name}.yaml", f"system: other\nmodel: {{width: {len(name)}}}")
    with pytest.raises(ConfigError) as error:
        load("system=other", preset="laptop")
    assert "system: the preset 'laptop' is of the system 'latent_action', not 'other'" in str(error.value)
    assert str(error.value).endswith("; name one of narrow, wide" if others else "; leave the preset out")


def test_an_option_of_one_system_is_none_of_another(other):
    with pytest.raises(ConfigError, match=r"model\.latent_dim"):
        load("system=other", "model.latent_dim=3")
    with pytest.raises(ConfigError, match=r"model\.width"):
        load("model.width=3")


def test_an_unknown_system_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"system: unknown system 'latent_acton' \(did you mean 'latent_action'"):
        load("system=latent_acton")


# Swapping a plugin


def test_one_word_swaps_a_plugin_and_drops_the_options_of_the_old_one():
    section = load("model.quantizer.name=ema", preset="laptop").model.quantizer
    assert section.keys() == {
        "name",
        *(field.name for field in dataclasses.fields(registry.quantizers.get("ema").Config)),
    }
    laptop = load(preset="laptop").model.quantizer
    assert section["num_codes"] == laptop["num_codes"]
    assert section["commitment"] == laptop["commitment"] != registry.quantizers.get("ema").Config().commitment


@pytest.mark.parametrize(
    "text", ["model: {conditioner: {name: cross_attention}}", "model.conditioner.name=cross_attention"]
)
def test_a_plugin_is_swapped_alike_by_file_and_by_override(tmp_path, text):
    swapped = load(text) if "=" in text else load(file=write(tmp_path / "a.yaml", text))
    assert swapped.model.conditioner == {"name": "cross_attention", "num_heads": 4}


def test_options_may_come_before_or_after_the_swap():
    before = load("model.quantizer.decay=0.5", "model.quantizer.name=ema")
    after = load("model.quantizer.name=ema", "model.quantizer.decay=0.5")
    assert before == after
    assert before.model.quantizer["decay"] == 0.5


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.quantizer.name=ema", "model.quantizer.decya=0.5"),
        ("model.quantizer.decya=0.5", "model.quantizer.name=ema"),
        ("model.quantizer={name: ema, decya: 0.5}",),
    ],
    ids=["after the swap", "before the swap", "with the swap"],
)
def test_a_wrong_option_is_an_error_wherever_the_swap_stands(overrides):
    with pytest.raises(ConfigError, match=r"model\.quantizer\.decya: .*'decay'"):
        load(*overrides)


# Errors


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("training.step=1", ["training.step: ", "Did you mean: 'steps'"]),
        ("trainings.steps=1", ["trainings: ", "Did you mean", "'training'"]),
        ("training.steps.foo=1", ["training.steps: "]),
        ("data.split[5]=1", ["data.split"]),
        ("training.steps=many", ["training.steps: ", "'many'"]),
        ("training.steps=1.5", ["training.steps: ", "'1.5'"]),
        ("training=3", ["training: "]),
        ("data.color=gray", ["data.color: ", "'gray'", "'grey'", "'rgb'"]),
        ("data.root=null", ["data.root: "]),
        ("data.split=[0.5,0.5]", ["data.split: ", "length 2"]),
        ("data.split=[a,b,c]", ["data.split: ", "'a'"]),
        ("training.out=${nowhere}", ["training.out: ", "nowhere"]),
        ("training.steps=[1", ["training.steps: ", "not valid YAML"]),
        ("training.steps", ["'training.steps'", "dotted.key=value"]),
        ("=3", ["dotted.key=value"]),
        ("model.quantizer.name=vqq", ["model.quantizer.name: ", "did you mean 'vq'?", "known: continuous, ema, fsq,"]),
        ("model.encoder.name=vgg", ["model.encoder.name: ", "known: conv, difference,", "lapa.encoders"]),
        ("model.quantizer.name=null", ["model.quantizer.name: ", "ema, fsq,"]),
        ("model.quantizer.name=3", ["model.quantizer.name: ", "ema, fsq,"]),
        ("model.quantizer=vq", ["model.quantizer: "]),
        ("model.quantizer.num_code=4", ["model.quantizer.num_code: ", "Did you mean: 'num_codes'"]),
        ("model.quantizer.num_codes=many", ["model.quantizer.num_codes: ", "'many'"]),
        ("model.conditioner.num_heads=2", ["model.conditioner.num_heads: "]),
        ("model.encoder.channels=3", ["model.encoder.channels: "]),
        ("model.encoder.channels=[a]", ["model.encoder.channels: ", "'a'"]),
    ],
)
def test_a_wrong_override_is_refused_with_its_dotted_path_and_a_hint(override, fragments):
    with pytest.raises(ConfigError) as error:
        load(override)
    message = str(error.value)
    assert [fragment for fragment in fragments if fragment not in message] == []
    assert "\n" not in message
    assert "$VALUE" not in message


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("data.downsample=0", "data.downsample"),
        ("data.split=[0.5, 0.5, 0.5]", "data.split"),
        ("data.split=[1.2, -0.1, -0.1]", "data.split"),
        ("data.split_seed=-1", "data.split_seed"),
        ("model.latent_dim=0", "model.latent_dim"),
        ("model.tokens=-1", "model.tokens"),
        ("model.decoder.channels=[]", "model.decoder.channels"),
        ("model.decoder.channels=[8, 0]", "model.decoder.channels"),
        ("model.decoder.up_channels=[512]", "model.decoder.up_channels"),
        ("model.decoder.up_channels=[8, 512, 256, 128, 64]", "model.decoder.up_channels"),
        ("model.decoder.up_channels=[512, 512, 256, 128, 0]", "model.decoder.up_channels"),
        ("model.encoder.channels=[8, 0]", "model.encoder"),
        ("model.quantizer.num_codes=0", "model.quantizer"),
        ("model.quantizer.num_codes=-4", "model.quantizer"),
        ("loss.motion=-1", "loss"),
        ("loss.motion=nan", "loss"),
        ("training.steps=0", "training.steps"),
        ("training.batch_size=1", "training.batch_size"),
        ("training.max_minutes=0", "training.max_minutes"),
        ("training.epochs=0", "training.epochs"),
        ("training.max_zero=-1", "training.max_zero"),
        ("training.clip_norm=0", "training.clip_norm"),
        ("training.learning_rate=0", "training.learning_rate"),
        ("training.learning_rate=nan", "training.learning_rate"),
        ("training.final_learning_rate=-1", "training.final_learning_rate"),
        ("training.warmup=1", "training.warmup"),
        ("training.reseed_every=0", "training"),
        ("training.log_every=0", "training"),
        ("training.validate_every=0", "training"),
        ("training.checkpoint_every=0", "training"),
        ("training.num_workers=-1", "training.num_workers"),
        ("training.seed=-1", "training.seed"),
    ],
)
def test_an_impossible_value_is_refused_with_its_dotted_path(override, path):
    with pytest.raises(ConfigError, match=rf"^{re.escape(path)}\b.*: "):
        load(override)


def test_an_unknown_preset_is_refused_with_all_presets():
    with pytest.raises(ConfigError, match=f"unknown preset 'lapdog'; known: {', '.join(presets())}"):
        load(preset="lapdog")


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("training: {steps: 7", "not valid YAML"),
        ("training:\n\tsteps: 7", "not valid YAML"),
        ("- training", "a configuration is a mapping"),
        ("3", "a configuration is a mapping"),
        ("training: {step: 7}", "training.step: Key 'step' not in 'TrainingConfig'. Did you mean: 'steps'?"),
        ("training: {steps: many}", "training.steps: "),
        ("training: 3", "training: "),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, text, fragment):
    file = write(tmp_path / "mine.yaml", text)
    with pytest.raises(ConfigError) as error:
        load(file=file)
    assert str(error.value).startswith(f"{file}: ")
    assert fragment in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_bytes_is_refused_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"mine\.yaml: not valid YAML"):
        load(file=tmp_path / "mine.yaml")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load(file=tmp_path / "none.yaml")


def test_a_folder_in_place_of_a_file_is_refused_by_name(tmp_path):
    with pytest.raises((ConfigError, OSError), match=str(tmp_path)):  # the command line reports both in one line
        load(file=tmp_path)


def test_an_empty_file_changes_nothing(tmp_path):
    assert load(file=write(tmp_path / "empty.yaml", "")) == load()


@pytest.mark.parametrize("values", [{"training": {"turbo": 1}}, {"model": {"quantizer": {"name": "vq", "turbo": 1}}}])
def test_plain_values_are_checked_as_strictly(values):
    with pytest.raises(ConfigError, match="turbo"):
        config_from_dict(values)


def test_configuration_errors_are_errors_of_lapa_and_value_errors():
    assert issubclass(ConfigError, LapaError)
    assert issubclass(ConfigError, ValueError)


# Renamed keys


def test_the_mean_frame_of_older_configurations_is_the_base_of_the_decoder(tmp_path):
    for value, base in (("true", "mean"), ("false", "zero")):
        new = load(f"model.decoder.base={base}")
        assert load(f"model.decoder.mean_frame={value}") == new
        assert load(file=write(tmp_path / "old.yaml", f"model: {{decoder: {{mean_frame: {value}}}}}")) == new
        old = config_to_dict(new)
        old["model"]["decoder"] = {"mean_frame": value == "true"}
        assert config_from_dict(old) == new
        assert new.model.decoder["name"] == "plain"


# No dead keys

READERS = {
    Config: ("config", "self.config", "checkpoint.config"),
    DataConfig: ("config.data",),
    latent_action_module.ModelConfig: ("config", "config.model"),
    latent_action_module.LossConfig: ("config", "config.loss"),
    tokenizer_module.ModelConfig: ("config", "config.model"),
    tokenizer_module.LossConfig: ("config", "config.loss"),
    TrainingConfig: ("options", "config.training"),
    TrackingConfig: ("options", "config.tracking"),
}
"""The expressions by which the code holds an instance of each dataclass; a read counts only through one of them."""


DEFINITIONS = (config_module, latent_action_module, tokenizer_module)
"""The modules that define the dataclasses."""


def source(*packages: str, leave_out: tuple[str | None, ...] = ()) -> str:
    """The text of all modules of the installed packages, but for the files that define the options."""
    folders = [Path(inspect.getfile(import_module(package))).parent for package in packages]
    files = [path for folder in folders for path in folder.rglob("*.py") if str(path) not in leave_out]
    return "\n".join(path.read_text() for path in files)


def unread(options: type[Any], holders: tuple[str, ...], text: str) -> list[str]:
    """Fields of a dataclass of options that the text never reads."""
    names = [field.name for field in dataclasses.fields(options)]
    alternatives = "|".join(re.escape(holder) for holder in holders)
    return [name for name in names if not re.search(rf"\b(?:{alternatives})\.{name}\b(?!\s*=[^=])", text)]


@pytest.mark.parametrize("options", READERS, ids=lambda options: f"{options.__module__}.{options.__name__}")
def test_every_option_of_a_run_is_read_somewhere_beyond_its_definition(options):
    of_system = options.__module__.startswith("lapa.systems.")
    packages = [options.__module__.rpartition(".")[0]] if of_system else ["lapa", "lapa_plugins", "lapa_envs"]
    text = source(*packages, leave_out=tuple(module.__file__ for module in DEFINITIONS))
    if of_system:  # what families share stands beside their folders
        text += "\n".join(path.read_text() for path in Path(inspect.getfile(systems)).parent.glob("*.py"))
    assert unread(options, READERS[options], text) == []


@pytest.mark.parametrize(
    ("role", "name"), [(role, name) for role, members in PLUGIN_SECTIONS.items() for name in members.names()]
)
def test_every_option_of_a_plugin_is_read_by_it_or_its_bases(role, name):
    cls = PLUGIN_SECTIONS[role].get(name)
    bases = [base for kind in (cls, cls.Config) for base in kind.__mro__ if base.__module__.startswith("lapa")]
    text = "\n".join({Path(inspect.getfile(base)).read_text() for base in bases})
    assert unread(cls.Config, ("config", "options"), text) == []


def test_the_readers_cover_every_dataclass_of_the_configuration():
    defined = {
        value
        for module in DEFINITIONS
        for value in vars(module).values()
        if dataclasses.is_dataclass(value) and value.__module__ == module.__name__
    }
    assert defined == set(READERS)


def test_an_option_that_nothing_reads_would_be_found():
    dead = dataclasses.make_dataclass("Dead", [("steps", int), ("never_read", int), ("only_set", int)])
    text = "for step in range(options.steps): options.only_set = other.never_read"
    assert unread(dead, ("options",), text) == ["never_read", "only_set"]
