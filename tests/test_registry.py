from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import lapa
from helpers import PATIENCE
from lapa import registry
from lapa.contracts import Quantizer
from lapa.errors import LapaError, RegistryError
from lapa.registry import Registry

BUILT_IN = {
    "encoder": {"conv", "difference", "impala", "patch", "residual"},
    "quantizer": {"continuous", "ema", "fsq", "gumbel", "lfq", "residual", "simvq", "vq"},
    "conditioner": {"adaln", "add", "concat", "cross_attention", "film", "gated"},
}
REGISTRIES = {"encoder": registry.encoders, "quantizer": registry.quantizers, "conditioner": registry.conditioners}

PLUGIN = """
    import dataclasses, math
    import torch
    from lapa import Quantized, Quantizer

    class Rounding(Quantizer):
        '''Rounds each latent to the nearer of two signs of its first channel.'''

        @dataclasses.dataclass(frozen=True)
        class Config:
            scale: float = 1.0

        num_codes = 2

        def __init__(self, config, *, latent_dim):
            super().__init__()
            self.scale = config.scale
            self.latent_dim = latent_dim

        def forward(self, latent):
            codes = (latent[:, 0] > 0).long()
            rounded = self.codes_to_latent(codes).to(latent.dtype)
            return Quantized(latent + (rounded - latent).detach(), codes, latent.square().mean(), {})

        def codes_to_latent(self, codes):
            return (self.scale * (2.0 * codes - 1))[:, None].expand(-1, self.latent_dim, -1, -1)
"""


class Sound(Quantizer):
    """Meets the contract as far as the registry looks."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """No options."""


class WithoutConfig(Quantizer):
    """Lacks its options."""


class WithPlainConfig(Quantizer):
    """Has options that are no dataclass."""

    class Config:
        """No dataclass."""


def install(folder: Path, distribution: str, module_text: str, *points: str, role: str = "quantizer") -> Path:
    """Makes a distribution of one module as pip would leave it, in a folder that stands for site-packages."""
    module = distribution.replace("-", "_")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text(dedent(module_text))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join([f"[lapa.{role}s]", *points, ""]))
    return folder


def python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python in a new process, with a folder added to where it finds modules and distributions."""
    search = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*search, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def train(toys: Path, quantizer: str, *more: str, cwd: Path, path: Path | None = None):
    """``lapa train`` in a new process: the debug preset's tiny model, two steps on a toy recording."""
    overrides = [f"model.quantizer.name={quantizer}", f"data.root={toys}", f"training.out={cwd / 'run'}"]
    quick = ["data.downsample=2", "training.steps=2", "training.validate_every=2", "training.checkpoint_every=2"]
    return python("-m", "lapa.cli", "train", "--preset", "debug", *overrides, *quick, *more, cwd=cwd, path=path)


# The built-in names


@pytest.mark.parametrize("role", REGISTRIES)
def test_the_built_in_names_are_there_sorted_and_lead_to_classes_of_their_contract(role):
    members = REGISTRIES[role]
    assert set(members.names()) >= BUILT_IN[role]
    assert members.names() == sorted(members.names())
    for name in BUILT_IN[role]:
        assert issubclass(members.get(name), members.contract)
        assert members.owner(name) == "distribution 'lapa'"


def test_nothing_of_a_plugin_is_imported_until_it_is_asked_for(tmp_path):
    program = """
        import json, sys
        from lapa import registry
        found = lambda: sorted(name for name in sys.modules if name.startswith(("lapa_plugins.", "lapa_envs")))
        names, before = registry.quantizers.names(), found()
        registry.quantizers.get("vq")
        print(json.dumps([names, before, found()]))
    """
    names, before, after = json.loads(python("-c", dedent(program), cwd=tmp_path).stdout)
    assert names == sorted(BUILT_IN["quantizer"])
    assert before == []
    assert after == ["lapa_plugins.quantizers", "lapa_plugins.quantizers.codebook", "lapa_plugins.quantizers.vq"]


