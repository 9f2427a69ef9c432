"""How well the confidences of words tell right words from wrong ones."""

import pytest

from asr.metrics import ErrorRates, score


def quality(*utterances):
    scored = [score(str(n), ref, hyp, confidences=conf) for n, (ref, hyp, conf) in enumerate(utterances)]
    rates = ErrorRates.of(scored)
    assert ErrorRates.from_json(rates.to_json()) == rates
    return rates.confidence_auroc, rates.confidence_ece


def test_wrong_words_with_lower_confidences_are_told_apart():
    assert quality(("a b c", "a x c", (0.9, 0.1, 0.8)), ("d", "d e", (0.7, 0.2)))[0] == 1
    assert quality(("a b", "a x", (0.3, 0.6)))[0] == 0
    assert quality(("a b", "a x", (0.5, 0.5)))[0] == 0.5
    assert quality(("a b c", "a b x", (0.3, 0.9, 0.6)))[0] == 0.5


def test_calibration_compares_confidence_with_accuracy():
    assert quality(("a b", "a x", (1.0, 0.0)))[1] == 0
    assert quality(("a b", "a x", (0.75, 0.75)))[1] == pytest.approx((0.25 + 0.75) / 2)  # each word is a bin
    many = [("a b", "a x", (0.5, 0.5))] * 30
    assert quality(*many)[1] == pytest.approx(0, abs=1e-9)  # four words a bin, half of them right


def test_without_errors_or_without_confidences_there_is_nothing_to_tell():
    assert quality(("a", "a", (0.9,))) == (None, pytest.approx(0.1))
    assert quality(("a", "", ())) == (None, None)
    assert quality(("a", "b", ())) == (None, None)
    assert "confidence_auroc" not in ErrorRates.of([score("1", "a", "a")]).as_metrics()
