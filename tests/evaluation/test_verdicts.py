"""The judgement in words follows the figures."""

from __future__ import annotations

import pytest

from lapa.evaluation.evaluate import verdicts

GOOD = {
    "recon/psnr_db": 40.0,
    "recon/mean_psnr_db": 27.0,
    "recon/gain_over_copy_db": 5.6,
    "codebook/codes_used": 250.0,
    "codebook/num_codes": 256.0,
    "codebook/perplexity": 7.0,
    "control/shuffled_delta_psnr_db/t1": 7.3,
    "probe/accuracy": 0.83,
    "probe/majority_accuracy": 0.37,
    "probe/observation_accuracy": 0.45,
    "probe/oracle_accuracy": 0.86,
    "elements/ball/within_4px": 0.95,
    "elements/ball/copy_within_4px": 0.01,
}


def said(**changes: float) -> dict[str, str]:
    """Level by first words of each sentence."""
    return {verdict.sentence: verdict.level for verdict in verdicts(GOOD | changes)}


def test_a_good_model_has_nothing_against_it() -> None:
    assert set(said().values()) == {"good"}
    assert len(said()) == 5


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"recon/gain_over_copy_db": 0.0}, "bad", "no better than copying"),
        ({"recon/gain_over_copy_db": -3.2}, "bad", "(-3.2 dB)"),
        ({"recon/gain_over_copy_db": 0.5}, "weak", "hardly better than copying"),
        ({"recon/psnr_db": 26.0}, "bad", "A still picture"),
        ({"codebook/codes_used": 1.0, "codebook/perplexity": 1.0}, "bad", "has collapsed"),
        ({"codebook/codes_used": 30.0}, "weak", "30 of 256 codes"),
        ({"codebook/perplexity": 1.2}, "weak", "perplexity 1.2"),
        ({"control/shuffled_delta_psnr_db/t1": 0.1}, "bad", "hardly steer"),
        ({"probe/accuracy": 0.46}, "bad", "do not tell the action"),
        ({"probe/accuracy": 0.60}, "weak", "tell something of the action"),
        ({"probe/observation_accuracy": 0.82}, "bad", "the current frame alone tells 82 %"),
        ({"elements/ball/within_4px": 0.1}, "bad", "The ball is lost"),
        ({"elements/ball/within_4px": 0.6}, "weak", "often"),
    ],
)
def test_each_fault_is_told(changes: dict[str, float], level: str, words: str) -> None:
    found = [sentence for sentence, grade in said(**changes).items() if grade == level]
    assert any(words in sentence for sentence in found), said(**changes)


def test_what_was_not_measured_is_not_judged() -> None:
    drawing = {name: value for name, value in GOOD.items() if name.startswith("recon/")}
    assert len(verdicts(drawing)) == 1
    assert verdicts({}) == []
