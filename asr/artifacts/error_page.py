"""Write errors.html: the errors of a part in one page, which opens without a server or a network."""

import io
import math
from base64 import b64encode
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import soundfile
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from asr.artifacts.error_table import worst_first
from asr.corpora.manifest import Utterance, Utterances
from asr.data.audio import load_audio
from asr.data.text import Alphabet
from asr.decoding.alignment import align_words
from asr.files import write_text
from asr.metrics import ErrorRates, Scored, align
from asr.models.recognizer import Recognizer

EMBEDDED = 50  # of the worst utterances, unless they need more bytes than
EMBEDDED_BYTES = 4_000_000
MP3_RATE = 16_000  # Hz: not every sample rate can be an MP3's
ROWS = 200  # of each table
SECONDS = (1, 2, 3, 5, 10, 15, 20, 30)  # where one length ends and the next begins
OCCURRENCES = {"never": 0, "once": 1, "2 to 10 times": 10, "11 to 100 times": 100, "more than 100 times": math.inf}


class TrainingWords(NamedTuple):
    """How often each word occurs in the training transcripts; source: which these are, or why there are no counts."""

    counts: Counter[str]
    source: str

    @classmethod
    def of(cls, parts: dict[str, Utterances], alphabet: Alphabet) -> "TrainingWords":
        """Count the words of training parts."""
        counts: Counter[str] = Counter()
        for utterances in parts.values():
            for text in utterances.table["text"].to_pylist():
                counts.update(alphabet.normalize(text).split())
        return cls(counts, ", ".join(parts))


class MissedWords(NamedTuple):
    """Words of the references, and how many of them were not recognised."""

    words: int
    missed: int


