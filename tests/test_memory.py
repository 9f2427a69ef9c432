"""What a training leaves in memory."""

import gc
from dataclasses import replace

import pytest
import torch

from asr.artifacts import write_augmentation
from asr.augment import Augment
from asr.batching import Position
from asr.build import build_session
from asr.dataset import training_batches
from asr.step import train_step


def test_a_step_leaves_no_tensor_to_the_garbage_collector(config):
    """It runs seldom (asr/__init__.py): what only it could free would fill the memory."""
    session = build_session(config("augment=wave_spec", "model.gru_layers=2"))
    dataset = session.recognizer.dataset(session.augment, 1)
    batches = training_batches(dataset, session.passes, Position(0, 0), 0, False)
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

    session = build_session(config())
    dataset = replace(session.recognizer.dataset(None, 1), augment=Augment(wave=[broken]))
    with pytest.raises(RuntimeError, match="ended with 1"):
        write_augmentation(dataset, session.data.training_cuts(), tmp_path / "augmentation")
    assert "ValueError: no such noise" in capfd.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):  # as a full disk: for that the run has a paragraph
        write_augmentation(replace(dataset, augment=None), session.data.training_cuts(), tmp_path / "file" / "folder")
