"""How near the times of recognised words are to those at which eSpeak NG spoke them."""

import json
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np

import asr
from asr.corpora.synthetic.corpus import SAMPLE_RATE, plan_part, speak_sentence, transcript
from asr.metrics import align, score
from benchmarks import Figure


def measure(checkpoint: str, root: Path, part: str) -> Iterator[Figure]:
    """Speak a part of the synthetic corpus again, now with the times of its words, and transcribe it."""
    transcriber = asr.load(checkpoint)
    made = json.loads((root / part / "synthetic.json").read_text())["settings"]
    errors = []
    for chapter in plan_part(root, part, made["hours"], made["speakers"], made["seed"]):
        for index, text in enumerate(chapter.sentences):
            spoken = speak_sentence(chapter, index)
            found = transcriber.transcribe(spoken.samples, SAMPLE_RATE)
            positions = accumulate((len(word) + 1 for word in text.split()), initial=0)
            times = (spoken.words.get(position) for position in positions)
            words = iter(found.words)
            for said, heard in align(score("", transcript(text).lower(), found.text)):
                time = next(times) if said else None
                word = next(words) if heard else None
                if time and word and said == heard:
                    errors.append((word.start - time[0], word.end - time[1]))
    milliseconds = 1000 * np.array(errors)
    for name, column in zip(("start", "end"), milliseconds.T, strict=True):
        at_90 = np.percentile(abs(column), 90)
        note = f"{len(column):,} right words of {part}; of 90 % at most {at_90:.0f}, bias {np.median(column):.0f}"
        yield Figure("words", f"median error of a word's {name}", float(np.median(abs(column))), "ms", 50, note, True)
