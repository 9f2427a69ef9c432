"""The memory check: no batch is longer, it leaves no trace, and running out of memory is explained."""

from itertools import islice, takewhile

import pytest
import torch
from torch import nn

from asr.config.build import build_experiment
from asr.data.batches import Position
from asr.data.loader import training_batches
from asr.errors import InputError
from asr.models.deep_speech2 import ModelOutput
from asr.training.compute import Compute
from asr.training.memory import EVALUATION_SETTINGS, TRAINING_SETTINGS, out_of_memory_explained
from asr.training.memory_check import check_memory, longest_batch, try_batch
from asr.training.step import train_step

CPU = Compute(torch.device("cpu"), bf16=False)
OF_LIKE_LENGTH = ("batch.utterances=null", "batch.seconds=13", "batch.buckets=2")
DROPOUT = ("model.gru_layers=2", "model.dropout=0.5")


def stream(session, seed=1):
    dataset = session.recognizer.dataset(session.augment, seed)
    return training_batches(dataset, session.batches, Position(0, 0), workers=0, pin_memory=False)


def rehearsal_batch(session):
    return longest_batch(session.recognizer.dataset(session.augment, 1), session.batches)


def frames(batch):
    return batch.features.shape[0] * batch.features.shape[2]


@pytest.mark.parametrize("augment", ["none", "speed_spec"])
@pytest.mark.parametrize("batching", [(), OF_LIKE_LENGTH])
def test_no_batch_of_training_is_longer(config, batching, augment):
    session = build_experiment(config(*batching, f"augment={augment}"))
    rehearsed = rehearsal_batch(session)
    drawn = list(takewhile(lambda batch: batch.position.data_epoch < 3, stream(session)))
    most = max(map(frames, drawn))
    assert 0.99 * most <= frames(rehearsed) <= (1.02 if augment == "speed_spec" else 1.0) * most
    longest = max(drawn, key=frames)
    if augment == "none":
        assert set(rehearsed.ids) == set(longest.ids)
        assert max(rehearsed.target_lengths) == max(longest.target_lengths)


def test_a_shard_without_an_utterance_is_never_the_longest(config):
    """Of 48 utterances the last batch holds one, and two of its three micro-batches none."""
    run = build_experiment(config("batch.utterances=47", "batch.accumulate=3"))
    assert len(longest_batch(run.training_dataset(), run.batches, run.shard).ids) == 16


def everything(session):
    """All that training depends on or changes, by name."""
    state = session.optimizer.state_dict()
    moments = {f"{i} {name}": value for i, values in state["state"].items() for name, value in values.items()}
    gradients = {f"{name}.grad": p.grad for name, p in session.recognizer.model.named_parameters()}
    return session.recognizer.model.state_dict() | moments | gradients | {"generator": torch.get_rng_state()}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value is right[name] is None or torch.equal(value, right[name]), name


def trained(config, rehearsed, steps=3):
    """The state after some steps, with or without a rehearsal before each."""
    session = build_experiment(config("epochs=1", "steps_per_epoch=10", "augment=wave_spec", *DROPOUT))
    model, longest, losses = session.recognizer.model, rehearsal_batch(session), []
    for batch in islice(stream(session), steps):
        if rehearsed:
            try_batch(model, longest, session.optimizer, CPU)
        losses.append(train_step(model, [batch], session.optimizer, session.scheduler, 10.0, CPU).loss)
    return losses, everything(session)


def test_a_rehearsal_leaves_no_trace(config):
    session = build_experiment(config(*DROPOUT))
    session.recognizer.model.train()
    before = {name: value.clone() for name, value in everything(session).items() if value is not None}
    try_batch(session.recognizer.model, rehearsal_batch(session), session.optimizer, CPU)
    after = {name: value for name, value in everything(session).items() if value is not None}
    assert_same(before, after)
    assert session.recognizer.model.training


def test_training_is_bit_for_bit_the_same_with_a_rehearsal_before_each_step(config):
    (losses, state), (others, other) = trained(config, False), trained(config, True)
    assert losses == others
    assert_same(state, other)