def test_the_library_alone_imports_neither_torch_nor_plugins(tmp_path):
    program = (
        "import sys, lapa; print([n for n in ('torch', 'gymnasium', 'ale_py', 'lapa_plugins') if n in sys.modules])"
    )
    assert python("-c", program, cwd=tmp_path).stdout.strip() == "[]"


# Registering


def test_a_class_and_a_lazy_target_are_found_under_their_names():
    members = Registry("quantizer", Quantizer)
    members.register("direct", Sound)
    members.register("lazy", "lapa_plugins.quantizers.vq:VectorQuantizer", owner="a test")
    assert members.get("direct") is Sound
    assert members.get("lazy") is registry.quantizers.get("vq")
    assert members.owner("direct") == Sound.__module__
    assert members.owner("lazy") == "a test"
    assert {"direct", "lazy", "vq"} <= set(members.names())


def test_registering_touches_no_other_registry():
    Registry("quantizer", Quantizer).register("direct", Sound)
    assert "direct" not in registry.quantizers.names()


def test_the_same_owner_may_register_again():
    members = Registry("quantizer", Quantizer)
    members.register("mine", "nowhere:Nothing", owner="me")
    members.register("mine", Sound, owner="me")
    assert members.get("mine") is Sound


@pytest.mark.parametrize(("name", "holder"), [("vq", "distribution 'lapa'"), ("mine", "package one")])
def test_a_taken_name_is_refused_with_both_owners(name, holder):
    members = Registry("quantizer", Quantizer)
    members.register("mine", Sound, owner="package one")
    with pytest.raises(RegistryError) as error:
        members.register(name, Sound, owner="package two")
    assert f"quantizer '{name}' of package two is taken already by {holder}" in str(error.value)
    assert members.owner(name) == holder


# Asking


def test_an_unknown_name_is_refused_with_a_suggestion_all_names_and_how_to_add_one():
    with pytest.raises(RegistryError) as error:
        registry.conditioners.get("cross_atention")
    message = str(error.value)
    assert "unknown conditioner 'cross_atention' (did you mean 'cross_attention'?)" in message
    assert f"known: {', '.join(sorted(BUILT_IN['conditioner']))}" in message
    assert "entry point in group 'lapa.conditioners', or --plugin MODULE" in message


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(RegistryError, match="unknown conditioner 'zzz'; known: "):
        registry.conditioners.owner("zzz")


def test_registry_errors_are_errors_of_lapa_and_lookup_errors():
    assert issubclass(RegistryError, LapaError)
    assert issubclass(RegistryError, LookupError)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        (dict, "does not derive from lapa.contracts.Quantizer"),
        ("lapa_plugins.encoders.conv:ConvEncoder", "does not derive from lapa.contracts.Quantizer"),
        ("lapa.nn.layers:halved", "does not derive from lapa.contracts.Quantizer"),
        (WithoutConfig, "lacks a dataclass named Config"),
        (WithPlainConfig, "lacks a dataclass named Config"),
        ("lapa.no_such_module:Thing", "cannot be loaded from lapa.no_such_module:Thing: ModuleNotFoundError"),
        ("lapa.nn.layers:Thing", "cannot be loaded from lapa.nn.layers:Thing: AttributeError"),
        ("lapa.nn.layers", "cannot be loaded from lapa.nn.layers: AttributeError"),
    ],
)
def test_a_target_that_does_not_meet_the_contract_is_refused_with_its_owner(target, complaint):
    members = Registry("quantizer", Quantizer)
    members.register("odd", target, owner="package odd")
    with pytest.raises(RegistryError) as error:
        members.get("odd")
    assert f"quantizer 'odd' of package odd {complaint}" in str(error.value)


def test_every_contract_is_named_as_users_import_it():
    for members in REGISTRIES.values():
        assert getattr(lapa, members.contract.__name__) is members.contract


# Other distributions


