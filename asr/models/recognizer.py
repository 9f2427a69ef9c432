"""A recogniser: everything between a waveform and a text, built from settings or read from a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asr.data.augment import Augment
from asr.data.dataset import UtteranceDataset
from asr.data.features import LogMel
from asr.data.text import Alphabet
from asr.errors import InputError
from asr.models.deep_speech2 import DeepSpeech2


@dataclass(frozen=True)
class Recognizer:
    """What a checkpoint's config determines: everything between a waveform and a text."""

    alphabet: Alphabet
    features: LogMel
    model: DeepSpeech2

    @classmethod
    def of(cls, config: Mapping[str, Any], make_model: Callable[..., DeepSpeech2]) -> "Recognizer":
        """Build a recogniser from the settings `alphabet` and `features`.

        make_model: called with n_mels and n_classes
        raises:     InputError for a setting of the wrong type or out of bounds
        """
        alphabet = Alphabet(config["alphabet"])
        try:
            features = LogMel(**config["features"])
        except (TypeError, ValueError) as error:
            raise InputError(f"features: {dict(config['features'])} cannot be: {error}") from error
        return cls(alphabet, features, make_model(n_mels=features.n_mels, n_classes=alphabet.size))

    def output_frames(self, seconds: float) -> int:
        """Output frames of an utterance of so many seconds."""
        frames = self.features.frames(round(seconds * self.features.sample_rate))
        return self.model.output_lengths(frames)

    def dataset(self, augment: Augment | None, seed: int, skip_unreadable: bool = False) -> UtteranceDataset:
        """Batches as this recogniser reads them; a training leaves out what cannot be read, scoring does not."""
        return UtteranceDataset(self.alphabet, self.features, augment, seed, skip_unreadable)
