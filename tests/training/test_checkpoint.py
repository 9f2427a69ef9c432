"""A checkpoint is whole or refused."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asr.errors import InputError
from asr.training import checkpoint
from asr.training.state import EpochTotals, TrainState


@pytest.fixture
def state():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    return TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def test_state_comes_back(state, tmp_path):
    state.model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    state.epoch, state.step, state.position, state.best = 3, 30, (1, 4), 0.5
    state.history, state.non_finite_in_a_row = [{"epoch": 1, "dev_loss": 2.0}], 2
    state.this_epoch = EpochTotals(steps=2, updates=1, loss=3.5)
    checkpoint.save(state.to_checkpoint({"epochs": 3}), tmp_path / "last.pt")
    expected = torch.rand(3)

    other = TrainState(nn.Linear(2, 2), state.optimizer, state.scheduler)
    other.optimizer = torch.optim.Adam(other.model.parameters())
    other.restore(checkpoint.load(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other.model.weight, state.model.weight)
    assert other.optimizer.state_dict()["state"][0]["step"] == 1
    assert (other.epoch, other.step, other.position, other.best) == (3, 30, (1, 4), 0.5)
    assert (other.history, other.this_epoch) == (state.history, state.this_epoch)
    assert other.non_finite_in_a_row == 2


def test_a_save_that_fails_leaves_the_old_checkpoint(state, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(state.to_checkpoint({}), path)
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(InputError, match=r"last\.pt cannot be written: No space.*make room"):
        checkpoint.save(state.to_checkpoint({}), path)
    assert path.read_bytes() == before


class Hostile:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize("kind", ["absent", "empty", "truncated", "text", "hostile", "other"])
def test_what_is_no_checkpoint_is_refused_without_running_it(kind, state, tmp_path, capsys):
    path = tmp_path / "last.pt"
    checkpoint.save(state.to_checkpoint({}), path)
    content = path.read_bytes()
    if kind == "absent":
        path.unlink()
    elif kind == "other":
        torch.save({"state_dict": {}}, path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[: len(content) // 2],
                "text": b"hello",
                "hostile": pickle.dumps(Hostile(), protocol=2),
            }[kind]
        )
    with pytest.raises(InputError, match=r"last\.pt"):
        checkpoint.load(path)
    assert "code ran" not in capsys.readouterr().out


def test_weights_of_another_model_are_named(tmp_path):
    with pytest.raises(InputError, match=r"weight is \[3, 2\] float32 where the model has \[2, 2\] float32"):
        checkpoint.load_weights(nn.Linear(2, 2), nn.Linear(2, 3).state_dict(), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"1 weights differ; bias is missing where the model has \[2\]"):
        checkpoint.load_weights(nn.Linear(2, 2), nn.Linear(2, 2, bias=False).state_dict(), tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 2, "format 3: its format is 2"),
        ("model", {"weight": 3}, "model must hold tensors"),
        ("model", {1: torch.zeros(2)}, "model must be a dict with names"),
        ("optimizer", {}, "optimizer must hold state and param_groups"),
        ("history", "none", "history must be a list"),
        ("best", "low", "best must be a number"),
        ("rng", {}, "generator"),
        ("progress", {"epoch": -1}, "whole numbers from 0 on"),
        ("progress", {"epoch": 0, "step": 0, "non_finite_in_a_row": 0, "position": (0, 0)}, "sums of this_epoch"),
        ("progress", {"epoch": 0, "step": 0, "non_finite_in_a_row": 0, "position": 7}, "position"),
    ],
)
def test_each_field_is_looked_at_before_it_is_used(field, value, message, state, tmp_path):
    saved = state.to_checkpoint({})
    setattr(saved, field, value)
    checkpoint.save(saved, tmp_path / "last.pt")
    with pytest.raises(InputError, match=message):
        checkpoint.load(tmp_path / "last.pt")


def test_the_state_of_another_optimizer_is_refused(state, tmp_path):
    state.model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    other = nn.Linear(2, 2)
    sgd = torch.optim.SGD([other.weight], lr=0.1)
    into = TrainState(other, sgd, torch.optim.lr_scheduler.ConstantLR(sgd))
    with pytest.raises(InputError, match=r"last\.pt is of another optimizer or schedule"):
        into.restore(state.to_checkpoint({}), tmp_path / "last.pt")
    saved = state.to_checkpoint({})
    saved.optimizer["state"][0]["exp_avg"] = torch.zeros(5)
    with pytest.raises(InputError, match="shapes of another model"):
        state.restore(saved, tmp_path / "last.pt")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint's bytes, and a file to put others into."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path_factory.mktemp("fuzzed") / "last.pt"
    state = TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    checkpoint.save(state.to_checkpoint({"epochs": 3}), path)
    return path.read_bytes(), path


edit = st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4))  # where, what is put in, how many taken out


@settings(derandomize=True, max_examples=150, deadline=None)
@given(edits=st.lists(edit, min_size=1, max_size=3))
def test_any_bytes_are_the_checkpoint_or_an_error(written, edits):
    """Bytes changed anywhere: never another exception, never a checkpoint with other numbers."""
    whole, path = written
    content = whole
    for where, new, taken in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + taken :]
    path.write_bytes(content)
    try:
        loaded = checkpoint.load(path)
    except InputError:
        return
    path.write_bytes(whole)
    expected = checkpoint.load(path)
    assert (loaded.progress, loaded.config) == (expected.progress, expected.config)
    assert all(torch.equal(weight, expected.model[name]) for name, weight in loaded.model.items())
