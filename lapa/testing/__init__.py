"""What every part and every model family must do, for the tests of those who write one.

from lapa.testing import check_quantizer, check_system

def test_my_quantizer():
    check_quantizer(MyQuantizer)

def test_my_family():
    check_system(MyFamily)
"""

from lapa.testing.parts import (
    CHECKS,
    FEATURES,
    FRAME_SIZES,
    LATENT_DIM,
    LATENT_GRIDS,
    Check,
    Subject,
    check_conditioner,
    check_decoder,
    check_encoder,
    check_frame_decoder,
    check_quantizer,
    options_are_a_frozen_dataclass,
)
from lapa.testing.systems import SYSTEM_CHECKS, SystemSubject, check_system, toy_store

__all__ = [
    "CHECKS",
    "FEATURES",
    "FRAME_SIZES",
    "LATENT_DIM",
    "LATENT_GRIDS",
    "SYSTEM_CHECKS",
    "Check",
    "Subject",
    "SystemSubject",
    "check_conditioner",
    "check_decoder",
    "check_encoder",
    "check_frame_decoder",
    "check_quantizer",
    "check_system",
    "options_are_a_frozen_dataclass",
    "toy_store",
]