def test_a_name_claimed_by_two_distributions_is_refused_for_that_name_only(tmp_path, monkeypatch):
    install(tmp_path, "first-package", PLUGIN, "shared = first_package:Rounding", "one = first_package:Rounding")
    install(tmp_path, "second-package", PLUGIN, "shared = second_package:Rounding", "vq = second_package:Rounding")
    monkeypatch.syspath_prepend(tmp_path)
    members = Registry("quantizer", Quantizer)
    for name, owners in {"shared": ("first-package", "second-package"), "vq": ("second-package", "lapa")}.items():
        for ask in (members.get, members.owner):
            with pytest.raises(RegistryError, match="claimed by both") as error:
                ask(name)
            assert all(f"distribution '{owner}'" in str(error.value) for owner in owners)
    assert members.get("one").__module__ == "first_package"
    assert members.owner("one") == "distribution 'first-package'"
    assert members.owner("ema") == "distribution 'lapa'"


def test_a_distribution_that_is_on_the_path_twice_is_one_owner(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        monkeypatch.syspath_prepend(install(tmp_path / folder, "twice", PLUGIN, "rounding = twice:Rounding"))
    assert Registry("quantizer", Quantizer).owner("rounding") == "distribution 'twice'"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two installed distributions: a sound one, and one whose module cannot be imported."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "rounding-quantizer", PLUGIN, "rounding = rounding_quantizer:Rounding")
    return install(folder, "broken-package", "raise ImportError('no such GPU')", "broken = broken_package:Broken")


def test_a_third_partys_quantizer_is_trained_by_name_beside_a_broken_package(site, record_toy, tmp_path):
    toys = record_toy(tmp_path / "toys")
    result = train(toys, "rounding", "model.quantizer.scale=0.5", cwd=tmp_path, path=site)
    assert result.returncode == 0, result.stderr
    assert "name: rounding\n    scale: 0.5" in (tmp_path / "run" / "config.yaml").read_text()
    assert (tmp_path / "run" / "best.pt").exists()


def test_a_broken_package_does_not_hurt_the_built_in_plugins(site, record_toy, tmp_path):
    result = train(record_toy(tmp_path / "toys"), "vq", cwd=tmp_path, path=site)
    assert result.returncode == 0, result.stderr


def test_who_asks_for_the_broken_plugin_is_told_its_option_its_distribution_and_the_reason(site, tmp_path):
    result = train(tmp_path, "broken", cwd=tmp_path, path=site)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "of distribution 'broken-package' cannot be loaded from broken_package:Broken" in result.stderr
    assert "ImportError: no such GPU" in result.stderr
    assert "model.quantizer.name: " in result.stderr


def test_the_doctor_tells_sound_from_broken_plugins(site, tmp_path):
    result = python("-m", "lapa.cli", "doctor", cwd=tmp_path, path=site)
    assert result.returncode == 0, result.stderr
    lines = {
        line.split(":")[0].split()[-1]: line for line in result.stdout.splitlines() if line.startswith("quantizer")
    }
    assert lines.keys() == BUILT_IN["quantizer"] | {"rounding", "broken"}
    assert "ok, from distribution 'rounding-quantizer'" in lines["rounding"]
    assert "BROKEN: " in lines["broken"]
    assert "distribution 'broken-package'" in lines["broken"]


# Local files


def test_a_local_file_brings_a_plugin_by_the_plugin_option(record_toy, tmp_path):
    text = dedent(PLUGIN) + "\nfrom lapa import registry\nregistry.quantizers.register('local', Rounding)\n"
    (tmp_path / "my_module.py").write_text(text)
    result = train(record_toy(tmp_path / "toys"), "local", "--plugin", "my_module", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "name: local" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "--plugin my_module: cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "--plugin my_module: cannot be imported: ZeroDivisionError"),
        ("from lapa import registry\nregistry.quantizers.register('vq', dict)", "taken already by distribution 'lapa'"),
    ],
    ids=["missing", "failing", "taking a name"],
)
def test_a_local_file_that_fails_is_named_in_one_line(tmp_path, monkeypatch, capsys, text, reason):
    from lapa.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    if text is not None:
        (tmp_path / "my_module.py").write_text(text)
    assert main(["doctor", "--plugin", "my_module"]) == 2
    message = capsys.readouterr().err
    assert reason in message
    assert message.count("\n") == 1
