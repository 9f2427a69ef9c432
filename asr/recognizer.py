"""A recogniser: everything between a waveform and a text, built from settings or read from a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr.augment import Augment
from asr.checkpoint import Checkpoint, load_weights
from asr.dataset import UtteranceDataset
from asr.errors import InputError, first_line
from asr.features import LogMel
from asr.model import DeepSpeech2
from asr.text import Alphabet

MODEL = f"{DeepSpeech2.__module__}.{DeepSpeech2.__qualname__}"  # the one model that a checkpoint may ask for


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


def from_checkpoint(saved: Checkpoint, path: Path) -> Recognizer:
    """Build the recogniser that a checkpoint describes, with its weights.

    The config of a file is data: it gives sizes, but never chooses what code runs. Its model is always DeepSpeech2,
    laid out without memory until its weights have the shapes of the saved ones, however large the config says it is.

    raises: InputError that names the file and the setting or the weight
    """

    def make_model(**sizes: Any) -> DeepSpeech2:
        settings = dict(saved.config["model"])
        if (target := settings.pop("_target_", None)) != MODEL:
            raise InputError(f"its model is {target!r}; only {MODEL} is built from a file, as any other could run code")
        with torch.device("meta"):
            return DeepSpeech2(**settings, **sizes)

    try:
        recognizer = Recognizer.of(saved.config, make_model)
    except (KeyError, TypeError, ValueError, InputError) as error:
        problem = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"checkpoint {path}: its config describes no recogniser: {problem}. Use a checkpoint that asr.train wrote"
        ) from error
    load_weights(recognizer.model, saved.model, path)
    return recognizer
