"""Time, memory and errors of transcribing long recordings, made by joining utterances."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import jiwer
import numpy as np
import psutil
import soundfile

import asr
from asr.corpora.manifest import Utterances, read_manifest
from asr.data.audio import load_audio
from asr.transcription.chunks import LONGEST_SECONDS
from benchmarks import Figure

RATE = 16_000


def measure(checkpoint: str, root: Path, part: str, folder: Path) -> Iterator[Figure]:
    """Join a part's utterances to a minute, ten minutes and an hour, and transcribe them."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = read_manifest(str(root), str(root / "manifests"), part)
    transcriber = asr.load(checkpoint)
    references = [utterance.text.lower() for utterance in utterances]
    alone = [transcriber.transcribe(load_audio(utterance, RATE), RATE).text for utterance in utterances]
    yield Figure("long", "WER of utterances alone", 100 * jiwer.wer(references, alone), "%", None, part)
    minutes = [joined(utterances, 60, 20 * number) for number in range(5)]
    for name, seconds in (("one piece", 100), ("chunks", LONGEST_SECONDS)):
        texts = [list(transcriber.stream(samples, RATE, seconds))[-1].text for samples, _ in minutes]
        wer = jiwer.wer([text for _, text in minutes], texts)
        yield Figure("long", f"WER of minutes in {name}", 100 * wer, "%", None, f"5 of {part}, joined")
    samples, reference = joined(utterances, 600)
    soundfile.write(folder / "ten_minutes.flac", samples, RATE)
    wer = jiwer.wer(reference, transcriber.transcribe(folder / "ten_minutes.flac").text)
    yield Figure("long", "WER of ten minutes", 100 * wer, "%", None, f"{part}, joined")
    soundfile.write(folder / "hour.flac", joined(utterances, 3600)[0], RATE)
    speed, gigabytes = command(checkpoint, folder / "hour.flac", folder)
    yield Figure("long", "transcribing an hour", speed, "x real time", 100, "by the processor's time")
    yield Figure("long", "memory of it", gigabytes, "GB", 2, "peak RSS of the command", True)


def joined(utterances: Utterances, seconds: float, first: int = 0) -> tuple[np.ndarray, str]:
    """Return so many seconds of utterances, from the first again after the last, and their text."""
    waves, texts, total = [], [], 0.0
    everything = list(utterances)
    for number in count(first):
        if total >= seconds:
            return np.concatenate(waves), " ".join(texts).lower()
        utterance = everything[number % len(everything)]
        waves.append(load_audio(utterance, RATE))
        texts.append(utterance.text)
        total += utterance.seconds


def command(checkpoint: str, audio: Path, folder: Path) -> tuple[float, float]:
    """Return how many times faster than speech a processor that has nothing else to do is, and the peak of memory, GB.

    The time is that of the processor, start and imports included, so that other programs do not count.
    """
    settings = [f"checkpoint={checkpoint}", f"audio={audio}", f"output_dir={folder / 'transcripts'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "asr.transcribe", *settings], stdout=subprocess.PIPE, text=True
    ) as run:
        peak, used, process = 0, 0.0, psutil.Process(run.pid)
        while run.poll() is None:
            try:
                peak, used = max(peak, process.memory_info().rss), sum(process.cpu_times()[:2])
                run.wait(0.1)
            except (subprocess.TimeoutExpired, psutil.Error):
                pass
    return soundfile.info(audio).duration / used, peak / 1e9
