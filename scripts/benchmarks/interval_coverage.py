"""How often do the report's 95 % intervals contain the true error rate, by the number of speakers?

    python scripts/benchmarks/interval_coverage.py

Simulates test parts of 20 utterances a speaker. The error rates of speakers are drawn around a true one of 20 %.
"""

from dataclasses import replace

import numpy as np

from asr.reporting.intervals import Errors, Resampling, resampled

TRUTH, UTTERANCES, PARTS = 0.2, 20, 1000
RESAMPLING = Resampling(1000, 1)


def simulate(random: np.random.Generator, speakers: int, spread: float) -> Errors:
    """Return a part whose speakers' rates have this standard deviation: a beta distribution, or all the same."""
    concentration = TRUTH * (1 - TRUTH) / spread**2 - 1 if spread else np.inf
    rates = random.beta(TRUTH * concentration, (1 - TRUTH) * concentration, speakers) if spread else [TRUTH] * speakers
    names = tuple(str(n) for n in range(speakers) for _ in range(UTTERANCES))
    length = random.integers(5, 35, len(names))
    errors = random.binomial(length, np.repeat(rates, UTTERANCES))
    return Errors(tuple(map(str, range(len(names)))), names, names, length.astype(float), errors[None].astype(float))


def main() -> None:
    print("spread of the speakers  speakers  speakers, then utterances  utterances alone   (covered; width in points)")
    for spread in (0.0, 0.03, 0.1):
        for speakers in (3, 5, 10, 20, 40):
            random = np.random.default_rng(0)
            parts = [simulate(random, speakers, spread) for _ in range(PARTS)]
            cells = []
            for known in (parts, [replace(part, speakers=None) for part in parts]):
                limits = np.array([resampled([part], RESAMPLING)[1:3] for part in known])
                covered = np.mean((limits[:, 0] <= TRUTH) & (limits[:, 1] >= TRUTH))
                cells.append(f"{covered:6.1%} {100 * np.mean(limits[:, 1] - limits[:, 0]):5.1f}")
            print(f"{spread:22.2f}  {speakers:8}  {cells[0]:>25}  {cells[1]:>16}", flush=True)


if __name__ == "__main__":
    main()
