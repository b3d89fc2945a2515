"""A model as ONNX files, which run without PyTorch and without lapa.

Of a latent action model:

    encoder.onnx    current, next: (B, H, W, 3) uint8 RGB as recorded -> codes: (B, h, w * n) int64;
                    frame: (B, C, H', W') float32 in [0, 1], the current frame as the decoder wants it
    decoder.onnx    frame, codes -> next_frame: (B, C, H', W') float32 in [0, 1], the next frame as the model draws it

Of a tokenizer:

    encoder.onnx    frames: (B, H, W, 3) uint8 RGB as recorded -> tokens: (B, h, w * n) int64
    decoder.onnx    tokens -> frame: (B, C, H', W') float32 in [0, 1], the frame as the model predicts it

Of a recurrent world model, whose state is several tensors (of ``rssm``: recurrent, stochastic):

    begin.onnx      frames: (B, H, W, 3) uint8 RGB as recorded -> the state after one frame
    observe.onnx    state, action: (B,) int64, frames -> the state after a step whose frame was seen
    step.onnx       state, action -> the state after a step without a frame; frame: (B, C, H', W') float32 in [0, 1];
                    reward, ended: (B,) float32, how likely the episode ends here

H W recorded frame, C H' W' prepared frame, h w latent grid, n codes a place; B is free.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lapa.contracts import Clips, Coder, Drawer, Dreamer, System
from lapa.data.files import atomic_file
from lapa.data.frames import prepare_together, to_float
from lapa.engine.checkpoint import Checkpoint
from lapa.errors import ConfigError, DataError
from lapa.inference.labelling import without_decoder
from lapa.inference.tokens import blank_clips
from lapa.nn.layers import fold_batch_norm
from lapa.progress import notify as print_line

PACKAGES = ("onnx", "onnxscript")
OPSET = 20


class Graph(NamedTuple):
    """A module to write, with its inputs and the names of all that goes in and comes out."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    names: tuple[str, ...]
    outputs: tuple[str, ...]


