"""Whole training steps of ours and of the reference, in processes of their own that take turns."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from resource import RUSAGE_SELF, getrusage
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asr.config.build import Recognizer, build_compute, build_optimizer, build_recognizer
from asr.corpora.manifest import Utterance
from asr.data.batches import Position
from asr.data.dataset import Batch
from asr.models.deep_speech2 import DeepSpeech2
from asr.training.memory import keep_freed_memory
from asr.training.parallel import distribute
from asr.training.step import train_step
from benchmarks import Figure, composed, free_port
from benchmarks.reference import PublishedDeepSpeech2

# Seconds of train-clean-100's utterances that pass exp2's filters, at every tenth of them (of 405 that were measured).
QUANTILES = (1.6, 3.4, 4.8, 7.9, 10.7, 12.0, 13.0, 13.7, 14.4, 14.9, 17.0)
SYMBOLS_PER_SECOND = 14
BUCKETS = 30  # as in conf/train.yaml
CENTRES = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # where in the distribution the batches of like length are taken
QUICKSTART = ["experiment=quickstart", "augment=none"]


class Case(NamedTuple):
    """A model and a batch; how many times as fast as the reference one process should be, and two of one thread.

    The reference computes in float32, as it was published; ours in float32 and, with the same targets, in bf16.
    """

    model: str
    utterances: int
    target: float | None = None
    target_of_two: float | None = None


CASES = (Case("ds2_7gru", 16, 4, 5), Case("ds2_2conv_4gru", 16, 13), Case("ds2_7gru", 32), Case("ds2_2conv_4gru", 32))
PRECISIONS = ("float32", "bf16")
TWO = ", two processes of one thread"


class Timing(NamedTuple):
    """Sums over steps. audio_seconds leave padding out; flop: of matrix products and convolutions, with padding.

    peak_gb: the most memory that one process held until then
    """

    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    flop: float = 0.0
    peak_gb: float = 0.0

    def plus(self, other: "Timing") -> "Timing":
        *sums, _ = (a + b for a, b in zip(self, other, strict=True))
        return Timing(*sums, max(self.peak_gb, other.peak_gb))

    @property
    def speed(self) -> float:
        """Audio-seconds a second."""
        return self.audio_seconds / self.wall_seconds

    @property
    def gflops(self) -> float:
        return self.flop / self.wall_seconds / 1e9


Step = Callable[[list[float]], Timing]


def measure(rounds: int) -> Iterator[Figure]:
    """Ours against the reference, and both against what the machine can do."""
    peak = sgemm_gflops(rounds)
    yield Figure("train", f"sgemm of 2048 x 2048, {torch.get_num_threads()} threads", peak, "GFLOP/s")
    for precision in PRECISIONS:
        with stepper([(serve_ours, ([*QUICKSTART, f"precision={precision}"], 0, 1))]) as step:
            timing = in_like_lengths(step, 32, np.random.default_rng(1))
        name = f"quickstart's model, batch 32, {precision}"
        yield Figure("train", name, timing.speed, "audio-s/s", 150, share_of(timing, peak))
    for case in CASES:
        yield from compare(case, peak, rounds)


def compare(case: Case, peak: float, rounds: int) -> Iterator[Figure]:
    """One process of ours, two where that has a target, and the reference, by turns and with the same lengths."""
    overrides = [f"model={case.model}", "augment=none"]
    teams: dict[str, list] = {"reference": [(serve_reference, (overrides,))]}
    for precision in PRECISIONS:
        settings = [*overrides, f"precision={precision}"]
        teams[precision] = [(serve_ours, (settings, 0, 1))]
        if case.target_of_two:
            port = free_port()
            teams[precision + TWO] = [(serve_ours, (settings, rank, 2, port)) for rank in (0, 1)]
    timings = dict.fromkeys(teams, Timing())
    with ExitStack() as stack:
        steps = {team: stack.enter_context(stepper(servers)) for team, servers in teams.items()}
        for turn in range(1, rounds + 1):
            for team, step in steps.items():
                random, utterances = np.random.default_rng(turn), case.utterances * len(teams[team])
                in_turn = step(lengths(random.random(utterances))) if team == "reference" else (
                    in_like_lengths(step, utterances, random)
                )  # fmt: skip
                timings[team] = timings[team].plus(in_turn)
    for team, timing in timings.items():
        name = f"{case.model}, batch {case.utterances}, {team}"
        yield Figure("train", name, timing.speed, "audio-s/s", None, share_of(timing, peak))
        if team != "reference":
            target = case.target_of_two if team.endswith(TWO) else case.target
            yield Figure("train", f"{name}: ratio", timing.speed / timings["reference"].speed, "x", target)
        if team == "float32" + TWO:
            yield Figure("train", f"{name}: share of sgemm", timing.gflops / peak, "", 0.6)


def share_of(timing: Timing, peak: float) -> str:
    return f"{timing.gflops:.0f} GFLOP/s, {timing.gflops / peak:.0%} of sgemm"


def in_like_lengths(step: Step, utterances: int, random: np.random.Generator) -> Timing:
    """Batches of like length, from all over the distribution."""
    total = Timing()
    for centre in CENTRES:
        total = total.plus(step(lengths(centre + (random.random(utterances) - 0.5) / BUCKETS)))
    return total


def lengths(shares: np.ndarray) -> list[float]:
    """Seconds of the utterances that stand at these shares of the distribution."""
    return np.interp(shares, np.linspace(0, 1, len(QUANTILES)), QUANTILES).tolist()


def sgemm_gflops(rounds: int, size: int = 2048) -> float:
    """What torch gets out of this machine for a large product, the median of many."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(20 * rounds):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / float(np.median(seconds)) / 1e9


