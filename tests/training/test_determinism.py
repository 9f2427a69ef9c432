"""What docs/determinism.md promises: whole runs and evaluations give the same bits for any number of workers."""

import json
import os
from contextlib import contextmanager

import pytest
import torch
from conftest import compose_small, job

from asr import evaluate
from asr.config.build import build_experiment, set_deterministic
from asr.errors import InputError
from asr.models.ctc import ctc_losses
from asr.train import run
from asr.training import checkpoint

WORKERS = (0, 1, 2, 4)
SETTINGS = [*(f"workers={count}" for count in WORKERS), "deterministic=true"]
RUN = ("epochs=1", "steps_per_epoch=7", "model.gru_layers=2", "model.dropout=0.2", "augment=wave_spec")


@contextmanager
def threads(count):
    """With 3, a matrix product of the features of SMALL rounds otherwise than with 1, which a loader's worker has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def deterministic(monkeypatch):
    """Whatever a test sets is taken back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)


def numbers(directory):
    """All that a run leaves but its clock: weights, the optimizer's state, the history and the scores."""
    best, last = (checkpoint.load(directory / file) for file in ("best.pt", "last.pt"))
    tensors = {f"best {name}": weight for name, weight in best.model.items()}
    tensors |= {f"last {name}": weight for name, weight in last.model.items()} | {"generator": last.rng["cpu"]}
    tensors |= {f"{i} {name}": v for i, state in last.optimizer["state"].items() for name, v in state.items()}
    clocks = {"train_wall_seconds", "dev_wall_seconds", "train_audio_seconds_per_second"}
    history = [{key: value for key, value in record.items() if key not in clocks} for record in last.history]
    tables = [path.read_text() for path in sorted((directory / "errors").rglob("*.*"))]
    plain = [best.progress, last.progress, last.best, history, json.loads((directory / "results.json").read_text())]
    return tensors, plain, tables


def assert_same(left, right):
    assert left[1:] == right[1:]
    assert left[0].keys() == right[0].keys()
    for name, tensor in left[0].items():
        assert torch.equal(tensor, right[0][name]), name


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """The folder of whole runs that differ by SETTINGS, each in one with its number."""
    folder = tmp_path_factory.mktemp("runs")
    for number, setting in enumerate(SETTINGS):
        with threads(3):
            run(compose_small(corpus, folder, *RUN, setting, f"output_dir={folder / str(number)}"), job(setting))
    torch.use_deterministic_algorithms(False)
    return folder


@pytest.mark.parametrize("setting", SETTINGS[1:])
def test_a_run_is_the_same_however_it_is_carried_out(runs, setting):
    assert_same(numbers(runs / "0"), numbers(runs / str(SETTINGS.index(setting))))


def test_an_evaluation_is_the_same_for_any_number_of_workers(runs, config, tmp_path):
    scores = []
    for workers in WORKERS:
        with threads(3):
            best = f"checkpoint={runs / '0' / 'best.pt'}"
            evaluate.run(config(best, f"workers={workers}", name="evaluate", small=False))
        assert json.loads((tmp_path / "run/config.json").read_text()).pop("workers") == workers
        (tmp_path / "run/config.json").unlink()
        scores.append({path.name: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")})
    assert scores == scores[:1] * len(WORKERS)
    assert set(scores[0]) == {"results.json", "test-clean.tsv", "test-other.tsv", "errors.html", "utterances.jsonl"}


def test_the_setting_is_that_of_the_last_run_of_the_process(deterministic):
    """A sweep's jobs may share one."""
    set_deterministic(True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_deterministic(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("override", ["deterministic=auto", "rehearse=never"])
def test_what_the_settings_cannot_be_is_refused(config, override):
    with pytest.raises(InputError, match=f"{override}: it must be one of"):
        build_experiment(config(override))


def ctc_on_another_device():
    """The loss of log-probabilities on a device that only pretends to compute, as far as shapes and devices go."""
    elsewhere, lengths = {"device": "meta"}, torch.ones(3, dtype=torch.long)
    return ctc_losses(torch.empty(3, 12, 4, **elsewhere), lengths, torch.ones(3, 5, **elsewhere).long(), lengths)


def test_the_loss_stays_on_the_device_of_its_log_probabilities(monkeypatch):
    """Target lengths are on the CPU, where torch wants them; a loss on CUDA cannot be divided by them there."""
    monkeypatch.setattr("torch.nn.functional.ctc_loss", lambda log_probs, *_, **__: log_probs.sum((0, 2)))
    assert ctc_on_another_device().device.type == "meta"


def test_a_deterministic_loss_is_computed_on_the_cpu(deterministic):
    """Torch has no deterministic gradient of it on CUDA. (That the copy is tried can be seen from its failure.)"""
    set_deterministic(True)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        ctc_on_another_device()
