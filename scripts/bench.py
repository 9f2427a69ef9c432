"""How fast the suite is on this machine: prints a table and writes it as JSON, with machine and commit.

python scripts/bench.py                           all parts on the synthetic corpus; about 20 minutes on two cores
python scripts/bench.py train data --rounds 2     some parts: train, data, start, decode, scale
python scripts/bench.py data decode --corpus data=clean data.root=/data/LibriSpeech     on another corpus
python scripts/bench.py words long --checkpoint outputs/runs/quickstart/best.pt     of a trained model: transcription

Nothing else may run beside it. "python -m asr.prepare synthetic" makes the corpus that it reads.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import Figure, data, decoding, long, scale, start, training, words
from rich.console import Console
from rich.table import Table

from asr.tracking.provenance import code_version, package_versions
from asr.training.compute import processor

FOLDER = Path("outputs/bench")
PARTS = ("train", "data", "start", "decode", "scale")
TRANSCRIPTION = ("words", "long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join((*PARTS, *TRANSCRIPTION)))
    parser.add_argument("--rounds", type=int, default=1, help="of ours and the reference in turn; more are steadier")
    parser.add_argument("--corpus", nargs="+", default=["data=synthetic"], metavar="KEY=VALUE")
    parser.add_argument("--checkpoint", default="outputs/runs/quickstart/best.pt", help="of words and long")
    parser.add_argument("--root", type=Path, default=Path("outputs/corpora/synthetic"), help="of words and long")
    parser.add_argument("--part", help="of words (dev-clean) and long (test-clean)")
    given = parser.parse_args()
    if unknown := set(given.parts) - {*PARTS, *TRANSCRIPTION}:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join((*PARTS, *TRANSCRIPTION))}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    console = Console()
    for part in given.parts or PARTS:
        figures = []
        for figure in measure(part, given):
            figures.append(figure)
            console.print(f"{figure.part}: {figure.what}: {figure.value:.3g} {figure.unit}", highlight=False)
        write(part, figures)
        console.print(table(figures))


def measure(part: str, given: argparse.Namespace) -> Iterator[Figure]:
    if part == "train":
        return training.measure(given.rounds)
    if part == "data":
        return data.measure(given.corpus)
    if part == "words":
        return words.measure(given.checkpoint, given.root, given.part or "dev-clean")
    if part == "long":
        return long.measure(given.checkpoint, given.root, given.part or "test-clean", FOLDER / part)
    if part == "decode":
        return decoding.measure(given.corpus)
    return (start if part == "start" else scale).measure(FOLDER / part)


def write(part: str, figures: list[Figure]) -> None:
    """One file for each part, so that parts can be measured again on their own."""
    commit, dirty, _ = code_version(Path(__file__).parent)
    versions = {name: package_versions()[name] for name in ("python", "torch", "pyarrow", "audiomentations")}
    made_with = {"processor": processor(), "cores": os.cpu_count(), "commit": commit, "dirty": dirty, **versions}
    rows = [{**figure._asdict(), "reached": figure.reached} for figure in figures]
    (FOLDER / f"{part}.json").write_text(json.dumps({**made_with, "figures": rows}, indent=2) + "\n")


def table(figures: list[Figure]) -> Table:
    result = Table("part", "what", "value", "target", "", "note")
    for figure in figures:
        bound = "" if figure.target is None else f"{'<=' if figure.at_most else '>='} {figure.target:g}"
        verdict = {True: "reached", False: "missed", None: ""}[figure.reached]
        result.add_row(figure.part, figure.what, f"{figure.value:.3g} {figure.unit}", bound, verdict, figure.note)
    return result


if __name__ == "__main__":
    main()
