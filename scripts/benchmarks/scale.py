"""Steps a second and memory as the corpus, the batch and the utterance grow."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks import Figure
from benchmarks.start import make_manifests, measure_start
from benchmarks.training import QUICKSTART, serve_ours, stepper

HOURS = (1, 10, 100, 1000)
UTTERANCES_AN_HOUR = 293  # of LibriSpeech
BATCHES = (8, 16, 32, 64)  # utterances of TYPICAL seconds
TYPICAL = 10.0
SECONDS = (5, 15, 30, 60)  # of each of FEW utterances
FEW = 8
TIMED_STEPS = 3


def measure(folder: Path) -> Iterator[Figure]:
    """folder: where the made-up corpora lie, or are made. A start's model is tiny, a step's the quickstart's."""
    for hours in HOURS:
        root = folder / f"{hours}h"
        if not root.exists():
            make_manifests(root, hours * UTTERANCES_AN_HOUR)
        start = measure_start(root, "workers=0")
        yield Figure("scale", f"{hours:,} h of manifest: to the first step", start.first_step, "s", None,
                     f"peak {start.peak_gb:.2f} GB")  # fmt: skip
    for utterances in BATCHES:
        yield steps_of(f"batch of {utterances} x {TYPICAL:.0f} s", [TYPICAL] * utterances)
    for seconds in SECONDS:
        yield steps_of(f"batch of {FEW} x {seconds} s", [float(seconds)] * FEW)


def steps_of(name: str, seconds: list[float]) -> Figure:
    """Steps a second, in a process of its own."""
    with stepper([(serve_ours, (QUICKSTART, 0, 1))]) as step:
        timings = [step(seconds) for _ in range(TIMED_STEPS)]
    wall_seconds = min(timing.wall_seconds for timing in timings)
    return Figure("scale", name, 1 / wall_seconds, "steps/s", None,
                  f"{sum(seconds) / wall_seconds:.0f} audio-s/s, {timings[-1].peak_gb:.2f} GB")  # fmt: skip
