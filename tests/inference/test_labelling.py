"""Labelling gives one answer for a pair of frames, whoever asks and however many pairs are asked about at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lapa.contracts import Coder, Facts
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint
from lapa.errors import DataError
from lapa.inference.labelling import Copies, Labeller, label
from lapa.nn.layers import fold_batch_norm
from lapa.systems.latent_action.model import LatentActionModel
from lapa_plugins.quantizers.vq import VectorQuantizer

PAIRS = 64


@pytest.fixture(scope="module")
def frames(breakout_store: FrameStore) -> np.ndarray:
    return breakout_store.frames(range(PAIRS + 1))


@pytest.fixture(scope="module")
def model(breakout_checkpoint: Checkpoint) -> LatentActionModel:
    return breakout_checkpoint.model


@pytest.fixture(scope="module")
def borderline_model(model: LatentActionModel, frames: np.ndarray) -> LatentActionModel:
    """The model with 64 codes, two and two on both sides of real latents, so that real frames lie on borders."""
    model = copy.deepcopy(model)
    first, second = (prepare(torch.from_numpy(part), model.format) for part in (frames[:-1], frames[1:]))
    latents = model.encode(to_float(first), to_float(second)).movedim(1, -1).flatten(0, 2)
    latents = latents[torch.from_numpy(np.unique(latents.round(decimals=3), axis=0, return_index=True)[1])]
    places = latents[:: len(latents) // 32][:32]
    step = torch.linspace(0.05, 0.1, places.shape[1]) * places.abs().mean()
    quantizer = VectorQuantizer(VectorQuantizer.Config(num_codes=64), latent_dim=places.shape[1])
    quantizer.codebook.data = torch.stack([places + step, places - step], dim=1).flatten(0, 1)
    model.quantizer = quantizer.eval().requires_grad_(False)
    return model


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def label_in_batches(model: LatentActionModel, frames: np.ndarray, size: int) -> Tensor:
    starts = range(0, len(frames) - 1, size)
    return torch.cat([label(model, frames[i : i + size + 1][:-1], frames[i + 1 : i + size + 1]) for i in starts])


def test_a_pair_of_frames_gives_the_code_grid(model: LatentActionModel, frames: np.ndarray) -> None:
    codes = label(model, frames[0], frames[1])
    assert codes.shape == model.grid
    assert codes.dtype == torch.int64
    assert codes.device.type == "cpu"
    assert 0 <= codes.min() <= codes.max() < model.quantizer.num_codes


def test_a_batch_gives_the_codes_of_its_pairs(model: LatentActionModel, frames: np.ndarray) -> None:
    codes = label(model, frames[:4], frames[1:5])
    assert codes.shape == (4, *model.grid)
    for i in range(4):
        assert torch.equal(codes[i], label(model, frames[i], frames[i + 1]))


def test_codes_depend_on_both_frames(borderline_model: LatentActionModel, frames: np.ndarray) -> None:
    forwards, backwards = (
        label(borderline_model, frames[10], frames[20]),
        label(borderline_model, frames[20], frames[10]),
    )
    assert not torch.equal(forwards, label(borderline_model, frames[10], frames[10]))
    assert not torch.equal(forwards, backwards)


def test_tensors_are_labelled_like_arrays(model: LatentActionModel, frames: np.ndarray) -> None:
    as_tensors = label(model, torch.from_numpy(frames[0]), torch.from_numpy(frames[1]))
    assert torch.equal(as_tensors, label(model, frames[0], frames[1]))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("size", "num_threads"), [(1, 1), (3, 1), (16, 1), (64, 1), (3, 2), (64, 2)])
def test_codes_do_not_depend_on_batch_size_or_threads(
    borderline_model: LatentActionModel, frames: np.ndarray, size: int, num_threads: int
) -> None:
    torch.set_num_threads(1)
    expected = label(borderline_model, frames[:-1], frames[1:])
    torch.set_num_threads(num_threads)
    assert torch.equal(label_in_batches(borderline_model, frames, size), expected)


def test_codes_on_the_border_are_those_of_double_precision(
    borderline_model: LatentActionModel, frames: np.ndarray
) -> None:
    exact = copy.deepcopy(borderline_model).double()
    first, second = (
        to_float(prepare(torch.from_numpy(part), exact.format)).double() for part in (frames[:-1], frames[1:])
    )
    latent = exact.encode(first, second)
    margin = exact.quantizer.margin(latent)
    assert (margin < 1e-5 * latent.abs().amax()).any(), "no latent lies on a border: the test says nothing"
    assert torch.equal(label(borderline_model, frames[:-1], frames[1:]), exact.quantizer(latent).codes)


def test_codes_are_the_same_without_numba(
    borderline_model: LatentActionModel, frames: np.ndarray, request: pytest.FixtureRequest
) -> None:
    expected = label(borderline_model, frames[:-1], frames[1:])
    request.getfixturevalue("without_numba")
    assert torch.equal(label(borderline_model, frames[:-1], frames[1:]), expected)


class NearlyBetween(Coder):
    """Encodes every pair as 1 + tilt, half-way between codes at 0 and 2 but for a tilt that only doubles can hold."""

    def __init__(self, tilt: float) -> None:
        super().__init__(None, Facts(FrameFormat(4, 4)))
        self.quantizer = VectorQuantizer(VectorQuantizer.Config(num_codes=2), latent_dim=1).eval()
        self.quantizer.codebook.data = torch.tensor([[0.0], [2.0]])
        self.grid = (1, 1)
        self.tilt = nn.Parameter(torch.tensor(tilt))

    def encode(self, *frames: Tensor) -> Tensor:
        return torch.ones(len(frames[0]), 1, 1, 1, dtype=frames[0].dtype) + self.tilt

    clip = inputs = forward = terms = None  # it is not trained


@pytest.mark.parametrize(("tilt", "code"), [(1e-8, 1), (-1e-8, 0), (1e-11, 0), (0.0, 0), (-1e-11, 0)])
def test_a_latent_between_two_codes_is_decided_in_double_precision(tilt: float, code: int) -> None:
    model = NearlyBetween(tilt)
    frames = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    assert model.encode(frames.float(), frames.float()).unique().tolist() == [1.0]
    assert Labeller(model)(frames, frames).flatten().tolist() == [code] * 3


def test_equal_codes_are_one_and_need_no_second_look(
    model: LatentActionModel, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where re-seeding put two codes on one encoding: the lowest is meant, in single precision too."""
    doubled = copy.deepcopy(model)
    codebook = doubled.quantizer.codebook.data
    quantizer = VectorQuantizer(VectorQuantizer.Config(num_codes=2 * len(codebook)), latent_dim=codebook.shape[1])
    quantizer.codebook.data = codebook.repeat_interleave(2, 0)
    doubled.quantizer = quantizer.eval().requires_grad_(False)
    expected = 2 * label(model, frames[:-1], frames[1:])
    looked = []
    exactly = Copies.label_exactly
    monkeypatch.setattr(Copies, "label_exactly", lambda *given: looked.append(1) or exactly(*given))
    assert torch.equal(label(doubled, frames[:-1], frames[1:]), expected)
    assert len(looked) < PAIRS / 4


