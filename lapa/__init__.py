"""Latent actions from game video: a discrete code for what was done between two frames.

The names below are imported from their modules on first use, so that ``import lapa`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lapa.version import __version__ as __version__

if TYPE_CHECKING:
    from lapa.config import Config, load_config
    from lapa.contracts import Conditioner, Encoder, Quantized, Quantizer
    from lapa.engine.checkpoint import Checkpoint, load_checkpoint, load_model
    from lapa.engine.training import train
    from lapa.inference.extraction import LatentActionDataset, extract
    from lapa.inference.labelling import Labeller, label
    from lapa.inference.tokens import TokenDataset, detokenize, tokenize
    from lapa.shipped import ShippedModel, models
    from lapa.systems.latent_action.model import LatentActionModel

_HOMES = {
    "Checkpoint": "lapa.engine.checkpoint",
    "load_checkpoint": "lapa.engine.checkpoint",
    "load_model": "lapa.engine.checkpoint",
    "Config": "lapa.config",
    "load_config": "lapa.config",
    "Conditioner": "lapa.contracts",
    "Encoder": "lapa.contracts",
    "Quantized": "lapa.contracts",
    "Quantizer": "lapa.contracts",
    "LatentActionDataset": "lapa.inference.extraction",
    "extract": "lapa.inference.extraction",
    "Labeller": "lapa.inference.labelling",
    "label": "lapa.inference.labelling",
    "TokenDataset": "lapa.inference.tokens",
    "detokenize": "lapa.inference.tokens",
    "tokenize": "lapa.inference.tokens",
    "ShippedModel": "lapa.shipped",
    "models": "lapa.shipped",
    "LatentActionModel": "lapa.systems.latent_action.model",
    "train": "lapa.engine.training",
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
    "ShippedModel",
    "TokenDataset",
    "detokenize",
    "extract",
    "label",
    "load_checkpoint",
    "load_config",
    "load_model",
    "models",
    "tokenize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lapa' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
