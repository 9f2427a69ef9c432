"""The training step and loop: a batch in micro-batches is the batch, and a bad step leaves no trace."""

import os
import signal
from contextlib import nullcontext
from itertools import islice

import pytest
import torch
from conftest import compose_small, content, same
from torch import nn

from asr import train
from asr.config.build import build_experiment
from asr.config.naming import Job
from asr.data.batches import WHOLE, Position
from asr.data.loader import training_batches
from asr.training import loop
from asr.training.compute import Compute
from asr.training.signals import Interrupted
from asr.training.step import backward, batch_losses, train_step

TWO_LAYERS = ("model.gru_layers=2", "augment=wave_spec")
OPTIMIZERS = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "sgd": (torch.optim.SGD, {}),
    "sgd_momentum": (torch.optim.SGD, {"momentum": 0.9}),
}


def stream(session, pieces=1, start=Position(0, 0)):  # noqa: B008
    dataset = session.recognizer.dataset(session.augment, 1)
    return training_batches(dataset, session.batches, start, 0, False, WHOLE._replace(micro_batches=pieces))


@pytest.mark.parametrize("pieces", [2, 3, 11])
def test_the_gradient_of_a_batch_in_pieces_is_that_of_the_whole(config, pieces):
    """With batch norm's statistics out of the way, which are of a piece. (Of 11 pieces of 8 utterances 3 are empty.)"""
    session = build_experiment(config(*TWO_LAYERS))
    model = session.recognizer.model.eval()
    (whole,), cut = list(islice(stream(session), 1)), list(islice(stream(session, pieces), pieces))
    assert sorted(id for piece in cut for id in piece.ids) == sorted(whole.ids)
    loss, gradients = [], []
    for parts in ([whole], cut):
        model.zero_grad()
        loss.append(backward(model, parts, len(whole.ids), session.compute))
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    torch.testing.assert_close(*loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_pieces_are_alike_and_go_on_at_any_batch(config):
    session = build_experiment(config())
    batches = list(islice(stream(session, 3), 3 * 8))  # of 6 batches a pass
    for first in range(0, len(batches), 3):
        three = [piece.seconds / len(piece.ids) for piece in batches[first : first + 3]]
        assert [len(piece.ids) for piece in batches[first : first + 3]] == [3, 3, 2]
        assert max(three) < 1.4 * min(three)  # of utterances that differ by more than two to one
    later = list(islice(stream(session, 3, Position(1, 1)), 3))
    assert [piece.ids for piece in later] == [piece.ids for piece in batches[21:24]]


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_first_step_that_is_skipped_leaves_no_trace(config, optimizer):
    """Fused SGD would have left its momentum uninitialised."""
    session = build_experiment(config())
    (batch,), model = list(islice(stream(session), 1)), session.recognizer.model.train()
    kind, settings = OPTIMIZERS[optimizer]
    start, ends = {name: value.clone() for name, value in model.state_dict().items()}, []
    bad = batch._replace(features=batch.features * torch.inf)
    for batches in ([batch], [bad, batch]):
        model.load_state_dict(start)
        own = kind(model.parameters(), lr=0.1, fused=True, **settings)
        schedule = torch.optim.lr_scheduler.ConstantLR(own, 1.0)
        steps = [train_step(model, [one], own, schedule, 10.0, session.compute) for one in batches]
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
    assert [step.updated for step in steps] == [False, True]
    same(*ends)
    assert not torch.equal(ends[0]["output.weight"], start["output.weight"])


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_an_optimizer_without_a_fused_form_skips_too(config):
    session = build_experiment(config("steps_per_epoch=2"))
    (batch,), model = list(islice(stream(session), 1)), session.recognizer.model.train()
    optimizer = torch.optim.RMSprop(model.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = batch._replace(features=batch.features * torch.nan)
    assert not train_step(model, [bad], optimizer, schedule, 10.0, session.compute).updated
    same(before, dict(model.state_dict()))
    assert train_step(model, [batch], optimizer, schedule, 10.0, session.compute).updated


def test_the_model_runs_on_a_device_that_cannot_be_read_at_all(config, monkeypatch):
    """The device `meta` knows shapes only: whatever copies from it or asks it for a number fails."""
    monkeypatch.setattr("torch.nn.functional.ctc_loss", lambda log_probs, *_, **__: log_probs.sum((0, 2)))
    monkeypatch.setattr(Compute, "autocast", nullcontext)  # which `meta` does not have
    session = build_experiment(config(*TWO_LAYERS))
    (batch,), meta = list(islice(stream(session), 1)), torch.device("meta")
    model = session.recognizer.model.train().to(meta)
    losses, output = batch_losses(model, batch, Compute(meta, bf16=False))
    losses.mean().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    assert (losses.device, output.lengths.device, norm.device) == (meta, torch.device("cpu"), meta)


def test_a_run_in_micro_batches_resumes_to_the_same_numbers(corpus, tmp_path, monkeypatch):
    """Stopped within an epoch."""
    settings = ("epochs=2", "steps_per_epoch=5", "batch.accumulate=2", "model.gru_layers=2", "model.dropout=0.2")

    def run(name):
        config = compose_small(corpus, tmp_path, *settings, f"output_dir={tmp_path / name}")
        return train.run(config, Job(name, {}, [], "python -m asr.train"))

    run("whole")
    calls, real = iter(range(100)), loop.train_step

    def stopped(*given):
        if next(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopped)
        with pytest.raises(Interrupted):
            run("stopped")
    run("stopped")
    for name in ("last.pt", "best.pt"):
        same(content(tmp_path / "whole" / name), content(tmp_path / "stopped" / name))
