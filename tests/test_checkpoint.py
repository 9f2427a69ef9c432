"""A checkpoint is whole or refused."""

import pickle

import pytest
import torch
from torch import nn

from asr import checkpoint
from asr.checkpoint import TrainState
from asr.errors import InputError


@pytest.fixture
def state():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    return TrainState(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))


def test_state_comes_back(state, tmp_path):
    state.model(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    state.epoch, state.step, state.position, state.best = 3, 30, (1, 4), 0.5
    state.history = [{"epoch": 1, "dev_loss": 2.0}]
    checkpoint.save(state.to_checkpoint({"epochs": 3}), tmp_path / "last.pt")
    expected = torch.rand(3)

    other = TrainState(nn.Linear(2, 2), state.optimizer, state.scheduler)
    other.optimizer = torch.optim.Adam(other.model.parameters())
    other.restore(checkpoint.load(tmp_path / "last.pt"), tmp_path / "last.pt")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(other.model.weight, state.model.weight)
    assert other.optimizer.state_dict()["state"][0]["step"] == 1
    assert (other.epoch, other.step, other.position, other.best) == (3, 30, (1, 4), 0.5)
    assert other.history == state.history


def test_a_save_that_fails_leaves_the_old_checkpoint(state, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(state.to_checkpoint({}), path)
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
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
    with pytest.raises(InputError, match=r"weight is \[3, 2\] where the model has \[2, 2\]"):
        checkpoint.load_weights(nn.Linear(2, 2), nn.Linear(2, 3).state_dict(), tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"1 weights are missing \(bias"):
        checkpoint.load_weights(nn.Linear(2, 2), nn.Linear(2, 2, bias=False).state_dict(), tmp_path / "x.pt")