def write_error_page(
    part: str,
    scored: Sequence[Scored],
    utterances: Utterances,
    recognizer: Recognizer,
    training: TrainingWords,
    directory: Path,
) -> Path:
    """Write errors.html into the directory, and return its path.

    scored:     an evaluation of `utterances` by the recognizer, whose model is in eval mode
    """
    ranked = worst_first(scored)
    pairs = [align(one) for one in ranked]
    rows = {id: row for row, id in enumerate(utterances.table["id"].to_pylist())}
    listed = [
        {
            "id": one.id,
            "speaker": _speaker(one),
            "seconds": _rounded(one.seconds, 2),
            "wer": round(one.words.rate, 4),
            "cer": round(one.characters.rate, 4),
            "confidences": [_rounded(confidence, 2) for confidence in one.confidences],
            "pairs": [reference if reference == hypothesis else [reference, hypothesis] for reference, hypothesis in p],
            "audio": _audio_path(utterances, rows[one.id]),
        }
        for one, p in zip(ranked, pairs, strict=True)
    ]
    worst = utterances.rows(np.array([rows[one.id] for one in ranked[:EMBEDDED]], dtype=int))
    embedded = 0
    for entry, one, utterance in zip(listed, ranked, worst, strict=False):
        media = _media(utterance, one.hypothesis, recognizer)
        size = len(media["picture"]) + len(media["sound"])
        if embedded + size <= EMBEDDED_BYTES:
            entry |= media
            embedded += size
    environment = Environment(
        loader=PackageLoader("asr.artifacts"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("errors.html.j2").render(
        part=part,
        rates=ErrorRates.of(scored),
        speakers=rates_by_speaker(scored),
        lengths=rates_by_length(scored),
        frequencies=missed_by_frequency(pairs, training.counts) if training.counts else {},
        training=training,
        confusions=confusions(pairs),
        embedded=sum("picture" in entry for entry in listed),
        root=utterances.root,
        ROWS=ROWS,
        data={"utterances": listed, "root": _root_url(utterances.root)},
    )
    directory.mkdir(parents=True, exist_ok=True)
    return write_text(page, directory / "errors.html")


def rates_by_speaker(scored: Sequence[Scored]) -> dict[str, ErrorRates]:
    """Return the rates of each speaker, the highest WER first."""
    rates = _rates_by(scored, _speaker)
    return dict(sorted(rates.items(), key=lambda item: (-item[1].words.rate, item[0])))


def rates_by_length(scored: Sequence[Scored]) -> dict[str, ErrorRates]:
    """Return the rates of utterances of similar duration, the shortest first."""
    bounds = [0, *SECONDS, math.inf]
    rates = _rates_by([one for one in scored if not math.isnan(one.seconds)], lambda one: bisect(bounds, one.seconds))
    return {
        f"{bounds[n - 1]} to {bounds[n]} s" if n < len(bounds) - 1 else f"{bounds[n - 1]} s or more": rates[n]
        for n in sorted(rates)
    }


def _rates_by(scored: Sequence[Scored], key: Callable[[Scored], Any]) -> dict[Any, ErrorRates]:
    groups: dict[Any, list[Scored]] = {}
    for one in scored:
        groups.setdefault(key(one), []).append(one)
    return {name: ErrorRates.of(group) for name, group in groups.items()}


def missed_by_frequency(pairs: Sequence[Sequence[tuple[str, str]]], counts: Counter[str]) -> dict[str, MissedWords]:
    """Return the words of the references by how often they occur in training, and how many were not recognised."""
    bounds = list(OCCURRENCES.values())
    words, missed = Counter[int](), Counter[int]()
    for reference, hypothesis in (pair for one in pairs for pair in one if pair[0]):
        bucket = next(n for n, most in enumerate(bounds) if counts[reference] <= most)
        words[bucket] += 1
        missed[bucket] += reference != hypothesis
    return {name: MissedWords(words[n], missed[n]) for n, name in enumerate(OCCURRENCES)}


def confusions(pairs: Sequence[Sequence[tuple[str, str]]]) -> dict[str, list[tuple[str, int]]]:
    """Return the substitutions as "edison -> addison", deletions and insertions with their counts, commonest first."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("substitutions", "deletions", "insertions")}
    for reference, hypothesis in (pair for one in pairs for pair in one if pair[0] != pair[1]):
        if reference and hypothesis:
            found["substitutions"][f"{reference} -> {hypothesis}"] += 1
        else:
            found["deletions" if reference else "insertions"][reference or hypothesis] += 1
    return {name: sorted(counts.items(), key=lambda item: (-item[1], item[0])) for name, counts in found.items()}


def _speaker(one: Scored) -> str:
    return "unknown speaker" if one.speaker is None else one.speaker


def _rounded(number: float, decimals: int) -> float | None:
    return None if math.isnan(number) else round(number, decimals)  # JSON has no nan


def _root_url(root: str) -> str | None:
    """Return the URL of a corpus on this machine; None for one elsewhere, which a browser could not read."""
    return None if "://" in root else Path(root).absolute().as_uri()


def _audio_path(utterances: Utterances, row: int) -> str | None:
    """Return the path of the audio below the root, quoted; None if it is packed into a file with others."""
    packed = utterances.table["offset"][row].is_valid
    return None if packed else quote(utterances.table["path"][row].as_py())


@torch.inference_mode()
def _media(utterance: Utterance, hypothesis: str, recognizer: Recognizer) -> dict[str, Any]:
    """Return the sound and the spectrogram of an utterance as data URLs, and when each recognised word was spoken.

    The model reads the utterance again, alone, so that an evaluation need not keep its log-probabilities.
    """
    from matplotlib.image import imsave

    features = recognizer.dataset(augment=None, seed=0).example(utterance, 0).features.T
    device = next(recognizer.model.parameters()).device
    output = recognizer.model(features[None].to(device), torch.tensor([features.shape[1]]))
    log_probs = output.log_probs[0, : int(output.lengths[0])].float().cpu()
    words = align_words(log_probs, hypothesis, recognizer.alphabet, recognizer.frame_seconds)
    low, high = np.percentile(features, (5, 99.9))
    picture, sound = io.BytesIO(), io.BytesIO()
    grey = {"cmap": "gray_r", "vmin": low, "vmax": max(high, low + 1e-3), "origin": "lower"}
    imsave(picture, features.numpy(), format="jpeg", pil_kwargs={"quality": 60}, **grey)
    soundfile.write(sound, load_audio(utterance, MP3_RATE), MP3_RATE, format="MP3", compression_level=0.5)
    return {
        "picture": f"data:image/jpeg;base64,{b64encode(picture.getvalue()).decode()}",
        "sound": f"data:audio/mpeg;base64,{b64encode(sound.getvalue()).decode()}",
        "words": [(word.text, round(word.start, 2), round(word.end, 2)) for word in words],
    }