@contextmanager
def stepper(servers: list[tuple[Callable, tuple]]) -> Iterator[Step]:
    """Processes that take training steps: called with a batch's seconds, each takes its share of the utterances."""
    context = get_context("spawn")
    connections = []
    for serve, arguments in servers:
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, *arguments), daemon=True).start()
        connections.append(here)

    def step(seconds: list[float]) -> Timing:
        for rank, connection in enumerate(connections):
            connection.send(seconds[rank :: len(connections)])
        timings = [connection.recv() for connection in connections]
        wall_seconds, peak_gb = max(t.wall_seconds for t in timings), max(t.peak_gb for t in timings)
        return Timing(sum(seconds), wall_seconds, sum(t.flop for t in timings), peak_gb)

    if connections:
        step([2.0] * 8)  # the first step of a process is slow
    yield step
    for connection in connections:
        connection.send(None)


def serve_ours(connection: Connection, overrides: list[str], rank: int, size: int, port: int = 0) -> None:
    """The suite's own training step, in one process or in one of several that find each other as under torchrun."""
    if size > 1:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    config = composed(overrides)
    compute = build_compute("cpu", config.precision)
    recognizer = build_recognizer(config, config.seed)
    recognizer.model.train()
    optimizer, scheduler = build_optimizer(config, recognizer.model, 10_000)
    keep_freed_memory()
    model = distribute(recognizer.model, compute)

    def step(batch: Batch) -> None:
        train_step(model, [batch], optimizer, scheduler, config.max_grad_norm, compute)

    answer(connection, step, recognizer)


def serve_reference(connection: Connection, overrides: list[str]) -> None:
    """A training step in the published manner."""
    config = composed(overrides)
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

    answer(connection, step, recognizer)


def answer(connection: Connection, step: Callable[[Batch], None], recognizer: Recognizer) -> None:
    """Takes steps until it is told None."""
    while (seconds := connection.recv()) is not None:
        batch = made_up_batch(seconds, recognizer)
        start = time.perf_counter()
        step(batch)
        wall_seconds = time.perf_counter() - start
        peak_gb = getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        connection.send(Timing(sum(seconds), wall_seconds, flop(recognizer.model, batch), peak_gb))


def made_up_batch(seconds: list[float], recognizer: Recognizer) -> Batch:
    """Noise and random texts of these lengths."""
    features = recognizer.features
    frames = torch.tensor([features.frames(round(s * features.sample_rate)) for s in seconds])
    symbols = torch.tensor([max(1, round(s * SYMBOLS_PER_SECOND)) for s in seconds])
    noise = torch.randn(len(seconds), features.n_mels, int(frames.max()))
    noise *= torch.arange(noise.shape[2]) < frames[:, None, None]
    targets = torch.randint(1, recognizer.alphabet.size, (len(seconds), int(symbols.max())))
    rate = features.sample_rate
    utterances = [Utterance(str(number), "", "", round(s * rate), rate) for number, s in enumerate(seconds)]
    texts = [one.text for one in utterances]
    return Batch(Position(0, 0), utterances, texts, noise, frames, targets, symbols, [])


def flop(model: DeepSpeech2, batch: Batch) -> float:
    """Of the step's products and convolutions, two for each multiplication; backward takes twice forward's.

    (But for the first convolution, whose input has no gradient.) The output layer, a thousandth, is left out.
    """
    utterances, height, frames = batch.features.shape
    total = 0.0
    for number, conv in enumerate(model.convs):
        height, frames = (height - 1) // conv.stride[0] + 1, (frames - 1) // conv.stride[1] + 1
        forward = 2 * utterances * height * frames * conv.weight.numel()
        total += forward * (3 if number else 2)
    for gru in model.grus:
        total += (
            3
            * 2
            * utterances
            * frames
            * 2
            * (gru.forward_gru.weight_ih_l0.numel() + gru.forward_gru.weight_hh_l0.numel())
        )
    return total
