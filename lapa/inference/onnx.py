"""A latent action model as two ONNX files, which run without PyTorch and without lapa.

    encoder.onnx    current, next: (B, H, W, 3) uint8 RGB as recorded -> codes: (B, h, w * n) int64;
                    frame: (B, C, H', W') float32 in [0, 1], the current frame as the decoder wants it
    decoder.onnx    frame, codes -> next_frame: (B, C, H', W') float32 in [0, 1], the next frame as the model draws it

H W recorded frame, C H' W' prepared frame, h w latent grid, n codes a place; B is free.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lapa.contracts import Coder, Dreamer, System
from lapa.data.files import atomic_file
from lapa.data.frames import prepare_together, to_float
from lapa.engine.checkpoint import Checkpoint
from lapa.errors import ConfigError, DataError
from lapa.inference.labelling import without_decoder
from lapa.nn.layers import fold_batch_norm
from lapa.progress import notify as print_line

PACKAGES = ("onnx", "onnxscript")
OPSET = 20


class EncoderGraph(nn.Module):
    """From recorded frames to codes. Latents are in single precision, their nearest codes are found in double."""

    def __init__(self, model: Coder) -> None:
        super().__init__()
        self.format = model.format
        self.model = without_decoder(model)
        fold_batch_norm(self.model)
        self.model.quantizer.double()

    def forward(self, current: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 3) uint8 twice -> codes (B, h, w * n), and the current frame (B, C, H', W')."""
        frames = [to_float(prepare_together(frame, self.format)) for frame in (current, following)]
        codes = self.model.quantizer(self.model.encode(*frames).double()).codes
        assert codes is not None
        return codes, frames[0]


class DecoderGraph(nn.Module):
    """From a frame and codes to the next frame."""

    def __init__(self, model: Dreamer) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H', W') and (B, h, w * n) -> (B, C, H', W')."""
        return self.model.step(frame, codes)[1].frame


def to_onnx(checkpoint: Checkpoint, out: Path, *, notify: Callable[[str], None] = print_line) -> list[Path]:
    """Writes ``encoder.onnx`` and ``decoder.onnx`` to the folder ``out``, each whole or not at all.

    Raises:
        ConfigError: the packages that write them are not installed.
        DataError: the model is no latent action model with codes.
    """
    check_packages()
    model = checkpoint.model.cpu().eval()
    check_model(model, checkpoint.path)
    assert isinstance(model, Coder)
    assert isinstance(model, Dreamer)
    seen = model.format
    recorded = torch.randint(256, (2, seen.height, seen.width, 3), dtype=torch.uint8)
    encoder = EncoderGraph(model)
    codes, frame = encoder(recorded, recorded.flip(0))
    out.mkdir(parents=True, exist_ok=True)
    encoder_path, decoder_path = out / "encoder.onnx", out / "decoder.onnx"
    write(encoder, (recorded, recorded.flip(0)), ("current", "next"), ("codes", "frame"), encoder_path)
    write(DecoderGraph(model), (frame, codes), ("frame", "codes"), ("next_frame",), decoder_path)
    for path in (encoder_path, decoder_path):
        notify(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return [encoder_path, decoder_path]


@torch.no_grad()
def write(
    graph: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], outputs: Sequence[str], path: Path
) -> None:
    """Writes one graph, checked by ``onnx.checker``, whatever the size of its batch."""
    import onnx

    batch = torch.export.Dim("B")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(names),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
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


def check_model(model: System, path: Path | str) -> None:
    """Checks that a model has codes of transitions and draws from them.

    Raises:
        DataError: it does not.
    """
    if not (isinstance(model, Coder) and isinstance(model, Dreamer) and model.track == "codes"):
        raise DataError(f"{path}: a {type(model).__name__} cannot be exported; name a latent action model")
    if model.quantizer.num_codes is None:
        raise DataError(f"{path}: its quantizer is continuous: there are no codes to export; name another checkpoint")
