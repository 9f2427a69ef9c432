"""Whole training steps of ours and of the reference, each in a process of its own, taking turns."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from asr.build import build_compute, build_optimizer, build_recognizer
from asr.dataset import Batch, Position
from asr.loop import train_step
from benchmarks import Figure, composed
from benchmarks.reference import PublishedDeepSpeech2

# Seconds of train-clean-100's utterances that pass exp2's filters, at every tenth of them (of 405 that were measured).
QUANTILES = (1.6, 3.4, 4.8, 7.9, 10.7, 12.0, 13.0, 13.7, 14.4, 14.9, 17.0)
SYMBOLS_PER_SECOND = 14
BUCKETS = 30  # as in conf/train.yaml
CENTRES = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # where in the distribution the batches of like length are taken
# model, utterances a batch, times as fast as the reference that it should be
CASES = (("ds2_7gru", 16, 4), ("ds2_7gru", 32, None), ("ds2_2conv_4gru", 16, 13), ("ds2_2conv_4gru", 32, None))


class Timing(NamedTuple):
    """Sums over steps. audio_seconds leave padding out; flop: of matrix products and convolutions, with padding."""

    audio_seconds: float
    wall_seconds: float
    flop: float

    def __add__(self, other: "Timing") -> "Timing":  # type: ignore[override]
        return Timing(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def speed(self) -> float:
        """Audio-seconds a second."""
        return self.audio_seconds / self.wall_seconds

    @property
    def gflops(self) -> float:
        """Giga-operations a second."""
        return self.flop / self.wall_seconds / 1e9


def measure(rounds: int) -> Iterator[Figure]:
    """Ours against the reference, and both against what the machine can do."""
    peak = sgemm_gflops(rounds)
    yield Figure("train", f"sgemm, {torch.get_num_threads()} threads", peak, "GFLOP/s")
    for model, utterances, target in CASES:
        ours, theirs = take_turns(model, utterances, rounds)
        name = f"{model}, batch {utterances}"
        yield Figure("train", f"{name}, reference", theirs.speed, "audio-s/s", note=f"{theirs.gflops:.0f} GFLOP/s")
        share = f"{ours.gflops:.0f} GFLOP/s, {ours.gflops / peak:.0%} of sgemm"
        yield Figure("train", name, ours.speed, "audio-s/s", note=share)
        yield Figure("train", f"{name}, against the reference", ours.speed / theirs.speed, "x", target)


def take_turns(model: str, utterances: int, rounds: int) -> tuple[Timing, Timing]:
    """Sums of ours over batches of like length, and of the reference over random batches of the same distribution."""
    random = np.random.default_rng(1)
    with stepper(serve_ours, model) as ours, stepper(serve_reference, model) as theirs:
        sums = [Timing(0, 0, 0), Timing(0, 0, 0)]
        for _ in range(rounds):
            for centre in CENTRES:
                sums[0] += ours(lengths(centre + (random.random(utterances) - 0.5) / BUCKETS))
            sums[1] += theirs(lengths(random.random(utterances)))
    return sums[0], sums[1]


def lengths(shares: np.ndarray) -> list[float]:
    """Seconds of the utterances that stand at these shares of the distribution."""
    return np.interp(shares, np.linspace(0, 1, len(QUANTILES)), QUANTILES).tolist()


def sgemm_gflops(rounds: int, size: int = 2048) -> float:
    """The most that a large matrix product gets out of this machine."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    seconds = []
    for _ in range(10 * rounds):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / sorted(seconds)[len(seconds) // 2] / 1e9


@contextmanager
def stepper(serve, *arguments):
    """A process that takes training steps; called with the seconds of a batch's utterances it gives a Timing."""
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=serve, args=(there, *arguments), daemon=True)
    process.start()

    def step(seconds: list[float]) -> Timing:
        here.send(seconds)
        return here.recv()

    step([2.0] * 4)  # the first step of a process is slow
    yield step
    process.kill()
    process.join()


def serve_ours(connection: Connection, model: str) -> None:
    """The suite's own training step."""
    config = composed([f"model={model}", "augment=none"])
    compute = build_compute("cpu", "float32")
    recognizer = build_recognizer(config, config.seed)
    recognizer.model.train()
    optimizer, scheduler = build_optimizer(config, recognizer.model, 10_000)

    def step(batch: Batch) -> None:
        train_step(recognizer.model, batch, optimizer, scheduler, config.max_grad_norm, compute)

    answer(connection, step, recognizer.features)


def serve_reference(connection: Connection, model: str) -> None:
    """A training step in the published manner."""
    config = composed([f"model={model}", "augment=none"])
    recognizer = build_recognizer(config, config.seed)
    reference = PublishedDeepSpeech2(recognizer.model)
    optimizer = torch.optim.Adam(reference.parameters(), 1e-4)

    def step(batch: Batch) -> None:
        log_probs: Tensor = reference(batch.features)
        frames = recognizer.model.output_lengths(batch.lengths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), batch.targets, frames, batch.target_lengths, zero_infinity=True)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), config.max_grad_norm)
        optimizer.step()
        loss.item()

    answer(connection, step, recognizer.features)


def answer(connection: Connection, step, features) -> None:
    """Takes steps until the process is killed. The operations of one are counted before, on another run of it."""
    while True:
        seconds = connection.recv()
        batch = made_up_batch(seconds, features)
        start = time.perf_counter()
        step(batch)
        wall_seconds = time.perf_counter() - start
        with FlopCounterMode(display=False) as counter:
            step(batch)
        connection.send(Timing(sum(seconds), wall_seconds, counter.get_total_flops()))


def made_up_batch(seconds: list[float], features) -> Batch:
    """Noise and random texts of these lengths."""
    frames = torch.tensor([features.frames(round(s * features.sample_rate)) for s in seconds])
    symbols = torch.tensor([max(1, round(s * SYMBOLS_PER_SECOND)) for s in seconds])
    noise = torch.randn(len(seconds), features.n_mels, int(frames.max()))
    noise *= torch.arange(noise.shape[2]) < frames[:, None, None]
    targets = torch.randint(1, 28, (len(seconds), int(symbols.max())))
    names = [str(number) for number in range(len(seconds))]
    return Batch(Position(0, 0), names, names, noise, frames, targets, symbols, sum(seconds), [])
