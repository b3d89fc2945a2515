"""The helpers of the tests do what the tests rely on."""

from __future__ import annotations

from itertools import combinations

import pytest

from helpers import pairwise_cover
from lapa import registry

PARTS = [members.names() for members in (registry.encoders, registry.quantizers, registry.conditioners)]


@pytest.mark.parametrize("roles", [PARTS, ["ab", "cde"], ["ab", "cd", "efg", "hi"]], ids=["parts", "two", "four"])
def test_in_a_pairwise_cover_all_of_one_role_meet_all_of_another(roles: list[list[str]]) -> None:
    cover = pairwise_cover(*roles)
    for one, other in combinations(range(len(roles)), 2):
        expected = {(a, b) for a in roles[one] for b in roles[other]}
        assert {(names[one], names[other]) for names in cover} == expected


def test_a_pairwise_cover_is_small_and_always_the_same() -> None:
    cover = pairwise_cover(*PARTS)
    sizes = sorted(map(len, PARTS))
    assert sizes[-1] * sizes[-2] <= len(cover) <= 1.3 * sizes[-1] * sizes[-2]
    assert len(set(cover)) == len(cover)
    assert cover == pairwise_cover(*PARTS)
