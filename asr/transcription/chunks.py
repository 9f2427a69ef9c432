"""Cut a recording of any length into chunks that a model takes at once, at pauses where there are any."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

LONGEST_SECONDS = 20.0  # of a chunk, as of an utterance in training
SHORTEST_SECONDS = 2.0  # of a chunk: too little is bad for features that are normalised by the chunk
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
            place, is_pause = find_cut(ahead[:most], rate, least, most - max(least, margin))
            shared = 0 if is_pause else margin
            yield Chunk(ahead[: place + shared], start / rate, overlap / rate)
            ahead, start, overlap = ahead[place - shared :], start + place - shared, 2 * shared
    while start and len(ahead) > 2 * least + rate:  # the end of a long recording is cut like the rest
        place, is_pause = find_cut(ahead, rate, least, len(ahead) - least)
        if not is_pause:
            break
        yield Chunk(ahead[:place], start / rate, overlap / rate)
        ahead, start, overlap = ahead[place:], start + place, 0
    yield Chunk(ahead, start / rate, overlap / rate)


def find_cut(samples: np.ndarray, rate: int, first: int, last: int) -> tuple[int, bool]:
    """Return where to cut between two samples, and whether there is a pause.

    That is the middle of the first pause or, without one, of the quietest 0.3 s in the second half.
    """
    step = int(STEP_SECONDS * rate)
    power = np.square(samples[: len(samples) // step * step], dtype=np.float64).reshape(-1, step).mean(1)
    width = round(PAUSE_SECONDS / STEP_SECONDS)
    around = np.convolve(power, np.ones(width) / width, "same")[first // step : last // step]
    pauses = np.flatnonzero(around <= QUIET * power.mean())
    if len(pauses):
        ends = np.flatnonzero(np.diff(pauses) > 1)
        pause = pauses[: ends[0] + 1] if len(ends) else pauses
        place = pause[around[pause].argmin()]
    else:
        place = len(around) // 2 + around[len(around) // 2 :].argmin()
    return (first // step + int(place)) * step, len(pauses) > 0
