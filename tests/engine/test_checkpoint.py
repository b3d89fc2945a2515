from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lapa.config import Config, load_config
from lapa.data.frames import FrameFormat
from lapa.engine.checkpoint import check_format, load_checkpoint, load_model, save_checkpoint
from lapa.errors import CheckpointError
from lapa.systems.latent_action.model import LatentActionModel

FORMAT = FrameFormat(40, 32, "grey", 2)
SPLIT = {"train": ["0", "2"], "val": ["1"], "test": ["3"]}
METRICS = {"val/recon/psnr_db": 12.5}


def make_config(*overrides: str) -> Config:
    return load_config("debug", overrides=["model.conditioner.name=cross_attention", "data.downsample=2", *overrides])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An untrained tiny model's checkpoint."""
    torch.manual_seed(0)
    config = make_config()
    path = tmp_path / "best.pt"
    save_checkpoint(path, LatentActionModel(config.model, FORMAT), config, split=SPLIT, step=7, metrics=METRICS)
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_a_checkpoint_from_before_frames_could_be_resized_is_read(saved):
    def forget(state: dict[str, Any]) -> None:
        for name in ("resize", "fit"):
            del state["format"][name], state["config"]["data"][name]
        for name in ("skip_first", "stride", "max_frames", "min_gap"):
            del state["config"]["data"][name]

    edit(saved, forget)
    loaded = load_checkpoint(saved, "cpu")
    assert (loaded.model.format, loaded.config) == (FORMAT, make_config())


def test_a_model_that_resizes_takes_recordings_of_any_size(tmp_path):
    config, seen = make_config("data.resize=[24,16]", "data.fit=pad"), FrameFormat(40, 32, "grey", 2, (24, 16), "pad")
    model = LatentActionModel(config.model, seen)
    save_checkpoint(tmp_path / "a.pt", model, config, split=SPLIT, step=7, metrics=METRICS)
    loaded = load_checkpoint(tmp_path / "a.pt", "cpu")
    assert (loaded.model.format, loaded.config) == (seen, config)
    assert check_format(loaded, (50, 60)) == FrameFormat(50, 60, "grey", 2, (24, 16), "pad")


@pytest.mark.parametrize("quantizer", ["vq", "ema"])
@pytest.mark.parametrize("decoder", ["", "model.decoder.mean_frame=true model.decoder.positions=true model.tokens=2"])
def test_a_checkpoint_brings_back_the_model_and_all_beside_it(tmp_path, quantizer, decoder):
    torch.manual_seed(0)
    config = make_config(f"model.quantizer.name={quantizer}", *decoder.split())
    model = LatentActionModel(config.model, FORMAT)
    frames = torch.rand(2, 4, 1, *FORMAT.size)
    model(*frames)  # moves batch norm's statistics and the codes
    save_checkpoint(tmp_path / "a.pt", model, config, split=SPLIT, step=7, metrics=METRICS)
    loaded = load_checkpoint(tmp_path / "a.pt", "cpu")
    assert (loaded.config, loaded.split, loaded.step, loaded.metrics) == (config, SPLIT, 7, METRICS)
    assert loaded.model.format == FORMAT
    state = model.state_dict()
    assert loaded.model.state_dict().keys() == state.keys()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    expected, output = model.eval()(*frames), loaded.model(*frames)
    assert torch.allclose(output.quantized.latent, expected.quantized.latent, atol=1e-6)
    assert torch.allclose(output.prediction, expected.prediction, atol=1e-6)


def test_a_loaded_model_is_ready_for_use(saved):
    model = load_model(saved, "cpu")
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_digest_tells_checkpoints_apart(saved):
    first = load_checkpoint(saved, "cpu").digest
    assert load_checkpoint(saved, "cpu").digest == first
    edit(saved, lambda state: state.update(step=8))
    assert load_checkpoint(saved, "cpu").digest != first


def test_the_state_of_training_is_kept_only_if_given(saved, tmp_path):
    config = make_config()
    model = LatentActionModel(config.model, FORMAT)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path / "a.pt", model, config, split=SPLIT, step=1, metrics={}, training=state)
    kept = torch.load(tmp_path / "a.pt", weights_only=True)["training"]["optimizer"]
    assert len(kept["state"]) == len(optimizer.state_dict()["state"]) > 0
    assert "training" not in torch.load(saved, weights_only=True)


