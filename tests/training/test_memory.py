"""What a training leaves in memory, and what is said where memory does not suffice."""

import gc
import os
import resource
import signal
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
from conftest import SMALL, exit_code, forked

from asr import train
from asr.artifacts import plots
from asr.artifacts.augmentation import write_augmentation
from asr.config.build import build_experiment
from asr.data.augment import Augment
from asr.data.batches import Position
from asr.data.loader import training_batches
from asr.training.memory import limit_memory
from asr.training.step import train_step

pytestmark = pytest.mark.pictures


def test_a_step_leaves_no_tensor_to_the_garbage_collector(config):
    """What only the collector could free would fill the memory until it runs."""
    session = build_experiment(config("augment=wave_spec", "model.gru_layers=2"))
    dataset = session.recognizer.dataset(session.augment, 1)
    batches = training_batches(dataset, session.batches, Position(0, 0), 0, False)
    given = (session.optimizer, session.scheduler, 10.0, session.compute)
    train_step(session.recognizer.model, [next(batches)], *given)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        train_step(session.recognizer.model, [next(batches)], *given)
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_pictures_that_cannot_be_drawn_end_the_run(config, tmp_path, capfd):
    """Another process draws them, and its error must not be lost."""

    def broken(samples, sample_rate):
        raise ValueError("no such noise")

    session = build_experiment(config())
    dataset = replace(session.recognizer.dataset(None, 1), augment=Augment(wave=[broken]))
    with pytest.raises(RuntimeError, match="ended with exit code 1"):
        write_augmentation(dataset, session.data.training_utterances(), tmp_path / "augmentation")
    assert "ValueError: no such noise" in capfd.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):  # as a full disk: for that the run has a paragraph
        write_augmentation(
            replace(dataset, augment=None), session.data.training_utterances(), tmp_path / "file" / "folder"
        )


@pytest.fixture
def command(corpus, tmp_path, monkeypatch):
    """Starts `python -m asr.train KEY=VALUE ...` in a process of its own and returns its id."""
    monkeypatch.chdir(tmp_path)

    def start(*overrides, before=lambda: None):
        def run():
            before()
            train.main()

        monkeypatch.setattr(sys, "argv", ["asr.train", f"data.root={corpus}", "tracking.uri=null", *SMALL, *overrides])
        return forked(run)

    return start


def test_a_killed_run_leaves_no_process_that_draws(command, monkeypatch):
    monkeypatch.setattr(plots, "spectrogram_pair", lambda *_: time.sleep(60))
    child = command("augment=wave_spec")
    while not (drawing := psutil.Process(child).children()):
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    exit_code(child)
    gone, alive = psutil.wait_procs(drawing, timeout=5)
    assert gone
    assert not alive


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.gru_size=50000"],
        ["model.conv_channels=4096", "model.convs=[{kernel: [11, 5], stride: [1, 1]}]"],
    ],
)
def test_what_does_not_fit_into_memory_ends_with_a_paragraph(overrides, command, capfd):
    """The limit is set here, as a shell's ulimit would: the machine's own is not tried."""
    limit = (3 * 2**30, resource.RLIM_INFINITY)
    child = command(*overrides, before=lambda: resource.setrlimit(resource.RLIMIT_DATA, limit))
    assert exit_code(child) == 2
    error = capfd.readouterr().err
    assert error.count("error: ") == 1
    assert "Traceback" not in error
    assert "memory" in error
    assert "Lower" in error


def test_a_process_takes_no_more_memory_than_is_free_unless_the_user_has_set_a_limit():
    def limits_itself():
        limit_memory()
        limit, hard = resource.getrlimit(resource.RLIMIT_DATA)
        assert 2**28 < limit < psutil.virtual_memory().total + 2**32
        resource.setrlimit(resource.RLIMIT_DATA, (limit + 1, hard))
        limit_memory()
        assert resource.getrlimit(resource.RLIMIT_DATA) == (limit + 1, hard)

    if torch.cuda.is_available():
        pytest.skip("nothing is limited where there is CUDA")
    assert exit_code(forked(limits_itself)) == 0


def test_a_reading_process_that_is_killed_ends_the_run_with_a_paragraph(command, tmp_path, capfd):
    """As the kernel does when memory runs out."""
    child = command("workers=1", "epochs=1", "steps_per_epoch=1000")
    deadline = time.monotonic() + 60
    while "step/loss" not in "".join(path.read_text() for path in tmp_path.rglob("journal.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (worker,) = psutil.Process(child).children()
    worker.send_signal(signal.SIGKILL)
    assert exit_code(child) == 2
    error = capfd.readouterr().err
    assert "error: a process that reads data has died" in error
    assert "the same command resumes" in error
    assert "Traceback" not in error
