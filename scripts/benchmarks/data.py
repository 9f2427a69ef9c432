"""From files to batches: each stage on one core, and how long a training step waits for its batch."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

from asr.config.build import build_experiment
from asr.corpora.manifest import Utterance
from asr.data.audio import load_audio
from asr.data.augment import seeded
from asr.data.batches import Position
from asr.data.dataset import UtteranceDataset, collate
from asr.data.loader import training_batches
from asr.training.experiment import Experiment
from asr.training.step import train_step
from benchmarks import Figure, composed

UTTERANCES = 200
STEPS, QUICKSTART_STEPS = 6, 60
LIKE_LENGTHS = ["batch.utterances=null"]


class Loop(NamedTuple):
    """speed: audio-seconds a second; waiting: for data, as a share of the time."""

    speed: float
    waiting: float


def measure(corpus: list[str]) -> Iterator[Figure]:
    """corpus: the overrides that choose the data."""
    session = build_experiment(composed(["augment=wave_spec", "workers=0", *corpus]))
    dataset = session.recognizer.dataset(session.augment, seed=1)
    utterances = list(session.data.training_utterances())[:UTTERANCES]
    seconds = sum(one.seconds for one in utterances)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, each in stages(dataset, utterances):
        yield Figure("data", name, 1e6 * timed(each) / seconds, "us/audio-s")
    groups = [(Position(0, at), utterances[at : at + 16]) for at in range(0, len(utterances), 16)]
    wall_seconds = timed(lambda: [dataset[group] for group in groups])
    yield Figure("data", "all, on one core, with exp2's augmentation", seconds / wall_seconds, "audio-s/s", 1000)
    torch.set_num_threads(threads)
    loop = train(composed(["augment=wave_spec", "batch.seconds=60", *LIKE_LENGTHS, *corpus]), STEPS)
    yield Figure("data", "waiting for data, ds2_7gru, one worker", loop.waiting, "", 0.02, at_most=True)
    loop = train(composed(["experiment=quickstart"]), QUICKSTART_STEPS)
    yield Figure("data", "the quickstart as it is trained, one worker", loop.speed, "audio-s/s", 150)


def stages(dataset: UtteranceDataset, utterances: list[Utterance]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each stage over all utterances; the one before has made its input."""
    rate, augment = dataset.features.sample_rate, dataset.augment
    assert augment is not None
    waves = [load_audio(one, rate) for one in utterances]
    yield "decode", lambda: [load_audio(one, rate) for one in utterances]
    yield "waves", lambda: [augment.waveform(wave, rate) for wave in waves]
    tensors = [torch.from_numpy(np.array(wave)) for wave in waves]
    yield "mel and log", lambda: [dataset.features(wave) for wave in tensors]
    yield "mel, masks and log", lambda: [dataset.features(wave, augment.spectrogram) for wave in tensors]
    examples = [dataset.example(one, 0) for one in utterances]
    n_mels = dataset.features.n_mels
    groups = [examples[at : at + 16] for at in range(0, len(examples), 16)]
    yield "collate", lambda: [collate(Position(0, 0), group, [], n_mels) for group in groups]


def timed(work: Callable[[], object]) -> float:
    """Seconds, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with seeded("benchmark"):
            work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def batches_of(session: Experiment, config: DictConfig) -> Iterator:
    dataset = session.recognizer.dataset(session.augment, config.seed, skip_unreadable=True)
    return training_batches(dataset, session.batches, Position(0, 0), workers=1, pin_memory=False)


def train(config: DictConfig, steps: int) -> Loop:
    """Steps of a training with all that belongs to it but dev and tracking, once the first batch has come."""
    session = build_experiment(config)
    session.recognizer.model.train()
    batches = batches_of(session, config)
    seconds = waited = worked = 0.0
    next(batches)
    for _ in range(steps):
        start = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - start
        start = time.perf_counter()
        train_step(session.recognizer.model, [batch], session.optimizer, session.scheduler, config.max_grad_norm,
                   session.compute)  # fmt: skip
        worked += time.perf_counter() - start
        seconds += batch.seconds
    return Loop(seconds / (waited + worked), waited / (waited + worked))
