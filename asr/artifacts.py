"""The files that a run leaves in its directory, for people: error tables, pictures, sound."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse.cut import Cut
from torch import Tensor

from asr.augment import seeded
from asr.dataset import UtteranceDataset, load_audio
from asr.metrics import Scored
from asr.pictures import spectrogram_pair

PCM_PEAK = 0.99  # augmentation may exceed full scale; the file is scaled down rather than clipped


def error_rows(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    """A row for each utterance, the worst first."""
    worst_first = sorted(scored, key=lambda one: (-one.words.rate, -one.characters.rate, one.id))
    return [
        {
            "id": one.id,
            "wer": round(one.words.rate, 4),
            "cer": round(one.characters.rate, 4),
            "substitutions": one.words.substitutions,
            "deletions": one.words.deletions,
            "insertions": one.words.insertions,
            "reference": one.reference,
            "hypothesis": one.hypothesis,
        }
        for one in worst_first
    ]


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Tab-separated, with a line of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(content: Any, path: Path) -> Path:
    """Indented JSON, renamed into place when it is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)
    return path


def write_augmentation(dataset: UtteranceDataset, cut: Cut, folder: Path) -> list[Path]:
    """One utterance before and after augmentation, in the pass of the first ten that changes it most.

    (Many transforms come with a small probability: in the first pass there may be nothing to see.)
    returns: a picture of both spectrograms and a sound file of each
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = UtteranceDataset(dataset.alphabet, dataset.features, None, dataset.seed).utterance(cut, 0).features
    versions = [dataset.utterance(cut, number).features for number in range(10)]
    number = max(range(10), key=lambda n: _change(before, versions[n]))
    rate = dataset.features.sample_rate
    figure = spectrogram_pair(
        before.T.numpy(),
        versions[number].T.numpy(),
        dataset.features.hop_samples / rate,
        f"{cut.id}, before and after augmentation (pass {number} over the data)",
    )
    picture = folder / "spectrograms.png"
    figure.savefig(picture)
    original = augmented = load_audio(cut, rate)
    if dataset.augment is not None:
        with seeded(dataset.seed, number, cut.id):
            augmented = dataset.augment.waveform(original, rate)
    sounds = [folder / "before.wav", folder / "after.wav"]
    for path, samples in zip(sounds, (original, augmented), strict=True):
        peak = max(PCM_PEAK, float(np.abs(samples).max()))
        soundfile.write(path, samples * (PCM_PEAK / peak), rate)
    return [picture, *sounds]


def _change(before: Tensor, after: Tensor) -> float:
    frames = min(len(before), len(after))
    return float((before[:frames] - after[:frames]).abs().mean())