def test_a_checkpoint_holds_plain_values_and_tensors_only(saved):
    def kinds(value: object) -> set[type]:
        if isinstance(value, dict):
            return set().union(*(kinds(part) for item in value.items() for part in item))
        if isinstance(value, list | tuple):
            return set().union(*(kinds(part) for part in value))
        return {type(value)}

    state = dict(torch.load(saved, weights_only=False))
    assert kinds(state) <= {str, int, float, bool, type(None), torch.Tensor}


def test_failing_to_write_leaves_the_old_checkpoint(saved, monkeypatch):
    old = saved.read_bytes()

    def full(state: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    config = make_config()
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, LatentActionModel(config.model, FORMAT), config, split={}, step=8, metrics={})
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.trace, "executed")


@pytest.mark.parametrize("how", ["torch.save", "pickle", "inside a checkpoint"])
def test_a_malicious_file_is_refused_without_executing_it(saved, tmp_path, how):
    trace = tmp_path / "trace"
    if how == "torch.save":
        torch.save(Malicious(trace), saved)
    elif how == "pickle":
        saved.write_bytes(pickle.dumps(Malicious(trace)))
    else:
        edit(saved, lambda state: state.update(metrics=Malicious(trace)))
    with pytest.raises(CheckpointError, match=f"{saved}: not a checkpoint"):
        load_checkpoint(saved, "cpu")
    assert not trace.exists()


def test_the_malicious_file_of_these_tests_would_do_harm(tmp_path):
    pickle.loads(pickle.dumps(Malicious(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_a_missing_checkpoint_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint; train one"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_folder_is_refused_with_the_file_to_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"is a folder; name the file in it, such as .*best\.pt"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"PK\x03\x04", b"# text\n", b"error: no such run\n", b"results\n", b"\x89PNG\r\n\x1a\n", b"BM6"],
    ids=["empty", "zeros", "start of an archive", "text", "a log", "another text", "PNG", "bitmap"],
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, content):
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"best\.pt: not a checkpoint, or a cut one"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_cut_checkpoint_is_refused_by_name(saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=f"{saved}: not a checkpoint, or a cut one"):
        load_checkpoint(saved)


@pytest.mark.parametrize("state", [{"model": {}}, {"kind": "another"}, [1, 2], torch.zeros(3), {}, "text"])
def test_what_others_saved_with_torch_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: not a checkpoint of lapa"):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_version_is_refused_with_both_versions(saved, version):
    edit(saved, lambda state: state.update(version=version))
    with pytest.raises(CheckpointError, match=f"has checkpoint version {version}, this lapa reads 1"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state.pop("config"),
        lambda state: state.pop("format"),
        lambda state: state.pop("model"),
        lambda state: state.pop("step"),
        lambda state: state.update(config="none"),
        lambda state: state.update(format={"rows": 3}),
        lambda state: state.update(format=None),
        lambda state: state.update(model=None),
        lambda state: state["model"].popitem(),
        lambda state: state["model"].update(extra=torch.zeros(1)),
        lambda state: state["format"].update(color="rgb"),
        lambda state: state["config"]["model"].update(latent_dim=3),
    ],
    ids=[
        "no config",
        "no format",
        "no weights",
        "no step",
        "config is text",
        "unknown format",
        "empty format",
        "empty weights",
        "a weight is missing",
        "a weight too many",
        "other channels",
        "other widths",
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_in_one_line(saved, damage):
    edit(saved, damage)
    with pytest.raises(CheckpointError, match=f"{saved}: ") as error:
        load_checkpoint(saved, "cpu")
    assert "\n" not in str(error.value)


def test_a_missing_plugin_is_named(saved):
    edit(saved, lambda state: state["config"]["model"]["quantizer"].update(name="from_elsewhere"))
    with pytest.raises(CheckpointError, match=r"model\.quantizer\.name: unknown quantizer 'from_elsewhere'"):
        load_checkpoint(saved, "cpu")


def test_an_option_this_installation_lacks_is_named(saved):
    edit(saved, lambda state: state["config"]["training"].update(turbo=True))
    with pytest.raises(CheckpointError, match=r"does not fit this installation: .*turbo"):
        load_checkpoint(saved, "cpu")
