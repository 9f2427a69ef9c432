"""Make a corpus that eSpeak NG speaks, with LibriSpeech's layout and part names, for machines without LibriSpeech.

A speaker is an eSpeak voice variant, an accent, a pitch, a pitch range and a rate. No variant of a training part speaks
in a dev or test part, and none of a dev part in a test part; within these three, parts share variants but no speaker.
(eSpeak's variants are filters on one synthesiser, so an unheard one is nearer to the heard ones than an unheard human
would be.) "clean" parts have natural variants and moderate rates; in "other" parts every second speaker is odd
(whispers, croaks, robots), accents are strong and rates high, and rooms, narrow bands and noise are added. A sentence
belongs to one side only, by its hash: all training parts, or one dev or test part. The same seed, eSpeak and soundfile
give the same bytes, however many processes work. eSpeak NG is GPL-3: only pip install '.[synthetic]' brings it.
"""

import hashlib
import importlib.util
import io
import json
import math
import multiprocessing
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy import signal

from asr.corpora.synthetic.espeak import Speech, speak
from asr.corpora.synthetic.sentences import sentence, transcript
from asr.errors import InputError

GENERATOR = 1  # increase it with every change that changes the bytes
SAMPLE_RATE = 16000
PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")
CHAPTER_UTTERANCES = 8
MAX_SPEAKERS = 999  # a part's speakers are numbered 1001.. or 2001.. and so on
PAUSE_SECONDS, LETTER_SECONDS = 0.52, 0.0496  # an utterance's length, from its letters, at 175 words a minute
SPEAKERS_HEADER = """; Speakers of a corpus spoken by eSpeak NG. NAME: accent+variant, pitch, its range, words a minute
;ID  |SEX| SUBSET           |MINUTES| NAME
"""


class Voices(NamedTuple):
    """The eSpeak variants of one side. Variants that sound nearly the same (klatt3, klatt4) are on the same side."""

    women: list[str]
    men: list[str]
    odd: list[str]


def _voices(women: str, men: str, odd: str) -> Voices:
    return Voices(women.split(), men.split(), odd.split())


