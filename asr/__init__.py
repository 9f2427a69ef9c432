"""Train and compare recurrent CTC speech recognisers. Entry points: python -m asr.train, asr.evaluate, asr.prepare."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.transcription.transcriber import Transcriber


def load(path: Any, **options: Any) -> "Transcriber":
    """Return an object that transcribes recordings with a checkpoint; see asr.transcription.transcriber.load."""
    from asr.transcription.transcriber import load  # imports torch, which takes seconds

    return load(path, **options)