@pytest.mark.parametrize(("steps", "times"), [(0, 2), (1, 0)])
def test_the_state_that_adam_does_not_have_yet_is_held(config, monkeypatch, steps, times):
    session = build_experiment(config())
    model, batches, held = session.recognizer.model, stream(session), []
    for batch in islice(batches, steps):
        train_step(model, [batch], session.optimizer, session.scheduler, 10.0, CPU)
    monkeypatch.setattr("asr.training.memory_check.torch.empty_like", lambda p: held.append(p.numel()))
    try_batch(model, rehearsal_batch(session), session.optimizer, CPU)
    assert sum(held) == times * sum(p.numel() for p in model.parameters())


class Small(nn.Module):
    """A model on a device that has room for so many frames; like a real one it changes what it can before it fails."""

    def __init__(self, room):
        super().__init__()
        self.norm, self.output, self.room = nn.BatchNorm1d(40), nn.Linear(40, 28), room

    def forward(self, features, lengths):
        x = self.norm(features + torch.rand(()))
        if features.shape[0] * features.shape[2] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return ModelOutput(self.output(x.transpose(1, 2)).log_softmax(-1), lengths)


@pytest.mark.parametrize("spare", [0, -1])
def test_a_device_without_room_for_the_longest_batch_is_found_out(config, spare):
    session = build_experiment(config())
    batch = rehearsal_batch(session)
    model = Small(frames(batch) + spare).eval()
    before, generator = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    if spare == 0:
        try_batch(model, batch, torch.optim.SGD(model.parameters()), CPU)
    else:
        with pytest.raises(
            InputError, match=r"longest batch that training can draw.*does not fit.*cpu .*: 8 utterances"
        ):
            try_batch(model, batch, torch.optim.SGD(model.parameters()), CPU)
    assert_same(before, model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    assert not model.training


def test_the_message_describes_the_batch_and_names_the_settings(config):
    batch = next(stream(build_experiment(config())))
    seconds = max(batch.lengths).item() / 80
    with (
        pytest.raises(InputError) as raised,
        out_of_memory_explained(batch, torch.device("cpu"), bf16=False),
    ):
        torch.empty(10**15)  # what a CPU says
    message = str(raised.value)
    assert "\n" not in message
    assert f"8 utterances ({batch.ids[0]}, {batch.ids[1]}, {batch.ids[2]}, ...), the longest of" in message
    longest = float(message.split("the longest of ")[1].split(" s")[0])
    assert longest == pytest.approx(seconds, abs=0.1)
    assert "cpu (" in message
    assert "you tried to allocate 4000000000000000 bytes" in message
    assert message.endswith(f"Lower {TRAINING_SETTINGS}")


@pytest.mark.parametrize(("bf16", "way_out"), [(False, "set precision=bf16"), (True, EVALUATION_SETTINGS)])
def test_on_cuda_the_message_tells_the_settings_too(config, bf16, way_out):
    """CUDA itself is not there: what it would say is given."""
    batch = next(stream(build_experiment(config())))
    with (
        pytest.raises(InputError, match=r"memory of cuda:1 \(cuDNN error: CUDNN_STATUS_ALLOC_FAILED\)") as raised,
        out_of_memory_explained(batch, torch.device("cuda:1"), bf16, settings=EVALUATION_SETTINGS),
    ):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    assert str(raised.value).endswith(way_out)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), InputError("another mistake"), KeyError("memory")])
def test_other_errors_stay_as_they_are(config, error):
    batch = rehearsal_batch(build_experiment(config()))
    with pytest.raises(type(error)) as raised, out_of_memory_explained(batch, torch.device("cpu"), bf16=False):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(("setting", "tried"), [("auto", False), ("true", True), ("false", False)])
def test_the_longest_batch_is_tried_where_it_is_wanted(config, monkeypatch, setting, tried):
    """auto: on CUDA alone."""
    run = build_experiment(config(f"rehearse={setting}"))
    calls = []
    monkeypatch.setattr(run.recognizer.model, "forward", lambda *given: calls.append(given) or forward(*given))
    forward = type(run.recognizer.model).forward.__get__(run.recognizer.model)
    check_memory(run, run.recognizer.model)
    assert len(calls) == tried