def test_labelling_leaves_the_threads_of_the_process_as_they_are(
    model: LatentActionModel, frames: np.ndarray, threads: None
) -> None:
    pair = [prepare(torch.from_numpy(part), model.format) for part in (frames[:3], frames[1:4])]
    torch.set_num_threads(2)
    labeller = Labeller(model, threads=1)
    assert torch.equal(labeller(*pair), Labeller(model)(*pair))
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError):
        labeller(pair[0], pair[1][:, :, :5])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((105, 80, 3), np.uint8, r"\(105, 80, 3\) uint8.*\(210, 160, 3\) uint8"),
        ((210, 160), np.uint8, r"wants \(210, 160, 3\) uint8"),
        ((210, 160, 1), np.uint8, r"wants \(210, 160, 3\) uint8"),
        ((3, 210, 160), np.uint8, r"wants \(210, 160, 3\) uint8"),
        ((210, 160, 3), np.float32, r"float32.*uint8"),
        ((210, 160, 3), np.int64, r"int64.*uint8"),
        ((2, 210, 160, 4), np.uint8, r"\(210, 160, 4\) uint8"),
    ],
)
def test_frames_of_another_kind_are_refused(
    model: LatentActionModel, shape: tuple[int, ...], dtype: type, said: str
) -> None:
    frame = np.zeros(shape, dtype)
    with pytest.raises(DataError, match=said):
        label(model, frame, frame)


def test_frames_that_differ_in_shape_are_refused(model: LatentActionModel, frames: np.ndarray) -> None:
    with pytest.raises(DataError, match="differ in shape"):
        label(model, frames[0], frames[:2])


def test_a_continuous_quantizer_has_no_codes(model: LatentActionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VectorQuantizer, "num_codes", None)
    with pytest.raises(DataError, match="continuous"):
        Labeller(model)


def test_labelling_leaves_the_model_as_it_was(model: LatentActionModel, frames: np.ndarray) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    label(model, frames[:3], frames[1:4])
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_folding_batch_norm_changes_rounding_only(breakout_checkpoint: Checkpoint, frames: np.ndarray) -> None:
    model = copy.deepcopy(breakout_checkpoint.model)
    pair = [to_float(prepare(torch.from_numpy(part), model.format)) for part in (frames[:4], frames[1:5])]
    expected = model.encode(*pair)
    fold_batch_norm(model)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.encoder.modules())
    torch.testing.assert_close(model.encode(*pair), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_labeller_goes_through_pickle_without_its_copies(model: LatentActionModel, frames: np.ndarray) -> None:
    pair = [prepare(torch.from_numpy(part), model.format) for part in (frames[:3], frames[1:4])]
    labeller = Labeller(model)
    codes = labeller(*pair)
    packed = pickle.dumps(labeller)
    assert len(packed) < 1.2 * len(pickle.dumps(model)) + 10_000
    assert torch.equal(pickle.loads(packed)(*pair), codes)


def test_codes_do_not_depend_on_the_precision_that_the_user_has_set(
    borderline_model: LatentActionModel, frames: np.ndarray
) -> None:
    expected = label(borderline_model, frames[:-1], frames[1:])
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(label(borderline_model, frames[:-1], frames[1:]), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