class EncoderGraph(nn.Module):
    """From recorded frames to codes. Latents are in single precision, their nearest codes are found in double."""

    def __init__(self, model: Coder) -> None:
        super().__init__()
        self.format = model.format
        self.model = without_decoder(model)
        fold_batch_norm(self.model)
        self.model.quantizer.double()

    def encode(self, *recorded: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8, once or twice -> codes (B, h, w * n), and the first frame (B, C, H', W')."""
        frames = [to_float(prepare_together(frame, self.format)) for frame in recorded]
        codes = self.model.quantizer(self.model.encode(*frames).double()).codes
        assert codes is not None
        return codes, frames[0]


class PairGraph(EncoderGraph):
    """From a pair of recorded frames to its codes, and to the current frame as the decoder wants it."""

    def forward(self, current: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8 twice -> codes (B, h, w * n), and the current frame (B, C, H', W')."""
        return self.encode(current, following)


class TokensGraph(EncoderGraph):
    """From recorded frames to their tokens."""

    def forward(self, frames: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 -> tokens (B, h, w * n)."""
        return self.encode(frames)[0]


class FrameGraph(nn.Module):
    """From tokens to the frame."""

    def __init__(self, model: Drawer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, h, w * n) -> (B, C, H', W')."""
        return self.model.draw(blank_clips(self.model, tokens), tokens)


class DecoderGraph(nn.Module):
    """From a frame and codes to the next frame."""

    def __init__(self, model: Dreamer) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H', W') and (B, h, w * n) -> (B, C, H', W')."""
        return self.model.step(frame, codes)[1].frame


class BeginGraph(nn.Module):
    """From a recorded frame to the state after it."""

    def __init__(self, model: Dreamer) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) uint8 -> the tensors of a state."""
        seen = prepare_together(frames, self.model.format)
        none = torch.zeros(frames.shape[0], 0, dtype=torch.int64, device=frames.device)
        return tuple(self.model.begin(Clips(seen[:, None], {"actions": none})))


class ObserveGraph(nn.Module):
    """From a state, an action and the recorded frame that came of it to the next state."""

    def __init__(self, model: Dreamer, state: type[Any]) -> None:
        super().__init__()
        self.model, self.state = model, state

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The tensors of a state, (B,) int64 and (B, H, W, 3) uint8 -> the tensors of the next state."""
        *state, action, frames = given
        return tuple(self.model.observe(self.state(*state), action, prepare_together(frames, self.model.format)))


class StepGraph(nn.Module):
    """From a state and an action to the next state and what it shows."""

    def __init__(self, model: Dreamer, state: type[Any]) -> None:
        super().__init__()
        self.model, self.state = model, state

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The tensors of a state and (B,) int64 -> those of the next state, and of an :class:`Imagined`."""
        *state, action = given
        after, imagined = self.model.step(self.state(*state), action)
        shown = [part for part in (imagined.frame, imagined.reward, imagined.ended) if part is not None]
        return (*after, *shown)


def to_onnx(checkpoint: Checkpoint, out: Path, *, notify: Callable[[str], None] = print_line) -> list[Path]:
    """Writes the model's graphs into the folder ``out``, each whole or not at all.

    Raises:
        ConfigError: the packages that write them are not installed.
        DataError: the model is none that can be taken apart so.
    """
    check_packages()
    model = checkpoint.model.cpu().eval()
    check_codes(model, checkpoint.path)
    graphs = graphs_of(model, checkpoint.path)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, graph in graphs.items():
        paths.append(out / f"{name}.onnx")
        write(graph, paths[-1])
        notify(f"wrote {paths[-1]} ({paths[-1].stat().st_size / 1e6:.1f} MB)")
    return paths


def graphs_of(model: System, path: Path | str) -> dict[str, Graph]:
    """What to write, by the names of the files.

    Raises:
        DataError: the model cannot be taken apart so.
    """
    seen = model.format
    recorded = torch.randint(256, (2, seen.height, seen.width, 3), dtype=torch.uint8)
    if isinstance(model, Coder) and isinstance(model, Dreamer) and model.track == "codes":
        pair = recorded, recorded.flip(0)
        encoder: EncoderGraph = PairGraph(model)
        codes, frame = encoder(*pair)
        return {
            "encoder": Graph(encoder, pair, ("current", "next"), ("codes", "frame")),
            "decoder": Graph(DecoderGraph(model), (frame, codes), ("frame", "codes"), ("next_frame",)),
        }
    if isinstance(model, Coder) and isinstance(model, Drawer) and model.track == "tokens":
        encoder = TokensGraph(model)
        return {
            "encoder": Graph(encoder, (recorded,), ("frames",), ("tokens",)),
            "decoder": Graph(FrameGraph(model), (encoder(recorded),), ("tokens",), ("frame",)),
        }
    if isinstance(model, Dreamer) and model.actions.kind == "actions" and (graphs := recurrent_graphs(model, recorded)):
        return graphs
    raise DataError(f"{path}: a {type(model).__name__} cannot be exported; name a checkpoint of another system")


@torch.no_grad()
def recurrent_graphs(model: Dreamer, recorded: Tensor) -> dict[str, Graph]:
    """Those of a system that continues a game under actions; none unless its state is a named tuple of tensors."""
    begin = BeginGraph(model)
    clips = Clips(prepare_together(recorded, model.format)[:, None], {"actions": torch.zeros(2, 0, dtype=torch.int64)})
    state = model.begin(clips)
    if not hasattr(state, "_fields"):
        return {}
    fields, action = type(state)._fields, torch.tensor([0, model.actions.count - 1])
    after = tuple(f"next_{field}" for field in fields)
    _, imagined = model.step(state, action)
    shown = [name for name in ("frame", "reward", "ended") if getattr(imagined, name) is not None]
    return {
        "begin": Graph(begin, (recorded,), ("frames",), fields),
        "observe": Graph(
            ObserveGraph(model, type(state)), (*state, action, recorded), (*fields, "action", "frames"), after
        ),
        "step": Graph(StepGraph(model, type(state)), (*state, action), (*fields, "action"), (*after, *shown)),
    }


@torch.no_grad()
def write(graph: Graph, path: Path) -> None:
    """Writes one graph, checked by ``onnx.checker``, whatever the size of its batch."""
    import onnx

    batch = torch.export.Dim("B")
    shapes = tuple({0: batch} for _ in graph.inputs)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        for library in ("torch.onnx", "onnxscript"):
            logging.getLogger(library).setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.module.eval(),
            graph.inputs,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(graph.names),
            output_names=list(graph.outputs),
            # Of a forward pass that takes any number of tensors, these are one argument.
            dynamic_shapes=(shapes,) if isinstance(graph.module, (ObserveGraph, StepGraph)) else shapes,
            verbose=False,
        )
        assert program is not None
        scratch = Path(folder) / path.name
        program.save(str(scratch))
        onnx.checker.check_model(str(scratch), full_check=True)
        with atomic_file(path) as file:
            file.write(scratch.read_bytes())


def check_packages() -> None:
    """Checks that the packages that write ONNX files are installed.

    Raises:
        ConfigError: one is not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"writing ONNX needs the package {missing[0]}; install it by: pip install 'lapa[onnx]'")


def check_codes(model: System, path: Path | str) -> None:
    """Checks that a model's latent is not continuous.

    Raises:
        DataError: it is.
    """
    if isinstance(model, Coder) and model.quantizer.num_codes is None:
        raise DataError(f"{path}: its quantizer is continuous: there are no codes to export; name another checkpoint")
