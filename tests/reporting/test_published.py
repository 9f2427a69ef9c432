"""The shipped figures of the writeup, against what is known of it."""

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR

from asr.reporting.media import Line, learning_rates
from asr.reporting.published import published

RUNS = published()["experiments"]


def test_every_logged_epoch_is_shipped() -> None:
    assert {name: len(run["epochs"]) for name, run in RUNS.items()} == {
        "exp1": 49, "exp2_clean": 49, "exp2_other": 49, "exp3": 100}  # fmt: skip
    assert RUNS["exp3"]["epochs"].dev_mean_cer.iloc[-1] == 0.66028
    assert RUNS["exp2_clean"]["epochs"].dev_mean_wer.iloc[-1] == 0.66673
    assert RUNS["exp1"]["epochs"].dev_mean_wer.isna().all(), "computed wrongly in the writeup"


def test_utterances_seen() -> None:
    assert RUNS["exp1"]["epochs"].seen.iloc[0] == 101 * 64
    assert RUNS["exp3"]["epochs"].seen.iloc[-1] == 100 * 101 * 32
    assert RUNS["exp2_other"]["epochs"].seen.iloc[0] == 50 * 101 * 32, "the second stage goes on from the first"
    assert RUNS["exp2_other"]["epochs"].seen.iloc[-1] == pytest.approx(317_000, rel=0.001)


def test_published_rates_and_librispeech() -> None:
    assert RUNS["exp1"]["rates"] == {"test-clean": {"cer": 0.39, "wer": None}}
    assert RUNS["exp2_other"]["rates"] == {
        "test-clean": {"cer": 0.16, "wer": 0.45}, "test-other": {"cer": 0.27, "wer": 0.63}}  # fmt: skip
    assert RUNS["exp3"]["rates"] == {
        "test-clean": {"cer": 0.71, "wer": 0.99}, "test-other": {"cer": 0.68, "wer": 1.02}}  # fmt: skip
    librispeech = published()["librispeech"]
    assert librispeech["train-clean-100"] == {"utterances": 28539, "hours": 100.6}
    assert sum(size["hours"] for size in librispeech.values()) == pytest.approx(982.1)


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
    table = RUNS[name]["learning_rates"]
    assert table.learning_rate.tolist() == pytest.approx(expected[::10], rel=1e-9)
    assert table.share.tolist() == pytest.approx([step / steps for step in range(0, steps, 10)])


def test_the_last_steps_of_one_cycle_do_not_stretch_the_axis() -> None:
    """They go down to 2e-9; nothing else of the published schedules is below 2e-5."""
    lines = [Line(name, "black", "-", run["learning_rates"]) for name, run in RUNS.items()]
    low, high = learning_rates(lines).axes[0].get_ylim()
    assert 1e-6 < low < 2e-5
    assert high > 0.01
