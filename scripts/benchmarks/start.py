"""How long a training of LibriSpeech's size takes from the command to its first step, and how much memory."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import soundfile

from asr.corpora.index import Index
from asr.corpora.librispeech import find_utterances
from asr.corpora.manifest import Utterances, read_manifest
from asr.data.augment import Augment, Speed
from asr.data.batches import EpochBatches
from benchmarks import Figure

RATE = 16_000
TRAIN = {"train-clean-100": 28_539, "train-clean-360": 104_014, "train-other-500": 148_688}  # utterances
OTHERS = ("dev-clean", "test-clean", "test-other")
CHAPTER = 50  # utterances, about as many as LibriSpeech's have
SHORT, TYPICAL, LONGEST = 5.0, 16.0, 17.0  # seconds; a triangle between them has LibriSpeech's mean of 12.3 with
SHARE_OF_SHORT = 0.08  # evenly between 1 s and TYPICAL
CHARACTERS_A_SECOND = 14.6
# A model whose step takes little time, so that that of the start shows; its first batch takes 0.13 GB all the same.
TINY = ("model=ds2_tiny", "model.convs=[{kernel: [11, 5], stride: [2, 2]}]", "model.conv_channels=1",
        "model.gru_layers=1", "model.gru_size=8")  # fmt: skip


class Start(NamedTuple):
    """Seconds since the command was given, and the most memory that the process held, GB."""

    imports: float
    plan: float
    first_step: float
    peak_gb: float


def make_manifests(folder: Path, total: int = sum(TRAIN.values())) -> None:
    """A tree of LibriSpeech's layout and its indices, with so many training utterances.

    An utterance's audio is noise of its length: a link to one of a few files, so that the tree needs little disk.
    """
    draw = random.Random(0)
    noise = np.random.default_rng(0).normal(0, 1e-3, round(LONGEST * RATE))
    audio = folder / "audio"
    audio.mkdir(parents=True)
    for tenths in range(10, round(LONGEST * 10) + 1):
        soundfile.write(audio / f"{tenths}.flac", noise[: tenths * RATE // 10], RATE)
    sizes = {part: round(total * utterances / sum(TRAIN.values())) for part, utterances in TRAIN.items()}
    chapters = count(100_000)  # no id may stand in two parts
    for part, utterances in {**sizes, **dict.fromkeys(OTHERS, 20)}.items():
        write_part(folder, part, utterances, chapters, draw)
        Index(folder, folder / "manifests", 2, verify_audio=False).write(part, *find_utterances(folder, part))


def write_part(folder: Path, part: str, utterances: int, chapters: Iterator[int], draw: random.Random) -> None:
    """Chapters with links to audio and transcripts."""
    for first in range(0, utterances, CHAPTER):
        speaker, chapter = draw.randrange(10, 9000), next(chapters)
        place = folder / part / str(speaker) / str(chapter)
        place.mkdir(parents=True)
        lines = []
        for number in range(min(CHAPTER, utterances - first)):
            id = f"{speaker}-{chapter}-{number:04}"
            is_short = draw.random() < SHARE_OF_SHORT
            seconds = draw.uniform(1, TYPICAL) if is_short else draw.triangular(SHORT, LONGEST, TYPICAL)
            os.symlink(folder.absolute() / "audio" / f"{round(seconds * 10)}.flac", place / f"{id}.flac")
            lines.append(f"{id} {text(round(seconds * CHARACTERS_A_SECOND), draw)}\n")
        (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))


def text(characters: int, draw: random.Random) -> str:
    """Upper-case words of one to eight letters."""
    letters = draw.choices("ETAOINSHRDLU", k=max(1, characters))
    for place in words_end(len(letters), draw):
        letters[place] = " "
    return "".join(letters).strip()


def words_end(characters: int, draw: random.Random) -> Iterator[int]:
    """Where the spaces are."""
    place = draw.randint(1, 8)
    while place < characters:
        yield place
        place += draw.randint(2, 9)


def measure_start(folder: Path, *overrides: str) -> Start:
    """Starts a training and ends it when its journal has the first step.

    The tracking database lies in the folder: the first start makes it, which takes a second, and later ones find it.
    """
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import asr.train"], check=True)
    imports = time.perf_counter() - begin
    with TemporaryDirectory() as here:
        place = folder.absolute()
        settings = (*TINY, "data=all", f"data.root={place}", "output_dir=run", "tracking.log_every=1",
                    f"tracking.uri=sqlite:///{place}/mlflow.db", *overrides)  # fmt: skip
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "asr.train", *settings], cwd=here, stdout=subprocess.PIPE,
                               env=os.environ | {"PYTHONUNBUFFERED": "1"})  # fmt: skip
        process.stdout.readline()
        plan = time.perf_counter() - begin
        journal = Path(here, "run", "journal.jsonl")
        while not (journal.exists() and b"step/loss" in journal.read_bytes()):
            if process.poll() is not None:
                raise SystemExit("the training ended before its first step")
            time.sleep(0.02)
        first_step = time.perf_counter() - begin
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        process.kill()
        process.wait()
    return Start(imports, plan, first_step, peak * 1024 / 1e9)


def measure_batches(folder: Path) -> Iterator[Figure]:
    """The batches of like length of an epoch over all training utterances, with the speeds of the quickstart."""
    parts = [read_manifest(str(folder), f"{folder}/manifests", part) for part in TRAIN]
    batches = EpochBatches(Utterances.joined(parts), Augment(Speed(0.8, 0.85, 1.15)), 1, None, 320, 30)
    next(batches.batches(0))  # the first epoch computes what all use
    begin = time.perf_counter()
    list(batches.batches(1, start=10**9))
    yield Figure(
        "start", "281,241 utterances: batches of an epoch", time.perf_counter() - begin, "s", 0.5, at_most=True
    )
    begin = time.perf_counter()
    next(batches.batches(2, start=5_000))
    seconds = time.perf_counter() - begin
    yield Figure("start", "281,241 utterances: position restored in an epoch", seconds, "s", 1, at_most=True)
    lengths = [[one.seconds / one.speed for one in batch] for batch in islice(batches.batches(1), 1_000)]
    share = 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)
    yield Figure("start", "padding of batches of like length, with speed perturbation", share, "", 0.03, at_most=True)


def measure(folder: Path) -> Iterator[Figure]:
    """folder: where the made-up corpus lies, or is made."""
    if not folder.exists():
        make_manifests(folder)
    yield from measure_batches(folder)
    measure_start(folder, "workers=0")  # the first one reads files that no cache holds
    like_lengths, a_pass = ("batch.utterances=null", "batch.seconds=320"), ("steps_per_epoch=null",)
    everything = ("data.max_seconds=null", "data.max_characters=null")
    for name, overrides in {
        "random batches": (),
        "batches of like length": like_lengths,
        "batches of like length, a pass counted, nothing filtered": (*like_lengths, *a_pass, *everything),
    }.items():
        start = measure_start(folder, "workers=0", *overrides)
        what = f"281,241 utterances, {name}"
        note = f"imports {start.imports:.1f} s, plan after {start.plan:.1f} s"
        yield Figure("start", f"{what}: to the first step", start.first_step, "s", 15, note, at_most=True)
        yield Figure("start", f"{what}: peak memory", start.peak_gb, "GB", 1.2, at_most=True)
