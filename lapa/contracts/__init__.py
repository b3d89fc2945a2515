"""What a model family and its parts must do.

A :class:`System` is a model family: what it wants of the recordings, its forward pass, its loss. The engine trains any
of them. What else it can do it says by what it derives from: a :class:`Coder` gives codes, a :class:`Drawer` draws
frames, a :class:`Dreamer` continues a game by itself. An :class:`Encoder`, a :class:`Quantizer`, a
:class:`Conditioner`, a :class:`Decoder` and a :class:`FrameDecoder` are parts that systems pick by name.

Shape legend, used throughout the project:

    B batch    T frames of a clip    C channels (1 grey, 3 RGB)    H W frame    D latent width    h w latent grid
    K codes    F decoder width       n codes at each place of the grid
"""

from lapa.contracts.clips import MASK, Clips, ClipSpec, Facts, Progress
from lapa.contracts.parts import (
    Changes,
    Conditioner,
    Decoder,
    Encoder,
    FrameDecoder,
    MakeConditioner,
    Quantized,
    Quantizer,
)
from lapa.contracts.systems import (
    ActionSpec,
    Coder,
    Drawer,
    Dreamer,
    Imagined,
    Readings,
    System,
    Terms,
    count_parameters,
    summary_of,
)

__all__ = [
    "MASK",
    "ActionSpec",
    "Changes",
    "ClipSpec",
    "Clips",
    "Coder",
    "Conditioner",
    "Decoder",
    "Drawer",
    "Dreamer",
    "Encoder",
    "Facts",
    "FrameDecoder",
    "Imagined",
    "MakeConditioner",
    "Progress",
    "Quantized",
    "Quantizer",
    "Readings",
    "System",
    "Terms",
    "count_parameters",
    "summary_of",
]
