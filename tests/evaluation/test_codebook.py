"""Figures of code use, of known counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lapa.evaluation.codebook import code_map
from lapa.metrics.codes import code_names, code_use
from lapa_plugins.quantizers.residual import ResidualQuantizer


def test_codebook_figures_of_known_counts() -> None:
    codes = np.array([[[0, 1]], [[0, 1]], [[1, 1]], [[1, 1]]])  # 4 transitions of 1 x 2 codes
    entropy = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert code_use(codes, number=16).metrics() == {
        "num_codes": 16.0,
        "codes_used": 2.0,
        "perplexity": pytest.approx(2**entropy),
        "bits_nominal": 8.0,
        "bits_empirical": pytest.approx(1.0),  # one bit at the first place, none at the second
        "place_codes_used_min": 1.0,
        "place_codes_used_max": 2.0,
        "place_perplexity_min": 1.0,
        "place_perplexity_max": 2.0,
    }


def test_counts_are_kept_by_place() -> None:
    codes = np.array([[[0, 1], [2, 2]], [[0, 2], [2, 1]]])
    counts = code_use(codes, number=3).counts
    assert counts.shape == (2, 2, 3)
    assert counts[0, 0].tolist() == [2, 0, 0]
    assert counts[0, 1].tolist() == [0, 1, 1]
    assert counts[1, 0].tolist() == [0, 0, 2]
    assert counts[1, 1].tolist() == [0, 1, 1]


def test_a_codebook_of_one_code_carries_nothing() -> None:
    metrics = code_use(np.full((5, 2, 2), 3), number=8).metrics()
    assert (metrics["codes_used"], metrics["perplexity"], metrics["bits_empirical"]) == (1.0, 1.0, 0.0)


def test_an_even_codebook_carries_all_it_could() -> None:
    metrics = code_use(np.arange(8).reshape(8, 1, 1), number=8).metrics()
    assert metrics["perplexity"] == pytest.approx(8.0)
    assert metrics["bits_empirical"] == pytest.approx(metrics["bits_nominal"]) == 3.0


def test_the_map_keeps_groups_of_code_vectors_together() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(40) % 2
    vectors = 10 * np.eye(8)[group] + 0.1 * rng.normal(size=(40, 8))
    places = code_map(vectors)
    assert places is not None
    assert places.shape == (40, 2)
    centres = np.stack([places[group == g].mean(0) for g in (0, 1)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(1)
    np.testing.assert_array_equal(nearest, group)


def test_too_few_codes_have_no_map() -> None:
    assert code_map(np.eye(3)) is None


def test_the_codes_of_a_place_are_told_apart() -> None:
    quantizer = ResidualQuantizer(ResidualQuantizer.Config(num_codes=4, depth=2), latent_dim=2)
    codes = quantizer.distinct(torch.tensor([[[1, 1, 0, 3]], [[1, 2, 0, 3]]]))  # two codes at each of two places
    assert codes.tolist() == [[[1, 5, 0, 7]], [[1, 6, 0, 7]]]
    assert quantizer.num_distinct == 8
    metrics = code_use(codes.numpy(), 8, 2).metrics()
    assert (metrics["num_codes"], metrics["codes_used"], metrics["bits_nominal"]) == (8.0, 5.0, 8.0)
    assert code_names(4, 2)[5:7] == ["2:1", "2:2"]
    assert code_names(4, 1)[3] == "3"
