"""Speak a sentence with eSpeak NG, by ctypes: the only module that loads its library (GPL-3, an extra)."""

import _ctypes
import ctypes
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from scipy import signal

# espeak-ng/speak_lib.h
ESPEAK_SYNCHRONOUS, ESPEAK_NO_EXIT, ESPEAK_UTF8 = 2, 0x8000, 1
ESPEAK_RATE, ESPEAK_VOLUME, ESPEAK_PITCH, ESPEAK_RANGE = 1, 2, 3, 4
PHONEME_EVENTS, END_OF_LIST, WORD, PHONEME = 1, 0, 1, 7


class Event(ctypes.Structure):
    """espeak_EVENT: a word or a phoneme that begins at a sample."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    )


class Speech(NamedTuple):
    """What was spoken.

    samples: (N,) in -1..1
    words:   {position in the text: (start, end)} of each word that was spoken on its own, in seconds, pauses excluded;
             eSpeak speaks some neighbours, such as "of the", as one word
    """

    samples: np.ndarray
    words: dict[int, tuple[float, float]]


def speak(text: str, voice: str, pitch: int, pitch_range: int, rate_wpm: int, sample_rate: int) -> Speech:
    """Speak a text; return it at sample_rate, without the silence around it.

    voice: accent+variant, such as en-us+f2; pitch, pitch_range: eSpeak's 0..99; rate_wpm: words a minute

    The library keeps the phase of its flutter and echo from one utterance to the next and seeds itself by the clock. So
    it is loaded afresh for each utterance (3 ms) and seeded: its output follows from the text and the speaker alone.
    """
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    pieces: list[bytes] = []
    marks: list[tuple[int, int | None]] = []  # the sample at which a word begins, or None, a pause

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
    def collect(samples: int | None, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while (event := events[number]).type != END_OF_LIST:
            if event.type == WORD:
                marks.append((event.sample, event.text_position - 1))
            elif event.type == PHONEME and event.phoneme.startswith(b"_"):
                marks.append((event.sample, None))
            number += 1
        return 0

    try:
        data = espeakng_loader.get_data_path().encode()
        rate = library.espeak_Initialize(ESPEAK_SYNCHRONOUS, 0, data, ESPEAK_NO_EXIT | PHONEME_EVENTS)
        if rate <= 0 or library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise RuntimeError(f"eSpeak NG cannot start or has no voice {voice}; install espeakng-loader again")
        library.espeak_SetSynthCallback(collect)
        library.espeak_SetParameter(ESPEAK_RATE, rate_wpm, 0)
        library.espeak_SetParameter(ESPEAK_VOLUME, 40, 0)  # the loudest variants clip at the default of 100
        library.espeak_SetParameter(ESPEAK_PITCH, pitch, 0)
        library.espeak_SetParameter(ESPEAK_RANGE, pitch_range, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        ctypes.CDLL(None).srand(1)  # the Klatt voices draw from libc
        line = text.encode()
        library.espeak_Synth(line, len(line) + 1, 0, 1, 0, ESPEAK_UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    samples = np.frombuffer(b"".join(pieces), dtype=np.int16) / 32768
    audio = signal.resample_poly(samples, sample_rate // 50, rate // 50)
    loud = np.flatnonzero(np.abs(audio) > 0.01 * np.abs(audio).max())
    marks.append((len(samples), None))
    words = {
        place: tuple(sample / rate - loud[0] / sample_rate for sample in (start, end))
        for (start, place), (end, _) in pairwise(marks)
        if place is not None
    }
    return Speech(audio[loud[0] : loud[-1] + 1], words)
