"""The shipped figures of the writeup, against what is known of it."""

import pytest

from asr.reporting.published import librispeech, published_runs


def test_every_logged_epoch_is_shipped() -> None:
    runs = published_runs()
    assert {name: len(run.epochs) for name, run in runs.items()} == {
        "exp1": 49, "exp2_clean": 49, "exp2_other": 49, "exp3": 100}  # fmt: skip
    assert runs["exp3"].epochs[-1].dev_cer == 0.66028
    assert runs["exp2_clean"].epochs[-1].dev_wer == 0.66673
    assert all(epoch.dev_wer is None for epoch in runs["exp1"].epochs), "computed wrongly in the writeup"


def test_utterances_seen() -> None:
    runs = published_runs()
    assert runs["exp1"].epochs[0].seen == 101 * 64
    assert runs["exp3"].epochs[-1].seen == 100 * 101 * 32
    assert runs["exp2_other"].epochs[0].seen == 50 * 101 * 32, "the second stage goes on from the first"
    assert runs["exp2_other"].epochs[-1].seen == pytest.approx(317_000, rel=0.001)


def test_published_rates_and_librispeech() -> None:
    runs = published_runs()
    assert runs["exp1"].rates["test-clean"] == (0.39, None)
    assert runs["exp2_other"].rates == {"test-clean": (0.16, 0.45), "test-other": (0.27, 0.63)}
    assert runs["exp3"].rates == {"test-clean": (0.71, 0.99), "test-other": (0.68, 1.02)}
    assert librispeech()["train-clean-100"] == (28539, 100.6)
    assert sum(size.hours for size in librispeech().values()) == pytest.approx(982.1)
