"""A third party's model family: checked with our sweep, installed into a fresh environment, trained by name."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from helpers import EXAMPLE_FAMILY, install, run_lapa
from lapa import extract, load_checkpoint, load_config, registry, testing, train
from lapa.contracts import Readings, System
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.errors import ConfigError, DataError
from lapa.testing import check_system

EXAMPLE = EXAMPLE_FAMILY


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_family", EXAMPLE / "example_family.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["example_family"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nudge(example: ModuleType) -> Iterator[type[System]]:
    """The family, known by its name."""
    registry.systems.register("nudge", example.Nudge)
    yield example.Nudge
    registry.systems.forget("nudge")


@pytest.mark.parametrize("given", ["actions", "codes"])
def test_the_example_meets_the_contract(example: ModuleType, given: str) -> None:
    check_system(example.Nudge, example.Nudge.Config(given=given))


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("debug", []),
        ("debug", ["model.quantizer.name=ema"]),
        ("debug", ["model.decoder.mean_frame=true"]),
        ("debug", ["model.tokens=2"]),
        ("tokenizer_debug", []),
        ("tokenizer_debug", ["model.quantizer.name=residual", "model.quantizer.num_codes=16", "loss.worst=0.1"]),
        ("tokenizer_debug", ["model.frame_decoder.name=upsample", "model.frame_decoder.output=palette"]),
        ("tokenizer_debug", ["model.quantizer.name=continuous", "model.encoder.name=residual"]),
        ("rssm_debug", []),
        ("rssm_debug", ["model.state=grid", "model.frame_decoder.doubling=nearest", "loss.worst=0.1"]),
        (
            "rssm_debug",
            [
                "model.layer_norm=true",
                "model.learnt_start=true",
                "model.input_width=16",
                "model.sampling=straight_through",
                "model.unimix=0.01",
                "model.reward_head=two_hot",
                "model.ends=game",
            ],
        ),
    ],
    ids=str,
)
def test_every_built_in_family_meets_the_contract(preset: str, overrides: list[str]) -> None:
    config = load_config(preset, overrides=overrides)
    check_system(registry.systems.get(config.system), config.model, config.loss)


def test_every_built_in_family_is_checked() -> None:
    assert registry.systems.names() == ["latent_action", "rssm", "tokenizer"]


def test_codes_of_one_family_are_a_track_that_another_trains_on(
    nudge: type[System], toy_store: FrameStore, tmp_path: Path
) -> None:
    first = load_config("debug", overrides=[f"training.out={tmp_path / 'codes'}", "data.downsample=1"])
    extract(load_checkpoint(train(first, toy_store, lambda _: None).best, "cpu"), toy_store, tmp_path / "codes.lapa")
    overrides = ["model.given=codes", f"training.out={tmp_path / 'nudge'}", f"data.root={tmp_path / 'codes.lapa'}"]
    config = load_config(file=EXAMPLE / "nudge.yaml", overrides=overrides)
    assert config.system == "nudge"
    summary = train(config, open_store(config.data.root), lambda _: None)
    model = load_checkpoint(summary.best, "cpu").model
    assert isinstance(model, nudge)
    assert model.facts.num_codes == 16
    assert model.facts.code_grid == (10, 8)
    lines = [json.loads(line) for line in (summary.best.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss/total"] for line in lines if "train/loss/total" in line]
    assert losses[-1] < losses[0]


def test_a_recording_without_the_track_is_refused_with_the_remedy(nudge: type[System], toy_store: FrameStore) -> None:
    config = load_config(file=EXAMPLE / "nudge.yaml", overrides=["model.given=codes"])
    with pytest.raises(DataError, match=r"episode '\d' has no track 'codes'; make a dataset with `lapa extract`"):
        train(config, toy_store, lambda _: None)


def test_its_options_are_checked_as_those_of_any_other(nudge: type[System]) -> None:
    with pytest.raises(ConfigError, match=r"model\.widht: Key 'widht' not in 'Config'.*'width'"):
        load_config(file=EXAMPLE / "nudge.yaml", overrides=["model.widht=3"])


def test_an_installed_family_is_trained_resumed_and_judged_by_name(
    record_toy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    python = install(EXAMPLE, tmp_path_factory.mktemp("fresh"))
    toys, out = record_toy(tmp_path / "toys"), tmp_path / "run"
    train = ["train", "--config", str(EXAMPLE / "nudge.yaml"), f"data.root={toys}", f"training.out={out}"]
    assert "nudge" in run_lapa(python, ["plugins"], train)
    shutil.copy(out / "step_20.pt", tmp_path / "whole.pt")
    (out / "step_20.pt").unlink()
    report, codes = tmp_path / "report", tmp_path / "codes.lapa"
    judged = ["--checkpoint", str(out / "best.pt"), "--data", str(toys)]
    evaluate = ["evaluate", *judged, "--out", str(report)]
    extract = ["extract", *judged, "--out", str(codes)]
    assert "resuming from" in run_lapa(python, [*train, "--resume"], evaluate, extract, codes=[0, 0, 2])
    whole, resumed = (
        torch.load(path, weights_only=True)["model"] for path in (tmp_path / "whole.pt", out / "step_20.pt")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    metrics = json.loads((report / "metrics.json").read_text())["metrics"]
    assert 5 < metrics["recon/psnr_db"] < 60
    assert not any(name.startswith(("codebook/", "probe/")) for name in metrics), "it has no codes"
    assert f"{metrics['recon/psnr_db']:.1f}" in (report / "report.html").read_text()
    assert not codes.exists(), "it has no codes to extract"


# The sweep finds what is wrong


def broken(example: ModuleType, **members: Any) -> type[System]:
    return type("Broken", (example.Nudge,), members)


def summed_terms(self: Any, output: Any, inputs: Any, loss: Any, progress: float) -> Any:
    return {"error": (loss.error, (output - inputs[1]).square().sum())}


def attached_readings(self: Any, output: Any, inputs: Any) -> Readings:
    return Readings({"recon/l1": (output - inputs[1]).abs().mean(0)})


def with_an_idle_layer(self: Any, config: Any, facts: Any) -> None:
    type(self).__mro__[1].__init__(self, config, facts)
    self.idle = torch.nn.Linear(2, 2)


def with_hidden_state(self: Any, output: Any, inputs: Any) -> Readings:
    self.seen = getattr(self, "seen", 0) + 1
    return Readings({"recon/seen": torch.tensor(float(self.seen))})


def too_bright(self: Any, clips: Any, codes: Any = None) -> torch.Tensor:
    return self(*self.inputs(clips)) + 2


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"terms": summed_terms}, "make terms means over clips"),
        ({"readings": attached_readings}, "must be a detached scalar"),
        ({"__init__": with_an_idle_layer}, "parameters do not learn: idle.weight, idle.bias"),
        ({"readings": with_hidden_state}, "in eval mode the same clips give other figures|state_dict misses something"),
        ({"best": "val/recon/l2"}, "best is 'val/recon/l2', which is not among the figures"),
        ({"draw": too_bright}, r"draw gives values outside of \[0, 1\]"),
        ({"Loss": dataclasses.make_dataclass("Loss", [("error", float, 1.0)])}, "Loss must be frozen"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_sweep_finds(example: ModuleType, members: dict[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_system(broken(example, **members))


@pytest.mark.parametrize(("rows", "files"), [([], 0), (["seen"], 2), (["seen", "drawn"], 2)])
def test_a_family_may_show_any_number_of_rows(
    example: ModuleType, toy_store: FrameStore, tmp_path: Path, rows: list[str], files: int
) -> None:
    def pictures(self: Any, output: torch.Tensor, inputs: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        return dict.fromkeys(rows, inputs[0])

    registry.systems.register("shown", broken(example, pictures=pictures))
    try:
        overrides = ["system=shown", "data.downsample=1", f"training.out={tmp_path}", "training.steps=4"]
        overrides += ["training.examples_every=2", "training.batch_size=8", "data.root=toy"]
        train(load_config(overrides=overrides), toy_store, lambda _: None)
    finally:
        registry.systems.forget("shown")
    assert len(list(tmp_path.glob("examples/*.png"))) == files


def test_the_toy_store_has_every_track(tmp_path: Path) -> None:
    store = testing.toy_store(tmp_path / "toy.lapa", episodes=3, steps=6)
    episode = store.episodes[1]
    assert set(episode.tracks) == {
        "actions", "rewards", "terminated", "truncated", "codes", "lives", "ram", "fields", "tokens"
    }  # fmt: skip
    assert np.array_equal(episode.tracks["codes"][:, 0, 0], episode.tracks["actions"])
    assert len(episode.tracks["tokens"]) == episode.count == 7
