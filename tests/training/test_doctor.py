"""What the doctor says of a training, as a function of its epochs' records alone."""

import json

import pytest

from asr.training.doctor import EPOCHS, STEPS, diagnose, is_overfitted

SGD = {"_target_": "torch.optim.SGD", "lr": 6e-4}
ADAM = {"_target_": "torch.optim.Adam", "lr": 5e-4}
CONFIG = {"optimizer": SGD, "scheduler": {}, "max_grad_norm": 10.0, "overfit_below": None, "epochs": 40}


def records(ratios, rates=None, steps=50, **values):
    """An epoch for each symbol ratio; the learning rate stays as it is unless rates gives another one for each."""
    rates = rates or [1e-4] * len(ratios)
    common = {"dev_blank_share": 1.0, "dev_loss": 2.9, "dev_symbol_entropy": 2.83, "train_grad_norm": 2.5}
    return [
        {"epoch": n, "step": n * steps, "dev_symbol_ratio": ratio, "learning_rate": rate} | common | values
        for n, (ratio, rate) in enumerate(zip(ratios, rates, strict=True), start=1)
    ]


def said(history, config=CONFIG):
    """By epoch, all that the doctor says while a run goes through this history."""
    messages = {end: diagnose(history[:end], config) for end in range(1, len(history) + 1)}
    return {end: message for end, message in messages.items() if message}


def test_blanks_for_long_are_reported_once_and_taken_back_once():
    messages = said(records([0.0] * 12 + [0.2, 0.0] + [0.0] * 12 + [0.5]))
    assert list(messages) == [EPOCHS + 1, 13]
    assert messages[EPOCHS + 1].startswith("The model writes nothing but blanks and spaces after 6 epochs (300 steps)")
    assert messages[13].startswith("Symbols come now: dev's hypotheses hold 20% as many as its references")


def test_a_resumed_run_says_what_an_undisturbed_one_says():
    """It knows nothing but the history, as it is read from a checkpoint."""
    history = records([0.0] * 12 + [0.2, 0.3])
    again = json.loads(json.dumps(history))
    assert said(again) == said(history)
    assert history == again


@pytest.mark.parametrize(
    ("what", "history"),
    [
        ("symbols are written", records([0.0] * EPOCHS + [0.1] * 20)),
        ("few epochs", records([0.0] * EPOCHS)),
        ("few steps", records([0.0] * 14, steps=STEPS // 15)),
        ("the rate still rises", records([0.0] * 20, rates=[1e-4 * n for n in range(1, 21)])),
    ],
)
def test_nothing_is_said_while_blanks_are_usual(what, history):
    assert said(history) == {}, what


@pytest.mark.parametrize(
    ("rates", "epoch"),
    [
        ([1e-4, 2e-4, 3e-4, 2e-4, 1e-4] * 4, 3 + EPOCHS),  # cycles, of which the first one counts
        ([1e-4 + 1e-9 * n for n in range(20)], 1 + EPOCHS),  # as good as constant
        ([1e-4] * 8 + [3e-4] * 12, 1 + EPOCHS),  # what rises afterwards takes nothing back
    ],
)
def test_the_warning_waits_for_the_highest_rate(rates, epoch):
    assert list(said(records([0.0] * 20, rates))) == [epoch]


@pytest.mark.parametrize(
    ("settings", "values", "words"),
    [
        ({}, {}, ["too low for SGD", "optimizer.lr=0.01, or", "scheduler=one_cycle", "below max_grad_norm=10"]),
        ({"optimizer": SGD | {"lr": 0.3}}, {}, ["too high", "optimizer.lr=0.01", "max_grad_norm=1."]),
        ({"optimizer": ADAM}, {"train_grad_norm": 60.0}, ["above max_grad_norm=10", "too high", "optimizer.lr=0.0002"]),
        ({"optimizer": ADAM | {"lr": 1e-5}}, {}, ["too low for Adam", "optimizer.lr=0.0005"]),
        (
            {"optimizer": ADAM},
            {},
            ["Nothing is unusual", "optimizer.lr=0.002, or optimizer.lr=0.0002", "debug=overfit"],
        ),
        ({"optimizer": {"_target_": "mine.Lion", "lr": 1e-5}}, {}, ["Nothing is unusual", "optimizer.lr=3e-05"]),
        ({"scheduler": {"pct_start": 0.2}, "optimizer": ADAM}, {"train_grad_norm": 60.0}, ["scheduler.pct_start=0.4"]),
        ({}, {"dev_loss": 2.9}, ["to 2.90, near 2.83, the entropy of the symbols"]),
    ],
)
def test_the_advice_fits_what_is_seen(settings, values, words):
    (message,) = said(records([0.0] * 8, **values), CONFIG | settings).values()
    for word in [*words, "optimizer.lr"]:
        assert word in message


def test_a_loss_far_from_the_entropy_is_not_called_near():
    (message,) = said(records([0.0] * 8, dev_loss=7.0)).values()
    assert "7.00." in message
    assert "entropy" not in message


def test_one_batch_is_learned_or_not_and_nothing_else_is_said_of_it():
    config = CONFIG | {"overfit_below": 0.1, "epochs": 9}
    learned = [record | {"train_loss": loss} for record, loss in zip(records([0.0] * 3), (3.0, 0.2, 0.09), strict=True)]
    assert [is_overfitted(learned[:end], config) for end in range(4)] == [False, False, False, True]
    assert not is_overfitted(learned, CONFIG)
    (message,) = said(learned, config).values()
    assert message.startswith("The batch is learned: after 150 steps on it the loss is 0.090 nats per symbol, below")
    (message,) = said(records([0.0] * 9, train_loss=2.8), config).values()
    assert message.startswith("The batch is not learned: after 450 steps on it the loss is 2.800")
    assert "optimizer.lr=0.01" in message
