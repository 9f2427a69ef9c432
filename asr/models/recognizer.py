"""The recogniser: alphabet, features and model, built from the config or from a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from asr.data.augment import Augment
from asr.data.dataset import UtteranceDataset
from asr.data.features import LogMel
from asr.data.text import Alphabet
from asr.errors import InputError
from asr.models.deep_speech2 import DeepSpeech2


@dataclass(frozen=True)
class Recognizer:
    """Hold the alphabet, the features and the model, all of which the config in a checkpoint determines."""

    alphabet: Alphabet
    features: LogMel
    model: DeepSpeech2

    @classmethod
    def of(cls, config: Mapping[str, Any], make_model: Callable[..., DeepSpeech2]) -> "Recognizer":
        """Build a recogniser from the settings `alphabet` and `features`.

        make_model: builds the model from the keyword arguments n_mels and n_classes
        raises:     InputError if a setting has the wrong type or is out of bounds
        """
        alphabet = Alphabet(config["alphabet"])
        try:
            features = LogMel(**config["features"])
        except (TypeError, ValueError) as error:
            raise InputError(f"features: {dict(config['features'])} is invalid: {error}") from error
        return cls(alphabet, features, make_model(n_mels=features.n_mels, n_classes=alphabet.size))

    def output_frames(self, seconds: np.ndarray) -> np.ndarray:
        """Return the number of output frames for each duration in seconds."""
        samples = np.rint(seconds * self.features.sample_rate).astype(int)
        return self.model.output_lengths(torch.from_numpy(self.features.frames(samples))).numpy()

    @property
    def frame_seconds(self) -> float:
        """Return the time from one output frame to the next."""
        hop = self.features.hop_samples / self.features.sample_rate
        frames = 100_000  # so many that the ends do not count
        return hop * round(frames / int(self.model.output_lengths(torch.tensor([frames]))[0]))

    def dataset(self, augment: Augment | None, seed: int, skip_unreadable: bool = False) -> UtteranceDataset:
        """Return the dataset that reads batches; skip_unreadable leaves out audio that cannot be read."""
        return UtteranceDataset(self.alphabet, self.features, augment, seed, skip_unreadable)
