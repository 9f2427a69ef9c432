"""The files that a run leaves in its directory, for people: error tables, pictures, sound."""

import csv
import json
import os
import re
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from lhotse.cut import Cut
from torch import Tensor

from asr.audio import UnreadableError
from asr.augment import Augment, Sometimes
from asr.dataset import UtteranceDataset
from asr.interrupt import SIGNALS, stop_without
from asr.metrics import Scored

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
    """Tab-separated, with a line of names; the rows have like keys.

    A text that a spreadsheet could take for a formula is written with an apostrophe before it: one that begins with
    =, +, -, @, a tab or a line break, or with apostrophes and then one of these. So a reader who takes one apostrophe
    away there has the text again. Every line break becomes a newline.

    source: OWASP, CSV Injection
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0]) if rows else []
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        for cells in (names, *([row[name] for name in names] for row in rows)):
            writer.writerow([_no_formula(cell) for cell in cells])
    return path


def _no_formula(cell: Any) -> Any:
    """A cell as it may stand in a table; a number stays a number, a negative one too."""
    if not isinstance(cell, str):
        return cell
    text = re.sub(r"\r\n?", "\n", cell)  # csv would not quote \r, and a reader would end the row there
    return f"'{text}" if re.match(r"'*[=+\-@\t\n]", text) else text


def write_json(content: Any, path: Path) -> Path:
    """Indented JSON, renamed into place when it is whole."""
    return write_text(json.dumps(content, indent=2) + "\n", path)


def write_text(text: str, path: Path) -> Path:
    """A file that shows under its name when it is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
    return path


def write_augmentation(dataset: UtteranceDataset, cuts: Iterable[Cut], folder: Path) -> list[Path]:
    """The first readable utterance before and after: all of its augmentation, and each transform on its own.

    Many transforms come with a small probability. So all of them are shown as they come in the pass of the first ten
    that changes the utterance most, and each on its own as if it always came.

    Another process does it, and what pictures take of memory, 90 MB, goes back with it.

    returns: before.wav, all.png and all.wav, NUMBER_NAME.png of each transform and, if it changes the wave, .wav
    raises:  OSError as that process had it, such as for a full disk; RuntimeError if it fails otherwise, and says why
    """
    context = get_context("fork")
    errors = context.SimpleQueue()
    process = context.Process(target=_draw_apart, args=(errors, dataset, cuts, folder), daemon=True)
    process.start()
    process.join()
    if not errors.empty():
        raise errors.get()
    if process.exitcode:
        raise RuntimeError(f"{folder}: the process that draws it ended with {process.exitcode}, see above")
    return sorted(folder.glob("*"))


def _draw_apart(errors: SimpleQueue, dataset: UtteranceDataset, cuts: Iterable[Cut], folder: Path) -> None:
    for received in SIGNALS:  # their handlers are those of a training
        signal.signal(received, signal.SIG_DFL)
    stop_without(os.getppid())
    torch.set_num_threads(1)  # a fork has none of the others
    try:
        _draw_augmentation(dataset, cuts, folder)
    except OSError as error:
        errors.put(error)


def _draw_augmentation(dataset: UtteranceDataset, cuts: Iterable[Cut], folder: Path) -> None:
    from asr.pictures import spectrogram_pair  # matplotlib takes half a second to import, and a plan needs none of it

    original = replace(dataset, augment=None)
    for cut in cuts:
        with suppress(UnreadableError):  # the training says so when it comes to it
            clean = original.utterance(cut, 0).features
            break
    else:
        return
    folder.mkdir(parents=True, exist_ok=True)
    number = max(range(10), key=lambda n: _change(clean, dataset.utterance(cut, n).features))
    frame_seconds = dataset.features.hop_samples / dataset.features.sample_rate
    _write_wave(original.waveform(cut, 0), dataset, folder / "before.wav")
    assert dataset.augment is not None
    for name, augment in {"all": dataset.augment, **_one_by_one(dataset.augment)}.items():
        changed = replace(dataset, augment=augment)
        title = f"{cut.id}, before and after {'augmentation' if name == 'all' else name}"
        after = changed.utterance(cut, number).features
        pair = spectrogram_pair(clean.T.numpy(), after.T.numpy(), frame_seconds, title)
        pair.savefig(folder / f"{name}.png")
        if augment.speed or augment.wave:
            _write_wave(changed.waveform(cut, number), dataset, folder / f"{name}.wav")


def _one_by_one(augment: Augment) -> dict[str, Augment]:
    """Each transform alone and, if it has a probability, certain."""

    def certain(transform: Any) -> Any:
        always = copy(transform)
        if hasattr(always, "p"):
            always.p = 1.0
        return always

    def kind(transform: object) -> str:
        return type(transform.transform if isinstance(transform, Sometimes) else transform).__name__

    alone = [
        *(Augment(speed=certain(speed)) for speed in filter(None, [augment.speed])),
        *(Augment(wave=[certain(transform)]) for transform in augment.wave),
        *(Augment(spectrogram=[certain(transform)]) for transform in augment.spectrogram),
    ]
    return {f"{number}_{kind(one.transforms[0])}": one for number, one in enumerate(alone, start=1)}


def _write_wave(samples: np.ndarray, dataset: UtteranceDataset, path: Path) -> None:
    peak = max(PCM_PEAK, float(np.abs(samples).max()))
    soundfile.write(path, samples * (PCM_PEAK / peak), dataset.features.sample_rate)


def _change(before: Tensor, after: Tensor) -> float:
    frames = min(len(before), len(after))
    return float((before[:frames] - after[:frames]).abs().mean())
