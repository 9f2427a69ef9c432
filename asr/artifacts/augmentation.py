"""Write spectrograms and sound of an utterance before and after augmentation."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from asr.corpora.manifest import Utterance
from asr.data.audio import UnreadableError
from asr.data.augment import Augment, Sometimes, id_keys
from asr.data.dataset import UtteranceDataset
from asr.training.signals import SIGNALS, stop_without

PCM_PEAK = 0.99  # augmented audio may exceed full scale; it is scaled down instead of clipped


def write_augmentation(dataset: UtteranceDataset, utterances: Iterable[Utterance], folder: Path) -> list[Path]:
    """Write the first readable utterance before and after the whole augmentation and each transform alone.

    Many transforms have a small probability. Therefore the whole augmentation is that of the epoch, out of the first
    ten, that changes the utterance most, and each transform alone is always applied.

    The files are written by another process, because plotting takes 90 MB of memory that would not be freed.

    returns: before.wav, all.png, all.wav, and NUMBER_NAME.png of each transform, with a .wav if it changes the wave
    raises:  OSError if the process raised one, for example for a full disk; RuntimeError if it failed otherwise
    """
    context = get_context("fork")
    errors = context.SimpleQueue()
    process = context.Process(target=_write_in_child, args=(errors, dataset, utterances, folder), daemon=True)
    process.start()
    process.join()
    if not errors.empty():
        raise errors.get()
    if process.exitcode:
        raise RuntimeError(f"{folder}: the process that writes it ended with exit code {process.exitcode}, see above")
    return sorted(folder.glob("*"))


def _write_in_child(
    errors: SimpleQueue, dataset: UtteranceDataset, utterances: Iterable[Utterance], folder: Path
) -> None:
    for received in SIGNALS:  # the handlers inherited from the training would wait for a batch
        signal.signal(received, signal.SIG_DFL)
    stop_without(os.getppid())
    torch.set_num_threads(1)  # threads do not survive a fork
    try:
        _write_files(dataset, utterances, folder)
    except OSError as error:
        errors.put(error)


def _write_files(dataset: UtteranceDataset, utterances: Iterable[Utterance], folder: Path) -> None:
    from asr.artifacts.plots import render, spectrogram_pair

    original = replace(dataset, augment=None)
    for one in utterances:
        with suppress(UnreadableError):  # the training reports it when it reads the utterance
            clean = original.example(one, 0).features
            break
    else:
        return
    folder.mkdir(parents=True, exist_ok=True)
    number = max(range(10), key=lambda n: _change(clean, dataset.example(_at_speed(one, dataset, n), n).features))
    frame_seconds = dataset.features.hop_samples / dataset.features.sample_rate
    _write_wave(original.waveform(one, 0), dataset, folder / "before.wav")
    assert dataset.augment is not None
    for name, augment in {"all": dataset.augment, **_one_by_one(dataset.augment)}.items():
        changed = replace(dataset, augment=augment)
        title = f"{one.id}, before and after {'augmentation' if name == 'all' else name}"
        after = changed.example(_at_speed(one, changed, number), number).features
        pair = spectrogram_pair(clean.T.numpy(), after.T.numpy(), frame_seconds, dataset.features.mel.f_max, title)
        (folder / f"{name}.png").write_bytes(render(pair, "png"))
        if augment.speed or augment.wave:
            _write_wave(changed.waveform(_at_speed(one, changed, number), number), dataset, folder / f"{name}.wav")


def _at_speed(one: Utterance, dataset: UtteranceDataset, data_epoch: int) -> Utterance:
    """Return the utterance at the speed that is drawn for it in an epoch of the data."""
    assert dataset.augment is not None
    (speed,) = dataset.augment.speeds(dataset.seed, data_epoch, id_keys([one.id]))
    return replace(one, speed=float(speed))


def _one_by_one(augment: Augment) -> dict[str, Augment]:
    """Return each transform alone, with its probability, if it has one, set to 1."""

    def certain(transform: Any) -> Any:
        always = copy(transform)
        if hasattr(always, "p"):
            always.p = 1.0
        return always

    def kind(transform: object) -> str:
        return type(transform.transform if isinstance(transform, Sometimes) else transform).__name__

    alone = [
        *(Augment(speed=certain(speed)) for speed in filter(None, [augment.speed])),
        *(Augment(wave=[certain(transform)]) for transform in augment.wave),
        *(Augment(spectrogram=[certain(transform)]) for transform in augment.spectrogram),
    ]
    return {f"{number}_{kind(one.transforms[0])}": one for number, one in enumerate(alone, start=1)}


def _write_wave(samples: np.ndarray, dataset: UtteranceDataset, path: Path) -> None:
    peak = max(PCM_PEAK, float(np.abs(samples).max()))
    soundfile.write(path, samples * (PCM_PEAK / peak), dataset.features.sample_rate)


def _change(before: Tensor, after: Tensor) -> float:
    frames = min(len(before), len(after))
    return float((before[:frames] - after[:frames]).abs().mean())
