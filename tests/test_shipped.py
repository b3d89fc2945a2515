"""Models by name: what is shipped is what its facts say, and a name means the same everywhere."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import lapa
from lapa import shipped
from lapa.config import presets
from lapa.engine.checkpoint import file_digest, load_checkpoint
from lapa.errors import CheckpointError
from lapa.inference.reading import load_reader
from lapa.shipped import checkpoint_path, checkpoint_text, model_named, model_names, model_with
from lapa_envs.pretrained import default_checkpoint, default_reader

MOST_BYTES = 6_000_000
TOKENIZERS = {"breakout_tokens"}
"""Models of single frames; all others label transitions."""
every_model = pytest.mark.parametrize("name", model_names())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def distribute(monkeypatch: pytest.MonkeyPatch, **folders: Any) -> None:
    """Makes some distributions bring models too, each from what its function does."""
    ours = list(metadata.entry_points(group=shipped.GROUP))
    others = [
        SimpleNamespace(
            value=f"{owner}:folder", dist=SimpleNamespace(name=owner), load=lambda function=function: function
        )
        for owner, function in folders.items()
    ]
    monkeypatch.setattr(shipped, "_entry_points", lambda: [*ours, *others])


def broken() -> Path:
    raise RuntimeError("no\nsuch library")


def test_the_promised_models_are_there() -> None:
    assert {"breakout", "breakout_v0", *TOKENIZERS} <= set(model_names())
    assert [model.name for model in lapa.models()] == model_names() == sorted(model_names())
    assert (model_named("breakout").path, model_named("breakout").reader) == (default_checkpoint(), default_reader())


@every_model
def test_a_models_facts_are_those_of_its_files(name: str) -> None:
    model, checkpoint = model_named(name), lapa.load_checkpoint(name, "cpu")
    assert model.path == checkpoint.path
    assert model.digest == checkpoint.digest == file_digest(model.path)
    assert model.bytes == model.path.stat().st_size < MOST_BYTES
    assert model.steps == checkpoint.step
    assert model.owner == "lapa"
    assert model.preset in presets()
    assert "\n" not in model.title
    assert any(command.startswith(f"lapa train --preset {model.preset}") for command in model.commands)
    ours, baseline = (
        ("rebuilt/psnr_db", "rebuilt/mean_psnr_db") if name in TOKENIZERS else ("recon/psnr_db", "recon/copy_psnr_db")
    )
    assert model.figures[ours] > model.figures[baseline]
    assert all(isinstance(figure, float) for figure in model.figures.values())


@pytest.mark.parametrize("name", sorted({*model_names()} - TOKENIZERS))
def test_a_models_reader_reads_its_codes(name: str) -> None:
    model = model_named(name)
    assert model.reader is not None
    assert "left" in load_reader(model.reader, model.digest).actions


@every_model
def test_a_model_has_nothing_that_only_training_needs(name: str) -> None:
    assert "training" not in torch.load(model_named(name).path, weights_only=True)


@every_model
def test_a_model_is_told_as_json(name: str) -> None:
    told = json.loads(json.dumps(model_named(name).to_json()))
    assert (told["name"], told["path"]) == (name, str(model_named(name).path))


def test_the_model_itself_is_loaded_by_name() -> None:
    assert lapa.load_model("breakout_v0", "cpu").code_grid == (7, 10)
    assert lapa.load_model("breakout_tokens", "cpu").code_grid == (15, 20)


def test_a_name_wins_over_a_file_and_a_folder_and_the_file_can_be_named(here: Path) -> None:
    ours = model_named("breakout").path
    Path("breakout").mkdir()
    assert checkpoint_path("breakout") == ours
    Path("breakout").rmdir()
    Path("breakout").write_bytes(b"mine")
    assert checkpoint_path("breakout") == ours
    for given in ("./breakout", Path("breakout"), Path("./breakout")):
        assert checkpoint_path(given).resolve() == here / "breakout"
        assert checkpoint_path(checkpoint_text(given)).resolve() == here / "breakout"
    assert checkpoint_text("breakout") == "breakout"


def test_a_file_without_a_suffix_that_is_no_model_is_a_file(here: Path) -> None:
    shutil.copy(model_named("breakout_v0").path, "mine")
    assert load_checkpoint("mine", "cpu").path == Path("mine")


@pytest.mark.parametrize("path", ["nowhere.pt", "./breakuot", "runs/breakout", "breakout/best.pt", "breakout.pt"])
def test_what_looks_like_a_path_is_a_missing_file(here: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint; train one with `lapa train`$"):
        load_checkpoint(path)


@pytest.mark.parametrize(("name", "hint"), [("breakot", r" \(did you mean 'breakout'\?\)"), ("zzz", "")])
def test_an_unknown_name_is_one_line_with_the_known_ones(here: Path, name: str, hint: str) -> None:
    known = ", ".join(model_names())
    with pytest.raises(CheckpointError, match=f"^{name}: no such model{hint} and no such file; known models: {known};"):
        load_checkpoint(name)
    with pytest.raises(CheckpointError, match=f"^{name}: no such model{hint}.*`lapa models` lists them$"):
        model_named(name)


def test_a_copy_of_a_model_is_known_by_its_digest() -> None:
    model = model_with(model_named("breakout_v0").digest)
    assert model is not None
    assert model.digest == "e0f1eb83574627c0"
    assert model_with("0" * 16) is None


def ship_copy(folder: Path, name: str) -> Path:
    """A folder of models with a copy of one of ours."""
    folder.mkdir()
    for kind in (".pt", ".json"):
        shutil.copy(model_named("breakout_v0").path.with_suffix(kind), folder / f"{name}{kind}")
    return folder


def test_another_distribution_ships_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ship_copy(tmp_path / "theirs", "pong")
    distribute(monkeypatch, theirs=lambda: folder)
    assert (model_named("pong").owner, model_named("pong").reader) == ("theirs", None)
    assert load_checkpoint("pong", "cpu").path == folder / "pong.pt"
    assert "pong" in model_names()


def test_a_name_that_two_distributions_claim_can_be_used_by_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ship_copy(tmp_path / "theirs", "breakout")
    distribute(monkeypatch, theirs=lambda: folder)
    with pytest.raises(CheckpointError, match="'breakout' is claimed by both lapa and theirs; uninstall one"):
        load_checkpoint("breakout")


def test_a_broken_distribution_harms_no_other_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    distribute(monkeypatch, broken=broken)
    assert "breakout" in model_names()
    with pytest.raises(CheckpointError, match=r"those of broken cannot be loaded: .*RuntimeError: no such library"):
        load_checkpoint("pong")


@pytest.mark.parametrize("facts", ["", "[]", "{}", '{"commands": 3}', '{"commands": [], "unknown": 1}'])
def test_facts_that_cannot_be_read_are_one_line_and_do_not_stop_loading(
    facts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ship_copy(tmp_path / "theirs", "pong")
    (folder / "pong.json").write_text(facts)
    distribute(monkeypatch, theirs=lambda: folder)
    with pytest.raises(CheckpointError, match=r"pong\.json: cannot be used \(.*\); install theirs again$") as error:
        model_named("pong")
    assert "\n" not in str(error.value)
    assert load_checkpoint("pong", "cpu").path == folder / "pong.pt"
    assert model_with("0" * 16) is None
