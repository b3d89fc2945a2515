"""Latent actions from game video: a discrete code for what was done between two frames.

The names below are imported from their modules on first use, so that ``import lapa`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lapa.checkpoint import Checkpoint, load_checkpoint, load_model
    from lapa.config import Config, load_config
    from lapa.contracts import Conditioner, Encoder, Quantized, Quantizer
    from lapa.extraction import LatentActionDataset, extract
    from lapa.labelling import Labeller, label
    from lapa.model import LatentActionModel
    from lapa.training import train

_HOMES = {
    "Checkpoint": "lapa.checkpoint",
    "load_checkpoint": "lapa.checkpoint",
    "load_model": "lapa.checkpoint",
    "Config": "lapa.config",
    "load_config": "lapa.config",
    "Conditioner": "lapa.contracts",
    "Encoder": "lapa.contracts",
    "Quantized": "lapa.contracts",
    "Quantizer": "lapa.contracts",
    "LatentActionDataset": "lapa.extraction",
    "extract": "lapa.extraction",
    "Labeller": "lapa.labelling",
    "label": "lapa.labelling",
    "LatentActionModel": "lapa.model",
    "train": "lapa.training",
}

__all__ = [
    "Checkpoint",
    "Conditioner",
    "Config",
    "Encoder",
    "Labeller",
    "LatentActionDataset",
    "LatentActionModel",
    "Quantized",
    "Quantizer",
    "extract",
    "label",
    "load_checkpoint",
    "load_config",
    "load_model",
    "train",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lapa' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
