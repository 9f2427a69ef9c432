"""Cut a recording of any length into chunks that a model takes at once, at pauses where there are any."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

LONGEST_SECONDS = 20.0  # of a chunk, as of an utterance in training
SHORTEST_SECONDS = 2.0  # of what is left after a cut: too little for a model that normalises by the chunk
OVERLAP_SECONDS = 2.0  # of two chunks that no pause separates
STEP_SECONDS, PAUSE_SECONDS = 0.01, 0.3
QUIET = 0.01  # a pause has so much of the chunk's mean power at most, 20 dB less


class Chunk(NamedTuple):
    """A part of a recording.

    samples: (N,)
    start:   in seconds from the beginning of the recording
    overlap: seconds at its beginning that the chunk before holds too; 0 if a pause separates them
    """

    samples: np.ndarray
    start: float
    overlap: float


def cut(blocks: Iterable[np.ndarray], rate: int, longest: float = LONGEST_SECONDS) -> Iterator[Chunk]:
    """Yield the chunks of a recording, of at most `longest` seconds; blocks: its samples (N,), in order, at `rate`."""
    most, least, margin = (int(seconds * rate) for seconds in (longest, SHORTEST_SECONDS, OVERLAP_SECONDS / 2))
    ahead, start, overlap = np.empty(0, np.float32), 0, 0
    for block in blocks:
        ahead = np.concatenate((ahead, block))
        while len(ahead) > most:
            place, is_pause = quietest(ahead[:most], rate, most // 2, most - max(least, margin))
            shared = 0 if is_pause else margin
            yield Chunk(ahead[: place + shared], start / rate, overlap / rate)
            ahead, start, overlap = ahead[place - shared :], start + place - shared, 2 * shared
    yield Chunk(ahead, start / rate, overlap / rate)


def quietest(samples: np.ndarray, rate: int, first: int, last: int) -> tuple[int, bool]:
    """Return the middle of the quietest 0.3 s between two samples, and whether it is a pause."""
    step = int(STEP_SECONDS * rate)
    power = np.square(samples[: len(samples) // step * step], dtype=np.float64).reshape(-1, step).mean(1)
    width = round(PAUSE_SECONDS / STEP_SECONDS)
    around = np.convolve(power, np.ones(width) / width, "same")
    place = first // step + int(around[first // step : last // step].argmin())
    return place * step, bool(around[place] <= QUIET * power.mean())
