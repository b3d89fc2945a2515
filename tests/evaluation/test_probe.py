"""Probes read what is in the codes, and stand beside what can be had without them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lapa.evaluation.probe import ProbeData, balanced_accuracy, probe_actions


def planted(count: int, seed: int, *, informative: bool) -> ProbeData:
    """Transitions of 1 x 2 codes: the first, and the state, are the action if ``informative``; the rest is noise."""
    rng = np.random.default_rng(seed)
    actions = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    told = actions if informative else rng.integers(0, 8, count)
    return ProbeData(
        codes=np.stack([told, rng.integers(0, 8, count)], axis=1)[:, None],
        actions=actions,
        observation=rng.normal(size=(count, 4)),
        state=np.stack([actions + rng.normal(0, 0.01, count), rng.normal(size=count)], axis=1),
    )


def test_the_probe_reads_a_planted_action() -> None:
    metrics = probe_actions(planted(600, 0, informative=True), planted(300, 1, informative=True), num_codes=8).metrics
    for name in ("accuracy", "linear_accuracy", "oracle_accuracy", "share_of_oracle"):
        assert metrics[name] == 1.0, name
    assert metrics["majority_accuracy"] == pytest.approx(0.6, abs=0.08)


def test_the_probe_reads_nothing_from_noise() -> None:
    metrics = probe_actions(planted(600, 0, informative=False), planted(300, 1, informative=False), num_codes=8).metrics
    assert metrics["accuracy"] == pytest.approx(metrics["majority_accuracy"], abs=0.05)
    assert metrics["share_of_oracle"] == pytest.approx(metrics["accuracy"] / metrics["oracle_accuracy"])


def test_the_probe_sees_what_two_codes_mean_together_and_a_linear_one_does_not() -> None:
    def exclusive_or(count: int, seed: int) -> ProbeData:
        codes = np.random.default_rng(seed).integers(0, 2, (count, 1, 2))
        return ProbeData(codes, codes.sum((1, 2)) % 2, np.zeros((count, 1)), state=None)

    metrics = probe_actions(exclusive_or(400, 0), exclusive_or(200, 1), num_codes=2).metrics
    assert metrics["accuracy"] == 1.0
    assert metrics["linear_accuracy"] < 0.8


def test_the_majority_is_that_of_the_training_actions() -> None:
    train, test = planted(300, 0, informative=True), planted(100, 1, informative=True)
    test = dataclasses.replace(test, actions=np.full(100, 2), state=None)
    metrics = probe_actions(train, test, num_codes=8).metrics
    assert metrics["majority_accuracy"] == 0.0
    assert "oracle_accuracy" not in metrics


def test_balanced_accuracy_counts_each_class_alike() -> None:
    truth = np.array([0] * 8 + [1, 1])
    assert balanced_accuracy(truth, np.zeros(10, dtype=int)) == 0.5
    assert balanced_accuracy(truth, np.array([0] * 4 + [1] * 4 + [1, 0])) == 0.5
    assert balanced_accuracy(truth, truth) == 1.0


def test_the_majority_has_a_balanced_accuracy_of_chance() -> None:
    result = probe_actions(planted(600, 0, informative=True), planted(300, 1, informative=True), num_codes=8)
    assert result.metrics["majority_balanced_accuracy"] == pytest.approx(1 / 3)
    assert result.metrics["balanced_accuracy"] == 1.0


def test_the_observation_alone_is_found_out() -> None:
    """Where the frame gives the action away, codes that know it are no feat, and stand beside it."""
    train, test = planted(600, 0, informative=True), planted(300, 1, informative=True)
    train, test = (dataclasses.replace(data, observation=data.actions[:, None].astype(float)) for data in (train, test))
    metrics = probe_actions(train, test, num_codes=8).metrics
    assert metrics["observation_accuracy"] == metrics["accuracy"] == 1.0
    blind = probe_actions(planted(600, 0, informative=True), planted(300, 1, informative=True), num_codes=8).metrics
    assert blind["observation_accuracy"] <= blind["majority_accuracy"] + 0.05


def test_confusion_counts_true_actions_by_row() -> None:
    test = planted(300, 1, informative=True)
    result = probe_actions(planted(600, 0, informative=True), test, num_codes=8)
    assert result.classes.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(result.confusion, np.diag(np.bincount(test.actions)))


def test_more_labels_read_more() -> None:
    metrics = probe_actions(planted(1200, 0, informative=True), planted(300, 1, informative=True), num_codes=8).metrics
    few, more, many = (metrics[f"labels_{count}_accuracy"] for count in (10, 100, 1000))
    assert few < more <= many == 1.0
    small = probe_actions(planted(120, 0, informative=True), planted(300, 1, informative=True), num_codes=8).metrics
    assert "labels_1000_accuracy" not in small


def test_mutual_information_is_that_of_the_best_place() -> None:
    told = probe_actions(planted(600, 0, informative=True), planted(300, 1, informative=True), num_codes=8).metrics
    assert told["nmi"] == told["ami"] == pytest.approx(1.0)
    noise = probe_actions(planted(600, 0, informative=False), planted(300, 1, informative=False), num_codes=8).metrics
    assert noise["nmi"] < 0.1
    assert abs(noise["ami"]) < 0.05
