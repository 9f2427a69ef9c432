"""The shipped figures of the writeup, against what is known of it."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from asr.reporting.charts import Line, learning_rates
from asr.reporting.published import learning_rate_curve, librispeech, published_runs


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


def schedule(name: str, optimizer: SGD) -> LRScheduler:
    """The published schedule in torch's own classes."""
    if name == "exp3":
        return CyclicLR(optimizer, 1e-4, 6e-4, step_size_up=50, mode="triangular2")
    return OneCycleLR(optimizer, 0.01 if name == "exp1" else 5e-4, total_steps=5000, pct_start=0.2)


@pytest.mark.parametrize(
    ("name", "steps"), [("exp1", 5000), ("exp2_clean", 5000), ("exp2_other", 5000), ("exp3", 10000)]
)
def test_published_learning_rates_are_those_of_torchs_schedules(name: str, steps: int) -> None:
    optimizer = SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    scheduler, expected = schedule(name, optimizer), []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    shares, rates = learning_rate_curve(name, points=steps)
    assert rates == pytest.approx(expected, rel=1e-9)
    assert (shares[0], shares[-1]) == (0, 1 - 1 / steps)


def test_the_last_steps_of_one_cycle_do_not_stretch_the_axis() -> None:
    """They go down to 2e-9; nothing else of the published schedules is below 2e-5."""
    curves = {name: learning_rate_curve(name, points=500) for name in published_runs()}
    lines = [Line(name, n, "-", shares, [rates]) for n, (name, (shares, rates)) in enumerate(curves.items())]
    low, high = learning_rates(lines).axes[0].get_ylim()
    assert 1e-6 < low < 2e-5
    assert high > 0.01
