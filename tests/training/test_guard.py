"""Bad numbers and unreadable utterances: skipped and recorded up to a limit, and without a trace in what goes on."""

import json
import shutil
from itertools import islice

import pytest
import torch
from torch import nn

from asr import train
from asr.config.build import build_experiment
from asr.config.naming import Job
from asr.data.batches import Position
from asr.data.dataset import Unreadable
from asr.data.loader import training_batches
from asr.errors import DivergedError, InputError
from asr.training import checkpoint, loop, step
from asr.training.monitor import TrainingMonitor
from asr.training.state import TrainState
from asr.training.step import train_step

pytestmark = pytest.mark.pictures

JOB = Job("guarded", {}, [], "python -m asr.train")


def batches_of(session, count):
    dataset = session.recognizer.dataset(session.augment, 1)
    return list(islice(training_batches(dataset, session.batches, Position(0, 0), 0, False), count))


def trained(session, batch):
    session.recognizer.model.train()
    model, optimizer, scheduler = session.recognizer.model, session.optimizer, session.scheduler
    return train_step(model, [batch], optimizer, scheduler, 10.0, session.compute)


@pytest.mark.parametrize("bad", ["not a number in the features", "a gradient that is infinite", "no utterance"])
def test_a_step_that_cannot_be_used_leaves_weights_and_statistics_as_they_were(config, monkeypatch, bad):
    session = build_experiment(config("steps_per_epoch=2"))
    good, batch = batches_of(session, 2)
    assert trained(session, good).updated
    model = session.recognizer.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = [{k: v.clone() for k, v in s.items()} for s in session.optimizer.state.values()]
    rate = session.optimizer.param_groups[0]["lr"]
    if bad == "no utterance":
        batch = batch._replace(utterances=[], features=torch.zeros(0, 40, 0))
    elif bad == "a gradient that is infinite":
        monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(torch.inf))
    else:
        batch.features[0, 0, 0] = torch.nan
    metrics = trained(session, batch)
    assert not metrics.updated
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for state, old in zip(session.optimizer.state.values(), states, strict=True):
        assert all(torch.equal(state[key], old[key]) for key in old)
    assert session.optimizer.param_groups[0]["lr"] != rate  # the schedule's steps are those of the run


def test_a_bad_step_is_skipped_counted_and_saved_and_the_run_goes_on(config, tmp_path, monkeypatch, capsys):
    real = step.batch_losses
    calls = iter(range(1, 100))

    def bad_at_2(model, batch, compute):
        losses, output = real(model, batch, compute)
        return (losses * torch.nan if next(calls) == 2 else losses), output

    monkeypatch.setattr(step, "batch_losses", bad_at_2)
    train.run(config("epochs=2", "steps_per_epoch=3"), JOB)
    history = checkpoint.load(tmp_path / "run" / "last.pt").history
    assert [record["train_non_finite"] for record in history] == [1, 0]
    assert all(0 < record["train_loss"] < 100 for record in history)  # the mean of the steps that were finite
    seen = json.loads((tmp_path / "run" / "non_finite" / "step-000002.json").read_text())
    assert len(seen["utterances"]) == 8
    assert checkpoint.load(tmp_path / "run" / "non_finite" / "step-000002.pt").progress["step"] == 2
    told = capsys.readouterr().out
    assert "Skipped step 2: the loss is nan and the gradient norm nan, at a learning rate of" in told
    assert seen["utterances"][0] in told
    assert "1 non-finite steps" in told


def test_bad_steps_in_a_row_end_the_run_and_say_what_was_seen(config, tmp_path, monkeypatch):
    real = step.batch_losses
    monkeypatch.setattr(step, "batch_losses", lambda *given: ((out := real(*given))[0] * torch.inf, out[1]))
    with pytest.raises(DivergedError, match=r"3 steps in a row.*max_non_finite=3.*step 3: the loss is inf.*10[01]-1-"):
        train.run(config("epochs=1", "steps_per_epoch=9", "max_non_finite=3"), JOB)
    assert sorted(path.name for path in (tmp_path / "run" / "non_finite").iterdir()) == [
        "step-000001.json",
        "step-000001.pt",
        "step-000002.json",
        "step-000003.json",
    ]


def test_unreadable_utterances_are_told_once_and_too_many_end_the_run(config, tmp_path, capsys):
    session = build_experiment(config("steps_per_epoch=2", "max_unreadable_share=0.05"))
    (batch,) = batches_of(session, 1)
    metrics = trained(session, batch)
    lost = [metrics._replace(unreadable=[Unreadable(id, "gone")]) for id in ("a", "a", "b", "c")]
    state = TrainState(session.recognizer.model, session.optimizer, session.scheduler)

    def step(metrics):
        """By a monitor of its own, as after a stop."""
        with TrainingMonitor(session, state, tmp_path, None) as monitor:
            monitor.step(state, metrics)

    for one in lost[:3]:
        step(one)
    told = capsys.readouterr().out
    assert (told.count("a: gone"), told.count("b: gone")) == (1, 1)
    too_many = r"3 of 48 training utterances.*max_unreadable_share=0.05.*unreadable.jsonl.*c: gone"
    with pytest.raises(InputError, match=too_many):
        step(lost[3])
    lines = [json.loads(line) for line in (tmp_path / "unreadable.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]


def test_a_run_without_a_finite_dev_score_says_so(config, tmp_path, monkeypatch):
    """Its weights broke in the one step that it had."""
    real = train_step

    def break_weights(model, *given):
        metrics = real(model, *given)
        with torch.no_grad():
            model.output.bias += torch.nan
        return metrics

    monkeypatch.setattr(loop, "train_step", break_weights)
    with pytest.raises(DivergedError, match=r"best\.pt is not there: no epoch had a finite dev_loss"):
        train.run(config("epochs=1", "steps_per_epoch=1"), JOB)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_left_out_counted_and_the_run_goes_on(config, corpus, tmp_path, capsys, workers):
    """The first utterance of all, which the augmentation is shown with where it can be read."""
    own = tmp_path / "corpus"
    shutil.copytree(corpus, own)
    first = min((own / "train-clean-100").rglob("*.flac"))
    settings = config(f"data.root={own}", "data.train=[train-clean-100]", "epochs=1", "steps_per_epoch=3",
                      "augment=wave_spec", "max_unreadable_share=0.05", f"workers={workers}")  # fmt: skip
    real = train.open_tracked

    def vanish(*arguments, **tags):
        first.unlink()  # the plan is made, the training not begun
        return real(*arguments, **tags)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_tracked", vanish)
        train.run(settings, JOB)
    (record,) = checkpoint.load(tmp_path / "run" / "last.pt").history
    assert (record["train_unreadable"], record["train_utterances"]) == (1, 23)  # of an epoch of 24
    told = capsys.readouterr().out
    assert f"{first.stem}: {first} cannot be opened: No such file or directory" in told
    assert "1 unreadable" in told
    assert (tmp_path / "run" / "augmentation" / "all.png").exists()
