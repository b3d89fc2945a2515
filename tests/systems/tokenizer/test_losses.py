"""The loss of the tokenizer: which pixels count how much."""

from __future__ import annotations

import pytest
import torch

from lapa.systems.tokenizer.config import LossConfig
from lapa.systems.tokenizer.losses import pixel_terms, rarity

CODES = torch.tensor([[[0, 0], [0, 7]]])
"""(1, 2, 2): a code that three places have, and one of a single place."""


def test_all_pixels_count_alike_by_default() -> None:
    errors = torch.rand(1, 4, 6)
    assert set(pixel_terms(errors, LossConfig(), CODES)) == {"reconstruction"}
    weight, term = pixel_terms(errors, LossConfig(), CODES)["reconstruction"]
    assert weight == 1
    torch.testing.assert_close(term, errors.mean())


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_an_error_counts_by_how_rare_the_code_of_its_place_is(power: float) -> None:
    often, rare = (torch.zeros(1, 4, 6) for _ in range(2))
    often[0, 1, 5] = 1  # the place of the first row and the second column
    rare[0, 2, 3] = 1
    counted = [pixel_terms(each, LossConfig(rare=power), CODES)["reconstruction"][1] for each in (rare, often)]
    assert float(counted[0] / counted[1]) == pytest.approx(3**power)
    assert float(rarity(CODES, power).mean()) == pytest.approx(1)


def test_with_one_all_codes_count_alike() -> None:
    weights = rarity(CODES, 1.0)
    assert float(weights[CODES == 0].sum()) == pytest.approx(float(weights[CODES == 7].sum()))


def test_without_codes_rarity_says_nothing() -> None:
    errors = torch.rand(1, 4, 6)
    torch.testing.assert_close(pixel_terms(errors, LossConfig(rare=0.5))["reconstruction"][1], errors.mean())


def test_a_power_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rare: must be at most 1, not 2"):
        LossConfig(rare=2.0)
