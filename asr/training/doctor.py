"""Say in plain words what is wrong with a training, from the records of its epochs, and which settings to try."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

EPOCHS, STEPS = 5, 150  # epochs after the highest learning rate so far, and steps in all, until a silent model is odd
WRITTEN = 0.05  # of the references' symbols; a model that has written less has written nothing
NEAR = 0.15  # relative distance at which a loss counts as that of a model that ignores the audio
# For the optimizers in conf/optimizer: the lowest and the highest learning rate at which such models usually learn, and
# one to start with (docs/search.md).
USUAL_RATES = {"SGD": (2e-3, 5e-2, 1e-2), "Adam": (1e-4, 5e-3, 5e-4), "AdamW": (1e-4, 5e-3, 5e-4)}

Record = Mapping[str, Any]


def diagnose(history: Sequence[Record], config: Mapping[str, Any]) -> str:
    """Return what is new after the last epoch, "" if nothing is.

    With overfit_below: at the end, whether the batch was learned. Otherwise: a warning once a model has written nothing
    but blanks for long, and a second paragraph that takes it back when symbols come.

    history: an EpochRecord of every epoch so far, as a dict; config: the settings of asr.train
    """
    if config["overfit_below"] is not None:
        ends = is_overfitted(history, config) or len(history) == config["epochs"]
        return _overfit_verdict(history, config) if ends else ""
    ends_so_far = range(1, len(history) + 1)
    warned = next((end for end in ends_so_far if is_silent(history[:end])), None)
    if warned is None:
        return ""
    if warned == len(history):
        return f"{_describe_silence(history)}\n{_advice(history[-1], config)}"
    came = next((end for end in ends_so_far[warned:] if history[end - 1]["dev_symbol_ratio"] >= WRITTEN), None)
    if came == len(history):
        return (
            f"Symbols come now: dev's hypotheses hold {history[-1]['dev_symbol_ratio']:.0%} as many as its references. "
            "The warning about blanks no longer holds."
        )
    return ""


def is_overfitted(history: Sequence[Record], config: Mapping[str, Any]) -> bool:
    """Return whether the run trains on one batch alone and has learned it."""
    below = config["overfit_below"]
    return below is not None and bool(history) and history[-1]["train_loss"] < below


def is_silent(history: Sequence[Record]) -> bool:
    """Return whether the last epochs wrote nothing, though the learning rate had been at its highest before."""
    rates = [record["learning_rate"] for record in history]
    warmed_up = next(epoch for epoch, rate in enumerate(rates) if rate >= 0.99 * max(rates))
    last = history[warmed_up:][-EPOCHS - 1 :]
    writes = any(record["dev_symbol_ratio"] >= WRITTEN for record in last)
    return len(last) > EPOCHS and last[-1]["step"] >= STEPS and not writes


def _overfit_verdict(history: Sequence[Record], config: Mapping[str, Any]) -> str:
    last, below = history[-1], config["overfit_below"]
    found = f"after {last['step']:,} steps on it the loss is {last['train_loss']:.3f} nats per symbol"
    if is_overfitted(history, config):
        return (
            f"The batch is learned: {found}, below overfit_below={below:g}. Audio, text, model, loss and optimizer "
            "work together."
        )
    return (
        f"The batch is not learned: {found}, not below overfit_below={below:g}. What does not learn one batch "
        f"hardly learns a corpus.\n{_advice(last, config)}"
    )


def _describe_silence(history: Sequence[Record]) -> str:
    last, before = history[-1], history[-EPOCHS - 1]
    loss, entropy = last["dev_loss"], last["dev_symbol_entropy"]
    plateau = f", near {entropy:.2f}, the entropy of the symbols, which a model reaches that ignores the audio"
    return (
        f"The model writes nothing but blanks and spaces after {last['epoch']} epochs ({last['step']:,} steps): dev's "
        f"hypotheses hold {last['dev_symbol_ratio']:.1%} as many symbols as its references, and "
        f"{last['dev_blank_share']:.0%} of the frames are blank. In {EPOCHS} epochs the dev loss went from "
        f"{before['dev_loss']:.2f} to {loss:.2f}{plateau if abs(loss - entropy) < NEAR * entropy else ''}."
    )


def _advice(last: Record, config: Mapping[str, Any]) -> str:
    """Name the likely cause, and two or three settings to try."""
    name, peak = (
        config["optimizer"]["_target_"].rpartition(".")[2],
        config["optimizer"].get("lr", last["learning_rate"]),
    )
    norm, clip = last["train_grad_norm"], config["max_grad_norm"]
    low, high, start = USUAL_RATES.get(name, (0.0, math.inf, peak))
    overfits = config["overfit_below"] is not None
    is_one_cycle = "pct_start" in config["scheduler"]
    rates = f"the learning rate, {last['learning_rate']:.1e} now and {peak:.1e} at its peak (optimizer.lr)"
    if peak < low:
        cause = f"The likely cause is {rates}: too low for {name}, which usually learns at {low:g} to {high:g}."
        tries = [f"optimizer.lr={start:g}"]
        tries += [] if is_one_cycle else [f"optimizer.lr={start:g} scheduler=one_cycle"]
        tries += ["optimizer=adam"] if name == "SGD" else []
    elif peak > high or norm > clip:
        cause = f"The likely cause is {rates}: too high for these gradients."
        tries = [f"optimizer.lr={min(start, peak / 3):.1g}", f"max_grad_norm={clip / 10:g}"]
        tries += ["scheduler.pct_start=0.4 (a longer warm-up)"] if is_one_cycle else []
    else:
        cause = f"Nothing is unusual about {rates}."
        tries = ["more epochs", f"optimizer.lr={peak * 3:.1g}", f"optimizer.lr={peak / 3:.1g}"]
        tries += ["debug=overfit, which shows whether the model can learn one batch"] if not overfits else []
    return (
        f"The gradient norm is {norm:.2g}, {'above' if norm > clip else 'below'} max_grad_norm={clip:g}. {cause}\n"
        f"Try {', or '.join(tries)}."
    )