VOICES = {
    "train": _voices(
        "f1 f2 f3 linda belinda grandma shelby",
        "m1 m3 m4 m6 Mike john ed Gene iven miguel Henrique m8 Denis Mario gustave rob Reed adam Storm pablo norbert",
        "croak grandpa klatt klatt3 robosoft robosoft2 robosoft6 whisper travis david kaukovalta Andy Lee pedro anika",
    ),
    "dev": _voices("f5 aunty", "m5 michel quincy edward victor", "announcer whisperf Andrea antonio UniRobot"),
    "test": _voices("f4 Annie steph", "m2 m7 Alex paul Nguyen robert boris", "ian caleb zac Alicia RicishayMax Jacky"),
}
ODD_WOMEN = {"whisperf", "Andrea", "Alicia", "anika", "caleb"}
FULL_BAND = (0, SAMPLE_RATE // 2)
CLEAN_ACCENTS = ("en-us", "en-us", "en-us", "en", "en-gb-x-rp")
OTHER_ACCENTS = ("en-us", "en", "en-us-nyc", "en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd")


class Speaker(NamedTuple):
    """voice: accent+variant; pitch, pitch_range: eSpeak's 0..99; room_seconds: reverberation time, 0 for none."""

    number: int
    sex: str
    voice: str
    pitch: int
    pitch_range: int
    rate_wpm: int
    room_seconds: float
    band_hz: tuple[int, int]
    noise_db: tuple[int, int]  # speech over noise, from .. to


class Chapter(NamedTuple):
    """The sentences of one speaker in one folder, ROOT/PART.partial/SPEAKER/CHAPTER."""

    folder: Path
    speaker: Speaker
    sentences: list[str]
    seed: str


def make_corpus(
    root: Path,
    hours: Mapping[str, float],
    speakers: Mapping[str, int],
    seed: int,
    jobs: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Make the parts that `hours` names under root; a part that exists with the same settings is kept.

    hours:    part -> hours of audio, reached within a few per cent (lengths are estimated from the text)
    speakers: part -> number of speakers
    jobs:     processes
    progress: called with ("speaking", chapters done, chapters in all)
    raises:   InputError, before anything is written, for an invalid setting or a part with other settings
    """
    settings = {part: _settings(part, hours[part], speakers, seed) for part in hours}
    if jobs < 1:
        raise InputError(f"jobs={jobs}: speaking needs at least 1 process; set jobs=1")
    missing = [part for part in PARTS if part in settings and not _is_made(root, part, settings[part])]
    if missing and importlib.util.find_spec("espeakng_loader") is None:
        raise InputError("espeakng_loader is not installed: it speaks the corpus; pip install '.[synthetic]'")
    for part in missing:
        shutil.rmtree(root / f"{part}.partial", ignore_errors=True)  # what an interrupted run left
    plans = {part: plan_part(root, part, hours[part], speakers[part], seed) for part in missing}
    total, done = sum(map(len, plans.values())), 0
    lengths = _record_all([chapter for plan in plans.values() for chapter in plan], jobs)
    for part, plan in plans.items():
        seconds: dict[Speaker, float] = {}
        for chapter in plan:
            seconds[chapter.speaker] = seconds.get(chapter.speaker, 0.0) + next(lengths)
            done += 1
            if progress:
                progress("speaking", done, total)
        lines = [_speaker_line(speaker, part, seconds[speaker]) for speaker in sorted(seconds)]
        about = {"settings": settings[part], "seconds": round(sum(seconds.values()), 1), "speakers": lines}
        partial = root / f"{part}.partial"
        (partial / "synthetic.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        partial.rename(root / part)
    _list_speakers(root)


def _settings(part: str, hours: float, speakers: Mapping[str, int], seed: int) -> dict[str, float]:
    """Return the settings that decide a part's bytes; InputError for an invalid one."""
    if part not in PARTS:
        raise InputError(f"no part is called {part!r}; the parts are {', '.join(PARTS)}")
    if not 0 < hours < math.inf:
        raise InputError(f"{part}: hours={hours} must be above 0; leave the part out if it is not wanted")
    if not 1 <= speakers.get(part, 0) <= MAX_SPEAKERS:
        raise InputError(f"{part}: speakers={speakers.get(part)} must be 1..{MAX_SPEAKERS}; say how many speak there")
    return {"generator": GENERATOR, "seed": seed, "hours": float(hours), "speakers": speakers[part]}


def _is_made(root: Path, part: str, settings: dict[str, float]) -> bool:
    """Return whether the part exists and was made with these settings; InputError if something else is in its place."""
    way_out = f"choose another root, or delete {root / part}"
    if not (root / part).exists():
        index = root / "SPEAKERS.TXT"
        if index.exists() and not index.read_text(encoding="utf-8").startswith(SPEAKERS_HEADER):
            raise InputError(f"{index} was not made by this generator, which would replace it; choose another root")
        return False
    about = root / part / "synthetic.json"
    if not about.exists():
        raise InputError(f"{root / part} was not made by this generator, which overwrites nothing; {way_out}")
    made = json.loads(about.read_text(encoding="utf-8"))["settings"]
    other = [f"{key}={made.get(key)}, not {value}" for key, value in settings.items() if made.get(key) != value]
    if other:
        raise InputError(f"{root / part} was made with {'; '.join(other)}; {way_out}")
    return True


def choose_speakers(part: str, count: int, seed: int) -> list[Speaker]:
    """Draw the part's speakers: women and men in turn; in "other" parts every second one is odd."""
    rng = random.Random(f"{seed}/{part}/speakers")
    voices, clean, place = VOICES[part.split("-")[0]], "clean" in part, PARTS.index(part)
    lanes = [rng.sample(lane, len(lane)) for lane in (voices.women, voices.odd, voices.men, voices.odd)]
    lanes = [lanes[0], lanes[2]] if clean else lanes
    found: dict[tuple[str, int, int, int], Speaker] = {}
    while len(found) < count:
        nth, lane = divmod(len(found), len(lanes))
        variant = lanes[lane][nth % len(lanes[lane])]
        accent = rng.choice(CLEAN_ACCENTS if clean else OTHER_ACCENTS)
        pitch, pitch_range = rng.randint(32, 68), rng.randint(40, 70)
        rate = rng.randint(140, 182) if clean else rng.randint(150, 225)
        rate += (place - rate) % len(PARTS)  # no two parts share a rate, so no two share a speaker
        room = 0.0 if clean or rng.random() < 0.5 else rng.uniform(0.1, 0.4)
        band = FULL_BAND if clean else rng.choice((FULL_BAND, FULL_BAND, (100, 5500), (200, 4500), (300, 3400)))
        noise = (45, 60) if clean else (8, 30)
        woman = variant in (*voices.women, *ODD_WOMEN)
        number = 1000 * (place + 1) + len(found) + 1
        voice, sex = f"{accent}+{variant}", "F" if woman else "M"
        speaker = Speaker(number, sex, voice, pitch, pitch_range, rate, room, band, noise)
        found.setdefault((voice, pitch, pitch_range, rate), speaker)
    return list(found.values())


def plan_part(root: Path, part: str, hours: float, speakers: int, seed: int) -> list[Chapter]:
    """Return the part's chapters, with speakers in turn. More hours add chapters and do not change the first ones."""
    cast = choose_speakers(part, speakers, seed)
    rng = random.Random(f"{seed}/{part}/sentences")
    chapters: list[Chapter] = []
    used: set[str] = set()
    seconds = 0.0
    while seconds < hours * 3600:
        speaker = cast[len(chapters) % len(cast)]
        said: list[str] = []
        while len(said) < CHAPTER_UTTERANCES and seconds < hours * 3600:
            text = sentence(rng)
            words = transcript(text)
            if words not in used and _side(words) == (part if "train" not in part else "train"):
                used.add(words)
                said.append(text)
                seconds += PAUSE_SECONDS + LETTER_SECONDS * len(words) * 175 / speaker.rate_wpm
        number = 100000 * (PARTS.index(part) + 1) + len(chapters) + 1
        folder = root / f"{part}.partial" / str(speaker.number) / str(number)
        chapters.append(Chapter(folder, speaker, said, f"{seed}/{part}/{number}"))
    return chapters


def _side(words: str) -> str:
    """Return the side that a sentence belongs to, for any seed and hours: half of all sentences are for training."""
    bucket = hashlib.sha256(words.encode()).digest()[0] % 8
    return PARTS[bucket - 1] if bucket > 3 else "train"


def _record_all(chapters: list[Chapter], jobs: int) -> Iterator[float]:
    """Record the chapters in `jobs` processes, and yield the seconds of each, in order."""
    if jobs == 1 or not chapters:
        yield from map(_record, chapters)
        return
    with multiprocessing.get_context("spawn").Pool(min(jobs, len(chapters))) as pool:
        yield from pool.imap(_record, chapters)


def _record(chapter: Chapter) -> float:
    """Speak and write a chapter; return its seconds."""
    chapter.folder.mkdir(parents=True)
    seconds, lines = 0.0, []
    name = f"{chapter.speaker.number}-{chapter.folder.name}"
    for index, text in enumerate(chapter.sentences):
        audio, _ = speak_sentence(chapter, index)
        flac = io.BytesIO()  # soundfile waits for the disk after each file that it opens itself
        soundfile.write(flac, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        (chapter.folder / f"{name}-{index:04d}.flac").write_bytes(flac.getvalue())
        lines.append(f"{name}-{index:04d} {transcript(text)}\n")
        seconds += len(audio) / SAMPLE_RATE
    (chapter.folder / f"{name}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return seconds


def speak_sentence(chapter: Chapter, index: int) -> Speech:
    """Return the audio of a sentence at SAMPLE_RATE, and the times of its words by their position in the sentence."""
    rng = np.random.default_rng(list(hashlib.sha256(f"{chapter.seed}/{index}".encode()).digest()))
    voice = chapter.speaker
    text = chapter.sentences[index].lower()
    spoken = speak(text, voice.voice, voice.pitch, voice.pitch_range, voice.rate_wpm, SAMPLE_RATE)
    before, after = rng.uniform(0.1, 0.3, size=2)
    audio = _staged(spoken.samples, voice, rng, before, after)
    shift = int(before * SAMPLE_RATE) / SAMPLE_RATE
    return Speech(audio, {place: (start + shift, end + shift) for place, (start, end) in spoken.words.items()})


def _staged(audio: np.ndarray, speaker: Speaker, rng: np.random.Generator, before: float, after: float) -> np.ndarray:
    """Add seconds of silence, the speaker's room, noise and band to the speech, at a level that is drawn here."""
    audio = np.pad(audio / np.abs(audio).max(), (int(before * SAMPLE_RATE), int(after * SAMPLE_RATE)))
    if speaker.room_seconds:
        times = np.arange(int(speaker.room_seconds * SAMPLE_RATE)) / SAMPLE_RATE
        echoes = rng.standard_normal(len(times)) * 10 ** (-3 * times / speaker.room_seconds)
        echoes *= rng.uniform(0.3, 0.8) / np.sqrt(np.sum(echoes**2))
        echoes[0] = 1.0
        audio = signal.fftconvolve(audio, echoes)[: len(audio)]
    color = rng.uniform(0.0, 0.9)  # 0 is white noise; the higher, the deeper
    noise = signal.lfilter([1.0], [1.0, -color], rng.standard_normal(len(audio)))
    audio = audio + noise * np.std(audio) / np.std(noise) * 10 ** (-rng.uniform(*speaker.noise_db) / 20)
    if speaker.band_hz != FULL_BAND:
        audio = signal.sosfilt(signal.butter(4, speaker.band_hz, "bandpass", fs=SAMPLE_RATE, output="sos"), audio)
    peak_db = rng.uniform(-12, -1)
    return audio * 10 ** (peak_db / 20) / np.abs(audio).max()


def _speaker_line(speaker: Speaker, part: str, seconds: float) -> str:
    name = f"{speaker.voice} pitch {speaker.pitch} range {speaker.pitch_range} rate {speaker.rate_wpm}"
    return f"{speaker.number:<5}| {speaker.sex} | {part:<16} | {seconds / 60:5.2f} | {name}\n"


def _list_speakers(root: Path) -> None:
    """Write SPEAKERS.TXT for all parts that exist."""
    made = [root / part / "synthetic.json" for part in PARTS if (root / part / "synthetic.json").exists()]
    text = SPEAKERS_HEADER
    for about in made:
        text += "".join(json.loads(about.read_text(encoding="utf-8"))["speakers"])
    index = root / "SPEAKERS.TXT"
    if not index.exists() or index.read_text(encoding="utf-8") != text:
        index.write_text(text, encoding="utf-8")
