"""Write transcripts as plain text, JSON and subtitles."""

import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap

from asr.decoding.alignment import Word
from asr.files import write_text
from asr.transcription.transcriber import Transcript

FORMATS = ("txt", "json", "srt", "vtt")
LINE, LINES, CUE_SECONDS = 42, 2, 7.0  # of a subtitle at most
PAUSE_SECONDS = 0.5  # between two words, ends a subtitle


def write_transcript(transcript: Transcript, recording: Path, place: Path, formats: Sequence[str]) -> None:
    """Write PLACE.txt, PLACE.json, ... of a recording."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for format in formats:
        write_text(_render(transcript, recording, format), place.with_name(f"{place.name}.{format}"))


def _render(transcript: Transcript, recording: Path, format: str) -> str:
    if format == "txt":
        return transcript.text + "\n"
    if format == "json":
        words = [
            {"text": w.text, "start": round(w.start, 3), "end": round(w.end, 3), "confidence": round(w.confidence, 4)}
            for w in transcript.words
        ]
        n_best = [one._asdict() for one in transcript.n_best]
        about = {"audio": str(recording), "seconds": round(transcript.seconds, 3), "text": transcript.text}
        return json.dumps({**about, "words": words, "n_best": n_best}, indent=1) + "\n"
    return _vtt(transcript.words) if format == "vtt" else _srt(transcript.words)


def subtitles(words: Sequence[Word]) -> Iterator[tuple[float, float, list[str]]]:
    """Yield (start, end, lines): at most 2 lines of 42 characters and 7 s each, a new one after a pause."""
    cue: list[Word] = []
    for word in words:
        if cue and (
            word.start - cue[-1].end >= PAUSE_SECONDS
            or word.end - cue[0].start > CUE_SECONDS
            or len(_lines([*cue, word])) > LINES
        ):
            yield cue[0].start, cue[-1].end, _lines(cue)
            cue = []
        cue.append(word)
    if cue:
        yield cue[0].start, cue[-1].end, _lines(cue)


def _lines(words: Sequence[Word]) -> list[str]:
    return wrap(" ".join(word.text for word in words), LINE)


def _srt(words: Sequence[Word]) -> str:
    cues = (
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n" + "\n".join(lines) + "\n"
        for number, (start, end, lines) in enumerate(subtitles(words), 1)
    )
    return "\n".join(cues)


def _vtt(words: Sequence[Word]) -> str:
    cues = (
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n" + escape("\n".join(lines), quote=False) + "\n"
        for start, end, lines in subtitles(words)
    )
    return "\n".join(["WEBVTT\n", *cues])


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
